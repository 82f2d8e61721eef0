"""The verb that guards a release."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from flows.cli_output import Json, print_json


def check(
    model: Annotated[str, typer.Argument(help="A base of bases.yaml.")],
    target: Annotated[list[str] | None, typer.Option(help="Only this target; may be repeated.")] = None,
    baseline: Annotated[
        str, typer.Option(help="An alias, a version number, or a file that `amoeba check --json` wrote.")
    ] = "production",
    candidate: Annotated[
        str | None,
        typer.Option(help="An alias or version number; the later of `candidate` and `production` when not given."),
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="A file for the verdict as JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="A file for the verdict as a pull request's comment.")] = None,
    as_json: Json = False,
) -> None:
    """Hold a candidate against its baseline: exit 0 holds, 1 regressed, 2 inconclusive or could not measure.

    Of two versions times are taken in turns, text and questions compared one by one; what is undecided is measured more.
    On GitHub (GITHUB_ACTIONS is true) the run is annotated and its summary gets the table.

    \b
    amoeba check smollm2-135m
    amoeba check smollm2-135m --target x86_avx512 --baseline previous
    amoeba check smollm2-135m --json > baseline.json
    amoeba check smollm2-135m --baseline baseline.json --junit gate.xml --markdown gate.md
    """
    from components.files import replace_text
    from flows import verdicts
    from flows.asked import check_declared
    from flows.own_server import serve_this_command

    check_declared(model)
    serve_this_command()
    from flows.check import EXIT_CODES, overall
    from flows.check import check as run_check

    checked = run_check(model, tuple(target or ()), baseline, candidate)
    verdict = overall(checked)
    # Files first: what nobody reads on a terminal is what a CI run acts on.
    if junit is not None:
        replace_text(junit, verdicts.junit(model, checked).decode())
    if markdown is not None:
        replace_text(markdown, verdicts.markdown(model, verdict, checked))
    if as_json:
        print_json({"verdict": verdict, "packages": checked})
    else:
        from flows.tables import checked as show

        show(model, verdict, checked)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in verdicts.github_annotations(checked):
            typer.echo(line, err=as_json)
        summary = os.environ.get("GITHUB_STEP_SUMMARY")
        if summary:
            with Path(summary).open("a") as file:
                file.write(verdicts.markdown(model, verdict, checked))
    raise typer.Exit(EXIT_CODES[verdict])
