"""Bytes that a device would fetch to go from one package to another, by what is kept of the first.

python -m benchmarks.delta

Packages are built once, from the supernet that `amoeba onboard smollm2-135m` left in this workspace and from the
same supernet trained a few steps more. Three ways are compared: whole files; whole files if every tensor were a file of its
own; and chunks whose ends the content decides, for which this benchmark alone needs `pip install --no-deps fastcdc==1.7.0`.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks import _record
from benchmarks._workspace import Workspace
from components.finetune import FinetuneSettings, finetune
from components.shape import parse_shape
from components.subnet import extract
from components.supernet import Supernet

TARGET, QUANTIZATION, CONTEXT = "x86_avx512", "int8", 2048
FROM = "d24w75"
CASES = {"the same, built again": "again", "next supernet": "next", "other width": "d24w50", "other depth": "d20w75"}
CHUNK_BYTES = (1 << 14, 1 << 16, 1 << 20)
MORE_STEPS = FinetuneSettings(
    steps=4,
    batch_size=1,
    students=1,
    learning_rate=2e-3,
    warmup_steps=1,
    max_gradient_norm=1.0,
    checkpoint_every=100,
    evaluate_every=100,
    seed=1,
)

Pieces = dict[str, int]
"""Length by digest."""


def whole_files(package: Path) -> Pieces:
    """What the registry keeps and a pull finds again: files."""
    return {_digest(path.read_bytes()): path.stat().st_size for path in _files(package)}


def tensors(package: Path) -> Pieces:
    """As if every tensor of the graph were a file, and the graph without them one more."""
    import onnx

    pieces = {}
    for path in _files(package):
        if path.suffix == ".data":  # read with the graph that names it
            continue
        if path.suffix != ".onnx":
            pieces[_digest(path.read_bytes())] = path.stat().st_size
            continue
        model = onnx.load(path)
        for tensor in model.graph.initializer:
            pieces[_digest(tensor.raw_data)] = len(tensor.raw_data)
            tensor.ClearField("raw_data")
        graph = model.SerializeToString()
        pieces[_digest(graph)] = len(graph)
    return pieces


def chunks(average_bytes: int) -> Callable[[Path], Pieces]:
    """Chunks of about that size, as FastCDC cuts them."""
    from fastcdc import fastcdc

    def cut(package: Path) -> Pieces:
        pieces = {}
        for path in _files(package):
            if path.stat().st_size:
                for chunk in fastcdc(str(path), avg_size=average_bytes, hf=hashlib.sha256):
                    pieces[chunk.hash] = chunk.length
        return pieces

    return cut


def build(work: Workspace, packages: Path) -> None:
    """Every package of the cases that is not there yet."""
    for name in (FROM, *CASES.values()):
        if (packages / name).is_dir():
            continue
        packages.mkdir(parents=True, exist_ok=True)
        shape = FROM if name in ("again", "next") else name
        with tempfile.TemporaryDirectory(dir=packages) as beside:
            supernet = Supernet.load(work.supernet_folder, work.model(torch.float32))
            if name == "next":
                finetune(supernet, torch.from_numpy(work.data.train_WT), MORE_STEPS)
            extract(supernet, parse_shape(shape)).save(Path(beside) / "checkpoint", work.base, "# for a benchmark\n")
            del supernet
            command = [sys.executable, "-m", "edge_targets", "package", TARGET, "--shape", shape]
            command += ["--checkpoint", f"{beside}/checkpoint", "--quantization", QUANTIZATION]
            command += ["--context", str(CONTEXT), "--out", f"{beside}/package"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            (Path(beside) / "package").rename(packages / name)


def fetched(have: Pieces, want: Pieces) -> int:
    return sum(length for digest, length in want.items() if digest not in have)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, default=Path(".amoeba/cache/delta"), help="where packages are kept")
    given = parser.parse_args()
    build(Workspace.of(), given.packages)
    ways: dict[str, Callable[[Path], Pieces]] = {"whole files": whole_files, "a file per tensor": tensors}
    ways |= {f"chunks of {size >> 10} KiB": chunks(size) for size in CHUNK_BYTES}
    pieces = {way: {name: cut(given.packages / name) for name in (FROM, *CASES.values())} for way, cut in ways.items()}
    sizes = {name: sum(path.stat().st_size for path in _files(given.packages / name)) for name in CASES.values()}
    figures = {
        case: {way: fetched(pieces[way][FROM], pieces[way][name]) for way in ways} for case, name in CASES.items()
    }
    _record.table(
        ["from " + FROM + " to", "package, MB", *(f"{way}, MB" for way in ways)],
        [
            [case, f"{sizes[CASES[case]] / 1e6:.1f}", *(f"{count / 1e6:.1f}" for count in figures[case].values())]
            for case in CASES
        ],
    )
    listed = {way: {name: len(found) for name, found in of.items()} for way, of in pieces.items()}
    _record.keep("delta", {"package_bytes": sizes, "fetched_bytes": figures, "pieces": listed})


def _files(package: Path) -> Iterator[Path]:
    return (path for path in sorted(package.rglob("*")) if path.is_file())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    main()
