"""What people write is read strictly, and a slip is told with the key, what it is and what is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from components.strict import SlipError, checked, part, read


@dataclass(frozen=True)
class Inner:
    rate: float
    kind: Literal["plain", "mixed"] = "plain"

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError(f"a rate is 0 or more, got {self.rate}")


@dataclass(frozen=True)
class Outer:
    inner: Inner
    looks: tuple[int, ...]
    percents: Sequence[int]
    both: bool = False
    questions: dict[str, int] = field(default_factory=dict)


RIGHT: dict[str, Any] = {"inner": {"rate": 1}, "looks": [1, 2], "percents": [3]}


def test_what_is_written_becomes_the_dataclass_a_whole_number_where_any_is_wanted_too() -> None:
    assert checked(Outer, RIGHT, "f: a") == Outer(Inner(1.0), (1, 2), [3])


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ({"inner": {"rate": "2e-4"}}, "inner.rate is '2e-4'; wanted a number, as 0.0002 is; YAML takes this for text"),
        ({"inner": {"rate": "1e-7"}}, "inner.rate is '1e-7'; wanted a number, as 1.0e-07 is; YAML takes this for text"),
        ({"looks": [1, "2"]}, "looks[1] is '2'; wanted a whole number, as 2 is; YAML takes this for text"),
        ({"inner": {"rate": True}}, "inner.rate is True; wanted a number"),
        ({"inner": {"rate": -1}}, "inner: a rate is 0 or more, got -1.0"),
        ({"inner": {"rate": 1, "kind": "odd"}}, "inner.kind is 'odd'; wanted plain or mixed"),
        ({"inner": {"rat": 1}}, "inner.rat is not known; did you mean rate?"),
        ({"inner": {}}, "inner.rate is missing; wanted a number"),
        ({"inner": 3}, "inner is 3; wanted keys and their values"),
        ({"looks": 3}, "looks is 3; wanted a list, each a whole number"),
        ({"percents": "six"}, "percents is 'six'; wanted a list, each a whole number"),
        ({"percents": [1.5]}, "percents[0] is 1.5; wanted a whole number"),
        ({"both": "perhaps"}, "both is 'perhaps'; wanted true or false"),
        ({"questions": {"piqa": None}}, "questions.piqa is None; wanted a whole number"),
        ({"questions": ["piqa"]}, "questions is ['piqa']; wanted keys, each with a whole number"),
    ],
)
def test_a_slip_is_told_with_its_key_what_it_is_and_what_is_wanted(written: dict[str, Any], told: str) -> None:
    with pytest.raises(SlipError) as error:
        checked(Outer, {**RIGHT, **written}, "f: a")
    assert str(error.value) == f"f: a.{told}"


def test_a_key_that_is_not_there_names_the_nearest_or_all() -> None:
    for key, told in {"profile": "the nearest there is profiles", "x": "it has profiles, gate"}.items():
        with pytest.raises(SlipError, match=f"params.yaml has no {key}; {told}"):
            part({"profiles": 1, "gate": 2}, key, "params.yaml")


@pytest.mark.parametrize(
    ("written", "told"),
    [("a: [1\nb: 2\n", "f.yaml: line 2: this is no YAML: expected"), ("- a\n", r"f.yaml is \['a'\]; wanted keys")],
)
def test_a_file_of_no_keys_is_told_with_its_line(tmp_path: Path, written: str, told: str) -> None:
    (tmp_path / "f.yaml").write_text(written)
    with pytest.raises(SlipError, match=told):
        read(tmp_path / "f.yaml")
