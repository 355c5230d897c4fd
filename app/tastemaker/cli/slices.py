"""`tastemaker slices …`: parts of a library, and how a version treats them."""

from typing import Annotated, Any
from urllib.parse import parse_qsl

import typer
from rich.table import Table

from tastemaker.cli.help import Commands
from tastemaker.cli.options import InProject, VersionWords, in_order, percent_option, words
from tastemaker.cli.terminal import AsJson, database, out, plain, print_json
from tastemaker.database import sessions
from tastemaker.errors import Invalid
from tastemaker.files.percentages import percent_in_three

app = Commands(help="List, add and remove slices of a library.", no_args_is_help=True)


@app.command("list")
def slices_list(
    typed: VersionWords = None,
    project: InProject = None,
    as_json: AsJson = False,
) -> None:
    """List the slices with their figures under a version, and what is expected of them."""
    from tastemaker import projects
    from tastemaker.evaluation import expectations

    name, number = in_order(typed, project, "[VERSION]")
    with database() as (_, engine), sessions.reading(engine) as session:
        told = expectations.overview(session, projects.by_name(session, name), number)
    if as_json:
        return print_json(told)
    if not told["slices"]:
        out.print("No slice yet: tastemaker slices add PROJECT --tag TAG")
        return None
    if any("accuracy" in row for row in told["slices"]):
        out.print(of_classes(told["slices"]))
    else:
        out.print(of_scores(told["slices"]))
    for check in told["expectations"]:
        out.print(plain(_told(check)))
    for row in told["under_represented"]:
        out.print(f"too few labels in “{plain(row['name'])}”")
    return None


def _told(check: dict[str, Any]) -> str:
    from tastemaker.evaluation import expectations

    measure = check["measure"]
    state = {True: "met", False: "missed", None: "too little to tell"}[check["met"]]
    words = expectations.in_words(measure, check.get("of", ""))
    wanted = f"{words} {check['bound']} {expectations.limit(measure, check['limit'])}"
    found = f": {expectations.amount(measure, check['value'])} over {check['images']}"
    value = "" if check["met"] is None else found
    return f"{state}: “{check['slice']}” {wanted}{value}"


def of_scores(rows: list[dict[str, Any]]) -> Table:
    from tastemaker.evaluation import expectations

    table = Table("slice", "what", "images", "mean", "passes", "labels", "error", "FP", "FN")
    for row in rows:
        table.add_row(
            plain(row["name"]), plain(row["what"]), str(row.get("images", "–")),
            *(expectations.amount(key, row.get(key)) for key in ("mean", "pass_rate")),
            str(row.get("labelled", "–")), _points(row.get("mae")),
            _rate(row, "fp_rate", "fp_n"), _rate(row, "fn_rate", "fn_n"),
        )  # fmt: skip
    return table


def _rate(row: dict[str, Any], name: str, over: str) -> str:
    """A rate where the images it is a share of (`over`) are enough."""
    from tastemaker.learning.version_metrics import ENOUGH_FOR_ONE_RATE

    n = row.get(over, 0)
    if 0 < n < ENOUGH_FOR_ONE_RATE:
        return f"too few ({n})"
    return percent_in_three(row.get(name))


def of_classes(rows: list[dict[str, Any]]) -> Table:
    """A row for each slice, and one for each class in it."""
    table = Table("slice", "what", "images", "labels", "right", "precision", "recall", "F1")
    for row in rows:
        table.add_row(
            plain(row["name"]), plain(row["what"]), str(row.get("images", "–")),
            str(row.get("labelled", "–")), _rate(row, "accuracy", "labelled"), "", "", "",
        )  # fmt: skip
        for one in row.get("classes", ()):
            of = {"precision": "precision_n", "recall": "recall_n", "f1": "recall_n"}
            rates = (_rate(one, name, n) for name, n in of.items())
            counts = str(one["images"]), str(one["recall_n"])
            table.add_row("", f"  {plain(one['name'])}", *counts, "", *rates)
    return table


def _points(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


@app.command("add")
def slices_add(
    typed: Annotated[
        list[str] | None,
        words("PROJECT [NAME]", "Without a name it is called after its tag or text."),
    ] = None,
    project: InProject = None,
    tag: Annotated[str | None, typer.Option(help="Images that carry this tag.")] = None,
    text: Annotated[
        str | None, typer.Option(help="Images nearest to this text; a worker must be running.")
    ] = None,
    share: Annotated[
        float,
        percent_option("--share", "How many are nearest to the text: percent of all, up to 50."),
    ] = 5.0,
    wanted: Annotated[
        str | None,
        typer.Option(
            "--filter",
            help="Images of a filter, as the library's address writes it: tag=photo&label_min=6.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add a slice: images with a tag, near a text, or of a filter."""
    from tastemaker import projects
    from tastemaker.evaluation import slices

    name, called = in_order(typed, project, "[NAME]")
    if sum(value is not None for value in (tag, text, wanted)) != 1:
        raise typer.BadParameter("exactly one of --tag, --text and --filter is needed")
    with database() as (_, engine):
        with sessions.reading(engine) as session:
            project_id = projects.by_name(session, name).id
        kind, definition = "tag", dict[str, Any](tag=tag)
        if text is not None:
            kind, definition = "prompt", dict(slices.by_text(engine, project_id, text, share / 100))
        elif wanted is not None:
            kind, definition = "filter", {"filter": filter_of(wanted)}
        with sessions.writing(engine) as session:
            chosen = projects.get(session, project_id)
            made = slices.add(session, chosen, kind, definition, called)
            row = slices.as_json(session, made)
    if as_json:
        return print_json(row)
    out.print(f"Slice “{plain(row['name'])}” added: {plain(row['what'])}.")
    return None


def filter_of(query: str) -> dict[str, Any]:
    """“tag=photo&label_min=6” as a slice keeps it. Raises `Invalid` for a name no filter has."""
    from tastemaker.library import filters

    pairs = parse_qsl(query.lstrip("?"), keep_blank_values=True)
    known = {"tag" if name == "tags" else name for name in filters.NAMES_OF_FIELDS}
    for name, _ in pairs:
        if name not in known:
            raise Invalid(f"A filter has no “{name[:40]}”.", f"It has: {', '.join(sorted(known))}.")
    return filters.from_pairs(pairs).as_dict()


@app.command("remove")
def slices_remove(
    typed: Annotated[list[str], words("PROJECT NAME")],
    project: InProject = None,
    as_json: AsJson = False,
) -> None:
    """Remove a slice and what was expected of it. No image is touched."""
    from tastemaker import projects
    from tastemaker.evaluation import slices

    name, called = in_order(typed, project, "NAME")
    with database() as (_, engine), sessions.writing(engine) as session:
        chosen = projects.by_name(session, name)
        row = slices.by_name(session, chosen, called)
        facts = slices.as_json(session, row)
        slices.remove(session, row)
    if as_json:
        return print_json(facts)
    out.print(f"Slice “{plain(facts['name'])}” is removed. Its images stay as they are.")
    return None
