"""Experiments from creation to end: statuses, restarts, pauses, kills, on a real database and a real queue."""

from __future__ import annotations

import pytest

from tests.training.conftest import World
from trunkline.core.status import Status
from trunkline.errors import ConflictError, InvalidInputError, NotFoundError, StateError
from trunkline.jobs.model import Report
from trunkline.training.model import CheckpointState
from trunkline.versioning.model import PutFile


def test_a_trial_from_start_to_end(world: World) -> None:
    experiment = world.create(label="c" * 32, config={"hyperparameters": {"lr": 0.1}, "name": "first"})
    assert (experiment.name, experiment.status, experiment.label) == ("first", Status.QUEUED, "c" * 32)
    run = world.run(experiment)
    assert run.payload["hparams"] == {"lr": 0.1}
    assert run.payload["run_id"] == 1
    assert run.payload["latest_checkpoint"] is None and run.payload["warm_start"] is None
    assert world.status(experiment) is Status.RUNNING
    run.metrics(10, loss=0.5)
    run.metrics(10, "training", loss=0.6)
    best = run.checkpoint(10)
    world.training.report_progress(run.lease, run.trial_id, 0.5)
    assert world.training.get_experiment(experiment.id).progress == 0.5
    run.exits()
    trial = world.trial(experiment)
    assert (trial.status, trial.restarts, trial.run_id, trial.steps_completed) == (Status.SUCCEEDED, 0, 1, 10)
    done = world.training.get_experiment(experiment.id)
    assert (done.status, done.progress, done.reason) == (Status.SUCCEEDED, 1.0, "")
    assert done.finished_at is not None
    found = world.training.best_checkpoint(experiment.id)
    assert found is not None and (found.uuid, found.metrics) == (best, {"loss": 0.5})
    assert world.finished_events() == [{"id": experiment.id, "label": "c" * 32, "status": "succeeded"}]
    assert world.history("experiment", experiment.id) == ["queued", "running", "succeeded"]
    assert world.history("trial", trial.id) == ["queued", "running", "succeeded"]
    assert world.claim(experiment) is None
    assert [one.id for one in world.training.experiments_of("c" * 32)] == [experiment.id]


def test_a_name_and_a_seed_are_made_where_none_are_given(world: World) -> None:
    first, second = world.create(), world.create()
    assert first.name == f"experiment-{first.id}"
    assert (
        first.config["reproducibility"]["experiment_seed"]
        != second.config["reproducibility"]["experiment_seed"]
    )
    seeded = {"config": {"reproducibility": {"experiment_seed": 5}}}
    assert world.trial(world.create(**seeded)).seed == world.trial(world.create(**seeded)).seed


def test_restarts_go_on_from_the_latest_checkpoint_until_there_were_too_many(world: World) -> None:
    experiment = world.create()
    run = world.run(experiment)
    run.metrics(1, loss=0.9)
    saved = run.checkpoint(1)
    run.metrics(2, loss=0.8)
    run.exits(1, error="ValueError: no (exit code 1)")
    assert (world.trial(experiment).status, world.trial(experiment).restarts) == (Status.QUEUED, 1)
    run = world.run(experiment)
    assert run.payload["run_id"] == 2
    latest = run.payload["latest_checkpoint"]
    assert (latest["uuid"], latest["steps_completed"]) == (saved, 1)
    assert [row.steps_completed for row in world.training.list_metrics(experiment.id)] == [1]
    run.exits(1)
    assert world.claim(experiment) is None  # the second restart waits a little
    world.clock.advance(2)
    world.run(experiment).exits(1, error="ValueError: still no (exit code 1)")
    done = world.training.get_experiment(experiment.id)
    assert (done.status, done.reason) == (
        Status.FAILED,
        "ValueError: still no (exit code 1) (after 2 restarts)",
    )
    assert world.finished_events()[0]["status"] == "failed"


