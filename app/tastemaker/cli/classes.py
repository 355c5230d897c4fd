"""`tastemaker classes …`: the classes or tags of a project."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from sqlmodel import Session

from tastemaker.cli.help import Commands
from tastemaker.cli.options import InProject, ProjectWords, in_order, words
from tastemaker.cli.terminal import AsJson, confirm, counted, database, out, plain, print_json
from tastemaker.database import sessions

if TYPE_CHECKING:
    from tastemaker.database.tables import Project

app = Commands(help="List, add, change, merge and delete classes.", no_args_is_help=True)

CLASS = "A class by its name or its number."


def _with_classes(session: Session, name: str) -> "Project":
    """A project by its name. Raises `Conflict` for one that scores."""
    from tastemaker import projects
    from tastemaker.scores import class_changes

    project = projects.by_name(session, name)
    class_changes.check_classes(project)
    return project


@app.command("list")
def classes_list(
    typed: ProjectWords = None,
    project: InProject = None,
    as_json: AsJson = False,
) -> None:
    """List the classes or tags of a project, and how many images are labelled so."""
    from tastemaker.scores import classes

    (name,) = in_order(typed, project)
    with database() as (_, engine), sessions.reading(engine) as session:
        chosen = _with_classes(session, name)
        known = classes.of(session, chosen.id)
        counts = classes.count_labels(session, chosen, known)
        rows = [classes.as_json(row, counts[row.number]) for row in known.alive]
    if as_json:
        return print_json(rows)
    table = Table("number", "name", "key", "weight", "labels")
    for row in rows:
        weight = f"{row['weight']:g}"
        table.add_row(
            str(row["number"]), plain(row["name"]), row["key"], weight, str(row["labels"])
        )
    out.print(table)
    return None


@app.command("add")
def classes_add(
    typed: Annotated[list[str], words("PROJECT NAME")],
    project: InProject = None,
    key: Annotated[str, typer.Option(help="The key that gives it; default: the next.")] = "",
    as_json: AsJson = False,
) -> None:
    """Add a class to a project."""
    from tastemaker import projects
    from tastemaker.scores import class_changes, classes

    name, called = in_order(typed, project, "NAME")
    with database() as (_, engine), sessions.writing(engine) as session:
        chosen = projects.by_name(session, name)
        row = class_changes.add(session, chosen, called, class_changes.validated_key(key))
        told = classes.as_json(row)
    if as_json:
        return print_json(told)
    out.print(plain(f"“{told['name']}” is added, with the key {told['key'] or '–'}."))
    return None


@app.command("change")
def classes_change(
    typed: Annotated[list[str], words("PROJECT CLASS", CLASS)],
    project: InProject = None,
    name: Annotated[str | None, typer.Option(help="What it is to be called.")] = None,
    key: Annotated[str | None, typer.Option(help="The key that gives it.")] = None,
    weight: Annotated[
        float | None, typer.Option(help="How much its labels count in training; usual: 1.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rename a class, or give it another key or weight. Labels stay."""
    from tastemaker.scores import class_changes, classes

    in_project, which = in_order(typed, project, "CLASS")
    wanted = {"name": name, "key": key, "weight": weight}
    with database() as (_, engine), sessions.writing(engine) as session:
        chosen = _with_classes(session, in_project)
        number = classes.of(session, chosen.id).find(which).number
        changes = {field: value for field, value in wanted.items() if value is not None}
        told = classes.as_json(class_changes.change(session, chosen, number, **changes))
    if as_json:
        return print_json(told)
    out.print(plain(f"Saved: “{told['name']}”, key {told['key'] or '–'}."))
    return None


@app.command("merge")
def classes_merge(
    typed: Annotated[list[str], words("PROJECT CLASS INTO", CLASS)],
    project: InProject = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make one class part of another; its labels follow."""
    from tastemaker.scores import class_changes, classes

    name, which, into = in_order(typed, project, "CLASS", "INTO")
    confirm(f"Merge “{which}” into “{into}”? It cannot be taken apart again.", yes)
    with database() as (_, engine), sessions.writing(engine) as session:
        chosen = _with_classes(session, name)
        known = classes.of(session, chosen.id)
        pair = known.find(which).number, known.find(into).number
        labels = class_changes.merge(session, chosen, *pair)
    if as_json:
        return print_json({"labels": labels})
    out.print(plain(f"Merged. The project has {counted(labels, 'label')}."))
    return None


@app.command("delete")
def classes_delete(
    typed: Annotated[list[str], words("PROJECT CLASS", CLASS)],
    project: InProject = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a class; its images are without a label again."""
    from tastemaker.scores import class_changes, classes

    name, which = in_order(typed, project, "CLASS")
    confirm(f"Delete the class “{which}”? Its images lose their label; no file is touched.", yes)
    with database() as (_, engine), sessions.writing(engine) as session:
        chosen = _with_classes(session, name)
        number = classes.of(session, chosen.id).find(which).number
        labels = class_changes.delete(session, chosen, number)
    if as_json:
        return print_json({"labels": labels})
    out.print(plain(f"Deleted. The project has {counted(labels, 'label')}."))
    return None
