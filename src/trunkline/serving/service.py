"""The use cases of serving: check, decide, write. What makes it so is the control task that each write asks for."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from trunkline.core.clock import Clock
from trunkline.core.ids import check_dns_label
from trunkline.errors import InvalidInputError, NotFoundError
from trunkline.jobs.model import CONTROL_QUEUE
from trunkline.jobs.pool import ProcessTable
from trunkline.jobs.service import JobsService
from trunkline.serving import spec, status, store
from trunkline.serving.deployers.process import KIND as REPLICA
from trunkline.serving.deployers.process import ProcessDeployer
from trunkline.serving.gateway import Gateway
from trunkline.serving.model import InferenceService, ModelSource, Phase, Revision
from trunkline.serving.models import ModelCache, OpenModel, opener
from trunkline.serving.reconcile import Reconciler, SecretValues, host
from trunkline.serving.watch import Watch
from trunkline.settings import Settings
from trunkline.storage.db.engine import Database

TASK = "reconcile-service"
LOG_BYTES = 50_000

Services = list[InferenceService]
Revisions = list[Revision]


class ServingService:
    """Inference services, from manifest to traffic.

    ``open_model`` turns every ``storageUri`` but ``file://`` ones into a source; it raises ``InvalidInputError`` or
    ``NotFoundError`` for an address that is wrong.
    """

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        secrets: SecretValues,
        settings: Settings,
        table: ProcessTable,
        open_model: OpenModel,
        jobs: JobsService,
    ) -> None:
        self._db = db
        self._clock = clock
        self._settings = settings
        self._table = table
        self._jobs = jobs
        self._open_model = opener(open_model, settings.home)
        self._deployer = ProcessDeployer(settings=settings, table=table, clock=clock)
        self.gateway = Gateway(settings=settings, table=table)
        self._reconciler = Reconciler(
            db=db,
            clock=clock,
            settings=settings,
            secrets=secrets,
            deployer=self._deployer,
            gateway=self.gateway,
            cache=ModelCache(settings.run_dir / "models"),
            open_model=self._open_model,
        )
        jobs.on_control(TASK, self._reconciler)
        self._watch = Watch(db=db, table=table, ask=self._ask_all)

    # --- what users do ---

    def apply(
        self, namespace: str | None, manifest: Mapping[str, Any], *, job_id: str = ""
    ) -> tuple[InferenceService, str]:
        """Make a service be as its manifest says; returns it with ``created``, ``configured`` or ``unchanged``.

        The model is looked up now, so a wrong address is an error here, and a branch means what it holds now. A new revision
        comes from a new spec, a new content of the model, a new ID (``trunkline.dev/id``, else ``job_id``, else the model's
        own commit), or from applying again what failed before.

        :raises InvalidInputError: naming the field; ``NotFoundError`` for a missing namespace or model.
        """
        wanted = spec.parse(manifest)
        place = _namespace(namespace, wanted.namespace)
        source = self._open_model(wanted.predictor.storage_uri)
        commit_id = wanted.commit_id or job_id or source.commit_id
        with self._db.write() as connection:
            if not store.has_namespace(connection, place):
                raise NotFoundError(
                    f"namespace {place!r} does not exist: create it with `trunkline create namespace {place}`",
                    kind="no_namespace",
                )
            return self._apply(connection, place, wanted, source, commit_id)

    def get(self, namespace: str, name: str) -> InferenceService:
        """:raises NotFoundError: ``no_inferenceservice``."""
        with self._db.read() as connection:
            return self._existing(connection, namespace, name)

    def list(self, namespace: str | None = None) -> Services:
        """Services of one namespace or of all, by name."""
        with self._db.read() as connection:
            return [s for s in store.list_services(connection, namespace) if not s.deleted]

    def delete(self, namespace: str, name: str) -> None:
        """Take a service out of the traffic; its replicas finish what they have and end.

        :raises NotFoundError: ``no_inferenceservice``.
        """
        with self._db.write() as connection:
            service = self._existing(connection, namespace, name)
            gone = dataclasses.replace(service, deleted=True, resource_version=service.resource_version + 1)
            store.put_service(connection, gone)
            self._ask(connection, service.key)

    def logs(self, namespace: str, name: str) -> str:
        """The end of what the newest replica wrote.

        :raises NotFoundError: ``no_inferenceservice``.
        """
        self.get(namespace, name)
        for revision in reversed(self.revisions(namespace, name)):
            if text := self._deployer.logs(revision, LOG_BYTES):
                return text
        return ""

    def revisions(self, namespace: str, name: str) -> Revisions:
        """All revisions of a service, oldest first."""
        with self._db.read() as connection:
            return store.list_revisions(connection, namespace, name)

    def services_of(self, commit_id: str) -> Revisions:
        """The revisions that carry an ID."""
        with self._db.read() as connection:
            return store.revisions_of_commit(connection, commit_id)

    def active_revisions(self) -> Revisions:
        """The revisions of all services that run, or are about to."""
        with self._db.read() as connection:
            return store.active_revisions(connection)

    # --- the life of the control server ---

    def start(self) -> None:
        """At the server's start, before ``jobs.start()``: have every service looked at. Nothing is touched that runs."""
        self._reconciler.clean()
        self._deployer.clean()
        with self._db.write() as connection:
            for service in store.list_services(connection, None):
                self._ask(connection, service.key)
        self._watch.start()

    def rest(self) -> None:
        """Look after nothing any more, and leave all that runs."""
        self._watch.stop()

    def stop_all(self) -> None:
        """End the gateway and every replica, with what they are doing. For `trunkline down`; a restart does not call this."""
        self.rest()
        self.gateway.stop()
        for process in self._table.running(REPLICA):
            self._table.stop(process)
        self._deployer.clean()

    # --- inside a transaction ---

    def _apply(
        self, connection: Connection, namespace: str, wanted: spec.Parsed, source: ModelSource, commit_id: str
    ) -> tuple[InferenceService, str]:
        now = self._clock.now()
        old = store.get_service(connection, namespace, wanted.name)
        revisions = store.list_revisions(connection, namespace, wanted.name)
        exists = old is not None and not old.deleted
        if old is not None and exists and not self._is_new(old, revisions, wanted, source, commit_id):
            self._ask(connection, old.key)
            if old.manifest == wanted.kept:
                return old, "unchanged"
            relabelled = dataclasses.replace(
                old, manifest=wanted.kept, resource_version=old.resource_version + 1
            )
            store.put_service(connection, relabelled)
            return relabelled, "configured"
        url = f"http://{host(wanted.name, namespace, self._settings.domain)}"
        new = InferenceService(
            namespace=namespace,
            name=wanted.name,
            uid=old.uid if old is not None and exists else str(uuid.uuid4()),
            generation=old.generation + 1 if old is not None and exists else 1,
            observed_generation=old.observed_generation if old is not None and exists else 0,
            resource_version=old.resource_version + 1 if old is not None else 1,
            manifest=wanted.kept,
            status=status.initial(url, now, old.status if old is not None else {}),
            created_at=old.created_at if old is not None and exists else now,
        )
        store.put_service(connection, new)
        store.add_revision(connection, _revision(new, revisions, wanted, source, commit_id, now))
        self._ask(connection, new.key)
        return new, "configured" if exists else "created"

    def _is_new(
        self,
        old: InferenceService,
        revisions: Revisions,
        wanted: spec.Parsed,
        source: ModelSource,
        commit_id: str,
    ) -> bool:
        """Whether what is wanted needs a revision of its own."""
        if not revisions or revisions[-1].phase.is_final or old.manifest["spec"] != wanted.kept["spec"]:
            return True
        newest = revisions[-1]
        return (newest.model_root, newest.commit_id) != (source.identity, commit_id)

    def _existing(self, connection: Connection, namespace: str, name: str) -> InferenceService:
        service = store.get_service(connection, namespace, name)
        if service is None or service.deleted:
            raise NotFoundError(
                f"inference service {name!r} does not exist in namespace {namespace!r}",
                kind="no_inferenceservice",
            )
        return service

    def _ask_all(self, keys: Sequence[str]) -> None:
        with self._db.write() as connection:
            for key in keys:
                self._ask(connection, key)

    def _ask(self, connection: Connection, key: str) -> None:
        self._jobs.queue.enqueue(connection, kind=TASK, key=key, queue=CONTROL_QUEUE)


def _namespace(asked: str | None, written: str | None) -> str:
    if asked and written and asked != written:
        raise InvalidInputError(
            f"InferenceService: metadata.namespace is {written!r}, but namespace {asked!r} was asked for",
            kind="bad_manifest",
        )
    return check_dns_label("namespace", asked or written or "default")


def _revision(
    service: InferenceService,
    revisions: Revisions,
    wanted: spec.Parsed,
    source: ModelSource,
    commit_id: str,
    now: float,
) -> Revision:
    number = revisions[-1].number + 1 if revisions else 1
    return Revision(
        id=f"{service.key}-{number:05d}",
        namespace=service.namespace,
        service=service.name,
        number=number,
        generation=service.generation,
        commit_id=commit_id,
        spec=dataclasses.replace(wanted.predictor, storage_uri=source.uri),
        model_root=source.identity,
        phase=Phase.PULLING,
        reason="",
        traffic=0,
        created_at=now,
        phase_since=now,
    )
