"""Buckets of a real S3 server: put from, linked to, and keys that mean harm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Shell
from trunkline.errors import InvalidInputError, NotFoundError, UnavailableError
from trunkline.storage.buckets import Buckets, Place, parse_place
from trunkline.testing.bucket import BucketServer, is_installed, running_bucket_server
from trunkline.testing.server import running_server

real = [pytest.mark.slow, pytest.mark.skipif(not is_installed(), reason="no program 'weed' here")]
pytestmark = real
LARGE = bytes(range(256)) * 12_000
OTHER = LARGE[::-1]
FILES = {
    "data/a.txt": b"alpha",
    "data/deep/ü b.txt": b"umlaut",
    "data/large": LARGE,
    "data2/x": b"x",
    "top": b"t",
}


@pytest.fixture(scope="module")
def bucket() -> Iterator[BucketServer]:
    with running_bucket_server() as server:
        client = s3(server)
        for key, data in FILES.items():
            client.put_object(Bucket=server.bucket, Key=key, Body=data)
        client.put_object(Bucket=server.bucket, Key="data/folder/", Body=b"")
        yield server


@pytest.fixture(scope="module")
def shell(bucket: BucketServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    settings = {
        "TRUNKLINE_FETCH_S3_ENDPOINT": bucket.endpoint,
        **bucket.environment,
        "AWS_REGION": "us-east-1",
    }
    with running_server(tmp_path_factory.mktemp("home") / "t", settings=settings) as server:
        yield Shell(server)


def s3(server: BucketServer):  # type: ignore[no-untyped-def]
    import boto3

    return boto3.client(
        "s3", endpoint_url=server.endpoint, aws_access_key_id=server.access_key, aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
    )  # fmt: skip


def paths(shell: Shell, repo: str) -> list[str]:
    return [
        f["path"] for f in json.loads(shell(f"list file {repo}@master -r -o json").out) if not f["is_dir"]
    ]


def test_a_prefix_becomes_a_folder_and_an_object_a_file(
    shell: Shell, bucket: BucketServer, tmp_path: Path
) -> None:
    shell("create repo r")
    url = f"s3://{bucket.bucket}"
    shell(f"put file r@master:/in -r -f {url}/data")
    assert paths(shell, "r") == ["/in/a.txt", "/in/deep/ü b.txt", "/in/large"], "data2 is another prefix"
    shell(f"get file r@master:/in/large -o {tmp_path / 'large'}")
    assert (tmp_path / "large").read_bytes() == LARGE
    assert shell("get file r@master:'/in/deep/ü b.txt'").out == "umlaut"
    shell(f"put file r@master -f {url}/data/a.txt -f {url}/top")
    shell(f"put file r@all:/ -r -f {url}")
    everything = {f["path"] for f in json.loads(shell("list file r@all -r -o json").out)}
    assert {f"/{key}" for key in FILES} <= everything and "/data/folder" not in everything
    for line, words, code in (
        (f"put file r@master -f {url}/data", "put it with -r", 2),
        (f"put file r@master -f {url}/nope", "there is nothing at", 4),
        (f"put file r@master -r -f {url}/nope/", "there is nothing at", 4),
        ("put file r@master -r -f s3://no-such-bucket/x", "no-such-bucket", None),
        ("put file r@master -r -f s3://UPPER/x", "not usable", 2),
        ("put file r@master -r -f s3://169.254.169.254/x", "not usable", 2),
        ("put file r@master -f 's3://bucket@evil/x'", "not usable", 2),
    ):
        done = shell(line, code=code) if code else shell_any(shell, line)
        assert words in done.err and len(done.err.splitlines()) == 1, done
        assert bucket.secret_key not in done.err and bucket.access_key not in done.err


def shell_any(shell: Shell, line: str):  # type: ignore[no-untyped-def]
    from tests.cli.conftest import run_here

    done = run_here(line, shell.server.env)
    assert done.code in (2, 4, 7), done
    return done


def test_archives_in_a_bucket(shell: Shell, bucket: BucketServer) -> None:
    from tests.cli.test_files import tar_bytes

    s3(bucket).put_object(Bucket=bucket.bucket, Key="packed.tar", Body=tar_bytes(one=b"1"))
    shell("create repo packed")
    shell(f"put file packed@master --untar -f s3://{bucket.bucket}/packed.tar")
    assert paths(shell, "packed") == ["/one"]


def test_linked_objects_are_read_where_they_lie(shell: Shell, bucket: BucketServer, tmp_path: Path) -> None:
    client = s3(bucket)
    client.put_object(Bucket=bucket.bucket, Key="linked/l", Body=OTHER)
    shell("create repo linked")
    shell(f"put file linked@master:/in --link -r -f s3://{bucket.bucket}/linked")
    shell(f"get file linked@master:/in/l -o {tmp_path / 'l'}")
    assert (tmp_path / "l").read_bytes() == OTHER
    assert f"-> s3://{bucket.bucket}/linked/l" in shell("list file linked@master:/in").out
    client.put_object(Bucket=bucket.bucket, Key="linked/l", Body=OTHER[:-1] + b"?")
    done = shell("get file linked@master:/in/l --offset 3000000", code=70)
    assert f"s3://{bucket.bucket}/linked/l" in done.err
    client.delete_object(Bucket=bucket.bucket, Key="linked/l")
    assert "there is no" in shell("get file linked@master:/in/l", code=70).err


def test_what_is_no_bucket() -> None:
    for url in (
        "s3://",
        "s3:///x",
        "s3://a",
        "s3://bucket:80/x",
        "s3://b..cket/x",
        "gs://[::1]/x",
        "az://bucket/x",
    ):
        with pytest.raises(InvalidInputError, match="not usable"):
            parse_place(url)
    assert parse_place("s3://bucket") == Place(scheme="s3", bucket="bucket", key="")
    closed = Buckets(s3_endpoint="http://127.0.0.1:1")
    with pytest.raises((UnavailableError, NotFoundError)):
        closed.read_range(parse_place("s3://bucket/key"), 0, 1)
