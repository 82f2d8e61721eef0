"""One file over HTTP: cut, resumed, lied about, refused; and how long that is put up with."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fixtures.artifact_server import ArtifactServer

from registry import fetching
from registry.errors import DamagedError, RegistryError, UnreachableError
from registry.manifest import FileEntry, Manifest
from registry.paths import SIGNATURE_FILE
from registry.patience import Cut, Flow, Patience, Stopped, Tries
from registry.remote import Remote
from registry.store import MANIFEST_TAG, Store, Version
from registry.transfer import Transfer

CONTENT = bytes(range(256)) * 64
QUICK = Patience(first_pause_s=0.001, most_pause_s=0.002, most_asked_pause_s=0.01, read_s=10, forward_bytes=1000)


@pytest.fixture
def sending(server: ArtifactServer, tmp_path: Path) -> ArtifactServer:
    """A server of one file."""
    server.folder = tmp_path / "served"
    server.folder.mkdir()
    (server.folder / "model.onnx").write_bytes(CONTENT)
    return server


def fetch(server: ArtifactServer, to: Path, content: bytes = CONTENT, **options: Any) -> int:
    """Fetch the file as the entry of `content`; what progress ends at."""
    steps: list[int] = []
    entry = FileEntry("model.onnx", len(content), hashlib.sha256(content).hexdigest())
    Transfer(Remote(server.source, server.address, QUICK), entry, to, QUICK, steps.append, **options).run()
    return sum(steps)


def test_a_cut_file_is_gone_on_with_from_where_it_was(sending: ArtifactServer, tmp_path: Path) -> None:
    sending.tricks = ["cut 5000", "status 503", "cut 1000"]
    assert fetch(sending, tmp_path / "to") == len(CONTENT)
    assert (tmp_path / "to").read_bytes() == CONTENT
    assert sending.firsts() == [0, 5000, 5000, 6000]


def test_a_file_that_is_cut_all_the_way_arrives_as_long_as_it_comes_forward(
    sending: ArtifactServer, tmp_path: Path
) -> None:
    sending.trick = "cut 1000"
    fetch(sending, tmp_path / "to")
    assert sending.firsts() == list(range(0, len(CONTENT), 1000))


def test_a_file_that_does_not_come_forward_is_given_up_and_its_half_kept(
    sending: ArtifactServer, tmp_path: Path
) -> None:
    sending.tricks, sending.trick = ["cut 5000"], "cut 0"
    with pytest.raises(UnreachableError, match=r"at 5000 of 16384 bytes .*; check the server and run it again"):
        fetch(sending, tmp_path / "to")
    assert len(sending.firsts()) == QUICK.tries
    assert (tmp_path / "to").read_bytes() == CONTENT[:5000]
    sending.trick = ""
    assert fetch(sending, tmp_path / "to") == len(CONTENT)
    assert sending.firsts()[-1] == 5000


@pytest.mark.parametrize(
    ("trick", "firsts"),
    [
        ("ignores ranges", [0, 5000]),
        ("wrong start", [0, 5000, 0]),
        ("wrong range", [0, 5000, 0]),
        ("no range", [0, 5000, 0]),
        ("short range", [0, 5000, 6000, 7000]),
    ],
)
def test_a_server_whose_ranges_are_not_what_was_asked_for_never_mixes_bytes(
    trick: str, firsts: list[int], sending: ArtifactServer, tmp_path: Path
) -> None:
    sending.tricks = ["cut 5000", trick, trick if trick == "short range" else ""]
    assert fetch(sending, tmp_path / "to") == len(CONTENT)
    assert (tmp_path / "to").read_bytes() == CONTENT
    assert sending.firsts() == firsts


def test_a_server_that_never_keeps_to_ranges_and_always_cuts_is_given_up(
    sending: ArtifactServer, tmp_path: Path
) -> None:
    sending.tricks = ["cut 5000", "wrong range"] * 50
    with pytest.raises(UnreachableError):
        fetch(sending, tmp_path / "to")
    assert len(sending.firsts()) <= 2 * QUICK.tries


def test_a_file_of_another_total_is_refused_before_a_byte_of_it_is_taken(
    sending: ArtifactServer, tmp_path: Path
) -> None:
    sending.tricks = ["cut 5000", "wrong total"]
    with pytest.raises(DamagedError, match="has 16385 bytes, the manifest says 16384"):
        fetch(sending, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_a_file_that_changes_in_the_middle_is_fetched_once_more_and_then_refused(
    sending: ArtifactServer, tmp_path: Path
) -> None:
    (tmp_path / "to").write_bytes(CONTENT[:5000])
    (sending.folder / "model.onnx").write_bytes(CONTENT[::-1])
    with pytest.raises(DamagedError, match="has SHA-256"):
        fetch(sending, tmp_path / "to")
    assert sending.firsts() == [5000, 0]
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    ("half", "firsts"),
    [
        (CONTENT[:5000], [5000]),
        (b"x" * 5000, [5000, 0]),
        (CONTENT, []),
        (CONTENT[::-1], [0]),
        (CONTENT + b"x", [0]),
        (b"x" * (3 << 20), [0]),
    ],
)
def test_a_half_of_an_earlier_run_is_used_when_it_is_right(
    half: bytes, firsts: list[int], sending: ArtifactServer, tmp_path: Path
) -> None:
    (tmp_path / "to").write_bytes(half)
    assert fetch(sending, tmp_path / "to") == len(CONTENT)
    assert (tmp_path / "to").read_bytes() == CONTENT
    assert sending.firsts() == firsts


def test_a_file_that_came_whole_and_wrong_is_not_fetched_again(sending: ArtifactServer, tmp_path: Path) -> None:
    sending.trick = "sends other bytes"
    with pytest.raises(DamagedError, match="has SHA-256"):
        fetch(sending, tmp_path / "to")
    assert sending.firsts() == [0]


@pytest.mark.parametrize("status", [401, 403, 404, 410, 418])
def test_what_will_not_pass_is_asked_once(status: int, sending: ArtifactServer, tmp_path: Path) -> None:
    sending.trick = f"status {status}"
    with pytest.raises(RegistryError):
        fetch(sending, tmp_path / "to")
    assert len(sending.firsts()) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_may_pass_is_asked_again(status: int, sending: ArtifactServer, tmp_path: Path) -> None:
    sending.tricks = [f"status {status}"] * (QUICK.tries - 1)
    fetch(sending, tmp_path / "to")
    assert len(sending.firsts()) == QUICK.tries


def test_the_pause_a_server_asks_for_is_kept_within_bounds(sending: ArtifactServer, tmp_path: Path) -> None:
    for said, pause_s in (("7", 7), ("86400", 60), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("soon", None)):
        sending.tricks = [f"later {said}"]
        with pytest.raises(Cut) as caught:
            Remote(sending.source, sending.address, QUICK).ask("model.onnx")
        assert caught.value.pause_s == pytest.approx(pause_s if said != "86400" else 86400)
        if pause_s is not None:
            assert Patience().pause_s(1, caught.value.pause_s) == pause_s


def test_a_transfer_that_is_stopped_asks_nothing(sending: ArtifactServer, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        fetch(sending, tmp_path / "to", stop=stop)
    assert sending.asked == []


def test_a_link_in_the_place_of_a_half_is_not_written_through(sending: ArtifactServer, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("Dear all")
    (tmp_path / "to").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        fetch(sending, tmp_path / "to")
    assert (tmp_path / "elsewhere").read_text() == "Dear all"


def test_credentials_go_to_the_registry_and_nowhere_else(
    sending: ArtifactServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "sesame")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "")
    for registry, expected in (
        (f"{sending.address}/prefix", "Bearer sesame"),
        ("sqlite:///mlflow.db", None),
        (sending.address.replace("http:", "https:"), None),
        (sending.address.replace("127.0.0.1", "127.0.0.2"), None),
        (f"{sending.address}0", None),
    ):
        Remote(sending.source, registry, QUICK).ask("model.onnx").response.close()
        assert sending.asked[-1].headers.get("Authorization") == expected


@pytest.fixture
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry's, where a device keeps it."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "device")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")


def test_a_pull_shows_the_password_to_no_other_server_that_a_version_names(
    password: None, store: Store, served: Manifest, name: str, server: ArtifactServer, tmp_path: Path
) -> None:
    assert store.pull(name, tmp_path / "device") == served
    assert server.shown == [None] * (2 + len(served.files))


@pytest.mark.parametrize("scheme", ["http", "mlflow-artifacts"])
def test_a_version_is_looked_at_without_showing_the_password_to_its_server(
    scheme: str, password: None, served: Manifest, name: str, server: ArtifactServer
) -> None:
    source = f"{scheme}://{server.source.partition('//')[2]}"
    if scheme == "mlflow-artifacts":
        source = source.replace("/api/2.0/mlflow-artifacts/artifacts", "")
    version = Version(name, "1", (), {MANIFEST_TAG: served.digest}, "run", source)
    assert Store("http://registry.invalid").manifest(version) == served
    assert server.shown == [None, None]


def test_nothing_is_listed_or_removed_on_another_server_wherever_a_run_s_address_leads(
    password: None, store: Store, server: ArtifactServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)  # MLflow looks up an address of models nowhere else
    experiment = store.client().create_experiment(name, artifact_location=server.source)
    run = store.client().create_run(experiment).info
    within = f"runs:/{run.run_id}/artifact"
    store.ensure_model(name)
    # As whoever speaks to the registry without MLflow's client, which would resolve the run's address.
    store.client()._get_registry_client().store.create_model_version(name, within, run.run_id)
    for source in (run.artifact_uri, within, f"models:/{name}/1"):
        artifacts = store.artifacts(source)
        for ask in (artifacts.folders, partial(artifacts.size, "x"), partial(artifacts.remove, "x")):
            with pytest.raises(RegistryError, match="is not at the registry's address"):
                ask()
    assert server.shown == []


@pytest.mark.parametrize("trick", ["status 404", "status 500"])
def test_a_signature_that_another_server_does_not_send_is_none(
    trick: str, store: Store, name: str, served: Manifest, server: Any, tmp_path: Path
) -> None:
    server.tricked, server.trick = SIGNATURE_FILE, trick
    (server.folder / SIGNATURE_FILE).write_bytes(b"{}")
    store.pull(name, tmp_path / "device")
    assert not (tmp_path / "device" / SIGNATURE_FILE).exists()
    server.trick = ""
    store.pull(name, tmp_path / "device")
    assert (tmp_path / "device" / SIGNATURE_FILE).read_bytes() == b"{}"


def test_a_server_whose_certificate_is_not_trusted_is_told_at_once(sending: ArtifactServer) -> None:
    remote = Remote(sending.source.replace("http:", "https:"), sending.address, QUICK)
    with pytest.raises(UnreachableError, match=r"is not trusted .*MLFLOW_TRACKING_SERVER_CERT_PATH"):
        remote.ask("model.onnx")


def test_nothing_says_the_password(sending: ArtifactServer, tmp_path: Path) -> None:
    for trick in ("status 403", "status 418", "status 500", "wrong range"):
        sending.trick = trick
        remote = Remote(sending.source.replace("//", "//user:pass@word@"), sending.address, QUICK)
        with pytest.raises((RegistryError, Cut)) as caught:
            remote.ask("model.onnx", 5)
        assert "word" not in str(caught.value)


def test_pauses_double_and_are_bounded_and_differ_between_devices() -> None:
    patience = Patience()
    pauses = [[patience.pause_s(failures, None) for _ in range(50)] for failures in range(1, 40)]
    for failures, drawn in enumerate(pauses, 1):
        longest = min(20, 0.5 * 2 ** (failures - 1))
        assert all(longest / 2 <= pause <= longest for pause in drawn)
        assert len(set(drawn)) > 25


def test_tries_end_by_their_number_and_by_the_clock_and_start_anew_when_the_file_comes_forward() -> None:
    now, waits = [0.0], []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    tries = Tries(Patience(tries=3, forward_bytes=10), wait, lambda: now[0])
    assert [tries.again(Cut("x")) for _ in range(3)] == [True, True, False]
    tries.reached(9)
    assert not tries.again(Cut("x"))
    tries.reached(10)
    assert tries.again(Cut("x"))
    tries.reached(10)
    assert [tries.again(Cut("x")) for _ in range(2)] == [True, False]
    tries = Tries(Patience(tries=1000, seconds=100, most_asked_pause_s=40), wait, lambda: now[0])
    waits.clear()
    assert [tries.again(Cut("x", pause_s=1e9)) for _ in range(3)] == [True, True, False]
    assert waits == [40, 40]


def test_a_trickle_is_a_cut() -> None:
    now = [0.0]
    flow = Flow(Patience(stall_s=30, stall_bytes=3000), lambda: now[0])
    for count, seconds in ((3000, 30), (10, 29), (2990, 1), (1, 29)):
        now[0] += seconds
        flow.brought(count)
    now[0] += 1
    with pytest.raises(Cut, match="only 2 bytes came in 30 seconds"):
        flow.brought(1)


def test_a_limit_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="tries is above 0"):
        replace(Patience(), tries=0)


def test_files_arrive_side_by_side_and_the_largest_is_begun_first(
    store: Store, served: Manifest, name: str, server: ArtifactServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.gate = threading.Barrier(3)
    store.pull(name, tmp_path / "at once")
    server.gate, server.asked = None, []
    monkeypatch.setattr(fetching, "_AT_ONCE", 1)
    store.pull(name, tmp_path / "one by one")
    ordered = ["manifest.json", "model.sig", "model.onnx", "config.json", "texts/LICENSE"]
    assert [asked.path for asked in server.asked] == ordered


def test_the_first_error_ends_the_other_files(
    store: Store, served: Manifest, name: str, server: ArtifactServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_AT_ONCE", 1)
    server.trick = "status 404"
    with pytest.raises(DamagedError):
        store.pull(name, tmp_path / "device")
    assert [asked.path for asked in server.asked] == ["manifest.json", "model.sig", "model.onnx"]


def test_a_server_that_is_away_is_told_in_bounded_time(
    served: Manifest, server: ArtifactServer, tmp_path: Path
) -> None:
    server.shutdown()
    server.server_close()
    start = time.monotonic()
    with pytest.raises(UnreachableError, match="at 0 of 16384 bytes"):
        fetch(server, tmp_path / "to")
    assert time.monotonic() - start < 10
