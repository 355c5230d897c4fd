"""Scores into other programs: `tastemaker write-back`."""

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from tastemaker.cli.help import Commands
from tastemaker.cli.options import InProject, VersionWords, in_order, path_option, percent_option
from tastemaker.cli.terminal import (
    AsJson,
    confirm_undo,
    counted,
    database,
    err,
    out,
    plain,
    print_json,
)
from tastemaker.database import sessions
from tastemaker.database.tables import Project
from tastemaker.errors import Invalid

app = Commands()

SHOWN = 10
WHICH = ("both", "scores", "predictions")


@app.command("write-back")
def write_back(
    typed: VersionWords = None,
    project: InProject = None,
    write: Annotated[
        bool, typer.Option("--write", help="Do it; without it, only what would be done is told.")
    ] = False,
    undo: Annotated[
        bool,
        typer.Option(
            "--undo", help="Take the newest writing of sidecars back, once it is told and asked."
        ),
    ] = False,
    of: Annotated[
        str | None,
        typer.Option("--of", metavar="WRITING", help="With --undo: the writing that is meant."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    which: Annotated[
        str, typer.Option(help="scores, predictions, or both: your score, else the prediction.")
    ] = "both",
    low: Annotated[float, percent_option("--min", "Leave out what is below.")] = 0.0,
    high: Annotated[float, percent_option("--max", "Leave out what is above.")] = 100.0,
    stars: Annotated[
        str, typer.Option(help="From which scores of 0–10 there are 2, 3, 4 and 5 stars.")
    ] = "3,5,7,9",
    replace_stars: Annotated[
        bool, typer.Option("--replace-stars", help="Replace stars that you gave elsewhere, too.")
    ] = False,
    table: Annotated[
        Path | None, path_option("--table", about="A .csv, .jsonl or .parquet file instead.")
    ] = None,
    trainer: Annotated[
        Path | None,
        path_option(
            "--trainer", metavar="DIR",
            about="Folders for kohya and OneTrainer instead, with captions and repeats by score.",
        ),
    ] = None,
    repeats: Annotated[
        str, typer.Option(help="With --trainer: from which score on how often; 0 leaves out.")
    ] = "5=1,7=2,9=4",
    folders: Annotated[
        Path | None,
        path_option("--folders", metavar="DIR", about="A folder for each score instead: 00 … 10."),
    ] = None,
    link: Annotated[
        bool, typer.Option("--link", help="With --trainer and --folders: links, no copies.")
    ] = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Write scores as stars into XMP sidecars, or as a table, or as folders for trainers."""
    targets = [target for target in (table, trainer, folders) if target is not None]
    if len(targets) > 1:
        raise typer.BadParameter("one of --table, --trainer and --folders")
    if undo and (targets or write):
        raise typer.BadParameter("--undo takes sidecars back and goes with none of the others")
    if link and trainer is None and folders is None:
        raise typer.BadParameter("--link goes with --trainer or --folders")
    if which not in WHICH:
        raise typer.BadParameter(f"one of {', '.join(WHICH)}", param_hint="--which")
    if of is not None and not undo:
        raise typer.BadParameter("--of goes with --undo")
    if undo and typed is None and project is None:
        return _undo(of, yes, as_json)
    name, number = in_order(typed, project, "[VERSION]")
    if undo:
        raise typer.BadParameter("--undo names no project: it takes back what was written last")

    from tastemaker import projects, versions
    from tastemaker.filtering.score_tables import check_limits
    from tastemaker.pictures.pictures import Limits
    from tastemaker.publishing import sidecars, trainer_folders
    from tastemaker.publishing.outgoing import Which, outgoing, parse_borders

    check_limits(low, high)
    borders, often = parse_borders(stars), trainer_folders.parse_repeats(repeats)
    with database() as (settings, engine), sessions.reading(engine) as session:
        chosen = projects.by_name(session, name)
        name = chosen.name
        version = versions.chosen(session, chosen, number)
        rows = list(outgoing(session, chosen, version, cast(Which, which), low / 10, high / 10))
    if not rows:
        raise Invalid(
            "No image of this project has such a score, so there is nothing to write.",
            "Score some, train a version, or widen --min and --max.",
        )
    if table is not None:
        return _table(rows, table, borders, write, as_json)
    if trainer is not None or folders is not None:
        if trainer is not None:
            done = trainer_folders.write_trainer_folders(
                rows, trainer, name, often, link=link, dry_run=not write,
                roots=settings.roots,
            )  # fmt: skip
        else:
            assert folders is not None
            done = trainer_folders.write_score_folders(rows, folders, link=link, dry_run=not write)
        return _placed(done, write, link, as_json)

    plan = sidecars.plan_sidecars(rows, Limits.of(settings), borders, replace_stars=replace_stars)
    written, problems = 0, plan.problems
    if write:
        written, more = sidecars.write_sidecars(settings, plan, project_id=chosen.id)
        problems = problems + more
    if as_json:
        return print_json(
            {
                "would_write": len(plan.changes), "written": written, "unchanged": plan.unchanged,
                "stars_kept": plan.kept, "problems": problems,
            }
        )  # fmt: skip
    for change in plan.changes[:SHOWN]:
        rated = "your stars stay" if change.kept else counted(change.stars, "star")
        new = "" if change.before else " (new)"
        out.print(plain(f"  {change.sidecar}{new}: {change.score:.2f}, {rated}, by {change.by}"))
    if len(plan.changes) > SHOWN:
        out.print(f"  … and {len(plan.changes) - SHOWN:,} more")
    _tell(problems)
    if write:
        out.print(
            f"{counted(written, 'sidecar')} written, {plan.unchanged:,} said so already. To take "
            f"them back: tastemaker write-back --undo --of {sidecars.newest_writing(settings)}"
            if written
            else f"No sidecar was written, {plan.unchanged:,} said so already."
        )
    else:
        out.print(
            f"{counted(len(plan.changes), 'sidecar')} would be written, {plan.unchanged:,} say so "
            f"already; in {plan.kept:,} your own stars stay. Nothing was written: --write does it."
        )
    return None


def _undo(of: str | None, yes: bool, as_json: bool) -> None:
    """Take the newest writing back, which is told and asked for unless it was named."""
    from tastemaker.publishing import sidecars

    with database() as (settings, engine):
        writing = of or sidecars.newest_writing(settings) or ""
        if writing:
            told = sidecars.described(settings, writing)
            with sessions.reading(engine) as session:
                project = session.get(Project, told.project_id) if told.project_id else None
            whose = f"of “{project.name}”, " if project is not None else ""
            first = f", {told.first}{' first' if told.sidecars > 1 else ''}" if told.first else ""
            confirm_undo(
                f"Writing {writing}, {whose}{told.at:%Y-%m-%d %H:%M} UTC: "
                f"{counted(told.sidecars, 'sidecar')}{first}.",
                named=of is not None,
                yes=yes,
            )
        undone, problems = sidecars.undo_sidecars(settings, writing=writing)
    if as_json:
        return print_json({"undone": undone, "problems": problems, "writing": writing})
    _tell(problems)
    out.print(f"{counted(undone, 'sidecar')} {'is' if undone == 1 else 'are'} as before.")
    return None


def _table(rows: list[Any], to: Path, borders: tuple[float, ...], write: bool, js: bool) -> None:
    from tastemaker.files import require_writable, write_atomic
    from tastemaker.publishing.outgoing import table_bytes
    from tastemaker.scores.row_files import check_ending

    check_ending(to)
    require_writable(to)
    if write:
        write_atomic(to, table_bytes(rows, to.suffix.lower(), borders))
    if js:
        return print_json({"rows": len(rows), "file": str(to), "written": write})
    done = "written to" if write else "would be written to"
    more = "" if write else ". Nothing was written: --write does it"
    out.print(f"{counted(len(rows), 'row')} {done} {plain(str(to))}{more}.")
    return None


def _placed(done: Any, write: bool, link: bool, as_json: bool) -> None:
    if as_json:
        return print_json(vars(done) | {"written": write})
    for folder, count in sorted(done.folders.items()):
        out.print(plain(f"  {folder}: {counted(count, 'image')}"))
    _tell(done.problems)
    way = "linked" if link else "copied"
    told = f"{counted(done.placed, 'image')} {'' if write else 'would be '}{way}"
    out.print(
        f"{told}, {done.there:,} there already"
        + (f", {counted(done.captions, 'caption')} written." if write else
           ". Nothing was written: --write does it.")
    )  # fmt: skip
    return None


def _tell(problems: list[tuple[str, str]], most: int = 100) -> None:
    for path, reason in problems[:most]:
        err.print(plain(f"{path}: {reason}"))
    if len(problems) > most:
        err.print(f"… and {len(problems) - most:,} more")
