"""Text in, token ids out: a package's own tokenizer and chat template, without torch or transformers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .facts import PackageError

if TYPE_CHECKING:
    from jinja2 import Environment


class Text:
    """The tokenizer of a package or checkpoint folder."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises bare Exception
            raise PackageError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from error
        # A tokenizer saved after padded training keeps both; a prompt is neither cut nor filled.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._settings: Mapping[str, Any] = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        self._template = (folder / "chat_template.jinja").read_text("utf-8")

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; special tokens written out in it are recognized, none is added.

        What a terminal gave and is not UTF-8 is read as question marks.
        """
        whole = text.encode("utf-8", "replace").decode()
        ids: list[int] = self._tokenizer.encode(whole, add_special_tokens=False).ids
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """Decode as tokens come, holding back the bytes of a character that is not whole yet."""
        seen: list[int] = []
        written = ""
        for token in tokens:
            seen.append(token)
            text = self.decode(seen)
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):
                yield text[len(written) :]
                written = text
        rest = self.decode(seen)[len(written) :]
        if rest:
            yield rest

    def chat(self, messages: Sequence[Mapping[str, str]], today: date | None = None) -> list[int]:
        """Token ids of a conversation up to where the assistant's next answer starts, without a thought before it.

        `today` is the day that a template may name.
        """
        special = {
            name: value["content"] if isinstance(value, dict) else value
            for name, value in self._settings.items()
            if name in ("bos_token", "eos_token", "pad_token", "unk_token") and value is not None
        }
        known = {"messages": list(messages), "tools": None, "documents": None, "add_generation_prompt": True, **special}
        known.update(enable_thinking=False, strftime_now=(today or date.today()).strftime)
        environment = _environment()
        try:
            text = environment.from_string(self._template).render(known)
        except Exception as error:  # what a template computes may raise any kind
            raise PackageError(f"the chat template refused the conversation: {error}") from error
        return self.encode(text)


def _environment() -> Environment:
    """What transformers renders chat templates in: sandboxed, with `break`, `continue` and `generation`."""
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what is learned from in training; here its content is text as any other."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def refuse(message: str) -> NoReturn:
        raise TemplateError(message)

    def tojson(value: object, **options: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False, **options})

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = tojson
    return environment
