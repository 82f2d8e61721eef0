from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from uuid import uuid4

import huggingface_hub
import pytest
import yaml
from prefect.client.schemas import FlowRun
from prefect.states import Cancelled, Completed, Crashed, Failed, Running, Scheduled, State

from flows import bases, deployments, serving, watched
from flows.arrivals import Arrival, SourceError, Watch, arrivals
from flows.bases import UnknownNameError
from flows.serving import Watcher
from flows.watched import Watched

HUB, REGISTERED = Watched("org/name", "tiny"), Watched("mlflow:our-base", "tiny")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, content in {"dvc.yaml": "", "params.yaml": "profiles: {tiny: {}}\n", "bases.yaml": "bases: {}\n"}.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(bases.settings(), "workspace", tmp_path)
    return tmp_path


def test_a_source_that_is_added_is_watched_until_it_is_removed(workspace: Path) -> None:
    watched.add("org/name", "tiny")
    watched.add("mlflow:our-base", "tiny", ("x86_avx512",))
    assert watched.watched() == (HUB, Watched("mlflow:our-base", "tiny", ("x86_avx512",)))
    watched.add("org/name", "tiny", ("x86_avx2",))
    assert [one.source for one in watched.watched()] == ["mlflow:our-base", "org/name"]
    watched.remove("mlflow:our-base")
    assert [one.targets for one in watched.watched()] == [("x86_avx2",)]


