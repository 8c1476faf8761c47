"""Doors: other systems' own APIs, each a thin translation onto the same services; they hold no state and no logic."""

from __future__ import annotations

from trunkline.doors.s3.app import create_app as create_s3

DOORS = {"s3": create_s3}
"""By the names that the setting ``doors`` knows."""
