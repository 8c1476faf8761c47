"""Applications for tests, of which each has its own, without what would be done again for each."""

from __future__ import annotations

from anyio.from_thread import BlockingPortal
from fastapi import FastAPI
from starlette.routing import BaseRoute
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from trunkline.api.app import create_app
from trunkline.services import Services

_routes: list[BaseRoute] = []


def app_over(services: Services) -> FastAPI:
    """``create_app``, with the routes of the first application of this process. Routes are made ready at their first request,
    which takes longer than most tests; they find the services in the application that is asked."""
    app = create_app(services)
    if not _routes:
        _routes.extend(app.router.routes)
    app.router.routes[:] = _routes
    return app


def client_of(app: ASGIApp, portal: BlockingPortal, base_url: str) -> TestClient:
    """A client whose requests run in the event loop of all tests, and not each in a loop and a thread of its own. It gets
    an answer for an unexpected error, as a real client would."""
    client = TestClient(app, base_url=base_url, raise_server_exceptions=False)
    client.portal = portal
    return client
