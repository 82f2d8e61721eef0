"""A package's text becomes the ids that the base was used with in the pipeline, and no others."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest
from fixtures.tiny import make_model, write_base

from components.base import BaseError
from components.stages import _Tokenizer
from edge_targets._device.facts import PackageError
from edge_targets._device.text import Text

SIX_WORDS = "w2 w3 w4 w5 w6 w7"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"), make_model(layers=1))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A base without its weights."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
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


def test_a_prompt_that_is_not_utf_8_is_read_as_question_marks(folder: Path) -> None:
    text = Text(folder)
    given = b"w2 \xff w3".decode("utf-8", "surrogateescape")  # as Python takes it from the command line
    assert text.encode(given) == text.encode("w2 ? w3")


def in_the_manner_of_sentencepiece(folder: Path) -> None:
    """A Llama base of the first kind: its file puts a space before each piece of text, which transformers' class does not."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, processors

    pieces = ("<unk>", "<s>", "</s>", "▁", "\n", *(letter for word in "abc" for letter in (word, f"▁{word}")))
    merges = [("▁", letter) for letter in "abc"]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{{ m['content'] }}\n{{ eos_token }}{% endfor %}\n"
    )


def test_the_pipeline_reads_a_chat_and_a_text_as_a_device_does(folder: Path) -> None:
    in_the_manner_of_sentencepiece(folder)
    base, device = _Tokenizer(folder), Text(folder)
    assert base.chat("a b") == device.chat([{"role": "user", "content": "a b"}])
    assert base.encode("a c</s>b") == device.encode("a c</s>b") == [6, 10, 2, 8]


def test_what_a_tokenizer_puts_before_every_text_is_known_and_it_is_nothing_for_one_that_does_not(folder: Path) -> None:
    assert _Tokenizer(folder).begin == []
    in_the_manner_of_sentencepiece(folder)
    assert _Tokenizer(folder).begin == [1]


@pytest.mark.parametrize(
    "template",
    [
        "{% if tools is not none %}{{ tools | tojson }}{% endif %}{% if documents is not none %}w9{% endif %}w2",
        "{% for m in messages * 2 %}{{ m['content'] }} {% break %}{% endfor %}",
        "{% set a = 'w5' %}{% generation %}{% set a = 'w6' %}{{ messages[0]['content'] }} {% endgeneration %}{{ a }}",
        "{{ {'ü': 1} | tojson(ensure_ascii=True) }} w3",
    ],
)
def test_a_template_that_transformers_renders_gives_a_device_the_same_ids(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    assert Text(folder).chat([{"role": "user", "content": "w4"}]) == _Tokenizer(folder).chat("w4")


def test_what_is_learned_and_measured_is_of_no_day_and_no_prompt_asks_for_a_thought(folder: Path) -> None:
    day = "{{ {'01 Jan 2026': 'w5'}.get(date_string or strftime_now('%d %b %Y'), 'w6') }} "
    (folder / "chat_template.jinja").write_text(day + "{% if enable_thinking is false %}w7{% endif %}")
    asked = [{"role": "user", "content": "w4"}]
    assert _Tokenizer(folder).chat("w4") == Text(folder).chat(asked, date(2026, 1, 1)) == [5, 7]
    assert Text(folder).chat(asked, date(2026, 1, 2)) == [6, 7]


@pytest.mark.parametrize("template", ["{{ raise_exception('no user here') }}", "{{ 1 + 'a' }}", "{% if %}"])
def test_a_template_that_takes_no_question_is_refused_before_any_work(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(BaseError, match="the base's chat template refused a question "):
        _Tokenizer(folder)
    with pytest.raises(PackageError, match="the chat template refused the conversation: "):
        Text(folder).chat([{"role": "user", "content": "w4"}])


def test_a_template_stays_in_its_sandbox(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(PackageError, match="unsafe"):
        Text(folder).chat([{"role": "user", "content": "w4"}])
