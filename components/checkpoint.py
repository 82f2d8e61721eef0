"""What a checkpoint's `config.json` says of its layers and its class, whether its layers are alike or differ. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MIXED_TYPE = "amoeba_mixed"


def layers_of(config: Mapping[str, Any]) -> list[tuple[bool, int]]:
    """(attends, FFN neurons) of every layer."""
    if config.get("model_type") == MIXED_TYPE:
        return [(bool(attends), int(neurons)) for attends, neurons in config["layers"]]
    return [(True, int(config["intermediate_size"]))] * int(config["num_hidden_layers"])


def architecture_of(config: Mapping[str, Any]) -> str:
    """The class that describes a layer: the base's, for a mixed checkpoint too."""
    if config.get("model_type") == MIXED_TYPE:
        return str(config["base_architecture"])
    return str((config.get("architectures") or ["none named"])[0])
