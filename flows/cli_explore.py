"""`amoeba explore`: a target's frontier."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli_output import Json, print_json


def explore(
    model: Annotated[str, typer.Argument(help="A base of bases.yaml.")],
    target: Annotated[str, typer.Argument(help="One of `amoeba targets` whose packages run here.")],
    points: Annotated[int, typer.Option(min=1, help="Candidates measured, those of earlier runs included.")] = 8,
    as_json: Json = False,
) -> None:
    """Measure the candidates worth most for a target and publish the frontier among them; run again, it goes on.

    Each version of the frontier has its shape and quantization as its alias.

    \b
    amoeba explore smollm2-135m x86_avx512
    amoeba explore smollm2-135m x86_avx512 --points 16
    amoeba pull smollm2-135m x86_avx512 --max-latency-ms 5 --to model
    """
    from flows.asked import check_building
    from flows.own_server import serve_this_command

    check_building(model, target)
    serve_this_command()
    from flows.explore import explore as run

    explored = run(model, target, points)
    if as_json:
        print_json(explored)
    else:
        from flows.tables import explored as show

        show(explored)