def test_a_folder_that_is_not_there_yet_is_watched_and_said_to_be_missing(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (workspace, workspace / "later"):
        watched.add(str(folder), "tiny")
    assert [one.source for one in watched.watched()] == [str(workspace.resolve()), str(workspace / "later")]
    (said,) = capsys.readouterr().err.splitlines()
    assert f"{workspace / 'later'} is no folder yet; it is watched" in said


def test_adding_a_source_leaves_what_is_onboarded_alone(workspace: Path) -> None:
    known = {"m": {"source": "m", "fingerprint": "ab" * 32, "profile": "tiny"}}
    (workspace / "bases.yaml").write_text(yaml.safe_dump({"bases": known}))
    watched.add("org/name", "tiny")
    assert bases.declared("m").fingerprint == "ab" * 32
    assert yaml.safe_load((workspace / "bases.yaml").read_text())["bases"] == known


def test_what_cannot_be_is_not_watched(workspace: Path) -> None:
    with pytest.raises(UnknownNameError, match="no profile is called 'tony'; did you mean tiny"):
        watched.add("org/name", "tony")
    with pytest.raises(Exception, match="did you mean x86_avx512"):
        watched.add("org/name", "tiny", ("x86_avx51",))
    with pytest.raises(UnknownNameError, match="'org/name' is not watched; nothing is"):
        watched.remove("org/name")
    assert watched.watched() == ()


@pytest.mark.parametrize(
    ("source", "kind", "model"),
    [
        ("mlflow:our-base", "registered", "our-base"),
        ("org/name", "hub", None),
        ("/srv/models", "folder", None),
    ],
)
def test_a_source_says_what_kind_it_is(source: str, kind: str, model: str | None) -> None:
    one = Watched(source, "tiny")
    assert (one.kind, one.registered_model) == (kind, model)


@pytest.mark.parametrize("source", ["smollm2-135m", "./not/there", "mlflow:a:b", "mlflow:a' or 1", "org/name@main", ""])
def test_what_has_no_revisions_to_come_cannot_be_watched(source: str) -> None:
    with pytest.raises(UnknownNameError, match="cannot be watched: a hub id org/name, mlflow:NAME, or a folder"):
        Watched(source, "tiny")


@pytest.mark.parametrize("entry", [{"source": "org/name"}, {"profile": "tiny"}, "org/name", ["org/name"]])
def test_an_entry_that_lacks_something_is_named(workspace: Path, entry: Any) -> None:
    (workspace / "bases.yaml").write_text(yaml.safe_dump({"watched": [entry]}))
    with pytest.raises(UnknownNameError, match="each of `watched` has a source, a profile and"):
        watched.watched()


def test_a_folder_is_watched_by_its_whole_path(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workspace / "drop" / "here").mkdir(parents=True)
    monkeypatch.chdir(workspace)
    assert watched.add("drop/here", "tiny").source == str(workspace / "drop" / "here")
    (workspace / "drop" / "here").rmdir()
    watched.remove("drop/here")
    assert watched.watched() == ()


def _model(folder: Path, content: str = "{}") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(content)
    return folder


def test_every_model_that_is_put_into_a_folder_arrives_and_nothing_else(tmp_path: Path) -> None:
    _model(tmp_path / "one")
    _model(tmp_path / "two")
    _model(tmp_path / ".hidden")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no model")
    found = arrivals(Watched(str(tmp_path), "tiny"))
    assert [Path(one.source).name for one in found] == ["one", "two"]
    assert [Path(one.source).name for one in arrivals(Watched(str(tmp_path / "two"), "tiny"))] == ["two"]


def test_a_file_that_is_added_grown_or_rewritten_is_another_revision(tmp_path: Path) -> None:
    model = _model(tmp_path / "one")

    def revision() -> str:
        (found,) = arrivals(Watched(str(tmp_path), "tiny"))
        return found.revision

    seen = {revision()}
    (model / "model.safetensors").write_bytes(b"a")
    seen.add(revision())
    (model / "model.safetensors").write_bytes(b"ab")
    seen.add(revision())
    (model / "model.safetensors").write_bytes(b"cd")
    os.utime(model / "model.safetensors", ns=(1, 1))
    seen.add(revision())
    assert len(seen) == 4
    assert revision() in seen


def test_a_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is no folder; make it, or"):
        arrivals(Watched(str(tmp_path / "gone"), "tiny"))


def test_a_model_that_cannot_be_read_is_told_and_keeps_no_other_from_arriving(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (_model(tmp_path / "damaged") / "model.safetensors").symlink_to("model.safetensors")
    _model(tmp_path / "whole")
    assert [Path(one.source).name for one in arrivals(Watched(str(tmp_path), "tiny"))] == ["whole"]
    assert f"{tmp_path / 'damaged'} cannot be read: " in capsys.readouterr().err


def test_a_folder_that_cannot_be_listed_stops_no_other_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", forbidden)  # whoever runs the tests may be allowed everything
    (tmp_path / "closed").mkdir()
    whole = _model(tmp_path / "whole")
    watch, said = Watch(), list[str]()
    both = (Watched(str(tmp_path / "closed"), "tiny"), Watched(str(whole), "tiny"))
    watch.whole(both, said.append)
    assert [one.source for one in watch.whole(both, said.append)] == [str(whole)]
    assert said == [f"{tmp_path / 'closed'} cannot be read: [Errno 13] Permission denied: '{tmp_path / 'closed'}'"] * 2


def test_a_hub_repository_arrives_at_the_commit_that_it_has_now(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hub:
        commits: ClassVar[dict[str, str]] = {"org/name": "c0ffee"}

        def model_info(self, repository: str, timeout: float) -> Any:
            if repository not in self.commits:
                raise ConnectionError("no route\nto the hub")
            return SimpleNamespace(sha=self.commits[repository])

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    (found,) = arrivals(HUB)
    assert (found.source, found.revision) == ("org/name@c0ffee", "c0ffee")
    with pytest.raises(SourceError, match=r"^org/other: the hub does not answer \(no route\)$"):
        arrivals(Watched("org/other", "tiny"))


def test_a_key_is_of_the_revision_and_of_how_it_is_onboarded() -> None:
    one = Arrival("org/name@1", "1", HUB)
    assert one.key == Arrival("org/name@1", "1", Watched("org/name", "tiny")).key
    others = [Arrival("org/name@2", "2", HUB), Arrival("org/name@1", "1", Watched("org/name", "full"))]
    others.append(Arrival("org/name@1", "1", Watched("org/name", "tiny", ("x86_avx2",))))
    assert len({one.key, *(other.key for other in others)}) == 4


class _Sources:
    """What each source is at the next look: a revision, or trouble."""

    def __init__(self) -> None:
        self.now: dict[str, str | Exception] = {}

    def look(self, one: Watched) -> tuple[Arrival, ...]:
        revision = self.now[one.source]
        if isinstance(revision, Exception):
            raise revision
        return (Arrival(f"{one.source}@{revision}", revision, one),)


def test_trouble_with_one_source_stops_no_other() -> None:
    sources, said = _Sources(), list[str]()
    watch = Watch(sources.look)
    sources.now = {"org/name": "1", "mlflow:our-base": SourceError("the registry does not answer")}

    def found() -> list[str]:
        return [one.revision for one in watch.whole((REGISTERED, HUB), said.append)]

    assert found() == ["1"]
    assert said == ["the registry does not answer"]
    sources.now["mlflow:our-base"] = "7"
    assert found() == ["7", "1"]


def test_a_folder_is_whole_when_two_looks_saw_the_same(tmp_path: Path) -> None:
    dropped = Watched(str(tmp_path), "tiny")
    watch, said = Watch(), list[str]()

    def whole() -> int:
        return len(watch.whole((dropped,), said.append))

    model = _model(tmp_path / "one")
    assert whole() == 0
    (model / "model.safetensors").write_bytes(b"half")
    assert whole() == 0
    assert whole() == 1
    (model / "model.safetensors").write_bytes(b"another")
    assert whole() == 0
    assert whole() == 1
    assert said == []


class _Begun:
    """Notes what is begun; nothing is left to start once it was, unless there is trouble."""

    def __init__(self) -> None:
        self.sources: list[str] = []
        self.trouble: list[Exception] = []
        self.settles = True

    def __call__(self, arrival: Arrival) -> bool:
        if self.trouble:
            raise self.trouble.pop()
        self.sources.append(arrival.source)
        return self.settles


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> _Sources:
    made = _Sources()
    made.now = {"org/name": "1"}
    monkeypatch.setattr(serving, "watched", lambda: (HUB,))
    return made


def test_a_revision_that_came_back_is_not_begun_again(sources: _Sources) -> None:
    begun = _Begun()
    watcher = Watcher(None, begun, Watch(sources.look))
    for revision in ("1", "1", "2", "1", "2"):
        sources.now["org/name"] = revision
        watcher.look()
    assert begun.sources == ["org/name@1", "org/name@2"]


def test_what_cannot_be_started_now_is_started_at_a_later_look(
    sources: _Sources, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = _Begun()
    begun.trouble = [RuntimeError("no server")]
    watcher = Watcher(None, begun, Watch(sources.look))
    watcher.look()
    assert begun.sources == []
    assert "org/name@1 cannot be started now: no server" in capsys.readouterr().err
    watcher.look()
    watcher.look()
    assert begun.sources == ["org/name@1"]


def test_what_is_begun_and_not_at_its_end_is_asked_after_at_the_next_look(sources: _Sources) -> None:
    begun = _Begun()
    begun.settles = False
    watcher = Watcher(None, begun, Watch(sources.look))
    watcher.look()
    begun.settles = True
    watcher.look()
    watcher.look()
    assert begun.sources == ["org/name@1"] * 2


@contextlib.contextmanager
def _running(watcher: Watcher) -> Iterator[None]:
    """In a thread of its own, which ends when it is stopped."""
    thread = threading.Thread(target=watcher.run)
    thread.start()
    try:
        yield
    finally:
        watcher.stop()
        thread.join(60)
    assert not thread.is_alive()


def test_a_watcher_that_is_woken_looks_at_once_and_outlives_trouble(
    sources: _Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = queue.Queue[int]()

    def unreadable() -> tuple[Watched, ...]:
        looks.put(1)
        raise ValueError("somebody edits bases.yaml")

    monkeypatch.setattr(serving, "watched", unreadable)
    watcher = Watcher(None, _Begun(), Watch(sources.look))
    with _running(watcher):
        for _ in range(3):
            looks.get(timeout=60)
            watcher.wake()


@pytest.mark.parametrize("every_s", [None, 3600.0])
def test_what_is_not_at_its_end_is_asked_after_though_the_sources_are_looked_at_later(
    sources: _Sources, monkeypatch: pytest.MonkeyPatch, every_s: float | None
) -> None:
    monkeypatch.setattr(serving, "_ASK_AGAIN_S", 0.01)
    answers = iter((RuntimeError("no server"), False, True))
    looks, settled = list[Watched](), threading.Event()

    def look(one: Watched) -> tuple[Arrival, ...]:
        looks.append(one)
        return sources.look(one)

    def begin(arrival: Arrival) -> bool:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        if answer:
            settled.set()
        return answer

    watcher = Watcher(every_s, begin, Watch(look))
    with _running(watcher):
        assert settled.wait(60)
    assert looks == [HUB]


def test_what_is_open_of_a_source_that_does_not_answer_is_asked_after_all_the_same(sources: _Sources) -> None:
    begun, away = _Begun(), iter((False, True, True))
    begun.settles = False

    def look(one: Watched) -> tuple[Arrival, ...]:
        if next(away):
            raise SourceError("the hub does not answer")
        return sources.look(one)

    watcher = Watcher(None, begun, Watch(look))
    assert watcher.look()
    assert not watcher.look()
    begun.settles = True
    assert not watcher.look()
    assert begun.sources == ["org/name@1"] * 3


@pytest.mark.parametrize("trouble", [SourceError("the hub does not answer"), ValueError("bases.yaml is being edited")])
def test_a_source_that_did_not_answer_is_asked_again_soon_however_rarely_sources_are_looked_at(
    sources: _Sources, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    """A webhook tells once."""
    monkeypatch.setattr(serving, "_ASK_AGAIN_S", 0.01)
    answers, begun = iter((trouble, None)), threading.Event()

    def look(one: Watched) -> tuple[Arrival, ...]:
        if (error := next(answers)) is not None:
            raise error
        return sources.look(one)

    def begin(arrival: Arrival) -> bool:
        begun.set()
        return True

    watcher = Watcher(None, begin, Watch(look))
    with _running(watcher):
        assert begun.wait(60)


class _Prefect:
    """One run a try, however often it is asked for, as Prefect's idempotency keys have it."""

    def __init__(self) -> None:
        self.runs: dict[int, FlowRun] = {}

    def __call__(self, arrival: Arrival, number: int, after_s: int) -> FlowRun:
        new = FlowRun(flow_id=uuid4(), state=Scheduled())
        return self.runs.setdefault(number, new)

    def end(self, attempt: int, state: State[Any]) -> None:
        self.runs[attempt].state = state


def _start(prefect: _Prefect) -> bool:
    return serving.start(Arrival("org/name@1", "1", Watched("org/name", "tiny", ("x86_avx2",))), prefect)


@pytest.mark.parametrize("state", [Completed(), Cancelled(), Failed(name=serving.REFUSED)])
def test_a_run_that_another_try_would_not_help_is_not_tried_again(state: State[Any]) -> None:
    prefect = _Prefect()
    assert not _start(prefect)
    prefect.end(0, Running())
    assert not _start(prefect)
    prefect.end(0, state)
    assert _start(prefect)
    assert list(prefect.runs) == [0]


def test_a_run_that_was_refused_says_what_tries_again_once_the_cause_is_mended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    prefect = _Prefect()
    assert not _start(prefect)
    prefect.end(0, Failed(name=serving.REFUSED, message="no profile is called tiny"))
    assert _start(prefect)
    assert (
        "was refused: no profile is called tiny; once that is mended, `amoeba onboard org/name"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("state", [Failed(), Crashed()])
def test_a_run_that_failed_or_was_lost_is_tried_again_and_not_for_ever(
    state: State[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    prefect = _Prefect()
    for attempt in range(3):
        assert not _start(prefect)
        assert not _start(prefect)
        assert list(prefect.runs) == list(range(attempt + 1))
        prefect.end(attempt, state)
    assert _start(prefect)
    assert len(prefect.runs) == 3
    said = capsys.readouterr().err
    assert "org/name@1: 3 tries failed" in said
    assert "`amoeba onboard org/name@1 --profile tiny --target x86_avx2` tries again" in said


def test_a_run_that_ended_with_its_service_is_begun_again_at_once_and_is_no_failed_try() -> None:
    prefect, interrupted = _Prefect(), Crashed(name=serving.INTERRUPTED)
    for number, state in enumerate(
        (interrupted, interrupted, Failed(), interrupted, interrupted, Failed(), interrupted)
    ):
        assert not _start(prefect)
        assert len(prefect.runs) == number + 1
        prefect.end(number, state)
    assert not _start(prefect)
    prefect.end(7, Failed())
    assert _start(prefect)
    assert len(prefect.runs) == 8


def test_what_ends_its_service_each_time_is_not_begun_for_ever() -> None:
    prefect = _Prefect()
    for number in range(20):
        assert not _start(prefect)
        prefect.end(number, Crashed(name=serving.INTERRUPTED))
    assert _start(prefect)
    assert len(prefect.runs) == 20


def test_prefect_is_asked_for_one_run_of_each_try_of_a_revision_onboarded_in_one_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, Any]] = []

    def failing(deployment: str, **given: Any) -> FlowRun:
        asked.append({"deployment": deployment, **given})
        return FlowRun(flow_id=uuid4(), state=Failed())

    monkeypatch.setattr("prefect.deployments.run_deployment", failing)
    way = Watched("org/name", "tiny", ("x86_avx2",))
    one = Arrival("org/name", "1", way)
    others = (
        Arrival("org/name", "2", way),
        Arrival("org/other", "1", way),
        Arrival("org/name", "1", replace(way, profile="quick")),
        Arrival("org/name", "1", replace(way, targets=())),
    )
    began = datetime.now(UTC)
    for arrival in (one, *others, one):
        assert serving.start(arrival)
    took = datetime.now(UTC) - began
    keys = [given["idempotency_key"] for given in asked]
    assert keys[-3:] == keys[:3]
    assert len(set(keys)) == 3 * (1 + len(others))
    for given, minutes in zip(asked[:3], (0, 1, 15), strict=True):
        assert given["deployment"] == "arrive/main"
        assert given["parameters"] == {"source": "org/name", "profile": "tiny", "targets": ["x86_avx2"]}
        assert timedelta() <= given["scheduled_time"] - began - timedelta(minutes=minutes) <= took


def test_a_look_by_cron_starts_a_dropped_model_that_stays_as_it_is_and_says_that_it_looked(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, begun, looked = _model(workspace / "drop" / "one"), [], []

    def begin(arrival: Arrival) -> bool:
        begun.append(arrival.source)
        return True

    watched.add(str(workspace / "drop"), "tiny")
    monkeypatch.setattr(deployments, "_STILL_S", 0)
    monkeypatch.setattr(deployments, "Watcher", lambda every: Watcher(every, begin))
    monkeypatch.setattr(serving.metrics, "sources_looked_at", lambda: looked.append(list(begun)))
    deployments.look.fn()
    assert begun == [str(model)]
    assert looked == [[], [str(model)]]


@pytest.mark.parametrize(
    "typed", ["profile: quick, targets: x86_avx2", "profile: quick, targets: [1]", "profile: 2026"]
)
def test_what_is_no_word_or_no_list_of_words_cannot_be_watched(workspace: Path, typed: str) -> None:
    (workspace / "bases.yaml").write_text(f"bases: {{}}\nwatched: [{{source: org/name, {typed}}}]\n")
    with pytest.raises(UnknownNameError, match="if not all are meant, a list of targets"):
        watched.watched()
