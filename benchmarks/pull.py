"""Pulling against MLflow's own download: the same artifact, from the same server, turn by turn.

python -m benchmarks.pull

An `mlflow server` is started on this machine with artifacts of random bytes: one like a package, a large file and small ones,
and one of as many bytes in eight files. Ours resolves, hashes every byte, syncs to the disk and renames into place; MLflow's
download does none of these but the first.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import _record
from registry.manifest import Manifest
from registry.naming import package_model
from registry.shelf import Shelf
from registry.store import Store

MB = 1_000_000
LAYOUTS = {"one large file": (100, 3.5, 0.01, 0.01), "eight files": (13,) * 8}
MLFLOW, OURS, KEPT = "mlflow.artifacts.download_artifacts", "pull --no-cache", "pull, kept in the cache too"
_STARTING_SECONDS = 120


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """The address of an `mlflow server` of one worker that sends artifacts itself, as a team would run it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(f"{address}/health", process, folder / "log")
            yield address
        finally:
            process.terminate()


def publish(store: Store, folder: Path, model: str, sizes_mb: tuple[float, ...]) -> Manifest:
    """An artifact of random bytes, released."""
    folder.mkdir()
    for index, size_mb in enumerate(sizes_mb):
        (folder / f"part{index}.onnx").write_bytes(os.urandom(int(size_mb * MB)))
    made = Manifest.of(folder, kind="package", model=model, target="x86", facts={}, lineage={})
    store.publish(folder, made, registered_model=package_model(model, "x86"))
    return made


def measure(ways: Mapping[str, Callable[[Path], object]], work: Path, runs: int) -> dict[str, list[float]]:
    """Seconds of every way, in turn; the first turn warms up."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(runs + 1):
        for way, fetch in ways.items():
            to = work / "to"
            started = time.perf_counter()
            fetch(to)
            seconds[way].append(time.perf_counter() - started)
            for folder in (to, work / "shelf"):
                shutil.rmtree(folder, ignore_errors=True)
            os.sync()
    return {way: samples[1:] for way, samples in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    busy = os.getloadavg()[0]
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false")
    figures = {}
    with tempfile.TemporaryDirectory() as folder, mlflow_server(Path(folder)) as address:
        for number, (layout, sizes_mb) in enumerate(LAYOUTS.items()):
            figures[layout] = _compared(Path(folder), address, f"random{number}", sizes_mb, given.runs)
    rows = [
        [layout, way, found["MB"] / statistics.median(samples), _ratio(found["seconds"], way)]
        for layout, found in figures.items()
        for way, samples in found["seconds"].items()
    ]
    _record.table(["artifact", "way", "MB/s", "times mlflow's"], rows)
    for layout, found in figures.items():
        share = found["hashing_seconds"] / statistics.median(found["seconds"][OURS])
        print(f"{layout}: SHA-256 of all bytes alone takes {share:.0%} of our time")
    _record.keep("pull", {"load_before": busy, "figures": figures})


def _compared(work: Path, address: str, model: str, sizes_mb: tuple[float, ...], runs: int) -> dict[str, Any]:
    import mlflow.artifacts

    store, name = Store(address), package_model(model, "x86")
    manifest = publish(store, work / model, model, sizes_mb)

    mlflow.set_tracking_uri(address)
    mlflow.set_registry_uri(address)

    def plain(to: Path) -> None:
        mlflow.artifacts.download_artifacts(f"models:/{name}@production", dst_path=str(to))

    ways: dict[str, Callable[[Path], object]] = {
        MLFLOW: plain,
        OURS: lambda to: store.pull(name, to),
        KEPT: lambda to: store.pull(name, to, shelf=Shelf(work / "shelf", 10**10)),
    }
    seconds = measure(ways, work, runs)
    started = time.perf_counter()
    for entry in manifest.files:
        with (work / model / entry.path).open("rb") as file:
            hashlib.file_digest(file, "sha256")
    return {"MB": manifest.size / MB, "seconds": seconds, "hashing_seconds": time.perf_counter() - started}


def _ratio(seconds: dict[str, list[float]], way: str) -> float:
    return statistics.median(seconds[MLFLOW]) / statistics.median(seconds[way])


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _STARTING_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the MLflow server did not answer: {log.read_text()[-2000:]}")


if __name__ == "__main__":
    main()
