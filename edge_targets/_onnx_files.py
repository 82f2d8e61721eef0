"""What every package of an ONNX model reads and writes: a checkpoint's weights, and the model's files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.quiet import quiet_libraries
from edge_targets._onnx_blocks import Floats
from edge_targets._target import Grid, PackageError, PackageRequest

if TYPE_CHECKING:
    from edge_targets._rounding import Rounded

MODEL_FILE = "model.onnx"
LAYERS_FILE = "layers.data"
TABLES_FILE = "tables.data"
"""Embedding and head. Training leaves them as they are, so a device that has another subnet of the base has this file."""
_TABLES = ("model.embed_tokens", "lm_head")
_SMALLEST_EXTERNAL_BYTES = 1024


def write_model(model: Any, out: Path) -> list[str]:
    """Names of the files written: the graph, and weights beside it, which a runtime maps instead of reading."""
    import onnx
    from onnx.external_data_helper import set_external_data

    places = {MODEL_FILE}
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) >= _SMALLEST_EXTERNAL_BYTES:
            place = TABLES_FILE if tensor.name.startswith(_TABLES) else LAYERS_FILE
            set_external_data(tensor, place)
            places.add(place)
    onnx.save_model(model, out / MODEL_FILE)
    return [MODEL_FILE, *sorted(places - {MODEL_FILE})]


def rounded_weights(request: PackageRequest, grid: Grid | None) -> Mapping[str, Rounded]:
    """The layers' weights, rounded on the request's calibration text, for which torch is imported; nothing without a grid."""
    if grid is None:
        return {}
    quiet_libraries()
    from edge_targets._rounding import calibrated

    return calibrated(request, grid)


@contextmanager
def weights_of(checkpoint: Path) -> Iterator[Callable[[str], Floats | None]]:
    """A reader of the checkpoint's weights by name, in float32 whatever they are stored in; None where it has none."""
    import ml_dtypes  # noqa: F401  importing it teaches numpy bfloat16
    from safetensors import safe_open

    files = sorted(checkpoint.glob("*.safetensors"))
    if not files:
        raise PackageError(f"{checkpoint} holds no .safetensors file; save the model with save_pretrained")
    with ExitStack() as stack:
        holders = {}
        for file in files:
            opened = stack.enter_context(safe_open(file, framework="np"))
            holders.update(dict.fromkeys(opened.keys(), opened))

        def read(name: str) -> Floats | None:
            return np.asarray(holders[name].get_tensor(name), np.float32) if name in holders else None

        yield read
