"""The whole of `amoeba report`: from the registry to files in a folder, to MLflow, and to what DVC shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components.files import replace_text
from flows import tracking
from flows.report import figures, words
from flows.report import gate as gates
from flows.report.gather import gather
from flows.report.page import Pictures, page
from flows.report.record import Report
from flows.settings import WorkspaceError, settings
from registry.store import Store

PAGE = "index.html"


@dataclass(frozen=True)
class Written:
    """What a report came to."""

    page: Path
    size_bytes: int
    summary: str
    logged: bool
    """Whether MLflow has it now: not where it was not asked for, or no supernet is registered."""


def make(model: str, folder: Path, check: Path | None = None, made: str | None = None, log: bool = True) -> Written:
    """Write a base's report to `folder`.

    Raises what the registry raises, GateFileError for no file of the gate, and ValueError where a file has the folder's name.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(
            f"{folder} is a file, and a report is a folder of files; --out {folder.with_suffix('')}-report is one"
        )
    gate = gates.read(check) if check is not None else None
    registry = tracking.store()
    return write(registry, gather(registry, model, gate, made), folder, log)


def write(registry: Store, report: Report, folder: Path, log: bool = True) -> Written:
    """The page and each drawing as a file; with `log` the same in MLflow, and the figures for DVC in the workspace."""
    text = page(report)
    files = {PAGE: text, **{f"{one.name}.svg": one.standing_alone() for one in Pictures.of(report).all}}
    for name, content in files.items():
        replace_text(folder / name, content)
    logged = log and tracking.log_report(registry, report.model, files, dict(figures.flat(figures.metrics(report))))
    if log and (root := _workspace()) is not None:
        figures.write(report, root)
    releases = sum(len(target.releases) for target in report.targets)
    summary = f"{words.count(releases, 'release')} for {words.count(len(report.targets), 'target')}"
    return Written(folder / PAGE, len(text.encode()), summary, logged)


def _workspace() -> Path | None:
    """None where the registry is a server's and the command runs anywhere."""
    try:
        return settings().root
    except WorkspaceError:
        return None
