"""Transactions over refs, and following a branch."""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Self

from trunkline.core.paths import parse_address
from trunkline.errors import TrunklineError, UnavailableError
from trunkline.sdk.data import DataMethods
from trunkline.sdk.transport import BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MIN, path_of
from trunkline.wire.commits import Commit
from trunkline.wire.transactions import FinishedTransaction, Transaction

PATIENCE_SECONDS = 300.0
"""How long a subscription waits for a server that is gone."""


class RefMethods(DataMethods):
    """The part of the client that speaks of transactions and subscriptions."""

    # --- transactions ---

    def start_transaction(self) -> Transaction:
        """Begin to gather operations. They get into it through a client with this ID as its ``transaction``; see also
        ``transaction()``.

        >>> client.start_transaction().id
        """
        return Transaction.model_validate(self.call("POST", path_of("transactions")))

    def list_transactions(self) -> list[Transaction]:
        """The transactions that are not finished, oldest first.

        >>> [len(one.operations) for one in client.list_transactions()]
        """
        return [Transaction.model_validate(one) for one in self._items(path_of("transactions"))]

    def inspect_transaction(self, transaction_id: str) -> Transaction:
        """One transaction with what it has gathered.

        >>> client.inspect_transaction("1035715e796f45caae7a1d3ffd1f93ca").operations
        """
        return Transaction.model_validate(self.call("GET", path_of("transactions", transaction_id)))

    def finish_transaction(self, transaction_id: str) -> FinishedTransaction:
        """Apply all that was gathered, or nothing if one of them fails; all its commits get the transaction's ID.

        >>> client.finish_transaction("1035715e796f45caae7a1d3ffd1f93ca").answers
        """
        path = path_of("transactions", transaction_id, "finish")
        return FinishedTransaction.model_validate(self.call("POST", path))

    def delete_transaction(self, transaction_id: str) -> None:
        """Forget a transaction; nothing has happened.

        >>> client.delete_transaction("1035715e796f45caae7a1d3ffd1f93ca")
        """
        self.call("DELETE", path_of("transactions", transaction_id))

    @contextmanager
    def open_transaction(self) -> Iterator[Self]:
        """A client whose operations are gathered, and applied together at the end of the block; after an error none is.

        >>> with client.open_transaction() as inside:
        ...     inside.start_commit("images@master"); inside.start_commit("labels@master")
        """
        started = self.start_transaction().id
        inside = copy.copy(self)
        inside.transaction = started
        try:
            yield inside
            self.finish_transaction(started)
        except BaseException:
            with suppress(
                TrunklineError
            ):  # the first error counts; and if the answer was lost, it may have happened
                self.delete_transaction(started)
            raise

    # --- subscriptions ---

    def subscribe_commits(
        self, address: str, *, after: str | None = None, new: bool = False, finished: bool = True,
        origin: str | None = None, project: str | None = None, patience_seconds: float = PATIENCE_SECONDS,
    ) -> Iterator[Commit]:  # fmt: skip
        """The commits of a branch, oldest first, those that are there and then those that come, without an end. Each once,
        also if the server is restarted meanwhile. ``after``: only those newer than this commit; ``new``: only those that come.
        With ``finished=False`` as soon as they are opened.

        >>> for commit in client.subscribe_commits("images@master", new=True): print(commit.id)
        """
        where = parse_address(address, project or self.project)
        branch = where.branch or "master"
        if new and after is None:
            after = self.inspect_branch(f"{where.repo}@{branch}", project=where.project).head
        path = path_of("projects", where.project, "repos", where.repo, "branches", branch, "commits")
        gone_since: float | None = None
        pause = BACKOFF_SECONDS_MIN
        while True:
            try:
                query = {"after": after, "finished": finished, "origin": origin}
                with self.download(path, query=query) as stream:
                    gone_since, pause = None, BACKOFF_SECONDS_MIN
                    for line in stream.text_lines():
                        if line.strip():
                            commit = Commit.model_validate(json.loads(line))
                            after = commit.id
                            yield commit
            except UnavailableError:
                gone_since = gone_since or time.monotonic()
                if time.monotonic() - gone_since > patience_seconds:
                    raise
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, BACKOFF_SECONDS_MAX)
            self._follow_the_server()