def test_a_lost_worker_costs_no_restart_and_its_late_words_are_refused(world: World) -> None:
    experiment = world.create()
    first = world.run(experiment)
    saved = first.checkpoint(5)
    first.metrics(6, loss=0.1)
    first.goes_silent()
    second = world.run(experiment)
    assert second.payload["latest_checkpoint"]["uuid"] == saved
    assert world.trial(experiment).restarts == 0
    for late in (
        lambda: first.metrics(7, loss=0),
        lambda: first.checkpoint(7),
        first.exits,
        lambda: first.preempt,
    ):
        with pytest.raises(ConflictError) as caught:
            late()
        assert caught.value.kind == "lease_lost"
    with pytest.raises(ConflictError):
        world.training.append_log(first.lease, 0, [{"ts": 1, "text": "late", "stream": "stdout"}])
    second.metrics(6, loss=0.2)
    second.exits()
    assert world.status(experiment) is Status.SUCCEEDED
    assert [row.values for row in world.training.list_metrics(experiment.id)] == [{"loss": 0.2}]


def test_a_worker_that_is_asked_to_end_gives_the_trial_back(world: World) -> None:
    experiment = world.create()
    run = world.run(experiment)
    world.jobs.report(run.lease, Report(status=Status.QUEUED))
    assert world.trial(experiment).restarts == 0
    assert world.run(experiment).payload["run_id"] == 2


def test_metrics_are_one_row_per_steps_and_group(world: World) -> None:
    experiment = world.create()
    run = world.run(experiment)
    run.metrics(1, loss=0.5)
    run.metrics(1, loss=0.5)
    run.metrics(1, accuracy=0.9)
    run.metrics(1, "training", loss=float("nan"))
    rows = world.training.list_metrics(experiment.id)
    assert [(row.group, row.values) for row in rows] == [
        ("training", {"loss": "NaN"}),
        ("validation", {"loss": 0.5, "accuracy": 0.9}),
    ]
    assert len(world.training.list_metrics(experiment.id, "validation")) == 1


def test_what_was_reported_wrongly_is_refused(world: World) -> None:
    experiment = world.create()
    run = world.run(experiment)
    with pytest.raises(InvalidInputError, match="metric group"):
        run.metrics(1, " ", loss=1)
    with pytest.raises(InvalidInputError, match="steps"):
        run.metrics(-1, loss=1)
    with pytest.raises(InvalidInputError, match="progress must be from 0 to 1, not 2"):
        world.training.report_progress(run.lease, run.trial_id, 2)
    with pytest.raises(NotFoundError, match="no tree"):
        world.training.report_checkpoint(run.lease, run.trial_id, "u", 1, "0" * 64)
    assert world.training.list_checkpoints(experiment.id) == []


def test_a_checkpoint_reported_twice_is_one(world: World) -> None:
    experiment = world.create()
    run = world.run(experiment)
    assert run.checkpoint(1, "u") == run.checkpoint(1, "u")
    with pytest.raises(ConflictError, match="checkpoint u exists and is another"):
        run.checkpoint(2, "u")
    assert len(world.training.list_checkpoints(experiment.id)) == 1


def test_pause_while_waiting(world: World) -> None:
    experiment = world.create()
    assert world.training.pause(experiment.id).status is Status.PAUSED
    assert world.training.pause(experiment.id).status is Status.PAUSED
    assert world.trial(experiment).status is Status.PAUSED
    assert world.claim(experiment) is None
    assert world.training.activate(experiment.id).status is Status.QUEUED
    world.run(experiment).exits()
    assert world.status(experiment) is Status.SUCCEEDED


