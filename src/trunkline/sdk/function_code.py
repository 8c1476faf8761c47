"""The code folder of a function pipeline: the file (or package) that defines the function, with what it imports from beside it;
or, for a function in a notebook, a file written from its source and from what that uses.

Of a notebook, these travel: imports, functions, classes, and constants that can be written as a literal. Anything else (a data
frame, a model, an open file) is refused by name: load it inside the function, or commit it as an input.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import linecache
import sys
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from trunkline.errors import InvalidInputError

NOTEBOOK_MODULE = "notebook_code"
FILES_MAX = 2000
BYTES_MAX = 64 * 2**20
IGNORED = {"__pycache__"}

Function = Callable[..., object]


def target_of(function: Function) -> str:
    """``MODULE:FUNCTION``, as the pipeline's process imports it."""
    file = _file_of(function)
    name = function.__qualname__
    return (
        f"{NOTEBOOK_MODULE}:{function.__name__}" if file is None else f"{_module_name(function, file)}:{name}"
    )


def code_of(function: Function, include: Iterable[Path] = ()) -> dict[str, bytes]:
    """The code folder: name -> content.

    :raises InvalidInputError: ``no_source``, ``not_portable`` or ``bad_include``, naming what cannot travel.
    """
    file = _file_of(function)
    if file is None:
        root = Path.cwd()
        found, seen = _of_notebook(function, root)
    else:
        root = _root_of(function, file)
        found, seen = {}, set()
        _add(_whole(file, root), root, found, seen)
    for one in include:
        path = (root / one).resolve()
        if not path.exists() or root.resolve() not in path.parents:
            raise InvalidInputError(
                f"include {str(one)!r}: there is no such file or folder below {root}", kind="bad_include"
            )
        _add(path, root, found, seen)
    if len(found) > FILES_MAX or sum(map(len, found.values())) > BYTES_MAX:
        raise InvalidInputError(
            f"the code folder would have {len(found)} files: move the function to a folder with only its code",
            kind="bad_include",
        )
    return found


def read_beside(function: Function, path: Path) -> str:
    """A text file beside the function's."""
    file = _file_of(function)
    place = (Path.cwd() if file is None else file.parent) / path
    try:
        return place.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise InvalidInputError(
            f"requirements {place} cannot be read: {reason}", kind="no_requirements"
        ) from error


# --- functions in files ---


def _file_of(function: Function) -> Path | None:
    """The file that defines it; None if it is to be taken out of where it is: a notebook, a shell, another function."""
    module = sys.modules.get(function.__module__)
    name = getattr(module, "__file__", None)
    if name is None or "<locals>" in function.__qualname__ or not Path(name).is_file():
        return None
    return Path(name).resolve()


def _module_name(function: Function, file: Path) -> str:
    if function.__module__ != "__main__":
        return function.__module__
    spec = getattr(sys.modules["__main__"], "__spec__", None)  # run as ``python -m package.module``
    return str(spec.name) if spec is not None else file.stem


def _root_of(function: Function, file: Path) -> Path:
    """The folder from which its module is imported."""
    depth = _module_name(function, file).count(".") + (1 if file.name == "__init__.py" else 0)
    return file.parents[depth]


def _whole(file: Path, root: Path) -> Path:
    """A module of a package needs all of the package."""
    relative = file.relative_to(root)
    return root / relative.parts[0]


def _add(path: Path, root: Path, found: dict[str, bytes], seen: set[Path]) -> None:
    """A file or folder, and what its code imports from below ``root``."""
    waiting = [path]
    while waiting:
        at = waiting.pop()
        if at in seen or at.name in IGNORED or (at.name.startswith(".") and at != path):
            continue
        seen.add(at)
        if at.is_dir():
            waiting += at.iterdir()
        elif at.is_file() and len(found) <= FILES_MAX:
            content = at.read_bytes()
            found[at.relative_to(root).as_posix()] = content
            if at.suffix == ".py":
                waiting += _imported(content, at, root)


def _imported(content: bytes, file: Path, root: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError) as error:
        raise InvalidInputError(f"{file} is not Python: {error}", kind="no_source") from error
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        for name in names:
            yield from _beside(name.partition(".")[0], root)


def _beside(top: str, root: Path) -> Iterator[Path]:
    """The module or package of a name in a folder, if it is there: not installed, but the user's own."""
    if (root / top / "__init__.py").is_file():
        yield root / top
    elif (root / f"{top}.py").is_file():
        yield root / f"{top}.py"


# --- functions in notebooks ---


def _of_notebook(function: Function, root: Path) -> tuple[dict[str, bytes], set[Path]]:
    writer = _Writer(function)
    text = writer.text()
    found: dict[str, bytes] = {f"{NOTEBOOK_MODULE}.py": text.encode()}
    seen: set[Path] = set()
    for path in _imported(text.encode(), root / f"{NOTEBOOK_MODULE}.py", root):
        _add(path, root, found, seen)
    return found, seen


