"""Telemetry and hubs are off before anything heavy is imported; every test starts from a tiny model."""

from __future__ import annotations

import os

os.environ.update(
    HF_HUB_OFFLINE="1",
    DO_NOT_TRACK="true",
    DVC_NO_ANALYTICS="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    OMP_WAIT_POLICY="PASSIVE",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    RAY_USAGE_STATS_ENABLED="0",
    TOKENIZERS_PARALLELISM="false",
)

import pytest
import torch
from fixtures.tiny import VOCABULARY, make_model
from hypothesis import HealthCheck, settings
from transformers import PreTrainedModel

settings.register_profile(
    "any machine at any load", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine at any load")


@pytest.fixture
def tiny() -> PreTrainedModel:
    return make_model()


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(2, VOCABULARY, (4, 32), generator=torch.Generator().manual_seed(1))
