"""The embedded registry's database: an SQLite file with MLflow's tables, there whole or not at all."""

from __future__ import annotations

import tempfile
from pathlib import Path

from filelock import FileLock


def ensure_database(path: Path) -> None:
    """Make the tables beside and rename: MLflow cannot go on from a schema that a full disk or a kill cut short."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            return
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.partial-", dir=path.parent) as beside:
            half = Path(beside) / path.name
            _make_tables(half)
            half.rename(path)


def _make_tables(database: Path) -> None:
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    engine = create_sqlalchemy_engine(f"sqlite:///{database}")  # type: ignore[no-untyped-call]
    try:
        _initialize_tables(engine)  # type: ignore[no-untyped-call]
    finally:
        engine.dispose()
