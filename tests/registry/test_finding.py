"""What a machine is offered of several published artifacts, and why the others are left."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from fixtures.artifacts import kept

from components.frontier import Point
from edge_targets._device.machine import Machine
from flows import bases, cli_pull, measured, tracking
from flows.explored import KIND, Explored, Member, Predicted, Reference, Samples
from flows.finding import Limits, NothingSuitsError, best
from flows.measured import KIND as MEASUREMENT
from flows.obtaining import obtain
from registry.errors import NotFoundError, SignatureError
from registry.keys import KeyFile, make_key
from registry.manifest import MANIFEST_FILE, Manifest, read_manifest
from registry.promotions import name_of_trail
from registry.store import CANDIDATE, MANIFEST_TAG, Store, Version
from registry.trust import Trust

SERVER = Machine("linux", "x86_64", frozenset({"avx2", "fma", "avx512f", "avx512_vnni"}), 8000)
LAPTOP = replace(SERVER, flags=frozenset({"avx2", "fma"}))
GOOD = Point("d4w100", "int8", 20.0, 0.6, (0.5, 0.7), 100.0, 8.0, 300.0, 130.0, "host")
FAST = Point("d4w75", "int4", 30.0, 0.5, (0.4, 0.6), 60.0, 4.0, 200.0, 90.0, "host")
UNKNOWN = Point("d4w75", "fp16", None, None, None, 60.0, 2.0, 200.0, 90.0, "predicted")
_numbers = itertools.count()


@pytest.fixture
def base(store: Store, tmp_path: Path) -> str:
    """A base with a package for each of three targets in production, and one more that is a candidate."""
    name = f"offered{next(_numbers)}"
    published = {"x86_avx512": GOOD, "x86_avx2": FAST, "jetson_thor": UNKNOWN}
    for target, point in published.items():
        _publish(store, tmp_path, name, target, point)
    _publish(store, tmp_path, name, "x86_avx2", replace(GOOD, tpot_ms=1.0), CANDIDATE)
    return name


def _publish(store: Store, folder: Path, base: str, target: str, point: Point, alias: str = "production") -> Version:
    place = folder / f"{target}-{alias}"
    place.mkdir()
    (place / "model").write_bytes(place.name.encode())
    facts = {"point": point.to_json(), "measurement": {"model_files": {"model": ""}}}
    manifest = Manifest.of(place, kind="package", model=base, target=target, facts=facts, lineage={})
    return store.publish(place, manifest, registered_model=f"{base}--{target}", alias=alias)


def test_the_most_accurate_that_runs_here_comes_first_and_the_others_say_why_not(store: Store, base: str) -> None:
    first, second, third = best(store, base, SERVER, Limits())
    assert (first.target, first.left) == ("x86_avx512", "")
    assert (second.target, second.left) == ("x86_avx2", "")
    assert third.target == "jetson_thor"
    assert third.left.startswith("it is for a Jetson Thor")


@pytest.mark.parametrize(
    ("other", "said"),
    [(GOOD, "it measured the same"), (replace(GOOD, tpot_ms=9.0), "it measured worse")],
    ids=["a tie", "slower"],
)
def test_what_is_left_for_another_that_measured_the_same_is_said_so(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    other: Point,
    said: str,
) -> None:
    base = f"offered{next(_numbers)}"
    _publish(store, tmp_path, base, "x86_avx2", GOOD)
    _publish(store, tmp_path, base, "x86_avx512", other)
    monkeypatch.setattr(tracking, "store", lambda signature: store)
    monkeypatch.setattr("edge_targets._device.machine.here", lambda: SERVER)
    cli_pull._fetched(base, None, tmp_path / "device", "production", Limits(), True, False, False, "when known")
    assert f"left: x86_avx512 version 1: {said}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("machine", "limits"),
    [
        (LAPTOP, Limits()),
        (SERVER, Limits(max_latency_ms=5)),
        (SERVER, Limits(max_memory_mb=250)),
        (replace(SERVER, memory_mb=250), Limits()),
    ],
    ids=["no AVX-512", "latency", "memory", "less memory"],
)
def test_what_a_machine_or_a_limit_rules_out_is_left(store: Store, base: str, machine: Machine, limits: Limits) -> None:
    assert best(store, base, machine, limits)[0].target == "x86_avx2"


def test_where_nothing_suits_every_artifact_is_told_why(store: Store, base: str) -> None:
    with pytest.raises(NothingSuitsError) as failure:
        best(store, base, SERVER, Limits(max_latency_ms=5, min_accuracy=0.55))
    said = str(failure.value)
    assert "within 5 ms a token, 55.0% accuracy" in said
    assert "x86_avx512: 8.0 ms a token (host), over 5" in said
    assert "x86_avx2: accuracy 50.0%, under 55.0%" in said
    assert "jetson_thor: it is for a Jetson Thor" in said


def test_another_alias_is_searched_when_asked_for(store: Store, base: str) -> None:
    (only,) = best(store, base, LAPTOP, Limits(max_latency_ms=2), CANDIDATE)
    assert only.version.version == "2"


def test_a_base_without_packages_is_told_what_there_is(store: Store, base: str) -> None:
    with pytest.raises(
        NothingSuitsError, match=f"no package of another is published as production; packages are .*{base}--x86_avx2"
    ):
        best(store, "another", SERVER, Limits())


@pytest.mark.parametrize(
    ("model", "target", "said"),
    [
        (
            "",
            "jetson_orin_nano",
            "are jetson_thor, x86_avx2, x86_avx512; `amoeba onboard {} --target jetson_orin_nano` makes it",
        ),
        ("", "x86_avx21", "did you mean {}--x86_avx2"),
        ("e", "x86_avx2", "did you mean {}--x86_avx2"),
    ],
    ids=["a target that is known", "a target's misspelt name", "a base's misspelt name"],
)
def test_a_pull_for_a_target_that_nothing_is_published_for_says_what_makes_it(
    store: Store, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, target: str, said: str
) -> None:
    monkeypatch.setattr(tracking, "store", lambda signature: store)
    with pytest.raises(NotFoundError, match=said.format(base)):
        cli_pull._fetched(
            base + model, target, tmp_path / "device", "production", Limits(), False, False, False, "when known"
        )


def test_where_the_supernet_is_not_there_what_brings_it_is_said(
    store: Store, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a clone that has not pulled yet."""
    declared = {base: {"source": "smollm2-135m", "fingerprint": "ab" * 32, "profile": "tiny"}}
    stages = {f"{stage}@{base}": {"outs": [{"md5": f"{'ab' * 16}.dir"}]} for stage in ("data", "supernet")}
    files = {"dvc.yaml": {}, "dvc.lock": {"schema": "2.0", "stages": stages}, "bases.yaml": {"bases": declared}}
    for name, content in files.items():
        (tmp_path / name).write_text(yaml.safe_dump(content))
    monkeypatch.setattr(bases.settings(), "workspace", tmp_path)
    with pytest.raises(
        NothingSuitsError, match=f"Nor can the supernet: .*`dvc pull data@{base}` brings it .*`amoeba onboard"
    ):
        obtain(store, base, "x86_avx2", Limits(max_latency_ms=0.1), SERVER)


