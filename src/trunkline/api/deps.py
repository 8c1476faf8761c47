"""What endpoints get: the services, who is asking, and the body."""

from __future__ import annotations

import threading
from typing import Annotated, cast

from fastapi import Depends, Header, Query, Request

from trunkline.access.model import Identity
from trunkline.api.auth import IDENTITY_KEY
from trunkline.api.stream import StreamedBody, body_of
from trunkline.services import Services
from trunkline.wire.transactions import TRANSACTION_HEADER


# Async, though they wait for nothing: FastAPI sends each of the others to a thread.
async def _services(request: Request) -> Services:
    return cast(Services, request.app.state.services)


async def _caller(request: Request) -> Identity:
    return cast(Identity, request.scope[IDENTITY_KEY])


async def _stopping(request: Request) -> threading.Event:
    return cast(threading.Event, request.app.state.stopping)


Use = Annotated[Services, Depends(_services)]
Stopping = Annotated[threading.Event, Depends(_stopping)]
Caller = Annotated[Identity, Depends(_caller)]
Body = Annotated[StreamedBody, Depends(body_of)]
ContentType = Annotated[str | None, Header(alias="content-type")]
Accept = Annotated[str | None, Header()]
InTransaction = Annotated[
    str | None,
    Header(alias=TRANSACTION_HEADER, description="Gather this in the transaction of that ID.", max_length=64),
]
At = Annotated[str, Query(description="[project/]repo@branch-or-ID[:path]")]
Offset = Annotated[int, Query(ge=0, description="Lines to leave out: those that were read already.")]
WaitSeconds = Annotated[float, Query(ge=0, le=60)]
