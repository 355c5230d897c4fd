"""`tastemaker audit …`: how good a filter's result is, with a promise."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from tastemaker.cli.help import Commands
from tastemaker.cli.options import (
    InProject,
    ProjectWords,
    VersionWords,
    in_order,
    path_option,
    percent_option,
    words,
)
from tastemaker.cli.terminal import (
    AsJson,
    database,
    err,
    finish_jobs,
    out,
    plain,
    print_json,
    sees_through,
)
from tastemaker.database import sessions
from tastemaker.errors import Conflict, Invalid, NotFound

if TYPE_CHECKING:  # help does not wait for what an audit needs
    from sqlmodel import Session

    from tastemaker.database.tables import Project
    from tastemaker.evaluation.audit_reports import AuditReport

app = Commands(help="Find out how good what a version keeps is.", no_args_is_help=True)

AuditWords = Annotated[
    list[str], words("PROJECT [AUDIT]", "An audit by its number in the list; left out: the newest.")
]
Answers = Annotated[
    Path | None,
    path_option(
        "--answers", about="Scores of drawn images, for scripts: sha256 or path, and score."
    ),
]
Sidecar = Annotated[
    bool, typer.Option("--sidecar", help="Write the promise beside the audited table.")
]


@app.command("start")
def start(
    typed: VersionWords = None,
    project: InProject = None,
    test_run: Annotated[
        int | None, typer.Option(min=1, help="A test run by its number; its version is audited.")
    ] = None,
    table: Annotated[
        Path | None, path_option("--table", about="What `score --out` wrote, file or folder.")
    ] = None,
    root: Annotated[
        Path | None,
        path_option(
            "--root",
            about="The folder that was scored; default: where the table is.",
            metavar="FOLDER",
        ),
    ] = None,
    low: Annotated[
        float | None,
        percent_option("--min", "What is kept, as in `score`; default: the threshold."),
    ] = None,
    find: Annotated[
        bool, typer.Option("--find", help="Find the lowest cut that holds the promise.")
    ] = False,
    good: Annotated[
        int | None, typer.Option(min=1, max=10, help="Good is a score of at least this.")
    ] = None,
    goal: Annotated[float, percent_option("--promise", "How much of it shall be good.")] = 90.0,
    confidence: Annotated[float, percent_option("--confidence", "Of the promise.")] = 95.0,
    below: Annotated[
        float, percent_option("--below", "Of the drawn images, those from below the cut.")
    ] = 20.0,
    seed: Annotated[int | None, typer.Option(min=0, help="Fixes what is drawn.")] = None,
    as_json: AsJson = False,
) -> None:
    """Draw images of what a version keeps and leaves out: of a test run, a table, or the library.
    They wait on the Score page."""
    from tastemaker import projects, versions
    from tastemaker.evaluation import audit_reports, audits, test_run_cards
    from tastemaker.library.filters import LibraryFilter

    name, number = in_order(typed, project, "[VERSION]")
    if find and low is not None:
        raise typer.BadParameter("the cut is named or found, not both", param_hint="--find")
    with database() as (settings, engine):
        with sessions.writing(engine) as session:
            person = projects.annotator(session, settings.annotator)
        with sessions.reading(engine) as session:
            chosen = projects.by_name(session, name)
            version = versions.chosen(session, chosen, number)
            if version is None:
                raise NotFound(f"“{chosen.name}” has no version yet.", "tastemaker train PROJECT")
            if test_run is not None:
                run = test_run_cards.get(session, chosen, test_run)
                if number and run.version.id != version.id:
                    raise Invalid(
                        f"Test run {test_run} is of {run.version.number}, not {version.number}.",
                        "Leave the version out.",
                    )
                version = run.version
            everything = LibraryFilter() if test_run is None and table is None else None
            usual = audits.usual_terms(chosen)
            terms = audits.Terms(
                None if find else usual.cut if low is None else low / 100,
                usual.good_from if good is None else good,
                goal / 100, confidence / 100, below / 100, seed,
            )  # fmt: skip
            prepared = audits.prepare(
                session, settings, chosen, version, person,
                audits.Target(test_run, everything, table, root), terms, audit_reports.in_percent,
            )  # fmt: skip
            project_id = chosen.id
        with sessions.writing(engine) as session:
            audit = audits.store(session, prepared)
            audit_id, job_id = audit.id, audit.job_id
        if job_id is not None and sees_through(settings, True):
            finish_jobs(settings, engine, [job_id])
        with sessions.reading(engine) as session:
            report = audit_reports.get(session, projects.get(session, project_id), audit_id)
            facts = _facts(report)
    if as_json:
        return print_json(facts)
    out.print(in_words(facts))
    return None


@app.command("status")
def status(
    typed: AuditWords,
    project: InProject = None,
    answers: Answers = None,
    sidecar: Sidecar = False,
    as_json: AsJson = False,
) -> None:
    """Show what an audit promises by now, and what more keys would bring."""
    from tastemaker.evaluation import audit_answers, audit_reports, audit_tables

    name, number = in_order(typed, project, "[AUDIT]")
    with database() as (_, engine):
        if answers is not None:
            with sessions.writing(engine) as session:
                chosen, report = _report(session, name, number)
                told = audit_answers.record_file(session, chosen, report.audit, answers)
            err.print(f"{told.recorded:,} recorded, {told.unchanged:,} known already.")
        with sessions.reading(engine) as session:
            report = _report(session, name, number)[1]
            facts, promise = _facts(report), audit_reports.promise_json(report)
            target, drawn = report.audit.target, report.findings is not None
    if sidecar:
        if "table" not in target:
            raise Invalid("This audit is of no table, so there is nothing to write beside.")
        if not drawn:
            raise Conflict(facts["headline"], "There is a promise once it is, and scored.")
        table, sha256 = Path(target["table"]), target.get("sha256", "")
        written = audit_tables.write_sidecar(table, promise, sha256)
        err.print(f"Written to {plain(str(written))}.")
    if as_json:
        return print_json(facts)
    out.print(in_words(facts))
    return None


@app.command("images")
def list_images(typed: AuditWords, project: InProject = None, as_json: AsJson = False) -> None:
    """List the drawn images that wait for an answer, without what was predicted."""
    from tastemaker.evaluation import audit_answers

    name, number = in_order(typed, project, "[AUDIT]")
    with database() as (_, engine), sessions.reading(engine) as session:
        report = _report(session, name, number)[1]
        rows = audit_answers.to_answer(session, report.audit)
    if as_json:
        return print_json(rows)
    for row in rows:
        print(f"{row['sha256']}  {row['path']}")
    return None


@app.command("list")
def list_audits(
    typed: ProjectWords = None, project: InProject = None, as_json: AsJson = False
) -> None:
    """List the audits of a project, newest first."""
    from tastemaker import projects
    from tastemaker.evaluation import audit_reports

    (name,) = in_order(typed, project)
    with database() as (_, engine), sessions.reading(engine) as session:
        chosen = projects.by_name(session, name)
        rows = [_facts(one) for one in audit_reports.listing(session, chosen)]
    if as_json:
        return print_json(rows)
    table = Table("audit", "version", "of", "kept", "scored", "verdict", "at least")
    for row in rows:
        low = row.get("precision_low")
        table.add_row(
            str(row["id"]), row["version"], plain(row["target"]),
            "–" if row["kept"] is None else f"{row['kept']:,}",
            str(row["kept_answered"] + row["below_answered"]), row["verdict"],
            audit_reports.at_least(low) if low else "–",
        )  # fmt: skip
    out.print(table if rows else "No audit yet: tastemaker audit start PROJECT")
    return None


def _facts(report: "AuditReport") -> dict[str, Any]:
    """An audit, its cuts told in the unit of `--min`."""
    from tastemaker.evaluation import audit_reports

    return audit_reports.as_json(replace(report, cut_words=audit_reports.in_percent))


def in_words(facts: dict[str, Any]) -> str:
    """An audit in some lines."""
    lines = [
        f"Audit {facts['id']}: {facts['version']} on “{plain(facts['target'])}”, kept from "
        f"{100 * facts['cut']:g} % on.",
        plain(facts["headline"]),
    ]
    for name in ("stricter", "forecast"):
        told = facts.get(name, "")
        if told and not facts.get("doubt") and told not in facts["headline"]:
            lines.append(plain(told))
    if facts["state"] in ("failed", "cancelled") and facts["error"]:
        lines.append(plain(facts["error"]))
    if facts["left"] and facts["verdict"] == "open":
        lines.append(f"{facts['left']:,} drawn images wait on the Score page: queue “Audit”.")
    return "\n".join(lines)


def _report(session: "Session", name: str, number: str) -> "tuple[Project, AuditReport]":
    """An audit by its number, else the newest."""
    from tastemaker import projects
    from tastemaker.evaluation import audit_reports

    chosen = projects.by_name(session, name)
    if number and not (number.isascii() and number.isdecimal() and len(number) < 19):
        raise Invalid(f"“{number}” is not the number of an audit.", "`audit list` shows them.")
    if number:
        return chosen, audit_reports.get(session, chosen, int(number))
    newest = audit_reports.newest(session, chosen)
    if newest is None:
        raise NotFound(f"“{chosen.name}” has no audit yet.", "tastemaker audit start PROJECT")
    return chosen, newest
