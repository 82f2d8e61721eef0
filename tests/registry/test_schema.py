"""The committed schemas say what the code does, on good manifests and on thousands of hostile ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import pytest
from fixtures.schemas import FORM, SCHEMAS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from registry import manifest as code
from registry import paths as path_rules
from registry.errors import RefusedError
from registry.manifest import FileEntry, Manifest

DIGEST = "ab" * 32

PIECES = (
    *("a", "b", "A", "é", "e\u0301", "ß", "ss", "\u212a", "\u0131", "🦀", "x" * 255, "é" * 128),
    *("/", "//", "..", ".", "\\", "C:", " ", "\0", "\n", "\x7f", "\x85", "\u202e", "\u200b", "\ud800", "\ufeff"),
    *("con", "NUL", "com1", "aux.txt", "lpt9.tar.gz", "~", "#", "%2e", "?", "*", "|", "<", '"', "$HOME", "-rf"),
    *(".pkl", ".BIN", ".pt", ".joblib", ".json", "manifest.json", "Model.SIG", "model.sig"),
)
ANY_PATH = st.lists(st.sampled_from(PIECES), min_size=2, max_size=5).map("".join) | st.text(max_size=10)
JUNK = st.sampled_from(
    [
        *(None, True, False, 0, 1, -1, 2, 1.0, 1e400, 1 << 40, 1 << 80),
        *("", "a", "x" * 201, "\ud800", DIGEST, DIGEST.upper(), "package", "supernet"),
        *([], [[]], {}, {"a": None}, [None], {"path": "a", "sha256": DIGEST, "size": 1}, ["package"]),
    ]
)
GOOD_PARTS = st.text("abcdefghijklmnopqrstuvwxyz0123456789_-", min_size=1, max_size=8)
GOOD_PATHS = st.lists(GOOD_PARTS, min_size=1, max_size=3).map(lambda parts: "/".join((*parts[:-1], f"{parts[-1]}.x")))


def document(paths: Iterable[str] = ("a",), **changes: Any) -> dict[str, Any]:
    files = [{"path": path, "sha256": DIGEST, "size": 1} for path in paths]
    made = {"facts": {}, "files": files, "format_version": 1, "kind": "package", "lineage": {}, "model": "tiny"}
    return {**made, "target": "x86", **changes}


def written(value: Any) -> bytes:
    """As the canonical form would have it, were it a manifest."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"{text}\n".encode(errors="surrogatepass")


def parsed(content: bytes) -> Manifest | None:
    """What the parser makes of it; anything but a manifest and a refusal fails the test."""
    try:
        return Manifest.parse(content)
    except RefusedError:
        return None


def is_harmless(paths: list[str]) -> bool:
    """The slow obvious thing: no path leaves a folder, is special or meets another, on POSIX or on Windows."""
    for path in paths:
        windows, posix = PureWindowsPath(path), PurePosixPath(path)
        if windows.drive or windows.root or posix.is_absolute() or ".." in (*windows.parts, *posix.parts):
            return False
        if windows.is_reserved() or posix.as_posix() != path or windows.as_posix() != path or not path.isprintable():
            return False
    folded = {prefix.casefold() for path in paths for prefix in map(str, [PurePosixPath(path)])}
    return len(folded) == len(paths) and not folded & {"manifest.json", "model.sig"}


@st.composite
def hostile_documents(draw: st.DrawFn) -> dict[str, Any]:
    """A manifest with hostile paths, or with any value at two of its places."""
    if draw(st.booleans()):
        paths = draw(st.lists(ANY_PATH, min_size=1, max_size=2))
        return document(sorted(paths) if draw(st.booleans()) else paths)
    value = document()
    places: list[tuple[Any, Any]] = [(value, name) for name in (*value, "more")]
    places += [(value["files"], 0), *((value["files"][0], name) for name in ("path", "sha256", "size", "mode"))]
    for holder, name in draw(st.lists(st.sampled_from(places), min_size=2, max_size=2)):
        holder[name] = draw(JUNK)
    return value


