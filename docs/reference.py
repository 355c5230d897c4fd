"""Write `docs/reference.md` from the program itself: `python -m docs.reference`.

Every command and option, setting, job kind and address is in it, and nothing that does not exist:
a test compares the file with what this module gives.
"""

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from fastapi.routing import APIRoute

from tastemaker.auth.permissions import AdminUser, AnnotatorUser, ViewerUser, permissions_of
from tastemaker.cli.commands import app as command_line
from tastemaker.cli.commands import served_by
from tastemaker.config import Settings
from tastemaker.jobs.children import HANDLERS
from tastemaker.pages import kinds
from tastemaker.pages.app import all_routers

HERE = Path(__file__).parent
WHO = {
    id(kind.__metadata__[0].dependency): name
    for kind, name in ((AdminUser, "admin"), (AnnotatorUser, "annotator"), (ViewerUser, "viewer"))
}


def reference() -> str:
    """The whole page, as Markdown."""
    return "\n".join(
        [
            "# Reference",
            "",
            "Written by `python -m docs.reference` from the program itself; a test keeps it true.",
            "",
            "## Commands",
            "",
            *_commands(typer.main.get_command(command_line), "tastemaker"),
            "## Settings",
            "",
            "Environment variables, or lines of a `.env` file where the program is started.",
            "",
            "| variable | default | |",
            "|---|---|---|",
            *_settings(),
            "",
            "## Kinds of jobs",
            "",
            "| kind | what it does |",
            "|---|---|",
            *_jobs(),
            "",
            "## API",
            "",
            "`GET /api/v1/openapi.json` gives the shapes. “viewer” is everybody who may",
            "sign in, or has a token; “annotator” whoever may also score; on a server without a",
            "password whoever reaches it is its admin. A token's scopes are read (viewer), score",
            "(annotator) and admin.",
            "",
            "“Serves” says which projects: those that score, those with classes or tags, or both.",
            "",
            "| address | for | serves | |",
            "|---|---|---|---|",
            *_routes(api=True),
            "",
            "## Pages",
            "",
            "| address | for | serves | |",
            "|---|---|---|---|",
            *_routes(api=False),
            "",
        ]
    )


def _commands(command: Any, name: str) -> Iterator[str]:
    if hasattr(command, "commands"):
        for word in sorted(command.commands):
            yield from _commands(command.commands[word], f"{name} {word}")
        return
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    words = (p.metavar or (p.name.upper() if p.required else f"[{p.name.upper()}]")
             for p in arguments)  # fmt: skip
    yield f"### `{' '.join([name, *words])}`"
    yield ""
    yield _one_line(command.help or "")
    yield ""
    if any("PROJECT" in word for word in (p.metavar or p.name.upper() for p in arguments)):
        yield f"Serves projects with {kinds.IN_WORDS[served_by(name.partition(' ')[2])]}."
        yield ""
    for argument in arguments:
        if "SRC" in (argument.metavar or ""):
            yield f"- `{argument.metavar}`: {_one_line(argument.help)}"
    for option in options:
        names = ", ".join(f"`{word}`" for word in (*option.opts, *option.secondary_opts))
        yield f"- {names}: {_one_line(option.help or '')}"
    if options:
        yield ""


def _settings() -> Iterator[str]:
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        text = str(default).replace(str(Path.home()), "~")
        cell = f"`{text}`" if text else ""
        yield f"| `TASTEMAKER_{name.upper()}` | {cell} | {field.description} |"


def _jobs() -> Iterator[str]:
    for kind, place in HANDLERS.items():
        module, function = place.split(":")
        handler = getattr(importlib.import_module(module), function)
        yield f"| `{kind}` | {_first_paragraph(handler)} |"


def _routes(*, api: bool) -> Iterator[str]:
    rows = []
    for route in (route for router in all_routers() for route in router.routes):
        assert isinstance(route, APIRoute)
        if route.path.startswith("/api/") == api:
            (permission,) = permissions_of(route.endpoint)
            for method in sorted(route.methods):
                who = WHO.get(id(permission), "anybody")
                module = route.endpoint.__module__.rpartition(".")[2]
                serves = kinds.IN_WORDS[kinds.served_by(module, route.path)]
                rows.append((route.path, method, who, serves, _first_paragraph(route.endpoint)))
    for path, method, who, serves, text in sorted(rows):
        yield f"| `{method} {path}` | {who} | {serves} | {text} |"


def _first_paragraph(function: object) -> str:
    return _one_line((inspect.getdoc(function) or "").split("\n\n")[0])


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")


if __name__ == "__main__":
    (HERE / "reference.md").write_text(reference())
