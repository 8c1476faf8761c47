"""The real clients against a real server: boto3, the AWS CLI, s3fs with pandas, pyarrow, DuckDB."""

from __future__ import annotations

import hashlib
import io
import json
import random
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.doors.s3.clients import aws_cli
from trunkline.testing.server import ServerHarness
from trunkline.wire.status import S3Credentials

pytestmark = [
    pytest.mark.slow,
    # Of the clients, not of ours: botocore's datetime, aiobotocore's sockets at exit.
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHarness]:
    harness = ServerHarness(tmp_path_factory.mktemp("s3") / "home")
    try:
        harness.start("--door", "s3", "--s3-port", "0")
        yield harness
    finally:
        harness.stop()


@pytest.fixture(scope="module")
def keys(server: ServerHarness) -> S3Credentials:
    return server.client().s3_credentials()


def client_of(keys: S3Credentials, **config: Any) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3", aws_access_key_id=keys.access_key_id, aws_secret_access_key=keys.secret_access_key,
        endpoint_url=keys.endpoint_url, region_name="local", config=Config(retries={"max_attempts": 1}, **config),
    )  # fmt: skip


@pytest.fixture
def bucket(server: ServerHarness, keys: S3Credentials, request: pytest.FixtureRequest) -> str:
    name = "r" + hashlib.sha256(request.node.name.encode()).hexdigest()[:8]
    server.client().create_repo(name)
    return f"master.{name}"


def test_boto3(server: ServerHarness, keys: S3Credentials, bucket: str) -> None:
    s3 = client_of(keys)
    s3.put_object(Bucket=bucket, Key="dir/a ü+.txt", Body=b"0123456789", Metadata={"mtime": "1700000000"})
    got = s3.get_object(Bucket=bucket, Key="dir/a ü+.txt", Range="bytes=2-4")
    assert (got["Body"].read(), got["ContentRange"], got["ContentType"]) == (
        b"234",
        "bytes 2-4/10",
        "text/plain",
    )
    assert s3.head_object(Bucket=bucket, Key="dir/a ü+.txt")["Metadata"] == {"mtime": "1700000000"}
    for number in range(25):
        s3.put_object(Bucket=bucket, Key=f"many/{number:02}", Body=b"x")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": 7})
    assert [one["Key"] for page in pages for one in page["Contents"]] == ["dir/a ü+.txt"] + [
        f"many/{n:02}" for n in range(25)
    ]
    pages = s3.get_paginator("list_objects").paginate(
        Bucket=bucket, Delimiter="/", PaginationConfig={"PageSize": 1}
    )
    assert [one["Prefix"] for page in pages for one in page["CommonPrefixes"]] == ["dir/", "many/"]
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "dir/a ü+.txt"})
    s3.delete_object(Bucket=bucket, Key="dir/a ü+.txt")
    done = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": f"many/{n:02}"} for n in range(25)]})
    assert len(done["Deleted"]) == 25
    assert [one["Key"] for one in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["copy"]
    assert bucket in [one["Name"] for one in s3.list_buckets()["Buckets"]]
    with pytest.raises(s3.exceptions.NoSuchKey):
        s3.get_object(Bucket=bucket, Key="none")
    with pytest.raises(s3.exceptions.BucketAlreadyOwnedByYou):
        s3.create_bucket(Bucket=bucket)
    for method in ("GET", "PUT"):
        url = s3.generate_presigned_url(
            f"{method.lower()}_object", Params={"Bucket": bucket, "Key": "copy"}, ExpiresIn=60
        )
        ask = urllib.request.Request(url, method=method, data=b"new" if method == "PUT" else None)
        with urllib.request.urlopen(ask) as answer:
            assert answer.status == 200 and (method == "PUT" or answer.read() == b"0123456789")
    assert s3.get_object(Bucket=bucket, Key="copy")["Body"].read() == b"new"
    repo = bucket.partition(".")[2]
    assert len(server.client().list_commits(f"{repo}@master")) == 30, "each put is a commit"


@pytest.mark.parametrize("signed", [True, False])
def test_boto3_sends_64_megabytes_in_parts(keys: S3Credentials, bucket: str, signed: bool) -> None:
    s3 = client_of(keys, s3={"payload_signing_enabled": signed})
    data = random.Random(5).randbytes(64 * 2**20)
    s3.upload_fileobj(io.BytesIO(data), bucket, "big.bin")
    out = io.BytesIO()
    s3.download_fileobj(bucket, "big.bin", out)
    assert out.getvalue() == data
    assert s3.head_object(Bucket=bucket, Key="big.bin")["ContentLength"] == len(data)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)
    s3.copy({"Bucket": bucket, "Key": "big.bin"}, bucket, "copy.bin")
    assert s3.get_object(Bucket=bucket, Key="copy.bin", Range="bytes=-5")["Body"].read() == data[-5:]


