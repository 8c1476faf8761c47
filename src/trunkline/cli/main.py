"""``trunkline``: the program. Errors become one line and an exit code here, and nowhere else."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import Any

from trunkline.cli import quick
from trunkline.cli.errors import INTERRUPTED, exit_code
from trunkline.cli.output import say
from trunkline.core import starting
from trunkline.core.garbage import none_looked_for
from trunkline.errors import InternalError, LimitError, TrunklineError, UnavailableError


def main(argv: list[str] | None = None) -> None:
    """Run one command and exit with its code."""
    code = run(argv)
    if (
        "trunkline.cli.program" not in sys.modules
    ):  # a quick command: Python would spend 5 ms on tidying up what is going away
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        words = sys.argv[1:] if argv is None else argv
        code = 0 if quick.run(words) else _run_with_grammar(words)
        sys.stdout.flush()
        return code
    except TrunklineError as error:
        say(f"error: {' | '.join(str(error).splitlines())}")
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (BrokenPipeError, SystemExit):  # the latter is what typer makes of it
        # Whoever read the output has had enough.
        _let_go_of_stdout()
        return 0
    except OSError as error:
        return _machine_trouble(error)
    except Exception:
        import logging  # noqa: PLC0415 (not for commands that must start at once)

        logging.getLogger(__name__).exception(
            "this should not have happened"
        )  # with its trace, for whoever mends it
        say("error: trunkline itself failed: the lines above say where")
        return exit_code(InternalError(""))


def _run_with_grammar(words: list[str]) -> int:
    from trunkline.cli import program  # noqa: PLC0415 (a tenth of a second)

    return program.run(_grammar(words), words)


def _grammar(words: list[str]) -> Any:
    with none_looked_for():
        starting.is_one_command = words[:1] not in (["up"], ["mount"])
        from trunkline.cli import tree  # noqa: PLC0415 (what it brings along looks at that)

        return tree.root(words[0] if words and words[0] in tree.OF_VERB else None)


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


if __name__ == "__main__":
    main()
