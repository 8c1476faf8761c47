"""Files that come from elsewhere or go in groups: URLs, buckets, archives, links, many changes as one commit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from trunkline.core.paths import parse_address
from trunkline.errors import InvalidInputError
from trunkline.sdk.data import DataMethods
from trunkline.sdk.transport import Body, Download, path_of
from trunkline.wire.commits import Commit
from trunkline.wire.files import Copy, Delete, Fetch, FileInfo, Link, Take, TreeInfo

FileChange = Fetch | Link | Take | Copy | Delete
"""What ``change_files`` takes."""


class FileMethods(DataMethods):
    """The part of the client that puts, lists and deletes files in ways of their own."""

    def change_files(
        self,
        address: str,
        changes: Iterable[FileChange],
        description: str = "",
        *,
        project: str | None = None,
    ) -> Commit:
        """Make several changes, in order, as one commit: all or none. ``address`` is ``repo@branch``; the changes are models
        of ``trunkline.wire.files``.

        >>> client.change_files("images@master", [Delete(path="/old", recursive=True), Fetch(url=url, path="/new.png")])
        """
        listed = [change.model_dump() for change in changes]
        body = {"at": address.partition(":")[0], "changes": listed, "description": description}
        return Commit.model_validate(self.call("POST", self._in(project, "files", "change"), json=body))

    def fetch_file(
        self, address: str, url: str, *, recursive: bool = False, append: bool = False, unpack: bool = False,
        project: str | None = None,
    ) -> Commit:  # fmt: skip
        """Let the server fetch a URL into a file. ``recursive``: all objects below ``s3://`` or ``gs://``; ``unpack``: what is
        in an archive, below the address.

        >>> client.fetch_file("images@master:/liberty.png", "https://example.org/46Q8nDz.jpg")
        """
        path = _path(address)
        change = Fetch(url=url, path=path, recursive=recursive, append=append, unpack=unpack)
        return self.change_files(address, [change], project=project)

    def link_file(
        self, address: str, source: str, *, recursive: bool = False, project: str | None = None
    ) -> Commit:
        """Make a file (or with ``recursive`` a folder) of the server's machine, or of a bucket, known without copying it. It
        must stay as it is: reading verifies it.

        >>> client.link_file("images@master:/raw", "/data/raw", recursive=True)
        """
        change = Link(source=source, path=_path(address), recursive=recursive)
        return self.change_files(address, [change], project=project)

    def copy_in_files(self, address: str, *, project: str | None = None) -> TreeInfo:
        """Copy in what is linked at or below an address, so that it needs its source no more; says how much that was.

        >>> client.copy_in_files("images@master:/raw").size
        """
        body = {"at": address}
        return TreeInfo.model_validate(self.call("POST", self._in(project, "files", "copy-in"), json=body))

    def unpack_file(
        self, address: str, archive: Body, *, append: bool = False, project: str | None = None
    ) -> Commit:
        """Put what is in an archive (tar, plain or compressed, or zip) below an address, as one commit.

        >>> client.unpack_file("images@master:/", open("pictures.tar.gz", "rb"))
        """
        query = {"at": address, "append": append}
        return Commit.model_validate(self.upload(self._in(project, "unpack"), archive, query=query))

    def unpack_fileset(self, archive: Body) -> TreeInfo:
        """Store what is in an archive without a commit; ``change_files`` can take it into one.

        >>> client.unpack_fileset(open("pictures.zip", "rb")).file_count
        """
        return TreeInfo.model_validate(self.upload(path_of("filesets", "unpack"), archive, method="POST"))

    def delete_files(
        self, address: str, paths: Sequence[str], *, recursive: bool = False, glob: bool = False,
        project: str | None = None,
    ) -> Commit:  # fmt: skip
        """Delete several files as one commit; with ``recursive`` directories, too; with ``glob`` all that the paths match.

        >>> client.delete_files("images@master", ["/cats/*.tmp"], glob=True)
        """
        changes = [Delete(path=path, recursive=recursive, glob=glob) for path in paths]
        return self.change_files(address, changes, project=project)

    def walk_files(
        self, address: str, *, limit: int | None = None, project: str | None = None
    ) -> Iterator[FileInfo]:
        """Everything at or below a path, one by one as it is asked for: millions of files need no memory.

        >>> sum(file.size for file in client.walk_files("images@master:/cats") if not file.is_dir)
        """
        return self._files(address, {"walk": True}, limit, project)

    def glob_files(
        self, address: str, *, limit: int | None = None, project: str | None = None
    ) -> Iterator[FileInfo]:
        """The files and directories that match ``repo@branch:PATTERN``, with what ``( )`` in it has captured.

        >>> [(file.path, file.groups) for file in client.glob_files("images@master:/(*)/*.png")]
        """
        where, colon, pattern = address.partition(":")
        if not colon:
            raise InvalidInputError(f"{address!r} has no pattern: write REPO@BRANCH:PATTERN", kind="bad_glob")
        return self._files(where, {"glob": pattern}, limit, project)

    def get_archive(self, address: str, *, glob: str | None = None, project: str | None = None) -> Download:
        """A file, a directory or what a glob matches as a tar stream.

        >>> with client.get_archive("images@master:/cats") as stream: tarfile.open(fileobj=stream, mode="r|")
        """
        query = {"at": address, "glob": glob}
        return self.download(self._in(project, "archive"), query=query)

    def _files(
        self, address: str, query: dict[str, object], limit: int | None, project: str | None
    ) -> Iterator[FileInfo]:
        return self._models(FileInfo, self._in(project, "tree"), {"at": address, **query}, limit)


def _path(address: str) -> str:
    return parse_address(address).path or "/"
