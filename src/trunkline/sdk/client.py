"""The client: one method per verb and noun, over the transport."""

from __future__ import annotations

from trunkline.sdk.files import FileMethods
from trunkline.sdk.history import HistoryMethods
from trunkline.sdk.live import LiveMethods
from trunkline.sdk.refs import RefMethods


class Client(HistoryMethods, RefMethods, LiveMethods, FileMethods):
    """Speaks with a control server; without arguments, with the one of this user's data directory.

    ``url`` and ``token`` default to ``TRUNKLINE_URL`` and ``TRUNKLINE_TOKEN``, then to what the data directory says.
    ``retry_seconds``: how long a call waits for a server that does not answer (and may come back elsewhere).

    >>> from trunkline import Client
    >>> client = Client()
    >>> client.create_repo("images")
    """
