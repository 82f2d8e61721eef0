"""A base is checked before anything is computed with it, and what is cut from it carries its texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fixtures.tiny import make_model, write_base
from tokenizers import Tokenizer

from components.base import BaseError, complete_texts, resolve


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base", make_model(layers=1))


def carried(folder: Path) -> Path:
    """What a checkpoint cut from the base in `folder` carries along."""
    out = folder.parent / "out"
    out.mkdir()
    complete_texts(resolve(str(folder), folder.parent), out)
    return out


def test_a_checkpoint_s_tokenizer_is_the_base_s_byte_for_byte(folder: Path) -> None:
    assert (carried(folder) / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_a_checkpoint_s_tokenizer_neither_cuts_nor_fills_a_prompt(folder: Path) -> None:
    file = str(folder / "tokenizer.json")
    saved = Tokenizer.from_file(file)
    saved.enable_truncation(4)
    saved.enable_padding(length=8)
    saved.save(file)
    assert saved.encode("w2 w3 w4 w5 w6").ids == [2, 3, 4, 5, 0, 0, 0, 0]
    assert Tokenizer.from_file(str(carried(folder) / "tokenizer.json")).encode("w2 w3 w4 w5 w6").ids == [2, 3, 4, 5, 6]


def with_templates(folder: Path, *names: str) -> Path:
    """The base with named chat templates in its tokenizer's settings and no file of its own."""
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = [{"name": name, "template": f"the {name} one"} for name in names]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_of_several_chat_templates_a_checkpoint_carries_the_default_one(folder: Path) -> None:
    assert (
        carried(with_templates(folder, "tool_use", "default")) / "chat_template.jinja"
    ).read_text() == "the default one"


def test_a_base_whose_chat_templates_have_no_default_is_refused(folder: Path) -> None:
    with pytest.raises(BaseError, match="has no chat template"):
        resolve(str(with_templates(folder, "tool_use")), folder.parent)
