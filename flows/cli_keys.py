"""`amoeba keys`: the keys that sign what is published, and those that are believed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli_output import Json, print_json

if TYPE_CHECKING:
    from registry.keys import PublicKey
    from registry.trust import Trust

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Keys that sign what is published, and keys that are believed.",
)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="What people will know the key by.")],
    out: Annotated[
        Path | None, typer.Option(help="The folder for both files; `signing` in your configuration folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a pair of keys: NAME.key signs and stays yours, NAME.pem verifies and is for everyone.

    The private key is closed with AMOEBA_SIGNING_KEY_PASSWORD where that is set.

    \b
    amoeba keys new lab
    amoeba keys new lab --out /secure/keys
    """
    from flows import trusting
    from flows.settings import settings
    from registry.keys import PublicKey, make_key

    password = settings().signing_key_password
    folder = out or trusting.configuration() / "signing"
    private, public = make_key(name, folder, password.get_secret_value() if password else None)
    fingerprint = PublicKey.read(public).fingerprint
    if as_json:
        print_json({"name": name, "fingerprint": fingerprint, "private": str(private), "public": str(public)})
        return
    typer.echo(f"{private}: yours alone; what you publish is signed with it after export AMOEBA_SIGNING_KEY={private}")
    typer.echo(f"{public}: for everyone; a device believes it after amoeba keys trust {public.name}")
    typer.echo(f"fingerprint {fingerprint}")


@app.command("list")
def list_keys(as_json: Json = False) -> None:
    """List the keys that are known here, the revoked ones with their reasons.

    \b
    amoeba keys list
    """
    from flows import trusting

    trust = trusting.trust()
    rows = _rows(trust)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        since = f"  revoked {row['revoked']['date']}: {row['revoked']['reason']}" if row["revoked"] else ""
        typer.echo(f"{row['fingerprint'][:12]}  {row['name']}{since}")
    if not rows:
        looked = " and ".join(map(str, trusting.folders()))
        typer.echo(f"no key is known in {looked}: what is pulled is unverified; amoeba keys trust FILE adds one")


@app.command()
def trust(
    file: Annotated[Path, typer.Argument(help="A public key, NAME.pem, from somebody you believe.")],
    name: Annotated[str | None, typer.Option(help="What to call it here; the file's name when not given.")] = None,
    as_json: Json = False,
) -> None:
    """Believe a key from now on: pulls then need a signature by a trusted key. Several are believed at once.

    \b
    amoeba keys trust lab.pem
    amoeba keys trust lab.pem --name supplier
    """
    from flows import trusting
    from registry.trust import add_key

    key = add_key(trusting.own_folder(), file, name)
    revoked = trusting.trust().revocation(key.fingerprint)
    if as_json:
        print_json({"name": key.name, "fingerprint": key.fingerprint, "revoked": revoked is not None})
    elif revoked:
        typer.echo(f"{key.name} ({key.fingerprint}) is kept, but stays revoked since {revoked.date}: {revoked.reason}")
    else:
        typer.echo(f"{key.name} ({key.fingerprint}) is trusted; compare the fingerprint with its owner's")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="A name or the start of a fingerprint from `amoeba keys list`.")],
    reason: Annotated[str, typer.Option(help="Why, in one line; whoever is refused reads it.")],
    as_json: Json = False,
) -> None:
    """Believe a key no more, whatever it signed and when.

    \b
    amoeba keys revoke lab --reason "the laptop was lost"
    """
    import datetime

    from flows import trusting
    from registry.trust import revoke as note

    key = _find(trusting.trust(), name)
    revocation = note(trusting.own_folder(), key, reason, datetime.datetime.now(datetime.UTC).date())
    if as_json:
        print_json(vars(revocation))
    else:
        typer.echo(f"{key.name} ({key.fingerprint}) is revoked since {revocation.date}: {revocation.reason}")


def _rows(trust: Trust) -> list[dict[str, Any]]:
    """Every known key, then what was revoked without the key being known."""
    known = {key.fingerprint: key.name for key in trust.keys}
    every = {
        **known,
        **{one.fingerprint: one.name or "unknown" for one in trust.revoked if one.fingerprint not in known},
    }
    rows = []
    for fingerprint, name in every.items():
        revocation = trust.revocation(fingerprint)
        told = {"reason": revocation.reason, "date": revocation.date} if revocation else None
        rows.append({"name": name, "fingerprint": fingerprint, "revoked": told})
    return rows


_FEWEST_DIGITS = 8


def _find(trust: Trust, name: str) -> PublicKey:
    """The one key of this name, or whose fingerprint starts so; raises ValueError where that is none or several."""
    found = [
        key
        for key in trust.keys
        if key.name == name or (len(name) >= _FEWEST_DIGITS and key.fingerprint.startswith(name))
    ]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{key.name} ({key.fingerprint[:12]})" for key in trust.keys) or "none"
    what = "more than one key is" if found else "no key is"
    raise ValueError(f"{what} called {name[:80]!r}; known here: {known}. Give a name or the start of a fingerprint")
