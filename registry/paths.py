"""Which paths an artifact's files may have, on every file system, in every URL, whatever their digest.

1. A path is relative, in POSIX form and in NFC, with no `..`, no empty or dotted-only part, no backslash, colon or
   control character, no space but the plain one, and nothing that means something else in a URL or is a device on Windows.
2. No two paths, nor the folders on the way to them, are the same to a file system that folds case or normalises
   Unicode; no path is both a file and a folder.
3. The manifest and its signature keep their own places.
4. Nothing that unpickles when opened is listed: the suffix alone refuses it.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from registry.errors import RefusedError

MANIFEST_FILE, SIGNATURE_FILE = "manifest.json", "model.sig"
UNLISTED = (MANIFEST_FILE, SIGNATURE_FILE)
"""What lies beside an artifact's files without being one of them."""
PICKLED = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".joblib")
MOST_PATH_CHARACTERS = 500
_MOST_PART_BYTES = 255
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def check_path(path: Any) -> None:
    """Raise RefusedError unless this may be the path of a file."""
    if not isinstance(path, str) or not 1 <= len(path) <= MOST_PATH_CHARACTERS:
        raise RefusedError(f"a path has 1 to {MOST_PATH_CHARACTERS} characters, got {str(path)[:80]!r}")
    parts = path.split("/")
    if any(part.strip(". ") == "" or part != part.strip(" ") or part.endswith(".") for part in parts):
        raise RefusedError(f"path {path!r} has an empty, dotted or space-ended part")
    # MLflow puts a path into a URL as it is, so `#` cuts it short and `%41` arrives as `A`.
    if any(character in '\\:<>"|?*#%' or _is_unseen(character) for character in path):
        raise RefusedError(f"path {path!r} has a character that not every file system or server takes")
    if any(_DEVICES.fullmatch(part) for part in parts):
        raise RefusedError(f"path {path!r} names a device on Windows, not a file")
    if any(len(part.encode()) > _MOST_PART_BYTES for part in parts):
        raise RefusedError(f"path {path[:80]!r}… has a part of more than {_MOST_PART_BYTES} bytes")
    if unicodedata.normalize("NFC", path) != path:
        raise RefusedError(f"path {path!r} is not in Unicode's NFC form")
    if path.casefold().endswith(PICKLED):
        raise RefusedError(f"{path} may be a pickle, which runs code when opened; use safetensors or another suffix")


def _is_unseen(character: str) -> bool:
    """Whether a character is a control, no character at all, or a space or line end that looks like another."""
    return unicodedata.category(character)[0] in "CZ" and character != " "


def check_apart(paths: list[str]) -> None:
    """Raise RefusedError where two paths, or folders on the way, would meet on a file system that folds names."""
    places = {_folded(name): (name, True) for name in UNLISTED}
    for path in paths:
        parts = path.split("/")
        for count in range(1, len(parts) + 1):
            place, is_file = "/".join(parts[:count]), count == len(parts)
            other, other_is_file = places.setdefault(_folded(place), (place, is_file))
            if other in UNLISTED and count == 1:
                raise RefusedError(f"{path!r} takes the place of {other}, which a manifest does not list")
            if other == place and other_is_file != is_file:
                raise RefusedError(f"{place!r} is both a file and a folder of the manifest")
            if other != place:
                raise RefusedError(f"{place!r} and {other!r} of the manifest are the same place to some file systems")
    if len(set(paths)) != len(paths):
        raise RefusedError("a manifest lists each file once")


def _folded(path: str) -> str:
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())