def test_an_upload_goes_on_after_a_crash(server: ServerHarness, keys: S3Credentials, bucket: str) -> None:
    s3 = client_of(keys)
    data = random.Random(6).randbytes(12_000_000)
    upload = s3.create_multipart_upload(Bucket=bucket, Key="x")["UploadId"]
    first = s3.upload_part(Bucket=bucket, Key="x", UploadId=upload, PartNumber=1, Body=data[:6_000_000])
    server.kill()
    server.start("--door", "s3", "--s3-port", "0")
    assert server.client().s3_credentials() == keys, "the same keys, at the same port"
    second = s3.upload_part(Bucket=bucket, Key="x", UploadId=upload, PartNumber=2, Body=data[6_000_000:])
    parts = [{"PartNumber": 1, "ETag": first["ETag"]}, {"PartNumber": 2, "ETag": second["ETag"]}]
    s3.complete_multipart_upload(Bucket=bucket, Key="x", UploadId=upload, MultipartUpload={"Parts": parts})
    assert s3.get_object(Bucket=bucket, Key="x")["Body"].read() == data


def test_the_aws_cli(server: ServerHarness, bucket: str, tmp_path: Path) -> None:
    program = aws_cli()
    exported = server.cli("get", "s3credentials").stdout.decode()
    env = dict(line.removeprefix("export ").split("=", 1) for line in exported.splitlines())
    env |= {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}

    def aws(*words: str, stdin: bytes = b"") -> bytes:
        done = subprocess.run(
            [program, *words], env=env, input=stdin, capture_output=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()
        return done.stdout

    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "ä b.txt").write_text("hello")
    (source / "big.bin").write_bytes(random.Random(8).randbytes(20_000_000))
    for number in range(10):
        (source / f"{number}.txt").write_text(str(number))
    repo = bucket.partition(".")[2]
    server.client().start_commit(f"{repo}@master")
    aws("s3", "cp", "--recursive", "source", f"s3://{bucket}/up/", "--only-show-errors")
    server.client().finish_commit(f"{repo}@master")
    assert len(server.client().list_commits(f"{repo}@master")) == 1, "many puts, one commit"
    assert aws("s3", "sync", "source", f"s3://{bucket}/up/") == b"", "nothing has changed"
    assert b"PRE sub/" in aws("s3", "ls", f"s3://{bucket}/up/")
    aws("s3", "sync", f"s3://{bucket}/up/", "back", "--only-show-errors")
    for path in source.rglob("*.*"):
        assert (tmp_path / "back" / path.relative_to(source)).read_bytes() == path.read_bytes()
    aws("s3", "cp", "-", f"s3://{bucket}/stdin.txt", stdin=b"piped")
    aws("s3", "mv", f"s3://{bucket}/stdin.txt", f"s3://{bucket}/moved.txt")
    assert aws("s3", "cp", f"s3://{bucket}/moved.txt", "-") == b"piped"
    with urllib.request.urlopen(aws("s3", "presign", f"s3://{bucket}/moved.txt").decode().strip()) as answer:
        assert answer.read() == b"piped"
    listed = json.loads(
        aws("s3api", "list-objects-v2", "--bucket", bucket, "--prefix", "up/", "--page-size", "5")
    )
    assert len(listed["Contents"]) == 12
    aws("s3", "rm", "--recursive", f"s3://{bucket}/", "--only-show-errors")
    aws("s3", "rb", f"s3://{bucket}")
    assert bucket not in aws("s3", "ls").decode()


