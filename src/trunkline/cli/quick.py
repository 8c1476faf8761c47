"""The ordinary command lines of those commands that must start at once, read without the full grammar, whose library alone
takes longer to import than the rest of them to run.

What is not understood here is left to the full grammar: help, errors, abbreviations, ``-o json``. The options are declared
here once, for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple


class Option(NamedTuple):
    """An option, as a person types it."""

    flags: tuple[str, ...]
    help: str
    kind: Literal["flag", "text", "texts", "number"] = "text"
    off: str | None = None
    """What switches a flag off."""
    least: int | None = None
    most: int | None = None
    metavar: str | None = None


PROJECT = Option(("--project",), "The project; default: 'default'.")

PUT: Mapping[str, Option] = {
    "files": Option(("--file", "-f"), "A file, a URL or - for stdin; may be given many times.", "texts"),
    "lists": Option(("--input-file", "-i"), "A file (or -) with a path or URL in each line.", "texts"),
    "recursive": Option(("--recursive", "-r"), "Put whole folders.", "flag"),
    "append": Option(("--append", "-a"), "Add to what is there.", "flag"),
    "changed": Option(
        ("--changed",), "Only files whose size, time or executable bit differs from what is there.", "flag"
    ),
    "untar": Option(("--untar",), "Put what is in the archives: tar (gz, bz2, xz, zst) or zip.", "flag"),
    "full_path": Option(("--full-path",), "Keep the whole path of a source, not only its name.", "flag"),
    "link": Option(("--link",), "Copy nothing: files of the server's machine, or s3://.", "flag"),
    "unlink": Option(("--unlink",), "Copy in what was linked at or below PATH.", "flag"),
    "parallel": Option(
        ("--parallel", "-p"), "Send over so many connections at once.", "number", least=1, most=64
    ),
    "project": PROJECT,
}
GET: Mapping[str, Option] = {
    "target": Option(("--output", "-o"), "File or folder; default, or -: stdout.", metavar="PATH"),
    "recursive": Option(("--recursive", "-r"), "A whole directory, or all that a glob matches.", "flag"),
    "offset": Option(("--offset",), "Bytes to leave out at the start.", "number", least=0),
    "length": Option(("--length",), "At most so many bytes.", "number", least=1),
    "as_tar": Option(("--tar",), "As a tar archive; a directory or glob, too.", "flag"),
    "with_progress": Option(("--progress",), "Show a bar, on a terminal.", "flag", off="--no-progress"),
    "project": PROJECT,
}
"""The names are those of the parameters of ``moving.put_file`` and ``moving.get_file``."""


def run(words: Sequence[str]) -> bool:
    """Run the command, if it is one of ours and written in the ordinary way; whether it was."""
    if list(words) == ["version"]:
        from trunkline.cli import version  # noqa: PLC0415 (nothing here that only the other needs)

        version.version()
        return True
    verb = words[0] if len(words) > 2 and words[1] in ("file", "files") else None
    if verb not in ("put", "get"):
        return False
    given = parsed(words[2:], PUT if verb == "put" else GET)
    if given is None:
        return False
    from trunkline.cli import moving  # noqa: PLC0415

    (moving.put_file if verb == "put" else moving.get_file)(**given)
    return True


def parsed(words: Sequence[str], options: Mapping[str, Option]) -> dict[str, Any] | None:
    """The arguments of the call, as far as they are given; None: let the full grammar read it."""
    names = {flag: name for name, option in options.items() for flag in (*option.flags, option.off)}
    given: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        if word == "-" or not word.startswith("-"):
            if "address" in given:
                return None
            given["address"] = word
            continue
        flag, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        name = names.get(flag)
        if name is None:
            return None
        option = options[name]
        if option.kind == "flag":
            if equals:
                return None
            given[name] = flag != option.off
            continue
        if not equals:
            value = next(rest, "--")
            if value.startswith("-") and value != "-":
                return None
        read = _value(option, value)
        if read is None:
            return None
        if option.kind == "texts":
            given.setdefault(name, []).append(read)
        else:
            given[name] = read
    return given if "address" in given else None


def _value(option: Option, value: str) -> str | int | None:
    if option.kind != "number":
        return value
    if not (value.isascii() and value.isdigit() and len(value) < 19):
        return None
    number = int(value)
    is_within = (option.least or 0) <= number <= (number if option.most is None else option.most)
    return number if is_within else None
