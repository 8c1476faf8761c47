"""Sources as changes: what the API asks for, whatever it comes from."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain

from trunkline.errors import InvalidInputError
from trunkline.sources.bounds import Bounds
from trunkline.sources.places import LinkRules, files_to_link, objects_to_link
from trunkline.sources.unpack import unpacked
from trunkline.sources.web import Fetcher
from trunkline.storage.buckets import Buckets, Item, Place, is_bucket_url, parse_place
from trunkline.versioning.model import Change, PutContent, PutFile
from trunkline.versioning.service import VersioningService

OBJECTS_AT_ONCE_MAX = 16
AHEAD_MAX = 32
AHEAD_BYTES_MAX = 2**20
"""Objects of at most this size are fetched many at a time; larger ones one by one, as streams."""


class SourcesService:
    """Files from URLs, buckets, archives and linked places. Every method gives changes for ``VersioningService.modify``; what
    is wrong is raised while those are worked through, and nothing of them is kept."""

    def __init__(
        self,
        *,
        versioning: VersioningService,
        fetcher: Fetcher,
        buckets: Buckets,
        bounds: Bounds,
        link_rules: LinkRules,
    ) -> None:
        self._versioning = versioning
        self._fetcher = fetcher
        self._buckets = buckets
        self._bounds = bounds
        self._link_rules = link_rules

    def fetch(
        self, url: str, path: str, *, recursive: bool = False, append: bool = False, unpack: bool = False
    ) -> Iterator[Change]:
        """A URL as the file ``path``; with ``recursive`` all objects below a bucket's prefix; with ``unpack`` what is in an
        archive, below ``path``."""
        if is_bucket_url(url):
            place = parse_place(url)
            if unpack:
                yield from self.unpack(self._buckets.read(place), into=path, append=append)
            else:
                yield from self._objects(place, path, recursive, append)
            return
        if recursive:
            raise InvalidInputError(
                "only s3:// and gs:// are folders: leave -r out for a URL", kind="bad_url"
            )
        with self._fetcher.open(url) as found:
            if unpack:
                yield from self.unpack(found.parts(), into=path, append=append)
            else:
                yield PutFile(path=path, parts=found.parts(), modified_at=found.modified_at, append=append)

    def unpack(self, parts: Iterable[bytes], *, into: str, append: bool = False) -> Iterator[Change]:
        """What is in an archive."""
        return unpacked(parts, into=into, append=append, bounds=self._bounds)

    def link(self, source: str, path: str, *, recursive: bool = False) -> Iterator[PutContent]:
        """A file or folder of this machine, or an object or prefix of a bucket, without its content."""
        if is_bucket_url(source):
            found = objects_to_link(self._buckets, parse_place(source), path, recursive=recursive)
        else:
            found = files_to_link(self._link_rules, source.removeprefix("file://"), path, recursive=recursive)
        return self._versioning.link(found)

    def _objects(self, place: Place, path: str, recursive: bool, append: bool) -> Iterator[Change]:
        found = self._buckets.expand(place, path, recursive=recursive)
        with ThreadPoolExecutor(OBJECTS_AT_ONCE_MAX, thread_name_prefix="objects") as pool:
            waiting: deque[tuple[str, Item, Future[bytes] | Place]] = deque()
            for key, target, item in found:
                one = Place(scheme=place.scheme, bucket=place.bucket, key=key)
                small = item.size <= AHEAD_BYTES_MAX
                waiting.append((target, item, pool.submit(self._whole, one) if small else one))
                if len(waiting) >= AHEAD_MAX:
                    yield self._change(*waiting.popleft(), append)
            while waiting:
                yield self._change(*waiting.popleft(), append)

    def _whole(self, place: Place) -> bytes:
        return b"".join(chain(self._buckets.read(place)))

    def _change(self, target: str, item: Item, content: Future[bytes] | Place, append: bool) -> PutFile:
        parts = self._buckets.read(content) if isinstance(content, Place) else [content.result()]
        return PutFile(path=target, parts=parts, modified_at=item.modified_at, append=append)
