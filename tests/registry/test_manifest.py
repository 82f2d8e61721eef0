"""What a manifest takes, and what it refuses whatever its digest."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import naming
from registry.errors import DamagedError, RefusedError
from registry.manifest import MANIFEST_FILE, MOST_MANIFEST_BYTES, FileEntry, Manifest, read_manifest

DIGEST = "0" * 64
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
).filter(lambda value: _writable(value))
PLAIN = st.text("abcdefghijklmnopqrstuvwxyz0123456789_-", min_size=1, max_size=8)
PATHS = st.lists(PLAIN, min_size=1, max_size=3).map(lambda parts: "/".join((*parts[:-1], f"{parts[-1]}.json")))


def _writable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def manifest(*paths: str, **changes: Any) -> Manifest:
    given = {"kind": "package", "model": "tiny", "target": "x86", **changes}
    return Manifest(files=tuple(FileEntry(path, 1, DIGEST) for path in paths or ("a.json",)), **given)


def document(**changes: Any) -> bytes:
    """A manifest's bytes with some fields changed, in canonical form otherwise."""
    value = {**json.loads(manifest().canonical()), **changes}
    return (json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n").encode()


@given(
    paths=st.sets(PATHS, min_size=1, max_size=6),
    size=st.integers(0, 1 << 30),
    facts=st.dictionaries(st.text(), JSON, max_size=3).filter(_writable),
    target=st.none() | PLAIN,
)
def test_what_is_written_reads_back_as_it_was(paths: set[str], size: int, facts: dict[str, Any], target: str) -> None:
    files = tuple(FileEntry(path, size, "ab" * 32) for path in sorted(paths) if path.split("/")[0] != MANIFEST_FILE)
    if not files or any(b.startswith(f"{a}/") for a in paths for b in paths):
        return
    made = Manifest("package", "tiny", target, files, facts, {"base": facts})
    assert Manifest.parse(made.canonical()) == made
    assert Manifest.parse(made.canonical()).digest == made.digest


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="replace")))
def test_any_other_bytes_are_refused_and_nothing_else_is_raised(content: bytes) -> None:
    with pytest.raises(RefusedError):
        Manifest.parse(content)


@given(st.data())
def test_any_single_changed_byte_makes_another_digest_or_is_refused(data: st.DataObject) -> None:
    made = manifest("a.json", "b/c.json", facts={"quality": 1.5})
    content = bytearray(made.canonical())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(RefusedError):
        assert Manifest.parse(bytes(content)).digest != made.digest


@given(
    parts=st.lists(PLAIN, max_size=2),
    bad=st.sampled_from(["..", ".", "", " ", "...", "a.", "a ", "C:", "a\\b", "a\0b", "a\nb", "a\x7f", "a\u202eb"])
    | st.sampled_from(["\ud800", "e\u0301", "a#b", "a%2e", "a?b", "x" * 256, "é" * 128]),
    place=st.integers(0, 2),
)
def test_a_path_with_one_bad_part_is_refused_wherever_it_stands(parts: list[str], bad: str, place: int) -> None:
    with pytest.raises(RefusedError, match="path"):
        FileEntry("/".join((*parts[:place], bad, *parts[place:])), 1, DIGEST)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../a", "a/../../b", "a//b", "a/", "C:/a", "\\\\host\\a", "", "x/" * 251]
)
def test_a_path_that_leaves_the_folder_or_names_none_is_refused(path: str) -> None:
    with pytest.raises(RefusedError, match="path"):
        FileEntry(path, 1, DIGEST)


@pytest.mark.parametrize("path", ["a.pkl", "a.PICKLE", "b/model.pt", "a.pth", "pytorch_model.bin", "a.joblib", ".bin"])
def test_what_unpickles_when_opened_is_refused_by_its_suffix(path: str) -> None:
    with pytest.raises(RefusedError, match=r"may be a pickle.*use safetensors"):
        FileEntry(path, 1, DIGEST)


@pytest.mark.parametrize("size", [-1, 1 << 40, 1.0, True, "1", None])
def test_a_size_that_is_no_bounded_whole_number_is_refused(size: Any) -> None:
    with pytest.raises(RefusedError, match="is said to have"):
        FileEntry("a", size, DIGEST)


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 64 + "\n", None, 0])
def test_a_digest_that_is_not_64_lower_case_hexadecimal_digits_is_refused(digest: Any) -> None:
    with pytest.raises(RefusedError, match="64 lower-case hexadecimal digits"):
        FileEntry("a", 1, digest)


