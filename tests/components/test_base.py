"""What belongs to a base, and what only lies beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.tiny import make_model, write_base

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
