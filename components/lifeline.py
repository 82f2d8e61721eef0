"""A worker ends with the process it works for, however that ended: nothing goes on writing after a `kill -9`.

Whoever starts a worker says so in its environment, which every process below inherits, through DVC and shells too.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Mapping

VARIABLE = "AMOEBA_WORKS_FOR"
"""The process id that a worker ends with."""
PLACE = "AMOEBA_WORKS_IN"
"""The workspace it works in: what cannot hold on to its master by itself is found by this, and ended by the next run."""
_ENDED_WITH_ITS_MASTER = 143
_LOOK_EVERY_S = 1.0


def reaches(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which a worker of this process knows whom it works for."""
    return {**environment, VARIABLE: str(os.getpid())}


def work_for_me(place: str) -> None:
    """Whatever this process starts from now on works for it."""
    os.environ.update({VARIABLE: str(os.getpid()), PLACE: place})


def hold() -> None:
    """End this process when the one it works for ends; of a process that works for nobody this changes nothing."""
    master = int(os.environ.get(VARIABLE, "0"))
    if master and master != os.getpid():
        threading.Thread(target=_end_with, args=(master,), name="lifeline", daemon=True).start()


def _end_with(master: int) -> None:
    _wait_for_end_of(master)
    os._exit(_ENDED_WITH_ITS_MASTER)


def _wait_for_end_of(process: int) -> None:
    try:
        handle = os.pidfd_open(process)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):  # not on this system
        while _is_there(process):
            time.sleep(_LOOK_EVERY_S)
        return
    ended = select.poll()
    ended.register(handle, select.POLLIN)
    ended.poll()


def _is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
