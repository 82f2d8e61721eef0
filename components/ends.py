"""Which tokens end a text: the base says so itself, in one of three places."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_GENERATION_FILE = "generation_config.json"


def end_tokens(folder: Path) -> tuple[int, ...]:
    """By its generation config, else by its `config.json` as it stands, else by its tokenizer's `eos_token`.

    The class of a config in transformers names one that the file does not (2 for Llama and Mistral), which may be any token
    of the base. Raises ValueError where none of the three names one.
    """
    for name in (_GENERATION_FILE, "config.json"):
        named = _listed(_read(folder / name).get("eos_token_id"))
        if named:
            return named
    token = _read(folder / "tokenizer_config.json").get("eos_token")
    known = _id_of(folder, str(token["content"] if isinstance(token, dict) else token)) if token else None
    if known is None:
        raise ValueError(
            f"nothing in {folder} says which token ends a text, and chat would never stop: name its eos_token_id in "
            f"{_GENERATION_FILE}"
        )
    return (known,)


def name_end_tokens(base: Path, out: Path) -> None:
    """Have the generation config of `out`, which was cut from the folder `base`, name what ends a text there."""
    ends, known = end_tokens(base), _read(out / _GENERATION_FILE)
    if _listed(known.get("eos_token_id")) != ends:
        (out / _GENERATION_FILE).write_text(json.dumps({**known, "eos_token_id": list(ends)}, indent=2) + "\n")


def _read(file: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return values


def _listed(named: int | list[int] | None) -> tuple[int, ...]:
    return (named,) if isinstance(named, int) else tuple(named or ())


def _id_of(folder: Path, token: str) -> int | None:
    from tokenizers import Tokenizer

    known: int | None = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(token)
    return known
