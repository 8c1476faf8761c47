"""``version``: apart from the rest, so that it is there at once."""

from __future__ import annotations

from trunkline import __version__
from trunkline.cli.output import Format, show, structured


def version(output: Format | None = None) -> None:
    """Show the version."""
    if output is not None:
        structured({"version": __version__}, output)
    else:
        show(__version__)
