"""The report at the end of a flow: written, and laid beside the flow's run in Prefect."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from flows import reference, tracking
from flows.report import figures
from flows.report.gather import gather
from flows.report.make import PAGE, write
from flows.report.record import Report
from registry import naming


def show(model: str, full: Mapping[str, Any], folder: Path) -> None:
    """Keep the full model's figures, write the report to `folder` and tell Prefect; raises what these raise."""
    registry = tracking.store()
    reference.keep(registry, registry.resolve(naming.supernet_model(model)), full)
    report = gather(registry, model)
    write(registry, report, folder)
    tell_prefect(report, folder / PAGE)


def tell_prefect(report: Report, page: Path) -> None:
    """Three artifacts of the run: the releases, every place in the planes, and where the page is."""
    key = re.sub("[^a-z0-9]+", "-", report.model.lower()).strip("-")
    create_markdown_artifact(
        figures.markdown(report), key=f"released-{key}", description=f"What is released of {report.model}"
    )
    create_table_artifact(
        figures.frontier_rows(report),
        key=f"frontier-{key}",
        description=f"Quality and time of what {report.model} became",
    )
    create_link_artifact(page.resolve().as_uri(), key=f"report-{key}", link_text=f"The report on {report.model}")
