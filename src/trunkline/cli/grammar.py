"""The grammar: verb groups whose nouns are found in singular and plural, and the nearest word where one is unknown."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from typer.core import TyperGroup

from trunkline.cli import quick
from trunkline.cli.output import Format
from trunkline.core.ids import is_commit_id
from trunkline.core.suggest import did_you_mean
from trunkline.errors import InvalidInputError

NOUNS = {
    "branch": "branches", "checkpoint": "checkpoints", "commit": "commits", "cron": "crons", "datum": "datums",
    "experiment": "experiments", "file": "files", "inferenceservice": "inferenceservices", "job": "jobs",
    "model": "models", "namespace": "namespaces", "pipeline": "pipelines", "project": "projects", "purge": "purges",
    "repo": "repos", "secret": "secrets", "tag": "tags", "transaction": "transactions", "trial": "trials",
    "version": "versions",
}  # fmt: skip
SAME = {plural: singular for singular, plural in NOUNS.items()} | {
    "isvc": "inferenceservice", "ns": "namespace", "branchs": "branch", "exp": "experiment",
}  # fmt: skip
"""Other words for a noun -> its singular, under which every command is registered."""
ID_COMMAND = "ID"

Function = TypeVar("Function", bound=Callable[..., Any])


class Verb(TyperGroup):
    """A verb: its nouns may be said in singular or plural."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        word = args[0]
        name = SAME.get(word, word)
        if name not in self.commands and ID_COMMAND in self.commands and is_commit_id(word):
            return ID_COMMAND, self.commands[ID_COMMAND], args
        if name not in self.commands:
            raise unknown_word(word, self, ctx)
        return name, self.commands[name], args[1:]


class Verbs(TyperGroup):
    """The top level."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        found = self.get_command(ctx, args[0])
        if found is None:
            raise unknown_word(args[0], self, ctx)
        return args[0], found, args[1:]


def unknown_word(word: str, group: TyperGroup, ctx: Any) -> InvalidInputError:
    """The error for a word that is no command, with the nearest one that is."""
    shown = [name for name in group.list_commands(ctx) if name != ID_COMMAND]
    hint = did_you_mean(word, [*shown, *(plural for plural, one in SAME.items() if one in shown)])
    return InvalidInputError(
        f"there is no command '{ctx.command_path} {word}'{hint or '; known are: ' + ', '.join(shown)}",
        kind="unknown_command",
    )


def new_verb(parent: typer.Typer, name: str, help_text: str = "") -> typer.Typer:
    """A verb with nouns below it; several modules may add nouns to one, and the first says what it is for."""
    for known in parent.registered_groups:
        if known.name == name and known.typer_instance is not None:
            return known.typer_instance
    verb = typer.Typer(cls=Verb, help=help_text, no_args_is_help=True, rich_markup_mode=None)
    parent.add_typer(verb, name=name)
    return verb


def command(parent: typer.Typer, name: str, example: str) -> Callable[[Function], Function]:
    """A command whose help ends with an example."""
    return parent.command(name, epilog=f"Example: {example}")


def _declared(option: quick.Option) -> Any:
    flags = [*option.flags]
    if option.off is not None:
        flags[0] += f"/{option.off}"
    return typer.Option(
        *flags, help=option.help, min=option.least, max=option.most, metavar=option.metavar
    )  # fmt: skip


def with_options(function: Callable[..., None], options: Mapping[str, quick.Option]) -> Callable[..., None]:
    """A command function, and what is declared of its parameters elsewhere."""
    hints = get_type_hints(function)
    declared = {name: _declared(option) for name, option in options.items()}
    declared["address"] = ADDRESS

    @functools.wraps(function)
    def command(**values: Any) -> None:
        function(**values)

    command.__annotations__ = {
        name: Annotated[hint, declared[name]] if name in declared else Output if name == "output" else hint
        for name, hint in hints.items()
    }
    signature = inspect.signature(function)
    command.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[
            one.replace(annotation=command.__annotations__[name])
            for name, one in signature.parameters.items()
        ]
    )
    return command


# Options that many commands share.

JOB_HELP = "Or PIPELINE@BRANCH: the job that made its head."
JobName = Annotated[str, typer.Argument(metavar="PIPELINE@ID", help=JOB_HELP)]
ADDRESS: Any = typer.Argument(metavar="REPO@BRANCH[:PATH]")

Output = Annotated[Format | None, typer.Option("--output", "-o", help="Print json or yaml.")]
Project = Annotated[str | None, _declared(quick.PROJECT)]
FullTimestamps = Annotated[bool, typer.Option("--full-timestamps", help="Times instead of ages.")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="The namespace.")]
Force = Annotated[bool, typer.Option("--force", help="Even if others depend on it.")]
Number = Annotated[int | None, typer.Option("--number", "-n", min=1, help="At most so many; default: all.")]
