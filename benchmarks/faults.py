"""What goes wrong while artifacts are published and pulled, each case many times: how often a promise was broken.

    python -m benchmarks.faults

The cases are those of the tests: `tests/faults`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks import _record
from components.progress import say


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from faults import publishing, pulling
    from faults.tally import outcome_of, table

    outcomes = {}
    for verb, module in (("pull", pulling), ("publish", publishing)):
        with module.world() as world:
            for case in module.CASES:
                say(f"benchmark: {verb}: {case.__name__}")
                outcomes[f"{verb}: {case.__name__}"] = outcome_of(case, world)
    sys.stdout.write(table(outcomes))
    _record.keep("faults", {"outcomes": {case: asdict(outcome) for case, outcome in outcomes.items()}})
    sys.exit(any(outcome.failures for outcome in outcomes.values()))


if __name__ == "__main__":
    main()
