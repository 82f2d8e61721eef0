"""Ray's start on a busy machine: it is asked again, and says what to do where it never starts."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from flows.own_ray import OwnRay, RayError


class Busy:
    """Ray on a machine where so many of its starts fail."""

    def __init__(self, failures: int, patch: pytest.MonkeyPatch) -> None:
        self.failures, self.cleared, self.started = failures, 0, False
        for name, instead in (("init", self.start), ("shutdown", self.clear), ("is_initialized", lambda: self.started)):
            patch.setattr(ray, name, instead)
        patch.setattr(ray, "nodes", list)

    def start(self, num_cpus: int, **options: Any) -> None:
        assert not self.started
        if self.failures > self.cleared:
            raise RuntimeError("the node timed out during startup")
        self.started = True

    def clear(self) -> None:
        self.cleared += 1


def test_a_start_that_fails_is_cleared_away_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = Busy(2, monkeypatch)
    with OwnRay.of(2).duplicate():
        assert busy.started
    assert busy.cleared == 3


def test_a_worker_of_ray_that_prefect_enters_the_runner_in_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = Busy(0, monkeypatch)
    busy.started = True
    with OwnRay.of(2):
        pass
    assert (busy.started, busy.cleared) == (True, 0)


def test_where_no_start_succeeds_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = Busy(100, monkeypatch)
    with pytest.raises(RayError, match=r"the node timed out during startup.*AMOEBA_CLUSTER names one that runs"):
        OwnRay.of(2).__enter__()
    assert busy.cleared == 3
