"""Out of the registry: every release of a base, and all that is kept beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress

import edge_targets
from flows import considered, explored, measured
from flows.lineage import trace
from flows.report import shapes
from flows.report.contents import Supernet, full_of, package_of, supernet_of, tasks_of
from flows.report.places import Seen, Text, alike, seen_of, unpublished
from flows.report.record import ALIASES, DrawnShape, Gate, Release, Report, TargetReport, Weighed
from registry import naming
from registry.errors import OF_ONE_VERSION
from registry.manifest import Manifest
from registry.store import PRODUCTION, Store, Version

_MOST_VERSIONS = 60
"""A target's newest versions are looked at; more would be no picture."""


class UnreadableError(ValueError):
    """The registry holds what a report cannot be made of; the message says what."""


def gather(registry: Store, model: str, gate: Gate | None = None, made: str | None = None) -> Report:
    """Everything the registry has of a base.

    Raises what the registry raises, NotFoundError where it has nothing, and UnreadableError for what is not of this version.
    """
    try:
        return _gather(registry, model, gate, made)
    except (KeyError, TypeError, AttributeError, IndexError, json.JSONDecodeError) as error:
        raise UnreadableError(
            f"something that the registry has of {model} is not as this version writes it "
            f"({type(error).__name__} {str(error)[:80]}); publish it again, or read it with the version that wrote it"
        ) from error


def _gather(registry: Store, model: str, gate: Gate | None, made: str | None) -> Report:
    names = [name for name in registry.models() if naming.base_and_target(name)[0] == model]
    if not names:
        registry.versions(model)  # raises, and names the nearest
    supernet = supernet_of(registry, model)
    noted = registry.manifest(supernet.version).lineage if supernet is not None else {}
    figures = supernet.full if supernet is not None else None
    text = Text(None if figures is None else figures["perplexity"]["nats"], noted.get("data_revision"))
    targets = [
        found
        for _, target in map(naming.base_and_target, names)
        if target and (found := _target(registry, model, target, text)) is not None
    ]
    lineage = trace(registry, model, None, supernet.version.version) if supernet is not None else ()
    return Report(
        model=model,
        licence=noted.get("base_licence"),
        source=noted.get("base_source"),
        full=None if figures is None else full_of(figures),
        targets=tuple(targets),
        shapes=_shapes(targets, supernet),
        curves=supernet.curves if supernet is not None else (),
        supernet=lineage,
        gate=gate,
        made=made,
    )


def _target(registry: Store, model: str, target: str, text: Text) -> TargetReport | None:
    """None for a registered model without a single version."""
    seen, releases, left_out = [], [], []
    searched: tuple[Weighed, ...] = ()
    beside: list[Seen] = []
    every = registry.versions(naming.package_model(model, target))
    shown = [one for index, one in enumerate(every) if index < _MOST_VERSIONS or set(ALIASES) & set(one.aliases)]
    for version in shown:
        try:
            manifest = registry.manifest(version)
            one = seen_of(version, manifest, measured.figures_of(registry, version), text)
            own = [alias for alias in ALIASES if alias in version.aliases]
            releases += [_release(registry, model, target, alias, version, manifest, one) for alias in own]
        except (*OF_ONE_VERSION, ValueError) as error:
            left_out.append(f"version {version.version}: {error}")
            continue
        seen.append(one)
        if PRODUCTION in version.aliases and (frontier := explored.frontier_of(registry, version)) is not None:
            searched = _searched(frontier)
            beside = unpublished(frontier, text)
    if len(every) > len(shown):
        left_out.append(f"{len(every) - len(shown)} older versions")
    if not seen and not left_out:
        return None
    spots, others = alike([*seen, *beside])
    releases.sort(key=lambda release: ALIASES.index(release.alias))
    return TargetReport(target, _device(target), tuple(releases), spots, searched, (*left_out, *others))


def _device(target: str) -> str:
    return edge_targets.load(target).title if target in edge_targets.names() else target


def _release(
    registry: Store, model: str, target: str, alias: str, version: Version, manifest: Manifest, seen: Seen
) -> Release:
    figures, package = manifest.facts.get("measurement", {}), package_of(registry, version, manifest)
    return Release(
        alias=alias,
        spot=seen.spot,
        tasks=tasks_of(figures.get("accuracy", {})),
        weights_mb=float(package["memory_mb"]["weights"]),
        kv_cache_mb=float(package["memory_mb"]["kv_cache"]),
        context_length=int(package["context_length"]),
        machine=seen.machine,
        data_revision=seen.data_revision,
        lineage=trace(registry, model, target, version.version),
        considered=tuple(
            Weighed(
                one.shape,
                one.quantization,
                one.perplexity,
                one.tpot_ms,
                one.memory_mb,
                one.machine,
                one.reason,
                one.chosen,
            )
            for one in considered.considered_for(registry, version)
        ),
    )


def _searched(frontier: explored.Explored) -> tuple[Weighed, ...]:
    return tuple(
        Weighed(
            one.shape,
            one.quantization,
            one.predicted.perplexity,
            one.predicted.tpot_ms,
            one.predicted.memory_mb,
            one.predicted.machine,
            one.reason,
            False,
        )
        for one in frontier.considered
    )


def _shapes(targets: Sequence[TargetReport], supernet: Supernet | None) -> tuple[DrawnShape, ...]:
    """Each released shape once, with the targets that are released with it."""
    if supernet is None:
        return ()
    used: dict[str, list[str]] = {}
    for target in targets:
        for release in target.releases:
            used.setdefault(release.spot.shape, []).append(f"{target.name} {release.alias}")
    found = []
    for shape, by in sorted(used.items()):
        with suppress(ValueError):  # of another supernet, or in a notation that is not known here
            found.append(shapes.drawn(shape, tuple(by), supernet.selection))
    return tuple(found)
