"""MLflow's check of a password, and a veto on whatever `device` would write; deploy/mlflow/auth.ini names it.

MLflow 3.17 lets every user make registered models and experiments, which are then theirs: who makes a trail of promotions
first owns it. A permission that denies making them denies reading them as well.
"""

from __future__ import annotations

from flask import Response, request
from werkzeug.datastructures import Authorization

READERS = frozenset({"device"})
READS = frozenset({"GET", "HEAD", "OPTIONS"})
SEARCHES = frozenset(f"/api/2.0/mlflow/{kind}/search" for kind in ("experiments", "runs"))
"""What MLflow's client asks for in a body."""


def authenticate() -> Authorization | Response:
    """Who asks, as MLflow's own check has it; 403 for a reader who asks for more than to read."""
    from mlflow.server.auth import authenticate_request_basic_auth, make_forbidden_response

    who = authenticate_request_basic_auth()
    if isinstance(who, Response) or who.username not in READERS:
        return who
    return who if request.method in READS or request.path in SEARCHES else make_forbidden_response()
