"""One contender in a process of its own, under its environment's Python: build it, or load it and answer what is asked.

    PYTHON -m benchmarks.contenders build MODULE VARIANT --checkpoint DIR --out DIR [--data DIR]
    PYTHON -m benchmarks.contenders serve MODULE VARIANT --built DIR --threads 2 [--quality]

The last line of standard output of `build` is JSON. `serve` answers each line of JSON with one: first that it is ready, then
`{"do": "time", "tokens": [...], "new_tokens": 32}`, `{"do": "quality", "windows": [[...], ...], "reference": FILE}`, and
`{"do": "peak"}`. It ends with its standard input. What libraries print goes to standard error.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from benchmarks.contenders import Loaded
from edge_targets._device.bench import peak_memory_mb


def build(given: argparse.Namespace) -> dict[str, Any]:
    module = importlib.import_module(f"benchmarks.contenders.{given.module}")
    given.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    module.build(given.checkpoint, given.out, given.variant, given.data)
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
    return {
        "build_s": time.perf_counter() - started,
        "build_peak_mb": max(peak_memory_mb(), children),
        "size_mb": sum(path.stat().st_size for path in given.out.rglob("*") if path.is_file()) / 1e6,
    }


def serve(given: argparse.Namespace, answers: IO[str]) -> None:
    module = importlib.import_module(f"benchmarks.contenders.{given.module}")
    started = time.perf_counter()
    loaded = module.load(given.built, given.variant, given.threads, quality=given.quality)
    _answer(answers, {"load_s": time.perf_counter() - started})
    verbs = {"time": timed, "quality": quality, "peak": peak}
    for line in sys.stdin:
        asked = json.loads(line)
        _answer(answers, verbs[asked["do"]](loaded, asked))


def timed(loaded: Loaded, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Milliseconds to the first token, and for each token after it."""
    started = time.perf_counter()
    written = [(token, time.perf_counter()) for token in loaded.generate(asked["tokens"], asked["new_tokens"])]
    if len(written) != asked["new_tokens"]:
        raise RuntimeError(f"{asked['new_tokens']} tokens were asked for, {len(written)} came")
    first, last = written[0][1], written[-1][1]
    between = (last - first) * 1000 / (len(written) - 1) if len(written) > 1 else None
    return {"ttft_ms": (first - started) * 1000, "tpot_ms": between, "tokens": [token for token, _ in written]}


def peak(loaded: Loaded, asked: Mapping[str, Any]) -> dict[str, Any]:
    return {"peak_mb": peak_memory_mb()}


def quality(loaded: Loaded, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Perplexity on all windows, and agreement with the float logits of the first ones."""
    import numpy as np

    from components.evaluate import agreement, perplexity

    windows = asked["windows"]
    with np.load(asked["reference"], allow_pickle=False) as kept:
        compared = {tuple(windows[int(name)]): kept[name] for name in kept.files}
    found = perplexity(loaded.logits, windows)
    near = agreement(loaded.logits, lambda window: compared[tuple(window)], list(compared))
    return {"perplexity": found.value, "nats": found.nats, "top_1": near.top_1, "kl": near.kl}


def _answer(answers: IO[str], values: Mapping[str, Any]) -> None:
    answers.write(json.dumps(values) + "\n")
    answers.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contenders")
    verbs = parser.add_subparsers(dest="verb", required=True)
    building, serving = verbs.add_parser("build"), verbs.add_parser("serve")
    for verb in (building, serving):
        verb.add_argument("module")
        verb.add_argument("variant")
    building.add_argument("--checkpoint", type=Path, required=True)
    building.add_argument("--out", type=Path, required=True)
    building.add_argument("--data", type=Path, help="a data folder, for who calibrates on its training text")
    serving.add_argument("--built", type=Path, required=True)
    serving.add_argument("--threads", type=int, required=True)
    serving.add_argument("--quality", action="store_true")
    given = parser.parse_args()
    # Native libraries print to file descriptor 1: from here on that is standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if given.verb == "build":
        _answer(answers, build(given))
    else:
        serve(given, answers)


if __name__ == "__main__":
    main()
