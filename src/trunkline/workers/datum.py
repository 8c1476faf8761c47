"""The datum worker: takes sets of datums, fetches their inputs, runs the user's command on each, sends what it leaves in
``/pfs/out``. Tries a datum again where it may help; says for each how it went, soon after it ended."""

from __future__ import annotations

import errno
import itertools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trunkline.core.garbage import keep_what_is_there
from trunkline.errors import LimitError, TrunklineError, UnavailableError
from trunkline.workers.batching import Batching
from trunkline.workers.inputs import Datum, Inputs, Part, Prefetch, disk_full, size_of
from trunkline.workers.lease import Interrupted, Outcome, TaskContext, WorkerEnvironment, serve
from trunkline.workers.logs import hiding
from trunkline.workers.outputs import View
from trunkline.workers.place import Place
from trunkline.workers.results import Result, Results
from trunkline.workers.sandbox import Command, Ended, become_subreaper
from trunkline.workers.scratch import make_scratch, remove_tree
from trunkline.workers.staying import stay
from trunkline.workers.variables import datum_variables, env_file, job_variables

log = logging.getLogger(__name__)

SIGNALLED = 128
"""An exit code above it is that of a command that was killed."""
FULL_BYTES = 2**20
"""A disk with less room than this is full."""


def run_worker(environment: WorkerEnvironment) -> int:
    """Serve datum sets until there are none for a while."""
    become_subreaper()
    os.umask(0o022)  # a pipeline's user reads what is fetched here
    scratch = make_scratch(environment.home, environment.process_id)
    runner = DatumSetRunner(environment, scratch)
    try:
        runner.warm_up()
        keep_what_is_there()
        return serve(environment, runner)
    finally:
        runner.close()
        remove_tree(scratch)


class DatumSetRunner:
    """The handler of datum sets: one at a time."""

    def __init__(self, environment: WorkerEnvironment, scratch: Path) -> None:
        self._environment = environment
        self._scratch = scratch
        self._numbers = itertools.count()
        self._place = Place(environment, scratch)
        self._inputs = Inputs(scratch / "store")
        self._batching: Batching | None = None

    def warm_up(self) -> None:
        """Do now what the first set would wait for."""
        try:
            self._place.warm_up()
        except UnavailableError as error:
            log.warning("%s", error)  # said again, to whom it matters, when a set comes

    def close(self) -> None:
        """End what runs."""
        self._end_batching()
        self._place.close()

    def __call__(self, context: TaskContext) -> Outcome:
        payload = context.task.payload
        folder = self._scratch / f"set-{next(self._numbers)}"
        try:
            self._prepare(context, payload)
        except (TrunklineError, OSError) as error:
            if getattr(error, "kind", "") == "unreachable":
                raise
            self._fail_all(context, folder, str(_known(error)))
            return Outcome()
        try:
            self._run(context, folder)
        finally:
            self._inputs.clear()
            self._inputs.end()
            remove_tree(folder)
        return Outcome()

    def _prepare(self, context: TaskContext, payload: Mapping[str, Any]) -> None:
        if self._place.wants_another(payload):
            self._end_batching()
        if self._place.prepare(context, payload):
            self._inputs.forget_names()
        if self._place.warning:
            context.log(
                f"warning: user code is not isolated, and /pfs is at $PFS_ROOT: {self._place.warning}",
                "trunkline",
            )

    def _fail_all(self, context: TaskContext, folder: Path, reason: str) -> None:
        """This machine cannot do any of them, and another try would not change that."""
        context.log(f"no datum can be done: {reason}", "trunkline")
        results = Results(context, folder)
        for datum in context.task.payload["datums"]:
            attempts = int(datum["attempts"]) + 1
            results.add(Result(id=datum["id"], status="failed", attempts=attempts, reason=reason))
        results.close()
        remove_tree(folder)

    def _run(self, context: TaskContext, folder: Path) -> None:
        results = Results(context, folder)
        try:
            run = SetRun(context, self._place, self._inputs, results)
            if context.task.payload["transform"].get("datum_batching"):
                if self._batching is None:
                    self._batching = Batching(self._place)
                run.batching = self._batching
            run.all()
        except Interrupted:
            if context.interruption == "lost":
                results.abandon()
            else:
                results.close()  # what is done is done
            raise
        except BaseException:
            results.abandon()
            raise
        results.close(is_whole=True)

    def _end_batching(self) -> None:
        if self._batching is not None:
            self._batching.close()
            self._batching = None


