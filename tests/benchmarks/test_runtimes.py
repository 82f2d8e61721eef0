"""Contenders answer in processes of their own, take turns, and one that fails is told apart from the others."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures.tiny import VOCABULARY, make_model, write_base

import edge_targets
from benchmarks import _bench, _race
from benchmarks._bench import Bench
from benchmarks._jobs import Job, jobs
from benchmarks._processes import ContenderError, Server, command, run, variables
from benchmarks._ratios import ratio
from benchmarks.contenders import OTHERS, Contender, executorch_own
from components.evaluate import perplexity
from components.reference import load_checkpoint, logits_of

WINDOWS = torch.randint(2, VOCABULARY, (3, 24), generator=torch.Generator().manual_seed(2)).tolist()
EAGER = Contender("torch_eager", "fp32", title="eager")
OURS = Contender("ours", "x86_avx512-int8", title="ours")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("checkpoint"), make_model(tied=False))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("work"), WINDOWS, threads=1)


@pytest.mark.parametrize("contender", [EAGER, OURS], ids=lambda contender: contender.name)
def test_a_contender_is_built_judged_and_timed_in_its_own_process(
    contender: Contender, bench: Bench, checkpoint: Path
) -> None:
    job = Job(contender, "full", checkpoint)
    bench.build(job)
    bench.judge(job)
    float_logits = logits_of(load_checkpoint(checkpoint))
    assert job.figures["perplexity"] == pytest.approx(perplexity(float_logits, WINDOWS).value, rel=0.05)
    assert job.figures["kl"] == pytest.approx(0, abs=0.02)
    assert job.figures["size_mb"] > 0.01
    with bench.serve(job) as server:
        timed = server.ask(do="time", tokens=WINDOWS[0], new_tokens=5)
        assert server.ask(do="peak")["peak_mb"] > 20
    text = list(WINDOWS[0])
    for token in timed["tokens"]:
        assert token == int(float_logits(text)[-1].argmax())
        text.append(token)
    assert timed["ttft_ms"] > 0
    assert timed["tpot_ms"] > 0


def test_what_is_built_is_kept_and_each_variant_is_built_on_its_own(
    bench: Bench, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Job(EAGER, "kept", checkpoint)
    bench.build(first)
    monkeypatch.setattr(_bench, "run", lambda *_: pytest.fail("it was built a second time"))
    again = Job(EAGER, "kept", checkpoint)
    bench.build(again)
    assert again.figures == first.figures
    other = Job(Contender("torch_eager", "bf16"), "kept", checkpoint)
    with pytest.raises(pytest.fail.Exception, match="a second time"):
        bench.build(other)


def test_a_contender_that_fails_says_why(tmp_path: Path, checkpoint: Path) -> None:
    missing = Contender("no_such_module", "int4")
    words = command(Path(sys.executable), "build", missing, "--checkpoint", checkpoint, "--out", tmp_path / "built")
    with pytest.raises(ContenderError, match=r"ended with 1: ModuleNotFoundError: No module named .*no_such_module"):
        run(words, tmp_path / "log")
    words = command(Path(sys.executable), "serve", missing, "--built", tmp_path, "--threads", 1)
    with pytest.raises(ContenderError, match="ended with 1: ModuleNotFoundError"):
        Server(words, tmp_path / "log")


def test_openmp_waits_as_a_contender_s_makers_have_it_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    assert not {"OMP_WAIT_POLICY", "PYTHONPATH"} & set(variables())


def test_every_target_and_every_other_runtime_is_compared() -> None:
    models = {"full": Path("full"), "53": Path("53")}
    found = jobs(models, [])
    assert {job.contender for job in found} >= set(OTHERS)
    families = {edge_targets.load(name).family or name: name for name in reversed(edge_targets.names())}
    for name in families.values():  # the first of each family stands for it
        for quantization in edge_targets.load(name).quantizations[:1]:
            if quantization.name not in ("fp32", "fp16", "bf16"):
                usual = f"ours-{name}-{quantization.name}"
                assert {job.name for job in found} >= {f"{usual}-full", f"{usual}-53"}
    assert {job.shape for job in found if job.contender in OTHERS} == {"full"}
    assert [job.name for job in jobs(models, ["q4_0"])] == ["llamacpp-q4_0-full"]
    with pytest.raises(SystemExit, match="nothing is called like q9"):
        jobs(models, ["q9"])


class FakeServer:
    """Takes `tpot_ms` a token, and ends when it is asked for the `ends_at`th time."""

    def __init__(self, name: str, tpot_ms: float, asked: list[str], ends_at: int = 10**6) -> None:
        self.name, self.tpot_ms, self.asked, self.ends_at = name, tpot_ms, asked, ends_at
        self.started = {"load_s": 1.0}
        self.prompts: list[tuple[int, ...]] = []

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def cpu_s(self) -> float:
        return 0.0

    def ask(self, **question: Any) -> dict[str, Any]:
        self.asked.append(self.name)
        self.prompts.append(tuple(question.get("tokens", ())))
        if self.asked.count(self.name) > self.ends_at:
            raise ContenderError("ended with 1: out of memory")
        return {"ttft_ms": 10.0, "tpot_ms": self.tpot_ms, "peak_mb": 5.0}


@pytest.fixture
def raced(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Job], list[str]]:
    """Three jobs after three rounds, of which the second ends in the first of them."""
    monkeypatch.setattr(_race, "_WATCHED_S", 0.01)
    asked: list[str] = []
    servers = [FakeServer("a", 4.0, asked), FakeServer("b", 1.0, asked, ends_at=3), FakeServer("c", 8.0, asked)]
    kinds = [OURS, EAGER, Contender("llamacpp", "q8_0")]
    raced = [Job(kind, "full", Path(), figures={"perplexity": 10.0 + n}) for n, kind in enumerate(kinds)]

    class FakeBench:
        def serve(self, job: Job) -> FakeServer:
            return servers[raced.index(job)]

    passage = list(range(_race.passage_tokens(rounds=3)))
    _race.race(FakeBench(), raced, passage, rounds=3, new_tokens=8)  # type: ignore[arg-type]
    prompts = servers[0].prompts[:-1]
    assert [len(tokens) for tokens in prompts] == [128, 512] * 4
    assert len({tokens[0] for tokens in prompts}) == len(prompts), "a prompt that begins as another may be kept read"
    return raced, asked


def test_contenders_take_turns_and_one_that_ends_is_left_out(raced: tuple[list[Job], list[str]]) -> None:
    (first, ended, last), asked = raced
    assert "".join(asked) == "aabbcc" + "aabbcc"[:6] + "aacc" * 2 + "ac"
    assert [len(job.rounds) for job in (first, ended, last)] == [3, 0, 3]
    assert ended.failed == "ended with 1: out of memory"
    assert first.median("tpot_ms") == 4.0
    assert first.figures["peak_mb"] == 5.0


def test_the_full_package_is_compared_with_the_fastest_that_ran(raced: tuple[list[Job], list[str]]) -> None:
    (compared,) = _race.comparisons(raced[0])
    assert (compared["first"], compared["second"]) == ("ours-x86_avx512-int8-full", "llamacpp-q8_0-full")
    assert compared["times_as_fast"]["value"] == 2.0
    assert compared["held"] is True


def test_a_faster_package_of_worse_perplexity_does_not_hold(raced: tuple[list[Job], list[str]]) -> None:
    raced[0][0].figures["perplexity"] = 99.0
    (compared,) = _race.comparisons(raced[0])
    assert compared["held"] is False


def test_slow_rounds_that_slow_both_leave_the_ratio_alone() -> None:
    rounds = np.random.default_rng(0).uniform(1, 10, 9)
    found = ratio((2 * rounds).tolist(), rounds.tolist())
    assert (found.value, found.low, found.high) == pytest.approx((2, 2, 2))
    noisy = ratio(
        np.random.default_rng(1).uniform(1, 3, 9).tolist(), np.random.default_rng(2).uniform(1, 3, 9).tolist()
    )
    assert noisy.low < noisy.value < noisy.high


def test_a_checkpoint_s_names_become_those_of_executorch() -> None:
    names = executorch_own._renamed
    assert names("model.layers.12.self_attn.q_proj.weight") == "layers.12.attention.wq.weight"
    assert names("model.layers.0.mlp.down_proj.weight") == "layers.0.feed_forward.w2.weight"
    assert names("model.embed_tokens.weight") == "tok_embeddings.weight"
