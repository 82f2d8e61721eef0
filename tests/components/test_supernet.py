import copy
import random
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from fixtures.elastic import ADAPTERS, SETTINGS, SPACE, TOKENS, supernet
from fixtures.tiny import FAMILIES, make_model
from torch import nn

from components import family
from components.lora import ExpertLinear
from components.mixed import MixedForCausalLM
from components.reference import load_checkpoint
from components.selection import select
from components.shape import AnyShape, Shape, parse_shape
from components.smol import AdapterSettings
from components.subnet import extract
from components.supernet import Supernet
from components.width import permute_neurons


def selection_for(model):
    return select(copy.deepcopy(model), TOKENS, SETTINGS)


def slow_update(elastic: ExpertLinear, mixture_E: torch.Tensor, mixing: str) -> torch.Tensor:
    if mixing == "product":
        return sum(g * B_OR @ A_RI for g, B_OR, A_RI in zip(mixture_E, elastic.B_EOR, elastic.A_ERI, strict=True))
    B_OR = sum(g * B_OR for g, B_OR in zip(mixture_E, elastic.B_EOR, strict=True))
    return B_OR @ sum(g * A_RI for g, A_RI in zip(mixture_E, elastic.A_ERI, strict=True))


@torch.no_grad()
def masked_logits(made: Supernet, shape: Shape, tokens: torch.Tensor) -> torch.Tensor:
    """The slow obvious thing: the whole base, neurons zeroed by a mask, removed layers returning their input."""
    with made.active(shape):
        cut = made.selection.cut(shape)
        mixture_E = made.mixtures([shape])[0]
    model = make_model(made.model.config.model_type, tied=made.model.config.tie_word_embeddings)
    permute_neurons(model, made.selection.widths.neuron_order_LF)
    kept = {part.index: part for part in cut.layers}
    for index, layer in enumerate(family.decoder_layers(model)):
        if index not in kept:
            layer.forward = lambda hidden, **_: hidden
            continue
        for parent, name in family.linears(layer):
            elastic = made.linears[f"{index}.{name}"]
            linear = getattr(parent, name)
            if shape != made.full:
                linear.weight += elastic.scale * slow_update(elastic, mixture_E, made.settings.mixing)
        mask = torch.zeros(model.config.intermediate_size)
        mask[: kept[index].neurons] = 1
        layer.mlp.down_proj.register_forward_pre_hook(lambda module, args, mask=mask: (args[0] * mask,))
        if not kept[index].attention:
            layer.self_attn.o_proj.register_forward_pre_hook(lambda module, args: (args[0] * 0,))
            layer.self_attn.o_proj.bias = None
    return model(tokens, use_cache=False).logits


def random_shapes(count: int) -> list[AnyShape]:
    """Half of them mixed."""
    generator = random.Random(5)
    shapes: list[AnyShape] = []
    while len(shapes) < count:
        if len(shapes) % 2:
            shapes.append(Shape(generator.randint(2, 4), generator.choice([100, 88, 75, 62, 50, 37, 25])))
        else:
            text = "h" + "".join(generator.choice("01234abcde") for _ in range(4))
            if any(code in "01234" for code in text[1:]):
                shapes.append(parse_shape(text))
    return shapes