@pytest.fixture
def explored(store: Store, base: str, tmp_path: Path) -> dict[str, Version]:
    """Versions of `x86_avx2` by how they lie on its frontier, which is published beside the one in production."""
    faster = replace(FAST, shape="d20w50", tpot_ms=1.0, accuracy=0.3)
    better = replace(FAST, shape="d30w100", tpot_ms=6.0, accuracy=0.7)
    versions = {
        name: _publish(store, tmp_path, base, "x86_avx2", point, name)
        for name, point in {"faster": faster, "better": better}.items()
    }
    production = store.resolve(f"{base}--x86_avx2")
    store.attach(
        production,
        KIND,
        frontier(base, [(versions["faster"], faster), (production, FAST), (versions["better"], better)]),
    )
    return {**versions, "production": production}


def frontier(base: str, points: list[tuple[Version, Point]]) -> bytes:
    predicted, samples = Predicted(20, 5, 50, 200, "host"), Samples({128: (5.0,) * 3}, (5.0,) * 3, (3.0,), (True,))
    members = tuple(Member(version.version, point, predicted, samples) for version, point in points)
    reference = Reference(20, 0.6, (0.5, 0.7), (3.0,), (True,))
    return Explored(base, "x86_avx2", "a", "b", {}, reference, members, ()).to_json()


