"""An object store that fails on purpose: the wrapper that tests put around a real one."""

from __future__ import annotations

import builtins
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from trunkline.errors import LimitError, UnavailableError
from trunkline.storage.objects.base import ObjectInfo, ObjectStore
from trunkline.testing.points import FaultPoints

Operation = Literal["get", "put", "put_if", "head", "list", "delete"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong, and when: at the ``nth`` call of an operation, counted from 1, and at every later one if ``sticky``."""

    operation: Operation
    nth: int
    how: Literal["error", "lost_response", "disk_full", "latency"] = "error"
    """``error``: nothing is done. ``lost_response``: it is done, but the caller hears of a failure."""
    sticky: bool = False
    seconds: float = 0.0
    """Of ``latency``."""


class FaultyStore(ObjectStore):
    """Passes everything on to another store, except where a fault, or one of ``points``, says otherwise."""

    def __init__(self, store: ObjectStore, *faults: Fault, points: FaultPoints | None = None) -> None:
        self._store = store
        self._faults = faults
        self._points = points
        self._lock = threading.Lock()
        self.calls: dict[str, int] = {}

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        fault = self._before("get")
        data = self._store.get(key, offset=offset, length=length)
        self._after("get", fault)
        return data

    def put(self, key: str, parts: Iterable[bytes]) -> None:
        fault = self._before("put")
        self._store.put(key, parts)
        self._after("put", fault)

    def put_if(self, key: str, data: bytes, *, expected: bytes | None) -> bool:
        fault = self._before("put_if")
        done = self._store.put_if(key, data, expected=expected)
        self._after("put_if", fault)
        return done

    def head(self, key: str) -> ObjectInfo:
        fault = self._before("head")
        info = self._store.head(key)
        self._after("head", fault)
        return info

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        fault = self._before("list")
        found = builtins.list(self._store.list(prefix))
        self._after("list", fault)
        return iter(found)

    def delete(self, key: str) -> None:
        fault = self._before("delete")
        self._store.delete(key)
        self._after("delete", fault)

    def _before(self, operation: Operation) -> Fault | None:
        if self._points is not None and self._points.at_operation(operation):
            return Fault(operation=operation, nth=0, how="lost_response")
        with self._lock:
            count = self.calls[operation] = self.calls.get(operation, 0) + 1
        for fault in self._faults:
            if fault.operation == operation and (count == fault.nth or (fault.sticky and count > fault.nth)):
                if fault.how == "disk_full":
                    raise LimitError("the disk is full (on purpose)", kind="disk_full")
                if fault.how == "error":
                    raise UnavailableError(f"{operation} number {count} fails on purpose", kind="fault")
                return fault
        return None

    def _after(self, operation: Operation, fault: Fault | None) -> None:
        if fault is not None and fault.how == "latency":
            time.sleep(fault.seconds)
        elif fault is not None:
            raise UnavailableError(f"the answer of {operation} is lost on purpose", kind="fault")
