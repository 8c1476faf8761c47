"""Key pairs for signed requests, derived from tokens. Pure.

A signature can only be checked by somebody who has the secret, and tokens are kept as hashes. So the secret is computed from a
token's hash and the owner's token, which lies in its file and nowhere else: neither the database alone nor the key's ID is
enough to make it, nothing more has to be stored, and a pair ends with its token.
"""

from __future__ import annotations

import base64
import hmac
from dataclasses import dataclass, field

PREFIX = "TL"
DIGEST_DIGITS = 18
CONTEXT = b"trunkline 2026-11 secret access key v1\0"


@dataclass(frozen=True, kw_only=True)
class KeyPair:
    """An access key; the secret is never printed by accident."""

    id: str
    secret: str = field(repr=False)


def key_id(digest: str) -> str:
    """The public half: 20 characters, as AWS has them; ``digest`` is the SHA-256 of the token in hex."""
    return PREFIX + digest[:DIGEST_DIGITS].upper()


def digest_prefix(identifier: str) -> str | None:
    """What the hash of the token begins with; None for what ``key_id`` never makes."""
    digits = identifier.removeprefix(PREFIX)
    if len(digits) != DIGEST_DIGITS or key_id(digits.lower()) != identifier:
        return None
    return digits.lower() if set(digits) <= set("0123456789ABCDEF") else None


def secret_key(owner_token: str, digest: str) -> str:
    """The secret half: 40 characters, as AWS has them."""
    raw = hmac.digest(owner_token.encode(), CONTEXT + digest.encode(), "sha256")
    return base64.urlsafe_b64encode(raw).decode()[:40]
