"""Objects in memory, for tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator

from trunkline.errors import NotFoundError
from trunkline.storage.objects.base import ObjectInfo, ObjectStore
from trunkline.storage.objects.local import check_key


class MemoryStore(ObjectStore):
    """A dictionary. Gone with the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[bytes, float]] = {}

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        data, _ = self._find(key)
        return data[offset : None if length is None else offset + length]

    def put(self, key: str, parts: Iterable[bytes]) -> None:
        check_key(key)
        data = b"".join(parts)
        with self._lock:
            self._objects[key] = (data, time.time())

    def put_if(self, key: str, data: bytes, *, expected: bytes | None) -> bool:
        check_key(key)
        with self._lock:
            present = self._objects.get(key)
            if (None if present is None else present[0]) != expected:
                return False
            self._objects[key] = (data, time.time())
            return True

    def head(self, key: str) -> ObjectInfo:
        data, modified_at = self._find(key)
        return ObjectInfo(key=key, size=len(data), modified_at=modified_at)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        with self._lock:
            found = sorted((key, *value) for key, value in self._objects.items() if key.startswith(prefix))
        for key, data, modified_at in found:
            yield ObjectInfo(key=key, size=len(data), modified_at=modified_at)

    def delete(self, key: str) -> None:
        check_key(key)
        with self._lock:
            self._objects.pop(key, None)

    def _find(self, key: str) -> tuple[bytes, float]:
        check_key(key)
        with self._lock:
            found = self._objects.get(key)
        if found is None:
            raise NotFoundError(f"there is no object {key!r}", kind="no_object", details={"key": key})
        return found
