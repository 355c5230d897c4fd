"""All commands, and how they end.

Exit codes: 0 done, 1 failed (one sentence on stderr), 2 wrong usage. A command that needs a job
done hands it to the running worker, or does it itself when none runs.
"""

import functools
import logging
import sys
from typing import Annotated

import typer
from pydantic import ValidationError
from typer.core import TyperGroup
from typer.main import get_group

from tastemaker import __version__
from tastemaker.cli import (
    audits,
    backups,
    classes,
    encoders,
    filtering,
    images,
    jobs,
    projects,
    publish,
    replay,
    routers,
    running,
    scores,
    slices,
    test_runs,
    users,
    versions,
    write_back,
)
from tastemaker.cli.help import Commands, Stopped
from tastemaker.cli.terminal import err, plain, print_whatever_the_encoding
from tastemaker.config import Settings
from tastemaker.errors import TastemakerError, of_the_disk

app = Commands(
    name="tastemaker",
    help="Teach a machine your taste in images: score, train, review, repeat.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for top in (
    running.app,
    backups.app,
    images.app,
    scores.top,
    versions.top,
    publish.app,
    filtering.app,
    write_back.app,
    replay.app,
    encoders.app,
):
    app.add_typer(top)
for name, below in {
    "project": projects.app, "classes": classes.app, "scores": scores.app,
    "versions": versions.app, "slices": slices.app, "test-run": test_runs.app,
    "audit": audits.app, "router": routers.app, "jobs": jobs.app, "user": users.app,
}.items():  # fmt: skip
    app.add_typer(below, name=name)


# Commands that serve one kind of project; all others that name one serve both.
OF_SCORES = (
    "audit", "replay", "scores stars", "series", "tournament",
    "versions import", "write-back",
)  # fmt: skip
OF_CLASSES = ("classes",)


def served_by(command: str) -> str:
    """`scores`, `classes` or `both`, of a command as it is typed after `tastemaker`."""

    def among(names: tuple[str, ...]) -> bool:
        return any(command == name or command.startswith(f"{name} ") for name in names)

    return "scores" if among(OF_SCORES) else "classes" if among(OF_CLASSES) else "both"


def run() -> None:
    """Do what was typed: errors meant for a person become one sentence and exit code 1."""
    print_whatever_the_encoding()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        all_commands()()
    except TastemakerError as error:
        err.print(f"[red]{plain(error.message)}[/red] {plain(error.hint)}".rstrip())
        sys.exit(1)
    except ValidationError as error:  # of the settings: nothing else is validated on this way
        first = error.errors()[0]
        name = f"{Settings.model_config['env_prefix']}{first['loc'][0]}".upper()
        err.print(f"[red]{name} cannot be used:[/red] {plain(first['msg'])}.")
        sys.exit(1)
    except Stopped as stopped:
        err.print(f"Stopped. {plain(str(stopped))}")
        sys.exit(130)
    except BrokenPipeError:
        sys.stdout = None  # the reader of our output went away
        sys.exit(0)
    except OSError as error:  # a file or folder that is not as it should be, and nobody foresaw it
        what = f"{plain(str(error.filename))}: " if error.filename else ""
        err.print(f"[red]{what}{plain(error.strerror or str(error))}.[/red]")
        sys.exit(1)
    except Exception as error:
        if (known := of_the_disk(error)) is None:
            raise
        err.print(f"[red]{plain(known.message)}[/red] {plain(known.hint)}")
        sys.exit(1)


@functools.cache
def all_commands() -> TyperGroup:
    """The command line, built from the signatures of the functions: once in a process."""
    return get_group(app)


def show_version(wanted: bool) -> None:
    if wanted:
        print(f"tastemaker {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    pass
