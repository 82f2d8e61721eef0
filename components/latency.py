"""What a subnet costs on a device, predicted from the device's figures.

Decoding reads every weight once a token, so it is bound by memory bandwidth; reading a prompt is bound by arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from components import family

PROMPT_TOKENS = 128


@dataclass(frozen=True)
class Weights:
    """Parameters of a subnet by where they are used."""

    layers: int
    embedding: int
    """One table, used for the embedding, the head, or both where they are tied."""
    tied: bool
    kv_bytes_a_token: int

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        layers: Iterable[tuple[bool, int]],
        *,
        cached_value_bytes: int = 4,
        ties: bool = True,
    ) -> Weights:
        """From a Llama-like `config.json` of the base, and (attends, FFN neurons) of every layer that is kept.

        `ties` is false for a runtime that keeps a table for the embedding and one for the head, even of a tied model.
        """
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        head_dim = config.get("head_dim") or hidden // heads
        key_value = (config.get("num_key_value_heads") or heads) * head_dim
        kept = list(layers)
        attending = sum(attends for attends, _ in kept)
        neurons = sum(neurons for _, neurons in kept)
        return cls(
            layers=attending * family.attention_weights(config) + neurons * family.neuron_weights(config),
            embedding=config["vocab_size"] * hidden,
            tied=ties and bool(config.get("tie_word_embeddings")),
            kv_bytes_a_token=2 * attending * key_value * cached_value_bytes,
        )


@dataclass(frozen=True)
class Cost:
    """Predicted figures of one shape at one quantization."""

    ttft_ms: float
    tpot_ms: float
    size_mb: float
    memory_mb: float


def predict(
    weights: Weights, linear_bits: float, embedding_bits: float, bandwidth_gb_s: float, int8_gops: float, context: int
) -> Cost:
    """Figures for a prompt of 128 tokens, half a context of KV cache read a token, and `context` tokens of it kept."""
    table_mb = weights.embedding * embedding_bits / 8e6
    layers_mb = weights.layers * linear_bits / 8e6
    size_mb = layers_mb + table_mb * (1 if weights.tied else 2)
    kv_mb = weights.kv_bytes_a_token * context / 1e6
    read_mb = layers_mb + table_mb + weights.kv_bytes_a_token * PROMPT_TOKENS / 1e6
    tpot_ms = read_mb / bandwidth_gb_s
    multiply_adds_g = (weights.layers * PROMPT_TOKENS + weights.embedding) / 1e9
    return Cost(
        ttft_ms=max(multiply_adds_g / int8_gops * 1000, tpot_ms),
        tpot_ms=tpot_ms,
        size_mb=size_mb,
        memory_mb=size_mb + kv_mb,
    )
