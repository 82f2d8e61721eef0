"""On paper: one base for 200 targets with 20 candidates each, a base of 70 billion parameters, a million devices.

    python -m benchmarks.scale

Nothing is measured here: unit costs are read from benchmarks/results, each with the file it is from, and scaled by parameters,
layers or bytes as the column says. What no file has, because it takes hardware that no result is from, is a named assumption
below. `docs/scale.md` says what follows.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from typing import Any

from benchmarks import _record

SMALL_PARAMETERS, SMALL_LAYERS = 134_515_008, 30
"""SmolLM2-135M, which every unit cost is of."""
WIDTH_TOKENS = 32 * 256
"""What `benchmarks.selection_speed` scores widths on, where it is not told otherwise."""


@dataclass(frozen=True)
class Assumptions:
    """What no result of this project says."""

    targets: int = 200
    candidates: int = 20
    published: int = 8
    """Of a target's candidates, those that `amoeba explore --points 8` measures and may publish."""
    parameters: float = 70e9
    layers: int = 80
    devices: int = 1_000_000
    checks_a_day: int = 1
    candidate_s: float = 120.0
    """Building and measuring one candidate of SmolLM2-135M on two cores; no result is kept of it."""
    accelerator_flops: float = 4e14
    """What one accelerator of a data centre sustains in bfloat16; not measured."""
    full_steps: int = 2000
    full_tokens: int = 8 * 512
    full_students: int = 4
    """A step of the `full` profile of params.yaml."""
    full_calibration_tokens: int = 16 * 512
    full_width_tokens: int = 64 * 512
    """What the selection of the `full` profile reads; its dynamic programme goes in both directions."""
    link_bytes_s: float = 1.25e9
    """10 Gbit/s out of the deployment; not measured."""


def result(name: str) -> Any:
    return json.loads((_record.RESULTS / f"{name}.json").read_text())


def units() -> dict[str, tuple[float, str]]:
    """Unit costs and their files."""
    training, selection, levels = result("training_speed"), result("selection_speed"), result("levels")
    delta, serving = result("delta"), result("serving")
    small, large = serving["costs"]["pull, small"], serving["costs"]["pull, large"]
    more_bytes = (large["MB"] - small["MB"]) * 1e6
    unit = {
        "FLOP of a training token and student": (
            training["operations"] / training["tokens"] / len(training["shapes"]),
            "training_speed",
        ),
        "slower than arithmetic": (training["ratio"], "training_speed"),
        "training token and student, s": (
            training["step_median_s"] / training["tokens"] / len(training["shapes"]),
            "training_speed",
        ),
        "width statistics, s a token": (selection["width_statistics_s"] / WIDTH_TOKENS, "selection_speed"),
        "one-block scores, s a token": (
            selection["one_block_scores_s"] / selection["tokens"]["scores"],
            "selection_speed",
        ),
        "dynamic programme in both directions, s a token": (
            _both_directions_s(selection["dynamic_programme"]) / selection["tokens"]["dynamic programmes"],
            "selection_speed",
        ),
        "extraction, s": (max(statistics.median(s) for s in levels["extraction_s"].values()), "levels"),
        "package of d24w75 in int8, bytes": (float(delta["package_bytes"]["next"]), "delta"),
        "fetched of the next supernet, share": (
            delta["fetched_bytes"]["next supernet"]["whole files"] / delta["package_bytes"]["next"],
            "delta",
        ),
        "requests of a pull": (large["requests"], "serving"),
        "requests, nothing new": (serving["costs"]["nothing new, large"]["requests"], "serving"),
    }
    for service, spent in large["processor_s"].items():
        unit[f"{service}, s a byte"] = ((spent - small["processor_s"][service]) / more_bytes, "serving")
        unit[f"{service}, s a pull"] = (small["processor_s"][service], "serving")
        unit[f"{service}, s, nothing new"] = (serving["costs"]["nothing new, large"]["processor_s"][service], "serving")
    return unit


def _both_directions_s(programme: dict[str, Any]) -> float:
    """From the shallow end nothing is cached: as many more layer evaluations as the plain recurrence takes."""
    ours, plain = programme["ours"], programme["plain"]
    return float(ours["seconds"] * (1 + plain["layer_evaluations"] / ours["layer_evaluations"]))


def fan_out(unit: dict[str, tuple[float, str]], given: Assumptions) -> list[list[Any]]:
    """One base of SmolLM2-135M's size for every target."""
    every = given.targets * given.candidates
    chosen = given.targets * given.published
    package = unit["package of d24w75 in int8, bytes"][0]
    return [
        ["candidates, all built", every, "hours of two cores", every * given.candidate_s / 3600, "assumed"],
        [
            "candidates, the 8 worth most a target",
            chosen,
            "hours of two cores",
            chosen * given.candidate_s / 3600,
            "assumed",
        ],
        ["the same with 50 workers", chosen, "hours", chosen * given.candidate_s / 3600 / 50, "assumed"],
        [
            "extractions, one a candidate",
            every,
            "hours of two cores",
            every * unit["extraction, s"][0] / 3600,
            "levels",
        ],
        ["published", chosen, "GB in the store", chosen * package / 1e9, "delta"],
    ]


