"""Which shape and quantization are worth building for a budget: every candidate is considered, and every loser told why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from components.latency import Cost
from components.shape import AnyShape

CHOSEN, WORSE = "chosen", "higher perplexity"


@dataclass(frozen=True)
class Candidate:
    """`perplexity` is the float subnet's on validation text times what the quantization is known to cost."""

    shape: AnyShape
    quantization: str
    perplexity: float
    cost: Cost
    unfit: str | None = None
    """Why it would not pass verification, as far as that is known before it is built."""


@dataclass(frozen=True)
class Verdict:
    candidate: Candidate
    reason: str
    """Why it was left, or `chosen`."""


class NothingFitsError(ValueError):
    """No candidate is within the budget; the message names the nearest."""


def choose(
    candidates: Iterable[Candidate],
    max_tpot_ms: float | None,
    max_memory_mb: float | None,
) -> tuple[Candidate, tuple[Verdict, ...]]:
    """The candidate of least perplexity within the budget, the faster of equals; raises NothingFitsError."""
    ranked = sorted(candidates, key=lambda c: (c.perplexity, c.cost.tpot_ms))
    verdicts, chosen = [], None
    for candidate in ranked:
        reason = candidate.unfit or _excess(candidate, max_tpot_ms, max_memory_mb)
        if reason is None and chosen is None:
            chosen, reason = candidate, CHOSEN
        verdicts.append(Verdict(candidate, reason or WORSE))
    if chosen is None:
        near = min(ranked, key=lambda c: c.cost.tpot_ms)
        limits = [f"{max_tpot_ms:g} ms a token"] if max_tpot_ms is not None else []
        limits += [f"{max_memory_mb:g} MB"] if max_memory_mb is not None else []
        raise NothingFitsError(
            f"no subnet runs within {' and '.join(limits)}; the fastest, {near.shape} {near.quantization}, is predicted "
            f"to take {near.cost.tpot_ms:.1f} ms a token and {near.cost.memory_mb:.0f} MB"
        )
    return chosen, tuple(verdicts)


def _excess(candidate: Candidate, max_tpot_ms: float | None, max_memory_mb: float | None) -> str | None:
    if max_tpot_ms is not None and candidate.cost.tpot_ms > max_tpot_ms:
        return f"{candidate.cost.tpot_ms:.1f} ms a token, over {max_tpot_ms:g}"
    if max_memory_mb is not None and candidate.cost.memory_mb > max_memory_mb:
        return f"{candidate.cost.memory_mb:.0f} MB, over {max_memory_mb:g}"
    return None
