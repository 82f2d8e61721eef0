"""The machine this runs on, as far as it decides which target's packages run here, and what each kind of device asks of it."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_MOST_BYTES = 1 << 20


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


Suits = Callable[[Machine], str | None]
"""Why a target's packages do not run on a machine, or None when they do."""

_JETPACKS = {(36, 4): "6.1", (38, 2): "7.0"}
"""The first JetPack that has a release of Linux for Tegra."""


def here() -> Machine:
    """This machine."""
    cpuinfo = _text("/proc/cpuinfo")
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    release = re.match(r"# R(\d+) \(release\), REVISION: (\d+)", _text("/etc/nv_tegra_release"))
    return Machine(
        system="android" if "ANDROID_ROOT" in os.environ else sys.platform,
        machine={"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine()),
        flags=frozenset(flags[1].split()) if flags else frozenset(),
        memory_mb=_memory_mb(),
        board=_text("/proc/device-tree/model").rstrip("\0"),
        l4t=(int(release[1]), int(release[2])) if release else (0, 0),
    )


def processor(machine: str, *flags: str) -> Suits:
    """A computer whose processor has these instructions."""

    def suits(given: Machine) -> str | None:
        if given.machine != machine:
            return f"it is for {machine}, this is {given.machine}"
        if flags and not given.flags:
            return "this system does not say which instructions its processor has; name the target instead"
        lacking = [flag for flag in flags if flag not in given.flags]
        return f"this processor lacks {', '.join(lacking)}" if lacking else None

    return suits


def jetson(name: str, l4t: tuple[int, int]) -> Suits:
    """A Jetson whose board is called so, with this Linux for Tegra or a newer one of the same number before the point.

    A JetPack of one such number may bring another TensorRT: 36.3 has 8.6, which takes no package made for 10.3.
    """
    (major, minor), jetpack = l4t, _JETPACKS[l4t]

    def suits(given: Machine) -> str | None:
        if name not in given.board:
            return f"it is for a Jetson {name}, this is {given.board or f'no Jetson ({given.machine})'}"
        if not l4t <= given.l4t < (major + 1, 0):
            here = "{}.{}".format(*given.l4t) if any(given.l4t) else "an unknown one"
            return f"it is for L4T {major}.{minor} and newer, below {major + 1} (JetPack {jetpack}), here is {here}"
        return None

    return suits


def phone(system: str) -> Suits:
    """A phone with this system."""

    def suits(given: Machine) -> str | None:
        wanted = (system, "aarch64")
        found = (given.system, given.machine)
        return None if found == wanted else f"it is for {' on '.join(wanted)}, this is {' on '.join(found)}"

    return suits


def _text(path: str) -> str:
    """What a file of the system says, nothing where there is none."""
    try:
        with Path(path).open("rb") as file:
            return file.read(_MOST_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _memory_mb() -> float:
    """All memory there is, or what this process's container may use where that is less."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6
    except (ValueError, OSError, AttributeError):
        return 0
    limit = _text("/sys/fs/cgroup/memory.max").strip()
    return min(physical, int(limit) / 1e6) if limit.isdigit() else physical
