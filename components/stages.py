"""The three stages of `dvc.yaml` as commands: files in, files out, numbers from `params.yaml`.

    python -m components.stages data smollm2-135m --profile quick

Run from the workspace (the folder of `dvc.yaml`). A killed stage goes on where it was: what it knows is kept under
`.amoeba/cache/unfinished`, and what it came to under `finished` until DVC has it, both named by the digest of all that
`dvc.yaml` says the stage depends on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from components import lifeline
from components.base import Base, BaseError, Entry, resolve
from components.ends import end_tokens
from components.files import disk_ran_full
from components.kept import forget, once
from components.pinned import UnavailableError
from components.progress import progress, progress_of, say
from components.quiet import quiet_libraries
from components.shape import AnyShape, Shape, ShapeSpace, depths_of
from components.strict import SlipError, checked, part, read

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from components.supernet import Supernet

CACHE = Path(".amoeba/cache")
FINISHED, UNFINISHED = CACHE / "finished", CACHE / "unfinished"
OWN_CORPUS = Path("corpus")
CURVE_FILE = "curve.json"
_TODAY = "01 Jan 2026"
"""For chat templates that name the day and let it be given (Llama 3), so that the same base gives the same text on any."""


@dataclass(frozen=True)
class Stage:
    """A base, its numbers, the folders of its three outcomes, and that of what is known before there is one."""

    base: Base
    profile: str
    numbers: Mapping[str, Any]
    data: Path
    selection: Path
    supernet: Path
    memory: Path

    @classmethod
    def of(cls, name: str, profile: str) -> Stage:
        """Raises SlipError for numbers that any stage would refuse, BaseError for other bytes than `bases.yaml` names."""
        from components.profile import check_profile

        bases = part(read(Path("bases.yaml")), "bases", "bases.yaml")
        entry = checked(Entry, part(bases, name, "bases.yaml: bases"), f"bases.yaml: bases.{name}")
        profiles = part(read(Path("params.yaml")), "profiles", "params.yaml")
        numbers = part(profiles, profile, "params.yaml: profiles")
        check_profile(numbers, f"params.yaml: profiles.{profile}")
        base = resolve(entry.source, CACHE)
        base.check_unchanged(entry.fingerprint)
        numbers = _for_layers(base.config["num_hidden_layers"], numbers)
        root = Path("artifacts") / name
        return cls(base, profile, numbers, root / "data", root / "selection", root / "supernet", UNFINISHED / name)


def _for_layers(layers: int, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """A profile's numbers with the depths of a base of so many layers, and the smallest for the selection."""
    depths = depths_of(layers, numbers["supernet"]["depths_percent"])
    return {
        **numbers,
        "selection": {**numbers["selection"], "min_depth": depths[-1]},
        "supernet": {**numbers["supernet"], "depths": depths},
    }


