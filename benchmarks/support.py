"""What shapes each target takes: real attempts on tiny random models, written to `docs/support.md`.

    python -m benchmarks.support

For every target, quantization and kind of shape a package is made, loaded in its runtime and compared with torch. It works, or is
refused with the reason; anything else is WRONG, and the exit code is 1. Each target is tried in a process of its own, since an
exporter may end its process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import edge_targets
from benchmarks._attempts import CASES, Outcome, attempt
from components.files import replace_text
from components.progress import progress, say
from components.quiet import quiet_libraries

DOCUMENT = Path(__file__).parents[1] / "docs" / "support.md"
_HEAD = """# What shapes each target takes

Made by `python -m benchmarks.support` from real attempts: a tiny random model of each kind is packaged, loaded in its runtime
and compared with torch. *works*: its logits are torch's to within what its bits explain, and what it writes with its cache is
what it writes without. *refused*: no package, for the reason under the table. *not run here*: packaged, but only the device
can run it. Layers that differ: one without attention, one without an FFN, and FFNs of two widths. Hidden size 64.
A sliding window is taken where it is at least as long as the context, which it then masks nothing of; a shorter one is refused.
"""
Table = Mapping[str, Mapping[str, Outcome]]
"""Outcomes by kind of shape, then by quantization."""


def attempts(name: str) -> dict[str, dict[str, Outcome]]:
    """All that is tried with one target."""
    quiet_libraries()
    target = edge_targets.load(name)
    table: dict[str, dict[str, Outcome]] = {}
    total = len(CASES) * len(target.quantizations)
    advance = progress(f"support: {name}")
    for case in CASES:
        for quantization in target.quantizations:
            table.setdefault(case.title, {})[quantization.name] = attempt(case, target, quantization)
            advance(sum(map(len, table.values())), total)
    return table


def tried_apart(name: str) -> Table:
    """The same in a process of its own; where that ends early everything is WRONG, with how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "outcomes.json")
        command = [sys.executable, "-m", "benchmarks.support", "--only", name, "--outcomes", str(out)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
        if not out.is_file():
            ended = Outcome("WRONG", f"the process ended with {done.returncode}")
            names = [quantization.name for quantization in edge_targets.load(name).quantizations]
            return {case.title: dict.fromkeys(names, ended) for case in CASES}
        return {
            title: {quantization: Outcome(**outcome) for quantization, outcome in row.items()}
            for title, row in json.loads(out.read_text()).items()
        }


def tried(names: Sequence[str]) -> dict[str, Table]:
    """Every target's outcomes, those of a family tried once: its packages differ in the target's name alone."""
    tables: dict[str, Table] = {}
    for name in names:
        family = edge_targets.load(name).family
        twin = next((done for done in tables if family and edge_targets.load(done).family == family), None)
        tables[name] = tables[twin] if twin else tried_apart(name)
    return tables


def document(tables: Mapping[str, Table]) -> str:
    return _HEAD + "".join(f"\n{line}" if line.startswith("## ") else line for line in _lines(tables))


def _lines(tables: Mapping[str, Table]) -> Iterator[str]:
    for name, table in tables.items():
        target = edge_targets.load(name)
        quantizations = list(next(iter(table.values())))
        yield f"## {name}\n\n{target.title}; {target.runtime} {_version(target.runtime)}.\n\n"
        yield f"| shape | {' | '.join(quantizations)} |\n"
        yield f"| --- | {' | '.join('---' for _ in quantizations)} |\n"
        reasons: list[str] = []
        for title, row in table.items():
            yield f"| {title} | {' | '.join(_cell(row[quantization], reasons) for quantization in quantizations)} |\n"
        yield "".join(f"\n{number}. {reason}" for number, reason in enumerate(reasons, 1)) + ("\n" if reasons else "")


def _cell(outcome: Outcome, reasons: list[str]) -> str:
    """The verdict; its reason is a note under the table, once."""
    reason = " ".join(outcome.reason.split())
    if not reason:
        return outcome.verdict
    if reason not in reasons:
        reasons.append(reason)
    return f"{outcome.verdict} ({reasons.index(reason) + 1})"


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "is not installed here"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=edge_targets.names(), help="try one target and print what came of it")
    parser.add_argument("--outcomes", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.outcomes:
        table = attempts(given.only)
        outcomes = {title: {name: vars(one) for name, one in row.items()} for title, row in table.items()}
        replace_text(given.outcomes, json.dumps(outcomes))
        return 0
    tables = tried([given.only] if given.only else edge_targets.names())
    if given.only:
        print("".join(_lines(tables)))
    else:
        replace_text(DOCUMENT, document(tables))
        say(f"written: {DOCUMENT}")
    wrong = [
        f"{name}, {title}, {quantization}: {outcome.reason}"
        for name, table in tables.items()
        for title, row in table.items()
        for quantization, outcome in row.items()
        if outcome.verdict == "WRONG"
    ]
    for line in wrong:
        say(f"wrong: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