def test_pause_while_running_saves_and_goes_on_later(world: World) -> None:
    experiment = world.create()
    run = world.run(experiment)
    assert not run.preempt
    world.training.pause(experiment.id)
    assert run.preempt
    saved = run.checkpoint(3)
    run.exits(preempted=True)
    assert world.trial(experiment).status is Status.PAUSED
    assert world.claim(experiment) is None
    world.training.activate(experiment.id)
    run = world.run(experiment)
    assert run.payload["latest_checkpoint"]["uuid"] == saved
    assert not run.preempt
    assert world.trial(experiment).restarts == 0
    run.exits()
    assert world.status(experiment) is Status.SUCCEEDED


def test_activated_again_before_it_had_paused(world: World) -> None:
    experiment = world.create()
    run = world.run(experiment)
    world.training.pause(experiment.id)
    assert run.preempt
    assert world.training.activate(experiment.id).status is Status.RUNNING
    run.exits(preempted=True)
    world.run(experiment).exits()
    assert world.status(experiment) is Status.SUCCEEDED


def test_done_before_it_could_pause(world: World) -> None:
    experiment = world.create()
    run = world.run(experiment)
    world.training.pause(experiment.id)
    run.exits()
    assert world.status(experiment) is Status.SUCCEEDED


def test_lost_while_pausing(world: World) -> None:
    experiment = world.create()
    run = world.run(experiment)
    world.training.pause(experiment.id)
    run.goes_silent()
    assert world.trial(experiment).status is Status.PAUSED
    world.training.activate(experiment.id)
    world.run(experiment)


def test_a_paused_trial_that_was_given_back_is_not_run(world: World) -> None:
    experiment = world.create()
    run = world.run(experiment)
    world.training.pause(experiment.id)
    world.jobs.report(run.lease, Report(status=Status.QUEUED))
    assert world.claim(experiment) is None
    assert world.trial(experiment).status is Status.PAUSED
    world.training.activate(experiment.id)
    assert world.run(experiment).payload["run_id"] == 2


def test_cancel_waits_for_the_last_checkpoint(world: World) -> None:
    experiment = world.create()
    run = world.run(experiment)
    cancelled = world.training.cancel(experiment.id)
    assert (cancelled.status, cancelled.phase) == (Status.RUNNING, "stopping")
    assert world.training.cancel(experiment.id) == cancelled
    assert run.preempt
    with pytest.raises(StateError, match="being cancelled"):
        world.training.pause(experiment.id)
    run.checkpoint(1)
    run.exits(preempted=True)
    done = world.training.get_experiment(experiment.id)
    assert (done.status, done.phase) == (Status.CANCELLED, "")
    assert world.trial(experiment).status is Status.CANCELLED
    assert len(world.training.list_checkpoints(experiment.id)) == 1
    assert world.finished_events() == [{"id": experiment.id, "label": "", "status": "cancelled"}]
    assert world.training.cancel(experiment.id).status is Status.CANCELLED


def test_cancel_while_waiting_is_at_once(world: World) -> None:
    experiment = world.create()
    assert world.training.cancel(experiment.id).status is Status.CANCELLED
    assert world.claim(experiment) is None
    assert len(world.finished_events()) == 1


def test_kill_is_at_once_and_the_worker_is_told(world: World) -> None:
    experiment = world.create()
    run = world.run(experiment)
    assert world.training.kill(experiment.id).status is Status.CANCELLED
    assert world.training.kill(experiment.id).status is Status.CANCELLED
    assert world.trial(experiment).status is Status.CANCELLED
    assert world.jobs.queue.keep_alive([run.lease]) == ([], [run.lease.task_id])
    with pytest.raises(ConflictError):
        run.metrics(1, loss=1)
    run.exits(1)
    assert world.status(experiment) is Status.CANCELLED
    assert len(world.finished_events()) == 1


def test_an_ended_experiment_stays_as_it_is(world: World) -> None:
    experiment = world.create()
    world.run(experiment).exits()
    for verb in (world.training.pause, world.training.activate, world.training.cancel, world.training.kill):
        with pytest.raises(StateError, match=r"it has ended \(succeeded\)"):
            verb(experiment.id)


