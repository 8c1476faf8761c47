"""The bucket driver against a real S3 server: the suite of every driver, and what only a network can get wrong."""

from __future__ import annotations

import random
import subprocess
import sys
import traceback
from collections.abc import Iterator

import pytest

from trunkline.errors import InvalidInputError, NotFoundError, UnavailableError
from trunkline.storage.objects import open_store
from trunkline.storage.objects.base import ObjectStore
from trunkline.storage.objects.remote import PART_BYTES, SINGLE_PUT_BYTES_MAX, RemoteStore
from trunkline.testing.bucket import BucketServer
from trunkline.testing.objects import ObjectStoreSuite
from trunkline.testing.programs import free_ports

pytestmark = pytest.mark.slow


@pytest.fixture
def store(bucket_server: BucketServer) -> ObjectStore:
    return open_store(bucket_server.new_url(), bucket_server.options)


class TestRemoteStore(ObjectStoreSuite):
    """Through the real server; ``store`` is the fixture above."""


def test_two_handles_see_one_store(bucket_server: BucketServer) -> None:
    url = bucket_server.new_url()
    first, second = (open_store(url, bucket_server.options) for _ in range(2))
    first.put("a", [b"1"])
    assert second.get("a") == b"1"
    assert not second.put_if("a", b"2", expected=b"0")
    other = open_store(bucket_server.new_url(), bucket_server.options)
    assert list(other.list()) == []


def test_a_large_object_goes_up_in_parts(store: ObjectStore) -> None:
    generator = random.Random(1)
    parts = [generator.randbytes(3 * 2**20) for _ in range(SINGLE_PUT_BYTES_MAX // (3 * 2**20) + 4)]
    store.put("packs/large", [b"", *parts, b"end"])
    whole = b"".join(parts) + b"end"
    assert len(whole) > SINGLE_PUT_BYTES_MAX + PART_BYTES
    assert store.head("packs/large").size == len(whole)
    assert store.get("packs/large") == whole
    assert store.get("packs/large", offset=PART_BYTES - 3, length=6) == whole[PART_BYTES - 3 : PART_BYTES + 3]
    store.put("packs/large", [b"small"])
    assert store.get("packs/large") == b"small"


def test_a_large_object_whose_source_breaks_is_absent(store: ObjectStore) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(12):
            yield bytes(4 * 2**20)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        store.put("packs/large", parts())
    with pytest.raises(NotFoundError):
        store.head("packs/large")
    assert list(store.list()) == []


def test_a_listing_of_many_pages(store: ObjectStore) -> None:
    keys = {f"packs/{i % 16:02x}/{i}" for i in range(1100)}
    for key in keys:
        store.put(key, [b"x"])
    assert {info.key for info in store.list("packs/")} == keys


def test_who_may_not_is_told_so_without_the_secret(bucket_server: BucketServer) -> None:
    options = {**bucket_server.options, "secret_access_key": "wrong-and-not-to-be-shown"}
    with pytest.raises(UnavailableError, match="credentials") as caught:
        open_store(bucket_server.new_url(), options)
    assert caught.value.kind == "objects_refused"
    shown = "".join(traceback.format_exception(caught.value))
    assert "wrong-and-not-to-be-shown" not in shown
    assert bucket_server.secret_key not in shown


def test_a_missing_bucket_is_found_at_once(bucket_server: BucketServer) -> None:
    with pytest.raises(UnavailableError, match="does not exist"):
        open_store("s3://no-such-bucket/x", bucket_server.options)


def test_nobody_there_is_one_line_and_soon() -> None:
    (port,) = free_ports(1)
    options = {
        "endpoint": f"http://127.0.0.1:{port}",
        "region": "x",
        "access_key_id": "a",
        "secret_access_key": "b",
    }
    store = RemoteStore("s3://bucket", options, retries=1)
    for work in (lambda: store.get("a"), lambda: store.put("a", [b"1"]), lambda: list(store.list())):
        with pytest.raises(UnavailableError) as caught:
            work()
        assert "\n" not in str(caught.value)
        assert "s3://bucket" in str(caught.value)


def test_bad_places_are_named() -> None:
    for url in ("ftp://x", "s3://", "nonsense://bucket"):
        with pytest.raises(InvalidInputError, match="s3://BUCKET"):
            open_store(url)
    with pytest.raises(InvalidInputError, match="settings"):
        RemoteStore("s3://bucket", {"no_such_option": "x"})


def test_a_missing_driver_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['obstore'] = None\n"
        "from trunkline.storage.objects import open_store\n"
        "open_store('s3://bucket')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'trunkline[s3]'" in done.stderr.splitlines()[-1]
