"""Whether what a model computes between its layers fits into float16, which ends at 65,504.

ONNX Runtime computes chains of float16 operators in float32 on a processor, so a value beyond is not seen when the package runs
here; TensorRT's engine would write infinity, and so would Core ML, which keeps the residual stream in float16 too. It is looked
for in the float model instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_targets._target import PackageError

LARGEST = 65504 / 2
"""Most that may be seen on the few texts that are read: half of what float16 holds."""


def check(model: Any, windows_WT: NDArray[np.integer[Any]]) -> None:
    """Raise PackageError for a torch model that computes what float16 might not hold, as it reads these windows of text."""
    from torch import from_numpy

    with largest_activation(model, residual=True) as largest:
        for window_T in windows_WT:
            model(from_numpy(window_T.astype(np.int64))[None])
    if not largest() <= LARGEST:
        raise PackageError(
            f"the model computes values of {largest():.3g} on plain text, and the device's float16 ends at 65504"
        )


@contextmanager
def largest_activation(model: Any, *, residual: bool = False) -> Iterator[Callable[[], float]]:
    """The largest magnitude that enters or leaves any of the torch model's products while it runs inside.

    With `residual` also what enters and leaves its norms.
    """
    from torch import Tensor, nn

    seen = 0.0

    def look(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal seen
        # Of numpy, whose largest is no number where one of them is none; Python's leaves that one out.
        seen = float(np.max([seen, *(float(values.abs().max()) for values in (*given, out))]))

    looked_at = [
        part
        for part in model.modules()
        if isinstance(part, nn.Linear) or (residual and hasattr(part, "variance_epsilon"))
    ]
    looking = [part.register_forward_hook(look) for part in looked_at]
    try:
        yield lambda: seen
    finally:
        for one in looking:
            one.remove()
