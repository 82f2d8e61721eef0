"""What can go wrong between a publisher, the registry and a device: one small tree, each message with the next step."""

from __future__ import annotations


class RegistryError(Exception):
    """Anything the registry refuses or cannot do."""


class NotFoundError(RegistryError):
    """No such model, version or alias."""


class DamagedError(RegistryError):
    """Bytes are not those that the manifest names."""


class MissingError(DamagedError):
    """A file is not where its version is."""


class RefusedError(RegistryError):
    """A name, size or document that is never acceptable, whatever its digest."""


class UnreachableError(RegistryError):
    """The registry does not answer."""


class NoSpaceError(RegistryError):
    """The disk is too full for what was to be written."""


class ConflictError(RegistryError):
    """Someone else promoted meanwhile."""


class SignatureError(RegistryError):
    """What must be signed is not signed, or not by a key that is trusted, or was altered after it was signed."""


OF_ONE_VERSION = (DamagedError, RefusedError, SignatureError)
"""What is wrong with one version, and keeps nobody from any other."""
