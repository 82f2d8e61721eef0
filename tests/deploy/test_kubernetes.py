"""deploy/'s manifests against Kubernetes' own schemas, its restricted pod security, and the compose file they repeat."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from fixtures.deployment import DEPLOY, compose, new_secrets

OURS = {"amoeba-edge-server": "server", "amoeba-edge-worker": "worker"}
VERSION = "1.34"
FOLDERS = (DEPLOY, DEPLOY / "kubernetes" / "pool")


def manifests(folder: Path) -> list[dict[str, Any]]:
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    return [one for name in listed for one in yaml.safe_load_all((folder / name).read_text())]


ALL = [one for folder in FOLDERS for one in manifests(folder)]


def pods(every: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, pod's specification) of everything that runs."""
    for one in every:
        spec = one.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            yield one["metadata"]["name"], spec["template"]["spec"]


PODS = dict(pods(ALL))


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


@pytest.mark.parametrize("one", ALL, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_every_manifest_is_valid_by_kubernetes_own_schemas(one: dict[str, Any]) -> None:
    kubernetes_validate.validate(one, VERSION, strict=True)


def test_the_schemas_refuse_what_kubernetes_would() -> None:
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"port": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


@pytest.mark.parametrize("folder", FOLDERS, ids=["service", "pool"])
def test_what_kustomize_makes_of_a_folder_is_valid_and_all_of_it(folder: Path) -> None:
    """With kustomize, or kubectl that has it; no registry of packages brings either."""
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run([program, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = list(yaml.safe_load_all(done.stdout))
    for one in made:
        kubernetes_validate.validate(one, VERSION, strict=True)
    assert {(one["kind"], one["metadata"]["name"]) for one in manifests(folder)} <= {
        (one["kind"], one["metadata"]["name"]) for one in made
    }
    images = {container["image"] for _, pod in pods(made) for container in containers(pod)}
    assert all(":" in image for image in images), images


@pytest.mark.parametrize("name", PODS)
def test_every_pod_is_within_the_restricted_security_standard_and_bounded(name: str) -> None:
    _restricted(PODS[name])
    assert PODS[name].get("automountServiceAccountToken") is False or "serviceAccountName" in PODS[name]


def test_what_stays_is_probed() -> None:
    stays = [pod for one in ALL if one["kind"] in ("Deployment", "StatefulSet") for _, pod in pods([one])]
    assert len(stays) == 7
    for pod in stays:
        for container in pod["containers"]:
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)


def test_secrets_are_named_and_never_written() -> None:
    known = set(new_secrets())
    for pod in PODS.values():
        for container in containers(pod):
            for entry in container["env"]:
                if "valueFrom" in entry:
                    asked = entry["valueFrom"]["secretKeyRef"]
                    assert asked["name"] == "amoeba"
                    assert asked["key"] in known
                else:
                    assert not re.search(
                        r"PASSWORD|SECRET|AUTH_STRING|ACCESS_KEY|SIGNING_KEY|ENCRYPTION", entry["name"]
                    )
    assert not [one for one in ALL if one["kind"] == "Secret"]


def test_configuration_that_a_pod_mounts_is_made_by_its_kustomization() -> None:
    for folder in FOLDERS:
        made = yaml.safe_load((folder / "kustomization.yaml").read_text())["configMapGenerator"]
        names = {one["name"] for one in made}
        assert all((folder / file).is_file() for one in made for file in one["files"])
        asked = {
            volume["configMap"]["name"]
            for _, pod in pods(manifests(folder))
            for volume in pod["volumes"]
            if "configMap" in volume
        }
        assert asked == names


@pytest.mark.parametrize(
    "name", ["postgres", "store", "mlflow", "mlflow-users", "prefect", "worker", "deployments", "backup"]
)
def test_a_service_is_told_the_same_here_and_in_the_compose_file(name: str) -> None:
    service, container = compose()["services"][name], PODS[name]["containers"][0]
    here = {
        entry["name"]: f"${{{entry['valueFrom']['secretKeyRef']['key']}}}"
        if "valueFrom" in entry
        else re.sub(r"\$\((\w+)\)", r"${\1}", entry["value"])
        for entry in container["env"]
    }
    there = {key: re.sub(r":[-?][^}]*}", "}", value) for key, value in service["environment"].items()}
    assert there.items() <= here.items()
    words = [*container.get("command", ()), *container.get("args", ())]
    given = [*(word for word in service.get("entrypoint", ()) if name == "store"), *service["command"]]
    assert words == [word for word in given if word != "--every-hours=24"]


def test_every_service_that_is_called_may_be_called_by_its_callers_alone() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in ALL if one["kind"] == "NetworkPolicy"}
    assert policies["nobody"]["podSelector"] == {}
    assert "ingress" not in policies["nobody"]
    ports = {"postgres": 5432, "store": 8333, "mlflow": 5000, "prefect": 4200}
    assert set(policies) == {"nobody", "proxy", *ports}
    places = {
        "postgres": "postgres",
        "store": "http://store:8333",
        "mlflow": "http://mlflow:5000",
        "prefect": "http://prefect:4200",
    }
    labels = {
        name: one["spec"].get("jobTemplate", {}).get("spec", one["spec"])["template"]["metadata"]["labels"]["app"]
        for one in ALL
        for name, _ in pods([one])
    }
    for service, place in places.items():
        callers = {
            labels[name]
            for name, pod in PODS.items()
            for container in containers(pod)
            if any(str(entry.get("value", "")).startswith(place) for entry in container["env"])
        }
        assert policies[service]["podSelector"] == {"matchLabels": {"app": service}}
        (rule,) = policies[service]["ingress"]
        assert [port["port"] for port in rule["ports"]] == [ports[service]]
        (source,) = rule["from"]
        (expression,) = source["podSelector"]["matchExpressions"]
        assert (list(source), expression["key"], expression["operator"]) == (["podSelector"], "app", "In")
        allowed = set(expression["values"])
        assert callers - {service} <= allowed
        assert allowed - callers == ({"proxy"} if service in ("mlflow", "prefect") else set()), service


def test_a_docker_pool_makes_containers_that_the_docker_library_takes() -> None:
    """Through prefect-docker's own reading of the template, and docker's of what it asks for; there is no engine in it."""
    from docker.models.containers import _create_container_args
    from prefect_docker.worker import DockerWorker, DockerWorkerJobConfiguration

    template = json.loads((DEPLOY / "docker-pool" / "template.json").read_text())
    made = _configured(DockerWorkerJobConfiguration, template, {"env": {"A": "1"}})
    assert isinstance(made, DockerWorkerJobConfiguration)
    assert made.image == "amoeba-edge-worker:0.1.0"
    assert made.networks == [f"amoeba_{name}" for name in compose()["networks"]]
    settings = {**(made.container_create_kwargs or {}), "mem_limit": made.mem_limit, "volumes": made.volumes}
    asked = _create_container_args({"image": made.image, "version": "1.50", "command": "true", **settings})
    host = asked["host_config"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], asked["user"]) == (True, ["ALL"], "10001:10001")
    assert host["NanoCpus"] == 4_000_000_000
    default = DockerWorker.get_default_base_job_template()
    assert template["job_configuration"] == default["job_configuration"]
    assert set(template["variables"]["properties"]) == set(default["variables"]["properties"])


