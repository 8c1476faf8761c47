"""A store to keep, with the fixtures of versioned data."""

from tests.versioning.conftest import objects, versioning

__all__ = ["objects", "versioning"]