def test_the_same_key_is_the_same_experiment(world: World) -> None:
    first = world.create(idempotency_key="job@1")
    assert world.create(idempotency_key="job@1", config={"max_restarts": 0}).id == first.id
    assert world.create(idempotency_key="job@2").id != first.id
    assert len(world.training.list_experiments()) == 2


def test_retention_keeps_the_best_the_latest_the_registered_and_the_sources(world: World) -> None:
    experiment = world.create()
    run = world.run(experiment)
    names = []
    for steps, loss in enumerate([0.5, 0.1, 0.4, 0.6, 0.7], start=1):
        run.metrics(steps, loss=loss)
        names.append(run.checkpoint(steps))
    world.registry.create_model("m")
    world.registry.add_version("m", "v", checkpoint=names[0])
    world.create(source_checkpoint=names[2])
    run.exits()
    states = {one.uuid: one.state for one in world.training.list_checkpoints(experiment.id)}
    gone = [name for name in names if states[name] is CheckpointState.DELETED]
    assert gone == [names[3]]
    deleted = world.training.get_checkpoint(names[3])
    assert (deleted.root, deleted.metrics) == (None, {"loss": 0.6})
    assert [one.uuid for one in world.training.list_checkpoints(experiment.id)] == [
        names[i] for i in (1, 2, 0, 4, 3)
    ]
    best = world.training.best_checkpoint(experiment.id)
    assert best is not None and best.uuid == names[1]
    with pytest.raises(StateError, match="is deleted: start from another"):
        world.create(source_checkpoint=names[3])


def test_a_metric_that_was_never_reported_is_pointed_out(world: World) -> None:
    experiment = world.create(metric="validation_loss")
    run = world.run(experiment)
    run.metrics(1, val_loss=0.1, accuracy=1)
    last = run.checkpoint(1)
    run.exits()
    done = world.training.get_experiment(experiment.id)
    assert done.status is Status.SUCCEEDED
    assert "'validation_loss' was never reported as a number (reported: accuracy, val_loss)" in done.reason
    best = world.training.best_checkpoint(experiment.id)
    assert best is not None and best.uuid == last


def test_warm_start(world: World) -> None:
    first = world.create()
    run = world.run(first)
    source = run.checkpoint(7)
    run.exits()
    for again in (
        world.create(source_checkpoint=source),
        world.create(config={"searcher": {"metric": "loss", "source_checkpoint_uuid": source}}),
        world.create(config={"searcher": {"metric": "loss", "source_trial_id": run.trial_id}}),
    ):
        started = world.run(again)
        assert started.payload["warm_start"]["uuid"] == source
        assert started.payload["latest_checkpoint"] is None
    with pytest.raises(NotFoundError, match="no checkpoint 'nope'"):
        world.create(source_checkpoint="nope")
    with pytest.raises(InvalidInputError, match="more than one checkpoint"):
        world.create(
            source_checkpoint="other",
            config={"searcher": {"metric": "loss", "source_checkpoint_uuid": source}},
        )


def test_data_is_pinned_to_the_commit_of_its_day(world: World) -> None:
    versioning = world.versioning
    versioning.create_repo("default", "pictures")

    def put(name: str, text: str) -> str:
        return versioning.modify("default", "pictures@master", [PutFile(path=name, parts=[text.encode()])]).id

    first = put("/a", "1")
    put("/dir/b", "2")
    second = put("/a", "changed")
    experiment = world.create(config={"data": {"repo": "pictures", "previous_commit": first, "free": [1]}})
    put("/c", "later")
    assert experiment.config["data"] == {
        "project": "default", "repo": "pictures", "commit": second, "previous_commit": first, "free": [1]
    }  # fmt: skip
    data = world.run(experiment).payload["data"]
    assert data["new_files"] == ["a", "dir/b"]
    assert data["root"] == versioning.inspect_commit("default", f"pictures@{second}").root
    plain = world.run(world.create(config={"data": {"repo": "pictures"}})).payload["data"]
    assert (plain["previous_root"], plain["new_files"]) == (None, None)
    assert world.run(world.create(config={"data": {"anything": 1}})).payload["data"] is None


