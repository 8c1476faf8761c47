"""The proof that a model answers, before it gets any traffic.

Golden requests that came with the model (``golden.json`` anywhere in its folder or archive: a list of ``{"request": V1 body,
"expected": V1 answer or just its predictions}``, ``expected`` optional), else a request made up from the model's signature, else
that it loaded. What was asked is then asked a few times more: TorchScript compiles at the second call and others fill their
caches, which no client should have to wait for.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from trunkline.errors import InvalidInputError
from trunkline.serving.replica import codec
from trunkline.serving.replica.app import predict_v1
from trunkline.serving.replica.config import ReplicaConfig
from trunkline.serving.replica.runtimes.base import Runtime

GOLDEN = "golden.json"
GOLDEN_REQUESTS_MAX = 1000
TOLERANCE = 1e-3
WARM_REQUESTS = 4
WARM_SECONDS = 1.0


def probe(config: ReplicaConfig, runtime: Runtime) -> str:
    """Ask the model something; returns what it was, in words.

    :raises InvalidInputError: ``probe_failed``, if an answer is not what was expected; whatever the model raises.
    """
    for folder in (config.model_dir, config.work_dir):
        for file in sorted(folder.rglob(GOLDEN)):
            return _golden(file, runtime)
    made_up = runtime.example()
    if made_up is not None:
        body = codec.dumps({"instances": made_up})
        predict_v1(runtime, body)
        _warm_up(runtime, body)
        return "a request made up from the model's signature"
    return "its handler initialised; it came with no golden.json"


def _golden(file: Path, runtime: Runtime) -> str:
    try:
        cases = json.loads(file.read_bytes())
    except ValueError as error:
        raise InvalidInputError(f"{GOLDEN} is not JSON: {error}", kind="probe_failed") from error
    if not isinstance(cases, list) or not cases or len(cases) > GOLDEN_REQUESTS_MAX:
        raise InvalidInputError(
            f"{GOLDEN} must be a list of 1 to {GOLDEN_REQUESTS_MAX} cases", kind="probe_failed"
        )
    for index, case in enumerate(cases):
        if not isinstance(case, dict) or "request" not in case:
            raise InvalidInputError(f"{GOLDEN}: case {index} has no field 'request'", kind="probe_failed")
        answer = json.loads(codec.dumps(predict_v1(runtime, codec.dumps(case["request"]))))["predictions"]
        expected = case.get("expected")
        if isinstance(expected, dict) and "predictions" in expected:
            expected = expected["predictions"]
        if expected is not None and not same(answer, expected):
            raise InvalidInputError(
                f"{GOLDEN}: case {index} expects {_short(expected)}, but the model answers {_short(answer)}",
                kind="probe_failed",
            )
    _warm_up(runtime, codec.dumps(cases[0]["request"]))
    return f"{len(cases)} golden request{'s' if len(cases) > 1 else ''}"


def _warm_up(runtime: Runtime, body: bytes) -> None:
    end = time.monotonic() + WARM_SECONDS
    for _ in range(WARM_REQUESTS):
        if time.monotonic() < end:
            predict_v1(runtime, body)


def same(answer: Any, expected: Any) -> bool:
    """Equal, numbers up to a relative or absolute difference of ``TOLERANCE``."""
    if isinstance(expected, dict) and isinstance(answer, dict):
        return expected.keys() == answer.keys() and all(same(answer[k], expected[k]) for k in expected)
    if isinstance(expected, list) and isinstance(answer, list):
        return len(answer) == len(expected) and all(map(same, answer, expected))
    if _is_number(expected) and _is_number(answer):
        return math.isclose(answer, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(answer == expected)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:120]}…"
