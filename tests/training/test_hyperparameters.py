"""Hyperparameters: parsing, refusing, drawing."""

import random

import pytest

from trunkline.errors import InvalidInputError
from trunkline.training import hyperparameters
from trunkline.training.hyperparameters import Const


def draw(given: dict[str, object], seed: int = 1) -> dict[str, object]:
    found = hyperparameters.sample(hyperparameters.parse(given), random.Random(seed))
    assert isinstance(found, dict)
    return found


def test_plain_values_are_constants() -> None:
    given = {
        "lr": 0.1,
        "layers": [1, 2],
        "name": "x",
        "flag": True,
        "none": None,
        "c": {"type": "const", "val": 3},
    }
    assert draw(given) == {"lr": 0.1, "layers": [1, 2], "name": "x", "flag": True, "none": None, "c": 3}
    assert hyperparameters.parse({"a": None}).members["a"] == Const(value=None)


def test_nesting() -> None:
    assert draw({"optimizer": {"lr": 0.1, "inner": {"x": {"type": "const", "val": 1}}}}) == {
        "optimizer": {"lr": 0.1, "inner": {"x": 1}}
    }


@pytest.mark.parametrize("seed", range(20))
def test_ranges(seed: int) -> None:
    found = draw(
        {
            "i": {"type": "int", "minval": 2, "maxval": 4},
            "d": {"type": "double", "minval": -1, "maxval": 1.5},
            "l": {"type": "log", "base": 10, "minval": -4, "maxval": -2},
            "c": {"type": "categorical", "vals": ["a", "b"]},
        },
        seed,
    )
    assert found["i"] in (2, 3, 4)
    assert -1 <= found["d"] <= 1.5  # type: ignore[operator]
    assert 1e-4 <= found["l"] <= 1e-2  # type: ignore[operator]
    assert found["c"] in ("a", "b")


def test_a_seed_always_gives_the_same_point_whatever_the_order() -> None:
    a, b = {"type": "double", "minval": 0, "maxval": 1}, {"type": "int", "minval": 0, "maxval": 1000}
    assert draw({"a": a, "b": b}) == draw({"b": b, "a": a})
    assert draw({"a": a, "b": b}, 1) != draw({"a": a, "b": b}, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"type": "itn", "minval": 1, "maxval": 2}, "'h.x': unknown type 'itn'; did you mean 'int'?"),
        ({"type": "int", "minval": 1}, "type int needs 'maxval'"),
        (
            {"type": "int", "minval": 1, "maxvall": 2},
            "unknown key 'maxvall' for type int; did you mean 'maxval'?",
        ),
        ({"type": "int", "minval": 2, "maxval": 2}, "'minval' (2) must be less than 'maxval' (2)"),
        ({"type": "int", "minval": 1.5, "maxval": 2}, "'minval' must be a whole number, not 1.5"),
        ({"type": "double", "minval": "x", "maxval": 2}, "'minval' must be a number, not 'x'"),
        ({"type": "double", "minval": True, "maxval": 2}, "'minval' must be a number, not True"),
        ({"type": "double", "minval": float("nan"), "maxval": 2}, "'minval' must be a number, not nan"),
        ({"type": "log", "base": -1, "minval": 1, "maxval": 2}, "'base' must be positive"),
        ({"type": "categorical", "vals": []}, "'vals' must be a list of at least one value"),
        ({"type": "int", "minval": 1, "maxval": 2, "count": 0}, "'count' must be at least 1"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        hyperparameters.parse({"h": {"x": given}})
    assert caught.value.kind == "bad_hyperparameter"
    assert message in caught.value.message