def test_what_is_not_there_is_named_at_once(world: World) -> None:
    with pytest.raises(NotFoundError):
        world.create(config={"data": {"repo": "nope"}})
    with pytest.raises(NotFoundError, match="no tree"):
        world.create(code_root="0" * 64)
    with pytest.raises(InvalidInputError) as caught:
        world.create(config={"environment": {"image": "pytorch:2"}})
    assert caught.value.kind == "unmapped_image"
    with pytest.raises(NotFoundError, match="there is no experiment 77"):
        world.training.get_experiment(77)
    with pytest.raises(NotFoundError, match="there is no trial 77"):
        world.training.get_trial(77)
    world.versioning.create_repo("default", "r")
    opened = world.versioning.start_commit("default", "r@master")
    with pytest.raises(StateError, match="is still open"):
        world.create(config={"data": {"repo": "r", "commit": opened.id}})
    assert world.training.list_experiments() == []


def test_logs_are_stored_once_and_in_order(world: World) -> None:
    experiment = world.create()
    run = world.run(experiment)

    def line(text: str) -> dict[str, object]:
        return {"ts": 1.5, "text": text, "stream": "stdout"}

    world.training.append_log(run.lease, 0, [line("one"), line("two\r")])
    world.training.append_log(run.lease, 0, [line("one"), line("two\r")])
    world.restart()
    world.training.append_log(run.lease, 1, [line("two\r"), line("three")])
    world.training.append_log(run.lease, 5, [line("six")])
    lines, position, done = world.training.trial_logs(run.trial_id)
    assert [found.text for found in lines] == [
        "one",
        "two\r",
        "three",
        "(2 lines of the log were lost)",
        "",
        "six",
    ]
    assert not done
    assert world.training.trial_logs(run.trial_id, position) == ([], position, False)
    run.exits(1)
    second = world.run(experiment)
    world.training.append_log(second.lease, 0, [line("again")])
    lines, position, done = world.training.trial_logs(run.trial_id, position)
    assert [(found.run_id, found.text) for found in lines] == [(2, "again")]
    second.exits()
    assert world.training.trial_logs(run.trial_id, position) == ([], position, True)


def test_a_log_that_a_crash_cut_short_goes_on_whole(world: World) -> None:
    run = world.run(world.create())
    world.training.append_log(run.lease, 0, [{"ts": 1, "text": "one", "stream": "stdout"}])
    (file,) = (world.home / "logs" / "trials" / str(run.trial_id)).iterdir()
    with file.open("ab") as log:
        log.write(b'{"ts": 1, "te')
    world.restart()
    assert len(world.training.trial_logs(run.trial_id)[0]) == 1
    world.training.append_log(run.lease, 1, [{"ts": 1, "text": "two", "stream": "stdout"}])
    assert [line.text for line in world.training.trial_logs(run.trial_id)[0]] == ["one", "two"]


def test_a_restart_of_the_server_at_every_step_changes_nothing(world: World) -> None:
    experiment = world.create(idempotency_key="k")
    world.restart()
    assert world.create(idempotency_key="k").id == experiment.id
    run = world.run(experiment)
    world.restart()
    run.metrics(1, loss=0.5)
    world.restart()
    run.metrics(1, loss=0.5)
    name = run.checkpoint(1, "u")
    world.restart()
    run.checkpoint(1, name)
    run.exits()
    world.restart()
    with pytest.raises(ConflictError):
        run.exits()
    assert world.status(experiment) is Status.SUCCEEDED
    assert len(world.training.list_metrics(experiment.id)) == 1
    assert len(world.training.list_checkpoints(experiment.id)) == 1
    assert len(world.finished_events()) == 1
