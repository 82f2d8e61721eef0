"""Which decoders the ONNX graph expresses, read from a Hugging Face config.

Whatever in a config would change the logits and is not in our graph is refused here: a package that runs and answers
nonsense is worse than none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components import family
from components.checkpoint import architecture_of, layers_of
from edge_targets._onnx_blocks import Floats
from edge_targets._package import checked_model

_QK_NORM = "Qwen3ForCausalLM"


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
    config = checked_model(checkpoint, context_length)
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
        rotary_frequencies=_frequencies(family.rope_of(config), head_dim),
        tied=config.get("tie_word_embeddings", False),
        context_length=context_length,
    )


def _frequencies(rope: Mapping[str, Any], head_dim: int) -> tuple[float, ...]:
    """Inverse frequencies, scaled as the model was trained for a longer context (Llama 3.1: only the slow ones, smoothly)."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    plain = np.float32(1) / np.power(np.float32(rope["rope_theta"]), exponents)
    if family.rope_type(rope) == "linear":
        plain = plain / np.float32(rope["factor"])
    if family.rope_type(rope) == "llama3":
        turns = rope["original_max_position_embeddings"] * plain / np.float32(2 * np.pi)
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        kept = np.clip((turns - low) / (high - low), 0, 1)
        plain = plain * (kept + (1 - kept) / rope["factor"])
    return tuple(plain.tolist())
