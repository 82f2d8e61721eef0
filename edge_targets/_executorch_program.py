"""From a torch model to an ExecuTorch program: the decoder as it is exported, its quantization, and its lowering.

Legend: S positions of a call, C positions of the cache, H hidden size, N query heads, K key-value heads, D head size,
V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  importing it registers llama.custom_sdpa
from torch import Tensor, nn
from transformers import PreTrainedModel

from edge_targets._target import PackageError

_MOST_POSITIONS_A_CALL = 512


class Decoder(nn.Module):
    """A Llama-like model whose caches are its own buffers: `forward(tokens [1, S], position [1]) -> logits [1, S, V]`.

    `position` is where the first token goes. Everything from there on is written anew, so a call at position 0 starts
    over whatever was read before.
    """

    cos_CD: Tensor
    sin_CD: Tensor

    def __init__(self, model: PreTrainedModel, context_length: int) -> None:
        super().__init__()
        config = model.config
        self.embedding = model.get_input_embeddings()
        self.layers = nn.ModuleList(_Layer(layer, config, context_length) for layer in model.model.layers)
        self.norm, self.head = model.model.norm, model.lm_head
        if config.tie_word_embeddings:
            # One table in memory until both are quantized; then each has the layout that its operator reads.
            self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
            self.head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        positions_1C = torch.arange(context_length)[None]
        rotary: Any = model.model.rotary_emb
        cos_1CD, sin_1CD = rotary(torch.zeros(1), positions_1C)
        self.register_buffer("cos_CD", cos_1CD[0].clone())
        self.register_buffer("sin_CD", sin_1CD[0].clone())

    def forward(self, tokens_1S: Tensor, position_1: Tensor) -> Tensor:
        start: Any = position_1[0].item()
        length = tokens_1S.shape[1]
        torch._check(start >= 0)
        torch._check(start + length <= self.cos_CD.shape[0])
        cos_SD, sin_SD = self.cos_CD.narrow(0, start, length), self.sin_CD.narrow(0, start, length)
        hidden_1SH = self.embedding(tokens_1S)
        for layer in self.layers:
            hidden_1SH = layer(hidden_1SH, cos_SD, sin_SD, start)
        logits_1SV: Tensor = self.head(self.norm(hidden_1SH))
        return logits_1SV


class _Layer(nn.Module):
    """One decoder layer, its linear layers and norms those of the Hugging Face module."""

    def __init__(self, layer: Any, config: Any, context_length: int) -> None:
        super().__init__()
        attention = layer.self_attn
        self.q, self.k, self.v, self.o = attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj
        self.q_norm, self.k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
        self.attention_norm, self.mlp_norm = layer.input_layernorm, layer.post_attention_layernorm
        self.mlp = layer.mlp
        self.head_dim, self.scale = attention.head_dim, attention.scaling
        cache_1CKD = torch.zeros(1, context_length, config.num_key_value_heads, self.head_dim)
        self.register_buffer("keys_1CKD", cache_1CKD)
        self.register_buffer("values_1CKD", cache_1CKD.clone())

    def forward(self, hidden_1SH: Tensor, cos_SD: Tensor, sin_SD: Tensor, start: int) -> Tensor:
        hidden_1SH = hidden_1SH + self._attend(self.attention_norm(hidden_1SH), cos_SD, sin_SD, start)
        out_1SH: Tensor = hidden_1SH + self.mlp(self.mlp_norm(hidden_1SH))
        return out_1SH

    def _attend(self, x_1SH: Tensor, cos_SD: Tensor, sin_SD: Tensor, start: int) -> Tensor:
        length = x_1SH.shape[1]
        q_1SND = self.q(x_1SH).view(1, length, -1, self.head_dim)
        k_1SKD = self.k(x_1SH).view(1, length, -1, self.head_dim)
        v_1SKD = self.v(x_1SH).view(1, length, -1, self.head_dim)
        if self.q_norm is not None and self.k_norm is not None:
            q_1SND, k_1SKD = self.q_norm(q_1SND), self.k_norm(k_1SKD)
        q_1SND, k_1SKD = _rotate(q_1SND, cos_SD, sin_SD), _rotate(k_1SKD, cos_SD, sin_SD)
        torch.ops.llama.update_cache(k_1SKD, self.keys_1CKD, start)
        torch.ops.llama.update_cache(v_1SKD, self.values_1CKD, start)
        # No mask, no dropout, causal, the model's own scale.
        mixed_1SND = torch.ops.llama.custom_sdpa(
            q_1SND, self.keys_1CKD, self.values_1CKD, start, None, 0.0, True, self.scale
        )
        out_1SH: Tensor = self.o(mixed_1SND.reshape(1, length, -1))
        return out_1SH


def _rotate(x_1SHD: Tensor, cos_SD: Tensor, sin_SD: Tensor) -> Tensor:
    """Rotary positions (Su et al., 2021) in the half-split form of Llama."""
    cos_SD, sin_SD = cos_SD[:, None], sin_SD[:, None]
    first, second = x_1SHD.chunk(2, -1)
    return x_1SHD * cos_SD + torch.cat((-second, first), -1) * sin_SD


def quantize(decoder: nn.Module, quantization: str, group_size: int) -> None:
    """Quantize every linear layer and the embedding in place; raises PackageError naming any that stayed in float."""
    from torchao.quantization import quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup
    from torchao.quantization.quant_api import Int8DynamicActivationIntxWeightConfig, IntxWeightOnlyConfig
    from torchao.utils import unwrap_tensor_subclass

    # XNNPACK multiplies int8 weights with one scale a row, int4 weights with one scale a group.
    stored = {"8da8w": (torch.int8, PerAxis(0)), "8da4w": (torch.int4, PerGroup(group_size))}  # type: ignore[attr-defined]
    dtype, granularity = stored[quantization]
    quantize_(decoder, Int8DynamicActivationIntxWeightConfig(weight_dtype=dtype, weight_granularity=granularity))
    quantize_(
        decoder,
        IntxWeightOnlyConfig(weight_dtype=torch.int8, granularity=PerGroup(group_size)),
        lambda module, name: isinstance(module, nn.Embedding),
    )
    left = [
        name
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear | nn.Embedding) and type(module.weight.data) is Tensor
    ]
    if left:
        raise PackageError(
            f"{quantization} left {len(left)} layers in float, the first is {left[0]}; nothing was built"
        )
    unwrap_tensor_subclass(decoder)


def lower(decoder: nn.Module, metadata: dict[str, Any]) -> Any:
    """Export and lower to XNNPACK; raises PackageError when a matrix product stayed outside of it."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
    from executorch.exir.passes import MemoryPlanningPass

    most = min(_MOST_POSITIONS_A_CALL, metadata["get_max_seq_len"]) - 1
    example = (torch.ones(1, 3, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    dynamic: tuple[dict[int, Any], dict[int, Any]] = ({1: torch.export.Dim("positions", min=1, max=most)}, {})
    exported = torch.export.export(decoder, example, dynamic_shapes=dynamic, strict=False)
    edge = to_edge_transform_and_lower(
        exported,
        # A partitioner for quantized products before this one gives the same logits and speed, and takes 40 % longer.
        partitioner=[XnnpackPartitioner()],
        compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
        constant_methods={**metadata, "get_max_prefill_len": most},
    )
    outside = [
        str(node.target)
        for node in edge.exported_program().graph.nodes
        if node.op == "call_function"
        and any(word in str(node.target) for word in ("aten.linear", "aten.addmm", "aten.mm"))
    ]
    if outside:
        raise PackageError(f"{len(outside)} matrix products were not lowered to XNNPACK, the first is {outside[0]}")
    config = ExecutorchBackendConfig(
        extract_delegate_segments=True,
        do_quant_fusion_and_const_prop=True,
        memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False),
    )
    return edge.to_executorch(config)
