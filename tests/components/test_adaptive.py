"""A folder of levels with a score head answers as its decision says."""

import math
from pathlib import Path

import pytest
import torch
from fixtures.elastic import TOKENS, supernet

from components.adaptive import SHARES, Adaptive, measure_points, save_adaptive
from components.levels import save_levels
from components.prompts import Objective, Operating, PromptSettings, shorten, train_score_head
from components.shape import Shape
from components.subnet import extract

SHAPES = (Shape(4, 100), Shape(3, 50))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("adaptive")
    made, settings = supernet(), PromptSettings(width=16, reach=3, steps=5)
    head = train_score_head(made.model, TOKENS, settings)
    save_levels(made, SHAPES, out)
    save_adaptive(out, head, settings, TOKENS.tolist())
    return out


def test_every_level_and_share_is_measured_against_the_whole(folder: Path) -> None:
    opened = Adaptive(folder)
    assert [(point.shape, point.prompt_share) for point in opened.points] == [
        (str(shape), share) for shape in SHAPES for share in SHARES
    ]
    assert (opened.points[0].ttft, opened.points[0].tpot) == (1.0, 1.0)
    assert opened.decide(Objective(1.0, 1.0)).met


def test_a_quality_is_that_of_the_subnet_on_the_rest_of_each_window_after_the_share_of_the_prompt(folder: Path) -> None:
    opened, made = Adaptive(folder), supernet()
    assert len({point.quality for point in opened.points}) == len(SHAPES) * len(SHARES)
    for point in opened.points:
        model = extract(made, next(shape for shape in SHAPES if str(shape) == point.shape)).model
        likely = []
        for window in TOKENS.tolist():
            kept = shorten(opened.head, model.get_input_embeddings(), window[:24], point.prompt_share)
            assert len(kept) == math.ceil(24 * point.prompt_share)
            with torch.no_grad():
                log_TV = model(torch.tensor([[*kept, *window[24:]]])).logits[0].log_softmax(-1)
            likely += [float(log_TV[len(kept) + place - 1, token]) for place, token in enumerate(window[24:])]
        assert point.quality == pytest.approx(sum(likely) / len(likely), abs=1e-4)


def test_windows_in_which_half_a_prompt_is_shorter_than_what_always_stays_are_refused(folder: Path) -> None:
    opened = Adaptive(folder)
    with pytest.raises(
        ValueError, match=r"60% of a prompt of 12 tokens would be 8, and 9 always stay: .*`window_tokens`"
    ):
        measure_points(opened.levels, opened.head, TOKENS[:, :16].tolist())


def test_an_answer_is_the_subnets_to_the_shortened_prompt(folder: Path) -> None:
    opened, made = Adaptive(folder), supernet()
    prompt = TOKENS[0, :24].tolist()
    for share in (1.0, 0.6):
        given = list(opened.answer(prompt, Operating(share, "d3w50", 1, 1, 1), 8))
        shortened = shorten(opened.head, opened.levels.model.get_input_embeddings(), prompt, share)
        asked = torch.tensor([shortened])
        options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": 1, "pad_token_id": 0}
        written = extract(made, SHAPES[1]).model.generate(asked, attention_mask=torch.ones_like(asked), **options)
        assert given == [token for token in written[0, len(shortened) :].tolist() if token != 1]
