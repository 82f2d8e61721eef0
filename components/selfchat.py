"""Chat text without a chat data set: the base answers prompts itself, and its subnets learn to answer like it.

Legend: P prompts, T positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

_PROMPTS_AT_ONCE = 32


@torch.no_grad()
def answers(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    answer_tokens: int,
    eos: Sequence[int],
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[int]]:
    """Each prompt followed by the base's sampled answer (temperature 0.8, top-p 0.95), up to `answer_tokens` long.

    Prompts are answered in batches of about equal length, so that little of the work is padding.
    """
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
    texts: list[list[int]] = [[] for _ in prompts]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for start in range(0, len(order), _PROMPTS_AT_ONCE):
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
                max_new_tokens=answer_tokens,
                do_sample=True,
                temperature=0.8,
                top_p=0.95,
                eos_token_id=list(eos),
                pad_token_id=eos[0],
            )
            for row, index in enumerate(batch):
                answer = written[row, longest:].tolist()
                ends = [position for position, token in enumerate(answer) if token in eos]
                texts[index] = [*prompts[index], *answer[: ends[0] + 1 if ends else None]]
            progress(min(start + _PROMPTS_AT_ONCE, len(order)), len(order))
    return texts
