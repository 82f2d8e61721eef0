"""What a phone's ways to store weights cost: torch on the decoder as it is exported, with the codes and scales that are shipped.

    python -m benchmarks.phone_weights --checkpoint DIR --evaluation DIR

The checkpoint is a Hugging Face folder, the evaluation a workspace's `artifacts/NAME/data`. XNNPACK's programs run here and can
be held against this; Vulkan's and Core ML's cannot.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import _record
from components.data import load_evaluation
from components.evaluate import Logits, agreement, perplexity
from components.progress import say
from components.quiet import quiet_libraries
from components.reference import load_checkpoint, logits_of
from edge_targets import _executorch_weights as weights
from edge_targets._executorch import COREML, GROUP_SIZE, QUANTIZATIONS, VULKAN
from edge_targets._executorch_weights import Stored

_OFFERED = {"xnnpack": QUANTIZATIONS, "vulkan": VULKAN, "coreml": COREML}


def head_in_four_bits(decoder: nn.Module, quantization: str, group_size: int) -> None:
    """XNNPACK's 8da4w as it would be with the head like any other layer."""
    weights.store(decoder, lambda name: Stored(4, group_size, torch.bfloat16), eight_bit_activations=True)
    weights.store_embedding(decoder, Stored(8, group_size))
    weights.finish(decoder, quantization)


def stored_as(
    checkpoint: Path, backend: str, name: str, quantize: Callable[[nn.Module, str, int], None], context_length: int
) -> Logits:
    """Logits of the checkpoint with its weights stored as a backend's."""
    lowering: Any = importlib.import_module(f"edge_targets._executorch_{backend}")
    decoder = lowering.Decoder(load_checkpoint(checkpoint), context_length)
    quantize(decoder, name, GROUP_SIZE)

    def logits(tokens: Sequence[int]) -> Any:
        with torch.no_grad():
            return decoder(torch.tensor([tokens]), torch.tensor([0]))[0].numpy()

    return once(logits)


def once(logits: Logits) -> Logits:
    """Each window is read once for all that is asked of it: weights are made float again at every call."""
    kept: dict[tuple[int, ...], Any] = {}

    def remembered(tokens: Sequence[int]) -> Any:
        if tuple(tokens) not in kept:
            kept[tuple(tokens)] = logits(tokens)
        return kept[tuple(tokens)]

    return remembered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    given = parser.parse_args()
    quiet_libraries()
    windows = load_evaluation(given.evaluation)[0].tolist()
    longest = max(map(len, windows))
    float_logits = once(logits_of(load_checkpoint(given.checkpoint)))
    full = perplexity(float_logits, windows).value
    ways = {("xnnpack", "8da4w, head too"): head_in_four_bits}
    for backend, offered in _OFFERED.items():
        quantize = importlib.import_module(f"edge_targets._executorch_{backend}").quantize
        ways |= {(backend, one.name): quantize for one in offered}
    outcomes = []
    for (backend, name), quantize in ways.items():
        say(f"benchmark: {backend} {name}")
        logits = stored_as(given.checkpoint, backend, name, quantize, longest + 1)
        value, close = perplexity(logits, windows).value, agreement(logits, float_logits, windows)
        outcomes.append(
            {
                "backend": backend,
                "quantization": name,
                "perplexity": value,
                "ratio": value / full,
                "top_1": close.top_1,
                "kl": close.kl,
            }
        )
    print(f"\nPerplexity against {full:.2f} in float\n")
    _record.table(list(outcomes[0]), [list(outcome.values()) for outcome in outcomes])
    _record.keep("phone_weights", {"full": full, "outcomes": outcomes})


if __name__ == "__main__":
    main()
