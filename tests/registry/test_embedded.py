"""The embedded registry's database is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry import embedded
from registry.store import Store


def test_a_database_whose_making_was_cut_short_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_short(database: Path) -> None:
        database.write_bytes(b"half a schema")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(embedded, "_make_tables", cut_short)
        with pytest.raises(OSError, match="No space"):
            embedded.ensure_database(tmp_path / "mlflow.db")
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []

    embedded.ensure_database(tmp_path / "mlflow.db")
    assert Store(f"sqlite:///{tmp_path / 'mlflow.db'}").models() == ()


def test_a_database_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"whatever")
    embedded.ensure_database(tmp_path / "mlflow.db")
    assert (tmp_path / "mlflow.db").read_bytes() == b"whatever"
