"""What every runner does, whatever its runtime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Passage(Protocol):
    """One text on its way through a model, which keeps what it has read in a KV cache."""

    def run(self, tokens: Sequence[int], logits_from: int) -> NDArray[np.float32]:
        """Append the tokens; logits after each of them from the `logits_from`th on, [wanted tokens, vocabulary].

        At least the last one's are wanted. Raises ValueError for tokens that the model cannot take.
        """
        ...

    def rewind(self, length: int) -> None:
        """Go back to the first `length` tokens, as if no others had been read."""
        ...


class Runner(Protocol):
    """A loaded artifact: the device's own runtime behind three calls. Nothing but the package's files is read."""

    runs_on: str
    """The runtime that answers and its version, as they are here: `ONNX Runtime 1.28.0`."""

    @property
    def gpu_memory_mb(self) -> float:
        """What it held of a GPU's memory at most; resident memory counts none of that."""
        ...

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Next-token logits after every position, shape [tokens, vocabulary], from an empty KV cache."""
        ...

    def generate(self, tokens: Sequence[int], max_new_tokens: int, *, to_the_end: bool = False) -> Iterator[int]:
        """Greedy continuation, one token at a time, from an empty KV cache.

        An end-of-sequence token ends it and is not yielded, unless it shall go `to_the_end`.
        """
        ...

    def passage(self) -> Passage:
        """A text that is read piece by piece and can go back: what texts share is read once. It begins empty."""
        ...
