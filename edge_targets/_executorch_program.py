"""From a torch model to an ExecuTorch program: the decoder as it is exported, and what every backend's lowering shares.

Legend: S positions of a call, C positions of the cache, H hidden size, N query heads, K key-value heads, D head size,
V vocabulary; a 1 among them is a dimension of size one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  importing it registers llama.custom_sdpa
from torch import Tensor, nn
from transformers import PreTrainedModel

from components.mixed import NoAttention, NoFeedForward
from edge_targets._target import PackageError

_MOST_POSITIONS_A_CALL = 128
"""Logits of all of them are in memory at once: 25 MB for SmolLM2's 49,152 words, where 512 positions would take 100."""
_PRODUCTS = ("aten.linear", "aten.addmm", "aten.mm", "aten.bmm", "aten._weight_int8pack_mm")


class Layer(nn.Module):
    """One decoder layer, its linear layers and norms those of the Hugging Face module; a block that is gone stays so."""

    cache_dtype: ClassVar[torch.dtype] = torch.float32
    keys_1CKD: Tensor
    values_1CKD: Tensor

    def __init__(self, layer: Any, config: Any, context_length: int) -> None:
        super().__init__()
        attention = layer.self_attn
        self.attends = not isinstance(attention, NoAttention)
        self.mlp = None if isinstance(layer.mlp, NoFeedForward) else layer.mlp
        self.attention_norm, self.mlp_norm = layer.input_layernorm, layer.post_attention_layernorm
        if self.attends:
            self.q, self.k, self.v, self.o = attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj
            self.q_norm, self.k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
            self.head_dim = attention.head_dim
            # Runtimes divide by the root of the head size; Vulkan's aborts when it is told any scale at all.
            self.stretch = attention.scaling * self.head_dim**0.5
            cache_1CKD = torch.zeros(
                1, context_length, config.num_key_value_heads, self.head_dim, dtype=self.cache_dtype
            )
            self.register_buffer("keys_1CKD", cache_1CKD)
            self.register_buffer("values_1CKD", cache_1CKD.clone())

    def project(self, x_1SH: Tensor, cos_S1D: Tensor, sin_S1D: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries [1, S, N, D] and keys, and values, [1, S, K, D]."""
        length = x_1SH.shape[1]
        q_1SND = self.q(x_1SH).view(1, length, -1, self.head_dim)
        k_1SKD = self.k(x_1SH).view(1, length, -1, self.head_dim)
        v_1SKD = self.v(x_1SH).view(1, length, -1, self.head_dim)
        if self.q_norm is not None and self.k_norm is not None:
            q_1SND, k_1SKD = self.q_norm(q_1SND), self.k_norm(k_1SKD)
        q_1SND, k_1SKD = _rotate(q_1SND, cos_S1D, sin_S1D), _rotate(k_1SKD, cos_S1D, sin_S1D)
        if abs(self.stretch - 1) > 1e-6:
            q_1SND = q_1SND * self.stretch
        return q_1SND, k_1SKD, v_1SKD

    def forward(self, hidden_1SH: Tensor, cos_S1D: Tensor, sin_S1D: Tensor, start: int) -> Tensor:
        if self.attends:
            hidden_1SH = hidden_1SH + self._attend(self.attention_norm(hidden_1SH), cos_S1D, sin_S1D, start)
        if self.mlp is not None:
            hidden_1SH = hidden_1SH + self.mlp(self.mlp_norm(hidden_1SH))
        return hidden_1SH

    def _attend(self, x_1SH: Tensor, cos_S1D: Tensor, sin_S1D: Tensor, start: int) -> Tensor:
        q_1SND, k_1SKD, v_1SKD = self.project(x_1SH, cos_S1D, sin_S1D)
        torch.ops.llama.update_cache(k_1SKD, self.keys_1CKD, start)
        torch.ops.llama.update_cache(v_1SKD, self.values_1CKD, start)
        # No mask, no dropout, causal.
        mixed_1SND = torch.ops.llama.custom_sdpa(q_1SND, self.keys_1CKD, self.values_1CKD, start, None, 0.0, True)
        out_1SH: Tensor = self.o(mixed_1SND.reshape(1, x_1SH.shape[1], -1))
        return out_1SH


def _rotate(x_1SHD: Tensor, cos_S1D: Tensor, sin_S1D: Tensor) -> Tensor:
    """Rotary positions (Su et al., 2021) in Llama's half-split form; the first half of the sines comes negated."""
    first, second = x_1SHD.chunk(2, -1)
    return x_1SHD * cos_S1D + torch.cat((second, first), -1) * sin_S1D


class Decoder(nn.Module):
    """A Llama-like model whose caches are its own buffers: `forward(tokens [1, S], position [1]) -> logits [1, S, V]`.

    `position` is where the first token goes. Everything from there on is written anew, so a call at position 0 starts
    over whatever was read before.
    """

    layer_type: ClassVar[type[Layer]] = Layer
    cos_C1D: Tensor
    sin_C1D: Tensor

    def __init__(self, model: PreTrainedModel, context_length: int) -> None:
        super().__init__()
        config = model.config
        self.embedding = model.get_input_embeddings()
        self.layers = nn.ModuleList(self.layer_type(layer, config, context_length) for layer in model.model.layers)
        self.norm, self.head = model.model.norm, model.lm_head
        if config.tie_word_embeddings:
            # One table in memory until both are quantized; then each has the layout that its operator reads.
            self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
            self.head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        positions_1C = torch.arange(context_length)[None]
        rotary: Any = model.model.rotary_emb
        cos_1CD, sin_1CD = rotary(torch.zeros(1), positions_1C)
        half = sin_1CD.shape[-1] // 2
        self.register_buffer("cos_C1D", cos_1CD[0][:, None].clone())
        self.register_buffer("sin_C1D", torch.cat((-sin_1CD[0, :, :half], sin_1CD[0, :, half:]), -1)[:, None])

    def forward(self, tokens_1S: Tensor, position_1: Tensor) -> Tensor:
        start: Any = position_1[0].item()
        length = tokens_1S.shape[1]
        torch._check(start >= 0)
        torch._check(start + length <= self.cos_C1D.shape[0])
        cos_S1D, sin_S1D = self.cos_C1D.narrow(0, start, length), self.sin_C1D.narrow(0, start, length)
        hidden_1SH = self.embedding(tokens_1S)
        for layer in self.layers:
            hidden_1SH = layer(hidden_1SH, cos_S1D, sin_S1D, start)
        logits_1SV: Tensor = self.head(self.norm(hidden_1SH))
        return logits_1SV


def export(decoder: Decoder) -> tuple[torch.export.ExportedProgram, int]:
    """The decoder traced with any number of positions a call, and the most that a call takes."""
    most = min(_MOST_POSITIONS_A_CALL, decoder.cos_C1D.shape[0] - 1)
    example = (torch.ones(1, 3, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    dynamic: tuple[dict[int, Any], dict[int, Any]] = ({1: torch.export.Dim("positions", min=1, max=most)}, {})
    return torch.export.export(decoder, example, dynamic_shapes=dynamic, strict=False), most


def to_edge(exported: torch.export.ExportedProgram, partitioner: Any, metadata: dict[str, Any], backend: str) -> Any:
    """Lower to one backend, with `metadata` as constant methods.

    Raises PackageError when a product stayed outside of the backend, where it would run on slow float kernels.
    """
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    edge = to_edge_transform_and_lower(
        exported,
        partitioner=[partitioner],
        compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
        constant_methods=metadata,
    )
    outside = [target for target in _called(edge) if any(product in target for product in _PRODUCTS)]
    if outside:
        raise PackageError(f"{len(outside)} matrix products were not lowered to {backend}, the first is {outside[0]}")
    return edge


def to_program(edge: Any) -> Any:
    """The program of an edge manager, weights in segments that are mapped rather than read."""
    from executorch.exir import ExecutorchBackendConfig
    from executorch.exir.passes import MemoryPlanningPass

    config = ExecutorchBackendConfig(
        extract_delegate_segments=True,
        do_quant_fusion_and_const_prop=True,
        memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False),
    )
    return edge.to_executorch(config)


def delegated(edge: Any) -> Sequence[bytes]:
    """What each lowered piece was compiled to, in the order of the graph."""
    program = edge.exported_program()
    pieces = (node.target for node in program.graph.nodes if node.op == "get_attr")
    return [bytes(getattr(program.graph_module, name).processed_bytes) for name in pieces]


def _called(edge: Any) -> list[str]:
    return [str(node.target) for node in edge.exported_program().graph.nodes if node.op == "call_function"]
