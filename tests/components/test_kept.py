import threading
from pathlib import Path

import pytest

from components.files import replace_text
from components.kept import forget, keep, kept, once, sweep


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


def test_what_is_made_at_once_is_made_once(tmp_path: Path) -> None:
    calls: list[Path] = []
    makers = [threading.Thread(target=once, args=(tmp_path / "key", writing(calls))) for _ in range(8)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
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


def test_what_a_kill_left_half_made_goes_with_the_next_maker_or_a_sweep(tmp_path: Path) -> None:
    for how in (lambda: once(tmp_path / "key", writing([])), lambda: sweep(tmp_path)):
        half = tmp_path / ".key.partial-of-a-killed-maker"
        half.mkdir()
        (half / "a.txt").write_text("half")
        how()
        assert not half.exists()
    assert (tmp_path / "key" / "a.txt").read_text() == "made"


def test_a_sweep_leaves_alone_what_somebody_is_making(tmp_path: Path) -> None:
    swept: list[bool] = []

    def fill(folder: Path) -> None:
        other = threading.Thread(target=sweep, args=(tmp_path,))
        other.start()
        other.join()
        swept.append(folder.is_dir())

    once(tmp_path / "key", fill)
    assert swept == [True]


def test_what_is_forgotten_is_made_anew(tmp_path: Path) -> None:
    calls: list[Path] = []
    forget(once(tmp_path / "key", writing(calls)))
    assert not (tmp_path / "key").exists()
    once(tmp_path / "key", writing(calls))
    assert len(calls) == 2


@pytest.mark.parametrize("value", [{"a": [1.5, None]}, {1: "a number as a key", 10: "", 2: ""}, [], 0.1])
def test_a_value_comes_back_as_json_has_it_unless_a_bit_of_it_changed(tmp_path: Path, value: object) -> None:
    path = tmp_path / "value.json"
    assert kept(path) is None
    keep(path, value)
    before = kept(path)
    assert before == ({str(key): one for key, one in value.items()} if isinstance(value, dict) else value)
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert kept(path) in (None, before)
        path.write_bytes(content[:place])
        assert kept(path) in (None, before)


def test_writers_at_once_leave_what_one_of_them_wrote_and_nothing_beside(tmp_path: Path) -> None:
    texts = [str(number) * 100_000 for number in range(8)]
    writers = [threading.Thread(target=replace_text, args=(tmp_path / "a.txt", text)) for text in texts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert (tmp_path / "a.txt").read_text() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_what_a_killed_writer_left_beside_does_not_get_into_the_next_ones_file(tmp_path: Path) -> None:
    (tmp_path / ".a.txt.partial").write_text("half of something longer")
    replace_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
