"""A process that has imported everything once, and forks whatever would be a new Python: an onboarding in seconds.

`python` in the folder it is given is a small program that asks it for a fork with the same arguments, folder, environment and
open files, in the same process group, and ends as that ends. To all that starts processes it is Python.
"""

from __future__ import annotations

import contextlib
import gc
import json
import mmap
import os
import random
import runpy
import select
import signal
import socket
import stat
import struct
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

PROGRAM = """#!{python} -ISs
import json, os, socket, struct, sys
asked = {{"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ), "group": os.getpgrp()}}
content = json.dumps(asked).encode()
to = socket.socket(socket.AF_UNIX)
to.connect({address!r})
socket.send_fds(to, [struct.pack("I", len(content))], [0, 1, 2])
to.sendall(content)
status = to.recv(8)
os._exit(int(status)) if status else os.kill(os.getpid(), 9)
"""
COUNTER, KILL_AT = "FAULTS_COUNTER", "FAULTS_KILL_AT"
"""A file of one number, which every step to disk in the group adds to; and the number at which the whole group is killed."""


def serve(folder: Path) -> None:
    """Until killed."""
    program, address = folder / "python", str(folder / "forks")
    program.write_text(PROGRAM.format(python=sys.executable, address=address))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    sys.executable = str(program)  # before anything remembers it
    _import_everything()
    gc.freeze()
    (folder / "forked").mkdir()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them here
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen(64)
        print("ready", flush=True)  # noqa: T201
        while True:
            caller, _ = door.accept()
            with caller:
                if os.fork() == 0:
                    door.close()
                    _become(caller, folder / "forked")


def _import_everything() -> None:
    import dvc.cli
    import dvc.commands.data_sync
    import dvc.commands.repro
    import dvc.repo.push
    import dvc.repo.reproduce  # noqa: F401
    import mlflow.store.model_registry.sqlalchemy_store
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import components.finetune
    import components.mixed
    import components.selection
    import components.selfchat
    import components.stages
    import components.subnet
    import components.supernet  # noqa: F401
    import edge_targets.__main__
    import edge_targets._measure  # noqa: F401
    import flows.cli
    import flows.onboard
    import flows.tables  # noqa: F401


def _become(caller: socket.socket, notes: Path) -> None:
    """The process that was asked for; which it is, is noted."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, files, _, _ = socket.recv_fds(caller, 4, 3)
    asked = json.loads(_receive(caller, struct.unpack("I", size)[0]))
    os.setpgid(0, asked["group"])
    if select.select([caller], [], [], 0)[0]:  # whoever asked was killed, and the group with it, before this was of it
        os._exit(1)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    random.seed()
    arguments = [one for one in asked["arguments"] if one != "-P"]
    (notes / f"{asked['group']}.{os.getpid()}").write_text(arguments[1])
    if COUNTER in os.environ:
        _count_steps(Path(os.environ[COUNTER]), int(os.environ[KILL_AT]))
    status = _run(arguments)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
        caller.sendall(str(status).encode())
    os._exit(status)


def _receive(caller: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        content += caller.recv(size - len(content))
    return content


def _run(arguments: list[str]) -> int:
    assert arguments[0] == "-m", arguments
    from flows.settings import settings

    settings.cache_clear()
    sys.argv = arguments[1:]
    try:
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # it is imported already
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _count_steps(counter: Path, kill_at: int) -> None:
    """SIGKILL to the group before its step of that number: a file opened to be written, renamed, removed, a database opened."""
    with counter.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), 8)

    def step(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            flags = arguments[2]
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "sqlite3.connect"):
            return
        (count,) = struct.unpack("q", shared[:])
        shared[:] = struct.pack("q", count + 1)
        if count + 1 == kill_at:
            os.killpg(0, signal.SIGKILL)

    sys.addaudithook(step)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