def test_a_kubernetes_pool_makes_jobs_that_are_valid_and_restricted() -> None:
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    template = json.loads((DEPLOY / "kubernetes" / "pool" / "template.json").read_text())
    values = {"command": "prefect flow-run execute", "name": "run", "image": "registry.example/worker:1"}
    made = _configured(KubernetesWorkerJobConfiguration, template, values)
    job = made.job_manifest
    assert job is not None
    made._populate_image_if_not_present()
    made._populate_command_if_not_present()
    made._populate_env_in_manifest()
    kubernetes_validate.validate(job, VERSION, strict=True)
    pod = job["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "registry.example/worker:1"
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "amoeba-job"}}]
    _restricted(pod)
    claims = [one["metadata"]["name"] for one in ALL if one["kind"] == "PersistentVolumeClaim"]
    assert [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"][:1]] == claims
    assert job["spec"]["template"]["metadata"]["labels"] == {"app": "worker"}


def _configured(kind: Any, template: dict[str, Any], values: dict[str, Any]) -> Any:
    """A worker's configuration of one run; the client is of a server that nothing asks."""
    from prefect.client.orchestration import PrefectClient

    async def read() -> Any:
        async with PrefectClient("http://127.0.0.1:9/api") as client:
            return await kind.from_template_and_values(template, values, client=client)

    return asyncio.run(read())


def _restricted(pod: dict[str, Any]) -> None:
    """Kubernetes' pod security standard `restricted`, and what it does not ask for: limits and a read-only root."""
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert all({"configMap", "emptyDir", "persistentVolumeClaim"} & set(volume) for volume in pod["volumes"])
    for container in containers(pod):
        secure = container["securityContext"]
        assert (secure["allowPrivilegeEscalation"], secure["readOnlyRootFilesystem"]) == (False, True)
        assert secure["capabilities"]["drop"] == ["ALL"]
        assert set(secure["capabilities"].get("add", ())) <= {"NET_BIND_SERVICE"}
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
