"""Where things are: from the environment, prefix `AMOEBA_`. Numbers that change results live in `params.yaml` instead."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

WORKSPACE_FILES = ("dvc.yaml", "params.yaml", "bases.yaml")
_WORKSPACE = f"a folder with {', '.join(WORKSPACE_FILES)}"


class WorkspaceError(Exception):
    """The folder a command runs in is not a workspace."""


class SettingError(Exception):
    """A variable of the environment is no value of its setting."""


class Settings(BaseSettings):
    """Each field may be set as AMOEBA_<FIELD>."""

    # A variable that is there and empty, as of a secret that CI does not have, is not set: it would name the working folder.
    model_config = SettingsConfigDict(env_prefix="AMOEBA_", env_ignore_empty=True)

    workspace: Path | None = None
    """The folder of dvc.yaml; the nearest one above the working folder when not set."""
    mlflow_uri: str | None = None
    """An MLflow server; an SQLite file in the workspace when not set."""
    dvc_remote: str | None = None
    """Where DVC pushes to; the remote of `.dvc/config` when not set."""
    trust: Path | None = None
    """The folder of the public keys that are believed; the user's own and the workspace's when not set."""
    signing_key: Path | None = None
    """The private key that signs what is published; nothing is signed when not set."""
    signing_key_password: SecretStr | None = None
    task_runner: Literal["threads", "processes", "dask", "ray"] = "threads"
    """What runs a flow's jobs: `flows.runners`."""
    workers: int = Field(default=2, gt=0)
    """Jobs at a time."""
    cluster: str | None = None
    """The address of a Dask scheduler or of Ray; one is made on this machine when not set."""
    webhook_secret: SecretStr | None = None
    """What MLflow signs its webhooks with; none are taken when not set."""
    pull_cache: Path | None = Field(default=None, validation_alias="AMOEBA_CACHE")
    """Where pulled files are kept; a folder of the user's, as the platform has it, when not set."""
    cache_megabytes: int = Field(default=10_000, gt=0)
    """Most that is kept there; the files used longest ago go first."""
    workspace_megabytes: int | None = Field(default=None, gt=0)
    """Most that the workspace's own cache keeps after an onboarding; no limit when not set."""
    hang_minutes: float = Field(default=30.0, gt=0)
    """How long a worker may say and compute nothing before it is ended."""
    log: Literal["lines", "json"] = "lines"
    """What messages on standard error are; `components.messages` reads it from the environment, as workers must."""
    system_metrics: bool = True
    """Whether an onboarding's run in MLflow has the machine's load."""

    @property
    def root(self) -> Path:
        """Raises WorkspaceError where there is no workspace."""
        if self.workspace is not None:
            return self.workspace.resolve()
        for folder in (Path.cwd(), *Path.cwd().parents):
            if _is_workspace(folder):
                return folder
        raise WorkspaceError(
            f"{Path.cwd()} is not in a workspace: {_WORKSPACE}. Go to the checkout, or name it in AMOEBA_WORKSPACE; a device that "
            "only pulls names its registry in AMOEBA_MLFLOW_URI"
        )

    @property
    def home(self) -> Path:
        """What the workspace keeps for itself and git ignores."""
        return self.root / ".amoeba"

    @property
    def cache(self) -> Path:
        return self.home / "cache"

    @property
    def pulled(self) -> Path:
        import platformdirs

        return self.pull_cache or platformdirs.user_cache_path("amoeba-edge", appauthor=False)

    @property
    def registry_uri(self) -> str:
        return self.mlflow_uri or f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def artifact_root(self) -> str | None:
        """Where the embedded MLflow puts files; a server decides for itself."""
        return None if self.mlflow_uri else str(self.home / "mlflow-artifacts")


def _is_workspace(folder: Path) -> bool:
    return all((folder / name).is_file() for name in WORKSPACE_FILES)


def check_workspace() -> None:
    """Raises WorkspaceError where AMOEBA_WORKSPACE names none: a registry would be made there, and nothing be in it."""
    named = settings().workspace
    if named is not None and not _is_workspace(named):
        raise WorkspaceError(f"AMOEBA_WORKSPACE is {named}, which is no workspace: {_WORKSPACE}")


@cache
def settings() -> Settings:
    """Raises SettingError naming every variable that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        told = "; ".join(map(_told, error.errors()))
    raise SettingError(told)


def _told(slip: ErrorDetails) -> str:
    """A variable, what it is and what is wanted; what a secret is stays untold."""
    from components.strict import wanted, without_none

    name = str(slip["loc"][0])
    field = next(one for own, one in Settings.model_fields.items() if name in (own, one.validation_alias))
    variable = field.validation_alias or f"AMOEBA_{name.upper()}"
    value = "not shown here" if without_none(field.annotation) is SecretStr else repr(slip["input"])
    return f"{variable} is {value}; wanted {wanted(field.annotation, field.metadata)}"


_NO_TELEMETRY = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}
_QUIET = {
    "DASK_LOGGING__DISTRIBUTED": "error",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # OpenMP's threads spin while they wait; with one other busy process on two cores that made products six times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


def environment_of_runs() -> dict[str, str]:
    """What a worker's runs are given; where things are is the worker's own to say."""
    return {**_NO_TELEMETRY, **_QUIET}


def prepare_environment() -> None:
    """Turn every dependency's telemetry off and give the embedded Prefect time to start; inherited by child processes.

    Must run before mlflow, prefect, dvc or transformers are imported. What the user has set is left alone, telemetry excepted.
    Prefect's own log is quiet: an error is told once, at the end, in one line.
    """
    os.environ.update(_NO_TELEMETRY)
    for name, value in {**_QUIET, "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300"}.items():
        os.environ.setdefault(name, value)
    with suppress(WorkspaceError):  # a device that only pulls and runs has no workspace
        home = settings().home / "prefect"
        home.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("PREFECT_HOME", str(home))
