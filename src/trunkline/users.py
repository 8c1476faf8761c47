"""As whom commands run on this machine: what ``transform.user`` stands for. Owns no state; becomes nobody itself."""

from __future__ import annotations

import grp
import os
import pwd
import re

from trunkline.errors import InvalidInputError

User = tuple[int, int, list[int]]
"""Number of the user, of its group, and of all groups that it is in."""
USER_LENGTH_MAX = 100
NUMBER_MAX = 2**31 - 1
_NUMBER = re.compile(r"[0-9]+")


def user_of(wanted: str | int | None) -> User | None:
    """As whom commands run; None: as this process itself.

    :raises InvalidInputError: ``bad_user``, if there is no such user or group, or this process may not become it.
    """
    if wanted is None or wanted == "":
        return None
    name, _, group = str(wanted).partition(":")
    found = _user(name)
    if group:
        found = (found[0], _group(group), [])
    if found[0] == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise InvalidInputError(
            f"transform.user: {wanted} is another user than the server's own, and only root may become another",
            kind="bad_user",
        )
    return found


def _user(name: str) -> User:
    number = _number(name, "user")
    try:
        entry = pwd.getpwnam(name) if number is None else pwd.getpwuid(number)
    except KeyError as error:
        if number is None:
            raise _nobody("user", name) from error
        return number, number, []
    return entry.pw_uid, entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid)


def _group(name: str) -> int:
    number = _number(name, "group")
    try:
        return grp.getgrnam(name).gr_gid if number is None else number
    except KeyError as error:
        raise _nobody("group", name) from error


def _number(name: str, what: str) -> int | None:
    if not _NUMBER.fullmatch(name):
        return None
    number = int(name) if len(name) < 12 else NUMBER_MAX + 1
    if number > NUMBER_MAX:
        raise _nobody(what, name)
    return number


def _nobody(what: str, name: str) -> InvalidInputError:
    return InvalidInputError(
        f"transform.user: there is no {what} {name[:USER_LENGTH_MAX]!r} on this machine", kind="bad_user"
    )
