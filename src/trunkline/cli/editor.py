"""The user's own editor."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from trunkline.errors import InvalidInputError


def in_editor(text: str) -> str:
    """What somebody makes of a text."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        path.write_text(text)
        try:
            code = subprocess.call([*shlex.split(editor), str(path)])
        except (OSError, ValueError) as error:
            raise InvalidInputError(
                f"the editor {editor!r} cannot be started: set EDITOR to one that can", kind="no_editor"
            ) from error
        if code != 0:
            raise InvalidInputError(
                f"the editor {editor!r} ended with code {code}: nothing was changed", kind="no_editor"
            )
        return path.read_text()
