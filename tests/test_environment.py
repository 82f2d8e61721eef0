"""`make` on a machine that is not as it should be: one line says what is wrong and what to do."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "environment"


def environment(folder: Path, **scripts: str) -> subprocess.CompletedProcess[str]:
    """Run the script in `folder`, with the named commands in front of all others."""
    tools = folder / "tools"
    tools.mkdir()
    for name, body in scripts.items():
        (tools / name).write_text(f"#!/bin/bash\n{body}\n")
        (tools / name).chmod(0o755)
    return subprocess.run(
        ["bash", str(SCRIPT), "venv"],
        cwd=folder,
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHON": "the-python"},
        capture_output=True,
        text=True,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error: ") == 1
    return done.stderr


def test_another_python_is_named_with_the_one_that_is_needed(tmp_path: Path) -> None:
    said = refused(environment(tmp_path, **{"the-python": "echo 3.12"}))
    assert "the-python is Python 3.12, 3.11 is needed" in said
    assert "make onboard PYTHON=" in said


def test_no_python_at_all_says_how_to_name_one(tmp_path: Path) -> None:
    assert "the-python is not on the PATH. Install Python 3.11" in refused(environment(tmp_path))


def test_a_full_disk_is_found_before_anything_is_installed(tmp_path: Path) -> None:
    df = 'printf "Filesystem 1M Used Available\\ndisk 100 95 5\\n"'
    said = refused(environment(tmp_path, **{"the-python": "echo 3.11", "df": df}))
    assert "5 MB are free here" in said
    assert "Make room and run make again" in said
    assert not (tmp_path / "venv").exists()


def test_a_package_that_cannot_be_had_says_what_to_check(tmp_path: Path) -> None:
    python = """
    if [ "$1" = -c ]; then echo 3.11; exit; fi
    mkdir -p venv/bin
    printf '#!/bin/bash\\necho "no matching distribution" >&2; exit 1\\n' > venv/bin/pip
    chmod +x venv/bin/pip"""
    df = 'printf "Filesystem 1M Used Available\\ndisk 100 5 90000\\n"'
    said = refused(environment(tmp_path, **{"the-python": python, "df": df}))
    assert "no matching distribution" in said
    assert "Check the network and the package index" in said
