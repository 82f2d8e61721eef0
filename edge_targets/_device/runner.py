"""What every runner does, whatever its runtime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Runner(Protocol):
    """A loaded artifact: the device's own runtime behind two calls. Nothing but the package's files is read."""

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Next-token logits after every position, shape [tokens, vocabulary], from an empty KV cache."""
        ...

    def generate(self, tokens: Sequence[int], max_new_tokens: int, *, to_the_end: bool = False) -> Iterator[int]:
        """Greedy continuation, one token at a time, from an empty KV cache.

        An end-of-sequence token ends it and is not yielded, unless it shall go `to_the_end`.
        """
        ...