class SetRun:
    """One set, from its first datum to its last."""

    def __init__(self, context: TaskContext, place: Place, inputs: Inputs, results: Results) -> None:
        payload = context.task.payload
        self._context = context
        self._payload = payload
        self._place = place
        self._inputs = inputs
        self._results = results
        self._view: View | None = None
        self._attempts = {datum["id"]: int(datum["attempts"]) for datum in payload["datums"]}
        self._careful = bool(payload["careful"])
        self._tries = int(payload["tries"])
        self._good_codes = {0, *payload["transform"]["accept_return_code"]}
        self._shown = hiding(
            [
                payload["job_token"],
                payload["env_extra"].get("AWS_SECRET_ACCESS_KEY", ""),
                *payload["secrets_env"].values(),
                *payload["secret_files"].values(),
            ]
        )
        self._now: tuple[str | None, int] = (None, 1)
        """The datum that is being worked on, and which attempt it is."""
        self._command: Command | None = None
        """What all commands have in common."""
        self._url = ""
        self._job_env: dict[str, str] = {}
        self._job_text = ""
        self.batching: Batching | None = None

    def all(self) -> None:
        """Every datum, and those that failed once more at the end, until their tries are used up."""
        self._inputs.begin(self._payload, self._place.box.memory)
        self._place.sandbox.output.listen(self._log, self._shown)
        waiting: Sequence[Datum] = self._payload["datums"]
        while waiting:
            waiting = self._each(waiting)

    def _each(self, datums: Sequence[Datum]) -> list[Datum]:
        """Once each; returns those to be tried again."""
        again: list[Datum] = []
        parts = self._inputs.parts(datums)
        first = next(parts, None)
        fetch = Prefetch(self._context, self._inputs, first) if first else None
        while fetch is not None:
            part = fetch.wait()
            following = next(parts, None)
            fetch = Prefetch(self._context, self._inputs, following) if following else None
            try:
                again += self._part(part)
            except BaseException:
                if fetch is not None:
                    fetch.join()
                raise
        return again

    def _part(self, part: Part) -> list[Datum]:
        if self._payload.get("stays"):
            stay(self, part)
            return []
        if self.batching is not None:
            return self.batching.run(self, part)
        again = []
        for datum in part.datums:
            while not self.one(part, datum):
                if not self._careful:
                    again.append(datum)
                    break
                # Whoever looks at what became of a worker takes the first datum without a result for the cause.
                part = self.fetched_again(datum)
        return again

    # --- one datum ---

    def one(self, part: Part, datum: Datum) -> bool:
        """One try of one datum; False if there is to be another."""
        known = self.begin(part, datum)
        if known is not None:
            return known

        def attempt() -> bool:
            env, _ = self.lay(datum)
            ended = self._run(self._payload["transform"]["cmd"], "stdin", env)
            return self.end(part, datum, ended, env)

        return self.guarded(datum, attempt)

    def guarded(self, datum: Datum, attempt: Callable[[], bool]) -> bool:
        """Do it, and leave nothing of it for the next, however it ends."""
        try:
            return attempt()
        except (Interrupted, UnavailableError):
            raise
        except (TrunklineError, OSError) as error:
            return self.failed(datum, str(_known(error)), {}, may_help=True)
        finally:
            self._inputs.clear()
            if self.batching is None:
                self._place.clean()
            else:
                self._place.clean_output()

    def begin(self, part: Part, datum: Datum) -> bool | None:
        """Look whether it is still wanted, and can be done; if not, what ``one`` answers."""
        self._context.check()
        datum_id = datum["id"]
        self._attempts[datum_id] += 1
        self._now = (datum_id, self._attempts[datum_id])
        self._results.begin(datum_id)
        if self._careful:
            self._results.flush()
            self._context.check()
        error = part.failed.get(datum_id)
        if error is None:
            return None
        may_help = isinstance(error, LimitError)  # a full disk
        return self.failed(datum, f"its input cannot be had: {error}", {}, may_help=may_help)

    def lay(self, datum: Datum, *, whole: bool = False) -> tuple[dict[str, str], dict[str, str]]:
        """Make ``/pfs`` what the datum is to see; what it has in its environment beyond ``job_env``, and where its inputs are.
        ``whole``: what the process does not have in its environment already is in ``/pfs/.env``, too."""
        box = self._place.box
        seen = self._inputs.lay(self._context, box, datum)
        mine = datum_variables(self._payload, datum, seen)
        self.job_env()
        text = env_file(mine)
        self._place.env_file.write(self._job_text + text if whole else text)
        return mine, seen

    def job_env(self) -> dict[str, str]:
        """What the datums of this job have in common; follows a server that moves."""
        if self._url != self._context.link.url:
            self._url = self._context.link.url
            self._job_env = job_variables(
                self._payload, self._place.box, self._url, self._context.environment.process_id
            )
            self._job_text = env_file(self._job_env)
        return self._job_env

    def fetched_again(self, datum: Datum) -> Part:
        """Its inputs, for another try at once."""
        return Prefetch(self._context, self._inputs, [datum]).wait()

    def command(
        self, argv: Sequence[str], stdin: str, env: Mapping[str, str], timeout_seconds: float | None = None
    ) -> Command:
        """A command of this pipeline."""
        if self._command is None or self._command.common is not self.job_env():
            self._command = Command(
                argv=(), stdin=None, env={}, common=self.job_env(), cwd=self._place.cwd(self._payload),
                interrupted=self._context.interrupted, on_wait=self._follow_server,
                is_hopeless=lambda: bool(self._inputs.problem),
            )  # fmt: skip
        read = self._place.box.folder / stdin if self._payload["transform"][stdin] else None
        return self._command._replace(argv=argv, stdin=read, env=env, timeout_seconds=timeout_seconds)

    @property
    def timeout_seconds(self) -> float | None:
        """How long a datum may take."""
        return self._payload.get("datum_timeout_seconds")

    @property
    def payload(self) -> Mapping[str, Any]:
        return self._payload

    @property
    def careful(self) -> bool:
        return self._careful

    def _run(self, argv: Sequence[str], stdin: str, env: Mapping[str, str]) -> Ended:
        return self.run_command(argv, stdin, env, self.timeout_seconds)

    def run_command(
        self, argv: Sequence[str], stdin: str, env: Mapping[str, str], timeout_seconds: float | None
    ) -> Ended:
        """Run one to its end. :raises Interrupted: if it is not wanted any more; nothing of it is left then."""
        if self.batching is not None:
            self.batching.stop()  # one command at a time
        ended = self._place.sandbox.run(self.command(argv, stdin, env, timeout_seconds))
        self.revive()
        if ended.was_interrupted:
            raise Interrupted
        return ended

    def revive(self) -> None:
        """If the sandbox itself was killed (for its memory, say), have another."""
        if not self._place.sandbox.is_lost:
            return
        self._inputs.clear()
        self._place.discard()
        self._inputs.forget_names()
        self._place.prepare(self._context, self._payload)
        self._view = self._command = None
        self._place.sandbox.output.listen(self._log, self._shown)

    def _follow_server(self) -> None:
        if self._context.link.url != self._url:
            self._url = ""
            self._place.box.note_server(self._context.link.url)

    # --- its end ---

    def end(self, part: Part, datum: Datum, ended: Ended, env: Mapping[str, str]) -> bool:
        """What follows from how its command ended; False if there is to be another try."""
        stats = self._stats(part, datum, ended)
        problem = self.take_problem()
        if problem:  # whatever the command says: it has not seen all
            return self.failed(datum, problem, stats, env, may_help=True)
        if ended.exit_code in self._good_codes and not (ended.kind or ended.timed_out):
            result = self._result(datum, "succeeded", stats)
            try:
                self._take(result, datum)
            except (TrunklineError, OSError) as error:
                self._results.forget_outputs(result)
                return self.failed(datum, str(_known(error)), stats, may_help=True)
            self._results.add(result)
            return True
        hint = _hint(self._place)
        is_its_own = not hint and _ended_by_itself(ended) and self.batching is None
        return self.failed(
            datum, ended.reason + hint, stats, env, may_help=not ended.kind, is_its_own=is_its_own
        )

    def failed(
        self,
        datum: Datum,
        reason: str,
        stats: dict[str, Any],
        env: Mapping[str, str] | None = None,
        *,
        may_help: bool,
        is_its_own: bool = False,
    ) -> bool:
        """A try failed. False if there is to be another; else ``err_cmd`` has the last word. ``is_its_own``: it was the
        command that gave up, and what it had to say about that is in the log.
        """
        attempt = self._attempts[datum["id"]]
        if attempt < self._tries and may_help:
            self._note(f"attempt {attempt} of {self._tries} failed, will be tried again: {reason}")
            return False
        err_cmd = self._payload["transform"]["err_cmd"]
        if err_cmd and env is not None:
            self._note(f"the command failed ({reason}); running err_cmd")
            ended = self._run(err_cmd, "err_stdin", env)
            if ended.exit_code == 0:
                self._results.add(self._result(datum, "recovered", stats, reason))
                return True
            reason += f"; and err_cmd failed: {ended.reason}"
        if not is_its_own:
            self._note(f"attempt {attempt} of {self._tries} failed: {reason}")
        self._failed(datum, reason, stats)
        return True

    def take_problem(self) -> str:
        """What kept the command from reading its inputs, if something did; asked once."""
        return self._inputs.take_problem()

    def _take(self, result: Result, datum: Datum) -> None:
        if self._payload.get("s3_out"):  # what it put by S3 is its output
            return
        if self._place.output_is_empty():
            return
        if self._view is None:
            self._view = self._place.view()
        self._view.trees = self._inputs.trees_seen(self._place.box, datum)
        self._results.take_outputs(result, self._view)
        limit = (self._payload.get("limits") or {}).get("disk_bytes")
        if limit is not None and result.size > limit:
            raise LimitError(
                f"/pfs/out holds {result.size} bytes, more than its disk limit of {limit}", kind="disk_limit"
            )

    def _failed(self, datum: Datum, reason: str, stats: dict[str, Any]) -> None:
        self._results.add(self._result(datum, "failed", stats, reason))

    def _result(self, datum: Datum, status: str, stats: dict[str, Any], reason: str = "") -> Result:
        return Result(
            id=datum["id"], status=status, attempts=self._attempts[datum["id"]], reason=reason, stats=stats
        )

    def _stats(self, part: Part, datum: Datum, ended: Ended) -> dict[str, Any]:
        """Rounded, for a row, without what is nothing."""
        size = size_of(datum)
        share = min(1.0, size / part.size) if part.size else 0.0
        found: dict[str, Any] = {
            "download_seconds": round(part.seconds * share, 6), "download_bytes": size,
            "process_seconds": round(ended.seconds, 6), "cpu_seconds": round(ended.cpu_seconds, 6),
            "memory_bytes": ended.memory_bytes, "oom": ended.oom,
        }  # fmt: skip
        stats = {name: value for name, value in found.items() if value}
        stats["exit_code"] = ended.exit_code
        return stats

    # --- the log ---

    def _log(self, text: str, stream: str) -> None:
        self._context.log(text, stream, *self._now)

    def _note(self, text: str) -> None:
        self._log(text, "trunkline")

    def note(self, text: str) -> None:
        """A remark of our own in the log."""
        self._note(text)

    def pause(self, seconds: float) -> None:
        """:raises Interrupted: if the work stops being wanted meanwhile."""
        self._context.interrupted.wait(seconds)
        self._context.check()

    def clean(self) -> None:
        """Nothing that a command wrote is seen by the next."""
        self._place.clean()


def _ended_by_itself(ended: Ended) -> bool:
    """It was started, and neither killed nor stopped: its exit code is its own word."""
    return 0 < ended.exit_code <= SIGNALLED and not (ended.kind or ended.timed_out or ended.oom)


def _known(error: Exception) -> Exception:
    """An error in words that help."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return disk_full()
    return error


def _hint(place: Place) -> str:
    """Why a command may have failed that does not say so itself."""
    found = os.statvfs(place.box.out)
    if found.f_bavail * found.f_frsize < FULL_BYTES:
        return " (the disk is full: free some space in the data directory)"
    return ""
