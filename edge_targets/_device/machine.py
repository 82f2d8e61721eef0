"""The machine this runs on, as far as it decides which packages run here, on how many cores, and whose figures are taken."""

from __future__ import annotations

import math
import os
import platform
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_MOST_BYTES = 1 << 20
_QUOTA_FILES = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))
"""Where a container's share of the processor is said, and of which period: by version 2 of cgroups, and by version 1."""


@dataclass(frozen=True)
class Machine:
    """What the system says of itself; empty or 0 where it does not say."""

    system: str
    """`linux`, `android`, `ios`, `darwin`, `win32`."""
    machine: str
    """As Linux calls it: `x86_64`, `aarch64`."""
    flags: frozenset[str] = frozenset()
    """Of the processor, as `/proc/cpuinfo` names them."""
    memory_mb: float = 0
    board: str = ""
    """As the device tree names it: `NVIDIA Jetson Orin Nano Developer Kit`."""
    l4t: tuple[int, int] = (0, 0)
    """NVIDIA's release of Linux for Tegra, of which JetPack 6 has 36 and JetPack 7 has 38."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Machine:
        """Raises KeyError or TypeError for what `to_json` did not write."""
        l4t = tuple(values["l4t"])
        if [type(part) for part in l4t] != [int, int]:
            raise TypeError(f"l4t is two numbers, got {l4t}")
        return cls(**{**values, "flags": frozenset(values["flags"]), "l4t": l4t})

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "flags": sorted(self.flags), "l4t": list(self.l4t)}


def here() -> Machine:
    """This machine."""
    cpuinfo = _text("/proc/cpuinfo")
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    release = re.match(r"# R(\d+) \(release\), REVISION: (\d+)", _text("/etc/nv_tegra_release"))
    return Machine(
        system="android" if "ANDROID_ROOT" in os.environ else sys.platform,
        machine=architecture(),
        flags=frozenset(flags[1].split()) if flags else frozenset(),
        memory_mb=_memory_mb(),
        board=_board(),
        l4t=(int(release[1]), int(release[2])) if release else (0, 0),
    )


def architecture() -> str:
    """As Linux calls it."""
    return {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())


def processor() -> str:
    """The processor's name, or on boards the board's: every Jetson Orin calls its processor alike."""
    named = re.search(r"^model name\s*:(.*)$", _text("/proc/cpuinfo"), re.MULTILINE)
    return _board() or (named[1].strip() if named else platform.processor() or platform.machine())


def usable_cores() -> int:
    """Cores that this process may run on, or as many as its container's quota is worth where that is less.

    With more threads than these a runtime takes turns with itself: one token then takes many times as long.
    """
    allowed = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    for files in _QUOTA_FILES:
        said = " ".join(_text(f"/sys/fs/cgroup/{file}") for file in files).split()
        if len(said) == 2 and all(number.isdigit() and int(number) for number in said):
            quota, period = map(int, said)
            allowed.append(math.ceil(quota / period))
    return min(allowed)


def _board() -> str:
    return _text("/proc/device-tree/model").rstrip("\0")


def _text(path: str) -> str:
    """What a file of the system says, nothing where there is none."""
    try:
        with Path(path).open("rb") as file:
            return file.read(_MOST_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _memory_mb() -> float:
    """All memory there is, or the least that this process's control group or one above it may use where that is less."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6
    except (ValueError, OSError, AttributeError):
        return 0
    said = (_text(f"/sys/fs/cgroup{group}/memory.max").strip() for group in _groups())
    return min([physical, *(int(limit) / 1e6 for limit in said if limit.isdigit())])


def _groups() -> list[str]:
    """This process's control group, and every one above it up to the one of all, which has no name."""
    own = re.search(r"^0::(/.*)$", _text("/proc/self/cgroup"), re.MULTILINE)
    names = own[1].strip("/").split("/") if own else []
    return ["".join(f"/{name}" for name in names[:depth]) for depth in range(len(names), -1, -1)]
