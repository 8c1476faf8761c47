"""What kind of program starts, as far as that decides what it does at once."""

from __future__ import annotations

is_one_command = False
"""Set before anything else is imported: the program does one thing and ends, so it makes nothing ready that it may not need."""
