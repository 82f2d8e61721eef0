"""What pulls cost those who serve them: processor seconds of each service of deploy/compose.yaml, and requests.

    python -m benchmarks.serving

PostgreSQL, the S3-compatible store, MLflow with passwords and the proxy with TLS run on this machine as that file describes
them. A small and a large artifact are pulled by a device's user through the proxy, without its cache, and once more into a
folder that has it. Two sizes give what a pull costs and what a byte does. Processor time, unlike the time that passes, is
little disturbed by what else the machine does.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import _record
from benchmarks.pull import MB, publish
from registry.naming import package_model
from registry.store import Store

SIZES_MB = {"small": (0.5, 0.01, 0.01), "large": (100.0, 0.01, 0.01)}
SERVICES = {"caddy": "proxy", "mlflow": "MLflow", "weed": "S3-compatible store", "postgres": "PostgreSQL"}


def processor_seconds() -> dict[str, float]:
    """Of every service, user and system, since this process started it."""
    import psutil

    spent: dict[str, float] = {}
    for started in psutil.Process().children():
        words = [Path(word).name for word in started.cmdline()[:3]]
        spent |= {service: _spent(started) for program, service in SERVICES.items() if program in words}
    return spent


def _spent(process: Any) -> float:
    """Seconds of it and of all that it started, those that ended included."""
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(one.user + one.system + one.children_user + one.children_system for one in times))


def requests_so_far(log: Path) -> int:
    """What the proxy wrote down; one line a request."""
    return sum('"http.log.access' in line for line in log.read_text().splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pulls", type=int, default=10)
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    with tempfile.TemporaryDirectory() as folder, _service(Path(folder)) as log:
        store = Store(os.environ["AMOEBA_MLFLOW_URI"])
        costs = {}
        for name, sizes_mb in SIZES_MB.items():
            model, to = package_model(name, "x86"), Path(folder) / "to"
            megabytes = publish(store, Path(folder) / name, name, sizes_mb).size / MB
            anew = partial(_pull, store, model, to, anew=True)
            anew()
            costs[f"pull, {name}"] = {"MB": megabytes, **_cost(anew, given.pulls, log)}
            costs[f"nothing new, {name}"] = {"MB": 0.0, **_cost(partial(_pull, store, model, to), given.pulls, log)}
    rows = [
        [what, cost["MB"], cost["requests"], *(1000 * cost["processor_s"][service] for service in SERVICES.values())]
        for what, cost in costs.items()
    ]
    _record.table(["what", "MB", "requests", *(f"{service}, ms" for service in SERVICES.values())], rows)
    _record.keep("serving", {"pulls": given.pulls, "costs": costs})


def _pull(store: Store, model: str, to: Path, anew: bool = False) -> None:
    if anew:
        shutil.rmtree(to, ignore_errors=True)
    store.pull(model, to)


def _cost(action: Callable[[], object], times: int, log: Path) -> dict[str, Any]:
    """Processor seconds of each service and requests, of one."""
    before, asked = processor_seconds(), requests_so_far(log)
    for _ in range(times):
        action()
    after = processor_seconds()
    return {
        "requests": (requests_so_far(log) - asked) / times,
        "processor_s": {service: (after[service] - before[service]) / times for service in after},
    }


@contextlib.contextmanager
def _service(folder: Path) -> Iterator[Path]:
    """The four services; the environment is that of `builder`, who publishes; the proxy's log is yielded."""
    from fixtures import deployment as running

    made = running.Deployment(folder / "deployment")
    with running.databases(made), running.store(made), running.mlflow(made), running.proxy(made) as authority:
        os.environ |= {
            "AMOEBA_MLFLOW_URI": f"https://localhost:{made.ports['https']}",
            "MLFLOW_TRACKING_USERNAME": "builder",
            "MLFLOW_TRACKING_PASSWORD": made.given["MLFLOW_BUILDER_PASSWORD"],
            "REQUESTS_CA_BUNDLE": str(authority),
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        yield made.folder / "proxy.log"


if __name__ == "__main__":
    main()
