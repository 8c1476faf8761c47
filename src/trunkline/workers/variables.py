"""The environment of a datum's command: what it inherits, what its pipeline gives it, and what says which datum it is."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trunkline.users import User
from trunkline.workers.box import Box
from trunkline.workers.environments.base import Prepared

PASSED_ON = (
    "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TERM", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS",
)  # fmt: skip
"""Of the worker's own environment, all that user code gets to see."""
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PLAIN = re.compile(r"[\w/.:@%+=,-]+", re.ASCII)
"""What a shell takes as it is."""


def pipeline_variables(payload: Mapping[str, Any], box: Box, prepared: Prepared) -> dict[str, str]:
    """What all datums of a pipeline have. What is most particular wins."""
    inherited = os.environ.get("PATH", DEFAULT_PATH)
    env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    env |= _of_user(box.user)
    env |= {
        "PATH": os.pathsep.join([*prepared.path, inherited]),
        "PYTHONUNBUFFERED": "1",  # else a log would stand still until its buffer is full
        "TMPDIR": f"{box.seen_home}/tmp",
        "PWD": working_dir(payload, box),
    }
    env |= prepared.env
    env |= payload["transform"]["env"]
    env |= payload["secrets_env"]
    if box.mode == "paths":
        env["PFS_ROOT"] = str(box.pfs)
    return env


def job_variables(payload: Mapping[str, Any], box: Box, url: str, worker: str) -> dict[str, str]:
    """What all datums of a job have, Pachyderm's names among them."""
    place = urlsplit(url)
    host, port = place.hostname or "127.0.0.1", str(place.port or (443 if place.scheme == "https" else 80))
    env = {
        "PACH_TOKEN": payload["job_token"],
        "PACH_NAMESPACE": payload["job"]["project"],
        "PACH_ROOT": box.seen_home,
        "PACH_IN_WORKER": "true",
        "PACHD_PEER_SERVICE_HOST": host,
        "PACHD_PEER_SERVICE_PORT": port,
        "PEER_PORT": port,
        "PPS_POD_NAME": worker,
        "PPS_WORKER_IP": "127.0.0.1",
        "PPS_WORKER_GRPC_PORT": "0",  # there is none: 'next datum' goes over TRUNKLINE_DATUM_SOCKET
    }
    env |= {f"{one['name']}_COMMIT": one["commit"] for one in payload["inputs"]}
    env |= payload["env_extra"]
    env |= {"TRUNKLINE_URL": url, "TRUNKLINE_TOKEN": payload["job_token"], "TRUNKLINE_HOME": box.seen_home}
    return env


def datum_variables(
    payload: Mapping[str, Any], datum: Mapping[str, Any], seen: Mapping[str, str]
) -> dict[str, str]:
    """What one datum has; ``seen`` is where each of its inputs is."""
    env = {"PACH_DATUM_ID": datum["id"], "TRUNKLINE_DATUM_ID": datum["id"]}
    if datum["files"]:
        env["FILESET_ID"] = payload["inputs"][datum["files"][0][0]]["root"]
    env |= datum.get("env") or {}
    env |= seen
    return env


def working_dir(payload: Mapping[str, Any], box: Box) -> str:
    """A relative one is inside the private copy of the code."""
    wanted = payload["transform"]["working_dir"] or (
        "" if payload["code_root"] else payload["environment"]["working_dir"]
    )
    return str(Path(f"{box.seen_home}/code") / (wanted or ""))


def _of_user(user: User | None) -> dict[str, str]:
    if user is None:
        return {}
    try:
        entry = pwd.getpwuid(user[0])
    except KeyError:
        return {"HOME": "/"}
    return {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name, "SHELL": entry.pw_shell}


class EnvFile:
    """``/pfs/.env`` of one box, written for each datum."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self._stays_open = box.mode == "namespace"
        """Elsewhere, commands may put another file in its place."""
        self._handle = -1
        self._size = -1

    def write(self, text: str) -> None:
        """In place: to open a file emptied makes ext4 put it on the disk."""
        if self._handle < 0:
            path = self._box.pfs / ".env"
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            size = os.pwrite(self._handle, text.encode(), 0)
            if size != self._size:
                os.ftruncate(self._handle, size)
                self._size = size
        finally:
            if not self._stays_open:
                self.close()

    def close(self) -> None:
        """Until something is written again."""
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = self._size = -1


def env_file(env: Mapping[str, str]) -> str:
    """``/pfs/.env``: what says which datum it is, as a shell can read it."""
    return "".join([f"{name}={_quoted(value)}\n" for name, value in env.items()])


def _quoted(value: str) -> str:
    if (value.isalnum() and value.isascii()) or _PLAIN.fullmatch(value):  # as most are: told sooner
        return value
    return "'" + value.replace("'", "'\"'\"'") + "'"
