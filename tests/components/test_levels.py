"""Several shapes in one mapped file: the same answers, and next to nothing allocated when the level changes."""

from pathlib import Path

import pytest
import torch
from fixtures.elastic import TOKENS, supernet
from fixtures.tiny import FAMILIES

from components.levels import Levels, save_levels
from components.shape import Shape, parse_shape
from components.smol import AdapterSettings
from components.subnet import extract

SHAPES = (Shape(4, 100), Shape(3, 50), parse_shape("ha4c2"), Shape(2, 25))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_level_answers_like_the_extracted_subnet(family: str, tied: bool, tmp_path: Path) -> None:
    made = supernet(family, tied=tied)
    save_levels(made, SHAPES, tmp_path)
    opened = Levels(tmp_path)
    with torch.no_grad():
        for shape in (*SHAPES, SHAPES[1]):
            opened.activate(str(shape))
            wanted = extract(made, shape).model(TOKENS).logits
            torch.testing.assert_close(opened.model(TOKENS).logits, wanted, rtol=1e-4, atol=1e-5)


def test_levels_of_plain_lora_are_saved_though_they_hold_the_same_factors(tmp_path: Path) -> None:
    made = supernet(adapters=AdapterSettings(rank=4, alpha=8, experts=1, top_k=1))
    shapes = (parse_shape("h4442"), parse_shape("h4424"))
    save_levels(made, shapes, tmp_path)
    opened = Levels(tmp_path)
    with torch.no_grad():
        for shape in shapes:
            opened.activate(str(shape))
            wanted = extract(made, shape).model(TOKENS).logits
            torch.testing.assert_close(opened.model(TOKENS).logits, wanted, rtol=1e-4, atol=1e-4)


def test_a_level_generates_with_its_cache_what_the_subnet_does(tmp_path: Path) -> None:
    made = supernet()
    save_levels(made, SHAPES, tmp_path)
    opened = Levels(tmp_path)
    options = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    options["attention_mask"] = torch.ones_like(TOKENS[:1])
    for shape in SHAPES:
        opened.activate(str(shape))
        given = opened.model.generate(TOKENS[:1], **options)
        assert torch.equal(given, extract(made, shape).model.generate(TOKENS[:1], **options))


def test_changing_the_level_allocates_under_one_percent_of_the_model(tmp_path: Path) -> None:
    save_levels(supernet(), SHAPES, tmp_path)
    opened = Levels(tmp_path)
    with torch.profiler.profile(profile_memory=True) as profile:
        for shape in SHAPES:
            opened.activate(str(shape))
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in profile.events())
    assert allocated < 0.01 * opened.model_bytes
    # What is profiled does see allocations: one forward pass makes many.
    with torch.profiler.profile(profile_memory=True) as profile, torch.no_grad():
        opened.model(TOKENS)
    assert sum(max(0, event.self_cpu_memory_usage) for event in profile.events()) > 0.01 * opened.model_bytes


def test_the_weights_of_all_levels_are_one_mapped_file(tmp_path: Path) -> None:
    save_levels(supernet(), SHAPES, tmp_path)
    opened = Levels(tmp_path)
    mapped = [
        [int(end, 16) for end in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(tmp_path / "levels.safetensors"))
    ]
    for name, parameter in opened.model.named_parameters():
        assert any(start <= parameter.data_ptr() < end for start, end in mapped), name


def test_a_level_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    save_levels(supernet(), SHAPES[:2], tmp_path)
    with pytest.raises(ValueError, match="no level d2w25; there are d4w100, d3w50"):
        Levels(tmp_path).activate("d2w25")
