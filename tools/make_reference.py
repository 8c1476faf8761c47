"""Write docs/reference/*.md from the code itself; ``--check`` fails if a page on disk says something else."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from trunkline.api.errors import STATUS
from trunkline.cli.errors import EXIT
from trunkline.cli.grammar import ID_COMMAND
from trunkline.cli.tree import build
from trunkline.sdk.client import Client
from trunkline.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
HEAD = "<!-- Written by 'make docs' from the code: edit that. -->\n\n"


def cli_page() -> str:
    """Every command with its usage, its options and its example."""
    lines = ["# Commands", "", "Singular and plural of a noun both work. stdout is data, stderr is talk.", ""]
    context_type: Any = None

    def walk(command: Any, path: str) -> None:
        nonlocal context_type
        found = command.list_commands(context_type) if hasattr(command, "list_commands") else None
        if found is not None:
            for name in found:
                child = command.get_command(context_type, name)
                if child is not None and not child.hidden:
                    walk(child, f"{path} {name}")
            if not getattr(command, "invoke_without_command", False):
                return
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        shown = "".join(
            f" {'' if p.required else '['}{(p.metavar or (p.name or '').upper())}{'' if p.required else ']'}"
            for p in arguments
        )
        title = path.removesuffix(
            f" {ID_COMMAND}"
        )  # a word for the parser alone: what is typed is the ID itself
        lines.extend([f"## {title}{shown}", "", (command.help or "").strip().split("\f")[0], ""])
        options = [
            p for p in command.params if p.param_type_name == "option" and p.name != "help" and not p.hidden
        ]
        lines.extend(f"- `{', '.join(p.opts)}`: {p.help or ''}" for p in options)
        if options:
            lines.append("")
        if command.epilog:
            lines.extend(["```", command.epilog.removeprefix("Example: "), "```", ""])

    root = typer.main.get_command(build())
    context_type = root.context_class(root, info_name="trunkline")
    walk(root, "trunkline")
    return "\n".join(lines)


def settings_page() -> str:
    """Every setting with its default."""
    lines = [
        "# Settings", "",
        "Flags win over `TRUNKLINE_<NAME>` in the environment, that over `trunkline.toml` in the data directory, that over the",
        "default.", "", "| setting | default | meaning |", "|---|---|---|",
    ]  # fmt: skip
    for name, field in Settings.model_fields.items():
        default = (
            "`~/.trunkline`"
            if name == "home"
            else f"`{field.get_default(call_default_factory=name != 'trials_max')}`"
        )
        if name == "trials_max":
            default = "processors"
        lines.append(f"| `{name}` | {default} | {field.description} |")
    return "\n".join(lines)


def errors_page() -> str:
    """Classes with their HTTP status and exit code, and every kind with where it comes from."""
    lines = ["# Errors", "", "| class | HTTP status | exit code | what to do |", "|---|---|---|---|"]
    for kind, status in STATUS.items():
        lines.append(
            f"| {kind.__name__} | {status} | {EXIT[kind]} | {(kind.__doc__ or '').splitlines()[0]} |"
        )
    lines += ["", "Every error has a stable `kind`:", "", "| kind | raised in |", "|---|---|"]
    kinds: dict[str, set[str]] = {}
    for path in sorted((ROOT / "src" / "trunkline").rglob("*.py")):
        if "demo/digits" in path.as_posix():
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                for keyword in node.keywords:
                    name = getattr(node.func, "id", "")
                    if (
                        keyword.arg == "kind"
                        and isinstance(keyword.value, ast.Constant)
                        and name.endswith("Error")
                    ):
                        place = path.relative_to(ROOT / "src" / "trunkline").parts[0].removesuffix(".py")
                        kinds.setdefault(str(keyword.value.value), set()).add(place)
    lines += [f"| `{kind}` | {', '.join(sorted(places))} |" for kind, places in sorted(kinds.items())]
    return "\n".join(lines)


def sdk_page() -> str:
    """The client's public methods as their docstrings tell them."""
    lines = [
        "# Python client",
        "",
        "```python",
        "from trunkline import Client",
        "client = Client()",
        "```",
        "",
    ]
    for name, method in inspect.getmembers(Client, inspect.isfunction):
        if name.startswith("_") or not method.__doc__:
            continue
        signature = str(inspect.signature(method)).replace("(self, ", "(").replace("(self)", "()")
        lines.extend(
            [
                f"## {name}",
                "",
                "```python",
                f"{name}{signature}",
                "```",
                "",
                inspect.cleandoc(method.__doc__),
                "",
            ]
        )
    return "\n".join(lines)


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "settings.md": settings_page,
    "errors.md": errors_page,
    "sdk.md": sdk_page,
}


def main() -> int:
    folder = ROOT / "docs" / "reference"
    folder.mkdir(parents=True, exist_ok=True)
    stale = []
    for name, make in PAGES.items():
        text = HEAD + make().rstrip() + "\n"
        path = folder / name
        if not path.is_file() or path.read_text() != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(text)
    if stale and "--check" in sys.argv:
        print(f"docs/reference is not what the code says: {', '.join(stale)}; run 'make docs'")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
