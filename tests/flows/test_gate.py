"""The gate's course, against artifacts whose speed and quality are set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from components.evaluate import asking_order
from components.frontier import Point
from components.gate import Margins
from components.strict import SlipError
from edge_targets._device.bench import host
from flows import check, evidence, frontiers
from flows.bases import Declared
from flows.check import Checked
from flows.cli import app
from flows.effort import Effort
from flows.evidence import Artifact, BaselineError, Recorded
from flows.explored import FRONTIER_TAG, Explored, Member, Predicted, Reference, Samples
from registry.errors import NotFoundError
from registry.manifest import FileEntry, Manifest
from registry.server import Version

BASE = Declared("m", "somewhere", "ab" * 32, "tiny")
EFFORT = {
    "runs": 1,
    "new_tokens": 4,
    "pairs": [6, 12, 24],
    "questions": [200, 400, 400],
    "frontier_rounds": 4,
    "false_alarms_percent": 2.0,
    "misses_percent": 5.0,
}
MARGINS = {
    "perplexity_percent": 2.0,
    "accuracy_points": 3.0,
    "latency_percent": 5.0,
    "memory_percent": 10.0,
    "frontier_percent": 3.0,
    "drift_percent": 25.0,
}
QUESTIONS = 400


@dataclass
class Lab:
    """Artifacts by folder name, and all that was asked of them."""

    slower: dict[str, float] = field(default_factory=dict)
    lost: dict[str, float] = field(default_factory=dict)
    noise: float = 0.005
    drift: float = 0.3
    """Of the machine, from one turn to the next."""
    frontiers: dict[str, Explored] = field(default_factory=dict)
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    timed: list[tuple[tuple[str, ...], int]] = field(default_factory=list)

    def answers(self, base: Declared, target: str, artifact: Artifact, first: int, last: int) -> dict[str, Any]:
        name = artifact.folder.name
        self.asked.append((name, first, last))
        nats = np.random.default_rng(1).normal(3, 0.2, 8).tolist() if first == 0 else []
        return {"nats": nats, "correct": self.correct(name)[first:last], "questions": QUESTIONS}

    def correct(self, name: str) -> list[bool]:
        """In the order they are asked in."""
        random = np.random.default_rng(2)
        right, spoiled = random.random(QUESTIONS) < 0.6, random.random(QUESTIONS) < self.lost.get(name, 0.0)
        return (right & ~spoiled).tolist()

    def runs_in_turns(
        self, target: str, folders: Sequence[Path], rounds: int, numbers: Mapping[str, int]
    ) -> dict[str, Any]:
        names = tuple(folder.name for folder in folders)
        random = np.random.default_rng(len(self.timed))
        self.timed.append((names, rounds))
        drift = np.exp(random.normal(0, self.drift, rounds))

        def run(name: str, turn: int) -> dict[str, float]:
            factor = self.slower.get(name, 1.0) * drift[turn] * float(np.exp(random.normal(0, self.noise)))
            return {"ttft_ms": 150 * factor, "tpot_ms": 6.5 * factor, "memory_mb": 460.0}

        return {"host": host(), "runs": [[run(name, turn) for turn in range(rounds)] for name in names]}


def artifact(name: str, lab: Lab, revision: str = "here") -> Artifact:
    given = lab.correct(name)
    correct = [False] * QUESTIONS
    for place, index in enumerate(asking_order(QUESTIONS)):
        correct[index] = given[place]
    measurement = {
        "perplexity": {"nats": lab.answers(BASE, "", Artifact(None, Path(name), None), 0, 0)["nats"]},  # type: ignore[arg-type]
        "accuracy": {"correct": correct},
        "latency": {"ttft_ms_samples": {"128": [150.0, 151.0, 149.0]}, "tpot_ms_samples": [6.5, 6.6, 6.4]},
        "host": host(),
    }
    lab.asked.clear()
    files = (FileEntry("model.onnx", 1, name.encode().hex().ljust(64, "0")[:64]),)
    manifest = Manifest("package", "m", "x86", files, {"measurement": measurement}, {"data_revision": revision})
    tags = {FRONTIER_TAG: name} if name in lab.frontiers else {}
    return Artifact(Version("m--x86", name, (), tags, "run", ""), Path(name), manifest)


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    made = Lab()
    monkeypatch.setattr(evidence, "answers", made.answers)
    monkeypatch.setattr(evidence, "runs_in_turns", made.runs_in_turns)
    monkeypatch.setattr(evidence, "data_revision", lambda base: "here")
    monkeypatch.setattr(frontiers, "frontier_of", lambda registry, version: made.frontiers.get(version.version))
    monkeypatch.setattr(Artifact, "pulled", lambda registry, model, name: artifact(name, made))
    monkeypatch.setattr(check.tracking, "store", lambda: None)
    monkeypatch.setattr(check, "parameters", lambda: {"gate": EFFORT, "tolerances": MARGINS})
    return made


def as_published(artifact: Artifact) -> Recorded:
    found = evidence.published(artifact)
    assert found is not None
    return found


def judged(older: Artifact | Recorded, newer: Artifact) -> Checked:
    return check._judged(BASE, "x86", older, newer)


def figures(checked: Checked) -> dict[str, str]:
    return {figure.name: figure.verdict for figure in checked.figures}


def explored(lab: Lab, *versions: str, revision: str = "here") -> Explored:
    """A frontier whose members' quantizations are the first letters of their versions; `worse` ones read worse."""
    members = []
    for version in versions:
        nats = tuple((np.random.default_rng(1).normal(3, 0.2, 8) + 0.1 * ("worse" in version)).tolist())
        point = Point("d4w100", version[:1], 20.0, 0.6, (0.5, 0.7), 150.0, 6.5, 460.0, 100.0, "host")
        samples = Samples({128: (150.0,)}, (6.5,), nats, (True,))
        members.append(Member(version, point, Predicted(20.0, 6.5, 150.0, 460.0, "host"), samples))
    reference = Reference(19.0, 0.6, (0.5, 0.7), (3.0,), (True,))
    return Explored("m", "x86", revision, "net", host(), reference, tuple(members), ())


