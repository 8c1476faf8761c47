"""The replica's HTTP side: a small ASGI application, and the one thread in which the model runs.

The model never runs on the event loop, so that a long prediction does not hold up a health check. Payloads are never logged.
"""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from trunkline.errors import InvalidInputError, LimitError, NotFoundError, TrunklineError, UnavailableError
from trunkline.serving.replica import codec, v2
from trunkline.serving.replica.config import ReplicaConfig
from trunkline.serving.replica.runtimes.base import ModelError, Runtime

PENDING_MAX = 1024
"""Requests that may wait for the model; more are told to come back."""
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_STATUS = {InvalidInputError: 400, NotFoundError: 404, LimitError: 413, UnavailableError: 503}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

log = logging.getLogger("trunkline.replica")


class App:
    """An ASGI application for one model."""

    def __init__(self, config: ReplicaConfig) -> None:
        self.runtime: Runtime | None = None
        self.is_ready = False
        self.model_thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._config = config
        self._pending = 0
        commit = config.commit_id.encode("latin-1", "replace")
        self._id_header = [(b"x-trunkline-id", commit)] if commit else []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"this server speaks HTTP only, not {scope['type']}")
        headers = {bytes(k): bytes(v) for k, v in scope["headers"]}
        given = headers.get(b"x-request-id", b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()
        try:
            status, answer = 200, await self._answer(scope, headers, receive)
        except ModelError as error:
            status, answer = error.status, {"error": str(error)}
        except TrunklineError as error:
            status, answer = _STATUS.get(type(error), 500), {"error": str(error)}
        body = answer if isinstance(answer, bytes) else codec.dumps(answer)
        out = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", request_id),
            *self._id_header,
            (b"x-trunkline-revision", self._config.revision.encode()),
        ]
        await send({"type": "http.response.start", "status": status, "headers": out})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Message, headers: dict[bytes, bytes], receive: Receive) -> Any:
        method, path = scope["method"], scope["path"]
        if path.startswith("/v2"):
            return await self._answer_v2(method, path, headers, receive)
        if method in ("GET", "HEAD"):
            return self._describe(path)
        name, colon, verb = path.removeprefix("/v1/models/").partition(":")
        if method != "POST" or not path.startswith("/v1/models/") or not colon:
            raise NotFoundError(f"there is no {method} {path} here; POST /v1/models/NAME:predict is")
        runtime = self._loaded(name)
        if verb != "predict":
            raise NotFoundError(f"model {name!r} has no {verb!r}; it has: predict")
        body = await self._body(headers, receive)
        return await self._run(lambda: predict_v1(runtime, body), receive)

    def _describe(self, path: str) -> Any:
        name = self.runtime.model_name if self.runtime else self._config.model_name
        if path == "/":
            return {"status": "alive"}
        if path == "/v1/models":
            return {"models": [name]}
        asked = path.removeprefix("/v1/models/")
        if asked == path:
            raise NotFoundError(f"there is no GET {path} here; / and /v1/models are")
        if asked != name:
            raise _no_model(asked, name)
        return {"name": name, "ready": self.is_ready}

    def _loaded(self, name: str) -> Runtime:
        if self.runtime is None or not self.is_ready:
            raise UnavailableError("the model is still being loaded")
        if name != self.runtime.model_name:
            raise _no_model(name, self.runtime.model_name)
        return self.runtime

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        limit = self._config.body_bytes_max
        if int(headers.get(b"content-length", b"0") or 0) > limit:
            raise _too_large(limit)
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise UnavailableError("the client went away")
            body += message.get("body", b"")
            if len(body) > limit:
                raise _too_large(limit)
            if not message.get("more_body", False):
                return bytes(body)

    async def _run(self, work: Callable[[], Any], receive: Receive) -> bytes:
        """``work`` in the model's thread; its answer as JSON."""
        if self._pending >= PENDING_MAX:
            raise UnavailableError(f"{PENDING_MAX} requests are waiting for the model: try again later")
        self._pending += 1
        answer = asyncio.get_running_loop().run_in_executor(self.model_thread, _guarded, work)
        try:
            if self._pending > 1:
                await _while_wanted(answer, receive)
            return await answer
        finally:
            self._pending -= 1

    async def _answer_v2(self, method: str, path: str, headers: dict[bytes, bytes], receive: Receive) -> Any:
        if self._config.protocol != "v2":
            raise NotFoundError(
                f"there is no {path} here: this service speaks v1 (protocolVersion: v2 selects the other)"
            )
        asked = v2.route(method, path)
        if asked.verb in ("server", "live"):
            return v2.server(asked.verb)
        if asked.verb == "server-ready":
            if not self.is_ready:
                raise UnavailableError("the model is still being loaded")
            return {"ready": True}
        runtime = self._loaded(asked.model)
        if asked.verb == "ready":
            return {"name": asked.model, "ready": True}
        if asked.verb == "metadata":
            return v2.metadata(runtime)
        body = await self._body(headers, receive)
        return await self._run(lambda: v2.infer(runtime, codec.loads(body)), receive)


