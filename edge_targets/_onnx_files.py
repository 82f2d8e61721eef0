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
EXTERNAL_DATA_FILE = "model.onnx.data"
_LARGEST_SINGLE_FILE_BYTES = 1_500_000_000


def write_model(model: Any, out: Path) -> list[str]:
    """Names of the files written; weights beyond 1.5 GB go beside the model, since a protobuf ends at 2 GB."""
    import onnx

    if sum(len(initializer.raw_data) for initializer in model.graph.initializer) <= _LARGEST_SINGLE_FILE_BYTES:
        onnx.save_model(model, out / MODEL_FILE)
        return [MODEL_FILE]
    onnx.save_model(model, out / MODEL_FILE, save_as_external_data=True, location=EXTERNAL_DATA_FILE)
    return [MODEL_FILE, EXTERNAL_DATA_FILE]


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
