"""What a loaded package can be asked: the same question is refused with the same words by every runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Limits:
    """The context and vocabulary that a package was made for."""

    context_length: int
    vocabulary: int

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Limits:
        """From a package's `package.json`."""
        return cls(facts["context_length"], facts["vocab_size"])

    def check(self, tokens: Sequence[int], max_new_tokens: int, read: int = 0) -> None:
        """Raise ValueError, with what would fit, for tokens or a length that the package cannot take after `read` others."""
        if not tokens:
            raise ValueError("got no tokens; a model continues at least 1")
        if max_new_tokens < 0:
            raise ValueError(f"got {max_new_tokens} new tokens to generate; wanted 0 or more")
        text = read + len(tokens)
        if text + max_new_tokens > self.context_length:
            raise ValueError(
                f"{text} tokens and {max_new_tokens} new ones are longer than the package's context of "
                f"{self.context_length}; at most {max(0, self.context_length - text)} new ones fit"
            )
        for token in tokens:
            if not 0 <= token < self.vocabulary:
                raise ValueError(f"token {token} is outside the vocabulary, 0 to {self.vocabulary - 1}")