class _Writer:
    """Writes a module that has a function, and all that the function uses."""

    def __init__(self, function: Function) -> None:
        self._home = function.__module__
        self._imports: set[str] = set()
        self._parts: list[str] = []
        self._done: dict[str, object] = {}
        self._define(function.__name__, function)

    def text(self) -> str:
        head = ["from __future__ import annotations", *sorted(self._imports)]
        return "\n".join(head) + "\n\n\n" + "\n\n\n".join(self._parts) + "\n"

    def _define(self, name: str, value: Any) -> None:
        """Functions and classes: what they use comes first."""
        if name in self._done:
            if self._done[name] is not value:
                raise InvalidInputError(f"two different things are called {name!r}", kind="not_portable")
            return
        self._done[name] = value
        source = _source_of(name, value)
        node = ast.parse(source).body[0]
        functions = [value] if isinstance(value, types.FunctionType) else []
        if isinstance(value, type):
            functions = [one for one in vars(value).values() if isinstance(one, types.FunctionType)]
        for used in _names_in(node):
            known, what = _lookup(used, functions, sys.modules.get(value.__module__))
            if known:
                self._use(used, what, name)
        self._parts.append(source.rstrip())

    def _use(self, name: str, value: Any, where: str) -> None:
        inner = inspect.unwrap(value) if callable(value) else value
        if isinstance(inner, types.FunctionType) and inner.__module__ == self._home:
            value = inner  # its decorators are in its source
        if isinstance(value, types.ModuleType):
            self._imports.add(f"import {value.__name__} as {name}")
        elif isinstance(value, types.FunctionType | type) and value.__module__ == self._home:
            self._define(name, value)
        elif _is_importable(value):
            self._imports.add(f"from {value.__module__} import {value.__name__} as {name}")
        elif isinstance(value, Path):
            self._constant(name, f'__import__("pathlib").Path({str(value)!r})')
        elif _is_literal(value):
            self._constant(name, repr(value))
        else:
            raise InvalidInputError(
                f"{where} uses {name}, a {type(value).__name__}, which cannot travel with its code: make or load it inside "
                "the function, or put the function into a file",
                kind="not_portable",
                details={"name": name},
            )

    def _constant(self, name: str, text: str) -> None:
        if name not in self._done:
            self._done[name] = text
            self._parts.append(f"{name} = {text}")


def _source_of(name: str, value: Any) -> str:
    """Without decorators: they are what makes it a pipeline here."""
    try:
        source = _class_source(name, value) or textwrap.dedent(inspect.getsource(value))
        node = ast.parse(source).body[0]
    except (OSError, TypeError, SyntaxError) as error:
        raise InvalidInputError(
            f"the source of {name} cannot be read: define it in a file or in a cell of a notebook",
            kind="no_source",
        ) from error
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
        raise InvalidInputError(f"{name} is no function that 'def' defines", kind="no_source")
    lines = source.splitlines()[node.lineno - 1 : node.end_lineno]
    others = [one for one in node.decorator_list if not _makes_a_pipeline(one)]
    return "\n".join([*(f"@{ast.unparse(one)}" for one in others), *lines])


def _class_source(name: str, value: Any) -> str:
    """Of a class in a notebook, which ``inspect`` does not find: the cell is where its methods are, else the last that has it."""
    if not isinstance(value, type) or getattr(sys.modules.get(value.__module__), "__file__", None):
        return ""
    methods = [
        one.__code__.co_filename for one in vars(value).values() if isinstance(one, types.FunctionType)
    ]
    for cell in methods[:1] or reversed(list(linecache.cache)):
        lines = linecache.getlines(cell)
        try:
            nodes = ast.parse("".join(lines)).body if any(name in line for line in lines) else []
        except SyntaxError:
            continue
        for node in reversed(nodes):
            if isinstance(node, ast.ClassDef) and node.name == name:
                first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
                return "".join(lines[first - 1 : node.end_lineno])
    return ""


def _makes_a_pipeline(decorator: ast.expr) -> bool:
    named = decorator.func if isinstance(decorator, ast.Call) else decorator
    return ast.unparse(named).split(".")[-1] == "pipeline"


def _names_in(node: ast.AST) -> list[str]:
    """The names that code reads, but for those in annotations, which are never looked at."""
    found: dict[str, None] = {}

    def visit(at: ast.AST) -> None:
        if isinstance(at, ast.Name) and isinstance(at.ctx, ast.Load):
            found[at.id] = None
        for field_name, child in ast.iter_fields(at):
            if field_name in ("annotation", "returns") or (
                field_name == "decorator_list" and isinstance(at, ast.FunctionDef)
            ):
                child = (
                    [one for one in child if not _makes_a_pipeline(one)] if isinstance(child, list) else []
                )
            for one in child if isinstance(child, list) else [child]:
                if isinstance(one, ast.AST):
                    visit(one)

    visit(node)
    return list(found)


def _lookup(
    name: str, functions: list[types.FunctionType], module: types.ModuleType | None
) -> tuple[bool, Any]:
    for function in functions:
        if name in function.__code__.co_varnames:
            return False, None
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
        for free, cell in cells:
            if free == name:
                return True, cell.cell_contents
        if name in function.__globals__:
            return True, function.__globals__[name]
    if not functions and module is not None and name in vars(module):
        return True, vars(module)[name]
    return False, None


def _is_importable(value: Any) -> bool:
    module, name = getattr(value, "__module__", None), getattr(value, "__name__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__":
        return False
    try:
        return getattr(importlib.import_module(module), name, None) is value
    except ImportError:
        return False


def _is_literal(value: Any) -> bool:
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False
