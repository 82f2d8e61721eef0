import itertools
from dataclasses import replace

import pytest
from fixtures.tiny import make_model

from components.latency import Cost, Load, Weights, predict
from components.search import Candidate, NothingFitsError, choose
from components.shape import parse_shape


def candidate(shape: str, perplexity: float, tpot_ms: float, memory_mb: float = 100) -> Candidate:
    return Candidate(parse_shape(shape), "int8", perplexity, Cost(50, tpot_ms, memory_mb, memory_mb))


CANDIDATES = [candidate("d30w100", 20, 10, 200), candidate("d24w100", 30, 8, 160), candidate("d20w50", 80, 4, 90)]


def test_the_best_quality_within_the_budget_is_chosen_and_every_loser_told_why() -> None:
    chosen, verdicts = choose(CANDIDATES, 9.0, None)
    assert str(chosen.shape) == "d24w100"
    assert {str(v.candidate.shape): v.reason for v in verdicts} == {
        "d30w100": "10.0 ms a token, over 9",
        "d24w100": "chosen",
        "d20w50": "higher perplexity",
    }


@pytest.mark.parametrize(("tpot", "memory"), itertools.product([None, 5, 9, 20], [None, 100, 170, 300]))
def test_the_choice_is_the_best_of_all_that_fit(tpot: float | None, memory: float | None) -> None:
    fitting = [
        c
        for c in CANDIDATES
        if (tpot is None or c.cost.tpot_ms <= tpot) and (memory is None or c.cost.memory_mb <= memory)
    ]
    assert choose(CANDIDATES, tpot, memory)[0] == min(fitting, key=lambda c: c.perplexity)


def test_a_quantization_that_would_not_pass_verification_is_never_built() -> None:
    coarse = replace(CANDIDATES[0], quantization="int4", perplexity=1.0, unfit="agrees with float on 70% of tokens")
    chosen, verdicts = choose([coarse, *CANDIDATES], None, None)
    assert chosen == CANDIDATES[0]
    assert verdicts[0].reason == "agrees with float on 70% of tokens"


def test_when_nothing_fits_the_fastest_is_named() -> None:
    with pytest.raises(NothingFitsError, match="within 2 ms a token; the fastest, d20w50 int8, is predicted to take"):
        choose(CANDIDATES, 2.0, None)


def test_limits_of_nothing_are_limits_and_are_named() -> None:
    with pytest.raises(NothingFitsError, match="no subnet runs within 0 ms a token and 0 MB; the fastest"):
        choose(CANDIDATES, 0.0, 0.0)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_counted_as_torch_counts_them(tied: bool) -> None:
    model = make_model("llama", tied=tied)
    weights = Weights.of(model.config.to_dict(), [(True, 128)] * 4)
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2)
    assert weights.layers + weights.embedding * (1 if tied else 2) == matrices


def test_a_second_table_and_a_cache_of_half_the_width_are_counted() -> None:
    model = make_model("llama", tied=True)
    config, table = model.config.to_dict(), model.get_input_embeddings().weight.numel()
    one, two, half = (
        predict(Load.of(Weights.of(config, [(True, 128)] * 4, **how), 8, 8, 256), 10, 100)
        for how in ({}, {"ties": False}, {"cached_value_bytes": 2})
    )
    assert two.size_mb - one.size_mb == pytest.approx(table / 1e6)
    assert two.tpot_ms == one.tpot_ms  # only the head is read for a token
    assert half.memory_mb - half.size_mb == pytest.approx((one.memory_mb - one.size_mb) / 2)


def test_a_narrower_shape_and_fewer_bits_are_predicted_faster_and_smaller() -> None:
    config = make_model().config.to_dict()
    wide, narrow = (
        predict(Load.of(Weights.of(config, [(True, neurons)] * 4), 8, 8, 256), 10, 100) for neurons in (128, 64)
    )
    coarse = predict(Load.of(Weights.of(config, [(True, 128)] * 4), 4, 8, 256), 10, 100)
    for less in (narrow, coarse):
        assert less.tpot_ms < wide.tpot_ms
        assert less.memory_mb < wide.memory_mb
