"""A folder of levels with a score head answers as its decision says."""

from pathlib import Path

import pytest
import torch
from fixtures.elastic import TOKENS, supernet

from components.adaptive import SHARES, Adaptive, save_adaptive
from components.evaluate import Question
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
    questions = [Question("made", tuple(row[:20]), ((5,), (7,)), (1, 1), 0) for row in TOKENS.tolist()]
    save_adaptive(out, head, settings, questions)
    return out


def test_every_level_and_share_is_measured_against_the_whole(folder: Path) -> None:
    opened = Adaptive(folder)
    assert [(point.shape, point.prompt_share) for point in opened.points] == [
        (str(shape), share) for shape in SHAPES for share in SHARES
    ]
    assert (opened.points[0].ttft, opened.points[0].tpot) == (1.0, 1.0)
    assert all(0 <= point.quality <= 1 for point in opened.points)
    assert opened.decide(Objective(1.0, 1.0)).met


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
