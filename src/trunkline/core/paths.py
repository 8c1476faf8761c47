"""Paths inside a commit, globs over them, and the addresses that people type. Pure text; nothing here touches a disk."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from trunkline.core.ids import (
    DEFAULT_PROJECT,
    BranchName,
    CommitId,
    ProjectName,
    RepoName,
    check_name,
    check_tag_name,
    is_commit_id,
)
from trunkline.errors import InvalidInputError

PATH_BYTES_MAX = 4096
COMPONENT_BYTES_MAX = 255
"""What Linux and macOS allow in a file name, so that every commit can be written out as files."""
GLOB_LENGTH_MAX = 4096
ANCESTRY_MAX = 1_000_000


def clean_path(path: str) -> str:
    """The absolute form of a path inside a commit: ``data/a.png`` and ``/data/a.png/`` become ``/data/a.png``.

    :raises InvalidInputError: ``bad_path``, saying which rule is broken.
    """
    if path in ("", "/"):
        return "/"
    body = path.removeprefix("/").removesuffix("/")
    try:
        encoded = body.encode()
    except UnicodeEncodeError as error:
        raise _bad_path(path, "it is not valid UTF-8") from error
    if len(encoded) > PATH_BYTES_MAX:
        raise _bad_path(path[:80] + "…", f"it has {len(encoded)} bytes, at most {PATH_BYTES_MAX} are allowed")
    if not body.isprintable():  # quick: most paths have nothing unusual
        import unicodedata  # noqa: PLC0415

        for character in body:
            if unicodedata.category(character) == "Cc":
                raise _bad_path(path, f"it contains the control character U+{ord(character):04X}")
    for component in body.split("/"):
        if component == "":
            raise _bad_path(path, "it has an empty component ('//')")
        if component in (".", ".."):
            raise _bad_path(path, f"{component!r} is not allowed in it")
        if len(component) > COMPONENT_BYTES_MAX // 4 and len(component.encode()) > COMPONENT_BYTES_MAX:
            raise _bad_path(path[:80] + "…", f"one component has more than {COMPONENT_BYTES_MAX} bytes")
    return "/" + body


def are_plain(names: Sequence[bytes], prefix_bytes: int = 0) -> bool:
    """Whether each of these is a path as ``clean_path`` leaves it below a directory of that length, without its first slash.
    Quick for many; False where only a closer look can tell."""
    joined = b"/%b/" % b"/".join(names)
    return (
        joined.isascii()
        and joined.decode().isprintable()
        and b"//" not in joined
        and b"/./" not in joined
        and b"/../" not in joined
        and max(map(len, names), default=0) <= min(COMPONENT_BYTES_MAX, PATH_BYTES_MAX - prefix_bytes)
    )


def _bad_path(path: str, why: str) -> InvalidInputError:
    # Half of a surrogate pair, as a name in a tar may have it, could not be sent on as JSON.
    shown = path.encode("utf-8", "backslashreplace").decode()
    return InvalidInputError(f"path {path!r} is not allowed: {why}", kind="bad_path", details={"path": shown})


# --- globs --------------------------------------------------------------------------------------------------------


class Glob:
    """A compiled glob over absolute paths: ``*`` ``?`` ``[]`` do not cross ``/``, ``**`` does; ``{a,b}``; ``( )`` captures.

    A backslash takes the next character literally. A pattern without a leading ``/`` gets one.

    >>> Glob("/*/(*).png").match("/cats/12.png")
    ('12',)
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        if len(pattern) > GLOB_LENGTH_MAX:
            raise InvalidInputError(
                f"the glob has {len(pattern)} characters, at most {GLOB_LENGTH_MAX} are allowed",
                kind="bad_glob",
            )
        text = pattern if pattern.startswith("/") else "/" + pattern
        if len(text) > 1 and text.endswith("/") and not text.endswith("\\/"):
            text = text[:-1]
        translated = _Translator(pattern, text).run()
        self._regex = _compile(pattern, translated.regex)
        self.captures = self._regex.groups
        """How many texts a match captures."""
        self.literal_prefix = translated.literal
        """What every match starts with: all up to the first special character."""
        self.is_literal = translated.is_literal
        self.depth = None if translated.crosses else translated.slashes
        """How many components a match has (0: the root), or None if that is not fixed."""
        self.levels = tuple(_compile(pattern, part) for part in translated.levels)
        """For the first, second … component: what a directory of that depth must match to contain any match. Shorter
        than the pattern where a bracket or ``**`` spans components."""

    def match(self, path: str) -> tuple[str, ...] | None:
        """The captured texts (an empty tuple where the pattern captures nothing), or None if the path does not match."""
        if path == "/" and self.depth != 0:
            return None  # "/**" means all that is in the root, not the root
        found = self._regex.fullmatch(path)
        if found is None or not self.captures:
            return None if found is None else ()
        return tuple(group or "" for group in found.groups())

    def __repr__(self) -> str:
        return f"Glob({self.pattern!r})"


