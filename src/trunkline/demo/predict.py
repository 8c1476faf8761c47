"""A plain HTTP client of the gateway, as any user of the model would write it: no trunkline in it."""

from __future__ import annotations

import base64
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import urllib3

REQUEST_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back for one picture."""

    digit: int | None
    """None: the request failed."""
    version: str
    """``x-trunkline-id``: which commit's model answered."""


class Predictor:
    """Posts pictures to ``/v1/models/NAME:predict`` of one service."""

    def __init__(self, gateway_url: str, host: str, model: str) -> None:
        self._pool = urllib3.PoolManager(maxsize=4, retries=False, timeout=REQUEST_SECONDS)
        self._url = f"{gateway_url}/v1/models/{model}:predict"
        self._headers = {"host": host, "content-type": "application/json"}

    def predict(self, picture: Path) -> Answer:
        body = json.dumps({"instances": [{"data": base64.b64encode(picture.read_bytes()).decode()}]})
        try:
            response = self._pool.request("POST", self._url, body=body, headers=self._headers)
            version = response.headers.get("x-trunkline-id", "")
            if response.status != 200:
                return Answer(digit=None, version=version)
            return Answer(digit=int(response.json()["predictions"][0]), version=version)
        except (urllib3.exceptions.HTTPError, ValueError, KeyError):
            return Answer(digit=None, version="")

    def accuracy(self, pictures: Sequence[Path], on_each: Callable[[], None] = lambda: None) -> float:
        """The share of pictures (named ``<label>.….png``) that are answered rightly."""
        right = 0
        for picture in pictures:
            right += self.predict(picture).digit == int(picture.name.split(".")[0])
            on_each()
        return right / len(pictures)


@dataclass
class Traffic:
    """What a client that never stops has seen so far."""

    failed: int = 0
    answered_by: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.failed + self.answered_by.total()


@contextmanager
def steady_traffic(predictor: Predictor, pictures: Sequence[Path]) -> Iterator[Traffic]:
    """Predict without pause, in a thread of its own, for as long as the block lasts."""
    traffic = Traffic()
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            for picture in pictures:
                answer = predictor.predict(picture)
                if answer.digit is None:
                    traffic.failed += 1
                else:
                    traffic.answered_by[answer.version] += 1
                if stop.wait(0.005):
                    return

    thread = threading.Thread(target=work, name="traffic")
    thread.start()
    try:
        yield traffic
    finally:
        stop.set()
        thread.join()
