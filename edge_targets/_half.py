"""Whether what a model computes between its layers fits into float16, which ends at 65,504.

ONNX Runtime computes chains of float16 operators in float32 on a processor, so a value beyond is not seen when the package runs
here; TensorRT's engine would write infinity. It is looked for in the float model instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

LARGEST = 65504 / 2
"""Most that may be seen on the few texts that are read: half of what float16 holds."""


@contextmanager
def largest_activation(model: Any) -> Iterator[Callable[[], float]]:
    """The largest magnitude that enters or leaves any of the torch model's products while it runs inside."""
    from torch import Tensor, nn

    seen = 0.0

    def look(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal seen
        seen = max(seen, *(float(values.abs().max()) for values in (*given, out)))

    looking = [part.register_forward_hook(look) for part in model.modules() if isinstance(part, nn.Linear)]
    try:
        yield lambda: seen
    finally:
        for one in looking:
            one.remove()
