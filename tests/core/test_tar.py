"""Headers of our own archives: every time to the nanosecond, readable by any tar program."""

from __future__ import annotations

import io
import tarfile

from hypothesis import given
from hypothesis import strategies as st

from trunkline.core import tar

NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=150).filter(
    lambda name: not name.endswith("/")
)


@given(NAMES, st.none() | st.integers(-(2**60), 2**62), st.booleans())
def test_a_header_says_what_was_put_into_it(name: str, modified_ns: int | None, executable: bool) -> None:
    block = tar.header(name, size=3, modified_ns=modified_ns, executable=executable)
    stream = io.BytesIO(block + b"abc" + tar.padding(3) + tar.END)
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=tar.TimedInfo) as archive:
        entry = archive.next()
        assert isinstance(entry, tar.TimedInfo)
        assert (entry.name, entry.size, bool(entry.mode & 0o100)) == (name, 3, executable)
        assert entry.modified_ns == modified_ns
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r") as plain:  # as others see it
        other = plain.next()
        assert other is not None and other.name == name
        assert int(other.mtime) == (modified_ns or 0) // 10**9
