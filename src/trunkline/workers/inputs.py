"""The inputs of a datum set on this machine: fetched in few requests, laid out below ``/pfs`` by moving and linking.

What comes first lies in a *store*, a folder for each tree. A file or folder that one datum uses is moved from there into its
``/pfs``; what several use is linked (copied, where commands could write to it), and may stay for the next set.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trunkline.errors import LimitError, TrunklineError, UnavailableError
from trunkline.sdk.transport import Transport
from trunkline.workers.box import Box
from trunkline.workers.lazy import LazyPipes
from trunkline.workers.lease import TaskContext
from trunkline.workers.memory import PAGE_BYTES, SET_BYTES_MAX, Memory
from trunkline.workers.scratch import remove_tree

FIRST_FILES_MAX, FIRST_BYTES_MAX = 50, 4 * 2**20
"""Of the first part of a set, so that work begins soon."""
PART_FILES_MAX, PART_BYTES_MAX = 500, 64 * 2**20
KEPT_TREES_MAX = 8
KEPT_BYTES_MAX = 4 * 2**30
LISTED_PER_PAGE = 1000

Datum = Mapping[str, Any]
"""One of ``payload["datums"]``."""


@dataclass(kw_only=True)
class Part:
    """Datums whose inputs are fetched together."""

    datums: list[Datum]
    seconds: float = 0.0
    """What fetching took; shared out by size."""
    size: int = 0
    error: Exception | None = None
    failed: dict[str, TrunklineError] = field(default_factory=dict)
    """Datums of which an input cannot be had, by their ids."""


class Inputs:
    """The inputs of one worker's datum sets, one set at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._memory: Memory | None = None
        self._trees: dict[str, _Tree] = {}
        self._uses: Counter[tuple[str, str]] = Counter()
        self._moves: set[str] = set()
        """Trees of which no match lies inside another: what one datum uses may be moved."""
        self._inputs: Sequence[Mapping[str, Any]] = ()
        self._fetched: list[bool] = []
        """Of each input, whether its files are fetched before they are laid out."""
        self._box: Box | None = None
        """Where something is laid out."""
        self._laid: list[tuple[str, str]] = []
        """What to take away again: its path below ``/pfs``, and the name of the input if it is all of it."""
        self._names: set[str] = set()
        self._pipes: LazyPipes | None = None

    def begin(self, payload: Mapping[str, Any], memory: Memory | None = None) -> None:
        """A new set, to be laid out in ``memory``."""
        if memory is not self._memory:
            for tree in self._trees.values():
                remove_tree(tree.folder)
            self._trees.clear()
            self._memory = memory
        self._inputs = payload["inputs"]
        self._fetched = [_is_fetched(one) for one in self._inputs]
        self._uses = Counter(
            (self._inputs[index]["root"], path)
            for datum in payload["datums"]
            for index, path, *_ in datum["files"]
            if self._fetched[index]
        )
        by_root: dict[str, list[str]] = {}
        for root, path in self._uses:
            by_root.setdefault(root, []).append(path)
        self._moves = {root for root, paths in by_root.items() if not _overlap(paths)}

    def parts(self, datums: Sequence[Datum]) -> Iterator[list[Datum]]:
        """The datums in parts to be fetched together; the first is small."""
        part: list[Datum] = []
        count = size = 0
        files_max, bytes_max = FIRST_FILES_MAX, FIRST_BYTES_MAX
        for datum in datums:
            part.append(datum)
            count += len(datum["files"])
            size += size_of(datum)
            if count >= files_max or size >= bytes_max:
                yield part
                part, count, size = [], 0, 0
                files_max, bytes_max = PART_FILES_MAX, PART_BYTES_MAX
        if part:
            yield part

    def fetch(self, context: TaskContext, datums: Sequence[Datum]) -> int:
        """Get what is not there yet; returns how many bytes it was."""
        wanted: dict[str, dict[str, int]] = {}
        for datum in datums:
            for index, path, _, size in datum["files"]:
                if self._fetched[index]:
                    wanted.setdefault(self._inputs[index]["root"], {})[path] = size
        total = 0
        for root, sizes in wanted.items():
            tree = self._trees.get(root)
            if tree is None:
                tree = self._trees[root] = self._new_tree(root)
            paths = [path for path in _outermost(sizes) if not tree.has(path)]
            if not paths:
                continue
            folder = tree.folder

            def action(
                client: Transport, root: str = root, paths: list[str] = paths, folder: Path = folder
            ) -> None:
                client.download_folder(f"/v1/filesets/{root}/archive", folder, ask={"paths": paths})

            try:
                retrying(context, action)
            except BaseException as error:
                for path in paths:  # half of it would fill a disk that is full already
                    _discard(f"{folder}{path.rstrip('/')}")
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise disk_full() from error
                raise
            tree.paths.update(paths)
            size = sum(sizes[path] for path in paths)
            tree.size += size
            total += size
        return total

    def _new_tree(self, root: str) -> _Tree:
        if self._memory is None:
            return _Tree(self._folder / root, (None, f"{self._folder}/{root}"))
        return _Tree(self._memory.folder / "store" / root, (self._memory.handle, f"store/{root}"))

    # --- what a datum sees ---

    def lay(self, context: TaskContext, box: Box, datum: Datum) -> dict[str, str]:
        """Make ``/pfs`` what the datum is to see; returns the path of each input as it sees it."""
        seen: dict[str, str] = {}
        files = datum["files"]
        wanted = {self._inputs[index]["name"] for index, _, _, _ in files}
        if not self._names <= wanted:
            for name in self._names - wanted:
                remove_tree(box.pfs / name)
            self._names &= wanted
        self._box = box
        for index, path, _, _ in files:
            one = self._inputs[index]
            name = one["name"]
            if one.get("s3"):
                continue
            if name not in self._names:
                (box.pfs / name).mkdir(parents=True, exist_ok=True)
                self._names.add(name)
            inside = f"{box.seen_pfs}/{name}"
            seen[name] = inside if name in seen else f"{inside}{path.rstrip('/')}"
            if self._fetched[index]:
                self._lay_one(one["root"], path, name, box)
            else:
                self._lay_names(context, one, path, f"{box.pfs}/{name}", box)
                self._laid.append(_place(name, path))
        return seen

    def _lay_one(self, root: str, path: str, name: str, box: Box) -> None:
        tree, inside = self._trees[root], path.rstrip("/")
        if inside.count("/") > 1:
            os.makedirs(f"{box.pfs}/{name}{inside.rpartition('/')[0]}", exist_ok=True)  # noqa: PTH103
        self._laid.append(_place(name, path))
        if root in self._moves and self._uses[root, path] == 1:
            if path == "/":
                remove_tree(box.pfs / name)
            _move(tree, inside, box, name)
            tree.paths.discard(path)
            return
        source, target = f"{tree.folder}{inside}", f"{box.pfs}/{name}{inside}"
        use = _link if box.mode != "paths" else shutil.copy2
        if path.endswith("/"):
            shutil.copytree(source, target, copy_function=use, dirs_exist_ok=True)
        elif not os.path.lexists(target):
            use(source, target)

    def _lay_names(self, context: TaskContext, one: Mapping[str, Any], path: str, top: str, box: Box) -> None:
        """Files of which only the names are there: empty ones, or pipes that are filled when they are opened."""
        if one["lazy"] and self._pipes is None:
            self._pipes = LazyPipes(context.link, box.beside_pfs)
        for file in [path] if not path.endswith("/") else _listed(context, one["root"], path):
            target = top + file
            os.makedirs(target.rpartition("/")[0], exist_ok=True)  # noqa: PTH103
            if one["lazy"]:
                assert self._pipes is not None, "it was made above"
                self._pipes.add(one["root"], file, target)
            else:
                os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))

    def trees_seen(self, box: Box, datum: Datum) -> dict[str, str]:
        """Folders that the datum sees whose content is not on this machine, with their tree."""
        return {
            f"{box.seen_pfs}/{self._inputs[index]['name']}": self._inputs[index]["root"]
            for index, *_ in datum["files"]
            if not self._fetched[index] and not self._inputs[index].get("s3")
        }

    @property
    def problem(self) -> str:
        """Why a lazy file could not be given to the command, if one could not."""
        return "" if self._pipes is None else self._pipes.problem

    def take_problem(self) -> str:
        """The same, and the next command does not suffer from it."""
        if self._pipes is None:
            return ""
        found, self._pipes.problem = self._pipes.problem, ""
        return found

    def clear(self) -> None:
        """Take away what was laid out for a datum."""
        if self._pipes is not None:
            self._pipes.close()
            self._pipes = None
        if self._box is None:
            return
        at, pfs = self._box.pfs_from
        for place, whole in self._laid:
            try:
                os.unlink(f"{pfs}/{place}", dir_fd=at)
            except (IsADirectoryError, PermissionError):
                remove_tree(self._box.pfs / place)
                self._names.discard(whole)
            except FileNotFoundError:
                pass
        self._laid.clear()
        self._box = None

    def forget_names(self) -> None:
        """``/pfs`` is a new one."""
        self._names.clear()

    def end(self) -> None:
        """The set is over. Trees of which something was shared stay for the next one, while there is room."""
        kept, kept_max = 0, KEPT_BYTES_MAX if self._memory is None else SET_BYTES_MAX
        for number, root in enumerate(reversed(list(self._trees))):
            tree = self._trees[root]
            kept += tree.size + len(tree.paths) * PAGE_BYTES
            if not tree.paths or number >= KEPT_TREES_MAX or kept > kept_max:
                remove_tree(tree.folder)
                del self._trees[root]


