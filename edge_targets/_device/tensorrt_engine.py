"""TensorRT's engine of a package: built on the device that runs it, kept in a cache, run with its own buffers.

An engine is tied to the GPU, to TensorRT's version and to what JetPack it was built under. So its name in the cache is a
fingerprint of those and of the package's model: another device, an update or another package finds no engine of that name
and builds one, and none is ever opened where it was not built.

    python3 -B -m device.tensorrt_engine plan      what an engine is made of here, and where it will be
    python3 -B -m device.tensorrt_engine build     build it, unless it is there

The cache is `AMOEBA_ENGINES`, or `amoeba-edge/engines` in the user's cache folder.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import mmap
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import facts
from .cuda_memory import Buffer, Cuda, CudaError, Gpu

PLAN_FILE = "engine.json"
TEGRA_RELEASE = Path("/etc/nv_tegra_release")
NOTHING = "none"
"""What a part of the fingerprint is called that this machine does not have."""
_READING, _WRITING = 0, 1
"""Which optimization profile is for a prompt, and which for one token after another."""
_USUAL_PROMPT = 128
_KEPT = 3
"""Engines that stay in the cache: those opened last."""
_DAY_S = 24 * 60 * 60
_CACHED = re.compile(r"[0-9a-f]{64}\.engine(\.[0-9a-f]+)?")
"""What we call an engine, and with a process's number what is not yet whole of one."""

Bounds = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""The least, the usual and the largest shape of an input."""


class EngineError(facts.PackageError):
    """There is no engine here, and the message says why."""


@dataclass(frozen=True)
class Plan:
    """What the package says of its engine: `engine.json`."""

    tensorrt_from: str
    tensorrt_below: str
    prefill_tokens: int
    context_length: int

    @classmethod
    def of(cls, folder: Path) -> Plan:
        path = folder / PLAN_FILE
        try:
            return cls(**json.loads(path.read_text("utf-8")))
        except (OSError, TypeError, ValueError) as error:
            raise facts.PackageError(f"{path} says no plan for an engine ({error}); pull the package again") from error

    def check(self, version: str) -> None:
        """Raise EngineError for a TensorRT that the package was not made for."""
        if not _numbers(self.tensorrt_from) <= _numbers(version) < _numbers(self.tensorrt_below):
            raise EngineError(
                f"TensorRT here is {version}; the package is made for {self.tensorrt_from} and newer, "
                f"below {self.tensorrt_below}"
            )

    def bounds(self, name: str, shape: Sequence[int], profile: int) -> Bounds:
        """Shapes of the input `name` for one of the two profiles; `shape` has -1 where a dimension is free."""
        tokens = (1, min(_USUAL_PROMPT, self.prefill_tokens), self.prefill_tokens) if profile == _READING else (1, 1, 1)
        longest = self.context_length - 1
        past = (0, min(_USUAL_PROMPT, longest), longest) if profile == _READING else (1, (longest + 1) // 2, longest)
        wanted = (1, 1, tokens[2])
        free = past if name.startswith("past_key_values.") else wanted if name == "logits_at" else tokens
        least, usual, most = (tuple(size if part == -1 else part for part in shape) for size in free)
        return least, usual, most


@dataclass(frozen=True)
class Fingerprint:
    """All that decides whether an engine built once may be opened now."""

    model: str
    """SHA-256 of the model's files and of the plan."""
    tensorrt: str
    gpu: str
    compute_capability: str
    multiprocessors: int
    gpu_memory_gb: int
    release: str
    """The first line of `/etc/nv_tegra_release`, which JetPack writes."""

    @classmethod
    def here(cls, folder: Path) -> Fingerprint:
        """Of this package on this machine; what is missing here is called none."""
        try:
            gpu = Cuda().gpu
        except CudaError:
            gpu = Gpu(NOTHING, NOTHING, 0, 0)
        release = TEGRA_RELEASE.read_text("utf-8").splitlines()[0].strip() if TEGRA_RELEASE.is_file() else NOTHING
        return cls(
            model=_model_digest(folder),
            tensorrt=installed_version() or NOTHING,
            gpu=gpu.name,
            compute_capability=gpu.compute_capability,
            multiprocessors=gpu.multiprocessors,
            gpu_memory_gb=gpu.memory_gb,
            release=release,
        )

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def installed_version() -> str | None:
    """TensorRT's, or None where its Python package is not installed."""
    try:
        return str(importlib.import_module("tensorrt").__version__)
    except ImportError:
        return None


