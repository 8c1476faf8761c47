from __future__ import annotations

import pytest

from trunkline.core.yamltext import TwiceError, load_all_yaml, load_yaml


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb: 2\na: 3",
        "x:\n- {a: 1, 'a': 2}",
        "x: 1\n---\na: 1\na: 1",
        '{"a": {"b": 1, "b": 2}}',
        "? a\n: 1\n? a\n: 2",
    ],
)
def test_a_key_that_is_there_twice_is_named_with_its_line(text: str) -> None:
    with pytest.raises(TwiceError, match=r"the key '[ab]' is there twice, again in line \d"):
        list(load_all_yaml(text))


def test_other_keys_and_merged_ones_are_fine() -> None:
    text = (
        "base: &b {a: 1, c: 1}\nmore: &m {d: 4}\none: {<<: *b, a: 2}\ntwo:\n  <<: *b\n  <<: *m\n1: x\n'1': y"
    )
    [found] = load_all_yaml(text)
    assert (found["one"], found["two"]) == ({"a": 2, "c": 1}, {"a": 1, "c": 1, "d": 4})
    assert (found[1], found["1"]) == ("x", "y")
    [chained] = load_all_yaml("d: &a {k: 1}\nx:\n  y: &b\n    <<: *a\n    k: 2\nc:\n  <<: *b")
    assert chained["c"] == {"k": 2}
    assert list(load_all_yaml("a: 1\n---\na: 2")) == [{"a": 1}, {"a": 2}]


def test_where_others_take_the_last_so_do_we() -> None:
    """Experiment files come as they are: they were written for another system."""
    assert load_yaml("a: 1\na: 1e-4") == {"a": 1e-4}
