"""Which decoders the ONNX graph expresses, read from a Hugging Face config.

Whatever in a config would change the logits and is not in our graph is refused here: a package that runs and answers
nonsense is worse than none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.checkpoint import architecture_of, layers_of
from edge_targets._onnx_blocks import Floats
from edge_targets._package import check_window
from edge_targets._target import PackageError

_QK_NORM = "Qwen3ForCausalLM"
ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", _QK_NORM)
_ROPE_TYPES = ("default", "linear", "llama3")


@dataclass(frozen=True)
class Decoder:
    """What the graph must know of a model besides its weights."""

    layers: tuple[tuple[bool, bool], ...]
    """Whether each layer attends, and whether it has an FFN."""
    hidden_size: int
    heads: int
    key_value_heads: int
    head_dim: int
    vocabulary: int
    norm_epsilon: float
    qk_norm: bool
    """Whether every query and key head is normalized before it is turned."""
    rotary_frequencies: tuple[float, ...]
    """Radians a token, of every pair of a head's dimensions."""
    tied: bool
    context_length: int

    @property
    def attending(self) -> int:
        """Layers that attend, each with a cache of its own."""
        return sum(attends for attends, _ in self.layers)

    @property
    def cache_shape(self) -> list[int]:
        return [1, self.key_value_heads, self.context_length, self.head_dim]

    def rotary_caches(self) -> tuple[Floats, Floats]:
        """Cosines and sines, each [context length, head dimension / 2], in float32 as the model was trained with."""
        frequencies = np.array(self.rotary_frequencies, np.float32)
        angles = np.outer(np.arange(self.context_length, dtype=np.float32), frequencies)
        return np.cos(angles), np.sin(angles)


def read_decoder(checkpoint: Path, context_length: int) -> Decoder:
    """Read `config.json`; raises PackageError for whatever would change the logits and is not in the graph."""
    config = json.loads((checkpoint / "config.json").read_text())
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    _refuse_unsupported(config, rope)
    longest = config["max_position_embeddings"]
    if not 1 <= context_length <= longest:
        raise PackageError(f"a context of {context_length} tokens was asked for; the model takes 1 to {longest}")
    check_window(config, context_length)
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    return Decoder(
        layers=tuple((attends, neurons > 0) for attends, neurons in layers_of(config)),
        hidden_size=config["hidden_size"],
        heads=heads,
        key_value_heads=config.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        vocabulary=config["vocab_size"],
        norm_epsilon=config["rms_norm_eps"],
        qk_norm=architecture_of(config) == _QK_NORM,
        rotary_frequencies=_frequencies({"rope_theta": config.get("rope_theta") or 10_000.0, **rope}, head_dim),
        tied=config.get("tie_word_embeddings", False),
        context_length=context_length,
    )


def _refuse_unsupported(config: Mapping[str, Any], rope: Mapping[str, Any]) -> None:
    architecture = architecture_of(config)
    if architecture not in ARCHITECTURES:
        raise PackageError(f"the architecture is {architecture}; the graph is written for {', '.join(ARCHITECTURES)}")
    kind = _rope_type(rope)
    if kind not in _ROPE_TYPES:
        raise PackageError(f"rope_type is {kind!r}; graphs are written with {', '.join(_ROPE_TYPES)}")
    facts: tuple[tuple[str, object, object], ...] = (
        ("partial_rotary_factor", rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)), 1.0),
        ("hidden_act", config.get("hidden_act", "silu"), "silu"),
    )
    for name, given, wanted in facts:
        if given != wanted:
            raise PackageError(f"the checkpoint's {name} is {given!r}; the ONNX graph is written for {wanted!r}")


def _rope_type(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type", rope.get("type", "default")))


def _frequencies(rope: Mapping[str, Any], head_dim: int) -> tuple[float, ...]:
    """Inverse frequencies, scaled as the model was trained for a longer context (Llama 3.1: only the slow ones, smoothly)."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    plain = np.float32(1) / np.power(np.float32(rope["rope_theta"]), exponents)
    if _rope_type(rope) == "linear":
        plain = plain / np.float32(rope["factor"])
    if _rope_type(rope) == "llama3":
        turns = rope["original_max_position_embeddings"] * plain / np.float32(2 * np.pi)
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        kept = np.clip((turns - low) / (high - low), 0, 1)
        plain = plain * (kept + (1 - kept) / rope["factor"])
    return tuple(plain.tolist())