def test_ten_thousand_hostile_manifests_are_refused_and_what_is_not_refused_is_harmless_and_valid() -> None:
    refused = set()

    @settings(max_examples=15_000, suppress_health_check=list(HealthCheck))
    @given(hostile_documents())
    def holds(value: dict[str, Any]) -> None:
        made, content = parsed(written(value)), written(value)
        if made is None:
            refused.add(content)
        else:
            assert made.canonical() == content
            assert is_harmless([entry.path for entry in made.files])
            assert FORM.is_valid(value)

    holds()
    assert len(refused) >= 10_000, len(refused)


@settings(max_examples=1000, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_what_the_parser_refuses_and_the_schema_takes_is_what_a_schema_cannot_say(data: st.DataObject) -> None:
    value, name = document(), data.draw(st.sampled_from([*document(), "path", "sha256", "size"]))
    holder = value if name in value else value["files"][0]
    holder[name] = data.draw(JUNK)
    if parsed(written(value)) is None and FORM.is_valid(value):
        assert "\ud800" in str(holder[name]) or isinstance(holder[name], float)


@settings(max_examples=200)
@given(paths=st.sets(GOOD_PATHS, min_size=1, max_size=4), size=st.integers(0, 1 << 30), target=st.none() | GOOD_PARTS)
def test_what_the_code_writes_is_valid(paths: set[str], size: int, target: str | None) -> None:
    files = tuple(FileEntry(path, size, DIGEST) for path in sorted(paths))
    made = Manifest("package", "tiny", target, files, {"a": 1}, {"b": [None]})
    FORM.validate(json.loads(made.canonical()))


BOTH_REFUSE = {
    **{f"no {name}": name for name in document()},
    **{f"{path!r}": document([path]) for path in ("", "/a", "../a", "a/..", "a//b", "a/", "C:a", "a\\b", "a\0", "a\n")},
    **{
        f"{path!r}": document([path]) for path in (" a", "a ", "a.", "a/./b", "a#b", "a%41", "a.pkl", "b/a.PT", "a\x85")
    },
    **{f"{path!r}": document([path]) for path in ("con", "b/NUL.txt", "com1", "manifest.json", "MODEL.sig/a")},
    "a path of 501 characters": document(["a/" * 250 + "a"]),
    "too many files": document(f"{number:05}" for number in range(10_001)),
    "a giant": document(files=[{"path": "a", "sha256": DIGEST, "size": 1 << 40}]),
    "a digest with a line feed": document(files=[{"path": "a", "sha256": DIGEST + "\n", "size": 1}]),
    "a model of 201 characters": document(model="x" * 201),
    "another format": document(format_version=2),
}


@pytest.mark.parametrize("what", BOTH_REFUSE)
def test_the_schema_and_the_parser_both_refuse(what: str) -> None:
    given_value = BOTH_REFUSE[what]
    value = document()
    if isinstance(given_value, str):
        del value[given_value]
    else:
        value = given_value
    assert not FORM.is_valid(value)
    assert parsed(written(value)) is None


def test_the_bounds_of_the_schema_are_those_of_the_code() -> None:
    properties, definitions = FORM.schema["properties"], FORM.schema["$defs"]
    assert properties["format_version"]["const"] == code.FORMAT_VERSION
    assert properties["files"]["maxItems"] == code._MOST_FILES
    assert definitions["file"]["properties"]["size"]["maximum"] == code._MOST_BYTES - 1
    assert definitions["name"]["maxLength"] == code._MOST_NAME_CHARACTERS
    assert definitions["path"]["maxLength"] == path_rules.MOST_PATH_CHARACTERS
    for bound in (code._MOST_BYTES - 1, code._MOST_NESTING, code.MOST_MANIFEST_BYTES, path_rules._MOST_PART_BYTES):
        assert str(bound) in FORM.schema["description"]
    for suffix in path_rules.PICKLED:
        assert not FORM.is_valid(document([f"a{suffix}"]))


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_schemas_are_schemas(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name])
