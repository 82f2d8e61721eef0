"""What `amoeba check --json` wrote, read back as lines of a table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.report.record import Gate, GateLine, Status
from flows.report.words import number, signed

_MOST_BYTES = 4 << 20
_STATUS: dict[str, Status] = {"holds": "good", "regressed": "bad"}


class GateFileError(ValueError):
    """A file that is no outcome of `amoeba check --json`; the message says why."""


def read(path: Path) -> Gate:
    """Raises GateFileError for a file that `amoeba check --json` did not write."""
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise GateFileError(f"{path} has more than {_MOST_BYTES} bytes; `amoeba check --json` writes far less")
    try:
        value = json.loads(content)
        lines = [line for package in value["packages"] for line in _lines(package)]
        verdict = str(value["verdict"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise GateFileError(
            f"{path} is no outcome of `amoeba check MODEL --json` ({type(error).__name__} {str(error)[:80]})"
        ) from error
    return Gate(verdict, _status(verdict), tuple(lines))


def _lines(package: Mapping[str, Any]) -> list[GateLine]:
    what = str(package["registered_model"])
    if package["baseline"] or package["candidate"]:
        what = f"{what}: {package['candidate']} against {package['baseline']}"
    found = [_line(what, figure) for figure in package["figures"]]
    if package["reason"]:
        verdict = str(package["verdict"])
        found.append(GateLine(what, "", "", "", "", "", f"{verdict}: {package['reason']}", _status(verdict)))
    return found


def _line(what: str, figure: Mapping[str, Any]) -> GateLine:
    """The gate counts what is worse as a share; people read percent, and points of accuracy."""
    worse, verdict = figure["worsening"], str(figure["verdict"])
    unit = "points" if figure["name"] == "accuracy" else "%"
    values = [100 * _checked(worse[name]) for name in ("estimate", "low", "high")]
    estimate, low, high = map(signed, values)
    return GateLine(
        what=what,
        figure=str(figure["name"]),
        baseline=number(_checked(figure["baseline"]), 4),
        now=number(_checked(figure["candidate"]), 4),
        worse="no number" if any(map(math.isnan, values)) else f"{estimate} {unit} ({low} to {high})",
        allowed=f"{100 * _checked(figure['margin']):g} {unit}",
        verdict=verdict,
        status=_status(verdict),
    )


def _status(verdict: str) -> Status:
    return _STATUS.get(verdict, "unclear")


def _checked(value: Any) -> float:
    """`null` is what `--json` has where a figure is no number."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"a figure is a number, got {str(value)[:40]!r}")
    return float(value)
