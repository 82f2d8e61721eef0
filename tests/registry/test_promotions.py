"""The trail of promotions: nobody's is lost without a word, and what it says is what readers get."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fixtures.artifacts import write_artifact
from mlflow.exceptions import MlflowException

from registry import promoting, promotions
from registry.errors import ConflictError, DamagedError, NotFoundError, RefusedError, SignatureError
from registry.keys import KeyFile, make_key
from registry.manifest import read_manifest
from registry.promotions import CANDIDATE, PREVIOUS, PRODUCTION, RECORD_TAG, Promotion
from registry.store import MANIFEST_TAG, Store
from registry.trust import Trust

PROJECT = Path(__file__).parents[2]
RECORD = Promotion(
    "tiny--x86", 1, PRODUCTION, "3", "ab" * 32, None, "published", "ada@host", "2026-01-01T00:00:00+00:00"
)


@pytest.fixture
def published(store: Store, name: str, make_artifact: Any) -> str:
    """A registered model with three versions, the first in production."""
    store.publish(*make_artifact(), registered_model=name)
    for number in "12":
        store.publish(*make_artifact({"more": number.encode()}), registered_model=name, alias=CANDIDATE)
    return name


def test_every_promotion_is_on_record_with_what_it_replaced(store: Store, published: str) -> None:
    store.promote(store.resolve(published, CANDIDATE), reason="passed the gate")
    newest, *_, first = store.history(published)
    assert (newest.alias, newest.version, newest.before, newest.reason) == (PRODUCTION, "3", "1", "passed the gate")
    assert (first.alias, first.version, first.before, first.reason) == (PRODUCTION, "1", None, "published")
    assert [record.serial for record in store.history(published)] == [4, 3, 2, 1]
    assert newest.manifest == store.resolve(published).manifest_digest


def test_a_promotion_to_where_the_alias_is_adds_no_record(store: Store, published: str) -> None:
    assert store.promote(store.resolve(published), reason="again") is None
    assert len(store.history(published)) == 3


def test_a_rollback_goes_to_what_production_was_and_back_again(store: Store, published: str) -> None:
    store.promote(store.resolve(published, "3"), reason="new")
    store.roll_back(published, reason="slow on phones")
    assert (store.resolve(published).version, store.resolve(published, PREVIOUS).version) == ("1", "3")
    store.roll_back(published, reason="it was the network")
    assert (store.resolve(published).version, store.resolve(published, PREVIOUS).version) == ("3", "1")
    assert store.history(published)[1].reason == "slow on phones"


def test_there_is_no_rollback_before_a_second_promotion(store: Store, published: str) -> None:
    with pytest.raises(NotFoundError, match="has no version before its production"):
        store.roll_back(published, reason="")


def test_a_promotion_that_expected_another_version_is_refused(store: Store, published: str) -> None:
    with pytest.raises(ConflictError, match="production is at version 1, not 2: someone promoted meanwhile"):
        store.promote(store.resolve(published, "3"), reason="", expected="2")
    assert store.resolve(published).version == "1"


def test_previous_is_not_promoted_to(store: Store, published: str) -> None:
    with pytest.raises(RefusedError, match="previous is what production was before"):
        store.promote(store.resolve(published, "3"), PREVIOUS, reason="")


def test_whoever_is_overtaken_looks_again_and_records_what_the_other_did(
    store: Store, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another promotion in every gap between looking and recording, three times."""
    ordinary, left = store.create_version, iter(range(3))

    def overtaken(name: str, *rest: Any) -> int:
        if name.endswith("~promotions") and next(left, None) is not None:
            with monkeypatch.context() as patch:
                patch.setattr(store, "create_version", ordinary)
                there = store.resolve(published).version
                promoting.promote(
                    store, store.resolve(published, "12"[there == "1"]), PRODUCTION, reason="", by="other"
                )
        return ordinary(name, *rest)

    monkeypatch.setattr(store, "create_version", overtaken)
    pauses: list[float] = []
    record = promoting.promote(
        store, store.resolve(published, "3"), PRODUCTION, reason="", by="me", pause=pauses.append
    )
    history = store.history(published)
    assert record == history[0]
    assert (record.version, record.before) == ("3", "2")
    assert [(one.by, one.version) for one in history[1:4]] == [("other", "2"), ("other", "1"), ("other", "2")]
    assert len(pauses) == 3
    assert store.aliases(published) == {PRODUCTION: "3", PREVIOUS: "2", CANDIDATE: "3"}


