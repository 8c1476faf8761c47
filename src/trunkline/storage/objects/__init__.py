"""Where immutable bytes live: one small interface (``base``), one driver per file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trunkline.errors import UnavailableError
from trunkline.storage.objects.base import ObjectInfo, ObjectStore
from trunkline.storage.objects.local import LocalStore

__all__ = ["ObjectInfo", "ObjectStore", "open_store"]


def open_store(place: str | Path, options: Mapping[str, str] | None = None) -> ObjectStore:
    """The store at a folder, or at a URL such as ``s3://bucket/prefix``, ``gs://bucket`` or ``az://container``.

    ``options`` go to the driver of a URL: ``endpoint``, ``region`` …

    :raises UnavailableError: ``missing_extra``; or if the bucket does not answer, does not exist or refuses us.
    :raises InvalidInputError: ``bad_objects_url``.
    """
    if isinstance(place, Path) or "://" not in place:
        return LocalStore(Path(place))
    try:
        from trunkline.storage.objects.remote import RemoteStore  # noqa: PLC0415 (an extra; only who needs it pays)
    except ImportError as error:
        raise UnavailableError(
            f"{place} needs a driver that is not installed: pip install 'trunkline[s3]'", kind="missing_extra"
        ) from error
    store = RemoteStore(place, options)
    store.check()
    return store
