"""Where what runs on this host say of time and memory is kept, so that whoever chooses for this host need not run anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import edge_targets
from components import kept as kept_values
from components.calibration import Calibration
from edge_targets._device.bench import host
from edge_targets._device.machine import usable_cores
from flows import code
from flows.bases import Declared
from flows.installed import version_of
from flows.settings import settings
from flows.work import key_of


def keep(base: Declared, target: str, calibrations: Mapping[str, Calibration]) -> None:
    """By quantization, for this host, its threads, the target's runtime and the code that exports for it."""
    kept_values.keep(_file(base, target), {name: asdict(one) for name, one in calibrations.items()})


def kept(base: Declared, target: str) -> dict[str, Calibration] | None:
    """What was kept last for this host; None where nothing ran on it yet."""
    found = kept_values.kept(_file(base, target))
    return None if found is None else {name: Calibration.from_json(one) for name, one in found.items()}


def _file(base: Declared, target: str) -> Path:
    known = edge_targets.load(target)
    key = {
        "base": base.fingerprint,
        "host": host(),
        "threads": usable_cores(),
        "runtime": [known.runtime, version_of(known.runtime)],
        "family": known.family or target,
        "code": code.packaging(target),
    }
    return settings().cache / "calibrations" / f"{key_of(key)}.json"