def data(stage: Stage) -> None:
    """Tokenize the pinned corpus, with chat answered by the base itself."""
    from components import data as datasets
    from components.selfchat import answers

    settings = datasets.DataSettings(**stage.numbers["data"])
    say(f"data: reading the {settings.corpus} corpus")
    own = settings.corpus == "own"
    corpus = (datasets.own_corpus if own else datasets.pinned_corpus)(OWN_CORPUS, settings, CACHE)
    text = _Tokenizer(stage.base.folder)
    chat_WT = datasets.pack([], settings.window_tokens, 0, text.end)
    if settings.chat_windows:
        wanted = settings.chat_windows * settings.window_tokens
        prompts = [text.chat(question) for question in _spread(corpus.prompts, wanted // 40 + 1)]
        model = _on_device(stage)
        written = answers(
            model,
            prompts,
            settings.chat_answer_tokens,
            text.ends,
            settings.seed,
            progress("data: chat"),
            stage.memory / "chat.json",
        )
        chat_WT = datasets.pack(written, settings.window_tokens, settings.chat_windows, text.end, text.begin)
    say("data: tokenizing")
    made, contamination = datasets.tokenize(corpus, settings, text.encode, chat_WT, text.end, text.begin)
    facts = {
        "base_fingerprint": stage.base.fingerprint,
        "corpus": settings.corpus,
        "packages": {
            package.requirement: {"sha256": package.sha256, "licence": package.licence}
            for package in (() if own else (datasets.ENCYCLOPEDIA, datasets.PASSAGES))
        },
        "tokens": {
            "calibration": made.calibration_WT.size,
            "validation": made.validation_WT.size,
            "train": made.train_WT.size,
            "of which chat": chat_WT.size,
            "evaluation": made.evaluation_WT.size,
        },
        "tasks": {
            task: {"questions": sum(one.task == task for one in made.questions), **facts}
            for task, facts in corpus.tasks.items()
        },
        "contamination": contamination.facts,
        **({"selection_questions": len(made.selection_questions)} if made.selection_questions else {}),
    }
    made.save(stage.data, facts)


def selection(stage: Stage) -> None:
    """Choose the layers of every depth and score every neuron."""
    import torch

    from components.data import Data
    from components.selection import SelectionSettings, select

    settings = SelectionSettings(**stage.numbers["selection"])
    made = Data.load(stage.data)
    calibration_BT = torch.from_numpy(made.calibration_WT).long()
    width_text_WT = torch.from_numpy(made.train_WT).long()[: settings.width_windows] if settings.width_windows else None
    model = _on_device(stage)
    memory = stage.memory / "metrics.json"
    chosen = select(
        model, calibration_BT, settings, memory, progress_of("selection"), width_text_WT, made.selection_questions
    )
    chosen.save(stage.selection)


def supernet(stage: Stage) -> None:
    """The one-time fine-tune, with the held-out curve and every shape's quality on validation text."""
    import torch

    from components.data import Data
    from components.finetune import FinetuneSettings, StepReport, finetune
    from components.selection import Selection
    from components.smol import AdapterSettings
    from components.supernet import Supernet
    from components.team import Team

    numbers = stage.numbers["supernet"]
    settings = FinetuneSettings(**numbers["finetune"])
    made = Data.load(stage.data)
    model = stage.base.load(_working_dtype(stage.numbers["precision"]))
    chosen = Selection.load(stage.selection)
    mixed = tuple(dict.fromkeys(choice.shape for choice in chosen.mixed.values()))
    space = ShapeSpace(numbers["depths"], tuple(numbers["widths_percent"]), mixed)
    team = Team.found()
    elastic = Supernet(model, chosen, space, AdapterSettings(**numbers["adapters"]), settings.seed)
    team.place(elastic.model, elastic.trainable().values())
    curve: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    watched = _watched(space)
    advance = progress("supernet: fine-tune")

    def on_step(report: StepReport) -> None:
        curve["train"].append(vars(report))
        advance(report.step, settings.steps)

    def on_evaluate(step: int) -> None:
        if not (team.leads or team.shards):
            return
        qualities = validate(elastic, made.validation_WT[:4], watched)
        if not team.leads:
            return
        curve["validation"] = [point for point in curve["validation"] if point["step"] < step]
        curve["validation"].append({"step": step, "perplexity": qualities})
        say(f"supernet: step {step}, validation perplexity " + ", ".join(f"{s} {p:.1f}" for s, p in qualities.items()))

    checkpoint = stage.memory / "checkpoint.safetensors"
    finetune(elastic, torch.from_numpy(made.train_WT), settings, checkpoint, on_step, on_evaluate, team, curve)
    if not (team.leads or team.shards):
        return
    say("supernet: measuring every shape")
    quality = validate(elastic, made.validation_WT, space.all, progress("supernet: shapes"))
    if not team.leads:
        return
    facts = {
        "base": {key: getattr(stage.base, key) for key in ("name", "source", "revision", "fingerprint", "licence")},
        "profile": stage.profile,
        "precision": str(elastic.model.dtype).removeprefix("torch."),
        "validation_perplexity": quality,
    }
    elastic.save(stage.supernet, facts)
    (stage.supernet / CURVE_FILE).write_text(json.dumps(curve) + "\n")


def validate(
    elastic: Supernet,
    windows_WT: Any,
    shapes: tuple[AnyShape, ...],
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """Perplexity of each shape on `windows_WT`, run in place."""
    from components.evaluate import perplexity
    from components.reference import logits_of

    values = {}
    for index, shape in enumerate(shapes):
        with elastic.active(shape) as model:
            values[str(shape)] = perplexity(logits_of(model), windows_WT.tolist()).value
        advance(index + 1, len(shapes))
    return values


def _watched(space: ShapeSpace) -> tuple[AnyShape, ...]:
    """The full shape, which cannot move; the middle; the smallest; and one between that is never sampled."""
    between = Shape((space.depths[0] + space.depths[-1]) // 2, (100 + space.widths_percent[-1]) // 2)
    middle = space.grid[len(space.grid) // 2]
    return tuple(dict.fromkeys((space.largest, middle, between, space.smallest)))


class _Tokenizer:
    """The base's `tokenizer.json` as it stands, which is what devices read, and the base's chat template.

    A family's class in transformers builds a tokenizer of its own around the file's vocabulary, and for some bases another.
    `begin` is what the file puts before every text (Llama's and Mistral's `<s>`, nothing for Qwen), `end` what ends one.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerFast

        self._ids = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._ids.no_truncation()
        self._ids.no_padding()
        self._template = PreTrainedTokenizerFast.from_pretrained(folder)
        self.ends = end_tokens(folder)
        self.end: int = self.ends[0]
        text = self._ids.encode("a")
        self.begin: list[int] = text.ids[: [*text.special_tokens_mask, 0].index(0)]
        self.chat("Can a device chat with this?")

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._ids.encode(text, add_special_tokens=False).ids
        return ids

    def chat(self, question: str) -> list[int]:
        """Token ids up to where the answer starts; raises BaseError where the base's template takes no plain question."""
        asked = [{"role": "user", "content": question}]
        try:
            text = self._template.apply_chat_template(
                asked, add_generation_prompt=True, tokenize=False, enable_thinking=False, date_string=_TODAY
            )
        except Exception as error:  # what a template computes may raise any kind
            raise BaseError(
                f"the base's chat template refused a question ({error}), and devices chat with it; mend the template"
            ) from error
        return self.encode(str(text))


def _spread(items: tuple[str, ...], count: int) -> list[str]:
    """`count` items taken evenly over all."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _on_device(stage: Stage) -> PreTrainedModel:
    """The base in the precision that is worked in, on the machine's accelerator where it has one."""
    from components.team import ALONE

    model = stage.base.load(_working_dtype(stage.numbers["precision"]))
    ALONE.place(model, ())
    return model


def _working_dtype(precision: str) -> torch.dtype:
    """float32, or bfloat16 where asked for; `auto` takes bfloat16 where the processor multiplies it natively."""
    import torch

    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision is auto, float32 or bfloat16, got {precision!r}")
    native = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if precision == "bfloat16" or (precision == "auto" and native) else torch.float32


def run(name: str, stage: Stage) -> None:
    """One stage, to its folder; what is finished is there until DVC has it, so that a kill in between costs nothing."""
    key = f"{stage.base.name}.{name}.{_key(stage, name)}"
    out: Path = getattr(stage, name)
    stage = replace(stage, memory=UNFINISHED / key)
    shutil.rmtree(out, ignore_errors=True)

    def copy(folder: Path) -> None:
        shutil.copytree(out, folder, dirs_exist_ok=True)

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # a team computes together: none of it may wait for another
        STAGES[name](stage)
        if os.environ.get("RANK", "0") == "0":
            forget(FINISHED / key)
            once(FINISHED / key, copy)
            shutil.rmtree(stage.memory, ignore_errors=True)
        return

    def fill(folder: Path) -> None:
        outcome: dict[str, Any] = {name: folder}
        STAGES[name](replace(stage, **outcome))

    shutil.copytree(once(FINISHED / key, fill), out)
    shutil.rmtree(stage.memory, ignore_errors=True)


def _key(stage: Stage, name: str) -> str:
    """Digest of all that decides a stage's outcome: the base, its numbers, and the files it depends on, code among them."""
    total = hashlib.sha256(
        json.dumps([stage.base.fingerprint, stage.numbers["precision"], stage.numbers[name]], sort_keys=True).encode()
    )
    for dependency in yaml.safe_load(Path("dvc.yaml").read_text())["stages"][name]["do"]["deps"]:
        place = Path(dependency.replace("${key}", stage.base.name))
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file() and path.suffix != ".pyc":
                with path.open("rb") as file:
                    total.update(f"{path} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()[:32]


STAGES: Mapping[str, Callable[[Stage], None]] = {"data": data, "selection": selection, "supernet": supernet}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m components.stages", description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("base", help="a name in bases.yaml")
    parser.add_argument("--profile", required=True, help="a profile of params.yaml")
    given = parser.parse_args(arguments)
    lifeline.hold()
    quiet_libraries()
    try:
        run(given.stage, Stage.of(given.base, given.profile))
    except (BaseError, SlipError, UnavailableError, ValueError, OSError) as error:
        say(f"error: {error}")
        return 2
    except Exception as error:
        if not disk_ran_full(error):
            raise
        say(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