@pytest.mark.parametrize(
    "paths",
    [
        ("README", "readme"),
        ("A/x", "a/y"),
        ("stra\u00dfe", "strasse"),
        ("a", "a/b"),
        ("a", "a"),
    ],
)
def test_two_paths_that_meet_on_some_file_system_are_refused(paths: tuple[str, str]) -> None:
    with pytest.raises(RefusedError, match=r"same place|both a file and a folder|each file once"):
        manifest(*sorted(paths))


@pytest.mark.parametrize("path", [MANIFEST_FILE, "Manifest.JSON", "manifest.json/a"])
def test_a_manifest_that_lists_its_own_place_is_refused(path: str) -> None:
    with pytest.raises(RefusedError, match="takes the place of"):
        manifest(path)


def test_unsorted_files_are_refused() -> None:
    with pytest.raises(RefusedError, match="sorted by path"):
        manifest("b", "a")


def test_too_many_files_are_refused() -> None:
    with pytest.raises(RefusedError, match="1 to 10000 files, got 10001"):
        manifest(*(f"f{index:05}" for index in range(10_001)))


def test_no_files_are_refused() -> None:
    with pytest.raises(RefusedError, match="1 to 10000 files, got 0"):
        Manifest("package", "tiny", None, ())


def test_files_that_are_too_large_only_together_are_refused() -> None:
    with pytest.raises(RefusedError, match="together"):
        Manifest("package", "tiny", None, tuple(FileEntry(path, 1 << 39, DIGEST) for path in "ab"))


@pytest.mark.parametrize(
    "changes",
    [
        {"format_version": 2},
        {"format_version": True},
        {"format_version": 1.0},
        {"kind": "dataset"},
        {"kind": []},
        {"model": 1},
        {"model": ""},
        {"target": ["x86"]},
        {"facts": []},
        {"lineage": None},
        {"files": {}},
        {"files": "abc"},
        {"files": []},
        {"files": [{"path": "a", "size": 1}]},
        {"files": [{"path": "a", "size": 1, "sha256": DIGEST, "mode": 7}]},
        {"files": [{"path": "a", "size": 1, "sha256": DIGEST}] * 2},
        {"signature": "x"},
        {"facts": {"quality": float("nan")}},
        {"facts": {"quality": float("inf")}},
    ],
)
def test_a_document_of_another_form_is_refused(changes: dict[str, Any]) -> None:
    assert Manifest.parse(document()) == manifest()
    with pytest.raises(RefusedError):
        Manifest.parse(document(**changes))


