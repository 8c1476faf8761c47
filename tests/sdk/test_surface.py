from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import trunkline
from trunkline import errors
from trunkline.api.errors import ERROR_HEADER, STATUS
from trunkline.sdk import endpoint
from trunkline.sdk.client import Client
from trunkline.sdk.endpoint import CLASS_OF_STATUS, Endpoint
from trunkline.sdk.transfer import Transfers
from trunkline.sdk.transport import Transport
from trunkline.wire import transactions

PUBLIC = [
    (name, member)
    for name, member in inspect.getmembers(Client)
    if not name.startswith("_") and (callable(member) or isinstance(member, property))
]


def test_the_public_names_are_frozen() -> None:
    assert trunkline.__all__ == ["Client", "TrunklineError", "__version__", "datums", "pipeline", "training"]
    assert all(hasattr(trunkline, name) for name in trunkline.__all__)
    with pytest.raises(AttributeError):
        _ = trunkline.nothing


def test_importing_it_imports_nothing_else() -> None:
    code = "import sys, trunkline; from trunkline import training; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"pydantic", "urllib3", "yaml", "sqlalchemy", "fastapi", "torch", "numpy"} & set(loaded)


def test_the_client_imports_no_server() -> None:
    code = "import sys, trunkline.sdk.client; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"sqlalchemy", "fastapi", "starlette", "torch", "numpy", "typer"} & set(loaded)


@pytest.mark.parametrize(("name", "member"), PUBLIC, ids=[name for name, _ in PUBLIC])
def test_every_public_method_is_documented(name: str, member: object) -> None:
    text = inspect.getdoc(member) or ""
    assert text, name
    # the transport's own plumbing needs no example
    inherited = any(name in vars(one) for one in (Endpoint, Transfers, Transport))
    assert inherited or isinstance(member, property) or ">>>" in text, f"{name} has no example"


def test_every_status_of_the_api_is_known_to_the_client() -> None:
    assert set(STATUS.values()) - {500} <= set(CLASS_OF_STATUS)
    assert issubclass(errors.InternalError, errors.TrunklineError)


def test_both_ends_mean_the_same_headers() -> None:
    assert endpoint.TRANSACTION_HEADER == transactions.TRANSACTION_HEADER
    assert endpoint.ERROR_HEADER == ERROR_HEADER


def test_moving_files_starts_with_little() -> None:
    code = "import sys, trunkline.cli.files; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"pydantic", "urllib3", "yaml", "http.client", "ssl", "tarfile"} & set(loaded)
