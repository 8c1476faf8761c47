"""The V2 protocol (Open Inference Protocol) over REST, for models that take one matrix of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trunkline.errors import InvalidInputError, NotFoundError
from trunkline.serving.replica.runtimes.base import ModelError, Runtime

DATATYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32", "FP64": "float64",
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}
INPUT, OUTPUT = "input-0", "output-0"


@dataclass(frozen=True, kw_only=True)
class Asked:
    verb: str
    """server, live, server-ready, metadata, ready, infer."""
    model: str = ""


def route(method: str, path: str) -> Asked:
    """:raises NotFoundError: for a path that the protocol does not have."""
    fixed = {"/v2": "server", "/v2/health/live": "live", "/v2/health/ready": "server-ready"}
    if method == "GET" and path.rstrip("/") in fixed:
        return Asked(verb=fixed[path.rstrip("/")])
    parts = path.removeprefix("/v2/models/").split("/")
    if path.startswith("/v2/models/"):
        match method, parts[1:]:
            case "GET", []:
                return Asked(verb="metadata", model=parts[0])
            case "GET", ["ready"]:
                return Asked(verb="ready", model=parts[0])
            case "POST", ["infer"]:
                return Asked(verb="infer", model=parts[0])
            case _, ["versions", *_]:
                raise NotFoundError(f"model {parts[0]!r} has no versions to choose from")
    raise NotFoundError(f"there is no {method} {path} here; POST /v2/models/NAME/infer is")


def server(verb: str) -> dict[str, Any]:
    return {"live": True} if verb == "live" else {"name": "trunkline", "version": "2", "extensions": []}


def metadata(runtime: Runtime) -> dict[str, Any]:
    """Inputs and outputs as the model's signature has them; the output's type shows only in an answer."""
    features = getattr(runtime, "features", None)
    shape = [-1, features if features is not None else -1]
    return {
        "name": runtime.model_name,
        "versions": [],
        "platform": "sklearn",
        "inputs": [{"name": INPUT, "datatype": "FP64", "shape": shape}],
        "outputs": [{"name": OUTPUT, "datatype": "FP64", "shape": [-1]}],
    }


def infer(runtime: Runtime, request: Any) -> dict[str, Any]:
    """One input tensor to one output tensor.

    :raises InvalidInputError: naming the input, its shape or the field.
    """
    rows = _tensor(request)
    features = getattr(runtime, "features", None)
    if features is not None and (rows.ndim != 2 or rows.shape[1] != features):
        raise InvalidInputError(
            f"inputs[0] has the shape {list(rows.shape)}; model {runtime.model_name!r} takes [-1, {features}]"
        )
    result = np.asarray(runtime.predict_array(rows))  # type: ignore[attr-defined]
    if result.shape[:1] != rows.shape[:1]:
        raise ModelError(f"the model returned {len(result)} rows for {len(rows)}")
    is_text = result.dtype.name not in _NAMES
    output = {
        "name": OUTPUT,
        "shape": list(result.shape),
        "datatype": "BYTES" if is_text else _NAMES[result.dtype.name],
        "data": result.ravel().astype(str).tolist() if is_text else result.ravel().tolist(),
    }
    answer: dict[str, Any] = {"model_name": runtime.model_name, "outputs": [output]}
    if "id" in request:
        answer["id"] = request["id"]
    return answer


def _tensor(request: Any) -> Any:
    if not isinstance(request, dict) or not isinstance(request.get("inputs"), list):
        raise InvalidInputError("the body must be an object with a list 'inputs'")
    inputs = request["inputs"]
    if len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise InvalidInputError(f"inputs must hold exactly one tensor; found {len(inputs)}")
    tensor = inputs[0]
    for field in ("name", "shape", "datatype", "data"):
        if field not in tensor:
            raise InvalidInputError(f"inputs[0] has no field {field!r}")
    name, shape, datatype = tensor["name"], tensor["shape"], tensor["datatype"]
    if datatype not in DATATYPES:
        raise InvalidInputError(f"input {name!r}: datatype {datatype!r} is not one of {', '.join(DATATYPES)}")
    if not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise InvalidInputError(f"input {name!r}: shape must be a list of integers")
    try:
        data = np.asarray(tensor["data"], dtype=DATATYPES[datatype])
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInputError(f"input {name!r}: data is not a list of {datatype} numbers") from error
    size = int(np.prod(shape, dtype=np.int64))
    if data.size != size:
        raise InvalidInputError(
            f"input {name!r}: data has {data.size} numbers, but shape {shape} needs {size}"
        )
    return data.reshape(shape)