def test_frontiers_of_both_sides_are_timed_in_turns_all_members_together(lab: Lab) -> None:
    lab.frontiers = {"old": explored(lab, "a1", "b1"), "new": explored(lab, "a2", "b1")}
    found = judged(artifact("old", lab), artifact("new", lab))
    assert found.verdict == "holds"
    assert lab.timed[0] == (("a1", "a2", "b1"), 4)
    assert figures(found)["frontier"] == "holds"
    (successor,) = found.successors
    assert (successor.baseline, successor.candidate, successor.outcome) == ("a1", "a2", "neither dominates")


@pytest.mark.parametrize("worse", ["a2 slower", "a2 worse"])
def test_a_frontier_that_commands_less_has_regressed_and_says_which_member_fell_behind(lab: Lab, worse: str) -> None:
    lab.slower["a2 slower"] = 1.2
    lab.frontiers = {"old": explored(lab, "a1"), "new": explored(lab, worse)}
    found = judged(artifact("old", lab), artifact("new", lab))
    assert found.verdict == "regressed"
    assert [name for name, verdict in figures(found).items() if verdict == "regressed"] == ["frontier"]
    assert [one.outcome for one in found.successors] == ["dominates its successor"]


def test_a_member_that_is_better_in_every_way_dominates_what_it_succeeds(lab: Lab) -> None:
    lab.slower["a2"] = 0.8
    lab.frontiers = {"old": explored(lab, "a1 worse"), "new": explored(lab, "a2")}
    found = judged(artifact("old", lab), artifact("new", lab))
    assert [one.outcome for one in found.successors] == ["dominated by its successor"]
    assert figures(found)["frontier"] == "holds"


@pytest.mark.parametrize("versions", [("a1", "b1"), None])
def test_one_frontier_is_held_against_nothing(lab: Lab, versions: tuple[str, ...] | None) -> None:
    lab.frontiers = {"old": explored(lab, "a1", "b1")} | ({"new": explored(lab, *versions)} if versions else {})
    assert "frontier" not in figures(judged(artifact("old", lab), artifact("new", lab)))
    assert len(lab.timed) == 1


