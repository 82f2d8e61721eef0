"""A shorter prompt keeps what matters, and an objective is met by the best point that meets it, or the nearest."""

import pytest
import torch
from fixtures.tiny import make_model

from components.prompts import (
    Objective,
    Operating,
    PromptSettings,
    ScoreHead,
    decide,
    importance,
    shorten,
    train_score_head,
)

MODEL = make_model()
TOKENS = torch.randint(2, 96, (12, 32), generator=torch.Generator().manual_seed(0))
SETTINGS = PromptSettings(width=32, reach=5, steps=150)


def test_importance_is_what_scaling_a_token_away_does_to_the_loss() -> None:
    """Compared with the slow obvious thing: each token's embedding shrunk a little, alone."""
    tokens = TOKENS[:1]
    given = importance(MODEL, tokens, 24)[0]
    embeddings = MODEL.get_input_embeddings()(tokens).detach()

    def loss(scaled: torch.Tensor) -> float:
        logits = MODEL(inputs_embeds=scaled, use_cache=False).logits[:, 23:-1]
        return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 24:].flatten()))

    effects = []
    with torch.no_grad():
        for position in range(24):
            changes = []
            for factor in (0.99, 1.01):
                scaled = embeddings.clone()
                scaled[0, position] *= factor
                changes.append(loss(scaled))
            effects.append(abs(changes[1] - changes[0]))
    order = torch.tensor(effects).argsort()
    assert torch.corrcoef(torch.stack([given.argsort().argsort().float(), order.argsort().float()]))[0, 1] > 0.9


def test_a_head_learns_which_tokens_matter_and_the_model_is_left_alone() -> None:
    before = {name: tensor.clone() for name, tensor in MODEL.state_dict().items()}
    head = train_score_head(MODEL, TOKENS, SETTINGS)
    wanted = torch.cat([importance(MODEL, tokens, 24) for tokens in TOKENS.split(1)])
    with torch.no_grad():
        given = head(MODEL.get_input_embeddings()(TOKENS[:, :24]))
    assert torch.corrcoef(torch.stack([given.flatten(), wanted.flatten()]))[0, 1] > 0.5
    assert all(torch.equal(tensor, before[name]) for name, tensor in MODEL.state_dict().items())


def test_of_a_long_text_only_what_is_learned_from_is_labelled_and_the_head_is_the_same() -> None:
    asked: list[tuple[int, int]] = []
    settings = PromptSettings(width=32, reach=5, steps=2, batch_size=3)
    head = train_score_head(MODEL, TOKENS, settings, lambda done, total: asked.append((done, total)))
    drawn = torch.Generator().manual_seed(settings.seed)
    used = {row for _ in range(2) for row in torch.randint(len(TOKENS), (3,), generator=drawn).tolist()}
    assert asked == [(done, len(used)) for done in range(1, len(used) + 1)]
    others = TOKENS.clone()
    others[[row for row in range(len(TOKENS)) if row not in used]] = 7
    again = train_score_head(MODEL, others, settings)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(head.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("share", [0.4, 0.6, 0.9])
def test_a_shortened_prompt_keeps_its_ends_its_order_and_the_best_of_the_rest(share: float) -> None:
    torch.manual_seed(0)
    head, embedding = ScoreHead(64, SETTINGS), MODEL.get_input_embeddings()
    tokens = TOKENS[0].tolist()
    kept = shorten(head, embedding, tokens, share)
    assert len(kept) == -(-len(tokens) * share // 1)
    assert kept[0] == tokens[0]
    assert kept[-8:] == tokens[-8:]
    remaining = iter(tokens)
    assert all(token in remaining for token in kept)  # a subsequence
    with torch.no_grad():
        scores = head.rank(embedding(TOKENS[:1]))[0, 1:-8]
    best = scores.topk(len(kept) - 9).indices.sort().values + 1
    assert kept[1:-8] == [tokens[index] for index in best.tolist()]


def test_a_rank_is_the_mean_score_of_the_phrase_around_a_token() -> None:
    torch.manual_seed(0)
    head, embeddings = ScoreHead(64, PromptSettings(phrase=5)), MODEL.get_input_embeddings()(TOKENS[:1])
    with torch.no_grad():
        scores, given = head(embeddings)[0], head.rank(embeddings)[0]
    slow = [scores[max(0, position - 2) : position + 3].mean() for position in range(len(scores))]
    torch.testing.assert_close(given, torch.stack(slow))


def test_a_score_knows_what_follows_and_not_what_precedes() -> None:
    """The same tokens are worth the same however long the prompt before them, but for its length; not so what comes after."""
    torch.manual_seed(0)
    head = ScoreHead(64, SETTINGS)
    head.place.weight.data[:, 1] = 0  # the share of the prompt, which is its length's
    same = MODEL.get_input_embeddings()(torch.full((1, 32), 5))
    with torch.no_grad():
        long, short = head(same)[0], head(same[:, :20])[0]
    torch.testing.assert_close(long[-16:], short[-16:])
    assert long[4:-4].unique().numel() > 20


def test_a_short_prompt_stays_whole() -> None:
    head = ScoreHead(64, SETTINGS)
    assert shorten(head, MODEL.get_input_embeddings(), [5, 6, 7], 0.1) == [5, 6, 7]


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        shorten(ScoreHead(64, SETTINGS), MODEL.get_input_embeddings(), [1, 2], share)


POINTS = (
    Operating(1.0, "d30w100", 1.0, 1.0, 0.60),
    Operating(0.6, "d30w100", 0.6, 1.0, 0.50),
    Operating(1.0, "h80", 0.8, 0.8, 0.55),
    Operating(0.6, "h80", 0.5, 0.8, 0.48),
    Operating(1.0, "h53", 0.55, 0.55, 0.40),
)


@pytest.mark.parametrize(
    ("objective", "share", "shape", "met"),
    [
        ("100,100", 1.0, "d30w100", True),
        ("80,80", 1.0, "h80", True),
        ("60,80", 0.6, "h80", True),
        ("60,60", 1.0, "h53", True),
        ("60,100", 0.6, "d30w100", True),
        ("30,50", 0.6, "h80", False),
        ("40,30", 1.0, "h53", False),
    ],
)
def test_the_best_point_that_meets_the_objective_is_taken_else_the_nearest(
    objective: str, share: float, shape: str, met: bool
) -> None:
    decision = decide(POINTS, Objective.parse(objective))
    assert (decision.point.prompt_share, decision.point.shape, decision.met) == (share, shape, met)


@pytest.mark.parametrize("text", ["", "60", "60,80,90", "a,b", "0,50", "50,101", "nan,nan"])
def test_an_objective_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="like 60,80"):
        Objective.parse(text)
