"""Environments of committed, hashed requirements: made once, whole or not there, and with nothing else in them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_targets import _environments
from edge_targets._environments import interpreter
from edge_targets._target import PackageError

PROJECT = Path(__file__).parents[2]
WHEEL = "amoeba_tiny-1.0-py3-none-any.whl"
FOLDERS = (_environments.REQUIREMENTS, PROJECT / "benchmarks" / "requirements")


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one pure-Python wheel, the only place that pip looks in."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    facts = "amoeba_tiny-1.0.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.writestr("amoeba_tiny.py", "ANSWER = 42\n")
        wheel.writestr(f"{facts}/METADATA", "Metadata-Version: 2.1\nName: amoeba-tiny\nVersion: 1.0\n")
        wheel.writestr(f"{facts}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{facts}/RECORD", f"amoeba_tiny.py,,\n{facts}/METADATA,,\n{facts}/WHEEL,,\n{facts}/RECORD,,\n")
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(folder), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return folder


@pytest.fixture
def described(wheels: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write `tiny.txt` with the wheel's hash, or another one, into a folder of requirements."""

    def write(digest: str = "", *lines: str) -> Path:
        folder = tmp_path / "requirements"
        folder.mkdir(exist_ok=True)
        wanted = digest or hashlib.sha256((wheels / WHEEL).read_bytes()).hexdigest()
        (folder / "tiny.txt").write_text("\n".join([*lines, f"amoeba-tiny==1.0 --hash=sha256:{wanted}", ""]))
        return folder

    return write


def said_by(python: Path, code: str) -> str:
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()


def test_an_environment_holds_what_its_file_names_and_nothing_of_ours(
    described: Callable[..., Path], tmp_path: Path
) -> None:
    python = interpreter("tiny", tmp_path / "cache", described())
    assert said_by(python, "import amoeba_tiny; print(amoeba_tiny.ANSWER)") == "42"
    assert "No module named 'numpy'" in said_by(python, "import numpy")


def test_an_environment_is_made_once_until_its_file_changes(described: Callable[..., Path], tmp_path: Path) -> None:
    first = interpreter("tiny", tmp_path / "cache", described())
    made = (first.parents[1] / "whole").stat().st_mtime_ns
    assert interpreter("tiny", tmp_path / "cache", described()) == first
    assert (first.parents[1] / "whole").stat().st_mtime_ns == made
    assert interpreter("tiny", tmp_path / "cache", described("", "# another file")) != first


def test_bytes_of_another_hash_are_refused_and_leave_no_environment(
    described: Callable[..., Path], tmp_path: Path
) -> None:
    folder = described("0" * 64)
    for _ in range(2):  # a failure is no environment the second time either
        with pytest.raises(PackageError, match=r"the environment tiny cannot be made: .*HASHES.*--require-hashes"):
            interpreter("tiny", tmp_path / "cache", folder)


def test_a_line_without_a_hash_is_refused(described: Callable[..., Path], tmp_path: Path) -> None:
    folder = described()
    (folder / "tiny.txt").write_text("amoeba-tiny==1.0\n")
    with pytest.raises(PackageError, match="Hashes are required"):
        interpreter("tiny", tmp_path / "cache", folder)


def test_what_is_not_to_be_had_is_told_with_pip_s_reason_and_the_line_to_run(
    described: Callable[..., Path], wheels: Path, tmp_path: Path
) -> None:
    folder = described()
    (wheels / WHEEL).unlink()
    with pytest.raises(PackageError) as failure:
        interpreter("tiny", tmp_path / "cache", folder)
    assert "No matching distribution found for amoeba-tiny==1.0" in str(failure.value)
    assert f"install --require-hashes --no-deps --no-build-isolation --requirement {folder}" in str(failure.value)


def making(folder: Path, cache: Path) -> subprocess.Popen[str]:
    """Another process that asks for the environment, and logs when it makes it."""
    code = (
        "import logging, pathlib, sys; logging.basicConfig(level='INFO', format='%(message)s'); "
        "from edge_targets._environments import interpreter; "
        "print(interpreter('tiny', pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])))"
    )
    command = [sys.executable, "-c", code, str(cache), str(folder)]
    piped = subprocess.PIPE
    return subprocess.Popen(command, cwd=PROJECT, stdout=piped, stderr=piped, text=True, start_new_session=True)


def test_one_that_was_killed_half_way_is_made_again(described: Callable[..., Path], tmp_path: Path) -> None:
    folder, cache = described(), tmp_path / "cache"
    process = making(folder, cache)
    until = time.monotonic() + 60
    while not list(cache.glob("tiny-*/pyvenv.cfg")) and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (half,) = cache.glob("tiny-*")
    assert not (half / "whole").exists()
    python = interpreter("tiny", cache, folder)
    assert python.parents[1] == half
    assert said_by(python, "import amoeba_tiny; print(amoeba_tiny.ANSWER)") == "42"


def test_two_processes_that_want_it_at_once_make_one(described: Callable[..., Path], tmp_path: Path) -> None:
    folder, cache = described(), tmp_path / "cache"
    processes = [making(folder, cache) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in processes]
    assert said[0][0] == said[1][0] != ""
    assert sum(error.count("making it") for _, error in said) == 1


def test_one_whose_python_is_gone_is_made_again(described: Callable[..., Path], tmp_path: Path) -> None:
    folder = described()
    python = interpreter("tiny", tmp_path / "cache", folder)
    python.unlink()
    python.symlink_to(tmp_path / "python-that-was-here-before")
    assert said_by(interpreter("tiny", tmp_path / "cache", folder), "print(1)") == "1"


def test_what_is_lent_comes_with_what_it_requires_and_no_more(described: Callable[..., Path], tmp_path: Path) -> None:
    version = importlib.metadata.version("jinja2")
    python = interpreter("tiny", tmp_path / "cache", described("", f"# lent: jinja2=={version}"))
    assert said_by(python, "import jinja2, markupsafe; print(jinja2.__version__)") == version
    assert "No module named 'numpy'" in said_by(python, "import numpy")


def test_lending_a_version_that_is_not_here_is_refused(described: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"borrows jinja2 0\.1 and this one has \d"):
        interpreter("tiny", tmp_path / "cache", described("", "# lent: jinja2==0.1"))


def test_a_name_without_a_file_gets_the_nearest_one(described: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="no environment is called 'tinny'; did you mean tiny"):
        interpreter("tinny", tmp_path / "cache", described())


@pytest.mark.parametrize(
    "file", sorted(path for folder in FOLDERS for path in folder.glob("*.txt")), ids=lambda f: f.stem
)
def test_every_committed_file_pins_hashes_and_names_no_index_and_no_machine(file: Path) -> None:
    text = file.read_text()
    entries = [entry for entry in re.split(r"(?<!\\)\n", text) if entry.strip() and not entry.lstrip().startswith("#")]
    assert entries
    for entry in entries:
        assert re.match(r"^[A-Za-z0-9][\w.-]*==\S+ ", entry), entry
        assert "--hash=sha256:" in entry, entry
    assert not re.search(r"https?://|file:|index-url|find-links|/\w+/\w+/", text)
