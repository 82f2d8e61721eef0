import pytest
import torch
from fixtures.tiny import FAMILIES, make_model

from components import family
from components.width import permute_neurons, score_widths


def inputs_of(model, tokens, module):
    seen = []
    hook = module.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    with torch.no_grad():
        model(tokens)
    hook.remove()
    return torch.cat(seen).flatten(0, 1).double()


@pytest.mark.parametrize("metric", ["fluctuation", "mean_square"])
def test_the_running_score_is_the_score_of_all_tokens_at_once(tiny, tokens, metric) -> None:
    scores = score_widths(tiny, tokens.split(1), metric)
    for index, layer in enumerate(family.decoder_layers(tiny)):
        values = inputs_of(tiny, tokens, layer.mlp.down_proj)
        spread = values.var(0, unbiased=False) if metric == "fluctuation" else values.square().mean(0)
        wanted = spread * layer.mlp.down_proj.weight.double().square().sum(0)
        torch.testing.assert_close(scores.neuron_scores_LF[index], wanted, rtol=1e-5, atol=1e-8)
        values = inputs_of(tiny, tokens, layer.self_attn.o_proj)
        spread = values.var(0, unbiased=False) if metric == "fluctuation" else values.square().mean(0)
        wanted = (spread * layer.self_attn.o_proj.weight.double().square().sum(0)).reshape(2, -1).sum(1)
        torch.testing.assert_close(scores.group_scores_LG[index], wanted, rtol=1e-5, atol=1e-8)


def test_an_unknown_metric_names_those_there_are(tiny, tokens) -> None:
    with pytest.raises(ValueError, match="there are fluctuation and mean_square"):
        score_widths(tiny, [tokens], "magnitude")  # type: ignore[arg-type]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("head_dim", [64, 80, 128])
@pytest.mark.parametrize("name", FAMILIES)
def test_permuting_neurons_moves_weights_and_leaves_logits(name, head_dim, tied, tokens) -> None:
    model, before = (make_model(name, layers=2, head_dim=head_dim, tied=tied).double() for _ in range(2))
    order = score_widths(model, [tokens]).neuron_order_LF
    identity = torch.arange(order.shape[1])
    assert all((row != identity).float().mean() > 0.5 for row in order)
    permute_neurons(model, order)
    assert not torch.equal(model.model.layers[0].mlp.up_proj.weight, before.model.layers[0].mlp.up_proj.weight)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, before(tokens).logits, rtol=1e-8, atol=1e-8)