@pytest.mark.parametrize("missing", ["files", "kind", "model", "target", "facts", "lineage", "format_version"])
def test_a_document_without_one_of_its_fields_is_refused(missing: str) -> None:
    value = json.loads(document())
    del value[missing]
    with pytest.raises(RefusedError):
        Manifest.parse((json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n").encode())


@pytest.mark.parametrize(
    "content",
    [
        manifest().canonical().rstrip(b"\n"),
        manifest().canonical() + b"\n",
        b" " + manifest().canonical(),
        manifest().canonical().replace(b'"model":"tiny"', b'"model":"tiny","model":"tiny"'),
        manifest().canonical().replace(b'"tiny"', b'"\\u0074iny"'),
        manifest().canonical().replace(b'"facts":{}', b'"facts":{"a":"\\ud800"}'),
        b'{"files":' + b"[" * 100_000,
        manifest().canonical().replace(b'"facts":{}', b'"facts":' + b'{"a":' * 900 + b"1" + b"}" * 900),
        b"\xef\xbb\xbf" + manifest().canonical(),
        manifest().canonical().decode().encode("utf-16"),
    ],
)
def test_a_document_that_is_not_canonical_is_refused(content: bytes) -> None:
    with pytest.raises(RefusedError):
        Manifest.parse(content)


def test_a_document_that_is_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(RefusedError, match=f"at most {MOST_MANIFEST_BYTES}"):
        Manifest.parse(b" " * (MOST_MANIFEST_BYTES + 1))


def test_facts_that_would_make_an_unreadable_manifest_are_refused_when_it_is_made() -> None:
    with pytest.raises(RefusedError, match="at most"):
        manifest(facts={"text": "x" * MOST_MANIFEST_BYTES})
    with pytest.raises(RefusedError, match="plain JSON"):
        manifest(facts={"quality": float("nan")})
    with pytest.raises(RefusedError, match="plain JSON"):
        manifest(lineage={"where": Path("x")})


def test_facts_changed_after_the_manifest_was_made_do_not_change_it() -> None:
    facts = {"shape": "d4w75"}
    made = manifest(facts=facts)
    before = made.digest
    facts["shape"] = "d1w1"
    assert made.digest == before


def test_the_same_bytes_with_other_figures_keep_their_content_digest_only() -> None:
    made = manifest(facts={"latency_ms": 1})
    again = replace(made, facts={"latency_ms": 2})
    assert made.digest != again.digest
    assert made.content_digest == again.content_digest


def test_a_folder_verifies_against_its_own_manifest_and_reads_it_back(make_artifact: Any) -> None:
    folder, made = make_artifact()
    made.verify(folder)
    (folder / MANIFEST_FILE).write_bytes(made.canonical())
    read_manifest(folder).verify(folder)
    assert [entry.path for entry in made.files] == ["config.json", "model.onnx", "texts/LICENSE"]


def _flip(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[100] ^= 1
    (folder / "model.onnx").write_bytes(content)


def _link(folder: Path) -> None:
    (folder / "model.onnx").rename(folder.parent / "elsewhere")
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere")


def _link_folder(folder: Path) -> None:
    (folder / "texts").rename(folder.parent / "texts elsewhere")
    (folder / "texts").symlink_to(folder.parent / "texts elsewhere")


ATTACKS = {
    "a flipped byte": (_flip, "model.onnx has SHA-256"),
    "a short file": (lambda folder: os.truncate(folder / "model.onnx", 5), "has 5 bytes, the manifest says 16384"),
    "a missing file": (lambda folder: (folder / "texts/LICENSE").unlink(), "texts/LICENSE is missing"),
    "an extra file": (lambda folder: (folder / "texts/more").write_text("x"), "holds texts/more, which"),
    "a symbolic link": (_link, "link or a special file"),
    "a linked folder": (_link_folder, "link or a special file"),
    "a hard link": (lambda folder: os.link(folder / "model.onnx", folder.parent / "second"), "is a link"),
    "a named pipe": (lambda folder: os.mkfifo(folder / "pipe"), "special file"),
    "a folder for a file": (
        lambda folder: ((folder / "config.json").unlink(), (folder / "config.json").mkdir()),
        "no plain file",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_folder_does_not_verify_with(attack: str, make_artifact: Any) -> None:
    folder, made = make_artifact()
    change, message = ATTACKS[attack]
    change(folder)
    with pytest.raises(DamagedError, match=message):
        made.verify(folder)


def test_a_folder_that_is_not_there_does_not_verify(make_artifact: Any) -> None:
    folder, made = make_artifact()
    with pytest.raises(DamagedError, match="cannot be read whole"):
        made.verify(folder / "nowhere")


def test_a_folder_with_a_link_gets_no_manifest(make_artifact: Any) -> None:
    folder, _ = make_artifact()
    (folder / "out").symlink_to("/etc/hostname")
    with pytest.raises(DamagedError, match="plain files only"):
        Manifest.of(folder, kind="package", model="tiny", target=None, facts={}, lineage={})


def test_a_folder_without_a_manifest_says_so(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match=r"no manifest\.json"):
        read_manifest(tmp_path)


def test_names_join_a_base_and_a_target_and_refuse_what_would_read_in_two_ways() -> None:
    assert naming.package_model("smollm2-135m", "x86_avx512") == "smollm2-135m--x86_avx512"
    assert naming.supernet_model("smollm2-135m") == "smollm2-135m"
    for bad in ("a--b", "", "a/b", "a'b", "-a", "a-", "a b", "a\n", "a" * 101, "é"):
        with pytest.raises(RefusedError, match="no registry name"):
            naming.package_model(bad, "x86")
        with pytest.raises(RefusedError, match="no registry name"):
            naming.package_model("tiny", bad)
    for bad in ("latest", "v1", "1", "", "A", "a b", "a\n"):
        with pytest.raises(RefusedError, match="is no alias"):
            naming.check_alias(bad)


def test_a_device_can_import_the_manifest_without_loading_mlflow() -> None:
    code = "import sys, registry.manifest, registry.store; sys.exit('mlflow' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
