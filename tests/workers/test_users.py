"""Whom ``transform.user`` stands for."""

from __future__ import annotations

import grp
import os
import pwd

import pytest

from trunkline.errors import InvalidInputError
from trunkline.users import user_of


def test_who_may_become_whom(monkeypatch: pytest.MonkeyPatch) -> None:
    group = grp.getgrall()[-1]
    nobody = pwd.getpwnam("nobody")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert user_of(None) is user_of("") is user_of("root") is user_of(0) is None
    for name in ("nobody", nobody.pw_uid, str(nobody.pw_uid)):
        found = user_of(name)
        assert found is not None and found[:2] == (nobody.pw_uid, nobody.pw_gid)
    assert user_of("nobody:7") == (nobody.pw_uid, 7, [])
    assert user_of("54321") == (54321, 54321, []), "a number needs no name"
    assert user_of(f"54321:{group.gr_name}") == (54321, group.gr_gid, [])
    monkeypatch.setattr(os, "geteuid", lambda: nobody.pw_uid)
    assert user_of("nobody") is None
    with pytest.raises(InvalidInputError, match="only root may become another"):
        user_of("root")


@pytest.mark.parametrize(
    "name", ["no-such-user", "2147483648", "9" * 50, "²", "-1", "nobody:no-such-group", "0:" + "9" * 20]
)
def test_nobody(name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"there is no (user|group) .* on this machine") as caught:
        user_of(name)
    assert caught.value.kind == "bad_user"
