"""A package's text becomes the ids that the base was used with in the pipeline, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.tiny import make_model, write_base

from edge_targets._device.text import Text

SIX_WORDS = "w2 w3 w4 w5 w6 w7"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"), make_model(layers=1))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A base's texts, without its weights."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    return tmp_path


def saved_after_padded_training(folder: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(folder / "tokenizer.json"))


def test_a_tokenizer_saved_after_padded_training_neither_cuts_nor_fills_a_prompt(folder: Path) -> None:
    saved_after_padded_training(folder)
    assert Text(folder).encode(SIX_WORDS) == [2, 3, 4, 5, 6, 7]
