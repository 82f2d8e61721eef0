"""What a phone's ways to store weights cost: torch on the decoder as it is exported, with the codes and scales that are shipped.

    python -m benchmarks.phone_weights

The full model; layers in 4 bits are rounded on calibration text, as in a package. XNNPACK's programs run here and can be held
against this; Vulkan's and Core ML's cannot.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks import _record
from benchmarks._workspace import Workspace
from components.evaluate import Logits, agreement, perplexity
from components.progress import say
from components.reference import load_checkpoint, logits_of
from components.shape import Shape
from edge_targets._executorch import GROUP_SIZE, OFFERED, Backend, calibrated_codes
from edge_targets._target import PackageRequest
from flows.bases import parameters


def stored_as(work: Workspace, backend: Backend, quantization: str, context_length: int) -> Logits:
    """Logits of the base with its weights stored as a backend's."""
    lowering: Any = importlib.import_module(f"edge_targets._executorch_{backend}")
    windows = parameters()["package"]["calibration_windows"]
    request = PackageRequest(work.base.folder, Shape(1, 100), quantization, context_length, work.data.spread(windows))
    decoder = lowering.Decoder(load_checkpoint(work.base.folder), context_length)
    lowering.quantize(decoder, quantization, GROUP_SIZE, calibrated_codes(request, backend))

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
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    work = Workspace.of()
    windows = work.evaluation_windows
    float_logits = once(logits_of(load_checkpoint(work.base.folder)))
    full = perplexity(float_logits, windows).value
    outcomes = []
    for backend, offered in OFFERED.items():
        for quantization in offered:
            say(f"benchmark: {backend} {quantization.name}")
            logits = stored_as(work, backend, quantization.name, max(map(len, windows)) + 1)
            value, close = perplexity(logits, windows).value, agreement(logits, float_logits, windows)
            outcomes.append(
                {
                    "backend": backend,
                    "quantization": quantization.name,
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
