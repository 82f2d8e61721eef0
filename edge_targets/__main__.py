"""Work on packages in a process of its own: memory goes back to the system, and an exporter's crash stays its own.

python -m edge_targets package x86_avx512 --checkpoint DIR --shape d24w75 --quantization int8 --context 2048 --out DIR
python -m edge_targets measure x86_avx512 --package DIR --evaluation DIR --out FILE
python -m edge_targets quality x86_avx512 --package DIR --evaluation DIR --first 0 --last 400 --out FILE
python -m edge_targets turns x86_avx512 --package DIR --package DIR --rounds 6 --out FILE
python -m edge_targets inspect android_vulkan --package DIR --out FILE
python -m edge_targets reference --checkpoint DIR --evaluation DIR --out FILE
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from functools import partial
from pathlib import Path
from typing import Any

import edge_targets
from components import lifeline
from components.files import replace_text
from components.progress import progress, progress_of, say
from components.quiet import quiet_libraries
from components.shape import parse_shape
from edge_targets._device.bench import host
from edge_targets._device.machine import usable_cores
from edge_targets._target import PackageError, PackageRequest


def package(given: argparse.Namespace) -> None:
    target = edge_targets.load(given.target)
    text_WT = None
    reads_text = target.half_floats or target.quantization(given.quantization).grid is not None
    if reads_text and given.calibration is not None:
        from components.data import Data

        text_WT = Data.load(given.calibration).spread(given.calibration_windows)
    request = PackageRequest(given.checkpoint, parse_shape(given.shape), given.quantization, given.context, text_WT)
    refusal = target.refuses(request.shape)
    if refusal:
        raise PackageError(f"{target.name} cannot run {request.shape}: {refusal}")
    given.out.mkdir(parents=True, exist_ok=True)
    target.package(request, given.out)


def measure(given: argparse.Namespace) -> None:
    from edge_targets._measure import MeasureSettings
    from edge_targets._measure import measure as measured

    target = edge_targets.load(given.target)
    settings = MeasureSettings(given.runs, given.new_tokens, given.agreement_windows)
    advance = progress_of(f"{target.name}: measuring")
    _write(
        given.out,
        measured(target, given.package, given.evaluation, given.checkpoint, settings, given.threads, advance),
    )


def quality(given: argparse.Namespace) -> None:
    """Text and some of the questions, as asked: no time is taken."""
    from edge_targets._measure import quality_part

    target = edge_targets.load(given.target)
    advance = progress_of(f"{target.name}: measuring")
    _write(given.out, quality_part(given.package, given.evaluation, given.first, given.last, given.threads, advance))


def turns(given: argparse.Namespace) -> None:
    from edge_targets._turns import apart, as_json, take_turns

    starts = [partial(apart, package, given.threads, given.new_tokens) for package in given.package]
    taken = take_turns(starts, given.rounds, given.runs, progress(f"{given.target}: runs in turns"))
    _write(given.out, {"host": host(), "threads": given.threads, "runs": as_json(taken)})


def inspect(given: argparse.Namespace) -> None:
    """What is known of a package that cannot run here: its own facts, its size, and what its target finds in it."""
    from edge_targets._device import facts

    target = edge_targets.load(given.target)
    known = facts.read(given.package)
    found = {} if target.inspect is None else dict(target.inspect(given.package))
    size_mb = sum(path.stat().st_size for path in given.package.rglob("*") if path.is_file()) / 1e6
    why = target.cannot_run_here
    _write(
        given.out, {"measured_on": "predicted", "why": why, "size_mb": size_mb, "package": dict(known), "found": found}
    )


def reference(given: argparse.Namespace) -> None:
    quiet_libraries()
    from components.data import load_evaluation
    from components.packed import Packed
    from components.reference import load_checkpoint, logits_of
    from edge_targets._measure import quality

    windows_WT, questions = load_evaluation(given.evaluation)
    model = load_checkpoint(given.checkpoint)
    advance = progress_of("full model: measuring")
    _write(given.out, quality(logits_of(model), Packed(model), windows_WT.tolist(), questions, advance))


def _write(path: Path, figures: dict[str, Any]) -> None:
    replace_text(path, json.dumps(figures, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m edge_targets", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    packaging = verbs.add_parser("package")
    packaging.add_argument("target")
    packaging.add_argument("--checkpoint", type=Path, required=True)
    packaging.add_argument("--shape", required=True)
    packaging.add_argument("--quantization", required=True)
    packaging.add_argument("--context", type=int, required=True)
    packaging.add_argument(
        "--calibration", type=Path, help="a data folder, for quantizations that are calibrated and targets of float16"
    )
    packaging.add_argument("--calibration-windows", type=int, default=32)
    packaging.add_argument("--out", type=Path, required=True)
    packaging.set_defaults(run=package)
    measuring = verbs.add_parser("measure")
    measuring.add_argument("target")
    measuring.add_argument("--package", type=Path, required=True)
    measuring.add_argument("--checkpoint", type=Path, help="the float subnet, to be compared with")
    measuring.add_argument("--runs", type=int, default=7)
    measuring.add_argument("--new-tokens", type=int, default=32)
    measuring.add_argument("--agreement-windows", type=int, default=2)
    measuring.add_argument("--threads", type=int, default=usable_cores())
    measuring.set_defaults(run=measure)
    asking = verbs.add_parser("quality")
    asking.add_argument("target")
    asking.add_argument("--package", type=Path, required=True)
    asking.add_argument("--first", type=int, default=0, help="questions of the order they are asked in")
    asking.add_argument("--last", type=int, required=True)
    asking.add_argument("--threads", type=int, default=usable_cores())
    asking.set_defaults(run=quality)
    taking = verbs.add_parser("turns")
    taking.add_argument("target")
    taking.add_argument("--package", type=Path, action="append", required=True)
    taking.add_argument("--rounds", type=int, required=True)
    taking.add_argument("--runs", type=int, default=3)
    taking.add_argument("--new-tokens", type=int, default=32)
    taking.add_argument("--threads", type=int, default=usable_cores())
    taking.add_argument("--out", type=Path, required=True)
    taking.set_defaults(run=turns)
    inspecting = verbs.add_parser("inspect")
    inspecting.add_argument("target")
    inspecting.add_argument("--package", type=Path, required=True)
    inspecting.add_argument("--out", type=Path, required=True)
    inspecting.set_defaults(run=inspect)
    referring = verbs.add_parser("reference")
    referring.add_argument("--checkpoint", type=Path, required=True)
    referring.set_defaults(run=reference)
    for reading in (measuring, asking, referring):
        reading.add_argument("--evaluation", type=Path, required=True)
        reading.add_argument("--out", type=Path, required=True)
    return parser


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    lifeline.hold()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("amoeba").setLevel(logging.INFO)
    try:
        given.run(given)
    except ModuleNotFoundError as error:
        who, extra = (
            (given.target, edge_targets.load(given.target).extra) if "target" in given else (given.verb, "build")
        )
        say(f"error: {who} needs the module {error.name}: pip install -c constraints.txt '.[{extra}]'")
        return 2
    except (PackageError, ValueError, OSError) as error:
        say(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
