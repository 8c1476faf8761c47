"""``trunkline``: the program. Errors become one line and an exit code here, and nowhere else."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from functools import cache
from typing import Any

import typer

from trunkline.cli import files, version
from trunkline.cli.errors import INTERRUPTED, exit_code
from trunkline.cli.grammar import SAME, Verbs, new_verb
from trunkline.cli.output import say
from trunkline.errors import InternalError, LimitError, TrunklineError, UnavailableError

log = logging.getLogger(__name__)


def _top() -> typer.Typer:
    return typer.Typer(
        cls=Verbs, name="trunkline", no_args_is_help=True, rich_markup_mode=None, add_completion=True,
        pretty_exceptions_enable=False, context_settings={"help_option_names": ["--help", "-h"]},
        help="Commit data, and get a tested, live model, with one ID that explains, replays or undoes it all.",
        epilog="Example: trunkline up --detach",
    )  # fmt: skip


def build() -> typer.Typer:
    """The whole grammar. Its modules bring the wire models along, which takes half a second; so not at the top."""
    from trunkline.cli import (  # noqa: PLC0415
        apply,
        create,
        deleting,
        following,
        history,
        inspecting,
        keeping,
        listing,
        logs,
        pipelines,
        server,
        steering,
        transactions,
    )

    app = _top()
    server.register(app)
    version.register(app)
    create.register(app)
    pipelines.register(app)
    get = listing.register(app)
    inspecting.register(app)
    files.register(app, get)
    apply.register(app)
    logs.register(app)
    steering.register(app)
    deleting.register(app)
    keeping.register(app)
    following.register(app)
    transactions.register(app)
    history.register(app)
    return app


@cache
def root() -> Any:
    """The grammar as one command; made once, since that takes a tenth of a second."""
    return typer.main.get_command(build())


def quick(words: list[str]) -> Any | None:
    """The part of the grammar that the first words ask for, if it is one that must start at once; else None."""
    named = tuple(SAME.get(word, word) for word in words[:2])
    app = _top()
    if named[:1] == ("version",):
        version.register(app)
        app.callback()(lambda: None)  # else a single command would stand for the program
    elif named in (("put", "file"), ("get", "file")):
        files.register_transfers(new_verb(app, "put", ""), new_verb(app, "get", ""))
    else:
        return None
    return typer.main.get_command(app)


def main(argv: list[str] | None = None) -> None:
    """Run one command and exit with its code."""
    sys.exit(run(argv))


def run(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        words = sys.argv[1:] if argv is None else argv
        result = (quick(words) or root()).main(words, prog_name="trunkline", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except TrunklineError as error:
        say(f"error: {' | '.join(str(error).splitlines())}")
        return exit_code(error)
    except typer.TyperException as error:
        return _usage(error)
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except (BrokenPipeError, SystemExit):  # the latter is what typer makes of it
        # Whoever read the output has had enough.
        _let_go_of_stdout()
        return 0
    except OSError as error:
        return _machine_trouble(error)
    except Exception:
        log.exception("this should not have happened")  # with its trace, for whoever mends it
        say("error: trunkline itself failed: the lines above say where")
        return exit_code(InternalError(""))


def _machine_trouble(error: OSError) -> int:
    """What the machine refused: one line, too."""
    if error.errno == errno.ENOSPC:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        _let_go_of_stdout()
        where = f"{error.filename} could not be written; " if error.filename else ""
        say(f"error: the disk is full: {where}free some space, then try again")
        return exit_code(LimitError(""))
    say(f"error: {error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    return exit_code(UnavailableError(""))


def _let_go_of_stdout() -> None:
    """Keep Python from trying again, and complaining, at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage(error: Any) -> int:
    """A command that was written wrongly: one line and where to read on; a bare verb shows its help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        context = getattr(error, "ctx", None)
        hint = f"; see '{context.command_path} --help'" if context is not None else ""
        say(f"error: {error.format_message().rstrip('.')}{hint}")
    return 2


if __name__ == "__main__":
    main()
