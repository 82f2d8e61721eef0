"""What a stopped benchmark goes on from."""

import json
from pathlib import Path

import pytest

from benchmarks import _record

SETTING = {"jobs": 4}


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_record, "RESULTS", tmp_path)
    monkeypatch.setattr(_record, "_commit", lambda: "ab12cd3")
    _record.keep("fanout", {**SETTING, "runs": [1]})
    return tmp_path / "fanout.json"


def test_it_goes_on_from_what_was_kept_with_the_same_setting() -> None:
    assert _record.unfinished("fanout", SETTING)["runs"] == [1]


@pytest.mark.parametrize(
    "other",
    [{"commit": "0000000"}, {"hardware": {"processor": "another", "cores": 64, "accelerator": "none"}}, {"jobs": 12}],
)
def test_nothing_is_taken_from_another_commit_machine_or_setting(kept: Path, other: dict[str, object]) -> None:
    kept.write_text(json.dumps(json.loads(kept.read_text()) | other))
    assert _record.unfinished("fanout", SETTING) == {}


def test_nothing_is_taken_where_code_differs_from_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_record, "_commit", lambda: "ab12cd3-dirty")
    _record.keep("fanout", {**SETTING, "runs": [1]})
    assert _record.unfinished("fanout", SETTING) == {}


def test_nothing_is_taken_where_nothing_was_kept() -> None:
    assert _record.unfinished("kills", {}) == {}
