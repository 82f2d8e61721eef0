"""What a subnet costs, predicted: from a device's figures, or from a few runs of its like on this host.

Decoding reads every weight once a token, so it is bound by memory bandwidth; reading a prompt is bound by arithmetic. What a
device's figures leave out, and runs show, is what a layer and a token cost however small they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

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
    attentions: int
    """Layers that attend."""
    feed_forwards: int
    """Layers with an FFN."""

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
            attentions=attending,
            feed_forwards=sum(neurons > 0 for _, neurons in kept),
        )


@dataclass(frozen=True)
class Load:
    """What a shape at a quantization asks of any machine, for a prompt of 128 tokens."""

    layers_mb: float
    head_mb: float
    """The one table that is read a token."""
    tables_mb: float
    """Both tables where they are not tied."""
    read_kv_mb: float
    """The prompt's, read a token."""
    kv_mb: float
    """A full context's."""
    multiply_adds_g: float
    attentions: int
    feed_forwards: int

    @classmethod
    def of(cls, weights: Weights, linear_bits: float, embedding_bits: float, context: int) -> Load:
        head_mb = weights.embedding * embedding_bits / 8e6
        return cls(
            layers_mb=weights.layers * linear_bits / 8e6,
            head_mb=head_mb,
            tables_mb=head_mb * (1 if weights.tied else 2),
            read_kv_mb=weights.kv_bytes_a_token * PROMPT_TOKENS / 1e6,
            kv_mb=weights.kv_bytes_a_token * context / 1e6,
            multiply_adds_g=(weights.layers * PROMPT_TOKENS + weights.embedding) / 1e9,
            attentions=weights.attentions,
            feed_forwards=weights.feed_forwards,
        )

    @property
    def size_mb(self) -> float:
        return self.layers_mb + self.tables_mb

    @property
    def read_mb(self) -> float:
        """A token's."""
        return self.layers_mb + self.head_mb + self.read_kv_mb


@dataclass(frozen=True)
class Cost:
    """Predicted figures of one shape at one quantization, and of whose machine they are: the target's device, or this host."""

    ttft_ms: float
    tpot_ms: float
    size_mb: float
    memory_mb: float
    machine: Literal["device", "host"] = "device"


def predict(load: Load, bandwidth_gb_s: float, int8_gops: float) -> Cost:
    """A device's figures by its own: the prompt is read at its arithmetic rate, a token at its bandwidth."""
    tpot_ms = load.read_mb / bandwidth_gb_s
    return Cost(
        ttft_ms=max(load.multiply_adds_g / int8_gops * 1000, tpot_ms),
        tpot_ms=tpot_ms,
        size_mb=load.size_mb,
        memory_mb=load.size_mb + load.kv_mb,
    )
