"""Who is let into the S3-compatible store, asked of the store itself as deploy/ starts it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import grpc
import pytest
from botocore.exceptions import ClientError
from fixtures import deployment as running
from fixtures.deployment import Deployment

STRANGER = "a-stranger"


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("store")
    made = Deployment(folder / "deployment", database=folder)
    with running.store(made):
        yield made


def test_nobody_without_the_signing_key_makes_himself_an_administrator(deployment: Deployment) -> None:
    credential = _field(1, STRANGER) + _field(2, STRANGER)
    identity = _field(1, STRANGER) + _field(2, credential) + _field(3, "Admin")
    with grpc.insecure_channel(f"127.0.0.1:{deployment.ports['store_keys']}") as channel:
        put = channel.unary_unary("/messaging_pb.SeaweedS3IamCache/PutIdentity")
        with pytest.raises(grpc.RpcError) as refused:
            put(_field(1, identity), timeout=60, wait_for_ready=True)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        _client(deployment, STRANGER, STRANGER).list_buckets()


def test_whoever_has_the_access_key_reads_what_was_written(deployment: Deployment) -> None:
    given = deployment.given
    client = _client(deployment, given["STORE_ACCESS_KEY_ID"], given["STORE_SECRET_ACCESS_KEY"])
    client.put_object(Bucket="dvc", Key="a", Body=b"content")
    assert client.get_object(Bucket="dvc", Key="a")["Body"].read() == b"content"


def _field(number: int, content: str | bytes) -> bytes:
    """One of a protobuf message, as bytes of a length below 128."""
    encoded = content.encode() if isinstance(content, str) else content
    return bytes([number << 3 | 2, len(encoded)]) + encoded


def _client(deployment: Deployment, key: str, secret: str) -> Any:
    keys = {"aws_access_key_id": key, "aws_secret_access_key": secret}
    return boto3.client("s3", endpoint_url=deployment.address("store"), region_name="us-east-1", **keys)
