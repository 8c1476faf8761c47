"""The composition root: the one place that knows every domain and every driver, and how they fit together.

Domains get what they need as arguments. What two of them must do together without knowing each other (a service that loads
a model out of a repo, a pipeline whose jobs need tokens) is tied here.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection

from trunkline.access.model import Scope
from trunkline.access.service import AccessService
from trunkline.core.clock import Clock, SystemClock
from trunkline.core.ids import DEFAULT_PROJECT, TreeHash, is_commit_id
from trunkline.errors import (
    ConflictError,
    CorruptionError,
    InvalidInputError,
    NotFoundError,
    StateError,
    UnavailableError,
)
from trunkline.jobs.engines.process import ProcessEngine
from trunkline.jobs.model import CONTROL_QUEUE, Again, Done, LaunchSpec, Outcome, Task
from trunkline.jobs.outbox import Outbox
from trunkline.jobs.pool import Pool, ProcessTable
from trunkline.jobs.queue import TaskQueue
from trunkline.jobs.service import JobsService
from trunkline.lineage import PurgeLineage
from trunkline.pipelines import datum_store, results
from trunkline.pipelines import store as pipeline_store
from trunkline.pipelines.egress import manifest
from trunkline.pipelines.egress.base import Target
from trunkline.pipelines.egress.bucket import BucketTarget
from trunkline.pipelines.egress.folder import FolderTarget, allowed_path
from trunkline.pipelines.egress.opening import Targets
from trunkline.pipelines.egress.sql import PostgresTarget, SqliteTarget
from trunkline.pipelines.service import PipelineService
from trunkline.registry import store as registry_store
from trunkline.registry.model import LATEST
from trunkline.registry.service import RegistryService
from trunkline.secrets.service import SecretsService
from trunkline.serving.service import ServingService
from trunkline.settings import Settings, inherited_environment
from trunkline.sources.bounds import Bounds
from trunkline.sources.guard import Rules
from trunkline.sources.places import LinkRules
from trunkline.sources.service import SourcesService
from trunkline.sources.web import Fetcher
from trunkline.storage.buckets import Buckets
from trunkline.storage.bucketwriter import BucketWriter
from trunkline.storage.db.engine import Database
from trunkline.storage.objects import open_store
from trunkline.training import store as training_store
from trunkline.training.service import TrainingService
from trunkline.versioning.roots import RootSource
from trunkline.versioning.service import TransactionService, VersioningService

log = logging.getLogger(__name__)

FIRE_TRIGGERS = "fire-triggers"
_REPO_URI = re.compile(r"(?:trunkline://)?([\w-]+/)?[\w-]+@[^:]+(:.*)?", re.ASCII)

S3_REGION = "us-east-1"
"""The door has one; clients must name it."""
GC = "gc"
BUSY_SECONDS = 600.0
FIRST_GC_SECONDS = 900.0
"""After a start: the server is busy with other things then."""
_COMMIT_LABEL = re.compile(r"commit ([\w-]+)/([\w-]+)@([0-9a-f]{32})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Services:
    """Everything the edges call."""

    settings: Settings
    clock: Clock
    db: Database
    access: AccessService
    jobs: JobsService
    table: ProcessTable
    versioning: VersioningService
    sources: SourcesService
    transactions: TransactionService
    secrets: SecretsService
    registry: RegistryService
    pipelines: PipelineService
    training: TrainingService
    serving: ServingService
    lineage: PurgeLineage
    job_door: JobEntrance
    started_at: float

    def start(self) -> None:
        """Adopt what still runs, and start the background loops."""
        self._forget_old_workers()
        self.versioning.forget_crashed_work()
        if self.settings.gc_every_hours:
            with self.db.write() as connection:
                self.jobs.queue.enqueue(
                    connection, kind=GC, key="store", queue=CONTROL_QUEUE, payload={},
                    after_seconds=min(FIRST_GC_SECONDS, self.settings.gc_every_hours * 3600),
                )  # fmt: skip
        self.serving.start()
        self.jobs.start()

    def stop_work(self) -> None:
        """End the loops and the workers. The API must still answer meanwhile: workers give their tasks back through it."""
        self.serving.rest()
        self.jobs.stop()
        self.jobs.pool.stop_all()

    def stop(self) -> None:
        """End everything else that was started here: replicas, the gateway, and whatever worker is left."""
        self.jobs.stop()
        self.serving.stop_all()
        stop_children(self.table)
        self.db.close()

    def _forget_old_workers(self) -> None:
        """Revoke the tokens of workers that ended while nobody looked."""
        running = {f"worker:{process.id}" for process in self.table.running("worker")}
        for subject in self.access.subjects(Scope.WORKER) - running:
            self.access.revoke(subject)


def open_database(settings: Settings) -> Database:
    """The database of a server; a new one if there is none yet.

    :raises CorruptionError: ``database_lost``, where there is none any more: packs are there, and nothing knows them. A new
    database would take them all for what failed writes left, to be deleted.
    """

    def refuse_what_is_lost() -> None:
        place = settings.place_of_objects
        if next(iter(open_store(place, settings.options_of_objects).list("packs/")), None) is not None:
            raise CorruptionError(
                f"the database is lost: {place} holds packs, and the database nothing; restore a backup into a new place "
                "('trunkline restore BACKUP --home DIR'), or move those packs away to begin anew",
                kind="database_lost",
            )

    return Database(settings.url_of_database, before_new=refuse_what_is_lost)


def build(settings: Settings, *, clock: Clock | None = None) -> Services:
    """Wire everything up; nothing runs yet."""
    clock = clock or SystemClock()
    db = open_database(settings)
    access = AccessService(db, clock)
    outbox = Outbox(db, clock)
    queue = TaskQueue(db, clock, settings.lease_seconds)
    table = ProcessTable(db, clock, {"process": ProcessEngine()})
    commands = WorkerCommands(settings, access)
    pool = Pool(
        db=db, queue=queue, table=table, command=commands, limits={"trial": settings.trials_max},
        standby=settings.standby_workers, wants_standby=pipeline_store.is_any,
    )  # fmt: skip
    jobs = JobsService(db=db, clock=clock, queue=queue, outbox=outbox, pool=pool)
    objects = open_store(settings.place_of_objects, settings.options_of_objects)
    buckets = Buckets(s3_endpoint=settings.fetch_s3_endpoint)
    versioning = VersioningService(
        db=db, objects=objects, clock=clock, publish=outbox.publish,
        allow_lookalikes=settings.allow_lookalikes, buckets=buckets,
    )  # fmt: skip
    sources = build_sources(settings, versioning, buckets)
    secrets = SecretsService(db=db, clock=clock)
    registry = RegistryService(db=db, clock=clock, versioning=versioning, publish=outbox.publish)
    job_door = JobEntrance(access)
    pipelines = PipelineService(
        db=db, clock=clock, versioning=versioning, jobs=jobs, secrets=secrets, settings=settings,
        issue_token=access.issue, open_target=egress_targets(settings, secrets),
        job_door=job_door,
    )  # fmt: skip
    training = TrainingService(
        db=db, clock=clock, versioning=versioning, registry=registry, jobs=jobs, settings=settings
    )
    serving = ServingService(
        db=db, clock=clock, secrets=secrets, settings=settings, table=table, jobs=jobs,
        open_model=ModelResolver(versioning, registry),
    )  # fmt: skip
    pipelines.register()
    training.register()
    jobs.on_control(GC, PeriodicGc(versioning, settings))
    versioning.learn_roots(root_sources())
    versioning.learn_to_make(OutputMaker(pipelines))
    transactions = TransactionService(
        db=db, clock=clock, publish=outbox.publish,
        cases={
            **versioning.transaction_cases(), "create_pipeline": pipelines.create,
            "create_pipelines": pipelines.create_all,
        },
    )  # fmt: skip
    _watch_the_clock(versioning, jobs, clock)
    outbox.subscribe(
        "job.finished",
        lambda connection, job: access.revoke_in(
            connection, f"job:{job['project']}/{job['pipeline']}@{job['id']}"
        ),
    )
    outbox.subscribe("spout.ended", lambda connection, spout: access.revoke_in(connection, spout["subject"]))
    return Services(
        settings=settings, clock=clock, db=db, access=access, jobs=jobs, table=table, versioning=versioning, sources=sources,
        transactions=transactions, secrets=secrets, registry=registry, pipelines=pipelines, training=training, serving=serving,
        lineage=PurgeLineage(
            db=db, versioning=versioning, pipelines=pipelines, training=training, registry=registry, serving=serving
        ),
        job_door=job_door,
        started_at=clock.now(),
    )  # fmt: skip


def build_sources(settings: Settings, versioning: VersioningService, buckets: Buckets) -> SourcesService:
    """Where files may come from, as the settings say."""
    roots = None if settings.link_roots is None else tuple(settings.link_roots)
    return SourcesService(
        versioning=versioning,
        fetcher=Fetcher(
            rules=Rules(private=settings.fetch_private, hosts=tuple(settings.fetch_hosts)),
            bytes_max=settings.fetch_bytes_max,
            seconds_max=settings.fetch_seconds_max,
        ),
        buckets=buckets,
        bounds=Bounds(bytes_max=settings.unpack_bytes_max, ratio_max=settings.unpack_ratio_max),
        link_rules=LinkRules(
            data_dir=settings.home, roots=roots, home=None if settings.remote else Path.home()
        ),
    )


def egress_targets(settings: Settings, secrets: SecretsService) -> Targets:
    """The drivers of egress, by the schemes of their URLs."""
    folders = tuple(settings.egress_folders)

    def path_of(url: str) -> Path:
        return allowed_path(url, folders, settings.home)

    def bucket(url: str) -> Target:
        return BucketTarget(BucketWriter(url, s3_endpoint=settings.fetch_s3_endpoint))

    def postgres(url: str, password: str | None, format_: str, columns: Sequence[str]) -> Target:
        return PostgresTarget(url, password, format_=format_, columns=columns)

    def sqlite(url: str, _password: str | None, format_: str, columns: Sequence[str]) -> Target:
        return SqliteTarget(path_of(url), format_=format_, columns=columns)

    return Targets(
        secrets=secrets,
        files={"file": lambda url: FolderTarget(path_of(url)), "s3": bucket, "gs": bucket, "az": bucket},
        tables={"postgresql": postgres, "postgres": postgres, "sqlite": sqlite},
    )


class JobEntrance:
    """Where jobs find their buckets by S3. Whoever runs the server says how it is opened; it is, when a job needs it."""

    def __init__(self, access: AccessService) -> None:
        self._access = access
        self._open: Callable[[], str] | None = None

    def opens_with(self, opener: Callable[[], str] | None) -> None:
        """``opener`` opens it, unless it is open, and returns its URL."""
        self._open = opener

    def __call__(self, token: str) -> dict[str, str]:
        """The environment of a job, for the usual clients.

        :raises UnavailableError: ``no_job_door``.
        """
        if self._open is None:
            raise UnavailableError("this server speaks no S3 to its jobs", kind="no_job_door")
        url, pair = self._open(), self._access.key_pair(token)
        return {
            "S3_ENDPOINT": url, "AWS_ENDPOINT_URL_S3": url, "AWS_ACCESS_KEY_ID": pair.id,
            "AWS_SECRET_ACCESS_KEY": pair.secret, "AWS_REGION": S3_REGION, "AWS_DEFAULT_REGION": S3_REGION,
        }  # fmt: skip


class PeriodicGc:
    """The control step that collects garbage now and then."""

    def __init__(self, versioning: VersioningService, settings: Settings) -> None:
        self._versioning = versioning
        self._settings = settings

    def __call__(self, task: Task) -> Outcome:
        hours = self._settings.gc_every_hours
        if not hours:
            return Done()
        try:
            done = self._versioning.gc(grace_seconds=self._settings.gc_grace_hours * 3600)
            log.info("gc: %d bytes freed, %d packs deleted", done.freed_bytes, done.packs_deleted)
        except StateError:
            return Again(after_seconds=BUSY_SECONDS)  # a backup, say
        except CorruptionError as error:
            log.error("gc: %s", error)
        return Again(after_seconds=hours * 3600)


class OutputMaker:
    """Puts the output commit of a job together again out of its datums' outputs, whose nodes are stored apart from it."""

    def __init__(self, pipelines: PipelineService) -> None:
        self._pipelines = pipelines

    def __call__(self, label: str) -> bool:
        """``label`` names what is damaged, as ``fsck`` does: ``commit PROJECT/REPO@ID``. False if it cannot be done."""
        found = _COMMIT_LABEL.fullmatch(label)
        if found is None:
            return False
        try:
            return self._pipelines.make_output(*found.groups())
        except (ConflictError, CorruptionError, NotFoundError):
            return False