async def _while_wanted(answer: asyncio.Future[bytes], receive: Receive) -> None:
    """Wait for an answer that others come before. If its client gives up (the gateway does, when time is up), the model is
    not asked at all: else it would work off what nobody waits for, and whoever comes next would wait for that.

    :raises UnavailableError: if the client went away.
    """

    async def disconnected() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    gone = asyncio.ensure_future(disconnected())
    either: set[asyncio.Future[Any]] = {answer, gone}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
    if not answer.done():
        answer.cancel()
        raise UnavailableError("the client went away")


def predict_v1(runtime: Runtime, body: bytes) -> dict[str, Any]:
    """The V1 protocol: ``{"instances": [...]}`` to ``{"predictions": [...]}``.

    :raises InvalidInputError: naming what is wrong with the body; ``ModelError`` if the model breaks the protocol.
    """
    request = codec.loads(body)
    if not isinstance(request, dict):
        raise InvalidInputError(f"the body must be an object with a field 'instances', not {_kind(request)}")
    field = "instances" if "instances" in request else "inputs"
    if field not in request:
        raise InvalidInputError(
            f"field 'instances' is missing; found: {', '.join(map(repr, request)) or 'nothing'}"
        )
    instances = request[field]
    if not isinstance(instances, list):
        raise InvalidInputError(f"field {field!r} must be a list of rows, not {_kind(instances)}")
    if not instances:
        return {"predictions": []}
    predictions = runtime.predict(instances)
    if not hasattr(predictions, "__len__") or len(predictions) != len(instances):
        found = f"{len(predictions)} predictions" if hasattr(predictions, "__len__") else _kind(predictions)
        raise ModelError(
            f"the model returned {found} for {len(instances)} instances; it must return one for each"
        )
    return {"predictions": predictions}


def _guarded(work: Callable[[], Any]) -> bytes:
    try:
        return codec.dumps(work())
    except (TrunklineError, ModelError):
        raise
    except BaseException as error:  # a handler that calls sys.exit() must not take others' answers with it
        # Where, but not what: the message of a foreign exception may quote the payload. The client, whose payload it is, gets it.
        places = [
            f"{f.filename}:{f.lineno} in {f.name}" for f in traceback.extract_tb(error.__traceback__)[-4:]
        ]
        log.error("the model failed with %s at %s", type(error).__name__, "; ".join(places))
        text = " ".join(str(error).split())[:500]
        raise ModelError(f"the model failed: {type(error).__name__}: {text}") from error


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _no_model(asked: str, name: str) -> NotFoundError:
    return NotFoundError(f"there is no model {asked!r} here; there is {name!r}")


def _too_large(limit: int) -> LimitError:
    return LimitError(f"the body is larger than {limit} bytes (setting request_bytes_max)")
