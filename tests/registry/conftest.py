"""Small artifacts and one SQLite registry: MLflow's first migration takes seconds, so all tests share one."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

import pytest

from registry.manifest import Manifest
from registry.store import Store

FILES = {"config.json": b'{"layers": 4}', "model.onnx": bytes(range(256)) * 64, "texts/LICENSE": b"A licence.\n"}

MakeArtifact = Callable[..., tuple[Path, Manifest]]

_numbers = itertools.count()


@pytest.fixture
def make_artifact(tmp_path: Path) -> MakeArtifact:
    """A folder of three files and its manifest; `files` adds to them or takes their place."""

    def make(files: dict[str, bytes] | None = None) -> tuple[Path, Manifest]:
        folder = tmp_path / f"artifact-{next(_numbers)}"
        for name, content in {**FILES, **(files or {})}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        facts, lineage = {"shape": "d4w75", "quality": {"perplexity": 12.5}}, {"selection": "ab" * 32}
        return folder, Manifest.of(folder, kind="package", model="tiny", target="x86", facts=facts, lineage=lineage)

    return make


@pytest.fixture(scope="session")
def registry_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shared database and its artifacts are, migrated."""
    folder = tmp_path_factory.mktemp("registry")
    _store(folder).experiment_id()
    return folder


@pytest.fixture
def store(registry_folder: Path) -> Store:
    return _store(registry_folder)


@pytest.fixture
def name() -> str:
    """A registered model that no other test uses."""
    return f"tiny{next(_numbers)}--x86"


def _store(folder: Path) -> Store:
    return Store(f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"))


class ArtifactServer(ThreadingHTTPServer):
    """The part of an MLflow server that lists and sends artifacts; `trick` names how it misbehaves with model.onnx."""

    daemon_threads = True
    folder: Path
    trick = ""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def source(self) -> str:
        return f"{self.address}/api/2.0/mlflow-artifacts/artifacts/here"


class _Answer(BaseHTTPRequestHandler):
    server: ArtifactServer

    def do_GET(self) -> None:
        asked = urlparse(self.path)
        if self.server.trick == "silent":
            threading.Event().wait(20)
        elif self.server.trick == "503":
            self._send(b"", status=503)
        elif asked.query:
            self._list(parse_qs(asked.query)["path"][0].removeprefix("here").lstrip("/"))
        else:
            self._file(unquote(asked.path).partition("/here/")[2])

    def _list(self, parent: str) -> None:
        folder = self.server.folder / parent
        paths = folder.iterdir() if folder.is_dir() else ()
        files = [{"path": path.name, "is_dir": path.is_dir(), "file_size": path.stat().st_size} for path in paths]
        if self.server.trick == "lists a path outside":
            files.append({"path": "../model.onnx", "is_dir": False, "file_size": 1})
        self._send(json.dumps({"files": files}).encode())

    def _file(self, path: str) -> None:
        content = (self.server.folder / path).read_bytes()
        trick = self.server.trick if path == "model.onnx" else ""
        if trick == "cuts the connection":
            self._send(content[:5000], length=len(content))
        elif trick == "sends less":
            self._send(content[:5000])
        elif trick == "sends more":
            self._send(content + b"more")
        elif trick == "sends other bytes":
            self._send(content[::-1])
        elif trick == "lists but does not send":
            self._send(b"", status=404)
        else:
            self._send(content)

    def _send(self, content: bytes, status: int = 200, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """A test's output is its own."""


@pytest.fixture
def server() -> Iterator[ArtifactServer]:
    with ArtifactServer(("127.0.0.1", 0), _Answer) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.shutdown()
