"""Chat text without a chat data set: the base answers prompts itself, and its subnets learn to answer like it.

Legend: P prompts, T positions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from components.kept import keep, kept

_PROMPTS_AT_ONCE = 32
_KEEP_EVERY_S = 30.0


@torch.no_grad()
def answers(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    answer_tokens: int,
    eos: Sequence[int],
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    memory: Path | None = None,
) -> list[list[int]]:
    """Each prompt followed by the base's sampled answer, up to `answer_tokens` long.

    Every base's is sampled alike: temperature 0.8, of the 50 likeliest tokens those that make up 0.95, and nothing of what the
    base's own generation config asks for.

    Prompts are answered in batches of about equal length, so that little of the work is padding. Where `memory` names a file,
    what is answered is kept in it now and then with the state of the random numbers, and a killed run goes on to the same
    answers; it must belong to these inputs.
    """
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
    known = (kept(memory) if memory else None) or {"texts": [[] for _ in prompts], "answered": 0, "random": None}
    texts: list[list[int]] = known["texts"]
    last_s = time.monotonic()
    settings = GenerationConfig(
        max_new_tokens=answer_tokens,
        do_sample=True,
        temperature=0.8,
        top_k=50,
        top_p=0.95,
        eos_token_id=list(eos),
        pad_token_id=eos[0],
    )
    with torch.random.fork_rng(devices=[]), _generating(model, settings):
        torch.manual_seed(seed)
        if known["random"] is not None:
            _restore(model.device, known["random"])
        for start in range(known["answered"], len(order), _PROMPTS_AT_ONCE):
            batch = order[start : start + _PROMPTS_AT_ONCE]
            longest = max(len(prompts[index]) for index in batch)
            tokens_PT = torch.full((len(batch), longest), eos[0])
            mask_PT = torch.zeros_like(tokens_PT)
            for row, index in enumerate(batch):
                tokens_PT[row, longest - len(prompts[index]) :] = torch.tensor(prompts[index])
                mask_PT[row, longest - len(prompts[index]) :] = 1
            generate: Any = model.generate
            written = generate(
                input_ids=tokens_PT.to(model.device),
                attention_mask=mask_PT.to(model.device),
            )
            for row, index in enumerate(batch):
                answer = written[row, longest:].tolist()
                ends = [position for position, token in enumerate(answer) if token in eos]
                texts[index] = [*prompts[index], *answer[: ends[0] + 1 if ends else None]]
            if memory is not None and time.monotonic() - last_s >= _KEEP_EVERY_S:
                last_s = time.monotonic()
                keep(memory, {"texts": texts, "answered": start + _PROMPTS_AT_ONCE, "random": _state(model.device)})
            progress(min(start + _PROMPTS_AT_ONCE, len(order)), len(order))
    return texts


@contextmanager
def _generating(model: PreTrainedModel, settings: GenerationConfig) -> Iterator[None]:
    """By these settings alone: what they leave open, `generate` takes from the model's own, given settings or not."""
    own, model.generation_config = model.generation_config, settings
    try:
        yield
    finally:
        model.generation_config = own


def _state(device: torch.device) -> str:
    """Of the random numbers that answers on this device are drawn from."""
    state = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
    return state.numpy().tobytes().hex()


def _restore(device: torch.device, state: str) -> None:
    numbers = torch.frombuffer(bytearray.fromhex(state), dtype=torch.uint8)
    if device.type == "cuda":
        torch.cuda.set_rng_state(numbers, device)
    else:
        torch.set_rng_state(numbers)
