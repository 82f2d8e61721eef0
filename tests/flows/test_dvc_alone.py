"""What a killed DVC left is mended before the next one starts; what a living one uses is left alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zc.lockfile

from flows import dvc_alone

WHOLE = "schema: '2.0'\nstages:\n  data@tiny:\n    cmd: python\n    outs:\n    - path: data\n      md5: 0a.dir\n"
MORE = WHOLE + "  selection@tiny:\n    cmd: python\n    outs:\n    - path: selection\n      md5: 0b.dir\n"


@pytest.fixture
def busy(tmp_path: Path) -> Path:
    """Where DVC notes which process uses which path."""
    path = tmp_path / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def living() -> Iterator[int]:
    """A process that looks like DVC."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)", "dvc"])
    yield process.pid
    process.kill()
    process.wait()


def mend(root: Path) -> None:
    dvc_alone.mend(root, root / ".amoeba")


@pytest.mark.parametrize("cut_to", [0, 25, 40, 60, 80, len(WHOLE) - 1, len(WHOLE) + 20])
def test_a_lock_file_that_was_cut_short_comes_back_as_it_was_last_whole(tmp_path: Path, cut_to: int) -> None:
    lock = tmp_path / "dvc.lock"
    lock.write_text(WHOLE)
    mend(tmp_path)
    lock.write_text(MORE[:cut_to])
    assert set(dvc_alone.stages(tmp_path, tmp_path / ".amoeba")) == {"data@tiny"}
    mend(tmp_path)
    assert lock.read_text() == WHOLE


def test_a_lock_file_that_was_never_whole_goes(tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_text(WHOLE[:40])
    mend(tmp_path)
    assert not (tmp_path / "dvc.lock").exists()


def test_what_was_cut_short_is_kept_aside(tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_text(WHOLE[:40])
    mend(tmp_path)
    assert (tmp_path / ".amoeba" / "dvc.lock.cut").read_text() == WHOLE[:40]


def test_a_stage_of_somebody_elses_may_have_no_outcome(tmp_path: Path) -> None:
    lock = tmp_path / "dvc.lock"
    lock.write_text(WHOLE)
    mend(tmp_path)
    lock.write_text(MORE + "  notify:\n    cmd: mail\n")
    mend(tmp_path)
    assert set(dvc_alone.stages(tmp_path, tmp_path / ".amoeba")) == {"data@tiny", "selection@tiny", "notify"}


def test_a_conflict_of_two_branches_is_its_owners_to_settle(tmp_path: Path) -> None:
    lock = tmp_path / "dvc.lock"
    lock.write_text(WHOLE)
    mend(tmp_path)
    both = f"<<<<<<< HEAD\n{WHOLE}=======\n{MORE}>>>>>>> other\n"
    lock.write_text(both)
    for ask in (mend, lambda root: dvc_alone.stages(root, root / ".amoeba")):
        with pytest.raises(dvc_alone.ConflictError, match="settle it"):
            ask(tmp_path)
    assert lock.read_text() == both


def test_an_older_lock_file_that_is_whole_stays(tmp_path: Path) -> None:
    lock = tmp_path / "dvc.lock"
    for text in (MORE, WHOLE):
        lock.write_text(text)
        mend(tmp_path)
        assert lock.read_text() == text


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"write": {"artifacts/tiny/data": {"pid": ',
        json.dumps({"write": {"a": {"pid": 2**22 + 1, "cmd": "dvc repro"}}, "read": {}}),
        json.dumps({"write": {}, "read": {"a": [{"pid": 1, "cmd": "dvc repro"}]}}),
    ],
    ids=["empty", "cut short", "a process that is gone", "a number that is another process's now"],
)
def test_what_a_killed_dvc_noted_that_it_uses_goes(tmp_path: Path, busy: Path, content: str) -> None:
    busy.write_text(content)
    mend(tmp_path)
    assert not busy.exists()


def test_what_a_living_dvc_uses_stays(tmp_path: Path, busy: Path, living: int) -> None:
    busy.write_text(json.dumps({"write": {}, "read": {"a": [{"pid": living, "cmd": "dvc repro"}]}}))
    mend(tmp_path)
    assert busy.exists()


def test_what_was_half_copied_goes_unless_another_dvc_is_at_work(tmp_path: Path, busy: Path) -> None:
    half, whole = (tmp_path / ".dvc" / "cache" / "files" / "md5" / "0a" / name for name in (".abc.tmp", "1b"))
    half.parent.mkdir(parents=True)
    half.write_text("ha")
    whole.write_text("whole")
    lock = zc.lockfile.LockFile(str(busy.parent / "lock"))
    mend(tmp_path)
    assert half.exists()
    lock.close()
    mend(tmp_path)
    assert [path.name for path in half.parent.iterdir()] == ["1b"]


@pytest.mark.parametrize("store", [".dvc/cache", ".amoeba/dvc-remote"])
def test_what_a_killed_dvc_left_half_made_goes_and_what_is_whole_stays(tmp_path: Path, store: str) -> None:
    whole = ["files/md5/0a/1f", "files/md5/d4/1d8cd98f00b204e9800998ecf8427e", "runs/0c/0cfe/whole"]
    halves = ["files/md5/0a/.x1.tmp", "files/md5/0b/4d.dir", "runs/0d/0dfe/half.x2.tmp", "runs/0c/0cfe/more.x3.tmp"]
    for name in (*whole, *halves):
        path = tmp_path / store / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("bytes" if name in (whole[0], whole[2]) else "")
    (tmp_path / store / "runs" / "0e" / "0efe").mkdir(parents=True)
    mend(tmp_path)
    left = sorted(
        path.relative_to(tmp_path / store).as_posix() for path in (tmp_path / store).rglob("*/*/*") if path.is_file()
    )
    assert left == sorted(whole)
    assert not list((tmp_path / store / "runs").glob("0[de]/*"))


KILLED = """
import os, signal, sys
from sqltrie.sqlite import SQLiteTrie
from flows import dvc_alone

write, left = SQLiteTrie.__setitem__, int(sys.argv[1])

def counted(*given):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    write(*given)

SQLiteTrie.__setitem__ = counted
sys.exit(dvc_alone.main(["push"]))
"""


def test_a_push_that_was_killed_while_it_listed_what_to_send_sends_all_of_it_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("params.yaml", "bases.yaml"):
        (tmp_path / name).write_text("{}\n")
    monkeypatch.setenv("AMOEBA_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    made, remote = tmp_path / "made", tmp_path / "remote"
    made.mkdir()
    for number in range(4):
        (made / f"{number}").write_text(f"{number}")
    for command in (
        ["init", "--no-scm", "-q"],
        ["remote", "add", "-q", "-d", "here", str(remote)],
        ["add", "-q", "made"],
    ):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=tmp_path, check=True)

    def push(killed_at: int) -> int:
        return subprocess.run([sys.executable, "-c", KILLED, str(killed_at)], cwd=tmp_path, check=False).returncode

    cache = tmp_path / ".dvc" / "cache"
    wanted = {path.relative_to(cache) for path in (cache / "files").rglob("*") if path.is_file()}
    assert len(wanted) == 5
    killed_at = 0
    while push(killed_at) != 0:
        assert push(10**6) == 0
        assert {path.relative_to(remote) for path in remote.rglob("*") if path.is_file()} == wanted, killed_at
        shutil.rmtree(remote)
        shutil.rmtree(tmp_path / ".dvc" / "tmp")
        killed_at += 1
    assert killed_at > 5
