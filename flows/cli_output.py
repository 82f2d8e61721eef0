"""How verbs answer a machine."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

RequireSignature = Annotated[
    bool, typer.Option("--require-signature", help="Refuse what no trusted key signed, even where no key is known.")
]
AllowUnsigned = Annotated[
    bool, typer.Option("--allow-unsigned", help="Take what nobody signed, even where a key is known.")
]


def print_json(value: Any) -> None:
    """Dataclasses become objects, everything else that is not JSON its text."""
    from dataclasses import asdict, is_dataclass

    def plain(part: Any) -> Any:
        if is_dataclass(part) and not isinstance(part, type):
            return asdict(part)
        return str(part)

    typer.echo(json.dumps(value, default=plain, indent=2))
