"""The registry on an MLflow server instead of the embedded one: the same commands, told where by AMOEBA_MLFLOW_URI."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from fixtures.tiny import make_model, write_base
from fixtures.workspace import amoeba, make_workspace

from registry.manifest import FileEntry
from registry.patience import Patience
from registry.remote import Remote
from registry.transfer import Transfer

TARGET = "x86_avx512"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`mlflow server` that serves artifacts itself, as a team would run it."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination",
        str(folder / "a"),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
        )
        try:
            wait_until_it_answers(f"http://127.0.0.1:{port}", process, folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def wait_until_it_answers(uri: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(1200):
        assert process.poll() is None, log.read_text()
        try:
            if requests.get(f"{uri}/health", timeout=5).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.1)
    pytest.fail(f"the MLflow server did not answer: {log.read_text()}")


def test_the_server_sends_what_is_left_of_a_file_and_ours_goes_on_with_it(server: str, tmp_path: Path) -> None:
    content = bytes(range(256)) * 4000
    address = f"{server}/api/2.0/mlflow-artifacts/artifacts/here"
    assert requests.put(f"{address}/model.onnx", data=content, timeout=60).ok
    part = requests.get(f"{address}/model.onnx", headers={"Range": "bytes=1000-"}, timeout=60)
    assert (part.status_code, part.headers["Content-Range"]) == (206, f"bytes 1000-{len(content) - 1}/{len(content)}")
    assert part.content == content[1000:]
    beyond = requests.get(f"{address}/model.onnx", headers={"Range": f"bytes={len(content)}-"}, timeout=60)
    assert beyond.status_code == 416

    (tmp_path / "model.onnx").write_bytes(content[:5000])
    came: list[int] = []
    entry = FileEntry("model.onnx", len(content), hashlib.sha256(content).hexdigest())
    Transfer(Remote(address, server, Patience()), entry, tmp_path / "model.onnx", Patience(), came.append).run()
    assert (tmp_path / "model.onnx").read_bytes() == content
    assert came[0] == 5000
    assert sum(came) == len(content)


def test_a_base_is_onboarded_and_pulled_through_a_server(server: str, tmp_path: Path) -> None:
    (tmp_path / "tiny-base").mkdir()
    write_base(tmp_path / "tiny-base", make_model())
    workspace = make_workspace(tmp_path / "workspace")
    onboard = ("onboard", "../tiny-base", "--profile", "tiny", "--target", TARGET, "--json")
    done = amoeba(workspace, *onboard, AMOEBA_MLFLOW_URI=server)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["failed"] == {}
    assert not (workspace / ".amoeba" / "mlflow.db").exists()
    again = amoeba(workspace, *onboard, AMOEBA_MLFLOW_URI=server)
    assert json.loads(again.stdout) == json.loads(done.stdout)

    device = tmp_path / "device"  # another machine: no workspace, only the server's address
    device.mkdir()
    told = {"AMOEBA_MLFLOW_URI": server, "AMOEBA_CACHE": str(tmp_path / "cache")}
    pulled = amoeba(device, "pull", "tiny-base", TARGET, "--to", "pulled", "--json", **told)
    assert pulled.returncode == 0, pulled.stdout + pulled.stderr
    files = json.loads(pulled.stdout)["files"]
    assert len(list((tmp_path / "cache" / "files").iterdir())) == files
    assert amoeba(device, "pull", "tiny-base", TARGET, "--to", "second", "--no-cache", **told).returncode == 0
    again = amoeba(device, "pull", "tiny-base", TARGET, "--to", "pulled", "--rollback")
    assert again.returncode == 2
    assert "has nothing to go back to" in again.stderr
    assert amoeba(device, "verify", "pulled").returncode == 0
    said = amoeba(device, "run", "pulled", "--prompt", "w5 w6", "--max-tokens", "5", "--json")
    assert set(json.loads(said.stdout)) == {"prompt", "answer"}
