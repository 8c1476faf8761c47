"""Transactions: commands that are gathered, and then happen all at once or not at all."""

from __future__ import annotations

from typing import Annotated

import typer

from trunkline.cli.client import client
from trunkline.cli.grammar import FullTimestamps, Output, command, new_verb
from trunkline.cli.output import described, done, say, show, structured, table, time_text
from trunkline.errors import StateError
from trunkline.sdk import config
from trunkline.wire.transactions import Operation, Transaction

IdArgument = Annotated[
    str | None, typer.Argument(metavar="[ID]", help="Default: the one that commands are gathered in.")
]


def register(app: typer.Typer) -> None:
    ID = "1035715e796f45caae7a1d3ffd1f93ca"  # noqa: N806 (an example's)
    start = new_verb(app, "start", "Start a commit, a stopped pipeline or a transaction.")
    command(start, "transaction", "trunkline start transaction")(start_transaction)
    stop = new_verb(app, "stop", "Stop a pipeline or a job, or leave a transaction.")
    command(stop, "transaction", "trunkline stop transaction")(stop_transaction)
    resume = new_verb(app, "resume", "Go on with a transaction.")
    command(resume, "transaction", f"trunkline resume transaction {ID}")(resume_transaction)
    finish = new_verb(app, "finish", "Finish an open commit or a transaction.")
    command(finish, "transaction", "trunkline finish transaction")(finish_transaction)
    listed = new_verb(app, "list", "List things.")
    command(listed, "transaction", "trunkline list transactions")(list_transactions)
    inspect = new_verb(app, "inspect", "Show one thing in full.")
    command(inspect, "transaction", "trunkline inspect transaction")(inspect_transaction)
    delete = new_verb(app, "delete", "Delete things.")
    command(delete, "transaction", "trunkline delete transaction")(delete_transaction)


def start_transaction(output: Output = None) -> None:
    """Gather the commands that follow (create, update and delete of repos and branches, start, finish and squash of commits,
    create and delete of tags, create and update of pipelines); 'finish transaction' lets them happen together."""
    present = config.active_transaction()
    if present is not None:
        raise StateError(
            f"commands are gathered in transaction {present} already: finish, stop or delete that first",
            kind="in_transaction",
        )
    made = client().start_transaction()
    config.set_active_transaction(made.id)
    if output is not None:
        structured(made, output)
    else:
        say("commands are gathered from now on, until 'trunkline finish transaction'")
        show(made.id)


def stop_transaction() -> None:
    """Gather no more: commands happen at once again. What was gathered stays; 'resume transaction' goes on with it."""
    present = _active()
    config.set_active_transaction(None)
    say(f"left transaction {present}")


def resume_transaction(
    transaction: Annotated[str, typer.Argument(metavar="ID")], output: Output = None
) -> None:
    """Gather the commands that follow in a transaction that was left."""
    found = client().inspect_transaction(transaction)
    config.set_active_transaction(found.id)
    done(found, output, f"commands are gathered in transaction {found.id}")


def finish_transaction(transaction: IdArgument = None, output: Output = None) -> None:
    """Let all that was gathered happen: all of it, or nothing if one command fails. All its commits get one ID."""
    wanted = transaction or _active()
    finished = client().finish_transaction(wanted)
    _leave(wanted)
    count = len(finished.operations)
    done(finished, output, f"transaction {wanted}: {count} operation{'s' if count != 1 else ''} applied")


def list_transactions(output: Output = None, full_timestamps: FullTimestamps = False) -> None:
    """List the transactions that are not finished; the asterisk marks the one that commands are gathered in."""
    found = client().list_transactions()
    if output is not None:
        structured(found, output)
        return
    active = config.active_transaction()
    table(
        ("ACTIVE", "TRANSACTION", "OPERATIONS", "CREATED"),
        [
            ("*" if one.id == active else " ", one.id, str(len(one.operations)), time_text(one.created_at, full_timestamps))
            for one in found
        ],
    )  # fmt: skip


def inspect_transaction(
    transaction: IdArgument = None, output: Output = None, full_timestamps: FullTimestamps = False
) -> None:
    """Show what a transaction has gathered."""
    found = client().inspect_transaction(transaction or _active())
    if output is not None:
        structured(found, output)
        return
    described(_lines(found, full_timestamps))


def _lines(found: Transaction, full: bool) -> list[tuple[str, object]]:
    operations = [_operation_text(one) for one in found.operations]
    return [("ID", found.id), ("Created", time_text(found.created_at, full)), ("Operations", operations)]


def _operation_text(operation: Operation) -> str:
    given = ", ".join(
        f"{name}={value}" for name, value in operation.arguments.items() if value not in (None, "", False)
    )
    return f"{operation.kind}: {given if len(given) <= 200 else given[:200] + '…'}"


def delete_transaction(transaction: IdArgument = None) -> None:
    """Forget what a transaction has gathered; nothing of it has happened."""
    wanted = transaction or _active()
    client().delete_transaction(wanted)
    _leave(wanted)
    say(f"transaction {wanted} deleted")


def _active() -> str:
    found = config.active_transaction()
    if found is None:
        raise StateError(
            "no transaction is active: name one, or begin with 'trunkline start transaction'",
            kind="no_active_transaction",
        )
    return found


def _leave(transaction: str) -> None:
    if config.active_transaction() == transaction:
        config.set_active_transaction(None)
