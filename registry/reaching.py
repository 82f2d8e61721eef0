"""What goes wrong on the way to a registry, in this package's words: without the password in its address."""

from __future__ import annotations

import contextlib
import errno
import re
import sqlite3
from collections.abc import Iterator
from typing import Any

from registry.errors import NoSpaceError, RegistryError, UnreachableError

_UNANSWERED = re.compile(
    "failed with exception|error code 50[234]|Connection (broken|aborted|refused)|[Tt]imed out|Server Error"
)
_FULL = "the disk is full; make room and run the same command again"


@contextlib.contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Turn what MLflow and the disk raise inside into this package's errors."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException

    try:
        yield
    except RegistryError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceError(f"the disk is full ({error}); make room and run the same command again") from error
        if isinstance(error, RequestException):
            raise no_answer(uri, error) from error
        raise RegistryError(f"a file cannot be read or written: {error}; mend that and run it again") from error
    except _of_databases() as error:
        raise NoSpaceError(_FULL) if "disk is full" in str(error) else no_answer(uri, error) from error
    except MlflowException as error:
        if re.search("No space left|disk is full", str(error)):
            raise NoSpaceError(_FULL) from error
        away = error.error_code == "TEMPORARILY_UNAVAILABLE"  # a database that is locked, for one
        if away or isinstance(error.__cause__, RequestException) or _UNANSWERED.search(str(error)):
            raise no_answer(uri, error) from error
        raise RegistryError(
            f"the registry at {shown(uri)} refused: {_first_line(error)}; check AMOEBA_MLFLOW_URI and your rights"
        ) from error


def no_answer(uri: str, why: Any) -> UnreachableError:
    return UnreachableError(
        f"the registry at {shown(uri)} does not answer ({_first_line(why)}); check AMOEBA_MLFLOW_URI and the server"
    )


def _of_databases() -> tuple[type[Exception], ...]:
    """What databases raise; SQLAlchemy is there with the builder's packages, a device has only MLflow's client."""
    try:
        from sqlalchemy.exc import SQLAlchemyError
    except ModuleNotFoundError:
        return (sqlite3.Error,)
    return (sqlite3.Error, SQLAlchemyError)


def shown(uri: str) -> str:
    """Without a user's name and password."""
    return re.sub(r"//[^/\s]*@", "//", uri)


def _first_line(error: Any) -> str:
    """What a person is told of an error: its first line, or the first two where the first only announces the next."""
    lines = [shown(line) for line in str(error).splitlines() if line.strip() and not line.startswith("#####")]
    return " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])[:300] or type(error).__name__
