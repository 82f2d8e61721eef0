from pathlib import Path

import pytest

from flows.work import JobError, key_of, once, run_apart


def writing(calls: list[Path]):
    def fill(folder: Path) -> None:
        calls.append(folder)
        (folder / "a.txt").write_text("made")

    return fill


def test_what_is_made_once_is_found_the_second_time(tmp_path: Path) -> None:
    calls: list[Path] = []
    for _ in range(2):
        assert (once(tmp_path / "key", writing(calls)) / "a.txt").read_text() == "made"
    assert len(calls) == 1


def test_a_step_that_fails_leaves_no_folder_under_the_final_name(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "a.txt").write_text("half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        once(tmp_path / "key", fail)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    assert (once(tmp_path / "key", writing([])) / "a.txt").read_text() == "made"


@pytest.mark.parametrize("damage", ["changed", "removed", "added"])
def test_what_was_damaged_since_is_made_again(tmp_path: Path, damage: str) -> None:
    calls: list[Path] = []
    folder = once(tmp_path / "key", writing(calls))
    if damage == "changed":
        (folder / "a.txt").write_text("mad3")
    elif damage == "removed":
        (folder / "a.txt").unlink()
    else:
        (folder / "b.txt").write_text("more")
    assert (once(folder, writing(calls)) / "a.txt").read_text() == "made"
    assert len(calls) == 2
    assert not (folder / "b.txt").exists()


def test_a_job_that_fails_says_why_in_its_own_last_words() -> None:
    arguments = ["package", "x86_avx51", "--checkpoint", "x", "--shape", "d1w100", "--quantization", "int8"]
    with pytest.raises(JobError, match="packaging failed: no target is called 'x86_avx51'; did you mean x86_avx512"):
        run_apart([*arguments, "--context", "8", "--out", "y"], "packaging")


def test_a_key_depends_on_every_fact_and_not_on_their_order() -> None:
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert key_of({"a": 1, "b": 2}) != key_of({"a": 1, "b": 3})
