"""The registry as the rest of the project uses it: publish, promote, resolve, pull, attach."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from registry import attachments, promoting, promotions, publishing, pulling, versions
from registry.errors import OF_ONE_VERSION, NotFoundError
from registry.manifest import Manifest
from registry.progress import Progress, silent
from registry.promotions import CANDIDATE, PREVIOUS, PRODUCTION, Promotion
from registry.server import CONTENT_TAG, EXPERIMENT, MANIFEST_TAG, Server, Version
from registry.shelf import Shelf

__all__ = ["CANDIDATE", "CONTENT_TAG", "EXPERIMENT", "MANIFEST_TAG", "PREVIOUS", "PRODUCTION", "Store", "Version"]


class Store(Server):
    """MLflow's registry keeps names and pointers but does not protect bytes; what goes through here is protected."""

    def publish(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        registered_model: str,
        alias: str = PRODUCTION,
        tags: Mapping[str, str] | None = None,
        run_id: str | None = None,
        reason: str = "published",
        progress: Progress = silent,
    ) -> Version:
        """Upload, read back, register, and promote to `alias`; what was `production` before becomes `previous`.

        A version that holds this very manifest already is read back and used again. Without `run_id`, a run is made
        and ended here. Raises DamagedError when the folder, or what the server holds of it, is not what the manifest
        says, and RefusedError, SignatureError, NoSpaceError or UnreachableError; the alias then is where it was.
        """
        return publishing.publish(
            self,
            folder,
            manifest,
            registered_model=registered_model,
            alias=alias,
            tags=tags or {},
            run_id=run_id,
            reason=reason,
            progress=progress,
        )

    def published(self, registered_model: str, manifest: Manifest, alias: str = PRODUCTION) -> Version | None:
        """The version of that alias when it holds these very files, read back, signed by the key that signs here, if one does."""
        try:
            current = self.resolve(registered_model, alias)
        except (NotFoundError, *OF_ONE_VERSION):
            return None
        if current.tags.get(CONTENT_TAG) != manifest.content_digest:
            return None
        return current if publishing.is_sound(self, current) else None

    def pull(
        self,
        registered_model: str,
        to: Path,
        alias_or_version: str = PRODUCTION,
        progress: Progress = silent,
        shelf: Shelf | None = None,
        promoted: Promotion | None = None,
    ) -> Manifest:
        """Bring a version to the folder `to`; nothing is fetched when it is there already and whole.

        The record that promoted a version which is asked for by its number is `promoted`, where it was found by one: a
        folder that has seen a newer one of that alias does not take it.

        Raises NotFoundError, DamagedError, RefusedError, SignatureError, NoSpaceError or UnreachableError; `to` then
        is as it was.
        The folder it replaces stays beside it as `.<name>.previous`. Files on the `shelf` are not fetched again.
        """
        return pulling.pull(self, registered_model, to, alias_or_version, progress, shelf, promoted)

    def manifest(self, version: Version) -> Manifest:
        """The manifest of a version: bounded, hashed, read, and signed by whom this registry trusts.

        Raises DamagedError, RefusedError or SignatureError.
        """
        return pulling.registered(self, version)[0]

    def attach(self, version: Version, kind: str, content: bytes) -> None:
        """Keep a small document beside a version, whose own bytes never change; the latest of a kind is the one found.

        Raises RefusedError for one that is too large, or UnreachableError; the one before then is still the one found.
        """
        attachments.attach(self, version, kind, content)

    def attached(self, version: Version, kind: str) -> bytes | None:
        """The latest document of a kind, of the size and digest that were noted; raises DamagedError for any other."""
        return attachments.attached(self, version, kind)

    def models(self) -> tuple[str, ...]:
        """Every base's and package's registered model, sorted."""
        return versions.models(self)

    def versions(self, registered_model: str) -> tuple[Version, ...]:
        """All versions, newest first, none where a publisher was stopped before its first.

        Raises NotFoundError for a model that is not there, RefusedError for what cannot be a model's name.
        """
        return versions.every(self, registered_model)

    def find(self, registered_model: str, tag: str, value: str) -> Version | None:
        """The newest version with this tag, None where there is none."""
        return versions.find(self, registered_model, tag, value)

    def resolve(self, registered_model: str, alias_or_version: str = PRODUCTION) -> Version:
        """The version an alias points to, or the version of that number; raises NotFoundError or RefusedError."""
        return versions.resolve(self, registered_model, alias_or_version)

    def released(self, registered_model: str, alias: str = PRODUCTION) -> tuple[Version, Promotion | None]:
        """What `resolve` finds, and the record that promoted it, where one did."""
        return versions.released(self, registered_model, alias)

    def promote(
        self, version: Version, alias: str = PRODUCTION, *, reason: str, expected: str | None = None
    ) -> Promotion | None:
        """Record that `alias` is `version` from now on; None where it was so already.

        Raises ConflictError where the alias is not at the version `expected`.
        """
        return promoting.promote(self, version, alias, reason=reason, by=promoting.author(), expected=expected)

    def roll_back(self, registered_model: str, *, reason: str) -> Promotion:
        """Promote what `production` was before; raises NotFoundError where there is nothing to go back to."""
        return promoting.roll_back(self, registered_model, reason=reason, by=promoting.author())

    def history(self, registered_model: str) -> tuple[Promotion, ...]:
        """Every promotion, newest first."""
        return promotions.read(self, registered_model).records
