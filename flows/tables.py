"""Results for people: what each verb prints without `--json`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from components.progress import say
from flows import verdicts
from registry.naming import base_and_target
from registry.store import PRODUCTION

if TYPE_CHECKING:
    from components.frontier import Point
    from edge_targets._target import Target
    from flows.check import Checked, Verdict
    from flows.doctor import Finding
    from flows.explored import Explored
    from flows.lineage import Step
    from flows.onboard import Outcome
    from flows.package import Released
    from flows.watched import Watched
    from registry.promotions import Promotion

_WIDE = 200
_FIGURES = ("shape", "quantization", "MB", "perplexity", "accuracy", "TTFT ms", "ms/token", "measured on")


def onboarded(outcome: Outcome) -> None:
    """What was considered for each target, each published artifact against the full model, and the lines that pull them."""
    full = "could not be measured"
    if outcome.full_perplexity is not None and outcome.full_accuracy is not None:
        full = f"has perplexity {outcome.full_perplexity:.2f} and accuracy {outcome.full_accuracy:.1%}"
    table = _released(
        f"{outcome.base}: supernet version {outcome.supernet_version}; the full float model {full}",
        outcome.released,
        outcome.full_perplexity,
    )
    for one in outcome.released:
        _considered(one.target, one.choice.verdicts)
    _show(table)
    for one in outcome.released:
        which = "" if one.alias == PRODUCTION else f" --version {one.alias}"
        sys.stdout.write(f"amoeba pull {outcome.base} {one.target}{which} --to {outcome.base}-{one.target}\n")
    for what, reason in outcome.failed.items():
        say(f"error: {what} failed: {reason}")


def packaged(model: str, alias: str, released: Released) -> None:
    """What was considered, what was published and why not as the alias asked for, and the line that pulls it."""
    _considered(released.target, released.choice.verdicts)
    _show(_released(f"{model}: {released.target} version {released.version}, {released.alias}", [released]))
    if released.alias != alias:
        say(f"it is {released.alias}, not {alias}: only its device runs it, so its figures are predicted, not measured")
    sys.stdout.write(f"amoeba pull {model} {released.target} --version {released.version} --to {model}\n")


def _released(title: str, released: Sequence[Released], full_perplexity: float | None = None) -> Table:
    table = _table(title, ["target", *_FIGURES])
    for one in released:
        table.add_row(f"{one.target} v{one.version}", *_figures(one.point, full_perplexity))
    return table


def _figures(point: Point, full_perplexity: float | None = None) -> tuple[str, ...]:
    """A point as `_FIGURES` names it, its perplexity beside the full model's where that is given."""
    perplexity, accuracy = "not measured", "not measured"
    if point.perplexity is not None and point.accuracy is not None and point.accuracy_interval is not None:
        low, high = point.accuracy_interval
        ratio = f" ({point.perplexity / full_perplexity:.2f}x)" if full_perplexity else ""
        perplexity = f"{point.perplexity:.2f}{ratio}"
        accuracy = f"{point.accuracy:.1%} [{low:.0%}, {high:.0%}]"
    return (
        point.shape,
        point.quantization,
        f"{point.size_mb:.0f}",
        perplexity,
        accuracy,
        f"{point.ttft_ms:.0f}",
        f"{point.tpot_ms:.1f}",
        point.measured_on,
    )


def _considered(target: str, verdicts: Sequence[Any]) -> None:
    machines = {verdict.candidate.cost.machine for verdict in verdicts}
    title = f"{target}: what was considered (predicted for the {' and the '.join(sorted(machines))})"
    table = _table(title, ["shape", "quantization", "perplexity", "ms/token", "MB", "why"])
    for verdict in verdicts:
        candidate = verdict.candidate
        cost = candidate.cost
        table.add_row(
            str(candidate.shape),
            candidate.quantization,
            f"{candidate.perplexity:.1f}",
            f"{cost.tpot_ms:.1f}",
            f"{cost.memory_mb:.0f}",
            verdict.reason,
        )
    _show(table)


def explored(frontier: Explored) -> None:
    """The frontier, each point with what was predicted of it without it, and the best of what was not measured.

    A device's figures are no prediction for this host, and all there is where the point is the host's only run.
    """
    title = (
        f"{frontier.model}: the frontier of {frontier.target} on {frontier.host['processor']}, {frontier.host['threads']} threads; "
        f"the full float model has perplexity {frontier.reference.perplexity:.2f} and accuracy {frontier.reference.accuracy:.1%}"
    )
    columns = ["version", "shape", "quantization", "perplexity", "accuracy", "ms/token", "TTFT ms", "memory MB"]
    table = _table(f"{title} (in brackets: predicted)", columns)
    for member in frontier.members:
        point, predicted = member.point, member.predicted
        low, high = point.accuracy_interval or (0.0, 1.0)
        pairs = (
            (point.tpot_ms, predicted.tpot_ms, 1),
            (point.ttft_ms, predicted.ttft_ms, 0),
            (point.memory_mb, predicted.memory_mb, 0),
        )
        table.add_row(
            member.version,
            point.shape,
            point.quantization,
            f"{point.known_perplexity:.2f} ({predicted.perplexity:.2f})",
            f"{point.accuracy:.1%} [{low:.0%}, {high:.0%}]",
            *(
                f"{measured:.{digits}f}" + (f" ({expected:.{digits}f})" if predicted.machine == "host" else "")
                for measured, expected, digits in pairs
            ),
        )
    _show(table)
    built = [one for one in frontier.considered if one.point is not None]
    for one in built:
        sys.stdout.write(f"{one.shape} {one.quantization}: {one.reason}\n")
    sys.stdout.write(f"{len(frontier.considered) - len(built)} more candidates were considered and not measured\n")


