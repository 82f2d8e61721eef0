"""Multiple choice: agreement with lm-evaluation-harness and speed beside it, and what reading shared text once saves.

    python -m benchmarks.evaluation --package .amoeba/cache/packages/...   # in an onboarded workspace

The same items, the same base in float32, the same number of threads. lm-evaluation-harness runs in an environment of its own
(`requirements/lm_eval.txt`), from a local task file, with its Hugging Face model class and `acc_norm`, which divides by the
choice's characters as we do. Blocks of items take turns, A B B A, so a machine that slows down slows both; what is timed is
texts to likelihoods, without loading. A block is kept under `--work`, and a second run goes on from there. Times of the
processor are beside those of the wall, for machines that are shared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import _record
from components.base import resolve
from components.data import question_of
from components.evaluate import multiple_choice
from components.files import replace_text
from components.likelihood import Continuing, Rereading, Scorer
from components.packed import Packed
from components.progress import say
from components.quiet import quiet_libraries
from components.reference import load_checkpoint, logits_of
from components.stages import CACHE
from components.tasks import Item, find
from edge_targets._device import facts
from edge_targets._device.text import Text
from edge_targets._environments import clean_environment, interpreter

HERE = Path(__file__).parent
Outcome = Mapping[str, Any]


class Kept:
    """Outcomes by name, each computed once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, name: str, compute: Callable[[], Outcome]) -> Outcome:
        path = self._folder / f"{name}.json"
        if not path.is_file():
            say(f"benchmark: {name}")
            replace_text(path, json.dumps(compute()))
        outcome: Outcome = json.loads(path.read_text())
        return outcome


def ours(scorer: Scorer, items: Sequence[Item], encode: Callable[[str], list[int]]) -> Outcome:
    wall, processor = time.perf_counter(), time.process_time()
    answered = multiple_choice(scorer, [question_of(item, encode) for item in items])
    return {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - processor,
        "answers": [asdict(answer) for answer in answered.answers],
    }


def theirs(items: Sequence[Item], checkpoint: Path, batch: int, threads: int, work: Path) -> Outcome:
    texts, out = work / "items.jsonl", work / "out.json"
    texts.write_text("".join(json.dumps(asdict(item)) + "\n" for item in items))
    python = interpreter("lm_eval", CACHE / "environments", HERE / "requirements")
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(work.resolve() / "home")}
    options = {"model": checkpoint, "items": texts, "out": out, "batch": batch, "threads": threads}
    subprocess.run(
        [str(python), str(HERE / "_lm_eval.py"), *(f"--{name}={value}" for name, value in options.items())],
        env={**clean_environment(), **offline},
        check=True,
    )
    outcome: Outcome = json.loads(out.read_text())
    return outcome


def in_turns(
    items: Sequence[Item], block: int, ways: Mapping[str, Callable[[Sequence[Item]], Outcome]], once: Kept, name: str
) -> dict[str, list[Outcome]]:
    """Every block of the items in every way, the order turned round from block to block."""
    found: dict[str, list[Outcome]] = {way: [] for way in ways}
    for number, start in enumerate(range(0, len(items), block)):
        part = items[start : start + block]
        for way in list(ways)[:: -1 if number % 2 else 1]:
            found[way].append(once(f"{name} {start}-{start + len(part)} {way}", partial(ways[way], part)))
    return found


def compare(found: Mapping[str, Sequence[Outcome]]) -> dict[str, Any]:
    """The first way beside the second: accuracies, how far likelihoods are apart, and how many times faster the first is."""
    (one, ours_), (other, theirs_) = found.items()
    pairs = [
        pair
        for mine, its in zip(ours_, theirs_, strict=True)
        for pair in zip(mine["answers"], its["answers"], strict=True)
    ]
    apart = [
        abs(a - b) for mine, its in pairs for a, b in zip(mine["log_likelihoods"], its["log_likelihoods"], strict=True)
    ]
    return {
        "questions": len(pairs),
        "accuracy": {
            one: statistics.mean(mine["correct"] for mine, _ in pairs),
            other: statistics.mean(its["correct"] for _, its in pairs),
        },
        "answered_alike": sum(mine["correct"] == its["correct"] for mine, its in pairs),
        "largest_difference": max(apart),
        **{
            kind: {way: [block[kind] for block in blocks] for way, blocks in found.items()}
            for kind in ("seconds", "cpu_seconds")
        },
        "times_faster": _total(theirs_, "seconds") / _total(ours_, "seconds"),
        "times_faster_of_processor": _total(theirs_, "cpu_seconds") / _total(ours_, "cpu_seconds"),
    }