def test_products_of_experts_are_mixed_as_the_sum_says() -> None:
    made = supernet(adapters=replace(ADAPTERS, mixing="product"))
    for shape in random_shapes(6):
        with torch.no_grad():
            given = extract(made, shape).model(TOKENS).logits
        torch.testing.assert_close(given, masked_logits(made, shape, TOKENS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_with_fresh_adapters_the_full_shape_is_the_base_bit_for_bit(name: str) -> None:
    model = make_model(name)
    made = Supernet(copy.deepcopy(model), selection_for(model), SPACE, ADAPTERS)
    permute_neurons(model, made.selection.widths.neuron_order_LF)
    with torch.no_grad():
        assert torch.equal(made.model(TOKENS).logits, model(TOKENS).logits)


def test_with_trained_adapters_the_full_shape_is_still_the_base_bit_for_bit() -> None:
    made, model = supernet(), make_model()
    permute_neurons(model, made.selection.widths.neuron_order_LF)
    with torch.no_grad():
        assert torch.equal(made.model(TOKENS).logits, model(TOKENS).logits)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_extraction_equals_masking(name: str, tied: bool) -> None:
    made = supernet(name, tied=tied)
    for shape in random_shapes(40):
        with torch.no_grad():
            given = extract(made, shape).model(TOKENS).logits
        torch.testing.assert_close(given, masked_logits(made, shape, TOKENS), rtol=1e-4, atol=1e-5)


MIXED = parse_shape("ha4c2")


@pytest.mark.parametrize("shape", [Shape(3, 50), MIXED])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_subnet_generates_with_its_cache_what_it_generates_without(name: str, shape: AnyShape) -> None:
    model = extract(supernet(name), shape).model
    prompt = TOKENS[:1, :8]
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    cached = model.generate(prompt, attention_mask=torch.ones_like(prompt), use_cache=True, **options)
    plain = model.generate(prompt, attention_mask=torch.ones_like(prompt), use_cache=False, **options)
    assert torch.equal(cached, plain)


@pytest.mark.parametrize("shape", [Shape(3, 50), MIXED])
def test_the_active_supernet_generates_what_the_extracted_subnet_does(shape: AnyShape) -> None:
    made = supernet()
    prompt = TOKENS[:1, :8]
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    subnet = extract(made, shape).model
    with made.active(shape) as active:
        given = active.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
    assert torch.equal(given, subnet.generate(prompt, attention_mask=torch.ones_like(prompt), **options))


@pytest.mark.parametrize("shape", [Shape(2, 25), Shape(3, 75), MIXED])
def test_poison_in_everything_removed_never_reaches_the_subnet(shape: AnyShape) -> None:
    made = supernet()
    with torch.no_grad():
        wanted = extract(made, shape).model(TOKENS).logits
        kept = {part.index: part for part in made.selection.cut(shape).layers}
        for index in range(4):
            for parent, name in family.linears(made.layer(index)):
                elastic: ExpertLinear = getattr(parent, name)
                feeds_forward = name in family.FFN_LINEARS
                if index not in kept or not (kept[index].neurons if feeds_forward else kept[index].attention):
                    elastic.weight_OI.fill_(torch.nan)
                    elastic.A_ERI.fill_(torch.nan)
                elif name in ("gate_proj", "up_proj"):
                    elastic.weight_OI[kept[index].neurons :] = torch.nan
                    elastic.B_EOR[:, kept[index].neurons :] = torch.nan
                elif name == "down_proj":
                    elastic.weight_OI[:, kept[index].neurons :] = torch.nan
                    elastic.A_ERI[:, :, kept[index].neurons :] = torch.nan
        given = extract(made, shape).model(TOKENS).logits
    assert torch.isfinite(given).all()
    assert torch.equal(given, wanted)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_subnet_has_the_base_s_parameters_less_exactly_what_is_cut(name: str, tied: bool) -> None:
    made, base = supernet(name, tied=tied), make_model(name, tied=tied)
    neurons = base.config.intermediate_size

    def count(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    for shape in random_shapes(10):
        kept = {part.index: part for part in made.selection.cut(shape).layers}
        wanted = count(base)
        for index, layer in enumerate(base.model.layers):
            if index not in kept:
                wanted -= count(layer)
                continue
            # The norm before a block that is gone stays in a mixed checkpoint, and nothing else does.
            wanted -= 0 if kept[index].attention else count(layer.self_attn)
            wanted -= count(layer.mlp) * (neurons - kept[index].neurons) // neurons
        assert count(extract(made, shape).model) == wanted


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_subnet_is_an_ordinary_checkpoint_that_transformers_loads(name: str, tmp_path) -> None:
    from transformers import AutoModelForCausalLM

    subnet = extract(supernet(name), Shape(3, 50))
    subnet.model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert type(loaded) is type(make_model(name))
    assert loaded.config.num_hidden_layers == 3
    with torch.no_grad():
        assert torch.equal(loaded(TOKENS).logits, subnet.model(TOKENS).logits)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_mixed_subnet_opens_by_its_own_class_and_nothing_is_made_up(name: str, tied: bool, tmp_path) -> None:
    subnet = extract(supernet(name, tied=tied), MIXED)
    subnet.model.save_pretrained(tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert isinstance(loaded, MixedForCausalLM)
    with torch.no_grad():
        assert torch.equal(loaded(TOKENS).logits, subnet.model(TOKENS).logits)


def test_plain_transformers_refuses_a_mixed_checkpoint(tmp_path) -> None:
    extract(supernet(), MIXED).model.save_pretrained(tmp_path)
    code = f"import transformers; transformers.AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "amoeba_mixed" in done.stderr


@pytest.mark.parametrize(
    "adapters",
    [
        ADAPTERS,
        replace(ADAPTERS, mixing="product"),
        replace(ADAPTERS, gate="uniform"),
        replace(ADAPTERS, gate="one_a_shape", experts=8),
        AdapterSettings(rank=4, alpha=8),
    ],
    ids=["factors", "product", "uniform", "one a shape", "one"],
)
def test_merged_equals_unmerged_and_leaves_the_supernet_as_it_was(adapters: AdapterSettings) -> None:
    made = supernet(adapters=adapters)
    before = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    with torch.no_grad():
        for shape in (Shape(3, 50), Shape(2, 100), Shape(4, 25), MIXED):
            merged = extract(made, shape).model(TOKENS).logits
            with made.active(shape) as active:
                torch.testing.assert_close(merged, active(TOKENS).logits, rtol=1e-4, atol=1e-5)
    after = made.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_narrower_shape_keeps_a_subset_and_shares_its_storage() -> None:
    made = supernet()
    cuts = [made.selection.cut(Shape(3, width)).uniform_neurons for width in (25, 50, 75, 100)]
    assert cuts == sorted(set(cuts))
    elastic: ExpertLinear = made.layer(0).mlp.up_proj
    assert elastic.weight_OI[:8].data_ptr() == elastic.weight_OI.data_ptr()


def test_a_saved_supernet_opens_as_it_was(tmp_path) -> None:
    made = supernet()
    made.save(tmp_path, {"note": "kept"})
    opened = Supernet.load(tmp_path, make_model())
    for shape in (Shape(3, 50), made.full):
        with made.active(shape) as one, opened.active(shape) as other, torch.no_grad():
            assert torch.equal(one(TOKENS).logits, other(TOKENS).logits)


def test_adapters_of_another_rank_are_refused(tmp_path) -> None:
    made = supernet()
    with pytest.raises(ValueError, match="another rank"):
        made.restore({name: torch.zeros(1) for name in made.trainable()})


def test_a_depth_nobody_chose_layers_for_is_refused_with_the_range() -> None:
    with pytest.raises(ValueError, match="for depths 2 to 4, not for 1"):
        supernet().activate(Shape(1, 100))


def test_adapters_are_on_every_linear_layer_and_nothing_else_is_trained() -> None:
    made = supernet()
    assert not [m for m in made.model.model.layers.modules() if isinstance(m, nn.Linear)]
    trained = {id(p) for p in (*made.model.parameters(), *made.gate.parameters()) if p.requires_grad}
    assert trained == {id(tensor) for tensor in made.trainable().values()}
