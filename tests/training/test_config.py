"""The experiment config: what it takes, what it refuses, and in which words."""

import pytest

from trunkline.errors import InvalidInputError
from trunkline.training.config import ExperimentConfig, parse_config

SMALLEST = {"entrypoint": "python3 train.py", "searcher": {"metric": "loss"}}


def config(**changes: object) -> ExperimentConfig:
    return parse_config({**SMALLEST, **changes})


def refused(**changes: object) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        config(**changes)
    return caught.value


def test_defaults_are_determineds() -> None:
    found = config()
    assert (found.max_restarts, found.scheduling_unit, found.preemption_timeout) == (5, 100, 3600)
    assert (found.searcher.name, found.searcher.smaller_is_better) == ("single", True)
    storage = found.checkpoint_storage
    assert (storage.save_experiment_best, storage.save_trial_best, storage.save_trial_latest) == (0, 1, 1)


def test_null_means_unset_everywhere() -> None:
    found = config(
        labels=None, max_restarts=None, environment={"image": None}, searcher={"metric": "loss", "name": None}
    )
    assert found.labels == []
    assert found.max_restarts == 5
    assert found.image() is None
    assert found.searcher.name == "single"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_restart": 3}, "unknown field 'max_restart'; did you mean 'max_restarts'?"),
        ({"searcher": {"metirc": "x"}}, "searcher: unknown field 'metirc'; did you mean 'metric'?"),
        ({"searcher": {"name": "single"}}, "searcher.metric: field 'metric' is required"),
        ({"resources": {"slots": 2}}, "resources: unknown field 'slots'"),
        ({"max_restarts": -1}, "max_restarts: Input should be greater than or equal to 0"),
        ({"max_restarts": "many"}, "max_restarts: Input should be a valid integer"),
        ({"entrypoint": None}, "entrypoint: field 'entrypoint' is required"),
        ({"entrypoint": " "}, "entrypoint: it is empty"),
        (
            {"searcher": {"name": "singel", "metric": "x"}},
            "unknown searcher 'singel'; did you mean 'single'?",
        ),
        ({"searcher": {"name": "custom", "metric": "x"}}, "'custom' was removed by Determined"),
        (
            {"min_validation_period": {"batches": 1, "epochs": 2}},
            "give exactly one of batches, records, epochs",
        ),
        ({"workspace": "w"}, "give both 'workspace' and 'project', or neither"),
        ({"environment": {"environment_variables": ["A"]}}, "'A' must be NAME=VALUE"),
        ({"environment": {"environment_variables": {"A B": 1}}}, "'A B' is not a name"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, object], message: str) -> None:
    error = refused(**changes)
    assert error.kind == "bad_config"
    assert message in error.message
    assert error.message.startswith("experiment config")


def test_every_wrong_field_gets_a_line() -> None:
    error = refused(max_restarts="x", searcher={"metric": "", "divisor": 1})
    assert len(error.message.splitlines()) == 3


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"searcher": {"name": "adaptive_asha", "metric": "x", "max_trials": 4}}, "searcher 'adaptive_asha'"),
        ({"searcher": {"name": "random", "metric": "x"}}, "searcher 'random'"),
        ({"entrypoint": "model_def:MyTrial"}, "entrypoint 'model_def:MyTrial'"),
        ({"resources": {"slots_per_trial": 4}}, "slots_per_trial 4"),
        ({"bind_mounts": [{"host_path": "/a", "container_path": "/b"}]}, "bind_mounts"),
    ],
)
def test_what_is_right_but_not_built_says_so(changes: dict[str, object], what: str) -> None:
    error = refused(**changes)
    assert error.kind == "not_supported_yet"
    assert what in error.message
    assert "is not supported yet: " in error.message


def test_old_files_work() -> None:
    """Fields that nearly all older files use, and those that only steered Determined's own cluster."""
    found = config(
        searcher={"name": "single", "metric": "loss", "max_length": {"batches": 100}},
        min_validation_period={"epochs": 1},
        optimizations={"aggregation_frequency": 1},
        profiling={"enabled": True, "begin_on_batch": 3},
        data_layer={"type": "shared_fs"},
        checkpoint_storage={
            "type": "s3",
            "bucket": "b",
            "access_key": "k",
            "secret_key": "s",
            "save_trial_best": 3,
        },
        integrations={"webhooks": {}},
        resources={"resource_pool": "gpus", "slots_per_trial": 1, "priority": 3},
    )
    assert found.checkpoint_storage.save_trial_best == 3
    assert config(searcher={"metric": "loss", "max_length": 7}).searcher.max_length == 7


def test_yaml_text() -> None:
    found = parse_config(
        """
        name: digits
        entrypoint: [python3, train.py]
        labels:
        hyperparameters: {lr: 1e-4, momentum: 0.9, name: 1e, big: 5}
        searcher: {metric: loss, max_length: {batches: 10}}
        """
    )
    assert found.entrypoint == ["python3", "train.py"]
    assert found.hyperparameters == {"lr": 1e-4, "momentum": 0.9, "name": "1e", "big": 5}


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "it is not YAML"), ("- a", "it must be a map"), ("", "it must be a map")]
)
def test_text_that_is_no_config(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        parse_config(text)


def test_stored_form_reads_back_the_same() -> None:
    found = config(
        min_checkpoint_period={"epochs": 2}, hyperparameters={"a": None}, environment={"image": {"cpu": "x"}}
    )
    assert ExperimentConfig.model_validate(found.stored()) == found


@pytest.mark.parametrize(
    "given",
    [
        ["A=1", "B=x=y"],
        {"A": 1, "B": "x=y"},
        {"cpu": ["A=1", "B=x=y"], "cuda": ["C=1"]},
        {"cpu": {"A": 1, "B": "x=y"}},
    ],
)
def test_environment_variables_in_every_form(given: object) -> None:
    found = config(environment={"environment_variables": given})
    assert found.environment_variables() == {"A": "1", "B": "x=y"}


def test_image_by_device() -> None:
    assert config(environment={"image": {"cpu": "small", "cuda": "big"}}).image() == "small"
    assert config(environment={"image": "one"}).image() == "one"
