"""An onboarding killed again and again, at random moments and before random steps to disk: what is lost, half there, or different.

    python -m benchmarks.kills --kills 200

The promises are those of `tests/faults/onboarding.py`. Stopped, the same command goes on after the last whole onboarding.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import _record
from components.progress import say

_NAME = "kills"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="at least so many")
    parser.add_argument("--anew", action="store_true", help="forget what was run before")
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from faults import onboarding
    from faults.tally import Outcome, outcome_of, table

    known = {} if given.anew else _record.unfinished(_NAME, {})
    chains, cases = known.get("onboardings", []), known.get("cases", {})
    missing = [case for case in onboarding.THOROUGH if case.__name__ not in cases]
    if missing or _kills(chains) < given.kills:
        with onboarding.world() as world:
            while _kills(chains) < given.kills:
                chains.append(_run(onboarding, world, seed=len(chains)))
                say(f"benchmark: {len(chains)} onboardings, {_kills(chains)} kills")
                _record.keep(_NAME, {"kills": _kills(chains), "onboardings": chains, "cases": cases})
            for case in missing:
                say(f"benchmark: {case.__name__}")
                cases[case.__name__] = asdict(outcome_of(case, world))
                _record.keep(_NAME, {"kills": _kills(chains), "onboardings": chains, "cases": cases})
    broken = [one for one in chains if one["broken"]]
    _record.table(
        ["onboardings", "kills", "by the clock", "before a step to disk", "with a broken promise"],
        [[len(chains), _kills(chains), *(_kills(chains, how) for how in ("after", "before")), len(broken)]],
    )
    outcomes = {name: Outcome(**case) for name, case in cases.items()}
    sys.stdout.write(table(outcomes))
    sys.exit(bool(broken) or any(outcome.failures for outcome in outcomes.values()))


def _run(onboarding: Any, world: Any, seed: int) -> dict[str, Any]:
    killed: list[str] = []
    try:
        onboarding.chain(world, seed, killed)
    except AssertionError as error:
        return {"seed": seed, "kills": killed, "broken": str(error)}
    return {"seed": seed, "kills": killed, "broken": None}


def _kills(chains: list[dict[str, Any]], how: str = "") -> int:
    return sum(kill.startswith(how) for chain in chains for kill in chain["kills"])


if __name__ == "__main__":
    main()
