"""Namespaces."""

from __future__ import annotations

from trunkline.wire.base import Ask, Wire


class Namespace(Wire):
    name: str
    created_at: float


class CreateNamespace(Ask):
    name: str
    exist_ok: bool = False
