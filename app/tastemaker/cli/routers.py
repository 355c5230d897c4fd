"""`tastemaker router`: a classifier and a scorer for each of its classes, as one model."""

from pathlib import Path
from typing import Annotated, Literal, cast

import typer
from sqlmodel import Session

from tastemaker.cli.help import Commands
from tastemaker.cli.options import path_argument, share_option
from tastemaker.cli.terminal import AsJson, confirm, database, out, plain, print_json
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.tables import Version

app = Commands(help="Routers: of mixed pictures, each is scored by the version for its kind.")

REJECT = "reject"
Name = Annotated[str, typer.Argument(metavar="NAME", help="The router.")]


@app.command("create")
def create(
    name: Name,
    classifier: Annotated[
        str, typer.Option(metavar="P@v1.0", help="The version that tells the classes apart.")
    ],
    send: Annotated[
        list[str],
        typer.Option(
            metavar="CLASS=P@v1.0",
            help="Which version scores a class; CLASS=reject for one that never passes. Once for "
            "each class.",
        ),
    ],
    soft: Annotated[
        bool, typer.Option("--soft", help="Weigh all scorers by how likely each class is.")
    ] = False,
    abstain: Annotated[
        float,
        share_option("--abstain", "No score where the likeliest class is less likely than this."),
    ] = 0.0,
    scale: Annotated[
        str,
        typer.Option(help="percentile: each scorer's threshold is 50 %; or score, as they are."),
    ] = "percentile",
    as_json: AsJson = False,
) -> None:
    """Publish a router. It is a copy: what becomes of the versions later does not change it."""
    from tastemaker import versions
    from tastemaker.publishing import routers

    with database() as (settings, engine), sessions.reading(engine) as session:
        first = versions.named(session, classifier)
        scorers = dict(_sent(session, first, typed) for typed in send)
        made = routers.make(
            session, settings, name, first, scorers, mode="soft" if soft else "hard",
            scale=cast(Literal["percentile", "score"], scale), abstain=abstain,
        )  # fmt: skip
    if as_json:
        return print_json(made.as_json())
    out.print(plain(f"“{made.name}” is in {made.folder}."))
    out.print(plain(f"Score with it: tastemaker score PICTURES --model router:{made.folder.name}"))
    return None


def _sent(session: Session, classifier: Version, typed: str) -> tuple[str, Version | None]:
    from tastemaker import versions

    known = next((n for n in classifier.classes.names if typed.startswith(f"{n}=")), None)
    name = known if known is not None else typed.partition("=")[0]
    to = typed[len(name) + 1 :]
    if not to:
        raise typer.BadParameter(f"“{typed}”: write CLASS=PROJECT@v1.0 or CLASS={REJECT}")
    return name, None if to == REJECT else versions.named(session, to)


@app.command("list")
def listed(as_json: AsJson = False) -> None:
    """The routers of this home, and what is the trouble with one."""
    from tastemaker.publishing import routers

    known = routers.kept(Settings())
    if as_json:
        return print_json([one.as_json() for one in known])
    for one in known:
        kinds = ", ".join(route.name for route in one.says.classes) if one.says else ""
        out.print(plain(f"{one.name}: {kinds}{f' – {one.trouble}' if one.trouble else ''}"))
    if not known:
        out.print("There is no router yet: tastemaker router create NAME --classifier P@v1.0 …")
    return None


@app.command("export")
def export(
    name: Name,
    folder: Annotated[Path, path_argument("DIR", "The folder it becomes a folder of.")],
    as_json: AsJson = False,
) -> None:
    """Write a router's folder: its members, router.json and a card."""
    from tastemaker.files import require_writable_folder
    from tastemaker.publishing import exports, routers

    one = routers.find(Settings(), name)
    parts = routers.parts_of(one)
    require_writable_folder(folder)
    written = exports.write(parts, folder / one.folder.name)
    if as_json:
        return print_json([str(path) for path in written])
    for path in written:
        out.print(plain(str(path)))
    return None


@app.command("import")
def bring_in(
    source: Annotated[Path, path_argument("PATH", "The folder of a router, or its zip.")],
    as_json: AsJson = False,
) -> None:
    """Keep a router that was exported elsewhere, the same to the byte."""
    from tastemaker.publishing import routers

    with database() as (settings, _):
        one = routers.bring_in(settings, source)
    if as_json:
        return print_json(one.as_json())
    out.print(plain(f"“{one.name}” is in {one.folder}."))
    return None


@app.command("delete")
def delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a router. The versions it was made of stay."""
    from tastemaker.publishing import routers

    folder = routers.find_folder(Settings(), name)
    confirm(f"Delete the router “{name}”?", yes)
    one = routers.delete(Settings(), folder.name)
    out.print(plain(f"“{one.name}” is deleted; its versions stay."))