def checked(model: str, verdict: Verdict, packages: Sequence[Checked]) -> None:
    """Every figure, then and now, and how much worse it is."""
    table = _table(f"{model}: {verdict}", ["package", "figure", "baseline", "now", "worse by", "allowed", "verdict"])
    for one in packages:
        for figure in one.figures:
            then, now = (f"{value:.4g}" for value in (figure.baseline, figure.candidate))
            worse, allowed, outcome = verdicts.worsening(figure), verdicts.margin(figure), verdicts.outcome(figure)
            table.add_row(one.registered_model, figure.name, then, now, worse, allowed, outcome)
        for line in verdicts.succession(one):
            table.add_row(one.registered_model, "", "", "", "", "", line)
        if one.reason:
            table.add_row(one.registered_model, "", "", "", "", "", f"{one.verdict}: {one.reason}")
    if not packages:
        table.add_row("", "", "", "", "", "", f"nothing of {model} is published; `amoeba onboard` does that")
    _show(table)


def target_list(targets: Sequence[Target]) -> None:
    table = _table("targets", ["name", "device", "runtime", "quantizations", "memory MB", "default budget"])
    for target in targets:
        budget = target.budget
        limits = [f"{budget.max_tpot_ms:g} ms/token"] if budget.max_tpot_ms else []
        limits += [f"{budget.max_tpot_percent:g} % of the full model's ms/token"] if budget.max_tpot_percent else []
        limits += [f"{budget.max_memory_mb:g} MB"] if budget.max_memory_mb else []
        names = ", ".join(quantization.name for quantization in target.quantizations)
        memory = str(target.device.memory_mb)
        table.add_row(
            target.name, target.title, target.runtime, names, memory, ", ".join(limits) or "the device's memory"
        )
    _show(table)


def bases_list(watched: Sequence[Watched], bases: Mapping[str, Mapping[str, str]]) -> None:
    table = _table("bases", ["source", "profile", "targets", "onboarded as", "fingerprint"])
    for one in watched:
        table.add_row(one.source, one.profile, ", ".join(one.targets) or "all", "watched", "")
    for name, facts in bases.items():
        table.add_row(facts["source"], facts["profile"], "", name, facts["fingerprint"][:12])
    _show(table)


def releases(rows: Sequence[dict[str, Any]]) -> None:
    """A table a base, narrow enough for a terminal of 120 columns."""
    if not rows:
        say("nothing is published yet; `amoeba onboard BASE` does that")
    for base, of_base in groupby(rows, key=lambda row: base_and_target(row["version"].registered_model)[0]):
        table = _table(base, ["target", "aliases", *_FIGURES, "data"])
        table.padding = 0
        for row in of_base:
            version, point = row["version"], row["point"]
            table.add_row(
                f"{base_and_target(version.registered_model)[1] or 'supernet'} v{version.version}",
                ", ".join(version.aliases),
                *(_figures(point) if point else [""] * len(_FIGURES)),
                "refused: --json says why" if "refused" in row else row["lineage"].get("data_revision", "")[:8],
            )
        _show(table)


def promotions(records: Sequence[Promotion]) -> None:
    table = _table("promotions", ["serial", "alias", "version", "before", "by", "at", "reason"])
    for one in records:
        table.add_row(str(one.serial), one.alias, one.version, one.before or "", one.by, one.at, one.reason)
    _show(table)


def lineage_steps(steps: Sequence[Step]) -> None:
    table = _table("lineage", ["step", "what", "digest"])
    for step in steps:
        table.add_row(step.step, step.what, step.digest)
    _show(table)


def examined(findings: Sequence[Finding]) -> None:
    table = _table("doctor", ["", "what", "found", "what to do"])
    for finding in findings:
        table.add_row("ok" if finding.fine else "missing", finding.what, finding.found, finding.remedy)
    _show(table)


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _show(table: Table) -> None:
    """Cells are what others wrote, letter by letter: brackets are no markup, and names between colons no pictures."""
    width = None if Console().is_terminal else _WIDE
    Console(width=width, markup=False, emoji=False).print(table)
