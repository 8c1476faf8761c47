"""One file per noun. A route parses, calls a service and returns a wire model; it decides nothing."""

from __future__ import annotations

from fastapi import APIRouter

from trunkline.api.auth import GuardedRoute


def new_router(tag: str) -> APIRouter:
    """A router whose routes look at the caller's scope."""
    return APIRouter(prefix="/v1", tags=[tag], route_class=GuardedRoute)
