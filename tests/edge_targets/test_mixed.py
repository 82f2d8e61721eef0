"""Mixed shapes on every exporter: the artifact answers like the float subnet it was made of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.tiny import VOCABULARY, make_model, write_base

import edge_targets
from components.mixed import MixedConfig, MixedForCausalLM
from components.reference import load_checkpoint
from components.selection import LayerCut
from components.shape import parse_shape
from edge_targets import _package
from edge_targets._device import facts
from edge_targets._target import PackageRequest

SHAPE = parse_shape("h40c24")
"""Of a base of four layers and 128 neurons: one without an FFN, one without attention, two widths."""
LAYERS = (LayerCut(0, True, 128), LayerCut(1, True, 0), LayerCut(2, False, 64), LayerCut(3, True, 64))
TOKENS = torch.randint(2, VOCABULARY, (40,), generator=torch.Generator().manual_seed(4)).tolist()
CONTEXT = 96
CASES = [
    (target, quantization.name, family)
    for target, families in (("x86_avx512", ("llama", "qwen2", "qwen3")), ("android_arm64", ("llama", "qwen3")))
    for family in families
    for quantization in edge_targets.load(target).quantizations[:1]
]


def mixed(family: str) -> MixedForCausalLM:
    """A mixed model with weights of the tiny model's kind."""
    base = make_model(family)
    torch.manual_seed(1)
    model = MixedForCausalLM(MixedConfig.of(base.config, type(base).__name__, LAYERS)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(1 + 0.2 * noise if "norm" in name else 0.15 * noise)
    return model


@pytest.mark.parametrize(("target_name", "quantization", "family"), CASES)
def test_a_packaged_mixed_shape_answers_like_its_float_checkpoint(
    target_name: str, quantization: str, family: str, tmp_path: Path
) -> None:
    checkpoint, out = tmp_path / "checkpoint", tmp_path / "package"
    checkpoint.mkdir()
    out.mkdir()
    write_base(checkpoint, mixed(family))
    target = edge_targets.load(target_name)
    target.package(PackageRequest(checkpoint, SHAPE, quantization, CONTEXT), out)
    runner = facts.load(out, 1)
    with torch.no_grad():
        wanted = load_checkpoint(checkpoint)(torch.tensor([TOKENS])).logits[0].numpy()
    given = runner.logits(TOKENS)
    assert (given.argmax(-1) == wanted.argmax(-1)).mean() >= 0.9
    assert float(np.abs(given - wanted).max()) < 0.15 * float(np.abs(wanted).max())
    written = list(runner.generate(TOKENS[:9], 8))
    again = list(TOKENS[:9])
    for token in written:  # the cache's answers are those of reading everything anew
        assert int(runner.logits(again)[-1].argmax()) == token
        again.append(token)


def test_only_layers_that_attend_are_counted_in_the_cache() -> None:
    config = mixed("llama").config.to_dict()
    key_value = config["num_key_value_heads"] * config["head_dim"]
    assert _package.kv_cache_bytes(config, CONTEXT) == 2 * 3 * CONTEXT * key_value * 4
    assert json.loads(json.dumps(config["layers"])) == [[True, 128], [True, 0], [False, 64], [True, 64]]
