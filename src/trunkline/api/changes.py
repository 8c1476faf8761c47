"""Changes of files as the wire says them -> as the store knows them. Made one by one, while the store works through them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trunkline.core.ids import TreeHash
from trunkline.core.paths import clean_path, parse_address
from trunkline.errors import InvalidInputError, NotFoundError
from trunkline.services import Services
from trunkline.versioning.model import Change, CopyTree, DeletePath
from trunkline.wire import files as wire


def changes_of(use: Services, project: str, ask: wire.ChangeFiles) -> Iterator[Change]:
    """The changes of a request, in order."""
    for one in ask.changes:
        if isinstance(one, wire.Fetch):
            yield from use.sources.fetch(
                one.url, one.path, recursive=one.recursive, append=one.append, unpack=one.unpack
            )
        elif isinstance(one, wire.Link):
            yield from use.sources.link(one.source, one.path, recursive=one.recursive)
        elif isinstance(one, wire.Take):
            root = TreeHash(one.root)
            use.versioning.check_tree(root)
            yield CopyTree(path=one.path, root=root, append=one.append, merge=True)
        elif isinstance(one, wire.Copy):
            yield copied(use, project, one.source, one.path, one.append)
        else:
            yield from deletions(use, project, ask.at, [one])


def copied(use: Services, project: str, source: str, path: str, append: bool) -> CopyTree:
    """A file or directory of any commit, to be at ``path``.

    :raises NotFoundError: ``no_file``; here, because the tree that it is copied from has no name that anybody knows.
    """
    commit, root, source_path = use.versioning.resolve(project, source)
    try:
        use.versioning.stat(root, source_path)
    except NotFoundError as error:
        if error.kind != "no_file":
            raise
        where = source.partition(":")[0]
        raise NotFoundError(
            f"there is no {source_path} to copy in {where} (commit {commit.id})", kind="no_file"
        ) from error
    return CopyTree(path=path, root=root, source_path=source_path, append=append)


def deletions(use: Services, project: str, at: str, asks: Sequence[wire.Delete]) -> Iterator[DeletePath]:
    """What is to go. Something absent is worth an error: it is most likely a typing mistake.

    :raises NotFoundError: ``no_file``. :raises InvalidInputError: ``is_directory``.
    """
    where = parse_address(at, project)
    _, root, _ = use.versioning.resolve(project, at)
    for ask in asks:
        if not ask.glob:
            info = use.versioning.stat(root, ask.path)
            if info.is_dir and not ask.recursive:
                raise InvalidInputError(f"{ask.path} is a directory: delete it with -r", kind="is_directory")
            yield DeletePath(path=clean_path(ask.path))
            continue
        found = False
        for info in use.versioning.glob(root, ask.path):
            found = True
            if info.is_dir and not ask.recursive:
                raise InvalidInputError(
                    f"{info.path} matches, and is a directory: add -r to delete it, too", kind="is_directory"
                )
            yield DeletePath(path=clean_path(info.path))
        if not found:
            raise NotFoundError(f"nothing in {where} matches {ask.path}", kind="no_file")


def file_of(use: Services, root: TreeHash, path: str) -> str:
    """The one file that a path means: itself, or the only one that it matches as a glob.

    :raises NotFoundError: ``no_file``. :raises InvalidInputError: ``several_files`` or ``is_directory``.
    """
    try:
        if use.versioning.stat(root, path).is_dir:
            raise InvalidInputError(
                f"{path} is a directory: get it with -r, or as an archive", kind="is_directory"
            )
        return path
    except NotFoundError:
        if not any(character in path for character in "*?[{("):
            raise
    matches = use.versioning.glob(root, path)
    found = [info for _, info in zip(range(2), (info for info in matches if not info.is_dir), strict=False)]
    if not found:
        raise NotFoundError(f"there is no file {path}, and none matches it as a glob", kind="no_file")
    if len(found) > 1:
        raise InvalidInputError(
            f"{path} matches {found[0].path}, {found[1].path} and perhaps more: get them with -r",
            kind="several_files",
        )
    return found[0].path
