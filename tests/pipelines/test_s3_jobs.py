"""Jobs that read and write by S3: boto3 in a job's own process, at a door that was never opened by a setting."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.pipelines.conftest import World, only, spec
from tests.pipelines.test_staying import eventually
from trunkline.access.keys import key_id, secret_key
from trunkline.core.status import Status
from trunkline.errors import InvalidInputError
from trunkline.sdk.client import Client
from trunkline.testing.server import ServerHarness, running_server

BEGIN = "import boto3, os, sys\nfrom botocore.exceptions import ClientError\ns3 = boto3.client('s3')\n"


@pytest.fixture
def server(shared_server: ServerHarness) -> Iterator[ServerHarness]:
    client = shared_server.client()
    client.create_repo("images")
    client.create_repo("private")
    client.put_file("private@master:/secret", b"nobody's")
    yield shared_server
    for pipeline in client.list_pipelines()[::-1]:
        client.delete_pipeline(pipeline.name, force=True)
    for repo in ("images", "private"):
        client.delete_repo(repo, force=True)


def by_s3(script: str, *, s3: bool = True, **more: Any) -> dict[str, Any]:
    found = spec(transform={"cmd": ["python3"], "stdin": (BEGIN + script).split("\n")}, glob="/", **more)
    found["input"]["pfs"]["s3"] = s3
    return found


def done(client: Client, status: str = "succeeded") -> Any:
    job = client.wait_job(f"edges@{client.inspect_branch('edges@master').head}")
    log = "\n".join(line["text"] for line in client.pipeline_logs("edges"))
    assert job.status == status, f"{job.reason}\n{log}"
    return log


def files(client: Client, address: str) -> dict[str, bytes]:
    return {
        one.path: client.get_file(f"{address}:{one.path}").read()
        for one in client.list_files(address, walk=True)
        if not one.is_dir
    }


@pytest.mark.slow
def test_an_input_is_read_by_s3_and_not_downloaded(server: ServerHarness) -> None:
    client = server.client()
    client.put_file("images@master:/sub/a", b"content of a")
    script = (
        "print('pfs:', os.listdir('/pfs'))\n"
        "print('keys:', [one['Key'] for one in s3.list_objects_v2(Bucket='images')['Contents']])\n"
        "print('a:', s3.get_object(Bucket='images', Key='sub/a')['Body'].read())\n"
        "print('endpoint:', os.environ['S3_ENDPOINT'].startswith('http://127.0.0.1:'))\n"
        "open('/pfs/out/x', 'w').write('by file')\n"
    )
    client.create_pipeline(by_s3(script))
    log = done(client)
    assert "pfs: ['out']" in log or "pfs: ['.env', 'out']" in log or "images" not in log.split("keys:")[0], (
        log
    )
    assert "keys: ['sub/a']" in log and "a: b'content of a'" in log and "endpoint: True" in log
    assert files(client, "edges@master") == {"/x": b"by file"}


@pytest.mark.slow
def test_a_job_sees_its_own_buckets_and_writes_only_to_out(server: ServerHarness) -> None:
    client = server.client()
    client.put_file("images@master:/a", b"1")
    script = (
        "print('buckets:', [one['Name'] for one in s3.list_buckets()['Buckets']])\n"
        "def refused(what, **given):\n"
        "  try: getattr(s3, what)(**given)\n"
        "  except ClientError as error: print(what, given.get('Bucket'), error.response['Error']['Code'])\n"
        "  else: print(what, given, 'WAS ALLOWED')\n"
        "refused('get_object', Bucket='private', Key='secret')\n"
        "refused('get_object', Bucket='master.private', Key='secret')\n"
        "refused('put_object', Bucket='images', Key='x', Body=b'x')\n"
        "refused('delete_object', Bucket='images', Key='a')\n"
        "refused('delete_objects', Bucket='images', Delete={'Objects': [{'Key': 'a'}]})\n"
        "refused('create_bucket', Bucket='mine')\n"
        "refused('delete_bucket', Bucket='out')\n"
        "refused('create_multipart_upload', Bucket='images', Key='x')\n"
        "refused('copy_object', Bucket='out', Key='x', CopySource={'Bucket': 'private', 'Key': 'secret'})\n"
        "refused('get_object', Bucket='images', Key='a', VersionId='0' * 12 + '4' + '0' * 3 + '8' + '0' * 15)\n"
        "s3.put_object(Bucket='out', Key='kept', Body=b'1')\n"
    )
    client.create_pipeline(by_s3(script, s3_out=True))
    log = done(client)
    assert "buckets: ['images', 'out']" in log
    assert "WAS ALLOWED" not in log and log.count("NoSuchBucket") >= 3 and log.count("AccessDenied") >= 5, log
    assert files(client, "edges@master") == {"/kept": b"1"}


@pytest.mark.slow
def test_what_is_put_into_out_is_the_output(server: ServerHarness) -> None:
    client = server.client()
    client.put_file("images@master:/a", b"1")
    script = (
        "from io import BytesIO\n"
        "from boto3.s3.transfer import TransferConfig\n"
        "for one in s3.list_objects_v2(Bucket='images')['Contents']:\n"
        "  s3.copy_object(Bucket='out', Key='copy/' + one['Key'], CopySource={'Bucket': 'images', 'Key': one['Key']})\n"
        "s3.upload_fileobj(BytesIO(b'x' * (11 << 20)), 'out', 'large', Config=TransferConfig(multipart_threshold=5 << 20))\n"
        "s3.put_object(Bucket='out', Key='gone', Body=b'')\n"
        "s3.delete_object(Bucket='out', Key='gone')\n"
        "assert s3.head_object(Bucket='out', Key='large')['ContentLength'] == 11 << 20\n"
        "open('/pfs/out/not-taken', 'w').write('x')\n"
    )
    client.create_pipeline(by_s3(script, s3_out=True))
    client.create_pipeline(
        spec("after", repo="edges", transform={"stdin": ["ls /pfs/edges > /pfs/out/$(ls /pfs/edges)"]})
    )
    done(client)
    first = files(client, "edges@master")
    assert (set(first), first["/copy/a"], len(first["/large"])) == ({"/copy/a", "/large"}, b"1", 11 << 20)
    client.wait_job(f"after@{client.inspect_branch('after@master').head}")
    assert set(files(client, "after@master")) == {"/copy", "/large"}
    client.put_file("images@master:/b", b"2")
    client.delete_file("images@master:/a")
    done(client)
    assert set(files(client, "edges@master")) == {"/copy/b", "/large"}  # begins empty, every time


@pytest.mark.slow
def test_a_job_that_fails_leaves_no_output(server: ServerHarness) -> None:
    client = server.client()
    client.put_file("images@master:/a", b"1")
    client.create_pipeline(
        by_s3("s3.put_object(Bucket='out', Key='x', Body=b'1')\nsys.exit(3)", s3_out=True, datum_tries=1)
    )
    done(client, "failed")
    assert [commit.error is not None for commit in client.list_commits("edges@master")] == [True]


@pytest.mark.slow
def test_a_key_is_worth_nothing_after_the_job_or_to_others(server: ServerHarness, tmp_path: Path) -> None:
    client = server.client()
    client.put_file("images@master:/a", b"1")
    names = ("S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    keep = tmp_path / "keys"
    keep.touch(0o666)
    script = (
        f"open({str(keep)!r}, 'w').write('\\n'.join(os.environ[name] for name in {names!r}))\n"
        "print('secret', os.environ['AWS_SECRET_ACCESS_KEY'])"
    )
    client.create_pipeline(by_s3(script))
    log = done(client)
    endpoint, key, secret = keep.read_text().split("\n")
    assert secret not in log
    after = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name="us-east-1",
    )
    with pytest.raises(ClientError):
        after.get_object(Bucket="images", Key="a")
    digest = hashlib.sha256(client.token.encode()).hexdigest()
    owner = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id=key_id(digest),
        aws_secret_access_key=secret_key(client.token, digest), region_name="us-east-1",
    )  # fmt: skip
    with pytest.raises(ClientError, match="this endpoint is for jobs"):
        owner.list_buckets()


@pytest.mark.slow
def test_a_job_goes_on_with_its_bucket_after_a_crash_of_the_server(tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = (
        "import time\n"
        "s3.put_object(Bucket='out', Key='before', Body=b'1')\n"
        f"open({str(tmp_path / 'put')!r}, 'w').close()\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.05)\n"
        "s3.put_object(Bucket='out', Key='after', Body=s3.get_object(Bucket='images', Key='a')['Body'].read())\n"
    )
    with running_server(tmp_path / "t") as server:
        client = server.client()
        client.create_repo("images")
        client.put_file("images@master:/a", b"1")
        client.create_pipeline(by_s3(script, s3_out=True))
        eventually((tmp_path / "put").exists, "the first object")
        server.kill()
        server.start()
        go.touch()
        client = server.client(retry_seconds=20)
        done(client)
        assert files(client, "edges@master") == {"/before": b"1", "/after": b"1"}


def test_jobs_by_s3_do_everything_again(world: World) -> None:
    world.pipelines.create("default", by_s3("", s3=False, s3_out=True))
    world.put("images@master", {"/a": "1"})
    for _ in range(2):
        [(task, payload)] = world.claim("edges")
        assert payload["s3_out"]
        world.tell(task, {**world.result(only(payload)["id"], {}), "root": None})
        world.report(task, Status.SUCCEEDED)
        world.pipelines.rerun("default", "edges")
        world.settle()


def test_s3_needs_the_network(world: World) -> None:
    found = by_s3("", s3_out=True)
    found["transform"]["network"] = False
    with pytest.raises(
        InvalidInputError, match=r"transform\.network: what is read or written by S3 needs it"
    ):
        world.pipelines.create("default", found)
