"""What is missing here, and the line that mends it."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import edge_targets
from flows import trusting
from flows.installed import version_of
from flows.settings import WorkspaceError, settings
from registry.errors import RegistryError
from registry.reaching import shown

_BUILDERS = ("torch", "transformers", "prefect", "mlflow", "dvc")
_WANTED_FREE_GB = 8


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `remedy` is empty where it is fine."""

    what: str
    fine: bool
    found: str
    remedy: str = ""


def examine() -> tuple[Finding, ...]:
    """Python, packages, targets, workspace, disk, registry and remote, in the order they are needed."""
    return (_python(), *_packages(), *_targets(), _signing(), _trusted(), *_places())


def _python() -> Finding:
    right = sys.version_info[:2] == (3, 11)
    return Finding(
        "Python", right, platform.python_version(), "" if right else "install Python 3.11 and run make again"
    )


def _packages() -> Iterator[Finding]:
    for name in _BUILDERS:
        version = version_of(name)
        if version is None:
            yield Finding(name, False, "not installed", "pip install -c constraints.txt -e '.[build]'")
        else:
            yield Finding(name, True, version)


def _targets() -> Iterator[Finding]:
    for name in edge_targets.names():
        target = edge_targets.load(name)
        lacking = [module for module in target.runtime_modules if importlib.util.find_spec(module) is None]
        if lacking:
            remedy = f"pip install -c constraints.txt -e '.[{target.extra}]'"
            yield Finding(f"target {name}", False, f"lacks {', '.join(lacking)}", remedy)
        else:
            # Which came under another name where that is empty, as ONNX Runtime does on a Jetson.
            yield Finding(f"target {name}", True, f"{target.runtime} {version_of(target.runtime) or ''}".rstrip())


def _signing() -> Finding:
    """What is published unsigned is no fault; a key that cannot sign, or that nobody here believes, is."""
    key_file = trusting.signing_key()
    if key_file is None:
        return Finding("signing key", True, "none: what is published here is not signed")
    try:
        public = key_file.read().public
        trusting.trust().check_signing(public)
    except RegistryError as error:
        return Finding("signing key", False, str(key_file.path), str(error))
    if importlib.util.find_spec("model_signing") is None:
        remedy = "pip install -c constraints.txt -e '.[sign]'"
        return Finding("signing key", False, "lacks model-signing", remedy)
    return Finding("signing key", True, f"{public.name} ({public.fingerprint[:12]})")


def _trusted() -> Finding:
    try:
        trust = trusting.trust()
    except RegistryError as error:
        return Finding("trusted keys", False, "cannot be read", str(error))
    if not trust.knows_a_key:
        return Finding("trusted keys", True, "none: who published what is pulled is not verified")
    names = [key.name for key in trust.keys if trust.revocation(key.fingerprint) is None]
    return Finding("trusted keys", True, f"{', '.join(names) or 'none'}; {len(trust.revoked)} revoked")


def _places() -> Iterator[Finding]:
    try:
        root = settings().root
    except WorkspaceError as error:
        device = settings().mlflow_uri is not None  # which needs a registry alone
        yield Finding("workspace", device, "none", "" if device else str(error))
        if device:
            yield _registry()
        return
    yield Finding("workspace", True, str(root))
    free_gb = shutil.disk_usage(root).free / 1e9
    enough = free_gb >= _WANTED_FREE_GB
    remedy = "" if enough else f"make room: onboarding the embedded base takes up to {_WANTED_FREE_GB} GB"
    yield Finding("disk", enough, f"{free_gb:.0f} GB free", remedy)
    yield _registry()
    yield _remote(root)


def _registry() -> Finding:
    from flows.tracking import store

    try:
        models = store().models()
    except RegistryError as error:
        return Finding("registry", False, "no answer", str(error))
    return Finding(
        "registry", True, f"{shown(settings().mlflow_uri or 'embedded SQLite')}, {len(models)} registered models"
    )


def _remote(root: Path) -> Finding:
    if settings().dvc_remote and (root / ".dvc").is_dir():
        return Finding("DVC remote", True, shown(str(settings().dvc_remote)))
    command = [sys.executable, "-m", "dvc", "remote", "default"]
    outcome = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if outcome.returncode != 0:
        return Finding("DVC remote", False, "none", "git init, dvc init, and dvc remote add -d NAME URL")
    return Finding("DVC remote", True, outcome.stdout.strip())