def test_frontiers_of_other_data_are_not_compared(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.frontiers = {"old": explored(lab, "a1", revision="elsewhere"), "new": explored(lab, "a2")}
    assert "frontier" not in figures(judged(artifact("old", lab), artifact("new", lab)))
    assert "explore again" in capsys.readouterr().err


def test_the_same_model_for_another_target_is_measured_once_unless_its_frontier_is_another(lab: Lab) -> None:
    first = check.check_package.fn(BASE, "m--x86_avx2", "old", "new")
    assert check.check_package.fn(BASE, "m--x86_avx512", "old", "new", (first,)).figures == first.figures
    assert len(lab.timed) == 1
    lab.frontiers = {"old": explored(lab, "a1"), "new": explored(lab, "a2 slower")}
    lab.slower["a2 slower"] = 1.2
    explored_too = check.check_package.fn(BASE, "m--x86_avx512", "old", "new", (first,))
    assert (first.verdict, explored_too.verdict) == ("holds", "regressed")


def test_a_fault_while_a_package_is_judged_is_no_verdict(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(registry: object, version: Version) -> None:
        raise KeyError("a mistake")

    monkeypatch.setattr(frontiers, "frontier_of", fail)
    found = check.check_package.fn(BASE, "m--x86", "old", "new")
    assert found.verdict == "could not measure"
    assert "a mistake" in found.reason


@pytest.mark.parametrize(
    ("aliases", "candidate"),
    [
        ({"candidate": "10", "production": "9"}, "10"),
        ({"candidate": "9", "production": "10"}, "10"),
        ({"production": "2"}, "2"),
    ],
)
def test_without_being_told_which_the_later_version_is_the_candidate(
    lab: Lab, aliases: dict[str, str], candidate: str
) -> None:
    class Registry:
        def resolve(self, model: str, alias: str) -> Version:
            if alias not in aliases:
                raise NotFoundError(alias)
            return Version(model, aliases[alias], (), {}, "run", "")

    assert check._candidate(Registry(), "m--x86", None).version.version == candidate  # type: ignore[arg-type]


def test_two_equal_artifacts_hold_at_the_first_look_on_a_machine_that_drifts(lab: Lab) -> None:
    found = judged(artifact("old", lab), artifact("new", lab))
    assert found.verdict == "holds"
    assert set(figures(found).values()) == {"holds"}
    assert lab.timed == [(("old", "new"), 6)]


def test_what_was_published_on_the_same_data_is_not_asked_again(lab: Lab) -> None:
    judged(artifact("old", lab), artifact("new", lab))
    assert lab.asked == [("new", 0, 200)]


def test_a_baseline_of_other_data_is_asked_anew(lab: Lab) -> None:
    found = judged(artifact("old", lab, "elsewhere"), artifact("new", lab))
    assert found.verdict == "holds"
    assert lab.asked == [("old", 0, 200), ("new", 0, 200)]


@pytest.mark.parametrize(
    "published", [{"host": {"processor": "another"}}, {"runtime": {"name": "onnxruntime", "version": "1.0"}}]
)
def test_a_baseline_that_another_machine_or_runtime_read_is_asked_anew(lab: Lab, published: dict[str, Any]) -> None:
    older = artifact("old", lab)
    older.manifest.facts["measurement"].update(published)
    assert judged(older, artifact("new", lab)).verdict == "holds"
    assert lab.asked == [("old", 0, 200), ("new", 0, 200)]


def test_a_tenth_slower_has_regressed(lab: Lab) -> None:
    lab.slower["new"] = 1.1
    found = judged(artifact("old", lab), artifact("new", lab))
    assert found.verdict == "regressed"
    assert figures(found)["tpot_ms"] == figures(found)["ttft_ms"] == "regressed"
    assert figures(found)["accuracy"] == "holds"


def test_lost_answers_have_regressed_and_time_is_left_alone(lab: Lab) -> None:
    lab.lost["new"] = 0.2
    found = judged(artifact("old", lab), artifact("new", lab))
    assert found.verdict == "regressed"
    assert figures(found)["accuracy"] == "regressed"
    assert len(lab.timed) == 1


def test_a_noisy_machine_is_asked_for_more_runs_and_no_more_questions(lab: Lab) -> None:
    lab.noise = 0.08
    judged(artifact("old", lab), artifact("new", lab))
    assert [rounds for _, rounds in lab.timed] == [6, 6]
    assert lab.asked == [("new", 0, 200)]


def test_few_answers_that_changed_are_asked_for_more_questions_and_no_more_runs(lab: Lab) -> None:
    lab.lost["new"] = 0.045
    found = judged(artifact("old", lab), artifact("new", lab))
    assert lab.asked == [("new", 0, 200), ("new", 200, 400)]
    assert len(lab.timed) == 1
    assert found.verdict == "inconclusive"
    (undecided,) = [figure for figure in found.figures if figure.verdict == "inconclusive"]
    assert undecided.name == "accuracy"
    assert undecided.needed is not None
    assert undecided.needed > QUESTIONS


def test_there_are_no_more_questions_than_there_are(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.lost["new"] = 0.045
    effort = {**EFFORT, "questions": [2000, 2000, 2000]}
    monkeypatch.setattr(check, "parameters", lambda: {"gate": effort, "tolerances": MARGINS})
    assert judged(artifact("old", lab), artifact("new", lab)).verdict == "inconclusive"
    assert lab.asked == [("new", 0, 2000)]


def test_a_machine_too_noisy_for_all_the_effort_is_no_proof(lab: Lab) -> None:
    lab.noise = 0.5
    found = judged(artifact("old", lab), artifact("new", lab))
    assert found.verdict == "inconclusive"
    assert sum(rounds for _, rounds in lab.timed) == 24


def test_the_same_version_is_held_against_its_published_figures(lab: Lab) -> None:
    newer, lab.drift = artifact("new", lab), 0.02
    was = as_published(newer)
    assert was.evidence.tpot_ms == (6.5,)  # runs of one process are not so many days
    found = judged(was, newer)
    assert found.verdict == "holds"
    assert {names for names, _ in lab.timed} == {("new",)}
    assert {figure.margin for figure in found.figures if figure.pairs_of == "runs"} == {0.25}
    assert figures(found)["accuracy"] == figures(found)["perplexity"] == "holds"


def test_more_runs_of_one_day_are_not_taken_for_another_day(lab: Lab) -> None:
    newer = artifact("new", lab)
    lab.noise = 0.4
    found = judged(as_published(newer), newer)
    assert found.verdict == "inconclusive"
    assert lab.timed == [(("new",), 6)]


def test_a_kept_verdict_is_a_baseline_for_another_day(lab: Lab, tmp_path: Path) -> None:
    first = judged(artifact("old", lab), artifact("new", lab))
    file = tmp_path / "baseline.json"
    assert first.measured is not None
    packages = [{"registered_model": "m--x86", "measured": asdict(first.measured)}]
    file.write_text(json.dumps({"verdict": first.verdict, "packages": packages}))
    baseline = evidence.recorded(file, "m--x86")
    assert baseline.evidence == first.measured.evidence
    lab.slower["new"] = 3.0
    again = judged(baseline, artifact("new", lab))
    assert again.verdict == "regressed"
    assert figures(again)["accuracy"] == "holds"
    with pytest.raises(BaselineError, match="has figures of m--x86, not m--arm"):
        evidence.recorded(file, "m--arm")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"packages": [{}]}', '{"packages": 7}', "[" * 100_000])
def test_a_file_that_is_no_verdict_is_no_baseline(content: str, tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    file.write_text(content)
    with pytest.raises(BaselineError, match=r"amoeba check --json|has figures of nothing"):
        evidence.recorded(file, "m--x86")


def test_time_of_another_machine_is_not_compared_and_not_taken(lab: Lab) -> None:
    newer = artifact("new", lab)
    elsewhere = as_published(newer)
    elsewhere = Recorded(elsewhere.label, elsewhere.evidence, "here", {"processor": "a phone"})
    found = judged(elsewhere, newer)
    assert found.verdict == "inconclusive"
    assert found.reason == (
        "quality holds; time is not compared, since the baseline's was taken on another machine (a phone)"
    )
    assert set(figures(found)) == {"perplexity", "accuracy"}
    assert lab.timed == []


def test_recorded_figures_of_other_data_are_no_baseline(lab: Lab) -> None:
    newer = artifact("new", lab)
    with pytest.raises(BaselineError, match="other data"):
        judged(as_published(artifact("old", lab, "elsewhere")), newer)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"pairs": [6, 12]}, "as many looks"),
        ({"pairs": [6, 5, 24]}, "at least what the one before"),
        ({"pairs": [6, 13, 24]}, "even"),
        ({"questions": [1, 2, 3]}, "at least"),
    ],
)
def test_an_effort_that_cannot_be_is_refused(change: dict[str, Any], wanted: str) -> None:
    with pytest.raises(SlipError, match=f"params.yaml: gate: .*{wanted}"):
        Effort.of({**EFFORT, **change})