def engine_path(fingerprint: Fingerprint) -> Path:
    return _cache() / f"{fingerprint.digest}.engine"


def _cache() -> Path:
    if named := os.environ.get("AMOEBA_ENGINES"):
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "amoeba-edge" / "engines"
    except RuntimeError as error:
        raise EngineError(f"there is no folder to keep engines in ({error}); AMOEBA_ENGINES may name one") from error


def ready(folder: Path, *, apart: bool) -> Path:
    """The engine's file, built first where it is not in the cache; raises EngineError where none can be had.

    It is built `apart`, in a process of its own, where this one goes on and its peak of memory is to be the engine's.
    """
    _check_usable(folder)
    path = engine_path(Fingerprint.here(folder))
    if not os.path.isfile(path):  # a Path would raise where it may not look
        _check_place(path, sum((folder / name).stat().st_size for name in facts.read(folder)["model_files"]))
        make = _make_apart if apart else _make
        make(folder, path)
    return path


def _make(folder: Path, path: Path) -> None:
    sys.stderr.write("building TensorRT's engine for this device, once; it takes minutes\n")
    _place(path, _build(folder))
    _remove_old(path)


def _make_apart(folder: Path, path: Path) -> None:
    """By this module in another Python, started where it is imported from. TensorRT may print on either of its streams."""
    module = f"{__package__}.tensorrt_engine"
    start = Path(__file__).resolve().parents[module.count(".")]
    command = [sys.executable, "-B", "-m", module, "build", "--package", str(folder.resolve())]
    environment = {**os.environ, "AMOEBA_ENGINES": str(path.parent.absolute())}
    words = ""
    with subprocess.Popen(
        command, cwd=start, env=environment, stdout=2, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as builder:
        for line in builder.stderr or ():
            sys.stderr.write(line)
            words = line.strip().removeprefix("error: ") or words
    if builder.returncode != 0 or not path.is_file():
        raise EngineError(f"building the engine ended with {builder.returncode}: {words}")


def _check_usable(folder: Path) -> None:
    """Raise EngineError where TensorRT is missing, is not the package's, or has no GPU, of which it only prints a word."""
    version = installed_version()
    if version is None:
        raise EngineError("TensorRT's Python package is not installed; JetPack has it as python3-libnvinfer")
    Plan.of(folder).check(version)
    try:
        Cuda()
    except CudaError as error:
        raise EngineError(f"TensorRT {version} has no GPU here: {error}") from error


def _started(kind: Callable[[Any], Any], logger: Any) -> Any:
    """TensorRT's builder or runtime. Its binding raises TypeError where the library makes none."""
    try:
        return kind(logger)
    except TypeError as error:
        raise EngineError(f"TensorRT does not start ({error}); its own words are above") from error


def _build(folder: Path) -> Any:
    """The serialized engine, something that gives its bytes. Types are those of the graph: a strongly typed network."""
    tensorrt, plan = importlib.import_module("tensorrt"), Plan.of(folder)
    model = folder / facts.read(folder)["model_files"][0]
    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    builder = _started(tensorrt.Builder, logger)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(model)):
        said = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors)).replace("\n", " ")
        raise EngineError(f"TensorRT {tensorrt.__version__} does not take {model}: {said}")
    config = builder.create_builder_config()
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    for profile_index in (_READING, _WRITING):
        profile = builder.create_optimization_profile()
        for given in inputs:
            profile.set_shape(given.name, *plan.bounds(given.name, tuple(given.shape), profile_index))
        config.add_optimization_profile(profile)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise EngineError(f"TensorRT {tensorrt.__version__} built no engine from {model}; its own words are above")
    return serialized


