"""What each kind of device asks of a machine."""

from __future__ import annotations

from collections.abc import Callable

from edge_targets._device.machine import Machine

Suits = Callable[[Machine], str | None]
"""Why a target's packages do not run on a machine, or None when they do."""

_JETPACKS = {(36, 4): "6.1", (38, 2): "7.0"}
"""The first JetPack that has a release of Linux for Tegra."""


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
