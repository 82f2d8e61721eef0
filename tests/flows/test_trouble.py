"""Bad input and trouble: one clear line with the next step, a non-zero exit, and nothing half-made."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from fixtures.tiny import make_model, write_base
from fixtures.workspace import PROJECT, amoeba, dvc, make_workspace
from prefect.exceptions import PrefectHTTPStatusError

from components.strict import SlipError
from flows import cli, numbers, settings
from flows.space import SpaceError, ensure_space
from flows.trouble import explained


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trouble")
    (folder / "tiny-base").mkdir()
    write_base(folder / "tiny-base", make_model())
    return make_workspace(folder / "workspace")


def changed(workspace: Path, tmp_path: Path, name: str, content: bytes | None) -> str:
    """A copy of the tiny base with one file replaced, or removed."""
    shutil.copytree(workspace.parent / "tiny-base", tmp_path / "changed")
    if content is None:
        (tmp_path / "changed" / name).unlink()
    else:
        (tmp_path / "changed" / name).write_bytes(content)
    return str(tmp_path / "changed")


def refused(workspace: Path, *arguments: str, **environment: str) -> str:
    done = amoeba(workspace, *arguments, **environment)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not (workspace / "artifacts").exists()
    return done.stderr


def test_an_unknown_base_names_the_nearest(workspace: Path) -> None:
    assert "did you mean smollm2-135m?" in refused(workspace, "onboard", "smolm2-135m", "--profile", "tiny")


def test_an_unknown_profile_names_those_there_are(workspace: Path) -> None:
    assert "params.yaml has tiny" in refused(workspace, "onboard", "../tiny-base", "--profile", "quick")


def test_an_unknown_target_names_the_nearest(workspace: Path) -> None:
    said = refused(workspace, "onboard", "../tiny-base", "--profile", "tiny", "--target", "x86_avx51")
    assert "did you mean x86_avx512?" in said


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("onboard ../tiny-base --profile tin", "no profile is called 'tin'; did you mean tiny?"),
        ("onboard ../tiny-base --profile tiny --target x86_avx51", "did you mean x86_avx512?"),
        (
            "onboard nope --profile tiny",
            "no base is called 'nope'; embedded are smollm2-135m. A base may also be a local",
        ),
        ("package tiny-base x86_avx51", "did you mean x86_avx512?"),
        ("package nope x86_avx512", "no base is called 'nope' in bases.yaml"),
        ("explore nope x86_avx512", "no base is called 'nope' in bases.yaml"),
        ("check nope", "no base is called 'nope' in bases.yaml"),
    ],
)
def test_a_misspelt_name_is_told_before_a_prefect_server_is_asked(workspace: Path, asked: str, told: str) -> None:
    assert told in refused(workspace, *asked.split(), PREFECT_API_URL="http://127.0.0.1:9/api")


@pytest.mark.parametrize(
    ("section", "written", "told"),
    [
        ("package", {"context_lenght": 64}, "package.context_lenght is not known; did you mean context_length?"),
        ("measure", {"runs": "seven"}, "measure.runs is 'seven'; wanted a whole number"),
        (
            "measure",
            {"agreement_windows": 0},
            "measure: agreement_windows is 0; closeness is told from at least 1 window",
        ),
        ("gate", {"pairs": "six"}, "gate.pairs is 'six'; wanted a list, each a whole number"),
        ("tolerances", {"perplexity_percent": "two"}, "tolerances.perplexity_percent is 'two'; wanted a number"),
        ("verify", {"int9": {}}, "verify.int9 is no quantization; there are"),
        ("verify", {"int8": {"max_kl": None}}, "verify.int8.max_kl is None; wanted a number"),
    ],
)
def test_a_slip_in_a_section_is_told_before_any_work(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, section: str, written: dict[str, object], told: str
) -> None:
    values = yaml.safe_load((workspace / "params.yaml").read_text())
    monkeypatch.setattr(numbers, "parameters", lambda: values)
    numbers.check_numbers("tiny")
    values[section] |= written
    with pytest.raises(SlipError) as error:
        numbers.check_numbers("tiny")
    assert (explained(error.value) or "").startswith(f"params.yaml: {told}")


@pytest.mark.parametrize(
    ("asked", "name", "written", "told"),
    [
        ("onboard ../tiny-base --profile tiny", "params.yaml", "profiles: [", "line 2: this is no YAML: expected"),
        ("onboard ../tiny-base --profile tiny", "params.yaml", "profile: {}", "has no profiles; the nearest there is"),
        ("package x x86_avx512", "bases.yaml", "bases: {x: 3}", ": bases.x is 3; wanted keys and their values"),
        ("check x", "bases.yaml", "bases: {x: {source: y}}", ": bases.x.fingerprint is missing; wanted text"),
        ("onboard ../tiny-base --profile tiny", "params.yaml", "profiles: {tiny: {}}", "has no package"),
    ],
)
def test_a_slip_in_a_file_is_one_line_before_a_prefect_server_is_asked(
    workspace: Path, asked: str, name: str, written: str, told: str
) -> None:
    whole = (workspace / name).read_text()
    (workspace / name).write_text(f"{written}\n")
    try:
        said = refused(workspace, *asked.split(), PREFECT_API_URL="http://127.0.0.1:9/api")
    finally:
        (workspace / name).write_text(whole)
    assert said.startswith(f"error: {name}")
    assert told in said
    assert len(said.splitlines()) == 1


def test_an_architecture_that_is_not_supported_names_those_that_are(workspace: Path, tmp_path: Path) -> None:
    config = json.loads((workspace.parent / "tiny-base" / "config.json").read_text())
    content = json.dumps({**config, "architectures": ["GPT2LMHeadModel"]}).encode()
    base = changed(workspace, tmp_path, "config.json", content)
    said = refused(workspace, "onboard", base, "--profile", "tiny")
    assert "GPT2LMHeadModel" in said
    assert "LlamaForCausalLM" in said


def test_a_truncated_model_file_is_named(workspace: Path, tmp_path: Path) -> None:
    whole = (workspace.parent / "tiny-base" / "model.safetensors").read_bytes()
    base = changed(workspace, tmp_path, "model.safetensors", whole[: len(whole) // 2])
    assert "model.safetensors is truncated or damaged" in refused(workspace, "onboard", base, "--profile", "tiny")


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "chat_template.jinja"])
def test_a_missing_file_is_found_before_any_work(workspace: Path, tmp_path: Path, name: str) -> None:
    base = changed(workspace, tmp_path, name, None)
    said = refused(workspace, "onboard", base, "--profile", "tiny")
    assert {"tokenizer.json": "tokenizer.json", "model.safetensors": "pickled", "chat_template.jinja": "chat"}[
        name
    ] in said


def test_a_hub_that_cannot_be_reached_says_what_else_can_be_done(workspace: Path) -> None:
    said = refused(workspace, "onboard", "nobody/nothing", "--profile", "tiny", HF_HUB_OFFLINE="1")
    assert "give its folder instead" in said


def test_a_registry_that_does_not_answer_is_named_without_its_password(workspace: Path, tmp_path: Path) -> None:
    uri = "http://user:secret@127.0.0.1:9"
    said = refused(workspace, "pull", "tiny-base", "x86_avx512", "--to", str(tmp_path / "x"), AMOEBA_MLFLOW_URI=uri)
    assert "does not answer" in said
    assert "AMOEBA_MLFLOW_URI" in said
    assert "secret" not in said
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("verb", [("onboard", "../tiny-base", "--profile", "tiny"), ("serve",)])
def test_a_prefect_server_that_does_not_answer_is_named_without_its_password(
    workspace: Path, verb: tuple[str, ...]
) -> None:
    said = refused(workspace, *verb, PREFECT_API_URL="http://user:secret@127.0.0.1:9/api")
    assert "the Prefect server at http://127.0.0.1:9/api does not answer" in said
    assert "check PREFECT_API_URL" in said
    assert "secret" not in said


def test_pulling_what_was_never_published_says_so(workspace: Path, tmp_path: Path) -> None:
    said = refused(workspace, "pull", "tiny-base", "x86_avx512", "--to", str(tmp_path / "x"))
    assert "the registry has no model 'tiny-base--x86_avx512'" in said


def test_a_verb_that_needs_a_workspace_says_where_to_go(tmp_path: Path) -> None:
    done = amoeba(tmp_path, "check", "tiny-base")
    assert done.returncode == 2
    assert "AMOEBA_WORKSPACE" in done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("WORKERS", "abc", "AMOEBA_WORKERS is 'abc'; wanted a whole number over 0"),
        ("WORKERS", "0", "AMOEBA_WORKERS is '0'; wanted a whole number over 0"),
        ("WORKSPACE_MEGABYTES", "1.5", "AMOEBA_WORKSPACE_MEGABYTES is '1.5'; wanted a whole number over 0"),
        ("HANG_MINUTES", "long", "AMOEBA_HANG_MINUTES is 'long'; wanted a number over 0"),
        ("TASK_RUNNER", "slurm", "AMOEBA_TASK_RUNNER is 'slurm'; wanted threads, processes, dask or ray"),
        ("SYSTEM_METRICS", "perhaps", "AMOEBA_SYSTEM_METRICS is 'perhaps'; wanted true or false"),
    ],
)
def test_a_wrong_variable_is_named_with_its_value_and_what_is_wanted(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    monkeypatch.setenv(f"AMOEBA_{variable}", value)
    with pytest.raises(settings.SettingError) as error:
        settings.settings.__wrapped__()
    assert explained(error.value) == told


def test_every_wrong_variable_is_told_in_one_line(tmp_path: Path) -> None:
    done = amoeba(tmp_path, "targets", AMOEBA_WORKERS="abc", AMOEBA_LOG="xml")
    assert done.returncode == 2
    told = "AMOEBA_WORKERS is 'abc'; wanted a whole number over 0; AMOEBA_LOG is 'xml'; wanted lines or json"
    assert done.stderr == f"error: {told}\n"


def test_a_wrong_secret_is_named_and_not_shown() -> None:
    for name in ("signing_key_password", "webhook_secret"):
        told = settings._told({"type": "string_type", "loc": (name,), "msg": "unused", "input": "hidden"})
        assert told == f"AMOEBA_{name.upper()} is not shown here; wanted text"


def test_a_hub_snapshot_is_onboarded_from_the_hubs_own_cache(workspace: Path, tmp_path: Path) -> None:
    from components.base import resolve

    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--someone--tiny" / "snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(workspace.parent / "tiny-base", snapshot)
    (tmp_path / "models--someone--tiny" / "refs").mkdir()
    (tmp_path / "models--someone--tiny" / "refs" / "main").write_text(commit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        base = resolve("someone/tiny@main", tmp_path / "cache")
    assert base.name == "tiny"
    assert base.revision == commit
    assert base.fingerprint == resolve(str(workspace.parent / "tiny-base"), tmp_path / "cache").fingerprint


def test_a_run_killed_in_the_middle_goes_on_and_ends_like_one_never_killed(tmp_path: Path) -> None:
    (tmp_path / "tiny-base").mkdir()
    write_base(tmp_path / "tiny-base", make_model())
    workspace = make_workspace(tmp_path / "workspace")
    command = ("onboard", "../tiny-base", "--profile", "tiny", "--target", "x86_avx512", "--json")
    killed = start(workspace, *command)
    wait_for(workspace / "artifacts" / "tiny-base" / "data" / "data.json", killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    done = amoeba(workspace, *command)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["failed"] == {}
    assert not list(workspace.rglob("*.partial*"))
    assert "up to date" in dvc(workspace, "status").stdout


def test_ctrl_c_ends_a_run_and_its_server_and_says_how_it_goes_on(tmp_path: Path) -> None:
    (tmp_path / "tiny-base").mkdir()
    write_base(tmp_path / "tiny-base", make_model())
    workspace = make_workspace(tmp_path / "workspace")
    command = ("onboard", "../tiny-base", "--profile", "tiny", "--target", "x86_avx512")
    stopped = start(workspace, *command, said=tmp_path / "said")
    wait_for(workspace / "artifacts" / "tiny-base" / "data" / "data.json", stopped)
    started = psutil.Process(stopped.pid).children(recursive=True)
    assert any("flows.own_server" in process.cmdline() for process in started)
    os.killpg(stopped.pid, signal.SIGINT)  # as a terminal does it
    assert stopped.wait() == 130
    said = (tmp_path / "said").read_text()
    assert said.endswith("stopped; run the same command again to go on from here\n")
    assert "Traceback" not in said
    assert psutil.wait_procs(started, timeout=60)[1] == []


def start(workspace: Path, *arguments: str, said: Path = Path(os.devnull)) -> subprocess.Popen[bytes]:
    """The command in a process group of its own, so that everything it started dies with it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AMOEBA_")}
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=workspace,
        env={**inherited, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=said.open("wb"),
        start_new_session=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # ignored by whatever is started in the background
    )


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    while not path.exists():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)