@contextmanager
def _kept_in(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EngineError(
            f"the engine cannot be kept in {cache} ({error}); AMOEBA_ENGINES may name another folder"
        ) from error


def _check_place(path: Path, size: int) -> None:
    """Take `size` bytes of the cache and give them back, before minutes are spent: an engine is as large as its model."""
    with _kept_in(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            os.posix_fallocate(probe.fileno(), 0, size)


def _place(path: Path, serialized: Any) -> None:
    """Written beside and renamed: an engine that is there is whole."""
    beside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")  # containers that share a cache share process ids
    with _kept_in(path.parent):
        try:
            with beside.open("wb") as file:
                file.write(serialized)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def _remove_old(placed: Path) -> None:
    """Engines that were not opened for long, and what killed builds left a day ago or earlier.

    Others may remove the same at the same time; who has an engine open keeps it.
    """
    with suppress(OSError):
        found = [path for path in placed.parent.iterdir() if _CACHED.fullmatch(path.name) and path != placed]
        engines = sorted((path for path in found if path.suffix == ".engine"), key=_touched, reverse=True)
        a_day_ago = time.time() - _DAY_S
        left = [path for path in found if path.suffix != ".engine" and _touched(path) < a_day_ago]
        for old in engines[_KEPT - 1 :] + left:
            old.unlink(missing_ok=True)


def _touched(path: Path) -> float:
    """When, in seconds; 0 for what is gone meanwhile."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0


class Engine:
    """An opened engine with a context for each profile; passages start from it."""

    def __init__(self, folder: Path) -> None:
        path = ready(folder, apart=True)
        tensorrt = importlib.import_module("tensorrt")
        try:
            self.cuda = Cuda()
            self.cuda.open()
        except CudaError as error:
            raise EngineError(str(error)) from error
        with suppress(OSError):  # a cache that nobody may write to keeps its engines anyway
            os.utime(path)
        self.plan = Plan.of(folder)
        self._runtime = _started(tensorrt.Runtime, tensorrt.Logger(tensorrt.Logger.WARNING))
        self._engine = self._open(path)
        if self._engine is None:
            raise EngineError(f"TensorRT {tensorrt.__version__} does not open {path}; remove it and build it again")
        self.shapes = {name: tuple(self._engine.get_tensor_shape(name)) for name in self._names()}
        self._contexts = [self._context(profile) for profile in (_READING, _WRITING)]

    def _open(self, path: Path) -> Any:
        """From the file's own pages, which the system takes back: read into memory, the engine would be there twice."""
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as serialized:
                self._engine_bytes = len(serialized)
                return self._runtime.deserialize_cuda_engine(serialized)
        except (OSError, ValueError) as error:  # an empty file cannot be mapped
            raise EngineError(f"{path} cannot be read ({error}); remove it and build it again") from error

    def _names(self) -> Iterator[str]:
        for index in range(self._engine.num_io_tensors):
            yield self._engine.get_tensor_name(index)

    def _context(self, profile: int) -> Any:
        context = self._engine.create_execution_context()
        if context is None or not context.set_optimization_profile_async(profile, self.cuda.stream):
            raise EngineError("TensorRT made no context for the engine; the GPU may be out of memory")
        self.cuda.wait()
        return context

    @property
    def gpu_memory_mb(self) -> float:
        """The most that was held of the GPU's memory so far: the engine, what each context works in, and passages' buffers.

        The engine counts as large as its file. What CUDA takes for itself is not counted: the driver says only what is free,
        and on a Jetson that is less by whatever any process takes.
        """
        contexts = len(self._contexts) * self._engine.device_memory_size_v2
        return float(self._engine_bytes + contexts + self.cuda.peak_bytes) / 1e6

    def context_for(self, tokens: int, past: int) -> Any:
        return self._contexts[_WRITING if tokens == 1 and past > 0 else _READING]

    def passage(self) -> EnginePassage:
        return EnginePassage(self)


class EnginePassage:
    """One text on its way through the engine; see `runner.Passage`.

    A layer's keys stand row after row in a buffer as long as the context. The engine reads those that are there and writes
    new ones beside (what it is given must begin at a multiple of 256 bytes, which the next row need not); they are
    then copied to their place, which is all that a token moves.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine, self._cuda = engine, engine.cuda
        self._cuda.use()
        self._length = 0
        self._row_bytes: dict[str, int] = {}
        self._cache: dict[str, Buffer] = {}
        self._fresh: dict[str, Buffer] = {}
        plan = engine.plan
        for name, (_, _, *row) in _caches(engine.shapes):
            size = int(np.prod(row)) * np.dtype(np.float16).itemsize
            self._row_bytes[name] = size
            self._cache[name] = self._cuda.allocate(plan.context_length * size)
            self._fresh[name] = self._cuda.allocate(plan.prefill_tokens * size)

    def run(self, tokens: Sequence[int], logits_from: int) -> NDArray[np.float32]:
        past = self._length
        self._cuda.use()
        context = self._engine.context_for(len(tokens), past)
        given = {
            "input_ids": np.array([tokens], np.int64),
            "positions": np.arange(past, past + len(tokens), dtype=np.int64),
            "logits_at": np.arange(logits_from, len(tokens), dtype=np.int64),
        }
        held = [self._give(context, name, values) for name, values in given.items()]
        for name, cache in self._cache.items():
            context.set_input_shape(name, (1, past, *self._engine.shapes[name][2:]))
            context.set_tensor_address(name, cache.address)
            context.set_tensor_address(name.replace("past_key_values.", "present."), self._fresh[name].address)
        logits = np.empty((len(tokens) - logits_from, self._engine.shapes["logits"][-1]), np.float32)
        written = self._cuda.allocate(logits.nbytes)
        context.set_tensor_address("logits", written.address)
        if not context.execute_async_v3(self._cuda.stream):
            raise EngineError("TensorRT did not run the engine; its own words are above")
        for name, size in self._row_bytes.items():
            self._cuda.copy(self._cache[name].address + past * size, self._fresh[name].address, len(tokens) * size)
        self._cuda.read(logits, written.address)
        self._cuda.wait()
        del held
        self._length += len(tokens)
        return logits

    def rewind(self, length: int) -> None:
        self._length = length

    def _give(self, context: Any, name: str, values: NDArray[Any]) -> tuple[Buffer, NDArray[Any]]:
        """Both must be held until the stream has been waited for."""
        buffer = self._cuda.allocate(values.nbytes)
        self._cuda.write(buffer.address, values)
        context.set_input_shape(name, values.shape)
        context.set_tensor_address(name, buffer.address)
        return buffer, values


def _caches(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, tuple[int, ...]]]:
    return ((name, shape) for name, shape in shapes.items() if name.startswith("past_key_values."))


def _model_digest(folder: Path) -> str:
    files = [*facts.read(folder)["model_files"], PLAN_FILE]
    lines = "".join(f"{name} {facts.sha256(folder / name)}\n" for name in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _numbers(version: str) -> tuple[int, ...]:
    """`10.3.0` as (10, 3, 0); what follows the third number names a build."""
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in version.split(".")[:3])


def main(arguments: list[str] | None = None) -> int:
    """Exit 0, or 2 with one line that says what was wrong."""
    parser = argparse.ArgumentParser(
        prog="python3 -m device.tensorrt_engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", choices=("plan", "build"))
    parser.add_argument("--package", type=Path, default=Path(__file__).resolve().parents[1], help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    try:
        if given.verb == "build":
            sys.stdout.write(f"{ready(given.package, apart=False)}\n")
            return 0
        fingerprint, plan = Fingerprint.here(given.package), Plan.of(given.package)
        path = engine_path(fingerprint)
        said = {
            **asdict(fingerprint),
            "wanted": f"TensorRT {plan.tensorrt_from} and newer, below {plan.tensorrt_below}",
            "fingerprint": fingerprint.digest,
            "engine": f"{path} ({'there' if path.is_file() else 'not built yet'})",
        }
        sys.stdout.writelines(f"{name}: {value}\n" for name, value in said.items())
        if fingerprint.tensorrt != NOTHING:
            plan.check(fingerprint.tensorrt)
    except (facts.PackageError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
