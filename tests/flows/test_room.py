"""Room is made of what nobody used for longest, and a later run makes it again."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from components.kept import once
from flows import room
from flows.room import Piece
from flows.settings import Settings


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(room, "settings", lambda: Settings(workspace=tmp_path, workspace_megabytes=2))
    return tmp_path / ".amoeba" / "cache"


def made(folder: Path, megabytes: int, days_ago: float) -> Path:
    def fill(half: Path) -> None:
        (half / "weights").write_bytes(b"1" * megabytes * 1_000_000)

    once(folder, fill)
    asked_at = time.time() - days_ago * 86400
    os.utime(folder.with_name(f"{folder.name}.sha256"), (asked_at, asked_at))
    return folder


def days(*unused: float) -> list[Piece]:
    return [Piece(Path(str(day)), 1_000_000, day * 24) for day in unused]


def test_what_was_used_longest_ago_goes_first(cache: Path) -> None:
    for days_ago in (3, 9, 5):
        made(cache / "built" / str(days_ago), 1, days_ago)
    assert [piece.path.name for piece in room.pieces()] == ["9", "5", "3"]
    assert {piece.size for piece in room.pieces()} == {1_000_000}


def test_asking_for_a_piece_is_using_it(cache: Path) -> None:
    old = made(cache / "packages" / "old", 1, 40)
    once(old, lambda half: pytest.fail("it is there"))
    (piece,) = room.pieces()
    assert piece.unused_hours < 1


def test_what_nobody_used_for_so_long_goes() -> None:
    assert [piece.unused_hours / 24 for piece in room.to_remove(days(2, 8, 31), 7 * 24)] == [31, 8]


def test_a_budget_takes_the_longest_unused_and_no_more_than_it_must() -> None:
    chosen = room.to_remove(days(2, 8, 31, 4), float("inf"), budget_bytes=2_500_000)
    assert [piece.unused_hours / 24 for piece in chosen] == [31, 8]


def test_what_was_used_today_stays_whatever_the_budget() -> None:
    assert room.to_remove(days(0.5, 0.9), 0, budget_bytes=0) == ()


def test_an_onboarding_ends_within_the_budget_and_what_went_can_be_made_again(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [made(cache / "subnets" / str(days_ago), 1, days_ago) for days_ago in (2, 3, 4)]
    room.keep_within_budget()
    assert [folder.is_dir() for folder in folders] == [True, True, False]
    assert "1 pieces of the cache, 1 MB" in capsys.readouterr().err
    assert (made(folders[2], 1, 0) / "weights").stat().st_size == 1_000_000


def test_nothing_of_a_removed_piece_is_left(cache: Path) -> None:
    made(cache / "built" / "key", 1, 2)
    room.remove(room.pieces()[0])
    assert [path.name for path in (cache / "built").iterdir()] == ["key.lock"]


def test_what_is_being_made_is_no_piece_and_measurements_are_none(cache: Path) -> None:
    (cache / "built" / ".key.partial-1").mkdir(parents=True)
    (cache / "measurements").mkdir()
    (cache / "measurements" / "key.json").write_text("{}")
    assert room.pieces() == ()