@dataclass(kw_only=False)
class _Tree:
    """What has been fetched of a tree."""

    folder: Path
    opened: tuple[int | None, str]
    """The same as an open folder, if there is one, and the path from there."""
    paths: set[str] = field(default_factory=set)
    size: int = 0

    def has(self, path: str) -> bool:
        """Whether it, or a folder above it, was fetched and not moved away."""
        if path in self.paths:
            return True
        at = path.rstrip("/")
        while at:
            at = at.rpartition("/")[0]
            if at + "/" in self.paths:
                return True
        return False


class Prefetch:
    """Fetches the next part while the commands of this one run."""

    def __init__(self, context: TaskContext, inputs: Inputs, datums: Sequence[Datum]) -> None:
        self.part = Part(datums=list(datums))
        self._context = context
        self._inputs = inputs
        self._thread = threading.Thread(target=self._run, name="fetch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        part = self.part
        try:
            self._fetch(part)
        except Exception as error:  # raised where the part is waited for
            part.error = error

    def _fetch(self, part: Part) -> None:
        started = time.monotonic()
        try:
            part.size = self._inputs.fetch(self._context, part.datums)
        except UnavailableError:
            raise
        except TrunklineError:  # of one of them: which?
            for datum in part.datums:
                try:
                    part.size += self._inputs.fetch(self._context, [datum])
                except UnavailableError:
                    raise
                except TrunklineError as error:
                    part.failed[datum["id"]] = error
        part.seconds = time.monotonic() - started

    def join(self) -> None:
        """Until it fetches no more, whatever came of it."""
        self._thread.join()

    def wait(self) -> Part:
        """The part, once it is there."""
        self._thread.join()
        if self.part.error is not None:
            raise self.part.error
        return self.part


def retrying(context: TaskContext, action: Any) -> Any:
    """Repeat while the server does not answer. :raises Interrupted: if the work stops being wanted meanwhile."""
    try:
        return context.link.retrying(action, give_up=context.interrupted.is_set)
    except UnavailableError:
        context.check()
        raise


def _place(name: str, path: str) -> tuple[str, str]:
    if path == "/":
        return name, name
    return f"{name}/{path.split('/', 2)[1]}", ""


def size_of(datum: Datum) -> int:
    """Bytes of a datum's inputs."""
    return sum([size for _, _, _, size in datum["files"]])


def _is_fetched(one: Mapping[str, Any]) -> bool:
    return not (one.get("lazy") or one.get("empty_files") or one.get("s3"))


def _overlap(paths: Sequence[str]) -> bool:
    """Whether one of them lies inside another."""
    return len(_outermost(paths)) < len(paths)


def _outermost(paths: Any) -> list[str]:
    """Those that lie in no other one."""
    found: list[str] = []
    for path in sorted(paths):
        if not (found and found[-1].endswith("/") and path.startswith(found[-1])):
            found.append(path)
    return found


def disk_full() -> LimitError:
    """What is to be said when there is no room."""
    return LimitError("the disk is full: free some space in the data directory", kind="disk_full")


def _discard(place: str) -> None:
    try:
        os.unlink(place)  # noqa: PTH108
    except FileNotFoundError:
        pass
    except OSError:
        remove_tree(Path(place))


def _move(tree: _Tree, inside: str, box: Box, name: str) -> None:
    (source_at, source), (target_at, pfs) = tree.opened, box.pfs_from
    try:
        os.rename(f"{source}{inside}", f"{pfs}/{name}{inside}", src_dir_fd=source_at, dst_dir_fd=target_at)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # The sandbox is not the one for which this was fetched.
        shutil.move(f"{tree.folder}{inside}", f"{box.pfs}/{name}{inside}")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # more links than the file system allows, or another file system
        shutil.copy2(source, target)


def _listed(context: TaskContext, root: str, path: str) -> Iterator[str]:
    """The files below a directory of a tree."""
    cursor = None
    while True:
        query = {"path": path, "walk": True, "limit": LISTED_PER_PAGE, "cursor": cursor}
        page = context.call("GET", f"/v1/filesets/{root}/tree", query=query)
        yield from (item["path"] for item in page["items"])
        cursor = page["next"]
        if cursor is None:
            return