def _compile(pattern: str, regex: str) -> re.Pattern[str]:
    try:
        return re.compile(regex, re.DOTALL)
    except (re.error, RecursionError, OverflowError) as error:
        raise InvalidInputError(f"glob {pattern!r}: {error}", kind="bad_glob") from error


class _Translator:
    """Turns one glob into a regular expression, from left to right."""

    def __init__(self, pattern: str, text: str) -> None:
        self._pattern = pattern
        self._shift = len(text.rstrip("/")) - len(pattern.rstrip("/")) if not pattern.startswith("/") else 0
        self._text = text
        self._out: list[str] = []
        self._open: list[tuple[str, int]] = []
        self.literal = ""
        self.is_literal = True
        self.crosses = False
        self.slashes = 0
        self.levels: list[str] = []
        self._at = 0

    @property
    def regex(self) -> str:
        return "".join(self._out)

    def run(self) -> _Translator:
        if self._text == "/":
            self.literal = "/"
            self._out.append("/")
            return self
        while self._at < len(self._text):
            self._step()
        if self._open:
            character, position = self._open[-1]
            self._fail(f"{character!r} is never closed", position)
        return self

    def _step(self) -> None:
        character = self._text[self._at]
        if character == "\\":
            self._at += 1
            if self._at == len(self._text):
                self._fail("it ends with a backslash", self._at - 1)
            self._literal(self._text[self._at])
        elif character == "/":
            self._slash()
        elif character in "*?[{}()" or (character == "," and self._open and self._open[-1][0] == "{"):
            self.is_literal = False
            self._special(character)
        else:
            self._literal(character)
        self._at += 1

    def _literal(self, character: str) -> None:
        self._out.append(re.escape(character))
        if self.is_literal:
            self.literal += character

    def _slash(self) -> None:
        if self._text[self._at + 1 : self._at + 2] == "/":
            self._fail("'//' matches nothing", self._at)
        if self._open:
            self.crosses = True  # brackets may hold a different number of components in each branch
        elif self._at and not self.crosses:
            self.levels.append(self.regex)
        self.slashes += 1
        self._literal("/")

    def _special(self, character: str) -> None:
        if character == "*":
            if self._text[self._at + 1 : self._at + 2] == "*":
                while self._text[self._at + 1 : self._at + 2] == "*":
                    self._at += 1
                self._out.append(".*")
                self.crosses = True
            else:
                self._out.append("[^/]*")
        elif character == "?":
            self._out.append("[^/]")
        elif character == "[":
            self._set()
        elif character in "{(":
            self._open.append((character, self._at))
            self._out.append("(?:" if character == "{" else "(")
        elif character == ",":
            self._out.append("|")
        else:
            wanted = "{" if character == "}" else "("
            if not self._open or self._open[-1][0] != wanted:
                self._fail(f"{character!r} closes nothing", self._at)
            self._open.pop()
            self._out.append(")")

    def _set(self) -> None:
        start = self._at
        at = start + 1
        negated = self._text[at : at + 1] in ("!", "^")
        at += negated
        end = at
        while end < len(self._text) and (self._text[end] != "]" or end == at):
            end += 2 if self._text[end] == "\\" else 1
        if end >= len(self._text):
            self._fail("'[' is never closed", start)
        inside = self._text[at:end]
        if "/" in inside:
            self._fail("'/' cannot be in a set", start)
        parts: list[str] = []
        i = 0
        while i < len(inside):
            low, i = self._set_character(inside, i)
            if inside[i : i + 1] == "-" and i + 1 < len(inside):
                high, i = self._set_character(inside, i + 1)
                if high < low:
                    self._fail(f"the range '{low}-{high}' is backwards", start)
                parts.append(f"{re.escape(low)}-{re.escape(high)}")
            else:
                parts.append(re.escape(low))
        self._out.append(("(?!/)[^" if negated else "(?!/)[") + "".join(parts) + "]")
        self._at = end

    @staticmethod
    def _set_character(inside: str, i: int) -> tuple[str, int]:
        if inside[i] == "\\" and i + 1 < len(inside):
            i += 1
        return inside[i], i + 1

    def _fail(self, why: str, position: int) -> NoReturn:
        place = max(1, position - self._shift + 1)
        raise InvalidInputError(
            f"glob {self._pattern!r}: {why}, at character {place}",
            kind="bad_glob",
            details={"glob": self._pattern, "character": place},
        )


