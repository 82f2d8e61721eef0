import itertools
import subprocess
import sys
from dataclasses import replace

import pytest
from fixtures.tiny import make_model

from components.latency import Cost, Weights, measure, peak_memory_mb, predict
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
    coarse = replace(CANDIDATES[0], quantization="int4", perplexity=1.0, top_1=0.7)
    chosen, verdicts = choose([coarse, *CANDIDATES], None, None, min_top_1=0.8)
    assert chosen == CANDIDATES[0]
    assert verdicts[0].reason == "agrees with float on 70% of tokens, under 80%"


def test_when_nothing_fits_the_fastest_is_named() -> None:
    with pytest.raises(NothingFitsError, match="within 2 ms a token; the fastest, d20w50 int8, is predicted to take"):
        choose(CANDIDATES, 2.0, None)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_counted_as_torch_counts_them(tied: bool) -> None:
    model = make_model("llama", tied=tied)
    weights = Weights.of(model.config.to_dict(), [(True, 128)] * 4)
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2)
    assert weights.layers + weights.embedding * (1 if tied else 2) == matrices


def test_a_narrower_shape_and_fewer_bits_are_predicted_faster_and_smaller() -> None:
    config = make_model().config.to_dict()
    wide, narrow = (predict(Weights.of(config, [(True, neurons)] * 4), 8, 8, 10, 100, 256) for neurons in (128, 64))
    coarse = predict(Weights.of(config, [(True, 128)] * 4), 4, 8, 10, 100, 256)
    for less in (narrow, coarse):
        assert less.tpot_ms < wide.tpot_ms
        assert less.memory_mb < wide.memory_mb


def test_measuring_counts_the_first_token_apart_and_leaves_the_warm_up_out() -> None:
    now = 0.0

    def clock() -> float:
        return now

    calls = 0

    def generate(prompt, new_tokens):
        nonlocal now, calls
        calls += 1
        slow = 10 if calls == 1 else 1
        now += 0.1 * slow
        for token in range(new_tokens):
            if token:
                now += 0.01 * slow
            yield token

    latency = measure(generate, [1, 2, 3], 5, runs=3, threads=1, clock=clock)
    assert latency.ttft_ms_samples == pytest.approx((100, 100, 100))
    assert latency.tpot_ms_samples == pytest.approx((10, 10, 10))
    assert calls == 4


def test_a_small_child_of_a_large_parent_is_measured_as_small() -> None:
    ballast = bytearray(400_000_000)
    ballast[::4096] = b"x" * len(ballast[::4096])
    code = "from components.latency import peak_memory_mb; print(peak_memory_mb())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 200 < peak_memory_mb()


def test_a_model_that_says_nothing_cannot_be_timed() -> None:
    with pytest.raises(ValueError, match="the model wrote 0 tokens"):
        measure(lambda prompt, new_tokens: iter(()), [1], 5, runs=1, threads=1)
