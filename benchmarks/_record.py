"""Where a figure comes from: kept beside it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_CHANGED = "-dirty"


def unfinished(name: str, setting: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier run of this clean commit on this machine kept with the same setting; nothing where none did."""
    kept = RESULTS / f"{name}.json"
    known: dict[str, Any] = json.loads(kept.read_text()) if kept.is_file() else {}
    here = _where()
    same = not here["commit"].endswith(_CHANGED) and {**here, **setting}.items() <= known.items()
    return known if same else {}


def keep(name: str, figures: Mapping[str, Any]) -> None:
    """Write `results/NAME.json` with the machine, the command and the commit that gave the figures."""
    facts = {"command": f"python -m benchmarks.{name} {' '.join(sys.argv[1:])}".strip(), **_where(), **figures}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print Markdown."""
    for cells in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells) + " |")
    sys.stdout.flush()


def _where() -> dict[str, Any]:
    import torch

    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "commit": _commit(),
        "hardware": {"processor": _processor(), "cores": os.cpu_count(), "accelerator": accelerator},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def commit_of(checkout: Path) -> str:
    """Its short name; empty where there is none."""
    return _git(checkout, "describe", "--always", "--exclude=*").stdout.strip()


def _commit() -> str:
    """This checkout's, marked where code differs from it; earlier results of the same day do not make it differ."""
    project = RESULTS.parents[1]
    changed = _git(project, "diff", "--quiet", "HEAD", "--", ".", f":!{RESULTS.relative_to(project)}").returncode
    return commit_of(project) + (_CHANGED if changed else "")


def _git(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=False)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor()
