"""The regression gate: measure what is published again, and compare with what was measured when it was published.

0 holds, 1 regressed, 2 could not measure. Quality and time are compared within the tolerances of `params.yaml`; time only
on the machine that the baseline was measured on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prefect import flow, task

import edge_targets
from components.frontier import Comparison, Point, Tolerances, compare
from flows import data, measuring, tracking
from flows.bases import Declared, declared, parameters
from flows.settings import settings
from flows.work import JobError
from registry.errors import RegistryError
from registry.store import PRODUCTION

Verdict = Literal["holds", "regressed", "could not measure"]
EXIT_CODES: dict[Verdict, int] = {"holds": 0, "regressed": 1, "could not measure": 2}


@dataclass(frozen=True)
class Checked:
    """One artifact's verdict, figure by figure; `reason` where it could not be measured."""

    registered_model: str
    verdict: Verdict
    comparisons: tuple[Comparison, ...] = ()
    reason: str = ""


@flow(name="check")
def check(model: str, targets: Sequence[str] = (), baseline: str = PRODUCTION) -> tuple[Checked, ...]:
    """Check every published package of a base that runs here, or those of `targets`."""
    base = declared(model)
    prefix = f"{base.name}--"
    names = [
        name
        for name in tracking.store().models()
        if name.startswith(prefix) and _cannot_run_here(name.removeprefix(prefix)) is None
    ]
    wanted = [f"{prefix}{target}" for target in targets] or names
    return tuple(check_package(base, name, baseline) for name in wanted)


def overall(checked: Sequence[Checked]) -> Verdict:
    """Regressed where any is; else could not measure where any could not, or there was nothing to measure."""
    verdicts = {one.verdict for one in checked}
    if "regressed" in verdicts:
        return "regressed"
    return "holds" if verdicts == {"holds"} else "could not measure"


@task(task_run_name="check {registered_model}")
def check_package(base: Declared, registered_model: str, baseline: str) -> Checked:
    """Pull, verify, measure and compare one package."""
    why = _cannot_run_here(registered_model.removeprefix(f"{base.name}--"))
    if why is not None:
        return Checked(registered_model, "could not measure", reason=f"it runs on its device only: {why}")
    registry = tracking.store()
    folder = settings().cache / "checked" / registered_model
    try:
        manifest = registry.pull(registered_model, folder, baseline)
        if manifest.lineage["data_revision"] != data.revision("data", base):
            reason = "the baseline was measured on other data than this workspace has; onboard again"
            return Checked(registered_model, "could not measure", reason=reason)
        figures = measuring.measurement(base, str(manifest.target), folder, manifest.content_digest, again=True)
    except (RegistryError, JobError, data.StageError) as error:
        return Checked(registered_model, "could not measure", reason=str(error))
    then = Point.from_json(manifest.facts["point"])
    now = measuring.point_of(then.shape, then.quantization, figures)
    comparisons = compare(then, now, Tolerances(**parameters()["tolerances"]))
    if figures["host"] != manifest.facts["measurement"]["host"]:
        comparisons = tuple(one for one in comparisons if one.figure in ("perplexity", "accuracy"))
        if all(one.holds for one in comparisons):
            was = manifest.facts["measurement"]["host"]["processor"]
            reason = (
                f"quality holds; time cannot be compared, since the baseline was measured on another machine ({was})"
            )
            return Checked(registered_model, "could not measure", comparisons, reason)
    verdict: Verdict = "holds" if all(one.holds for one in comparisons) else "regressed"
    return Checked(registered_model, verdict, comparisons)


def _cannot_run_here(target: str) -> str | None:
    """Why nothing here runs a target's packages; None where something does, and for a target that is no longer there."""
    return edge_targets.load(target).cannot_run_here if target in edge_targets.names() else None
