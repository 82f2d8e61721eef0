"""The verbs of the service: what is watched, and what runs when something arrives."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli_output import Json, print_json

bases = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What is watched for new base models.")
Profile = Annotated[str, typer.Option(help="One of params.yaml's profiles.")]


@bases.command()
def add(
    source: Annotated[str, typer.Argument(help="A hub id org/name, mlflow:NAME, or a folder that models are put in.")],
    profile: Profile = "quick",
    target: Annotated[list[str] | None, typer.Option(help="Only this target; may be repeated.")] = None,
) -> None:
    """Watch a source: `amoeba serve` onboards each revision that it finds newest there, once.

    \b
    amoeba bases add Qwen/Qwen3-0.6B --profile full
    amoeba bases add mlflow:our-base --target x86_avx512
    amoeba bases add /srv/models
    """
    from flows.watched import add as watch

    added = watch(source, profile, tuple(target or ()))
    typer.echo(f"{added.source} is watched; `amoeba serve` onboards each new revision")


@bases.command()
def remove(source: Annotated[str, typer.Argument(help="As it was added.")]) -> None:
    """Watch a source no longer; what it became stays.

    \b
    amoeba bases remove mlflow:our-base
    """
    from flows.watched import remove as unwatch

    unwatch(source)
    typer.echo(f"{source} is watched no longer")


@bases.command(name="list")
def every(as_json: Json = False) -> None:
    """What is watched, and what was onboarded.

    \b
    amoeba bases list --json
    """
    from flows.bases import entries
    from flows.watched import watched

    if as_json:
        print_json({"watched": watched(), "bases": entries().get("bases") or {}})
        return
    from flows.tables import bases_list

    bases_list(watched(), entries().get("bases") or {})


def serve(
    every: Annotated[float, typer.Option(min=0, help="Seconds between two looks at every source; 0: no looks.")] = 60.0,
    cron: Annotated[str, typer.Option(help="When every source is looked at too, as a cron line.")] = "",
    host: Annotated[str, typer.Option(help="Where webhooks and health are served.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for none.")] = 0,
    at_once: Annotated[int, typer.Option(min=1, help="Runs at a time; two would disturb each other's times.")] = 1,
) -> None:
    """Run the deployments, and onboard each new revision of what is watched.

    With PREFECT_API_URL runs are that server's, else those of one of the workspace's own. Webhooks of MLflow are taken at
    /mlflow of --port where AMOEBA_WEBHOOK_SECRET is set; where they cannot reach, looking at the registry does.

    \b
    amoeba serve
    amoeba serve --port 8080
    amoeba serve --every 0 --cron "0 3 * * *"
    """
    from flows.service import run

    run(every, cron, host, port, at_once)


def deploy(
    pool: Annotated[str, typer.Option(help="A work pool of the Prefect server that PREFECT_API_URL names.")],
    image: Annotated[str | None, typer.Option(help="Of workers that run containers.")] = None,
    cron: Annotated[str, typer.Option(help="When every source is looked at, as a cron line.")] = "",
    as_json: Json = False,
) -> None:
    """Give the deployments to a work pool: process, Docker or Kubernetes; its workers run them.

    \b
    amoeba deploy --pool builders
    amoeba deploy --pool cluster --image registry.example/amoeba-edge:1.0 --cron "*/10 * * * *"
    """
    from flows.service import deploy_to

    made = deploy_to(pool, image, cron)
    if as_json:
        print_json(made)
    else:
        typer.echo("\n".join(made))


def add_to(app: typer.Typer) -> None:
    """Give the command these verbs."""
    app.command()(serve)
    app.command()(deploy)
    app.add_typer(bases, name="bases")
