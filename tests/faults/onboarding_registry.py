"""What the registry of a workspace holds, every version of it pulled and verified: JSON on standard output.

In a process of its own, since MLflow keeps a database open that a reset workspace no longer has.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from registry.store import Store


def main(home: Path) -> None:
    store = Store(f"sqlite:///{home / 'mlflow.db'}", str(home / "mlflow-artifacts"))
    found = {"runs": sorted(f"{run.info.run_name}: {run.info.status}" for run in store.runs())}
    for name in store.models():
        versions = store.versions(name)
        found[f"versions of {name}"] = [f"{version.version} {' '.join(version.aliases)}" for version in versions]
        for version in versions:
            with tempfile.TemporaryDirectory() as to:
                store.pull(name, Path(to, "pulled"), version.version)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
