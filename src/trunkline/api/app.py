"""The HTTP application: routes, the guard round them, and errors in one shape."""

from __future__ import annotations

import threading

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from trunkline import __version__
from trunkline.api import errors
from trunkline.api.auth import GuardedRoute
from trunkline.api.middleware import Guard
from trunkline.api.routes import (
    commits,
    experiments,
    files,
    filesets,
    history,
    inferenceservices,
    jobs,
    keeping,
    leases,
    models,
    namespaces,
    pages,
    pipelines,
    projects,
    repos,
    server,
    tags,
    transactions,
)
from trunkline.errors import TrunklineError
from trunkline.services import Services
from trunkline.wire.base import Error

NOUNS = (
    leases, filesets,  # what workers ask for most often: routes are tried in this order
    server, projects, repos, tags, history, commits, transactions, files, pipelines, jobs, experiments, models, namespaces,
    inferenceservices, keeping, pages,
)  # fmt: skip


def create_app(services: Services) -> FastAPI:
    """The application over ``services``; starts nothing by itself."""
    app = FastAPI(
        title="trunkline", version=__version__, summary="Commit data, and get a tested, live model.",
        openapi_url=None, docs_url=None, redoc_url=None, separate_input_output_schemas=False,
        responses={"default": {"model": Error, "description": "What went wrong"}},
    )  # fmt: skip
    app.router.route_class = GuardedRoute
    app.state.services = services
    app.state.stopping = threading.Event()
    app.add_exception_handler(TrunklineError, errors.on_trunkline_error)
    app.add_exception_handler(HTTPException, errors.on_http_exception)
    app.add_exception_handler(RequestValidationError, errors.on_validation_error)
    for noun in NOUNS:
        app.include_router(noun.router)
    app.add_middleware(
        Guard, access=services.access, host=None if services.settings.remote else services.settings.host,
        body_bytes_max=services.settings.request_bytes_max,
    )  # fmt: skip
    return app
