"""What a run lets itself be seen by: lines as JSON, spans, counts for Prometheus, and its own run in MLflow."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from fixtures.collector import Collector, collecting
from fixtures.service import prefect_server
from fixtures.services import free_port
from fixtures.tiny import make_model, write_base
from fixtures.workspace import PROJECT, amoeba, make_workspace
from prometheus_client.parser import text_string_to_metric_families

from components import messages
from components.base import Base, BaseError
from components.progress import progress, say
from flows import metrics, onboarding_run, traces, tracking, workers
from flows.receiving import application
from flows.settings import Settings
from flows.traces import TracesError

TARGET = "x86_avx512"
STAGES = ("data", "selection", "supernet")
EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


@pytest.fixture
def as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(messages.FORM, "json")


def test_a_line_for_people_is_the_message_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    with messages.telling(run="r", step="data"):
        say("data: reading", done=1)
    assert capsys.readouterr().err == "data: reading\n"
    assert messages.passed_on('{"message": "x"}\n') == messages.words('{"message": "x"}\n') == '{"message": "x"}\n'


def test_a_line_in_json_says_what_it_is_about_and_how_far_it_is(
    as_json: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with messages.telling(run="r", base="b", target=None), messages.telling(step="data"):
        progress("data: chat")(4, 4)
    said = json.loads(capsys.readouterr().err)
    assert said.pop("time").endswith("+00:00")
    assert said.pop("message").startswith("data: chat: 4/4, ")
    assert said == {"run": "r", "base": "b", "step": "data", "process": os.getpid(), "done": 4, "total": 4}


def test_a_worker_s_own_json_passes_unchanged_and_a_library_s_words_are_given_the_form(
    as_json: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = (
        "import sys; from components.progress import say\n"
        "say('a é'); print('{\"a\": 1}', file=sys.stderr); print(file=sys.stderr); print('plain', file=sys.stderr)"
    )
    heard: list[str] = []
    with messages.telling(run="r", target="t"):
        assert workers.run([sys.executable, "-c", worker], heard.append, PROJECT) == 0
        passed = [messages.passed_on(line) for line in heard]
    own, other, blank, plain = passed
    assert own == heard[0]
    assert [json.loads(line)["message"] for line in (own, other, plain)] == ["a é", '{"a": 1}', "plain"]
    assert [json.loads(line)["target"] for line in (own, other, plain)] == ["t"] * 3
    assert json.loads(own)["process"] != json.loads(plain)["process"] == os.getpid()
    assert blank == ""


def test_what_libraries_log_and_warn_of_is_json_too(as_json: None, capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger().handlers[:]
    try:
        messages.take_library_logs()
        logging.getLogger("a.library").warning("took %d", 3)
        warnings.warn("old", stacklevel=1)
    finally:
        logging.captureWarnings(False)
        logging.getLogger().handlers[:] = before
    logged, warned = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (logged["message"], logged["logger"], logged["level"]) == ("took 3", "a.library", "warning")
    assert "old" in warned["message"]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("observed")
    (folder / "tiny-base").mkdir()
    write_base(folder / "tiny-base", make_model())
    made = make_workspace(folder / "workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "settings", lambda: Settings(workspace=made))
        metrics.begin()
    return made


def onboard(workspace: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ("onboard", "../tiny-base", "--profile", "tiny", "--target", TARGET, "--json")
    return amoeba(workspace, *command, **environment)


@pytest.fixture(scope="module")
def onboarded(workspace: Path, collector: Collector) -> list[dict[str, Any]]:
    """What a whole onboarding said, line by line."""
    sent = collector.environment
    done = onboard(workspace, AMOEBA_LOG="json", MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL="0.5", **sent)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_every_line_of_an_onboarding_is_json_and_says_run_base_and_step(onboarded: list[dict[str, Any]]) -> None:
    assert len({line["run"] for line in onboarded}) == 1
    assert {line["base"] for line in onboarded} == {"tiny-base"}
    said = {line["message"]: line for line in onboarded}
    for stage in STAGES:
        assert {line["step"] for line in onboarded if line["message"].startswith(f"{stage}: ")} == {stage}
    (started,) = (line for message, line in said.items() if message.startswith("packaging "))
    (in_worker,) = (line for message, line in said.items() if message.startswith(f"{TARGET}: measuring: latency"))
    assert (started["step"], started["target"]) == ("build", TARGET)
    assert (in_worker["step"], in_worker["target"]) == ("release", TARGET)
    assert in_worker["process"] != started["process"]
    assert in_worker["done"] == in_worker["total"]


def test_spans_of_flow_steps_and_workers_arrive_each_below_what_started_it(
    onboarded: list[dict[str, Any]], collector: Collector
) -> None:
    root = next(span for span in collector.spans if not span.parent)
    for name, parent in {"flows.dvc_alone push": "push", "edge_targets package": f"build {TARGET}"}.items():
        worker = collector.named(name)
        assert collector.parent(worker).name == parent
        assert collector.parent(collector.parent(worker)) == root
        assert worker.attributes["process.exit.code"] == 0
    stages = {collector.parent(span).name for span in collector.spans if span.name == "flows.dvc_alone repro"}
    assert stages == set(STAGES)
    assert {(span.trace, span.service, span.failed) for span in collector.spans} == {(root.trace, "amoeba", False)}
    assert root.attributes["prefect.run.id"] == onboarded[0]["run"]


def own_run(workspace: Path) -> Any:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{workspace / '.amoeba' / 'mlflow.db'}")
    every = client.search_runs([one.experiment_id for one in client.search_experiments()])
    (run,) = (one for one in every if one.info.run_name == "onboard tiny-base")
    return run


def test_an_onboarding_s_own_run_says_what_each_step_took_and_how_loaded_the_machine_was(
    workspace: Path, onboarded: list[dict[str, Any]]
) -> None:
    run = own_run(workspace)
    assert run.info.status == "FINISHED"
    took = {name: value for name, value in run.data.metrics.items() if name.startswith("seconds.")}
    steps = (*STAGES, "register_supernet", "measure_full_model", f"build.{TARGET}", f"release.{TARGET}", "push", "show")
    assert set(took) == {f"seconds.{name}" for name in steps}
    assert min(took.values()) > 0
    assert 0 < run.data.metrics["system/system_memory_usage_percentage"] < 100


def test_an_onboarding_whose_spans_cannot_be_sent_succeeds_and_one_that_computes_nothing_adds_nothing(
    workspace: Path, onboarded: list[dict[str, Any]]
) -> None:
    before = own_run(workspace)
    nowhere = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    done = onboard(workspace, **nowhere)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["failed"] == {}
    after = own_run(workspace)
    assert (after.info, after.data.metrics) == (before.info, before.data.metrics)


def values(exposed: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(exposed)
        for sample in family.samples
    }


def counted(found: dict[Any, float], name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


def test_metrics_are_those_of_runs_in_processes_of_their_own(
    workspace: Path, onboarded: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "settings", lambda: Settings(workspace=workspace))
    metrics.sources_looked_at()
    with TestClient(application(None, lambda told: None)) as service:
        answer = service.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = values(answer.text)
    runs = counted(found, "amoeba_onboardings_total", outcome="complete")
    assert runs >= 1
    release = {"step": "release", "target": TARGET, "outcome": "done"}
    assert counted(found, "amoeba_step_seconds_count", **release) == runs
    assert counted(found, "amoeba_step_seconds_bucket", **release, le="+Inf") == runs
    assert counted(found, "amoeba_step_seconds_sum", **release) > 0
    assert counted(found, "amoeba_published_packages_total", target=TARGET) == 1
    assert counted(found, "amoeba_workspace_free_bytes") > 0
    assert counted(found, "amoeba_last_look_timestamp_seconds") > 1.7e9


def test_buckets_cumulate_as_prometheus_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "settings", lambda: Settings(workspace=tmp_path))
    metrics.step_ended("data", "", "done", 1.0)
    assert not (tmp_path / ".amoeba").exists()  # nobody asked for counts here
    metrics.begin()
    taken_s = (0.5, 1.0, 1.5, 70.0, 1e6)
    for seconds in taken_s:
        metrics.step_ended("data", "", "done", seconds)
    found = values(metrics.exposition().decode())
    for end in metrics.BUCKETS_S:
        below = counted(
            found,
            "amoeba_step_seconds_bucket",
            step="data",
            target="",
            outcome="done",
            le="+Inf" if end > 1e9 else str(float(end)),
        )
        assert below == sum(seconds <= end for seconds in taken_s)
    assert counted(found, "amoeba_step_seconds_sum", step="data", target="", outcome="done") == sum(taken_s)


@pytest.mark.parametrize("damage", [b"no database" * 500, None])
def test_counts_that_cannot_be_read_are_put_aside_and_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: bytes | None
) -> None:
    monkeypatch.setattr(metrics, "settings", lambda: Settings(workspace=tmp_path))
    metrics.begin()
    (kept,) = (tmp_path / ".amoeba").iterdir()
    kept.write_bytes(kept.read_bytes()[:100] + b"\xff" * 4000 if damage is None else damage)
    metrics.begin()
    metrics.package_published("x86_avx2")
    found = values(metrics.exposition().decode())
    assert counted(found, "amoeba_published_packages_total", target="x86_avx2") == 1
    assert kept.with_suffix(".damaged").is_file()
    assert "counts begin anew" in capsys.readouterr().err


def test_an_onboarding_s_first_failure_is_an_increase_wherever_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outcomes() -> list[float]:
        found = values(metrics.exposition().decode())
        return [counted(found, "amoeba_onboardings_total", outcome=outcome) for outcome in metrics.OUTCOMES]

    monkeypatch.setattr(metrics, "settings", lambda: Settings(workspace=tmp_path))
    metrics.begin()
    assert outcomes() == [0, 0, 0]
    with pytest.raises(BaseError), metrics.failing_onboarding():
        raise BaseError("no base")
    with metrics.failing_onboarding():
        pass
    metrics.begin()
    assert outcomes() == [0, 0, 1]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with prefect_server(tmp_path_factory.mktemp("prefect")) as address:
        yield address


def run_observed(name: str, api: str, workspace: Path, runner: str = "threads") -> Any:
    """The answer of one of the flows of `fixtures.observed`, in a workspace that counts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "settings", lambda: Settings(workspace=workspace))
        metrics.begin()
    environment = {
        **os.environ,
        "AMOEBA_TASK_RUNNER": runner,
        "AMOEBA_WORKSPACE": str(workspace),
        "PREFECT_API_URL": api,
        "PREFECT_HOME": str(workspace / ".amoeba" / "prefect"),
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PYTHONPATH": os.pathsep.join([str(PROJECT), str(PROJECT / "tests")]),
    }
    command = [sys.executable, "-m", "fixtures.observed", name]
    done = subprocess.run(command, env=environment, cwd=workspace, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("runner", ["threads", "processes", "dask"])
def test_a_step_knows_its_run_and_is_counted_wherever_it_runs(
    runner: str, api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_flow, good, bad = run_observed("fan_out", api, tmp_path, runner)
    assert of_flow.pop("base") == "a-base"
    assert good.pop("base", "a-base") == "a-base"  # of threads alone: the step itself has no base
    assert good == {**of_flow, "step": "try", "target": "good"}
    assert bad == "JobError"
    monkeypatch.setattr(metrics, "settings", lambda: Settings(workspace=tmp_path))
    found = values(metrics.exposition().decode())
    assert counted(found, "amoeba_step_seconds_count", step="try", target="good", outcome="done") == 1
    assert counted(found, "amoeba_step_seconds_count", step="try", target="bad", outcome="failed") == 1
    assert counted(found, "amoeba_step_failures_total", step="try", reason="JobError", tried_again="no") == 1


def test_a_failure_that_may_pass_is_counted_as_tried_again_as_long_as_tries_are_left(
    api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_observed("losing", api, tmp_path) == "killed"
    monkeypatch.setattr(metrics, "settings", lambda: Settings(workspace=tmp_path))
    found = values(metrics.exposition().decode())
    told = {"step": "lose", "reason": "LostWorkerError"}
    assert counted(found, "amoeba_step_failures_total", **told, tried_again="yes") == 3
    assert counted(found, "amoeba_step_failures_total", **told, tried_again="no") == 1


def test_a_run_that_cannot_be_kept_in_mlflow_fails_no_onboarding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(*_: object) -> bool:
        raise ConnectionError("no registry")

    monkeypatch.setattr(onboarding_run, "parameters", dict)
    monkeypatch.setattr(metrics, "settings", lambda: Settings(workspace=tmp_path))
    monkeypatch.setattr(tracking, "is_finished", away)
    with onboarding_run.recorded(Base("b", "b", "1", "f" * 64, "mit", tmp_path), "tiny", (TARGET,)) as ending:
        ending.outcome = "complete"
    assert capsys.readouterr().err == "the onboarding's run in MLflow is not complete: no registry\n"


def test_an_onboarding_that_was_incomplete_goes_on_in_its_run_and_samples_nothing_where_told_not_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = Settings(workspace=tmp_path, system_metrics=False)
    for module in (metrics, onboarding_run, tracking):
        monkeypatch.setattr(module, "settings", lambda: quiet)
    monkeypatch.setattr(onboarding_run, "parameters", dict)
    statuses = []
    for outcome in ("incomplete", "complete"):
        with onboarding_run.recorded(Base("tiny-base", "b", "1", "f" * 64, "mit", tmp_path), "tiny", (TARGET,)) as one:
            one.outcome = outcome  # type: ignore[assignment]
        statuses.append(own_run(tmp_path).info.status)
    assert statuses == ["FAILED", "FINISHED"]
    assert own_run(tmp_path).data.metrics == {}


def test_who_asks_for_traces_without_what_sends_them_is_told_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, EXPORTER, None)
    with pytest.raises(TracesError, match=r"pip install -c constraints.txt -e '.\[observe\]' brings it"):
        traces.begin.__wrapped__()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(TracesError, match="are sent as http/protobuf, not as grpc"):
        traces.begin.__wrapped__()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    traces.begin.__wrapped__()


WORKS = "import os, sys; print(os.environ['TRACEPARENT'], file=sys.stderr); sys.exit(3)"
TRACED = f"""
import sys
from flows import traces, workers
from mlflow import MlflowClient, set_tracking_uri, start_span
traces.begin()
heard = []
workers.run([sys.executable, "-c", {WORKS!r}], heard.append)
set_tracking_uri(sys.argv[1])
with start_span("of MLflow"):
    pass
import mlflow
mlflow.flush_trace_async_logging()
print(heard[0].strip(), len(MlflowClient().search_traces(locations=["0"])))
raise SystemExit(1)  # what was not sent yet is sent even so
"""


def test_a_worker_finds_its_span_in_its_environment_and_mlflow_keeps_its_own_to_itself(tmp_path: Path) -> None:
    above = f"00-{'a' * 32}-{'b' * 16}-01"
    with collecting() as collector:
        environment = {**os.environ, **collector.environment, "TRACEPARENT": above, "PYTHONPATH": str(PROJECT)}
        command = [sys.executable, "-c", TRACED, f"sqlite:///{tmp_path / 'mlflow.db'}"]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
    (span,) = collector.spans
    given, traces_of_mlflow = done.stdout.split()
    assert given == f"00-{span.trace}-{span.span}-01"
    assert (span.trace, span.parent) == ("a" * 32, "b" * 16)
    assert (span.name, span.failed, span.attributes["process.exit.code"]) == ("worker", True, 3)
    assert traces_of_mlflow == "1"
