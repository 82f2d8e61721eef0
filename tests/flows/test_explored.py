"""The published frontier: what is written is what is read, and nothing else is believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from components.frontier import Point
from flows.explored import Considered, Explored, FrontierError, Member, Predicted, Reference, Samples

PREDICTED = Predicted(21.0, 8.2, 150.0, 380.0, "host")
POINT = Point("d4w100", "int8", 20.0, 0.6, (0.5, 0.7), 100.0, 8.0, 300.0, 130.0, "host")
SAMPLES = Samples({128: (100.0, 101.0, 99.0)}, (8.0, 8.1, 7.9), (3.0, 2.9), (True, False, True))
EXPLORED = Explored(
    model="tiny",
    target="x86_avx512",
    data_revision="ab.dir",
    supernet_revision="cd.dir",
    host={"processor": "a processor", "threads": 2},
    reference=Reference(19.0, 0.6, (0.5, 0.7), (2.9, 2.8), (True, True, False)),
    members=(Member("3", POINT, PREDICTED, SAMPLES),),
    considered=(
        Considered("d2w50", "int4", PREDICTED, "predicted to be dominated"),
        Considered("d3w50", "int8", PREDICTED, "measured, and dominated by d4w100 int8", POINT),
    ),
)


def test_a_frontier_is_read_as_it_was_written() -> None:
    assert Explored.from_json(EXPLORED.to_json()) == EXPLORED


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda value: value.update(format_version=7), "of format 7; this version reads 1"),
        (lambda value: value.pop("members"), "KeyError 'members'"),
        (lambda value: value.update(more=1), "unexpected keyword argument 'more'"),
        (lambda value: value["members"][0]["point"].update(tpot_ms=-1), "tpot_ms is a positive number"),
        (lambda value: value["members"][0]["point"].update(measured_on="predicted"), "was measured; d4w100"),
        (lambda value: value["considered"][0]["predicted"].update(perplexity=0), "predicted perplexity is a positive"),
        (lambda value: value["considered"][0]["predicted"].update(machine="phone"), "for the device or for the host"),
    ],
)
def test_a_document_that_is_no_frontier_is_refused_with_the_reason(
    change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    value = json.loads(EXPLORED.to_json())
    change(value)
    with pytest.raises(FrontierError, match=said):
        Explored.from_json(json.dumps(value).encode())


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000])
def test_bytes_that_are_no_document_are_refused(content: bytes) -> None:
    with pytest.raises(FrontierError):
        Explored.from_json(content)