def _total(blocks: Sequence[Outcome], kind: str) -> float:
    return sum(float(block[kind]) for block in blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", action="append", default=[], help="may be given again")
    parser.add_argument("--items", type=int, default=1037, help="of each task at most, beside lm-evaluation-harness")
    parser.add_argument("--block", type=int, default=300, help="items that are timed together")
    parser.add_argument("--reuse-items", type=int, default=100, help="of each task, read anew too; 0 leaves this out")
    parser.add_argument("--batch", type=int, default=8, help="of lm-evaluation-harness")
    parser.add_argument("--package", type=Path, action="append", default=[], help="of a target that runs here")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--work", type=Path, default=CACHE / "evaluation")
    given = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(given.threads)
    once = Kept(given.work / f"{given.threads}-threads-batches-of-{given.batch}")
    tasks = find(given.task or ("common_knowledge", "arc_easy"))
    checkpoint = resolve("smollm2-135m", CACHE).folder
    model, encode = load_checkpoint(checkpoint), Text(checkpoint).encode
    ways: dict[str, Callable[[Sequence[Item]], Outcome]] = {
        "ours": lambda items: ours(Packed(model), items, encode),
        "lm-eval": lambda items: theirs(items, checkpoint, given.batch, given.threads, given.work),
    }
    blocks, reuse = {}, {}
    for name, task in tasks.items():
        blocks[name] = in_turns(task.items(CACHE, given.items), given.block, ways, once, name)
    beside = {name: compare(found) for name, found in blocks.items()}
    beside["together"] = compare({way: [one for found in blocks.values() for one in found[way]] for way in ways})
    for what, scorers in _models(model, given.package, given.threads) if given.reuse_items else ():
        for name, task in tasks.items():
            reading = {way: lambda items, make=make: ours(make(), items, encode) for way, make in scorers.items()}
            items = task.items(CACHE, given.reuse_items)
            reuse[f"{what}, {name}"] = compare(in_turns(items, len(items) // 2, reading, once, f"{what} {name}"))
    _report("lm-eval", beside)
    _report("read anew", reuse)
    settings = {"threads": given.threads, "lm_eval_batch": given.batch, "load_average": os.getloadavg()[0]}
    _record.keep("evaluation", {**settings, "beside_lm_eval": beside, "beside_reading_anew": reuse})


def _models(model: Any, packages: Sequence[Path], threads: int) -> Any:
    """What scores questions, by name: with what is shared read once, and the plain way."""
    yield "torch float32", {"ours": lambda: Packed(model), "read anew": lambda: Rereading(logits_of(model))}
    for package in packages:
        known, runner = facts.read(package), facts.load(package, threads)
        yield (
            f"{known['runtime']['name']} {known['quantization']}",
            {
                "ours": lambda runner=runner: Continuing(runner.passage()),
                "read anew": lambda runner=runner: Rereading(runner.logits),
            },
        )


def _report(other: str, compared: Mapping[str, Mapping[str, Any]]) -> None:
    columns = ["", "questions", "right, ours", f"right, {other}", "alike", "largest difference, nats"]
    rows = [
        [
            *(name, found["questions"], found["accuracy"]["ours"], found["accuracy"][other], found["answered_alike"]),
            *(found["largest_difference"], 1000 * sum(found["seconds"]["ours"]) / found["questions"]),
            *(1000 * sum(found["seconds"][other]) / found["questions"], found["times_faster"]),
            found["times_faster_of_processor"],
        ]
        for name, found in compared.items()
    ]
    _record.table(
        [*columns, "ms a question, ours", f"ms a question, {other}", "times faster", "of processor time"], rows
    )


if __name__ == "__main__":
    main()
