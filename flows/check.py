"""The regression gate: a candidate against its baseline on this machine, figure by figure, with noise taken into account.

1. The baseline is a published version (an alias or a number) or a file of an earlier gate; the candidate is what is
   published as `candidate` or as `production`, the later of the two.
2. Of two versions times are taken in turns, text and questions compared item by item. Where they are the same version, or
   the baseline is a file, its figures are of another day: quality is compared the same way, time by a wider margin, and
   only on the machine that it was taken on.
3. What is undecided is measured again with more runs or more questions, a few times; each look has its share of the
   false alarms that are allowed, so looking again does not make more of them.
4. Exit 0 holds, 1 regressed, 2 inconclusive or could not measure.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

import edge_targets
from components.gate import Figure, decide
from components.gate import overall as verdict_of
from flows import evidence, tracking
from flows.bases import Declared, declared, parameters
from flows.effort import Effort, margins_of
from flows.evidence import Artifact, Recorded
from flows.explored import FRONTIER_TAG
from flows.frontiers import Successor, frontiers
from flows.session import Session
from flows.steps import told
from flows.trouble import explained, reason
from flows.work import key_of
from registry.bom import BOM_FILE
from registry.errors import NotFoundError
from registry.store import CANDIDATE, PRODUCTION, Store

Verdict = Literal["holds", "regressed", "inconclusive", "could not measure"]
EXIT_CODES: dict[Verdict, int] = {"holds": 0, "regressed": 1, "inconclusive": 2, "could not measure": 2}


@dataclass(frozen=True)
class Checked:
    """One artifact's verdict, figure by figure; `reason` where something could not be measured."""

    registered_model: str
    verdict: Verdict
    baseline: str = ""
    candidate: str = ""
    figures: tuple[Figure, ...] = ()
    reason: str = ""
    measured: Recorded | None = None
    """What was measured of the candidate, for a later gate's `--baseline FILE`."""
    models: tuple[str, ...] = ()
    """Digests of what ran, and of the frontiers beside it."""
    successors: tuple[Successor, ...] = ()
    """Members of the baseline's frontier against those of the same shape and quantization now."""


@flow(name="check")
@told
def check(
    model: str, targets: Sequence[str] = (), baseline: str = PRODUCTION, candidate: str | None = None
) -> tuple[Checked, ...]:
    """Check every published package of a base that runs here, or those of `targets`."""
    base = declared(model)
    checked: list[Checked] = []
    for name in _packages(base, targets):
        checked.append(check_package(base, name, baseline, candidate, tuple(checked)))
    return tuple(checked)


def overall(checked: Sequence[Checked]) -> Verdict:
    """The worst of the verdicts; could not measure where there was nothing to."""
    verdicts = {one.verdict for one in checked}
    for verdict in ("regressed", "could not measure", "inconclusive", "holds"):
        if verdict in verdicts:
            return verdict
    return "could not measure"


@task(task_run_name="check {registered_model}", cache_policy=NO_CACHE)
def check_package(
    base: Declared, registered_model: str, baseline: str, candidate: str | None, before: Sequence[Checked] = ()
) -> Checked:
    """Pull and verify both sides, measure until every figure is decided or the effort is spent, and judge.

    Targets of a family ship the same model: what one of them showed `before` is so of the next, unless its frontier is another.
    Whatever goes wrong is this package's, and the verdicts of others stand.
    """
    target = registered_model.removeprefix(f"{base.name}--")
    why = _cannot_run_here(target)
    if why is not None:
        return Checked(registered_model, "could not measure", reason=f"it runs on its device only: {why}")
    try:
        newer = _candidate(tracking.store(), registered_model, candidate)
        older = _baseline(tracking.store(), registered_model, baseline, newer)
        models = (*_models_of(older), *_models_of(newer))
        known = next((one for one in before if one.models == models), None)
        judged = known or _judged(base, target, older, newer)
        sides = replace(judged, baseline=str(older), candidate=str(newer), models=models)
        return replace(sides, registered_model=registered_model)
    except Exception as error:
        if explained(error) is None:
            traceback.print_exc()
        return Checked(registered_model, "could not measure", reason=reason(error))


def _packages(base: Declared, targets: Sequence[str]) -> list[str]:
    """Registered models of the targets that are asked for, else of those that run here; of all, to say why none does."""
    prefix = f"{base.name}--"
    if targets:
        return [f"{prefix}{target}" for target in targets]
    published = [name for name in tracking.store().models() if name.startswith(prefix)]
    return [name for name in published if _cannot_run_here(name.removeprefix(prefix)) is None] or published


def _candidate(registry: Store, registered_model: str, asked: str | None) -> Artifact:
    """The one that is asked for, else the later of `candidate` and `production`."""
    if asked is not None:
        return Artifact.pulled(registry, registered_model, asked)
    found = []
    for alias in (CANDIDATE, PRODUCTION):
        with suppress(NotFoundError):
            found.append(registry.resolve(registered_model, alias).version)
    return Artifact.pulled(registry, registered_model, max(found, key=int, default=PRODUCTION))


def _baseline(registry: Store, registered_model: str, asked: str, newer: Artifact) -> Artifact | Recorded:
    if Path(asked).is_file():
        return evidence.recorded(Path(asked), registered_model)
    older = Artifact.pulled(registry, registered_model, asked)
    if older.version.version != newer.version.version:
        return older
    known = evidence.published(older)
    if known is None:
        raise evidence.BaselineError(
            f"{registered_model} has but {older}, which was built where it cannot run: nothing was measured to hold it against"
        )
    return known


def _models_of(side: Artifact | Recorded) -> tuple[str, ...]:
    """The digests of what runs and of its frontier; a package's own name and papers are no part of it."""
    if isinstance(side, Recorded):
        return (key_of(asdict(side.evidence)),)
    papers = ("package.json", "README.md", BOM_FILE)
    files = (entry.sha256 for entry in side.manifest.files if entry.path not in papers)
    return (*files, side.version.tags.get(FRONTIER_TAG, ""))


def _judged(base: Declared, target: str, older: Artifact | Recorded, newer: Artifact) -> Checked:
    numbers = parameters()
    effort, margins = Effort.of(numbers["gate"]), margins_of(numbers["tolerances"])
    session = Session(base, target, older, newer, {"runs": effort.runs, "new_tokens": effort.new_tokens})
    looks = [
        partial(session.look, pairs=pairs, questions=questions)
        for pairs, questions in zip(effort.pairs, effort.questions, strict=True)
    ]
    found = None
    if isinstance(older, Artifact):
        sides, run = (older, newer), session.numbers
        found = frontiers(tracking.store(), base, target, sides, effort.frontier_rounds, run, effort.levels)
    both = None if found is None else (found.baseline, found.candidate)
    figures = decide(looks, margins, effort.levels, in_turns=session.in_turns, frontiers=both)
    verdict, why = verdict_of(figures), session.untimed
    if why and verdict == "holds":
        verdict, why = "inconclusive", f"quality holds; {why}"
    successors = () if found is None else found.successors
    return Checked("", verdict, figures=figures, successors=successors, reason=why, measured=session.measured())


def _cannot_run_here(target: str) -> str | None:
    """Why nothing here runs a target's packages; None where something does, and for a target that is no longer there."""
    return edge_targets.load(target).cannot_run_here if target in edge_targets.names() else None
