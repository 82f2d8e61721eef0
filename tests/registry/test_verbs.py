"""`amoeba promote`, `rollback`, `history` and `gc`, on a registry of their own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
from fixtures.artifacts import flip, kept
from typer.testing import CliRunner

from components.frontier import Point
from flows import releasing, tracking
from flows.bases import Declared
from flows.cli import app
from flows.measured import KIND as MEASUREMENT
from flows.publishing import publish
from registry.errors import ConflictError, DamagedError, NotFoundError, SignatureError
from registry.keys import KeyFile, make_key
from registry.manifest import MANIFEST_FILE
from registry.publishing import place_of
from registry.store import CANDIDATE, PREVIOUS, PRODUCTION, Store
from registry.trust import Revocation, Trust

Ask = Callable[..., Any]
POINT = Point("d4w100", "int8", 20.0, 0.6, (0.5, 0.7), 100.0, 8.0, 300.0, 130.0, "host")


@pytest.fixture
def ask(store: Store, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """What a verb prints with --json."""
    monkeypatch.setattr(tracking, "store", lambda: store)
    monkeypatch.setattr(releasing, "store", lambda: store)

    def run(*words: str) -> Any:
        done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    return run


@pytest.fixture
def released(store: Store, name: str, make_artifact: Any) -> tuple[str, str]:
    """Base and target of a model with a production and a candidate version."""
    store.publish(*make_artifact(), registered_model=name)
    store.publish(*make_artifact({"more": b"1"}), registered_model=name, alias=CANDIDATE)
    base, _, target = name.partition("--")
    return base, target


def test_the_candidate_is_promoted_and_rolled_back_on_record(ask: Ask, store: Store, released: tuple[str, str]) -> None:
    done = ask("promote", *released, "--reason", "passed the gate")
    assert (done["version"], done["promotion"]["before"]) == ("2", "1")
    assert ask("promote", *released)["promotion"] is None
    assert ask("rollback", *released, "--reason", "slow")["version"] == "1"
    assert [one["reason"] for one in ask("history", *released)] == ["slow", "passed the gate", "published", "published"]
    assert store.aliases("--".join(released)) == {PRODUCTION: "1", PREVIOUS: "2", CANDIDATE: "2"}


def test_models_of_others_in_the_same_mlflow_are_passed_over(ask: Ask, store: Store, released: tuple[str, str]) -> None:
    """Whatever they are called."""
    for name in ("Fraud detector", "it's"):
        store.client().create_registered_model(name)
    try:
        assert "--".join(released) in store.models()
        assert not {"Fraud detector", "it's"} & set(store.models())
        ask("gc")
    finally:
        for name in ("Fraud detector", "it's"):
            store.client().delete_registered_model(name)


def test_a_canary_is_an_alias_of_its_own(ask: Ask, store: Store, released: tuple[str, str]) -> None:
    ask("promote", *released, "--version", "2", "--to", "canary")
    assert store.resolve("--".join(released), "canary").version == "2"
    assert store.resolve("--".join(released)).version == "1"


def test_a_promotion_can_be_made_to_depend_on_what_is_there(ask: Ask, released: tuple[str, str]) -> None:
    with pytest.raises(ConflictError, match="is at version 1, not 7"):
        ask("promote", *released, "--expect", "7")


def test_what_no_device_takes_is_neither_promoted_nor_gone_back_to(
    store: Store, name: str, make_artifact: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four versions a key that is revoked by now signed the first; the third is not signed, the fourth lost its manifest."""
    base, _, target = name.partition("--")
    lost, lab = (KeyFile(make_key(which, tmp_path / which)[0]) for which in ("lost", "lab"))

    def publisher(key: KeyFile | None, **trust: Any) -> Store:
        return Store(store.uri, store.artifact_root, Trust(**trust), key)

    for number, key in enumerate((lost, lab)):
        publisher(key).publish(*make_artifact({"more": b"%d" % number}), registered_model=name)
    store.publish(*make_artifact({"more": b"2"}), registered_model=name, alias=CANDIDATE)
    gone = publisher(lab).publish(*make_artifact({"more": b"3"}), registered_model=name, alias="canary")
    (kept(gone) / MANIFEST_FILE).unlink()
    trusted, revoked = lab.read().public, Revocation(lost.read().public.fingerprint)
    promoter = publisher(lab, keys=(trusted,), revoked=(revoked,))
    monkeypatch.setattr(releasing, "store", lambda: promoter)
    before = store.history(name)
    with pytest.raises(SignatureError, match="is not signed"):
        releasing.promote(base, target, "3", PRODUCTION, "", None)
    with pytest.raises(DamagedError, match=r"no longer holds manifest\.json"):
        releasing.promote(base, target, gone.version, PRODUCTION, "", None)
    with pytest.raises(SignatureError, match="revoked"):
        releasing.roll_back(base, target, "")
    assert store.history(name) == before


@pytest.mark.parametrize("verb", ["history", "rollback", "promote", "frontier"])
def test_a_model_that_is_not_there_is_told_with_the_nearest_name(
    ask: Ask, released: tuple[str, str], verb: str
) -> None:
    name = "--".join(released)
    with pytest.raises(NotFoundError, match=f"has no model '{name}7'; did you mean {name}"):
        ask(verb, f"{name}7")


