"""YAML as people mean it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """PyYAML reads ``1e-4`` as a string, because YAML 1.1 wants a dot; people mean the number, as in YAML 1.2."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


class TwiceError(Exception):
    """A key that is there twice says two things, of which parsers take the last. Its words say which one, and where."""


class _StrictLoader(_Loader):
    def compose_mapping_node(self, anchor: Any) -> Any:
        """As it is written: what is merged into it comes later."""
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    raise TwiceError(
                        f"the key {key.value!r} is there twice, again in line {key.start_mark.line + 1}"
                    )
                seen.add((key.tag, key.value))
        return node


def load_yaml(text: str) -> Any:
    """The value of one YAML (or JSON) document.

    :raises yaml.YAMLError: saying where it is malformed.
    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader)


def load_all_yaml(text: str) -> Iterator[Any]:
    """The values of all documents of a text, in which no key may be there twice.

    :raises yaml.YAMLError: saying where it is malformed. :raises TwiceError:
    """
    return yaml.load_all(text, Loader=_StrictLoader)  # type: ignore[no-any-return,unused-ignore]
