from __future__ import annotations

import os
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.conftest import FakeClock
from trunkline.access.model import Scope
from trunkline.access.service import CONSOLE_SECONDS, LINK_SECONDS, AccessService
from trunkline.errors import InvalidInputError, UnauthenticatedError
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import tokens


@pytest.fixture
def access(db: Database, clock: FakeClock) -> AccessService:
    return AccessService(db, clock)


def test_a_token_stands_for_its_scope_and_subject(access: AccessService) -> None:
    identity = access.check(access.issue("job", "job:default/edges@1", 60))
    assert (identity.scope, identity.subject) == (Scope.JOB, "job:default/edges@1")


def test_unknown_scope_is_refused(access: AccessService) -> None:
    with pytest.raises(InvalidInputError):
        access.issue("root", "me", None)


@pytest.mark.parametrize("token", ["", "x", "é" * 50, "a" * 10_000])
def test_an_unknown_token_is_refused(access: AccessService, token: str) -> None:
    with pytest.raises(UnauthenticatedError):
        access.check(token)


def test_a_token_expires_also_when_it_is_remembered(access: AccessService, clock: FakeClock) -> None:
    token = access.issue("job", "j", 60)
    access.check(token)
    assert access.is_remembered(token)
    clock.advance(60)
    with pytest.raises(UnauthenticatedError):
        access.check(token)


def test_revoking_works_at_once_and_only_for_the_subject(access: AccessService) -> None:
    gone, kept = access.issue("worker", "worker:1", None), access.issue("worker", "worker:2", None)
    access.check(gone)
    assert access.revoke("worker:1") == 1
    with pytest.raises(UnauthenticatedError):
        access.check(gone)
    assert access.check(kept).subject == "worker:2"


def test_tokens_are_never_stored(access: AccessService, db: Database, tmp_path: Path) -> None:
    issued = [
        access.issue("job", "j", 60),
        access.admin_token(tmp_path / "token"),
        access.console_link_token(),
    ]
    with db.read() as connection:
        stored = repr(connection.execute(sa.select(tokens)).all())
    assert not any(token in stored for token in issued)
    for file in tmp_path.glob("trunkline.db*"):
        assert not any(token.encode() in file.read_bytes() for token in issued)


def test_the_owners_token_is_in_a_private_file_and_stays(access: AccessService, tmp_path: Path) -> None:
    file = tmp_path / "token"
    old = os.umask(0)
    try:
        first = access.admin_token(file)
    finally:
        os.umask(old)
    assert file.stat().st_mode & 0o777 == 0o600
    assert access.admin_token(file) == first
    assert access.check(first).scope is Scope.ADMIN


def test_a_replaced_token_file_makes_the_old_token_worthless(access: AccessService, tmp_path: Path) -> None:
    file = tmp_path / "token"
    first = access.admin_token(file)
    file.write_text("a-new-one-that-is-long-enough\n")
    assert access.admin_token(file) == "a-new-one-that-is-long-enough"
    with pytest.raises(UnauthenticatedError):
        AccessService(access._db, access._clock).check(first)


def test_an_empty_token_file_is_no_open_door(access: AccessService, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    with pytest.raises(InvalidInputError):
        access.admin_token(tmp_path / "token")


def test_a_link_works_once(access: AccessService) -> None:
    link = access.console_link_token()
    assert access.check(access.redeem(link)).scope is Scope.CONSOLE
    with pytest.raises(UnauthenticatedError, match="used already"):
        access.redeem(link)


def test_a_link_and_its_cookie_grow_old(access: AccessService, clock: FakeClock) -> None:
    link, other = access.console_link_token(), access.console_link_token()
    cookie = access.redeem(link)
    clock.advance(LINK_SECONDS)
    with pytest.raises(UnauthenticatedError):
        access.redeem(other)
    clock.advance(CONSOLE_SECONDS)
    with pytest.raises(UnauthenticatedError):
        access.check(cookie)


def test_only_link_tokens_can_be_redeemed(access: AccessService) -> None:
    with pytest.raises(UnauthenticatedError):
        access.redeem(access.issue("job", "j", 60))
