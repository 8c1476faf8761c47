"""How a client finds its server: ``TRUNKLINE_URL`` and ``TRUNKLINE_TOKEN``, then the data directory.

The only place in the SDK that reads the environment.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from trunkline.errors import UnauthenticatedError, UnavailableError

if TYPE_CHECKING:
    from pathlib import Path


def home() -> Path:
    """``$TRUNKLINE_HOME``, or ``~/.trunkline``."""
    from pathlib import Path  # noqa: PLC0415 (takes longer than a small command's own work)

    return Path(_home())


def _home() -> str:
    return os.path.join(os.getcwd(), os.environ.get("TRUNKLINE_HOME") or os.path.expanduser("~/.trunkline"))


def _text(file: str) -> str:
    with open(file, encoding="utf-8", errors="replace") as opened:
        return opened.read()


def use_home(folder: Path) -> None:
    """Mean the server of this data directory from now on, in this process and its children, and no other."""
    os.environ["TRUNKLINE_HOME"] = str(folder.absolute())
    os.environ.pop("TRUNKLINE_URL", None)
    os.environ.pop("TRUNKLINE_TOKEN", None)


def home_is_named() -> bool:
    """Whether the environment says which data directory is meant, as that of everything the server starts does."""
    return bool(os.environ.get("TRUNKLINE_HOME"))


def names_a_server() -> bool:
    """Whether the environment names a server by its URL, so that no data directory here is meant."""
    return bool(os.environ.get("TRUNKLINE_URL"))


def recorded_url() -> str | None:
    """The URL that the data directory's control server has written down; None if none ever ran there."""
    try:
        found = json.loads(_text(f"{_home()}/run/server.json"))
        return str(found["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def find_url() -> str:
    """:raises UnavailableError: ``no_server``."""
    url = os.environ.get("TRUNKLINE_URL") or recorded_url()
    if url is None:
        raise UnavailableError(
            f"no trunkline server runs in {_home()}: start one with 'trunkline up', or set TRUNKLINE_URL",
            kind="no_server",
        )
    return url


def find_token() -> str:
    """:raises UnauthenticatedError: ``no_token`` or ``bad_token_file``."""
    if token := os.environ.get("TRUNKLINE_TOKEN"):
        return _checked(token, "TRUNKLINE_TOKEN holds no token: unset it, to use the data directory's")
    file = f"{_home()}/token"
    try:
        token = _text(file).strip()
    except OSError as error:
        raise UnauthenticatedError(
            f"no token: set TRUNKLINE_TOKEN, or run this as the user who owns {file}", kind="no_token"
        ) from error
    return _checked(token, f"{file} holds no token: delete it and restart the server, which makes a new one")


def _checked(token: str, otherwise: str) -> str:
    """Only what can travel in a header."""
    if not token or not token.isascii() or not token.isprintable():
        raise UnauthenticatedError(otherwise, kind="bad_token_file")
    return token


def environment_project() -> str | None:
    """The project a job runs in, inside user code; None elsewhere."""
    return os.environ.get("TRUNKLINE_PROJECT") or None


# What the command line remembers from one command to the next. Kept in the data directory, for each server by itself.


def active_transaction() -> str | None:
    """The transaction that commands are gathered in; None: they happen at once."""
    found = _remembered().get(_server_key())
    return found if isinstance(found, str) else None


def set_active_transaction(transaction_id: str | None) -> None:
    """Gather what commands do in a transaction from now on; None: no more.

    :raises UnavailableError: ``not_written``.
    """
    kept = {key: value for key, value in _remembered().items() if key != _server_key()}
    if transaction_id is not None:
        kept[_server_key()] = transaction_id
    file = _memory()
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        scratch.write_text(json.dumps({"transactions": kept}))
        scratch.chmod(0o600)
        scratch.replace(file)
    except OSError as error:
        raise UnavailableError(f"cannot write {file}: {error.strerror}", kind="not_written") from error


MEMORY = "client.json"


def _memory() -> Path:
    return home() / MEMORY


def _server_key() -> str:
    """An address that somebody gave, or the data directory's own server, wherever it listens today."""
    return os.environ.get("TRUNKLINE_URL", "").rstrip("/")


def _remembered() -> dict[str, object]:
    try:
        found = json.loads(_text(f"{_home()}/{MEMORY}"))["transactions"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return dict(found) if isinstance(found, dict) else {}