@pytest.mark.parametrize(
    ("limits", "given"),
    [
        (Limits(), "production"),
        (Limits(max_latency_ms=7), "better"),
        (Limits(max_latency_ms=5), "production"),
        (Limits(max_latency_ms=2), "faster"),
        (Limits(min_accuracy=0.65), "better"),
    ],
)
def test_a_limit_is_met_by_the_best_of_the_frontier_and_no_limit_by_what_is_in_production(
    store: Store, base: str, explored: dict[str, Version], limits: Limits, given: str
) -> None:
    first = best(store, base, LAPTOP, limits, target="x86_avx2")[0]
    assert first.version.version == explored[given].version


def test_a_frontier_that_cannot_be_read_leaves_what_is_in_production(
    store: Store, base: str, explored: dict[str, Version], caplog: pytest.LogCaptureFixture
) -> None:
    store.attach(explored["production"], KIND, b"{}")
    (only,) = best(store, base, LAPTOP, Limits(max_latency_ms=5), target="x86_avx2")
    assert only.version.version == explored["production"].version
    assert "its frontier is left out: this is no frontier" in caplog.text


def test_a_version_that_a_frontier_names_and_nobody_published_is_left_out(
    store: Store, base: str, explored: dict[str, Version], caplog: pytest.LogCaptureFixture
) -> None:
    gone = replace(explored["faster"], version="999")
    store.attach(explored["production"], KIND, frontier(base, [(gone, FAST)]))
    assert len(best(store, base, LAPTOP, Limits(max_latency_ms=5), target="x86_avx2")) == 1
    assert "version 999 of the frontier is left out" in caplog.text


@pytest.fixture
def key(tmp_path: Path) -> KeyFile:
    return KeyFile(make_key("lab", tmp_path / "keys")[0])


def keyed(store: Store, key: KeyFile, *, signs: bool = False) -> Store:
    """The same registry for who trusts the key, and for who signs with it."""
    return Store(store.uri, store.artifact_root, Trust((key.read().public,)), key if signs else None)


def test_where_signatures_are_wanted_a_version_of_the_frontier_is_one_that_its_shape_is_promoted_to(
    store: Store, tmp_path: Path, key: KeyFile, caplog: pytest.LogCaptureFixture
) -> None:
    publisher, device, base = keyed(store, key, signs=True), keyed(store, key), f"offered{next(_numbers)}"
    production = _publish(publisher, tmp_path, base, "x86_avx2", GOOD)
    promoted = _publish(publisher, tmp_path, base, "x86_avx2", FAST, "d4w75-int4")
    replaced = replace(FAST, shape="d3w75", tpot_ms=1.0)
    old = _publish(publisher, tmp_path, base, "x86_avx2", replaced, "d3w75-int4")
    publisher.promote(promoted, "d3w75-int4", reason="the old one was wrong")
    store.attach(production, KIND, frontier(base, [(promoted, FAST), (old, replaced)]))
    first, second = best(device, base, LAPTOP, Limits(max_latency_ms=5), target="x86_avx2")
    assert (first.version.version, second.version.version) == (promoted.version, production.version)
    assert first.promoted == next(one for one in device.history(f"{base}--x86_avx2") if one.alias == "d4w75-int4")
    assert f"version {old.version} of the frontier is left out: d3w75-int4 is version {promoted.version}" in caplog.text


