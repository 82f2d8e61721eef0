"""ExecuTorch's own export of a Llama-like model (`extension.llm.export`), XNNPACK, 8da4w. Environment: ours.

Its defaults, but for the groups: those of 128 leave every layer of SmolLM2 in float, because 576 is no multiple of it. The
program answers the logits of the last position only, so for its quality tokens are read one by one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MODEL = "model.pte"
_GROUP_SIZE = 32
_CONTEXT_LENGTH = 2048
_NAMES = {
    "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm",
    "lm_head": "output",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
}


def build(checkpoint: Path, out: Path, variant: str, data: Path | None) -> None:
    from executorch.examples.models.llama.export_llama_lib import export_llama
    from executorch.extension.llm.export.config.llm_config import LlmConfig

    config = json.loads((checkpoint / "config.json").read_text())
    (out / "params.json").write_text(json.dumps(_parameters(config)))
    wanted = LlmConfig()
    wanted.base.params, wanted.base.checkpoint = str(out / "params.json"), str(checkpoint)
    wanted.model.use_kv_cache = wanted.model.use_sdpa_with_kv_cache = True
    wanted.export.max_seq_length = wanted.export.max_context_length = _CONTEXT_LENGTH
    wanted.export.output_dir, wanted.export.output_name = str(out), _MODEL.removesuffix(".pte")
    wanted.quantization.qmode, wanted.quantization.group_size = variant, _GROUP_SIZE
    wanted.quantization.embedding_quantize = f"8,{_GROUP_SIZE}"
    wanted.backend.xnnpack.enabled = wanted.backend.xnnpack.extended_ops = True
    with _reading_safetensors():
        export_llama(wanted)


def _parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """A Hugging Face config in ExecuTorch's words."""
    rope = config.get("rope_parameters") or {}
    return {
        "dim": config["hidden_size"],
        "hidden_dim": config["intermediate_size"],
        "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"],
        "n_layers": config["num_hidden_layers"],
        "norm_eps": config["rms_norm_eps"],
        "rope_theta": rope.get("rope_theta") or config["rope_theta"],
        "use_scaled_rope": False,
        "use_hf_rope": True,
        "vocab_size": config["vocab_size"],
    }


@contextmanager
def _reading_safetensors() -> Iterator[None]:
    """It reads a pickle where we have safetensors: give it the tensors under its own names."""
    from unittest.mock import patch

    import torch
    from safetensors.torch import load_file

    def load(folder: str, **_: Any) -> dict[str, torch.Tensor]:
        tensors: dict[str, torch.Tensor] = {}
        for file in sorted(Path(folder).glob("*.safetensors")):
            tensors |= {_renamed(name): tensor for name, tensor in load_file(file).items()}
        tensors.setdefault("output.weight", tensors["tok_embeddings.weight"])
        return tensors

    with patch.object(torch, "load", load):
        yield


def _renamed(name: str) -> str:
    module = name.removesuffix(".weight")
    layer, _, rest = module.removeprefix("model.layers.").partition(".")
    known = f"layers.{layer}.{_NAMES[rest]}" if module.startswith("model.layers.") else _NAMES[module]
    return f"{known}.weight"


def load(built: Path, variant: str, threads: int, *, quality: bool) -> Program:
    import executorch.kernels.quantized  # noqa: F401
    from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
    from executorch.runtime import Runtime

    _unsafe_reset_threadpool(threads)
    program = Runtime.get().load_program(built / _MODEL)
    return Program(program.load_method("forward"))


class Program:
    def __init__(self, method: Any) -> None:
        self._method = method

    def _read(self, tokens: Sequence[int], position: int) -> NDArray[np.float32]:
        """Logits after the last of the tokens, [vocabulary]."""
        import torch

        answer = self._method.execute((torch.tensor([list(tokens)]), torch.tensor([position])))[0]
        last: NDArray[np.float32] = answer.detach().numpy().reshape(-1, answer.shape[-1])[-1]
        return last

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        # The program's output memory is its own: the next call writes it again.
        return np.stack([self._read([token], position).copy() for position, token in enumerate(tokens)])

    def generate(self, tokens: Sequence[int], new_tokens: int) -> Iterator[int]:
        position, wanted = 0, list(tokens)
        for _ in range(new_tokens):
            token = int(self._read(wanted, position).argmax())
            position += len(wanted)
            yield token
            wanted = [token]
