"""The verb that shows what is released."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli_output import Json, print_json


def report(
    model: Annotated[str, typer.Argument(help="A base's name in the registry.")],
    out: Annotated[Path, typer.Option(help="The folder to write; index.html is the page.")] = Path("report"),
    check: Annotated[
        Path | None, typer.Option(help="What `amoeba check MODEL --json` printed: its verdict is shown.")
    ] = None,
    made: Annotated[
        str, typer.Option(help="A date to print on the page; without it the same registry gives the same bytes.")
    ] = "",
    log: Annotated[
        bool, typer.Option(help="Put page, drawings and figures beside the supernet's run in MLflow, too.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Write what is released as one page: the frontier a target, shapes, training, tasks, memory, the choice, lineage.

    The page loads nothing and runs nothing. Nothing is measured for it.

    \b
    amoeba report smollm2-135m --out report
    amoeba check smollm2-135m --json > check.json; amoeba report smollm2-135m --check check.json
    """
    from flows.report.make import make

    written = make(model, out, check, made or None, log)
    if as_json:
        print_json(written)
    else:
        typer.echo(f"{written.page}: {written.size_bytes / 1000:.0f} kB, {written.summary}")
