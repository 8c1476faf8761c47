"""Doors: other systems' own APIs, each a thin translation onto the same services; they hold no state and no logic."""

from __future__ import annotations

from trunkline.doors.s3.app import create_app as create_s3
from trunkline.doors.s3.app import create_app_for_jobs as create_s3_for_jobs

DOORS = {"s3": create_s3, "s3-jobs": create_s3_for_jobs}
"""By the names that the setting ``doors`` knows; and the one for jobs, which is opened when one needs it."""
