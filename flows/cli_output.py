"""How verbs answer a machine."""

from __future__ import annotations

import json
import math
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
    """Dataclasses become objects, numbers that JSON has no name for null, everything else that is not JSON its text."""
    from dataclasses import asdict, is_dataclass

    def plain(part: Any) -> Any:
        if is_dataclass(part) and not isinstance(part, type):
            part = asdict(part)
        if isinstance(part, dict):
            return {str(name): plain(one) for name, one in part.items()}
        if isinstance(part, list | tuple):
            return [plain(one) for one in part]
        if isinstance(part, float):
            return float(part) if math.isfinite(part) else None
        return part if part is None or isinstance(part, bool | int | str) else str(part)

    typer.echo(json.dumps(plain(value), indent=2))