def root_sources() -> tuple[RootSource, ...]:
    """Every column outside of versioned data that refers to a tree."""
    return (
        *pipeline_store.ROOTS,
        *datum_store.ROOTS,
        *results.ROOTS,
        *manifest.ROOTS,
        *training_store.ROOTS,
        *registry_store.ROOTS,
    )


def _watch_the_clock(versioning: VersioningService, jobs: JobsService, clock: Clock) -> None:
    """Triggers with a time: one control task, which is asked for when there is a new time and sleeps until the next one."""

    def step(_task: Task) -> Outcome:
        next_at = versioning.fire_due_triggers()
        return Done() if next_at is None else Again(after_seconds=max(0.0, next_at - clock.now()))

    def wake(connection: Connection, _event: dict[str, Any]) -> None:
        jobs.queue.enqueue(connection, kind=FIRE_TRIGGERS, key="all", queue=CONTROL_QUEUE)

    jobs.on_control(FIRE_TRIGGERS, step)
    jobs.outbox.subscribe("trigger.scheduled", wake)


def stop_children(table: ProcessTable) -> int:
    """End every process that the server has started, workers first; returns how many there were."""
    order = {"worker": 0, "replica": 1, "gateway": 2}
    found = sorted(table.running(), key=lambda process: order.get(process.kind, 1))
    for process in found:
        table.stop(process)
    return len(found)