# --- addresses ----------------------------------------------------------------------------------------------------


class Address(NamedTuple):
    """``[project/]repo@branch|tag|ID|branch=ID[^|^^|^3|~|.N][:path]``, taken apart. Only a repo: ``branch`` and ``commit``
    None. Whether a name is a branch's or a tag's is not to be seen here; ``branch`` holds either."""

    project: ProjectName
    repo: RepoName
    branch: BranchName | None = None
    commit: CommitId | None = None
    ancestors: int = 0
    """How many steps up from there."""
    from_root: int | None = None
    """``.N``: the N-th commit of the branch, counted from its first, which is 1."""
    dotted: str | None = None
    """The whole name, where it has dots: if that is a tag, the tag is meant and ``from_root`` is not."""
    path: str | None = None

    def __str__(self) -> str:
        text = f"{self.project}/{self.repo}"
        if self.dotted is not None:
            text += f"@{self.dotted}"
        elif self.branch is not None or self.commit is not None:
            text += "@" + "=".join(part for part in (self.branch, self.commit) if part is not None)
        if self.ancestors:
            text += "^" if self.ancestors == 1 else f"^{self.ancestors}"
        if self.from_root is not None and self.dotted is None:
            text += f".{self.from_root}"
        return text if self.path is None else f"{text}:{self.path}"


_REF = re.compile(r"(?P<name>[^\^~]+)(?P<up>(?:[\^~]\d*)*)")
_FROM_ROOT = re.compile(r"(?P<name>[^.]+)\.(?P<nth>\d+)")


def parse_address(text: str, project: str = DEFAULT_PROJECT) -> Address:
    """Take an address apart; ``project`` is meant where it names none.

    :raises InvalidInputError: ``bad_address``, ``bad_name`` or ``bad_path``.
    """
    head, colon, path = text.partition(":")
    where, at, ref = head.partition("@")
    first, slash, second = where.partition("/")
    if slash:
        project, repo = first, second
    else:
        repo = first
    if not repo or not project:
        raise _bad_address(text, "the name of a repo is missing")
    if at and not ref:
        raise _bad_address(text, "a branch or commit ID is missing after '@'")
    found = _parse_ref(text, ref) if at else _Ref()
    return Address(
        project=ProjectName(check_name("project", project)),
        repo=RepoName(check_name("repo", repo)),
        branch=found.branch,
        commit=found.commit,
        ancestors=found.ancestors,
        from_root=found.from_root,
        dotted=found.dotted,
        path=clean_path(path) if colon else None,
    )


class _Ref(NamedTuple):
    branch: BranchName | None = None
    commit: CommitId | None = None
    ancestors: int = 0
    from_root: int | None = None
    dotted: str | None = None


def _parse_ref(text: str, ref: str) -> _Ref:
    found = _REF.fullmatch(ref)
    if found is None:
        if re.fullmatch(r"[^\^~]+[\^~][\^~\d]*\.\d+", ref):
            raise _bad_address(text, "'^' and '.N' cannot be mixed")
        raise _bad_address(text, f"{ref!r} is neither a branch, a tag nor a commit ID")
    name = found["name"]
    ancestors = sum(int(count or 1) for count in re.findall(r"[\^~](\d*)", found["up"]))
    counted = _FROM_ROOT.fullmatch(name)
    nth = int(counted["nth"]) if counted else None
    if ancestors > ANCESTRY_MAX or (nth or 0) > ANCESTRY_MAX:
        raise _bad_address(text, f"at most {ANCESTRY_MAX} commits can be counted")
    base, equals, identifier = (counted["name"] if counted else name).partition("=")
    if not equals and not is_commit_id(base):
        dotted = check_tag_name(name) if "." in name else None
        branch = BranchName(base if dotted is not None else check_name("branch", base))
        return _Ref(branch, None, ancestors, nth, dotted)
    if ancestors and nth is not None:
        raise _bad_address(text, "'^' and '.N' cannot be mixed")
    if nth == 0:
        raise _bad_address(text, "commits are counted from .1, the first")
    if not equals:
        return _Ref(None, CommitId(base), ancestors, nth)
    if not is_commit_id(identifier):
        raise _bad_address(text, f"{identifier!r} is not a commit ID (32 lower-case hex digits)")
    return _Ref(BranchName(check_name("branch", base)), CommitId(identifier), ancestors, nth)


def _bad_address(text: str, why: str) -> InvalidInputError:
    return InvalidInputError(
        f"address {text!r}: {why}; write [project/]repo@branch-or-ID[:path]",
        kind="bad_address",
        details={"address": text},
    )
