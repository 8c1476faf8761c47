"""The control step of a service: look, decide, act. May be killed and repeated at any point.

Effects outside the database come first and are repeatable; the rows that say they happened are written last, in the
transaction that ends the lease.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any, Protocol

from sqlalchemy.engine import Connection

from trunkline.core.clock import Clock
from trunkline.errors import TrunklineError, UnavailableError
from trunkline.jobs.model import Again, Done, Outcome, Task
from trunkline.serving import envoy, rollout, status, store
from trunkline.serving.deployers.process import ProcessDeployer
from trunkline.serving.gateway import Gateway
from trunkline.serving.model import InferenceService, ModelSource, Phase, Revision
from trunkline.serving.models import ModelCache, OpenModel
from trunkline.settings import Settings
from trunkline.storage.db.engine import Database

CLEAN_SECONDS = 60.0
ID_HEADER, REVISION_HEADER = "x-trunkline-id", "x-trunkline-revision"

log = logging.getLogger(__name__)


class SecretValues(Protocol):
    """Of the secrets service, what serving needs."""

    def value(self, namespace: str, name: str, key: str) -> str: ...


def host(service: str, namespace: str, domain: str) -> str:
    return f"{service}.{namespace}.{domain}"


class Reconciler:
    """Carries out what ``rollout.decide`` decides."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        settings: Settings,
        secrets: SecretValues,
        deployer: ProcessDeployer,
        gateway: Gateway,
        cache: ModelCache,
        open_model: OpenModel,
    ) -> None:
        self._db = db
        self._clock = clock
        self._settings = settings
        self._secrets = secrets
        self._deployer = deployer
        self._gateway = gateway
        self._cache = cache
        self._open_model = open_model
        self._cleaned_at = 0.0

    def __call__(self, task: Task, /) -> Outcome:
        """One step for the service that ``task.key`` names."""
        namespace, _, name = task.key.partition("/")
        with self._db.read() as connection:
            service = store.get_service(connection, namespace, name)
            revisions = store.current_revisions(connection, namespace, name)
        if service is None:
            return Done()
        gateway_error = self._route(revisions)
        replicas = self._deployer.observe(revisions)
        seen = rollout.Seen(
            revisions=revisions,
            replicas=replicas,
            crashes=self._deployer.crashes(revisions),
            deleted=service.deleted,
            is_routed=gateway_error is None,
            now=self._clock.now(),
            limits=rollout.Limits(
                start_seconds=self._settings.service_start_seconds, drain_seconds=self._settings.drain_seconds
            ),
        )
        plan = rollout.decide(seen)
        if plan.actions == (rollout.Forget(),):
            return Done(apply=lambda connection: self._forget(connection, service))
        self._clean_if_due()
        moves = self._act(plan.actions)
        view = status.View(
            service=service,
            revisions=_moved(revisions, moves),
            replicas=replicas,
            url=f"http://{host(name, namespace, self._settings.domain)}",
            gateway_error=gateway_error,
            is_moving=any(m.phase is Phase.LIVE for m in moves),
            now=seen.now,
        )
        return Again(
            after_seconds=plan.again_seconds,
            apply=lambda connection: self._write(connection, view, moves),
        )

    # --- the gateway ---

    def _route(self, revisions: Sequence[Revision]) -> str | None:
        """Give the gateway the traffic of all services as the rows have it; returns why that failed, or None."""
        if all(r.phase in (Phase.STOPPED, Phase.FAILED) for r in revisions):
            return None  # nothing of this service to route; the gateway need not run for it
        try:
            self._gateway.sync(self._wanted)
        except UnavailableError as error:
            log.warning("%s", error)
            return str(error)
        return None

    def _wanted(self) -> tuple[list[envoy.Cluster], list[envoy.Route]]:
        """The traffic of all services, as the rows have it."""
        with self._db.read() as connection:
            active = store.active_revisions(connection)
        ports = self._deployer.ready_ports()
        clusters = [
            envoy.Cluster(name=r.id, ports=tuple(sorted(ports.get(r.id, ()))))
            for r in active
            if r.phase in (Phase.LIVE, Phase.DRAINING)
        ]
        routes = [
            envoy.Route(
                host=host(r.service, r.namespace, self._settings.domain),
                cluster=r.id,
                timeout_seconds=r.spec.timeout_seconds,
                headers={REVISION_HEADER: r.name, **({ID_HEADER: r.commit_id} if r.commit_id else {})},
            )
            for r in active
            if r.phase is Phase.LIVE and r.traffic > 0
        ]
        return clusters, routes

    # --- actions ---

    def _act(self, actions: Sequence[rollout.Action]) -> list[rollout.Move]:
        """Do what is outside the database; returns the moves that are to be written."""
        moves: list[rollout.Move] = []
        for action in actions:
            match action:
                case rollout.Move():
                    moves.append(action)
                case rollout.Pull():
                    moves.append(self._pull(action.revision))
                case rollout.Launch():
                    moves += self._launch(action)
                case rollout.End():
                    self._deployer.end(action.replica, now=action.now)
                case rollout.Forget():
                    pass
        return moves

    def _pull(self, revision: Revision) -> rollout.Move:
        try:
            self._ensure_model(revision)
        except UnavailableError:
            raise  # tried again by the queue
        except TrunklineError as error:
            return rollout.Move(revision=revision, phase=Phase.FAILED, reason=str(error))
        return rollout.Move(revision=revision, phase=Phase.LOADING)

    def _launch(self, action: rollout.Launch) -> list[rollout.Move]:
        revision = action.revision
        try:
            model = self._ensure_model(revision)
            env = self._environment(revision)
        except UnavailableError:
            raise
        except TrunklineError as error:
            if revision.phase is Phase.LIVE:
                raise  # what serves is not given up: tried again until somebody repairs it
            return [rollout.Move(revision=revision, phase=Phase.FAILED, reason=str(error))]
        for _ in range(action.count):
            self._deployer.launch(revision, model, env)
        return []

    def _ensure_model(self, revision: Revision) -> Any:
        def open_source() -> ModelSource:
            return self._open_model(revision.spec.storage_uri)

        return self._cache.ensure(revision.model_root, open_source)

    def _environment(self, revision: Revision) -> dict[str, str]:
        return {
            item.name: self._secrets.value(revision.namespace, item.secret, item.key)
            if item.secret
            else item.value
            for item in revision.spec.env
        }

    # --- rows ---

    def _write(self, connection: Connection, view: status.View, moves: Sequence[rollout.Move]) -> None:
        now = self._clock.now()
        for move in moves:
            store.move_revision(
                connection, move.revision, move.phase, reason=move.reason, traffic=move.traffic, now=now
            )
        if view.service.deleted:
            return
        new = status.build(view)
        if new != view.service.status or view.service.observed_generation != view.service.generation:
            store.set_status(connection, view.service, new)

    def _forget(self, connection: Connection, service: InferenceService) -> None:
        store.remove_service(connection, service.namespace, service.name)

    # --- the cache ---

    def clean(self) -> None:
        """Remove models from the cache that no revision needs any more."""
        with self._db.read() as connection:
            needed = {r.model_root for r in store.active_revisions(connection)}
        self._cache.keep_only(needed)

    def _clean_if_due(self) -> None:
        now = self._clock.now()
        if now - self._cleaned_at > CLEAN_SECONDS:
            self._cleaned_at = now
            self.clean()


def _moved(revisions: Sequence[Revision], moves: Sequence[rollout.Move]) -> list[Revision]:
    """The revisions as they will be once the moves are written."""
    by_id = {m.revision.id: m for m in moves}
    return [_after(r, by_id[r.id]) if r.id in by_id else r for r in revisions]


def _after(revision: Revision, move: rollout.Move) -> Revision:
    return dataclasses.replace(revision, phase=move.phase, reason=move.reason, traffic=move.traffic)