class WorkerCommands:
    """How worker processes are started: which program, and the little they may know."""

    def __init__(self, settings: Settings, access: AccessService) -> None:
        self._settings = settings
        self._access = access

    def __call__(self, process_id: str, worker: str, queue: str) -> LaunchSpec:
        settings = self._settings
        # No expiry: a trial may take weeks. The token ends with the process (see Services.start).
        token = self._access.issue(Scope.WORKER, f"worker:{process_id}", None)
        env = {
            **inherited_environment(),
            "TRUNKLINE_HOME": str(settings.home),
            "TRUNKLINE_URL": settings.url,
            "TRUNKLINE_WORKER_TOKEN": token,
            "TRUNKLINE_PROCESS_ID": process_id,
            "TRUNKLINE_SANDBOX": settings.sandbox,
            "TRUNKLINE_WORKER_IDLE_SECONDS": str(settings.worker_idle_seconds),
        }
        return LaunchSpec(
            id=process_id,
            argv=(sys.executable, "-m", "trunkline.workers.main", "--worker", worker, "--queue", queue),
            env=env,
            cwd=str(settings.home),
            log_path=str(Path(settings.logs_dir) / "workers" / f"{process_id}.log"),
        )


@dataclass(frozen=True, kw_only=True)
class TreeSource:
    """A directory (or a single file) of a stored tree, as the model of a service."""

    versioning: VersioningService
    root: TreeHash
    path: str
    identity: str
    uri: str
    commit_id: str

    def copy_to(self, folder: Path) -> None:
        """Write the files below ``folder``, executable bits included."""
        top = self.path.rstrip("/")
        prefix = (
            len(top) + 1
            if self.versioning.stat(self.root, self.path).is_dir
            else len(top.rpartition("/")[0]) + 1
        )
        for info in self.versioning.walk(self.root, self.path):
            if info.is_dir:
                continue
            target = folder / info.path[prefix:]
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                for part in self.versioning.read(self.root, info.path):
                    file.write(part)
            if info.executable:
                target.chmod(0o755)


