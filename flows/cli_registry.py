"""The verbs that move aliases and keep the registry tidy."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli_output import Json, print_json

Model = Annotated[str, typer.Argument(help="A base, or `BASE--TARGET`.")]
Target = Annotated[str | None, typer.Argument(help="One of `amoeba targets`; none for the base's supernets.")]
Reason = Annotated[str, typer.Option(help="Kept with the promotion.")]


def add_to(app: typer.Typer) -> None:
    """Give the command these verbs."""
    for verb in (promote, rollback, history, gc):
        app.command()(verb)


def promote(
    model: Model,
    target: Target = None,
    version: Annotated[str, typer.Option(help="A version number or an alias.")] = "candidate",
    to: Annotated[str, typer.Option(help="The alias that it gets.")] = "production",
    expect: Annotated[str | None, typer.Option(help="Refuse unless the alias is at this version now.")] = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Point an alias at a version, on record: the candidate to production when nothing else is said.

    \b
    amoeba promote smollm2-135m x86_avx512 --reason "passed the gate"
    amoeba promote smollm2-135m x86_avx512 --version 7 --to canary
    amoeba promote smollm2-135m x86_avx512 --version 7 --expect 6
    """
    from flows import releasing

    chosen, record = releasing.promote(model, target, version, to, reason, expect)
    if as_json:
        print_json({"model": chosen.registered_model, "version": chosen.version, "alias": to, "promotion": record})
    elif record is None:
        typer.echo(f"{chosen.registered_model}@{to} is at version {chosen.version} already")
    else:
        typer.echo(f"{record.model}@{record.alias}: version {record.before or 'none'} -> {record.version}")


def rollback(model: Model, target: Target = None, reason: Reason = "", as_json: Json = False) -> None:
    """Promote what `production` was before; devices get it at their next pull.

    \b
    amoeba rollback smollm2-135m x86_avx512 --reason "slow on one phone"
    """
    from flows import releasing

    record = releasing.roll_back(model, target, reason)
    if as_json:
        print_json(record)
    else:
        typer.echo(f"{record.model}@{record.alias}: version {record.before} -> {record.version}")


def history(model: Model, target: Target = None, as_json: Json = False) -> None:
    """Every promotion and rollback, newest first.

    \b
    amoeba history smollm2-135m x86_avx512
    """
    from flows import releasing

    records = releasing.history(model, target)
    if as_json:
        print_json(records)
    else:
        from flows.tables import promotions

        promotions(records)


def gc(
    remove: Annotated[bool, typer.Option("--remove", help="Remove them; without it they are only listed.")] = False,
    hours: Annotated[float, typer.Option(min=0, help="Of uploads, leave alone what is younger.")] = 24.0,
    unused_days: Annotated[float, typer.Option(min=1, help="Of the cache, what nobody used for so long goes.")] = 30.0,
    budget_mb: Annotated[
        int | None,
        typer.Option(
            min=0, help="Then what was used longest ago, until the cache is within; AMOEBA_WORKSPACE_MEGABYTES."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List, and remove when asked, what is not needed: uploads of stopped publishers, and what the workspace keeps to be quick.

    A later run makes the workspace's pieces again where it needs them; what was used in the last day stays. Versions that
    were published, and what DVC keeps, stay: `dvc gc --workspace` is for the latter.

    \b
    amoeba gc
    amoeba gc --remove --hours 1
    amoeba gc --remove --unused-days 7 --budget-mb 20000
    """
    from flows import room
    from flows.tracking import store
    from registry import leftovers

    registry = store()
    uploads = leftovers.leftovers(registry, hours)
    found = room.pieces()
    pieces = room.to_remove(found, unused_days * 24, room.budget_bytes(budget_mb))
    if remove:
        for one in uploads:
            leftovers.remove(registry, one)
        for piece in pieces:
            room.remove(piece)
    if as_json:
        print_json({"leftovers": uploads, "cache": pieces, "cache_bytes": room.total(found), "removed": remove})
        return
    for one in uploads:
        typer.echo(f"{one.source}: {one.size / 1e6:.1f} MB, {one.age_hours:.0f} hours old")
    for piece in pieces:
        typer.echo(f"{piece.name}: {piece.size / 1e6:.1f} MB, not used for {piece.unused_hours / 24:.0f} days")
    done = "removed" if remove else "can be removed with --remove"
    freed_mb = (sum(one.size for one in uploads) + room.total(pieces)) / 1e6
    counted = f"{len(uploads)} leftovers, {len(pieces)} of {len(found)} pieces of the cache, {freed_mb:.1f} MB"
    typer.echo(f"{counted}{f': {done}' if uploads or pieces else ''}")
