"""Several contents joined to one, without reading what stays as it is.

The result is cut exactly as if it had been written in one go. Cutting starts afresh at every chunk and looks only forward, so
behind a seam it needs to be done only until a cut falls on one that is there already: from there on, the chunks are the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from trunkline.versioning.files import (
    CUT_MAX_BYTES,
    ONE_CHUNK_BYTES_MAX,
    Content,
    Get,
    ListBuilder,
    Put,
    new_cutter,
    read_content,
    write_content,
)
from trunkline.versioning.nodes import ListRef, decode_list


def join_contents(contents: Sequence[Content], get: Get, put: Put) -> Content:
    """The contents, one behind the other."""
    filled = [content for content in contents if content.size]
    if len(filled) == 1:
        return filled[0]
    if sum(content.size for content in filled) <= ONE_CHUNK_BYTES_MAX:
        return write_content((part for content in filled for part in read_content(content, get)), put)
    return _Joiner(_pieces(filled, get), get, put).run()


@dataclass
class _Piece:
    """A chunk of one of the contents."""

    ref: ListRef
    is_cut: bool
    """Whether it ends where it would in any longer content, too: not the last chunk, which ends with its content, and not
    the only one of a small content, which was never cut."""
    data: bytes | None = None


def _pieces(contents: Sequence[Content], get: Get) -> Iterator[_Piece]:
    for number, content in enumerate(contents, 1):
        is_last = number == len(contents)
        waiting: ListRef | None = None
        for ref in _leaves(ListRef(content.level, content.hash, content.size), get):
            if waiting is not None:
                yield _Piece(waiting, is_cut=True)
            waiting = ref
        if waiting is not None:
            yield _Piece(waiting, is_cut=is_last and content.level > 0)


def _leaves(ref: ListRef, get: Get) -> Iterable[ListRef]:
    if ref.level == 0:
        yield ref
    else:
        for child in decode_list(get(ref.hash), ref.level):
            yield from _leaves(child, get)


class _Joiner:
    """Goes from cut to cut. ``_queue`` begins at or before the present cut; ``_done`` bytes of its first piece are past."""

    def __init__(self, pieces: Iterator[_Piece], get: Get, put: Put) -> None:
        self._pieces = pieces
        self._get = get
        self._put = put
        self._queue: deque[_Piece] = deque()
        self._done = 0
        self._builder = ListBuilder(put)
        self._cutter = new_cutter()

    def run(self) -> Content:
        while self._more():
            first = self._queue[0]
            if self._done == 0 and first.is_cut:
                self._builder.add(first.ref)
                self._queue.popleft()
            else:
                self._cut_next()
        return self._builder.finish()

    def _more(self) -> bool:
        if not self._queue:
            self._queue.extend(piece for piece in [next(self._pieces, None)] if piece is not None)
        return bool(self._queue)

    def _cut_next(self) -> None:
        """The next chunk, from the bytes. It is final: as much as a chunk can have is looked at, or all there is."""
        data = self._window()
        size = next(iter(self._cutter.cut_buf(data))).length
        chunk = data[:size]
        self._builder.add(ListRef(0, self._put(chunk), size))
        self._done += size
        while self._queue and self._done >= self._queue[0].ref.size:
            self._done -= self._queue.popleft().ref.size

    def _window(self) -> bytes:
        parts: list[bytes] = []
        missing = CUT_MAX_BYTES + self._done
        for at in count():
            if at == len(self._queue):
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._queue.append(piece)
            piece = self._queue[at]
            if piece.data is None:
                piece.data = self._get(piece.ref.hash)
            parts.append(piece.data)
            missing -= len(piece.data)
            if missing <= 0:
                break
        return b"".join(parts)[self._done :]