def test_the_frontier_of_a_whole_name_is_of_that_model_alone(
    ask: Ask, store: Store, released: tuple[str, str], make_artifact: Any
) -> None:
    base, target = released
    folder, manifest = make_artifact()
    other = replace(manifest, target=f"{target}_other")
    store.publish(folder, other, registered_model=f"{base}--{other.target}")

    def listed(model: str) -> set[str]:
        return {row["version"]["registered_model"] for row in ask("frontier", model)}

    assert listed(f"{base}--{target}") == {f"{base}--{target}"}
    assert listed(base) == {f"{base}--{target}", f"{base}--{target}_other"}


def test_prefect_hears_of_a_promotion_where_a_server_is_set(
    ask: Ask, released: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []
    monkeypatch.setattr("prefect.events.emit_event", lambda event, **what: heard.append((event, what)))
    ask("promote", *released)
    assert heard == []
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    ask("rollback", *released)
    ((event, what),) = heard
    assert event == "amoeba.promoted"
    assert what["resource"]["prefect.resource.id"] == f"amoeba.model.{'--'.join(released)}"
    assert (what["payload"]["before"], what["payload"]["version"]) == ("2", "1")


def test_a_version_that_is_not_whole_or_not_ours_is_told_with_the_reason_beside_the_others(
    ask: Ask, store: Store, released: tuple[str, str], make_artifact: Any
) -> None:
    name = "--".join(released)
    (kept(store.resolve(name)) / MANIFEST_FILE).unlink()
    folder, manifest = make_artifact({"more": b"2"})
    pointed = replace(manifest, facts={"point": POINT.to_json()})
    mismeasured = store.publish(folder, pointed, registered_model=name, alias="canary")
    store.attach(mismeasured, MEASUREMENT, b"{}")
    store.create_version(name, mismeasured.source, mismeasured.run_id, {})
    rows = ask("frontier", released[0])
    told = {row["version"]["version"]: row.get("refused", "") for row in rows}
    assert list(told) == ["4", "3", "2", "1"]
    assert "was not published by amoeba" in told["4"]
    assert "this is no file of `amoeba bench`" in told["3"]
    assert told["2"] == ""
    assert "no longer holds manifest.json" in told["1"]
    done = CliRunner().invoke(app, ["frontier", released[0]], catch_exceptions=False)
    assert done.stdout.count("refused: ") == 3


def test_what_is_in_production_is_published_anew_where_it_is_damaged_and_not_again_where_it_is_whole(
    store: Store, name: str, make_artifact: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "store", lambda: store)
    monkeypatch.setattr(tracking, "facts_of", lambda base: {})
    folder, manifest = make_artifact()

    def published() -> str:
        return publish("package", folder, manifest, name, Declared("tiny", "", "", ""), {}, PRODUCTION, {})

    assert [published(), published()] == ["1", "1"]
    flip(kept(store.resolve(name)) / "model.onnx")
    assert [published(), published()] == ["2", "2"]
    assert store.pull(name, tmp_path / "device") == manifest


def test_an_upload_in_a_run_that_began_long_ago_is_young(
    ask: Ask, store: Store, released: tuple[str, str], make_artifact: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a publication that is gone on with a day after a kill: `gc` runs while it uploads."""
    client, (folder, manifest), listed = store.client(), make_artifact({"more": b"2"}), []
    two_days_ago = round((time.time() - 2 * 86400) * 1000)
    run = client.create_run(store.experiment_id(), start_time=two_days_ago).info.run_id
    ordinary = client.log_artifact

    def watched(*arguments: Any) -> None:
        ordinary(*arguments)
        listed.append([one["run_id"] for one in ask("gc", "--remove")["leftovers"]])

    monkeypatch.setattr(client, "log_artifact", watched)
    store.publish(folder, manifest, registered_model="--".join(released), run_id=run)
    assert len(listed) == 1 + len(manifest.files)
    assert run not in {one for some in listed for one in some}


def test_uploads_of_stopped_publishers_are_listed_and_removed_and_nothing_else(
    ask: Ask,
    store: Store,
    released: tuple[str, str],
    make_artifact: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    class Stopped(BaseException):
        pass

    def stop(*arguments: Any, **options: Any) -> Any:
        raise Stopped

    folder, manifest = make_artifact({"more": b"2"})
    with monkeypatch.context() as patch:
        patch.setattr(store.client(), "create_model_version", stop)
        with pytest.raises(Stopped):
            store.publish(folder, manifest, registered_model="--".join(released))
    place = place_of(manifest, folder)

    def ours(listed: Any) -> list[Any]:
        return [one for one in listed["leftovers"] if one["place"] == place]

    assert ours(ask("gc")) == []  # it is too young: its publisher may still be at it
    (found,) = ours(ask("gc", "--hours", "0"))
    held = Path(urlparse(found["source"]).path)
    assert found["size"] == sum(path.stat().st_size for path in held.rglob("*") if path.is_file())
    ask("gc", "--hours", "0", "--remove")
    assert not held.exists()
    assert ours(ask("gc", "--hours", "0")) == []
    for version in store.versions("--".join(released)):
        store.pull("--".join(released), tmp_path / version.version, version.version)