def _s3fs(keys: S3Credentials) -> Any:
    import s3fs

    return s3fs.S3FileSystem(
        key=keys.access_key_id,
        secret=keys.secret_access_key,
        endpoint_url=keys.endpoint_url,
        skip_instance_cache=True,
    )


def test_s3fs_pandas_and_duckdb(keys: S3Credentials, bucket: str) -> None:
    import duckdb
    import pandas

    files = _s3fs(keys)
    with files.open(f"{bucket}/csv/a.csv", "w") as file:
        file.write("x,y\n1,2\n3,4\n")
    options = {"key": keys.access_key_id, "secret": keys.secret_access_key, "endpoint_url": keys.endpoint_url}
    assert list(pandas.read_csv(f"s3://{bucket}/csv/a.csv", storage_options=options)["y"]) == [2, 4]
    with files.open(f"{bucket}/big.bin", "wb") as file:
        for _ in range(12):
            file.write(bytes(2**20))
    assert files.du(bucket) == 12 * 2**20 + 12
    files.mv(f"{bucket}/csv/a.csv", f"{bucket}/csv/b.csv")
    assert files.glob(f"{bucket}/csv/*") == [f"{bucket}/csv/b.csv"]
    connection = duckdb.connect()
    connection.register_filesystem(files)
    assert connection.sql(f"select sum(y) from read_csv('s3://{bucket}/csv/b.csv')").fetchall() == [(6,)]
    connection.close()
    files.rm(f"{bucket}/csv", recursive=True)
    files.invalidate_cache()
    assert files.find(bucket) == [f"{bucket}/big.bin"]


def test_pyarrow(keys: S3Credentials, bucket: str) -> None:
    import pyarrow
    from pyarrow import dataset, fs

    files = fs.S3FileSystem(
        access_key=keys.access_key_id, secret_key=keys.secret_access_key, scheme="http", region="local",
        endpoint_override=keys.endpoint_url.removeprefix("http://"),
    )  # fmt: skip
    table = pyarrow.table({"a": list(range(10_000)), "k": [n % 4 for n in range(10_000)]})
    dataset.write_dataset(table, f"{bucket}/data", filesystem=files, format="parquet", partitioning=["k"])
    read = dataset.dataset(f"{bucket}/data", filesystem=files, format="parquet", partitioning=["k"])
    assert read.count_rows() == 10_000
    assert sorted(read.to_table(filter=dataset.field("a") < 5)["a"].to_pylist()) == [0, 1, 2, 3, 4]
    with files.open_output_stream(f"{bucket}/big") as out:
        for _ in range(25):
            out.write(bytes(2**20))
    files.move(f"{bucket}/big", f"{bucket}/moved")
    infos = files.get_file_info([f"{bucket}/moved", f"{bucket}/big", f"{bucket}/data"])
    assert [info.type for info in infos] == [fs.FileType.File, fs.FileType.NotFound, fs.FileType.Directory]
    assert infos[0].size == 25 * 2**20
    files.delete_dir(f"{bucket}/data")
    left = files.get_file_info(fs.FileSelector(bucket, recursive=True))
    assert [info.path for info in left] == [f"{bucket}/moved"]


def test_memory_stays_bounded_and_logs_stay_clean(
    server: ServerHarness, keys: S3Credentials, bucket: str
) -> None:
    s3 = client_of(keys)
    with pytest.raises(s3.exceptions.ClientError):
        client_of(keys.model_copy(update={"secret_access_key": "x" * 40})).list_buckets()
    assert server.process is not None
    peak = next(
        int(line.split()[1])
        for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
        if "VmHWM" in line
    )
    assert peak < 300 * 1024, f"{peak} kB"
    written = "".join(path.read_text() for path in (server.home / "logs").glob("*.log"))
    assert keys.secret_access_key not in written and "Signature" not in written
