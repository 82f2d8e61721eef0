"""One onboarding of a base at a time on this machine; of different bases as many as are started."""

from __future__ import annotations

from contextlib import AbstractContextManager

from components.waiting import alone
from flows.settings import settings


def one_at_a_time(base: str, key: str = "") -> AbstractContextManager[None]:
    """Held while the base of that name is onboarded in this workspace, or with `key` whatever that names, such as its bytes.

    Whoever comes second says so, waits, and finds it done. A thread that holds it may take it again.
    """
    return alone(
        settings().home / "onboarding" / f"{key or base}.lock",
        f"{base} is being onboarded or built from by another process",
    )
