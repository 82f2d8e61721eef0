"""The two sides of a gate: where a baseline's figures come from, and what is measured of an artifact as it is needed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from components.evaluate import asking_order
from components.gate import Evidence
from flows.bases import Declared
from flows.data import check, revision
from flows.settings import settings
from flows.work import key_of, run_apart, undisturbed
from registry.manifest import Manifest
from registry.store import Store, Version

_MOST_BYTES = 50_000_000


class BaselineError(ValueError):
    """A baseline that today's figures cannot be held against; the message says why."""


@dataclass(frozen=True)
class Artifact:
    """A published package, here and verified: what can still be measured."""

    version: Version
    folder: Path
    manifest: Manifest

    @classmethod
    def pulled(cls, registry: Store, registered_model: str, alias_or_version: str) -> Artifact:
        """Raises RegistryError where it is not there, damaged or refused."""
        version = registry.resolve(registered_model, alias_or_version)
        folder = settings().cache / "checked" / f"{registered_model}-{version.version}"
        manifest = registry.pull(registered_model, folder, version.version)
        os.utime(folder)  # it is used, for whoever makes room
        return cls(version, folder, manifest)

    def __str__(self) -> str:
        return f"version {self.version.version}"


@dataclass(frozen=True)
class Recorded:
    """Figures that were taken on another day: a published version's own, or a file of `amoeba check --json`."""

    label: str
    evidence: Evidence
    data_revision: str
    host: Mapping[str, Any]
    """Whose times these are; figures of another machine's time are not compared."""

    def __str__(self) -> str:
        return self.label

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def published(artifact: Artifact) -> Recorded | None:
    """What was measured of an artifact when it was published; None where it was built by who cannot run it.

    Its times are the medians of one process, its peak memory is of longer prompts than the gate's.
    """
    measured = artifact.manifest.facts["measurement"]
    if "accuracy" not in measured:
        return None
    correct, latency = measured["accuracy"]["correct"], measured["latency"]
    shortest = min(latency["ttft_ms_samples"], key=int)
    evidence = Evidence(
        nats=tuple(measured["perplexity"]["nats"]),
        correct=tuple(correct[index] for index in asking_order(len(correct))),
        ttft_ms=(median(latency["ttft_ms_samples"][shortest]),),
        tpot_ms=(median(latency["tpot_ms_samples"]),),
    )
    return Recorded(f"{artifact} as published", evidence, artifact.manifest.lineage["data_revision"], measured["host"])


def recorded(path: Path, registered_model: str) -> Recorded:
    """What a file of `amoeba check --json` says of a package; raises BaselineError for a file that is none."""
    if path.stat().st_size > _MOST_BYTES:
        raise BaselineError(f"{path} has more than {_MOST_BYTES} bytes; `amoeba check --json` writes far fewer")
    try:
        packages = {one["registered_model"]: one["measured"] for one in json.loads(path.read_text())["packages"]}
        kept = packages.get(registered_model)
        if kept is None:
            raise BaselineError(
                f"{path} has figures of {', '.join(sorted(packages)) or 'nothing'}, not {registered_model}"
            )
        label, data_revision, host = str(kept["label"]), str(kept["data_revision"]), dict(kept["host"])
        return Recorded(f"{label} in {path.name}", Evidence.from_json(kept["evidence"]), data_revision, host)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        if isinstance(error, BaselineError):
            raise
        raise BaselineError(f"{path} is no file of `amoeba check --json`: {type(error).__name__} {error}") from error


def answers(base: Declared, target: str, artifact: Artifact, first: int, last: int) -> dict[str, Any]:
    """Text and questions, item by item, as the artifact does today; what was measured of it in this gate is not kept.

    Raises StageError where the data are not what dvc.lock says, JobError.
    """
    check("data", base)
    return _apart(
        [
            *("quality", target, "--package", str(artifact.folder), "--evaluation", str(base.artifacts / "data")),
            *("--first", str(first), "--last", str(last)),
        ],
        f"measuring {artifact} for {target}: questions {first + 1} to {last}",
    )


def runs_in_turns(target: str, folders: Sequence[Path], rounds: int, numbers: Mapping[str, int]) -> dict[str, Any]:
    """Each package's runs, one a round, while nothing else is measured in this workspace."""
    packages = [part for folder in folders for part in ("--package", str(folder))]
    options = [part for name, value in numbers.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    with undisturbed():
        return _apart(
            ["turns", target, *packages, "--rounds", str(rounds), *options],
            f"timing {target}: {rounds} rounds in turns",
        )


def _apart(arguments: list[str], what: str) -> dict[str, Any]:
    out = settings().cache / "checked" / f"{key_of({'arguments': arguments})}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        run_apart([*arguments, "--out", str(out)], what)
        figures: dict[str, Any] = json.loads(out.read_text())
        return figures
    finally:
        out.unlink(missing_ok=True)


def data_revision(base: Declared) -> str:
    """The data that this workspace measures on."""
    return revision("data", base)