def test_a_pull_with_a_limit_takes_no_older_state_of_the_registry_than_its_folder_has_seen(
    store: Store, tmp_path: Path, key: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, base, to = keyed(store, key, signs=True), f"offered{next(_numbers)}", tmp_path / "device"
    monkeypatch.setattr(tracking, "store", lambda signature: keyed(store, key))

    def pull() -> Manifest:
        return cli_pull._fetched(
            base, "x86_avx2", to, "production", Limits(max_latency_ms=20), False, False, False, "when known"
        )

    _publish(publisher, tmp_path, base, "x86_avx2", GOOD)
    newer = _publish(publisher, tmp_path, base, "x86_avx2", FAST, CANDIDATE)
    record = publisher.promote(newer, reason="better")
    assert record is not None
    assert pull().digest == newer.manifest_digest
    store.client().delete_model_version(name_of_trail(record.model), str(record.serial))
    with pytest.raises(SignatureError, match="an older state of it is being served"):
        pull()
    assert read_manifest(to).digest == newer.manifest_digest


def test_a_package_that_is_not_believed_or_whole_is_left_with_the_reason_and_keeps_no_other_from_a_machine(
    store: Store, tmp_path: Path, key: KeyFile
) -> None:
    publisher, device, base = keyed(store, key, signs=True), keyed(store, key), f"offered{next(_numbers)}"
    _publish(publisher, tmp_path, base, "x86_avx512", GOOD)
    damaged = _publish(publisher, tmp_path, base, "jetson_thor", FAST)
    (kept(damaged) / MANIFEST_FILE).unlink()
    mismeasured = _publish(publisher, tmp_path, base, "android_arm64", FAST)
    store.attach(mismeasured, MEASUREMENT, b"{}")
    unknown = _publish(publisher, tmp_path, base, "abacus", FAST)
    store.attach(unknown, MEASUREMENT, b"{}")
    _publish(store, tmp_path, base, "x86_avx2", FAST)
    first, *others = best(device, base, SERVER, Limits())
    assert (first.target, first.left) == ("x86_avx512", "")
    left = {str(offer): offer.left for offer in others}
    assert left["abacus version 1"] == "this version of amoeba knows no such target"
    assert "this is no file of `amoeba bench`" in left["android_arm64 version 1"]
    assert "no longer holds manifest.json" in left["jetson_thor version 1"]
    assert left["x86_avx2"].startswith(f"no promotion of {base}--x86_avx2 to production is signed by a trusted key")
    with pytest.raises(NothingSuitsError, match=r"x86_avx2: no promotion of .* is signed by a trusted key"):
        best(device, base, SERVER, Limits(), target="x86_avx2")


@pytest.mark.parametrize(
    ("source", "digest", "said"),
    [
        ("s3://bucket/x", "", "was not published by amoeba"),
        ("gs://bucket/x", "", "was not published by amoeba"),
        ("weird://x", "ab" * 32, "nothing here opens where"),
    ],
)
def test_a_version_that_was_made_by_hand_keeps_no_other_from_a_machine(
    store: Store, base: str, source: str, digest: str, said: str
) -> None:
    name = f"{base}--android_arm64"
    store.ensure_model(name)
    store.create_version(name, source, "", {MANIFEST_TAG: digest} if digest else {})
    store.client().set_registered_model_alias(name, "production", "1")
    first, *others = best(store, base, SERVER, Limits())
    assert first.target == "x86_avx512"
    assert said in {offer.target: offer.left for offer in others}["android_arm64"]


@pytest.mark.parametrize("point", [{}, 5, []])
def test_a_point_of_another_form_is_no_point(point: object) -> None:
    with pytest.raises(ValueError, match="this is no point"):
        Point.from_json(point)


def test_what_a_version_of_the_frontier_measured_is_what_its_own_manifest_says(
    store: Store, base: str, explored: dict[str, Version]
) -> None:
    lie = replace(FAST, tpot_ms=0.1, accuracy=0.99)
    store.attach(explored["production"], KIND, frontier(base, [(explored["better"], lie)]))
    with pytest.raises(NothingSuitsError, match=r"6\.0 ms a token"):
        best(store, base, LAPTOP, Limits(max_latency_ms=2), target="x86_avx2")


def test_what_was_measured_is_found_behind_a_newer_version_that_is_not_whole(store: Store, tmp_path: Path) -> None:
    base = target = f"offered{next(_numbers)}"
    older = _publish(store, tmp_path, base, target, GOOD)
    (kept(_publish(store, tmp_path, base, target, GOOD, CANDIDATE)) / MANIFEST_FILE).unlink()
    files = {entry.path: entry.sha256 for entry in store.manifest(older).files}
    assert measured._measured_version(store, {"target": target, "model_files": files}) == older
