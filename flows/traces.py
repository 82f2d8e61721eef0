"""OpenTelemetry's spans of what runs: Prefect makes those of flows and tasks, each worker process has one here.

Nothing is made unless `OTEL_EXPORTER_OTLP_ENDPOINT` says where to: every other setting is OpenTelemetry's own, `OTEL_*`. A worker
finds its span in `TRACEPARENT`, through DVC and shells too, and whoever starts a command can name its parent the same way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache

from opentelemetry import context, propagate, trace
from opentelemetry.trace import Span

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HANDED_ON = ("traceparent", "tracestate", "baggage")


class TracesError(Exception):
    """Traces were asked for and cannot be sent; the message says what is missing."""


def are_wanted() -> bool:
    """Whether there is somewhere to send them, and nobody said not to."""
    switched_off = os.environ.get("OTEL_TRACES_EXPORTER") == "none"
    return not switched_off and any(os.environ.get(name) for name in _ENDPOINTS)


@cache
def begin() -> None:
    """Send this process's spans from now on, the rest of them when it ends; raises TracesError where nothing here can."""
    if not are_wanted():
        return
    os.environ.setdefault(_PROTOCOLS[-1], "http/protobuf")  # MLflow would take another
    protocol = next((os.environ[name] for name in _PROTOCOLS if os.environ.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        raise TracesError(f"traces are sent as http/protobuf, not as {protocol}: unset {' and '.join(_PROTOCOLS)}")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ModuleNotFoundError as error:
        raise TracesError(
            f"{' or '.join(_ENDPOINTS)} is set, and what sends traces there is not installed: "
            "pip install -c constraints.txt -e '.[observe]' brings it; OTEL_TRACES_EXPORTER=none does without"
        ) from error
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    os.environ.setdefault("OTEL_SERVICE_NAME", "amoeba")
    os.environ.setdefault("MLFLOW_ENABLE_OTLP_EXPORTER", "false")  # traces that are MLflow's own stay in MLflow
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    given = {name: os.environ[name.upper()] for name in _HANDED_ON if name.upper() in os.environ}
    context.attach(propagate.extract(given))


@contextmanager
def worker(command: Sequence[str]) -> Iterator[Span]:
    """A span for as long as a worker process is at work; whatever is raised inside is its outcome."""
    module = command.index("-m") + 1 if "-m" in command else 0
    name = " ".join(command[module : module + 2]) if module else "worker"
    with trace.get_tracer("amoeba").start_as_current_span(name) as span:
        span.set_attribute("process.command_args", list(command))
        yield span


def ended(span: Span, status: int) -> None:
    """A worker's exit status is its span's outcome."""
    span.set_attribute("process.exit.code", status)
    if status:
        span.set_status(trace.StatusCode.ERROR, f"exit {status}" if status > 0 else f"killed by signal {-status}")


def reaches(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which a worker's spans are below the one that is open here."""
    carried: dict[str, str] = {}
    propagate.inject(carried)
    return {**environment, **{name.upper(): value for name, value in carried.items()}}
