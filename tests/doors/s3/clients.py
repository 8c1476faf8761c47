"""The environment of the AWS CLI: its own, since it pins another botocore than boto3 does. Made once, and kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
INSTALL_SECONDS = 240


def aws_cli() -> Path:
    """The program ``aws``; skips the test where it is not there and cannot be installed."""
    folder = ROOT / ".venv" / "clients" / "aws"
    program = folder / "bin" / "aws"
    if program.exists():
        return program
    try:
        subprocess.run(
            [sys.executable, "-m", "venv", folder], check=True, capture_output=True, timeout=INSTALL_SECONDS
        )
        subprocess.run(
            [folder / "bin" / "pip", "install", "--quiet", "awscli"],
            check=True, capture_output=True, timeout=INSTALL_SECONDS,
        )  # fmt: skip
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"the AWS CLI could not be installed into {folder.relative_to(ROOT)}: {error}")
    return program
