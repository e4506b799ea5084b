"""A real S3 server for the tests, moto's, and what another client sees in it."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import boto3
import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

BUCKET = "raydd-test"


@contextmanager
def served() -> Iterator[str]:
    """HOST:PORT of the server, which the environment names too."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    address = "{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{address}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        client().create_bucket(Bucket=BUCKET)
        yield address
    server.stop()


def client() -> Any:
    return boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1")


def keys(prefix: str) -> list[str]:
    """The objects below a prefix, as another client sees them, without the markers that pyarrow leaves for folders."""
    found = client().list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return [item["Key"].removeprefix(prefix) for item in found if not item["Key"].endswith("/")]


def backdate(prefix: str, seconds: float) -> None:
    """Have the server believe that the objects below a prefix were written earlier."""
    for key, item in _bucket().items():
        if key.startswith(prefix):
            item.last_modified -= timedelta(seconds=seconds)


def written(prefix: str) -> dict[str, datetime]:
    """When the server last wrote each object below a prefix; without the markers of folders."""
    found = ((key.removeprefix(prefix), item) for key, item in _bucket().items() if key.startswith(prefix))
    return {key: item.last_modified for key, item in found if not key.endswith("/")}


def _bucket() -> dict[str, Any]:
    found: dict[str, Any] = s3_backends[DEFAULT_ACCOUNT_ID]["global"].buckets[BUCKET].keys
    return found
