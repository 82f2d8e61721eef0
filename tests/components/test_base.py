"""What belongs to a base, and what only lies beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fixtures.tiny import make_model, write_base
from safetensors.torch import load_file, save_file

from components import family
from components.base import BaseError, resolve


def test_weights_that_transformers_does_not_read_are_no_part_of_a_base(tmp_path: Path) -> None:
    """As the consolidated file beside Mistral's shards."""
    whole, sharded = write_base(tmp_path / "whole", make_model()), write_base(tmp_path / "sharded", make_model(seed=1))
    (sharded / "model.safetensors").unlink()
    make_model(seed=1).save_pretrained(sharded, max_shard_size="100KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    for folder in (whole, sharded):
        alone = resolve(str(folder), tmp_path).fingerprint
        (folder / "consolidated.safetensors").write_bytes(b"the same once more")
        assert resolve(str(folder), tmp_path).fingerprint == alone


def test_a_folder_whose_weights_have_another_name_is_refused(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "base", make_model())
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    with pytest.raises(BaseError, match=r"has weights\.safetensors, but neither model\.safetensors nor an index"):
        resolve(str(folder), tmp_path)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_counted_by_the_config(tied: bool, tmp_path: Path) -> None:
    model = make_model(tied=tied)
    counted = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 2)
    assert resolve(str(write_base(tmp_path / "base", model)), tmp_path).weights == counted
    assert family.weights(model.config.to_dict()) == counted


def rewritten(folder: Path, without: tuple[str, ...] = (), **changed: torch.Tensor) -> Path:
    """A folder of a base whose `model.safetensors` lacks some weights and has others."""
    tensors = {**load_file(folder / "model.safetensors"), **changed}
    kept = {name: tensor for name, tensor in tensors.items() if name not in without}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


UP, BIAS = "model.layers.1.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.bias"


@pytest.mark.parametrize(
    ("without", "changed", "told"),
    [
        ((UP, "lm_head.weight"), {}, r"2 missing \(lm_head\.weight, model\.layers\.1\.mlp\.up_proj\.weight\)"),
        ((), {BIAS: torch.ones(128)}, r"1 unexpected \(model\.layers\.0\.mlp\.up_proj\.bias\)"),
        ((), {UP: torch.ones(120, 64)}, r"1 of another size \(model\.layers\.1\.mlp\.up_proj\.weight\)"),
    ],
)
def test_weights_that_are_not_those_of_the_config_are_neither_made_up_nor_left_out(
    without: tuple[str, ...], changed: dict[str, torch.Tensor], told: str, tmp_path: Path
) -> None:
    folder = rewritten(write_base(tmp_path / "base", make_model(tied=False)), without, **changed)
    with pytest.raises(BaseError, match=told):
        resolve(str(folder), tmp_path).load(torch.float32)


@pytest.mark.parametrize("more", ["lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"])
def test_a_tied_head_and_rotary_frequencies_may_be_in_the_file_or_not(more: str, tmp_path: Path) -> None:
    model = make_model()
    tensor = model.lm_head.weight.detach().clone() if more == "lm_head.weight" else torch.ones(8)
    folder = write_base(tmp_path / "base", model)
    for base in (folder, rewritten(folder, **{more: tensor})):
        loaded = resolve(str(base), tmp_path).load(torch.float32)
        assert all(
            torch.equal(given, wanted) for given, wanted in zip(loaded.parameters(), model.parameters(), strict=True)
        )


def test_a_head_of_its_own_is_refused_where_the_config_ties_it_and_taken_where_it_does_not(tmp_path: Path) -> None:
    model = make_model(tied=False)
    folder = write_base(tmp_path / "base", model)
    untied = (folder / "config.json").read_text()
    (folder / "config.json").write_text(json.dumps({**json.loads(untied), "tie_word_embeddings": True}))
    with pytest.raises(BaseError, match=r"has a head that is not its embedding.* set tie_word_embeddings to false"):
        resolve(str(folder), tmp_path).load(torch.float32)
    (folder / "config.json").write_text(untied)
    assert torch.equal(resolve(str(folder), tmp_path).load(torch.float32).lm_head.weight, model.lm_head.weight)