def test_whoever_expected_a_version_and_is_overtaken_changes_nothing(
    store: Store, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary = store.create_version

    def overtaken(name: str, *rest: Any) -> int:
        monkeypatch.setattr(store, "create_version", ordinary)
        promoting.promote(store, store.resolve(published, "2"), PRODUCTION, reason="", by="other")
        return ordinary(name, *rest)

    monkeypatch.setattr(store, "create_version", overtaken)
    with pytest.raises(ConflictError, match="production is at version 2, not 1"):
        promoting.promote(store, store.resolve(published, "3"), PRODUCTION, reason="", by="me", expected="1")
    assert store.resolve(published).version == "2"


def test_a_rollback_whose_answer_was_lost_and_that_mlflow_asked_for_again_is_done_once(
    store: Store, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.promote(store.resolve(published, "2"), reason="new")
    ordinary = store.create_version

    def asked_twice(*request: Any) -> int:
        ordinary(*request)
        return ordinary(*request)

    monkeypatch.setattr(store, "create_version", asked_twice)
    record = store.roll_back(published, reason="slow")
    assert (record.before, record.version) == ("2", "1")
    assert record == store.history(published)[0]
    assert store.aliases(published) == {PRODUCTION: "1", PREVIOUS: "2", CANDIDATE: "3"}


def test_a_rollback_that_was_killed_after_its_record_is_ended_by_the_same_command_and_by_no_other(
    store: Store, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    store.promote(store.resolve(published, "2"), reason="new")
    for reason, reason_again in (("slow", "slow"), ("network", "wrong again")):
        with monkeypatch.context() as patch:
            patch.setattr(promoting, "settle", killed)
            with pytest.raises(Killed):
                store.roll_back(published, reason=reason)
        assert store.roll_back(published, reason=reason_again).version == "1"
        assert (store.resolve(published).version, store.resolve(published, PREVIOUS).version) == ("1", "2")
        assert store.aliases(published) == {PRODUCTION: "1", PREVIOUS: "2", CANDIDATE: "3"}


def test_a_promotion_that_was_killed_after_its_record_is_rolled_back_all_the_same(
    store: Store, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(promoting, "settle", lambda *settled: None)
        store.promote(store.resolve(published, "2"), reason="")
    assert store.roll_back(published, reason="").version == "1"


def test_where_a_version_was_deleted_in_mlflow_others_are_promoted_and_its_alias_says_so(
    store: Store, published: str, caplog: pytest.LogCaptureFixture
) -> None:
    store.promote(store.resolve(published, "2"), "canary", reason="tried")
    store.client().delete_model_version(published, "2")
    record = store.promote(store.resolve(published, "3"), reason="new")
    assert record is not None
    assert store.aliases(published) == {PRODUCTION: "3", PREVIOUS: "1", CANDIDATE: "3"}
    assert f"{published}@canary is version 2, which the registry no longer has" in caplog.text
    with pytest.raises(NotFoundError, match="@canary is version 2, which the registry no longer has; promote another"):
        store.resolve(published, "canary")


def test_an_alias_that_two_promoters_make_at_one_moment_is_made(
    store: Store, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As MLflow's database has it: both look, both insert, and one is refused."""
    ordinary, said = (
        store.mlflow.set_registered_model_alias,
        "(sqlite3.IntegrityError) UNIQUE constraint failed: x.name",
    )
    refusals = iter([MlflowException(said)])

    def set_alias(*alias: str) -> None:
        for refused in refusals:
            raise refused
        ordinary(*alias)

    monkeypatch.setattr(store.mlflow, "set_registered_model_alias", set_alias)
    store.promote(store.resolve(published, "2"), "canary", reason="tried")
    assert (store.aliases(published) or {})["canary"] == "2"


PROMOTER = """
import logging, sys
from registry.store import Store
from registry.trust import Trust
logging.disable()
store = Store(sys.argv[1], sys.argv[2] or None)
for number in sys.argv[4:]:
    store.promote(store.resolve(sys.argv[3], number), "stress", reason="at once")
"""


def test_promoters_at_once_form_one_chain(store: Store, published: str) -> None:
    where = [store.uri, store.artifact_root or "", published]
    orders = ["123123", "321321", "213213"]
    promoters = [subprocess.Popen([sys.executable, "-c", PROMOTER, *where, *order], cwd=PROJECT) for order in orders]
    assert [promoter.wait() for promoter in promoters] == [0, 0, 0]
    chain = [record for record in reversed(store.history(published)) if record.alias == "stress"]
    assert [record.before for record in chain] == [None, *(record.version for record in chain[:-1])]
    assert len(chain) > len(orders[0])
    assert store.aliases(published)["stress"] == store.resolve(published, "stress").version == chain[-1].version


def test_what_an_alias_was_set_to_behind_our_back_is_not_what_readers_get(store: Store, published: str) -> None:
    store.client().set_registered_model_alias(published, PRODUCTION, "2")
    assert store.resolve(published).version == "1"
    store.client().set_registered_model_alias(published, "tried", "2")
    assert store.resolve(published, "tried").version == "2"


def test_previous_is_the_very_version_that_production_was(store: Store, published: str, tmp_path: Path) -> None:
    store.promote(store.resolve(published, "3"), reason="new")
    older = store.resolve(published, PREVIOUS)
    store.client().set_model_version_tag(
        published, older.version, MANIFEST_TAG, store.resolve(published, "2").manifest_digest
    )
    with pytest.raises(DamagedError, match=f"{published} version 1 is not what was promoted to production"):
        store.released(published, PREVIOUS)
    with pytest.raises(DamagedError, match="is not what was promoted"):
        store.pull(published, tmp_path / "device", PREVIOUS)
    with pytest.raises(DamagedError, match="is not what was promoted"):
        store.roll_back(published, reason="slow")
    assert store.resolve(published).version == "3"


@pytest.mark.parametrize(
    "change",
    [{"serial": 9}, {"model": "other--x86"}, {"version": 3}, {"manifest": None}, {"alias": "@"}, {"format_version": 2}],
    ids=lambda change: next(iter(change)),
)
def test_a_record_that_is_not_of_its_place_is_passed_over(store: Store, published: str, change: dict[str, Any]) -> None:
    newest = store.history(published)[0]
    trail, record = promotions.name_of_trail(published), dataclasses.asdict(newest)
    forged = json.dumps({**record, "serial": 4, "version": "2", **change}, sort_keys=True, separators=(",", ":"))
    version = store.resolve(published)
    store.create_version(trail, version.source, version.run_id, {RECORD_TAG: forged})
    assert store.history(published)[0] == newest
    promoted = store.promote(store.resolve(published, "2"), reason="on top of it")
    assert promoted is not None
    assert promoted.serial == 5


def test_a_record_reads_back_as_it_was_written() -> None:
    assert Promotion.parse(RECORD.canonical()) == RECORD


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", RECORD.canonical() + " ", '{"model": "' + "[" * 5000, "9" * 5000]
)
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(RefusedError):
        Promotion.parse(text)


def test_trails_are_not_listed_as_models(store: Store, published: str) -> None:
    assert published in store.models()
    assert not [model for model in store.models() if model.endswith("~promotions")]


@pytest.fixture
def key(tmp_path: Path) -> KeyFile:
    return KeyFile(make_key("lab", tmp_path / "keys")[0])


def keyed(store: Store, key: KeyFile | None, *trusted: KeyFile) -> Store:
    """The same registry for somebody with a key, who believes others'."""
    return Store(store.uri, store.artifact_root, Trust(tuple(one.read().public for one in trusted)), key)


def test_a_signed_promotion_is_read_by_who_trusts_the_key_and_by_who_knows_none(
    store: Store, published: str, key: KeyFile
) -> None:
    publisher = keyed(store, key, key)
    publisher.promote(store.resolve(published, "3"), reason="signed")
    for reader in (publisher, keyed(store, None, key), store):
        assert reader.resolve(published).version == "3"
    assert keyed(store, None, key).history(published) == store.history(published)[:1]


def test_what_nobody_trusted_signed_is_no_promotion_where_signatures_are_wanted(
    store: Store, published: str, key: KeyFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publisher, device = keyed(store, key, key), keyed(store, None, key)
    with pytest.raises(SignatureError, match=f"no promotion of {published} to production is signed by a trusted key"):
        device.resolve(published)
    assert f"promotion 1 of {published} is passed over: nobody signed it" in caplog.text
    publisher.promote(store.resolve(published, "2"), reason="signed")
    intruder = keyed(store, KeyFile(make_key("intruder", tmp_path / "theirs")[0]))
    intruder.promote(store.resolve(published, "3"), reason="signed by another")
    store.promote(store.resolve(published, "1"), reason="not signed")
    store.client().set_registered_model_alias(published, PRODUCTION, "1")
    assert device.resolve(published).version == "2"
    assert store.resolve(published).version == "1"


def test_a_record_longer_than_readers_take_is_refused_before_it_is_made(
    store: Store, published: str, key: KeyFile
) -> None:
    publisher, wanted = keyed(store, key, key), store.resolve(published, "2")
    with pytest.raises(RefusedError, match=r"a reason of 450 characters .* has 4\d\d\d bytes, and readers take 4000"):
        publisher.promote(wanted, reason="ж" * 450)
    assert len(store.versions_of(promotions.name_of_trail(published))) == 3
    for reason in ("ж" * 400, "a" * 500):
        record = publisher.promote(wanted, f"alias{len(reason)}", reason=reason)
        assert record == publisher.history(published)[0]


def test_an_old_signed_record_copied_to_the_end_is_passed_over(store: Store, published: str, key: KeyFile) -> None:
    publisher = keyed(store, key, key)
    for number in "23":
        publisher.promote(store.resolve(published, number), reason="signed")
    trail = promotions.name_of_trail(published)
    old = next(one for one in store.versions_of(trail) if one.version == "4")
    assert promotions.opened(old.tags[RECORD_TAG], publisher.trust).version == "2"
    store.create_version(trail, old.source, old.run_id, old.tags)
    assert keyed(store, None, key).resolve(published).version == "3"


def test_one_model_s_record_is_worth_nothing_under_another_s_name(
    store: Store, published: str, key: KeyFile, tmp_path: Path
) -> None:
    publisher = keyed(store, key, key)
    other = f"{published}2"
    folder = tmp_path / "other"
    made = write_artifact(folder, *other.split("--"), {"model.onnx": b"9"})
    store.publish(folder, made, registered_model=other, alias=CANDIDATE)
    publisher.promote(store.resolve(published, "2"), reason="signed")
    record = store.versions_of(promotions.name_of_trail(published))[0]
    trail = promotions.name_of_trail(other)
    while int(store.create_version(trail, record.source, record.run_id, record.tags)) < int(record.version):
        pass
    with pytest.raises(NotFoundError):
        keyed(store, None, key).resolve(other)


def test_who_wants_signatures_and_has_no_key_does_not_promote(store: Store, published: str, key: KeyFile) -> None:
    with pytest.raises(SignatureError, match="set AMOEBA_SIGNING_KEY"):
        keyed(store, None, key).promote(store.resolve(published, "2"), reason="")


def test_an_older_state_of_the_registry_is_noticed_by_who_has_seen_a_newer_one(
    store: Store, published: str, key: KeyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, device = keyed(store, key, key), keyed(store, None, key)
    monkeypatch.setattr(
        "registry.signature.check", lambda bundle, manifest, trust: None
    )  # the files are not signed here
    for number in "23":
        publisher.promote(store.resolve(published, number), reason="signed")
    device.pull(published, tmp_path / "device")
    trail = promotions.name_of_trail(published)
    store.client().delete_model_version(trail, str(store.history(published)[0].serial))
    with pytest.raises(SignatureError, match=r"promotion 4 .* is the newest, and .* has seen 5"):
        device.pull(published, tmp_path / "device")
    assert read_manifest(tmp_path / "device").digest == store.resolve(published, "3").manifest_digest
    assert device.pull(published, tmp_path / "another").digest == store.resolve(published, "2").manifest_digest
    publisher.promote(store.resolve(published, "1"), reason="on top")
    assert device.pull(published, tmp_path / "device").digest == store.resolve(published, "1").manifest_digest


def test_what_was_seen_of_an_alias_holds_for_a_version_that_was_found_by_it_and_is_not_forgotten_for_another(
    store: Store, published: str, key: KeyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, device, to = keyed(store, key, key), keyed(store, None, key), tmp_path / "device"
    monkeypatch.setattr("registry.signature.check", lambda bundle, manifest, trust: None)
    publisher.promote(store.resolve(published, "1"), "canary", reason="signed")
    for number in "23":
        publisher.promote(store.resolve(published, number), reason="signed")
    for alias, folder in ((PRODUCTION, to), (PREVIOUS, tmp_path / "previous")):
        version, record = device.released(published, alias)
        assert device.pull(published, folder, version.version, promoted=record).digest == version.manifest_digest
    device.pull(published, to, "canary")
    store.client().delete_model_version(promotions.name_of_trail(published), str(store.history(published)[0].serial))
    version, record = device.released(published)
    with pytest.raises(SignatureError, match=r"promotion 5 .* is the newest, and .* has seen 6"):
        device.pull(published, to, version.version, promoted=record)
    assert read_manifest(to).digest == store.resolve(published, "1").manifest_digest
    store.client().set_model_version_tag(published, version.version, MANIFEST_TAG, "0" * 64)
    with pytest.raises(DamagedError, match="version 2 is not what was promoted to production"):
        device.pull(published, tmp_path / "another", version.version, promoted=record)


def test_a_rollback_on_record_is_no_older_state(
    store: Store, published: str, key: KeyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, device = keyed(store, key, key), keyed(store, None, key)
    monkeypatch.setattr("registry.signature.check", lambda bundle, manifest, trust: None)
    for number in "23":
        publisher.promote(store.resolve(published, number), reason="signed")
    device.pull(published, tmp_path / "device")
    publisher.roll_back(published, reason="slow")
    assert device.pull(published, tmp_path / "device").digest == store.resolve(published, "2").manifest_digest
