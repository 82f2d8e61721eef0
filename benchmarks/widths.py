"""Which neurons to keep: both scores, on little and on much text, with and without what the removed ones add on average.

    python -m benchmarks.widths

Perplexity of the whole depth at three quarters and half of its neurons, before any training.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks import _record
from benchmarks._workspace import Workspace
from components import family
from components.evaluate import perplexity
from components.progress import say
from components.reference import logits_of
from components.width import permute_neurons, score_widths

WIDTHS = (75, 50)


@contextmanager
def kept(model: PreTrainedModel, percent: int, means_LF: Tensor | None) -> Iterator[None]:
    """Run without the last neurons of every layer, which add their mean's worth where `means_LF` is given."""
    hooks = []
    for index, layer in enumerate(family.decoder_layers(model)):
        neurons = layer.mlp.down_proj.in_features * percent // 100
        fill_F = torch.zeros(layer.mlp.down_proj.in_features) if means_LF is None else means_LF[index]

        def cut(module: Any, inputs: tuple[Tensor], neurons: int = neurons, fill_F: Tensor = fill_F) -> tuple[Tensor]:
            values = inputs[0].clone()
            values[..., neurons:] = fill_F[neurons:].to(values)
            return (values,)

        hooks.append(layer.mlp.down_proj.register_forward_pre_hook(cut))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def means(model: PreTrainedModel, windows: Sequence[Tensor]) -> Tensor:
    """Mean activation of every neuron, [L, F]."""
    layers = family.decoder_layers(model)
    sums_LF = torch.zeros(len(layers), layers[0].mlp.down_proj.in_features, dtype=torch.float64)

    def adder(sum_F: Tensor) -> Callable[[Any, tuple[Tensor]], None]:
        def add(module: Any, inputs: tuple[Tensor]) -> None:
            sum_F.add_(inputs[0].double().sum((0, 1)))

        return add

    hooks = [
        layer.mlp.down_proj.register_forward_pre_hook(adder(sum_F))
        for layer, sum_F in zip(layers, sums_LF, strict=True)
    ]
    for tokens_BT in windows:
        model.model(input_ids=tokens_BT, use_cache=False)
    for hook in hooks:
        hook.remove()
    return sums_LF / sum(tokens_BT.numel() for tokens_BT in windows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, nargs="+", default=[4, 32, 128], help="of training text")
    given = parser.parse_args()
    work = Workspace.of()
    full = perplexity(logits_of(work.model()), work.evaluation_windows).value
    outcomes = []
    for windows in given.windows:
        text = work.width_text_WT(windows).split(1)
        for metric in ("mean_square", "fluctuation"):
            say(f"benchmark: {metric} on {windows} windows")
            model = work.model()
            permute_neurons(model, score_widths(model, text, metric).neuron_order_LF)
            for compensated in (False, True):
                means_LF = means(model, text) if compensated else None
                found = {"metric": metric, "windows": windows, "bias": compensated}
                for percent in WIDTHS:
                    with kept(model, percent, means_LF):
                        found[f"{percent} %"] = perplexity(logits_of(model), work.evaluation_windows).value
                outcomes.append(found)
    print(f"\nPerplexity against the full model's {full:.2f}\n")
    _record.table(list(outcomes[0]), [list(found.values()) for found in outcomes])
    _record.keep("widths", {"full": full, "outcomes": outcomes})


if __name__ == "__main__":
    main()
