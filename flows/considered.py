"""Why a version is what it is: every candidate that was considered for it, kept beside it in the registry."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from components.search import CHOSEN
from registry.store import Store, Version

if TYPE_CHECKING:
    from flows.choosing import Choice

KIND = "choice"
FORMAT_VERSION = 1


class ChoiceError(ValueError):
    """A document that does not say what was considered; the message says why."""


@dataclass(frozen=True)
class Candidate:
    """A shape and quantization, what was predicted of it, and why it was left or chosen."""

    shape: str
    quantization: str
    perplexity: float
    """On validation text: the subnet's in float, times what the quantization is known to cost."""
    ttft_ms: float
    tpot_ms: float
    size_mb: float
    memory_mb: float
    machine: Literal["device", "host"]
    """Whose milliseconds and megabytes these are."""
    reason: str
    chosen: bool

    def __post_init__(self) -> None:
        for name in ("perplexity", "ttft_ms", "tpot_ms", "size_mb", "memory_mb"):
            if not getattr(self, name) > 0:
                raise ValueError(f"a candidate's {name} is a positive number, got {getattr(self, name)}")
        if not all(isinstance(text, str) for text in (self.shape, self.quantization, self.reason)):
            raise ValueError("a candidate's shape, quantization and reason are text")


def keep(registry: Store, version: Version, choice: Choice) -> None:
    """Keep a choice beside the version that came of it; nothing is written where it is there already, or nothing to say."""
    if not choice.verdicts:
        return
    content = _document(choice)
    if registry.attached(version, KIND) != content:
        registry.attach(version, KIND, content)


def considered_for(registry: Store, version: Version) -> tuple[Candidate, ...]:
    """Every candidate, best first; none where the choice was not kept. Raises ChoiceError for what cannot be read."""
    content = registry.attached(version, KIND)
    if content is None:
        return ()
    try:
        value = json.loads(content)
        if value["format_version"] != FORMAT_VERSION:
            raise ChoiceError(f"the choice is of format {value['format_version']}; this version reads {FORMAT_VERSION}")
        return tuple(Candidate(**candidate) for candidate in value["candidates"])
    except ChoiceError:
        raise
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ChoiceError(f"this says no choice: {type(error).__name__} {str(error)[:80]}") from error


def _document(choice: Choice) -> bytes:
    candidates = []
    for verdict in choice.verdicts:
        one, cost = verdict.candidate, verdict.candidate.cost
        told = Candidate(
            str(one.shape),
            one.quantization,
            one.perplexity,
            cost.ttft_ms,
            cost.tpot_ms,
            cost.size_mb,
            cost.memory_mb,
            cost.machine,
            verdict.reason,
            verdict.reason == CHOSEN,
        )
        candidates.append(asdict(told))
    return (json.dumps({"format_version": FORMAT_VERSION, "candidates": candidates}, indent=1) + "\n").encode()
