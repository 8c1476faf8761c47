"""What every driver of ``ObjectStore`` must do.

A driver's tests subclass ``ObjectStoreSuite`` and give it a ``store`` fixture.
"""

from __future__ import annotations

import os
import threading

import pytest

from trunkline.errors import InvalidInputError, NotFoundError
from trunkline.storage.objects.base import GET_SLACK_BYTES, ObjectStore


class ObjectStoreSuite:
    """Run by pytest for each driver; ``store`` is empty at the start of each test."""

    def test_what_was_put_is_got(self, store: ObjectStore) -> None:
        store.put("packs/ab/abcd", [b"hello ", b"", b"world"])
        assert store.get("packs/ab/abcd") == b"hello world"
        assert store.head("packs/ab/abcd").size == 11
        assert store.head("packs/ab/abcd").key == "packs/ab/abcd"
        assert store.head("packs/ab/abcd").modified_at > 1.6e9

    def test_an_empty_object_exists(self, store: ObjectStore) -> None:
        store.put("empty", [])
        assert store.get("empty") == b""

    def test_ranges(self, store: ObjectStore) -> None:
        store.put("k", [b"0123456789"])
        assert store.get("k", offset=3, length=4) == b"3456"
        assert store.get("k", offset=7) == b"789"
        assert store.get("k", offset=8, length=100) == b"89"
        assert store.get("k", offset=20, length=5) == b""
        assert store.get("k", offset=2, length=0) == b""
        buffer = memoryview(bytearray(8))
        assert bytes(store.get_into("k", buffer, offset=3, length=4)) == b"3456"
        assert bytes(store.get_into("k", buffer, offset=9, length=4)) == b"9"
        with pytest.raises(NotFoundError):
            store.get_into("absent", buffer, offset=0, length=4)

    def test_long_ranges_into_a_buffer(self, store: ObjectStore) -> None:
        data = os.urandom(1_000_003)
        store.put("k", [data])
        for skew in (0, 1):
            buffer = memoryview(bytearray(len(data) + GET_SLACK_BYTES + skew))[skew:]
            for offset, length in (
                (0, len(data)),
                (1, 900_000),
                (4096, 2**19),
                (300_001, len(data)),
                (10, 10),
                (2**20, 5),
            ):
                for _ in range(3):  # the first time may take another way than the next
                    got = store.get_into("k", buffer, offset=offset, length=min(length, len(data)))
                    assert got == data[offset : offset + length]

    def test_putting_again_is_harmless(self, store: ObjectStore) -> None:
        store.put("k", [b"same"])
        store.put("k", [b"same"])
        assert store.get("k") == b"same"
        assert [info.key for info in store.list()] == ["k"]

    def test_what_is_absent_is_not_found(self, store: ObjectStore) -> None:
        store.put("a/b", [b""])
        for key in ("nothing", "a/c", "a/b/c"):
            with pytest.raises(NotFoundError, match=key):
                store.get(key)
            with pytest.raises(NotFoundError):
                store.head(key)
            store.delete(key)

    def test_delete(self, store: ObjectStore) -> None:
        store.put("a/b", [b"1"])
        store.delete("a/b")
        with pytest.raises(NotFoundError):
            store.get("a/b")

    def test_list_below_a_prefix(self, store: ObjectStore) -> None:
        for key in ("packs/aa/1", "packs/ab/2", "packsy", "other/3"):
            store.put(key, [key.encode()])
        assert sorted(info.key for info in store.list()) == ["other/3", "packs/aa/1", "packs/ab/2", "packsy"]
        assert sorted(info.key for info in store.list("packs/")) == ["packs/aa/1", "packs/ab/2"]
        assert sorted(info.key for info in store.list("packs/a")) == ["packs/aa/1", "packs/ab/2"]
        assert [(info.key, info.size) for info in store.list("other/")] == [("other/3", 7)]
        assert list(store.list("none/")) == []

    def test_a_failing_source_leaves_nothing(self, store: ObjectStore) -> None:
        def parts() -> list[bytes]:
            raise RuntimeError("the source broke")

        with pytest.raises(RuntimeError):
            store.put("k", (part for _ in range(2) for part in parts()))
        with pytest.raises(NotFoundError):
            store.get("k")
        assert list(store.list()) == []

    def test_keys_cannot_leave_the_store(self, store: ObjectStore) -> None:
        for key in ("", "/etc/passwd", "../x", "a/../b", "a//b", "a/", ".hidden", "A", "a b", "a\n"):
            with pytest.raises(InvalidInputError):
                store.put(key, [b"x"])
            with pytest.raises(InvalidInputError):
                store.get(key)

    def test_compare_and_swap(self, store: ObjectStore) -> None:
        assert not store.put_if("ref", b"1", expected=b"0")
        assert store.put_if("ref", b"1", expected=None)
        assert not store.put_if("ref", b"2", expected=None)
        assert not store.put_if("ref", b"2", expected=b"0")
        assert store.put_if("ref", b"2", expected=b"1")
        assert store.get("ref") == b"2"

    def test_compare_and_swap_loses_no_update(self, store: ObjectStore) -> None:
        store.put("count", [b"0"])

        def add() -> None:
            for _ in range(25):
                while True:
                    old = store.get("count")
                    if store.put_if("count", str(int(old) + 1).encode(), expected=old):
                        break

        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.get("count") == b"100"