class ModelResolver:
    """Opens a ``storageUri`` that names something stored here: ``[trunkline://][project/]repo@branch-or-ID[:/path]``, or
    ``model://NAME/VERSION`` for the package of a registered version."""

    def __init__(self, versioning: VersioningService, registry: RegistryService) -> None:
        self._versioning = versioning
        self._registry = registry

    def __call__(self, uri: str) -> TreeSource:
        """:raises InvalidInputError: ``bad_storage_uri``. :raises NotFoundError: if what it names is not there."""
        if uri.startswith("model://"):
            return self._open_version(uri)
        if not _REPO_URI.fullmatch(uri):
            raise InvalidInputError(
                f"storageUri {uri!r} is not understood: write file:///folder, [project/]repo@branch:/path or "
                "model://NAME/VERSION",
                kind="bad_storage_uri",
                details={"storageUri": uri},
            )
        commit, root, path = self._versioning.resolve(DEFAULT_PROJECT, uri.removeprefix("trunkline://"))
        return self._source(root, path, f"trunkline://{commit.address}:{path}", commit.id)

    def _open_version(self, uri: str) -> TreeSource:
        model, _, ref = uri.removeprefix("model://").rstrip("/").partition("/")
        version = self._registry.get_version(model, ref or LATEST)
        if version.package_root is None:
            raise NotFoundError(
                f"version {version.name} of model {model} has no package yet: 'trunkline deploy' makes one",
                kind="no_package",
            )
        commit_id = version.name if is_commit_id(version.name) else ""
        return self._source(version.package_root, "/", f"model://{model}/{version.name}", commit_id)

    def _source(self, root: TreeHash, path: str, uri: str, commit_id: str) -> TreeSource:
        found = self._versioning.stat(root, path)
        return TreeSource(
            versioning=self._versioning,
            root=root,
            path=found.path,
            identity=found.hash,
            uri=uri,
            commit_id=commit_id,
        )
