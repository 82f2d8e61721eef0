"""One fan-out of builds in a process of its own, over what AMOEBA_TASK_RUNNER and AMOEBA_WORKERS say; a line of JSON tells.

A program of its own, `python -m benchmarks._fan_out`: each measurement loads and starts everything anew.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--shape", required=True)
    parser.add_argument("--jobs", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kill", action="store_true", help="the worker of the first build, in the middle of it")
    given = parser.parse_args()
    from fixtures.fan_out import Killing, builds
    from prefect import flow

    from flows.runners import task_runner

    killing = Killing(daemon=True)
    if given.kill:
        killing.start()

    @flow(task_runner=task_runner())
    def fan_out() -> list[Any]:
        contexts = [64 + 8 * job for job in range(given.jobs)]
        built: list[Any] = builds(given.checkpoint, given.shape, contexts, given.out)
        return built

    began = time.time()
    built = fan_out()
    ended = time.time()
    figures = {
        "seconds": ended - began,
        "starting_s": min(one[1] for one in built) - began,
        "killed": killing.worker is not None,
        "digests": [one[0] for one in built],
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
