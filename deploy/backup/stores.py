"""The S3-compatible stores: the deployment's own, and the one that backups go to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_MOST_FAILED = 20
"""Objects that cannot be copied, after which it is the store that fails and not they."""
BUCKETS = ("artifacts", "dvc")
"""What the deployment keeps: MLflow's artifacts, and DVC's cache."""
DATABASES = {"mlflow": "mlflow", "mlflow_auth": "mlflow", "prefect": "prefect"}
"""And whose each is, as deploy/postgres/databases.sh makes them."""


@dataclass(frozen=True)
class Stored:
    """An object as a listing names it; `changed_s` is seconds since 1970."""

    key: str
    size: int
    changed_s: float


def own() -> Any:
    """A client of the deployment's store, from AWS_*."""
    import boto3

    return boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])


def elsewhere() -> tuple[Any, str]:
    """A client of the store that BACKUP_* name, and the bucket there."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=os.environ["BACKUP_ENDPOINT_URL"],
        aws_access_key_id=os.environ["BACKUP_ACCESS_KEY_ID"],
        aws_secret_access_key=os.environ["BACKUP_SECRET_ACCESS_KEY"],
        region_name=os.environ.get("BACKUP_REGION") or "us-east-1",
    )
    return client, os.environ["BACKUP_BUCKET"]


def listed(client: Any, bucket: str, prefix: str = "") -> Iterator[Stored]:
    """Every object under a prefix, its key without it."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", ()):
            yield Stored(entry["Key"][len(prefix) :], entry["Size"], entry["LastModified"].timestamp())


def copy(source: Any, of: tuple[str, str], target: Any, to: tuple[str, str]) -> None:
    """One object from store to store, in pieces: neither memory nor disk holds it whole."""
    body = source.get_object(Bucket=of[0], Key=of[1])["Body"]
    target.upload_fileobj(body, to[0], to[1])


def synchronise(
    source: Any, of: tuple[str, str], target: Any, to: tuple[str, str], *, changed: bool
) -> tuple[int, list[str]]:
    """Copy what `to` (bucket, prefix) lacks of `of`; returns how many were, and which could not be and why.

    Where `changed`, also what it has in another size or from before a change. Nothing is removed there: what was deleted by
    mistake is what backups are for.
    """
    there = {entry.key: entry for entry in listed(target, *to)}
    copied, failed = 0, []
    for entry in listed(source, *of):
        known = there.get(entry.key)
        if known is None or (changed and (known.size != entry.size or known.changed_s < entry.changed_s)):
            try:
                copy(source, (of[0], of[1] + entry.key), target, (to[0], to[1] + entry.key))
                copied += 1
            except Exception as error:  # botocore's kinds are made as they are needed
                failed.append(f"{of[0]}/{of[1]}{entry.key}: {error}")
                if len(failed) > _MOST_FAILED:
                    raise
    return copied, failed