def test_a_full_disk_is_told_with_what_to_do() -> None:
    said = explained(OSError(errno.ENOSPC, "No space left on device", "model.onnx"))
    assert said is not None
    assert "model.onnx" in said
    assert "make room and run the same command again" in said


def test_a_full_disk_is_recognised_behind_another_librarys_error() -> None:
    behind = RuntimeError("could not save")
    behind.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert "make room" in (explained(behind) or "")
    assert "make room" in (explained(ValueError("(sqlite3.OperationalError) database or disk is full")) or "")


def test_a_prefect_server_that_wants_another_password_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "https://user:secret@prefect.example/api")
    request = httpx.Request("GET", "https://user:secret@prefect.example/api/flows")
    refusal = httpx.HTTPStatusError("unused", request=request, response=httpx.Response(401, request=request))
    said = explained(PrefectHTTPStatusError.from_httpx_error(refusal)) or ""
    assert "the Prefect server at https://prefect.example/api refused" in said
    assert "check PREFECT_API_AUTH_STRING" in said
    assert "secret" not in said


def test_too_little_room_is_told_before_any_work(tmp_path: Path) -> None:
    ensure_space(tmp_path)
    with pytest.raises(SpaceError, match="needs 12000000"):
        ensure_space(tmp_path, weights=10**18, packages=4)


def test_a_missing_extra_is_told_with_the_line_that_installs_it() -> None:
    said = explained(ModuleNotFoundError("No module named 'executorch'", name="executorch.runtime"))
    assert said is not None
    assert ".[phone]" in said


def test_a_fault_of_ours_keeps_its_traceback_and_is_no_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise KeyError("a mistake")

    assert explained(KeyError("a mistake")) is None
    monkeypatch.setattr(settings, "prepare_environment", lambda: None)
    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr("sys.argv", ["amoeba", "check", "m"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "Traceback" in capsys.readouterr().err