def large_base(unit: dict[str, tuple[float, str]], given: Assumptions) -> list[list[Any]]:
    """A base of many parameters: arithmetic grows with them, one-block scores with layers besides, the programme with their square.

    A score runs what follows its block, a block's share of the parameters each; the programme has as many more candidates.
    """
    times, deeper = given.parameters / SMALL_PARAMETERS, given.layers / SMALL_LAYERS
    tokens = given.full_steps * given.full_tokens * given.full_students
    flop = unit["FLOP of a training token and student"][0] * times * tokens
    sustained = given.accelerator_flops / unit["slower than arithmetic"][0]
    package = unit["package of d24w75 in int8, bytes"][0] * times
    rows = [
        [
            "fine-tune, `full`, two cores",
            "years",
            unit["training token and student, s"][0] * times * tokens / 3.15e7,
            "training_speed",
        ],
        ["fine-tune, `full`, arithmetic", "10^18 FLOP", flop / 1e18, "training_speed"],
        ["fine-tune, `full`, 8 accelerators (assumed)", "hours", flop / sustained / 8 / 3600, "training_speed"],
        [
            "width statistics, `full`, two cores",
            "hours",
            unit["width statistics, s a token"][0] * given.full_width_tokens * times / 3600,
            "selection_speed",
        ],
        [
            "one-block scores, `full`, two cores",
            "hours",
            unit["one-block scores, s a token"][0] * given.full_calibration_tokens * times * deeper / 3600,
            "selection_speed",
        ],
        [
            "dynamic programme, `full`, two cores",
            "hours",
            unit["dynamic programme in both directions, s a token"][0]
            * given.full_calibration_tokens
            * times
            * deeper**2
            / 3600,
            "selection_speed",
        ],
        ["one extraction, two cores", "minutes", unit["extraction, s"][0] * times / 60, "levels"],
        ["base in bfloat16", "GB of memory", given.parameters * 2 / 1e9, "arithmetic"],
        ["one package of the shape d24w75 in int8", "GB", package / 1e9, "delta"],
        ["8 packages for each of 200 targets", "TB", package * given.published * given.targets / 1e12, "delta"],
    ]
    return [[what, unit_name, value, file] for what, unit_name, value, file in rows]


def fleet(unit: dict[str, tuple[float, str]], given: Assumptions) -> list[list[Any]]:
    """Every device once a day, and one release to all of them."""
    package, day = unit["package of d24w75 in int8, bytes"][0], 86_400.0
    asked = given.devices * given.checks_a_day
    sent = {
        "first pull by all": package * given.devices,
        "next supernet to all": package * given.devices * unit["fetched of the next supernet, share"][0],
    }
    services = [name.removesuffix(", s a byte") for name in unit if name.endswith(", s a byte")]
    rows = [
        ["nothing new, daily", "requests/s", asked * unit["requests, nothing new"][0] / day, "serving"],
        *(
            [f"nothing new, daily: {one}", "cores", asked * unit[f"{one}, s, nothing new"][0] / day, "serving"]
            for one in services
        ),
    ]
    busiest = asked * unit["MLflow, s, nothing new"][0]
    rows += [
        ["nothing new, all in the same hour: MLflow", "cores", busiest / 3600, "serving"],
        ["a request of those: MLflow", "ms", 1000 * busiest / asked / unit["requests, nothing new"][0], "serving"],
    ]
    for what, bytes_sent in sent.items():
        rows.append([what, "TB", bytes_sent / 1e12, "delta"])
        rows.append([f"{what}, 10 Gbit/s (assumed)", "hours", bytes_sent / given.link_bytes_s / 3600, "delta"])
        rows += [
            [
                f"{what}, within a day: {one}",
                "cores",
                (bytes_sent * unit[f"{one}, s a byte"][0] + given.devices * unit[f"{one}, s a pull"][0]) / day,
                "serving",
            ]
            for one in services
        ]
    return rows


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    given, unit = Assumptions(), units()
    tables = {
        "unit": (["unit cost", "value", "file"], [[name, value, file] for name, (value, file) in unit.items()]),
        "fan-out": (["what", "how many", "unit", "value", "from"], fan_out(unit, given)),
        "70B": (["what", "unit", "value", "from"], large_base(unit, given)),
        "fleet": (["what", "unit", "value", "from"], fleet(unit, given)),
    }
    for name, (header, rows) in tables.items():
        print(f"\n{name}\n")
        _record.table(header, rows)
    _record.keep("scale", {name: {"header": header, "rows": rows} for name, (header, rows) in tables.items()})


if __name__ == "__main__":
    main()
