"""`tastemaker versions …`"""

from typing import Any

import typer
from rich.table import Table

from tastemaker.cli.terminal import AsJson, ProjectName, database, out, plain, print_json
from tastemaker.database import sessions

app = typer.Typer(help="List, show, compare, activate, export versions.", no_args_is_help=True)


@app.command("list")
def versions_list(project: ProjectName, as_json: AsJson = False) -> None:
    """List the versions of a project, oldest first."""
    from tastemaker import projects, versions

    with database() as (settings, engine), sessions.reading(engine) as session:
        chosen = projects.by_name(session, project)
        found = [
            versions.as_json(session, settings, version)
            for version in reversed(versions.list_ready(session, chosen))
        ]
    if as_json:
        return print_json(found)
    table = Table("version", "", "images", "MAE", "FP", "FN", "n", "recipe", "note")
    for v in found:
        holdout = v["metrics"].get("holdout", {})
        table.add_row(
            v["version"], "active" if v["active"] else "", str(v["images"]),
            _number(v["mae"], "{:.2f}"), _number(v["fp_rate"], "{:.0%}"),
            _number(v["fn_rate"], "{:.0%}"), str(holdout.get("n", 0)),
            v["recipe"].get("name", ""), v["note"],
        )  # fmt: skip
    out.print(table if found else "No version yet: tastemaker train --project NAME")
    return None


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


@app.command("show")
def versions_show(project: str, version: str, as_json: AsJson = False) -> None:
    """Show one version."""
    from tastemaker import projects, versions

    with database() as (settings, engine), sessions.reading(engine) as session:
        chosen = versions.by_number(session, projects.by_name(session, project), version)
        shown = versions.as_json(session, settings, chosen)
    if as_json:
        return print_json(shown)
    out.print(f"{shown['version']}: {quality(shown)}")
    for key in ("active", "activation", "images", "note", "parent", "encoder", "file", "sha256"):
        out.print(f"{key:12} {shown[key]}")
    return None


@app.command("diff")
def versions_diff(project: str, older: str, newer: str, as_json: AsJson = False) -> None:
    """What changed from one version to another: errors, flips, slices, labels."""
    from tastemaker import projects
    from tastemaker.evaluation import comparison, flips

    with database() as (_, engine), sessions.reading(engine) as session:
        both = flips.pair(session, projects.by_name(session, project), older, newer)
        told = comparison.diff(session, both)
    if as_json:
        return print_json(told)
    out.print("\n".join(plain(line) for line in comparison.in_words(told)))
    return None


@app.command("activate")
def versions_activate(project: str, version: str) -> None:
    """Make a version the active one."""
    from tastemaker import projects, versions
    from tastemaker.versions import predictions

    with database() as (settings, engine), sessions.writing(engine) as session:
        chosen = versions.by_number(session, projects.by_name(session, project), version)
        versions.verify(settings, chosen)
        versions.activate(session, chosen)
        predictions.enqueue_predictions(session, chosen)
    out.print(f"{chosen.number} is active.")


def quality(version: dict[str, Any]) -> str:
    """The numbers of a version in a line, saying what they were measured on."""
    for name, part in (("hold-out", "holdout"), ("out-of-fold", "out_of_fold")):
        numbers = version["metrics"].get(part) or {}
        if numbers.get("mae") is not None:
            interval = (
                f" ({numbers['mae_low']:.2f}–{numbers['mae_high']:.2f})"
                if numbers.get("mae_low") is not None
                else ""
            )
            told = f"{name} MAE {numbers['mae']:.2f}{interval} points on {numbers['n']} images"
            constant = version["metrics"].get("baseline_mae")
            return f"{told}, one answer for all {constant:.2f}" if constant is not None else told
    return "not measured yet"
