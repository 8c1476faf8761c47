"""Pipelines written as a Python function: ``@trunkline.pipeline(...)``. The same engine as a spec file; one datum runs anywhere.

    import trunkline

    @trunkline.pipeline(input={"pfs": {"repo": "images", "glob": "/*"}}, requirements=["pillow"], parallelism=2)
    def thumbnails(datum):
        from PIL import Image
        source = datum.inputs["images"]
        Image.open(source).resize((64, 64)).save(datum.out / source.name)

    thumbnails.run_local("cats/tom.png")        # one datum, here and now, without a server: the folder of its outputs
    thumbnails.create()                         # the pipeline, with the code of this file

Standard library only: the module with the function is imported by the pipeline's processes, too.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trunkline.batching import Datum
from trunkline.errors import AlreadyExistsError, InvalidInputError

if TYPE_CHECKING:
    from trunkline.sdk.client import Client
    from trunkline.wire.pipelines import Pipeline

__all__ = ["FunctionPipeline", "pipeline"]

CODE_FOLDER = "code"
REQUIREMENTS_FILE = "requirements.txt"
SPEC_FILE = "pipeline.json"

Function = Callable[[Datum], object]
PathLike = str | Path


def pipeline(
    *,
    input: Mapping[str, Any],  # noqa: A002  (the spec's own word)
    name: str | None = None,
    requirements: Iterable[str] | Path | None = None,
    parallelism: int = 1,
    include: Iterable[PathLike] = (),
    env: Mapping[str, str] | None = None,
    image: str | None = None,
    batching: bool = True,
    transform: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Callable[[Function], FunctionPipeline]:
    """Make a pipeline of a function that is called with each datum.

    :param input: the spec's ``input``: ``{"pfs": {"repo": "images", "glob": "/*"}}``, ``{"cross": [...]}`` …
    :param name: the pipeline's name; default: the function's.
    :param requirements: packages to install, as lines of a requirements file or the path of one.
    :param parallelism: how many worker processes run it at once.
    :param include: more files and folders for the code folder, relative to the function's file. Modules beside that file
        that it imports come along by themselves.
    :param env: environment variables.
    :param image: the environment, as ``environments`` in the settings maps it; default: the one that runs trunkline.
    :param batching: keep one process for many datums; False: a fresh process for each.
    :param transform: more fields of the spec's ``transform``: ``secrets``, ``user``, ``network`` …
    :param fields: more fields of the spec: ``datum_tries``, ``datum_timeout``, ``on_failure``, ``egress`` …

    >>> import trunkline
    >>> @trunkline.pipeline(input={"pfs": {"repo": "texts", "glob": "/*"}})
    ... def shout(datum):
    ...     source = datum.inputs["texts"]
    ...     (datum.out / source.name).write_text(source.read_text().upper())
    >>> shout.spec()["transform"]["cmd"][-1].endswith(":shout")
    True
    """
    wanted = {
        "input": dict(input), "name": name, "parallelism": parallelism, "env": dict(env or {}), "image": image,
        "batching": batching, "transform": dict(transform or {}), "fields": fields,
    }  # fmt: skip

    def decorate(function: Function) -> FunctionPipeline:
        return FunctionPipeline(
            function, wanted, requirements=requirements, include=tuple(map(Path, include))
        )

    return decorate


class FunctionPipeline:
    """A function with what makes it a pipeline. Calling it calls the function."""

    def __init__(
        self,
        function: Function,
        wanted: Mapping[str, Any],
        *,
        requirements: Iterable[str] | Path | None,
        include: tuple[Path, ...],
    ) -> None:
        self.function = function
        self.name: str = wanted["name"] or function.__name__
        self.__doc__, self.__name__, self.__module__ = (
            function.__doc__,
            function.__name__,
            function.__module__,
        )
        self.__wrapped__ = function
        self._wanted = wanted
        self._requirements = (
            requirements if isinstance(requirements, Path | str) else tuple(requirements or ())
        )
        self._include = include

    def __call__(self, datum: Datum) -> object:
        return self.function(datum)

    def __repr__(self) -> str:
        return f"<trunkline pipeline {self.name}>"

    # --- as a pipeline ---

    def spec(self) -> dict[str, Any]:
        """The pipeline's spec; its code folder is what ``write`` puts beside it.

        >>> thumbnails.spec()["parallelism_spec"]
        {'constant': 2}
        """
        from trunkline.sdk.function_code import target_of  # noqa: PLC0415 (only whoever makes pipelines)

        wanted = self._wanted
        transform: dict[str, Any] = {
            "cmd": ["python", "-m", "trunkline.calling", target_of(self.function)],
            "code": CODE_FOLDER,
            "datum_batching": wanted["batching"],
        }
        if wanted["image"] is not None:
            transform["image"] = wanted["image"]
        if wanted["env"]:
            transform["env"] = dict(wanted["env"])
        if self._requirements:
            transform["requirements"] = REQUIREMENTS_FILE
        spec = {
            "pipeline": {"name": self.name},
            "input": wanted["input"],
            "transform": transform | wanted["transform"],
            "parallelism_spec": {"constant": wanted["parallelism"]},
        }
        project = wanted["fields"].get("project")
        if project is not None:
            spec["pipeline"]["project"] = project
        more = {key: value for key, value in wanted["fields"].items() if key != "project"}
        if self.__doc__ and "description" not in more:
            more["description"] = self.__doc__.strip().splitlines()[0]
        return spec | more

    def write(self, folder: PathLike) -> Path:
        """Write the spec and its code folder, for ``trunkline create pipeline -f``; returns the spec's path.

        >>> thumbnails.write("pipelines/thumbnails")
        PosixPath('pipelines/thumbnails/pipeline.json')
        """
        from trunkline.sdk.function_code import code_of  # noqa: PLC0415 (only whoever makes pipelines)

        code = code_of(self.function, self._include)
        if self._requirements:
            code[REQUIREMENTS_FILE] = self._requirements_text().encode()
        target = Path(folder)
        for name, content in code.items():
            path = target / CODE_FOLDER / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        file = target / SPEC_FILE
        file.write_text(json.dumps(self.spec(), indent=2) + "\n")
        return file

    def create(
        self, client: Client | None = None, *, update: bool = False, reprocess: bool = False
    ) -> Pipeline:
        """Create the pipeline, with the function's code; ``update`` makes a new version where it exists.

        :raises AlreadyExistsError: if there is one of this name, and ``update`` is not said.

        >>> thumbnails.create()
        """
        from trunkline.sdk.client import Client as AnyClient  # noqa: PLC0415 (brings all wire models along)

        api = client if client is not None else AnyClient()
        with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
            self.write(folder)
            return api.create_pipeline(self.spec(), folder=Path(folder), update=update, reprocess=reprocess)

    def update(self, client: Client | None = None, *, reprocess: bool = False) -> Pipeline:
        """Make a new version with the code as it is now; create it where there is none.

        >>> thumbnails.update()
        """
        return self.create(client, update=True, reprocess=reprocess)

    def _requirements_text(self) -> str:
        if isinstance(self._requirements, tuple):
            return "".join(f"{line}\n" for line in self._requirements)
        from trunkline.sdk.function_code import read_beside  # noqa: PLC0415 (only whoever makes pipelines)

        return read_beside(self.function, Path(self._requirements))

    # --- here and now ---

    def run_local(
        self,
        datum: PathLike | Mapping[str, PathLike] | Datum,
        *,
        out: PathLike | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Path:
        """Call the function with one datum, in this process, without a server; returns the folder of its outputs.

        :param datum: the file or folder of the single input; or ``{input name: path}``; or a ``Datum``.
        :param out: where outputs go: a folder that is not there, or empty; default: a new temporary one.
        :raises InvalidInputError: ``no_path``, ``unknown_input`` or ``missing_input``; exceptions of the function itself
            come through as they are.

        >>> sorted(path.name for path in thumbnails.run_local("cats/tom.png").iterdir())
        ['tom.png']
        """
        if isinstance(datum, Datum):
            self.function(datum)
            return datum.out
        paths = self._paths(datum)
        folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-")) if out is None else Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise AlreadyExistsError(
                f"{folder} is not empty: outputs go to a folder of their own", kind="out_exists"
            )
        variables = {
            **self._wanted["env"],
            **(env or {}),
            **{name: str(path) for name, path in paths.items()},
        }
        made = Datum(
            secrets.token_hex(32),
            variables,
            {name: str(path) for name, path in paths.items()},
            out=folder.resolve(),
        )
        self.function(made)
        if made.reason is not None:
            raise InvalidInputError(f"the datum failed: {made.reason}", kind="datum_failed")
        return made.out

    def _paths(self, datum: PathLike | Mapping[str, PathLike]) -> dict[str, Path]:
        names = list(dict.fromkeys(input_names(self._wanted["input"])))
        if isinstance(datum, Mapping):
            given = {name: Path(path) for name, path in datum.items()}
        elif len(names) == 1:
            given = {names[0]: Path(datum)}
        else:
            raise InvalidInputError(
                f"{self.name} has the inputs {', '.join(names)}: give each its path, as {{{names[0]!r}: PATH}}",
                kind="missing_input",
            )
        for name, path in given.items():
            if name not in names:
                raise InvalidInputError(
                    f"{self.name} has no input {name!r}; it has {', '.join(names)}", kind="unknown_input"
                )
            if not path.exists():
                raise InvalidInputError(f"there is no {path}", kind="no_path", details={"path": str(path)})
        return {name: path.resolve() for name, path in given.items()}


def input_names(node: Mapping[str, Any]) -> Iterator[str]:
    """The names of the inputs of a spec, as below ``/pfs``.

    >>> list(input_names({"cross": [{"pfs": {"repo": "a", "glob": "/"}}, {"cron": {"name": "tick", "spec": "@daily"}}]}))
    ['a', 'tick']
    """
    for kind, value in node.items():
        if isinstance(value, Mapping):
            yield str(value.get("name") or value.get("repo") or kind)
        elif isinstance(value, Iterable) and not isinstance(value, str):
            for one in value:
                yield from input_names(one)
