"""`amoeba pull`: what a device runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.progress import say
from flows.cli_output import AllowUnsigned, Json, RequireSignature, print_json

if TYPE_CHECKING:
    from flows.finding import Limits
    from registry.manifest import Manifest
    from registry.trust import Wanted


def pull(
    model: Annotated[str, typer.Argument(help="The base's name in the registry.")],
    to: Annotated[Path, typer.Option(help="The folder that the artifact becomes.")],
    target: Annotated[str | None, typer.Argument(help="One of `amoeba targets`; none with --auto.")] = None,
    version: Annotated[str, typer.Option(help="A version number or an alias.")] = "production",
    auto: Annotated[bool, typer.Option("--auto", help="The best one that runs on this machine.")] = False,
    max_latency_ms: Annotated[float | None, typer.Option(min=0, help="Most milliseconds a token.")] = None,
    max_memory_mb: Annotated[float | None, typer.Option(min=0, help="Most memory, KV cache included.")] = None,
    min_accuracy: Annotated[float | None, typer.Option(min=0, max=100, help="Least percent of questions.")] = None,
    build: Annotated[bool, typer.Option("--build", help="Build it from the supernet where nothing meets it.")] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Swap with what the last pull replaced, offline.")
    ] = False,
    cache: Annotated[bool, typer.Option(help="Keep fetched files, so that none is fetched twice.")] = True,
    require_signature: RequireSignature = False,
    allow_unsigned: AllowUnsigned = False,
    as_json: Json = False,
) -> None:
    """Fetch an artifact, verify its signature and every file, and put it in place in one step.

    A signature by a trusted key is required where any key is known (`amoeba keys list`).

    \b
    amoeba pull smollm2-135m x86_avx512 --to model
    amoeba pull smollm2-135m --auto --max-latency-ms 8 --to model
    amoeba pull smollm2-135m x86_avx2 --max-latency-ms 4 --build --to model
    amoeba pull smollm2-135m --rollback --to model
    """
    from flows import trusting
    from flows.finding import Limits

    signature = trusting.wanted(require_signature, allow_unsigned)
    limits = Limits(max_latency_ms, max_memory_mb, None if min_accuracy is None else min_accuracy / 100)
    if rollback:
        from registry import naming
        from registry.placing import manifest_before, roll_back

        if version != "production" or auto or build or limits.given:
            raise ValueError(
                "--rollback brings back what the last pull replaced; a version, --auto, --build and limits choose another"
            )
        name = naming.package_model(model, target or str(manifest_before(to).target))
        manifest = roll_back(to, name, trusting.trust(signature))
    else:
        manifest = _fetched(model, target, to, version, limits, auto, build, cache, signature)
    signer = trusting.signer_of(to, manifest, signature)
    if as_json:
        print_json(
            {
                "folder": str(to),
                "target": manifest.target,
                "manifest": manifest.digest,
                "files": len(manifest.files),
                "bytes": manifest.size,
                "signer": signer,
            }
        )
    else:
        typer.echo(
            f"{to}: {manifest.model} for {manifest.target}, {len(manifest.files)} files, {manifest.size / 1e6:.1f} MB, all as "
            f"the manifest says; {trusting.told(signer)}"
        )


def _fetched(
    model: str,
    target: str | None,
    to: Path,
    version: str,
    limits: Limits,
    auto: bool,
    build: bool,
    cache: bool,
    signature: Wanted,
) -> Manifest:
    from flows.finding import check_published, why_left
    from flows.tracking import shelf, store
    from registry import naming
    from registry.errors import NotFoundError

    if (target is None) != auto:
        raise ValueError("name a target, one of `amoeba targets`, or ask for --auto, and not for both")
    registry, promoted = store(signature), None
    if target is None or limits.given or build:
        from edge_targets._device.machine import here
        from flows.obtaining import obtain

        found = obtain(registry, model, target, limits, here() if auto else None, alias=version, build=build)
        for offer in found.offers[1:]:
            say(f"left: {offer}: {why_left(offer, found.offers[0])}")
        target, version, promoted = found.target, found.version, found.promoted
    kept = shelf() if cache else None
    try:
        return registry.pull(naming.package_model(model, target), to, version, _bytes_done, kept, promoted)
    except NotFoundError:
        check_published(registry, model, target)
        raise


def _bytes_done(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        sys.stderr.write(f"\r{done / 1e6:.0f} of {total / 1e6:.0f} MB{end}")
        sys.stderr.flush()
