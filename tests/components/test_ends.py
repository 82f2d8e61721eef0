"""What ends a text is asked for before any work, and is the same for training, chat and devices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fixtures.tiny import FAMILIES, make_model, write_base

from components.base import BaseError, resolve
from components.stages import _Tokenizer
from components.subnet import Subnet
from edge_targets._package import eos_token_ids


def write(folder: Path, family: str, generation: Any, config: Any, token: Any) -> Path:
    """A base that names its end of text there, and where None is given not."""
    write_base(folder, make_model(family))
    places = {"generation_config.json": generation, "config.json": config, "tokenizer_config.json": token}
    for name, named in places.items():
        key = "eos_token" if name.startswith("tokenizer") else "eos_token_id"
        values = json.loads((folder / name).read_text())
        values.pop(key, None)
        (folder / name).write_text(json.dumps({**values, **({} if named is None else {key: named})}))
    return folder


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("generation", "config", "token", "ends"),
    [
        ([5, 7], 6, "<end>", (5, 7)),
        (0, 6, "<end>", (0,)),
        (None, 6, "<end>", (6,)),
        ([], [], "<end>", (1,)),
        (None, None, "<end>", (1,)),
        (None, None, {"__type": "AddedToken", "content": "<end>"}, (1,)),
    ],
)
def test_what_is_learned_and_what_devices_stop_at_ends_as_the_base_says(
    tmp_path: Path, family: str, generation: Any, config: Any, token: Any, ends: tuple[int, ...]
) -> None:
    base = resolve(str(write(tmp_path / "base", family, generation, config, token)), tmp_path)
    assert _Tokenizer(base.folder).ends == ends
    out = tmp_path / "subnet"
    Subnet(make_model(family), None).save(out, base, "# a card\n")
    assert eos_token_ids(out, json.loads((out / "config.json").read_text())) == list(ends)


def test_a_generation_config_that_names_its_end_of_text_is_carried_along_as_it_is(tmp_path: Path) -> None:
    base = resolve(str(write(tmp_path / "base", "llama", 5, 6, "<end>")), tmp_path)
    Subnet(make_model(), None).save(tmp_path / "subnet", base, "# a card\n")
    name = "generation_config.json"
    assert (tmp_path / "subnet" / name).read_bytes() == (base.folder / name).read_bytes()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("token", [None, "<eos>"], ids=["none named", "one that the tokenizer does not know"])
def test_a_base_whose_texts_never_end_is_refused_before_any_work(tmp_path: Path, family: str, token: Any) -> None:
    folder = write(tmp_path / "base", family, None, None, token)
    with pytest.raises(BaseError, match=r"which token ends a text.*name its eos_token_id in generation_config\.json"):
        resolve(str(folder), tmp_path)
