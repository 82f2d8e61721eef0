"""Speed, in turns: every contender is loaded and waits, and they generate one after another, round after round."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks._bench import Bench
from benchmarks._jobs import Job
from benchmarks._processes import Server
from benchmarks._ratios import ratio
from benchmarks._subnets import FULL
from components.progress import progress, say
from edge_targets._device.bench import PROMPT_TOKENS

_PHONE = 1 / 1.3
_SMALL = 1.6
_WATCHED_S = 2.0
_IDLE_PERCENT = 5


def passage_tokens(rounds: int) -> int:
    """How long a passage `race` takes prompts from."""
    return max(PROMPT_TOKENS) + 2 * (rounds + 1)


def race(bench: Bench, running: Sequence[Job], passage: list[int], rounds: int, new_tokens: int) -> None:
    """Every job generates in turn, `rounds` times after one that warms up; one that ends is left out from then on.

    Each prompt starts at another token of `passage`: a runtime that keeps what it has read finds nothing of it again.
    """
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for job in running:
            with job.keeping_its_failure():
                servers[job.name] = stack.enter_context(bench.serve(job))
                job.figures |= servers[job.name].started
        advance = progress("speed: rounds")
        for number in range(rounds + 1):
            for job in running:
                if job.name not in servers:
                    continue
                with job.keeping_its_failure():
                    timed = _one_round(servers[job.name], passage[2 * number :], new_tokens)
                    if number:
                        job.rounds.append(timed)
                if job.failed:
                    servers.pop(job.name)
                    job.rounds.clear()
            if number == 0:
                _watch_idle(running, servers)
            advance(number, rounds)
        for job in running:
            if job.name in servers:
                with job.keeping_its_failure():
                    job.figures |= servers[job.name].ask(do="peak")


def _watch_idle(running: Sequence[Job], servers: Mapping[str, Server]) -> None:
    """What a waiting contender takes from the others, in percent of a core: nothing, or the speeds mean nothing."""
    before = {name: server.cpu_s() for name, server in servers.items()}
    time.sleep(_WATCHED_S)
    for job in running:
        if job.name in servers:
            used = (servers[job.name].cpu_s() - before[job.name]) * 100 / _WATCHED_S
            job.figures["idle_cpu_percent"] = used
            if used > _IDLE_PERCENT:
                say(f"{job.name} takes {used:.0f} % of a core while it waits: the others' speeds are not to be trusted")


def _one_round(server: Server, passage: list[int], new_tokens: int) -> dict[str, float]:
    short, long = PROMPT_TOKENS
    first = server.ask(do="time", tokens=passage[:short], new_tokens=new_tokens)
    second = server.ask(do="time", tokens=passage[1 : long + 1], new_tokens=1)
    return {f"ttft_{short}_ms": first["ttft_ms"], f"ttft_{long}_ms": second["ttft_ms"], "tpot_ms": first["tpot_ms"]}


def comparisons(done: Sequence[Job]) -> Iterator[dict[str, Any]]:
    """What this project promises of itself, each as a ratio of decoding speeds (above 1: the first is faster)."""
    timed = [job for job in done if job.rounds]
    own = [job for job in timed if job.contender.module == "ours"]
    others = [job for job in timed if job.contender.module != "ours" and job.contender.module != "executorch_own"]
    for job in own:
        full = next((one for one in own if one.contender == job.contender and one.shape == FULL), None)
        if job.shape == FULL and job.contender.variant.startswith("x86") and others:
            fastest = min(others, key=lambda one: one.median("tpot_ms") or 0)
            better = job.figures["perplexity"] <= fastest.figures["perplexity"]
            yield _compared(job, fastest, 1.0, {"perplexity is the same or better": better})
        if job.shape == FULL and job.contender.variant.startswith("android"):
            yield from (_compared(job, one, _PHONE, {}) for one in timed if one.contender.module == "executorch_own")
        if job.shape != FULL and full:
            yield _compared(job, full, _SMALL if job.shape == "53" else 1.0, {})


def _compared(first: Job, second: Job, wanted: float, also: dict[str, bool]) -> dict[str, Any]:
    found = ratio([one["tpot_ms"] for one in second.rounds], [one["tpot_ms"] for one in first.rounds])
    held = found.value >= wanted and all(also.values())
    names = {"first": first.name, "second": second.name}
    return {**names, "times_as_fast": vars(found), "wanted": wanted, **also, "held": held}