def test_every_look_has_its_share_of_the_false_alarms() -> None:
    levels = Effort.of(EFFORT).levels
    assert (levels.false_alarms, levels.misses) == pytest.approx((0.02 / 3, 0.05 / 3))


def test_the_projects_own_numbers_are_an_effort_and_margins() -> None:
    import yaml

    numbers = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
    assert Effort.of(numbers["gate"]).pairs[0] >= 6
    assert Margins(**numbers["tolerances"]).latency_percent > 0


def test_the_worst_verdict_is_the_gates() -> None:
    ranked = ["holds", "inconclusive", "could not measure", "regressed"]
    for worst in range(4):
        checked = [Checked("m--x86", verdict) for verdict in ranked[: worst + 1]]  # type: ignore[arg-type]
        assert check.overall(checked) == ranked[worst]
    assert check.overall([]) == "could not measure"
    assert check.EXIT_CODES == {"holds": 0, "regressed": 1, "inconclusive": 2, "could not measure": 2}


def test_what_was_built_where_it_cannot_run_is_measured_here_and_is_no_baseline_of_itself(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never_measured(name: str) -> Artifact:
        found = artifact(name, lab)
        found.manifest.facts["measurement"].pop("accuracy")  # type: ignore[attr-defined]
        return found

    assert judged(never_measured("old"), never_measured("new")).verdict == "holds"
    assert {name for name, _, _ in lab.asked} == {"old", "new"}
    monkeypatch.setattr(Artifact, "pulled", lambda registry, model, name: never_measured("new"))
    with pytest.raises(BaselineError, match="built where it cannot run: nothing was measured to hold it against"):
        check._baseline(None, "m--x86", "production", never_measured("new"))  # type: ignore[arg-type]


def test_a_base_that_only_devices_run_is_checked_for_the_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    published = ["m--iphone_coreml", "m--x86_avx2", "another--x86_avx2"]
    monkeypatch.setattr(check.tracking, "store", lambda: SimpleNamespace(models=lambda: published))
    assert check._packages(BASE, ()) == ["m--x86_avx2"]
    assert check._packages(BASE, ("iphone_coreml",)) == ["m--iphone_coreml"]
    published.remove("m--x86_avx2")
    assert check._packages(BASE, ()) == ["m--iphone_coreml"]
    (only,) = (check.check_package.fn(BASE, name, "production", None) for name in check._packages(BASE, ()))
    assert only.verdict == "could not measure"
    assert only.reason.startswith("it runs on its device only: ")


def test_a_verdict_s_files_are_there_also_where_it_cannot_be_printed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def closed(*given: object) -> None:
        raise OSError("the terminal is gone")

    monkeypatch.setattr("flows.asked.check_declared", lambda model: None)
    monkeypatch.setattr("flows.own_server.serve_this_command", lambda: None)
    monkeypatch.setattr(check, "check", lambda *given: (Checked("m--x86", "holds"),))
    monkeypatch.setattr("flows.tables.checked", closed)
    files = [tmp_path / "gate.xml", tmp_path / "gate.md"]
    CliRunner().invoke(app, ["check", "m", "--junit", str(files[0]), "--markdown", str(files[1])])
    assert all(b"m--x86" in file.read_bytes() for file in files)
