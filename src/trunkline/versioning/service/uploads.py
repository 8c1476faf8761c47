"""Files that arrive in numbered parts, in any order, over days and restarts.

A part is durable, and recorded, before it is acknowledged. Completing joins the parts' chunks and writes one file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from trunkline.core.ids import DEFAULT_BRANCH, TreeHash, new_commit_id
from trunkline.core.paths import clean_path, parse_address
from trunkline.errors import InvalidInputError, NotFoundError
from trunkline.versioning import refs, uploads
from trunkline.versioning.model import (
    Change,
    Commit,
    CopyTree,
    FileInfo,
    JoinFiles,
    PutFile,
    TreeInfo,
    Upload,
    UploadPart,
)
from trunkline.versioning.service.changing import Changing
from trunkline.versioning.service.commits import Commits

UPLOAD_SECONDS = 7 * 24 * 3600.0
"""An upload is forgotten so long after its last part."""
PARTS_MAX = 10_000
PART_PATH = "/part"


class Uploads(Commits, Changing):
    """Uploads in parts."""

    def start_upload(
        self,
        project: str,
        address: str,
        path: str,
        *,
        modified_at: float | None = None,
        as_owner: str | None = None,
    ) -> Upload:
        """Begin a file. Writes that will not be possible are refused here already.

        :raises StateError: as ``modify``. :raises InvalidInputError: ``bad_path``.
        """
        where = parse_address(address, project)
        if (path := clean_path(path)) == "/":
            raise InvalidInputError("a file cannot be put at '/': name it, as in /data.csv", kind="bad_path")
        ref = "=".join(part for part in (where.branch, where.commit) if part is not None) or DEFAULT_BRANCH
        now = self._clock.now()
        upload = Upload(
            id=new_commit_id(),
            address=f"{where.project}/{where.repo}@{ref}",
            path=path,
            modified_at=modified_at,
            created_at=now,
        )
        with self._db.write() as connection:
            self._target(connection, where, as_owner)
            uploads.delete_expired(connection, now)
            repo = refs.need_repo(connection, where.project, where.repo)
            uploads.insert(connection, repo.id, upload, now + UPLOAD_SECONDS)
        return upload

    def inspect_upload(self, upload_id: str) -> Upload:
        """:raises NotFoundError: ``no_upload``, if there is none or it has ended."""
        return self._need_open(upload_id)

    def find_upload(self, upload_id: str) -> Upload:
        """Also one that has ended, as long as it is remembered. :raises NotFoundError: ``no_upload``."""
        return self._need(upload_id).upload

    def list_uploads(
        self, address: str, *, prefix: str = "/", after: tuple[str, str] = ("", ""), limit: int = 1000
    ) -> list[Upload]:
        """Those to an address (as ``Upload`` has it) that go on; behind the path and ID ``after``."""
        with self._db.read() as connection:
            return uploads.list_open(connection, address, prefix, after, limit, self._clock.now())

    def put_part(self, upload_id: str, number: int, parts: Iterable[bytes]) -> UploadPart:
        """Store a part, in place of one that had its number.

        :raises NotFoundError: ``no_upload``. :raises InvalidInputError: ``bad_part_number``.
        """
        return self._put_part(upload_id, number, PutFile(path=PART_PATH, parts=parts))

    def copy_part(
        self, upload_id: str, number: int, root: TreeHash, path: str, *, offset: int = 0, length: int | None = None
    ) -> UploadPart:  # fmt: skip
        """Make a stored file, or a range of it, a part; a whole file costs nothing."""
        if offset == 0 and length is None:
            change: Change = CopyTree(path=PART_PATH, root=root, source_path=path)
        else:
            change = PutFile(path=PART_PATH, parts=self.read(root, path, offset=offset, length=length))
        return self._put_part(upload_id, number, change)

    def list_parts(self, upload_id: str, *, after: int = 0, limit: int | None = None) -> list[UploadPart]:
        """:raises NotFoundError: ``no_upload``."""
        self._need_open(upload_id)
        with self._db.read() as connection:
            return uploads.list_parts(connection, upload_id, after, limit)

    def complete_upload(
        self,
        upload_id: str,
        chosen: Sequence[tuple[int, str]],
        *,
        check: Callable[[TreeHash], None] | None = None,
        as_owner: str | None = None,
    ) -> tuple[Commit, FileInfo]:
        """Write the file: the parts ``(number, hash)``, in that order. May be repeated, if nobody heard the answer.

        :raises InvalidInputError: ``bad_part`` or ``bad_part_order``. :raises NotFoundError: ``no_upload``.
        """
        row = self._need(upload_id)
        upload = row.upload
        if row.commit_id is not None and row.root is not None:
            repo = upload.address.partition("@")[0]
            commit = self.inspect_commit("", f"{repo}@{row.commit_id}")
            return commit, self.stat(row.root, upload.path)
        with self._db.read() as connection:
            present = {part.number: part for part in uploads.list_parts(connection, upload_id)}
        sources = [(part.root, PART_PATH) for part in _choose(present, chosen)]
        change = JoinFiles(path=upload.path, sources=sources, modified_at=upload.modified_at)
        commit = self.modify("", upload.address, [change], check=check, as_owner=as_owner)
        root = commit.root
        assert root is not None, "it was just written"
        with self._db.write() as connection:
            uploads.end(connection, upload_id, commit.id, root)
        return commit, self.stat(root, upload.path)

    def abort_upload(self, upload_id: str) -> None:
        """:raises NotFoundError: ``no_upload``."""
        with self._db.write() as connection:
            if not uploads.delete(connection, upload_id):
                raise _no_upload(upload_id)

    def _put_part(self, upload_id: str, number: int, change: Change) -> UploadPart:
        if not 1 <= number <= PARTS_MAX:
            raise InvalidInputError(
                f"part {number}: parts are numbered from 1 to {PARTS_MAX}", kind="bad_part_number"
            )
        self._need_open(upload_id)
        staged: TreeInfo = self.stage([change])
        info = self.stat(staged.root, PART_PATH)
        now = self._clock.now()
        part = UploadPart(number=number, root=staged.root, hash=info.hash, size=info.size, created_at=now)
        with self._db.write() as connection:
            if not uploads.put_part(connection, upload_id, part, now + UPLOAD_SECONDS):
                raise _no_upload(upload_id)
        return part

    def _need(self, upload_id: str) -> uploads.UploadRow:
        with self._db.read() as connection:
            found = uploads.find(connection, upload_id, self._clock.now())
        if found is None:
            raise _no_upload(upload_id)
        return found

    def _need_open(self, upload_id: str) -> Upload:
        found = self._need(upload_id)
        if found.commit_id is not None:
            raise _no_upload(upload_id)
        return found.upload


def _choose(present: dict[int, UploadPart], chosen: Sequence[tuple[int, str]]) -> list[UploadPart]:
    if not chosen or len(chosen) > PARTS_MAX:
        raise InvalidInputError(f"an upload has from 1 to {PARTS_MAX} parts", kind="bad_part")
    found = []
    before = 0
    for number, content_hash in chosen:
        if number <= before:
            raise InvalidInputError(
                f"part {number} comes behind part {before}: parts are listed in the order of their numbers",
                kind="bad_part_order",
            )
        before = number
        part = present.get(number)
        if part is None or part.hash != content_hash:
            raise InvalidInputError(
                f"part {number} is not there, or not with that ETag: upload it again", kind="bad_part"
            )
        found.append(part)
    return found


def _no_upload(upload_id: str) -> NotFoundError:
    return NotFoundError(
        f"there is no upload {upload_id!r}, or it has ended: start a new one", kind="no_upload"
    )
