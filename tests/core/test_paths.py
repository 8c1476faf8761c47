"""Paths, globs and addresses."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.core.paths import Address, Glob, clean_path, parse_address
from trunkline.errors import InvalidInputError

ID = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("given_path", "cleaned"),
    [
        ("", "/"), ("/", "/"), ("a", "/a"), ("/a/b/", "/a/b"), ("/ä/日本 語.png", "/ä/日本 語.png"),
        ("/a*b?[c]{d}(e)@f:g", "/a*b?[c]{d}(e)@f:g"), ("/...", "/..."), ("/a\u200bb", "/a\u200bb"),
        ("/" + "x" * 255, "/" + "x" * 255),
    ],
)  # fmt: skip
def test_paths_that_are_allowed(given_path: str, cleaned: str) -> None:
    assert clean_path(given_path) == cleaned
    assert clean_path(cleaned) == cleaned


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("//", "empty component"), ("/a//b", "empty component"), ("a//", "empty component"), ("/a/./b", r"'\.'"),
        ("..", r"'\.\.'"), ("/a/../b", r"'\.\.'"), ("/a\nb", "U\\+000A"), ("/a\0b", "U\\+0000"), ("/a\x7f", "U\\+007F"),
        ("/a\x85", "U\\+0085"), ("/a\udcff", "UTF-8"), ("/" + "x" * 256, "255 bytes"), ("/" + "é" * 128, "255 bytes"),
        ("/x" * 5000, "4096"),
    ],
)  # fmt: skip
def test_paths_that_are_not_allowed(path: str, why: str) -> None:
    with pytest.raises(InvalidInputError, match=why) as caught:
        clean_path(path)
    assert caught.value.kind == "bad_path"
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("/", ["/"], ["/a"]),
        ("/*", ["/a", "/.b"], ["/", "/a/b"]),
        ("*", ["/a"], ["/a/b"]),
        ("/a/", ["/a"], ["/", "/a/b"]),
        ("/**", ["/a", "/a/b/c"], ["/"]),
        ("/**.png", ["/a.png", "/a/b.png"], ["/a.jpg"]),
        ("/a/**/c", ["/a/b/c", "/a/x/y/c"], ["/a/c", "/b/b/c"]),
        ("/?.png", ["/a.png", "/é.png"], ["/ab.png", "//.png"]),
        ("/[a-c]x", ["/ax", "/cx"], ["/dx"]),
        ("/[!a-c]x", ["/dx"], ["/ax", "//x"]),
        ("/[^a]x", ["/bx"], ["/ax"]),
        ("/[]a]", ["/]", "/a"], ["/b"]),
        ("/[a-]", ["/-", "/a"], ["/b"]),
        ("/[\\]]", ["/]"], ["/a"]),
        ("/{cat,dog}.*", ["/cat.1", "/dog."], ["/cow.1"]),
        ("/{a,b/c}/d", ["/a/d", "/b/c/d"], ["/b/d"]),
        ("/{a,{b,c}x}", ["/a", "/bx", "/cx"], ["/b"]),
        ("/a,b", ["/a,b"], ["/a"]),
        ("/\\*", ["/*"], ["/a"]),
        ("/a.b", ["/a.b"], ["/axb"]),
    ],
)
def test_globs(pattern: str, yes: list[str], no: list[str]) -> None:
    glob = Glob(pattern)
    assert [path for path in yes if glob.match(path) is None] == []
    assert [path for path in no if glob.match(path) is not None] == []
    assert all(path.startswith(glob.literal_prefix) for path in yes)
    for path in yes if glob.depth is not None else []:
        assert glob.depth == (0 if path == "/" else path.count("/"))
        for depth, level in enumerate(glob.levels, 1):
            assert level.fullmatch("/".join(path.split("/")[: depth + 1]))


def test_captures() -> None:
    assert Glob("/(*)/(*).png").match("/cats/7.png") == ("cats", "7")
    assert Glob("/(a|b)").match("/a|b") == ("a|b",)
    assert Glob("/({a,b})-*").match("/b-1") == ("b",)
    assert Glob("/*").match("/x") == ()


@pytest.mark.parametrize(
    ("pattern", "why", "character"),
    [
        ("/a[bc", "never closed", 3), ("/{a,b", "never closed", 2), ("/(a", "never closed", 2), ("/a)", "closes nothing", 3),
        ("/a}", "closes nothing", 3), ("/(a}", "closes nothing", 4), ("/a//b", "matches nothing", 3), ("a)", "closes nothing", 2),
        ("/a\\", "backslash", 3), ("/[b-a]", "backwards", 2), ("/[a/b]", "set", 2), ("/[]", "never closed", 2),
    ],
)  # fmt: skip
def test_bad_globs_say_what_and_where(pattern: str, why: str, character: int) -> None:
    with pytest.raises(InvalidInputError, match=why) as caught:
        Glob(pattern)
    assert caught.value.kind == "bad_glob"
    assert caught.value.details["character"] == character


@given(st.text("ab*?./", min_size=1, max_size=8), st.text("ab./", max_size=6))
def test_globs_agree_with_fnmatch_within_a_component(pattern: str, name: str) -> None:
    pattern, name = pattern.replace("/", "").replace("**", "*"), name.replace("/", "")
    if pattern and name and "**" not in pattern:
        assert (Glob("/" + pattern).match("/" + name) is not None) == fnmatch.fnmatchcase(name, pattern)


@given(st.text(max_size=20))
def test_any_text_is_a_glob_or_a_clear_error(text: str) -> None:
    try:
        Glob(text).match("/some/path")
    except InvalidInputError as error:
        assert error.kind == "bad_glob"


@pytest.mark.parametrize(
    ("text", "parts", "shown"),
    [
        ("r", {"repo": "r"}, "default/r"),
        ("p/r", {"project": "p", "repo": "r"}, "p/r"),
        ("r@master", {"branch": "master"}, "default/r@master"),
        (f"r@{ID}", {"commit": ID, "branch": None}, f"default/r@{ID}"),
        (f"r@b={ID}", {"commit": ID, "branch": "b"}, f"default/r@b={ID}"),
        ("r@b^", {"branch": "b", "ancestors": 1}, "default/r@b^"),
        ("r@b^^", {"ancestors": 2}, "default/r@b^2"),
        ("r@b~3^", {"ancestors": 4}, "default/r@b^4"),
        ("r@b^0", {"ancestors": 0}, "default/r@b"),
        ("r@b.2", {"from_root": 2}, "default/r@b.2"),
        (f"r@{ID}^", {"commit": ID, "ancestors": 1}, f"default/r@{ID}^"),
        ("p/r@b:/x@y:z", {"path": "/x@y:z", "branch": "b"}, "p/r@b:/x@y:z"),
        ("r@b:", {"path": "/"}, "default/r@b:/"),
        ("r:data", {"branch": None, "path": "/data"}, "default/r:/data"),
    ],
)
def test_addresses(text: str, parts: dict[str, object], shown: str) -> None:
    address = parse_address(text)
    assert {name: getattr(address, name) for name in parts} == parts
    assert str(address) == shown
    assert parse_address(shown) == address


@pytest.mark.parametrize(
    "text",
    ["", "@b", "r@", "/r", "p/", "a/b/c", "r@b@c", "r@^", "r@b^.1", "r@b..x", "r@.x", "r@b.", "r@b=xyz", "r b", "r@b:/../x",
     "r@b^9999999"],
)  # fmt: skip
def test_bad_addresses(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_address(text)


def test_the_project_that_is_meant() -> None:
    assert parse_address("r", "mine") == Address(project="mine", repo="r")  # type: ignore[arg-type]
