"""`tastemaker scores …` and `tastemaker stats`."""

from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from tastemaker.cli.help import Commands
from tastemaker.cli.options import InProject, ProjectWords, in_order, path_option, words
from tastemaker.cli.terminal import (
    AsJson,
    confirm_undo,
    counted,
    database,
    err,
    finish_jobs,
    out,
    plain,
    print_json,
    were,
)
from tastemaker.database import sessions
from tastemaker.errors import Invalid
from tastemaker.files.addresses import local_path

app = Commands(help="Bring scores in and out.", no_args_is_help=True)
top = Commands()


@app.command("import")
def scores_import(
    typed: Annotated[list[str], words("PROJECT FILE")],
    project: InProject = None,
    scale: Annotated[
        str | None,
        typer.Option(help="The scale of the file, worst to best, such as 1-5; default: 0-10."),
    ] = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Record the good rows, and list the others.")
    ] = False,
    image_column: Annotated[
        str, typer.Option(help="What the column that names the image is called.")
    ] = "",
    score_column: Annotated[
        str, typer.Option(help="What the column with the score is called.")
    ] = "",
    preview: Annotated[
        bool, typer.Option("--preview", help="Show ten rows, and record nothing.")
    ] = False,
    as_hints: Annotated[
        bool,
        typer.Option(
            "--as-hints",
            help="Another program's ratings: trusted as far as they fit, and nothing is measured "
            "by them.",
        ),
    ] = False,
    answers: Annotated[
        bool,
        typer.Option(
            "--answers",
            help="Pairs and sweeps, as `export --answers` wrote them; without an annotator, they "
            "teach nothing. They cannot be taken back as one, as tables of scores can.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read scores (or classes) from CSV, JSON lines or Parquet: a column `score` (or `class`), and
    `sha256` or `path`."""
    name, file = in_order(typed, project, "FILE")
    from tastemaker.scores.scales import parse_scale
    from tastemaker.scores.score_files import ColumnNames, import_scores

    on = parse_scale(scale) if scale is not None else None
    with database() as (_, engine):
        if answers:
            from tastemaker.scores.answer_files import import_answers

            others = (skip_bad_rows, preview, as_hints, image_column, score_column, on is not None)
            if any(others):
                raise Invalid("--answers goes with no other option of this command.")
            told = import_answers(engine, name, local_path(file))
        else:
            told = import_scores(
                engine, name, local_path(file), scale=on, skip_bad_rows=skip_bad_rows,
                columns=ColumnNames(image_column, score_column), preview=preview,
                as_hints=as_hints,
            )  # fmt: skip
    if as_json:
        return print_json(told.as_dict())
    if preview:
        for row in told.shown:
            then = row.reason if row.score is None else row.words
            out.print(plain(f"  {row.where}: {row.image} – {row.typed} → {then}"))
        if line := told.range_line(on is not None):
            out.print(plain(line))
        out.print(
            f"Nothing was recorded. {counted(len(told.bad), 'row')} cannot be used; the others are "
            "recorded with --skip-bad-rows."
            if told.bad
            else "Nothing was recorded. Every row can be used; without --preview they are recorded."
        )
        return None
    recorded = counted(told.recorded, "answer" if answers else "hint" if as_hints else "score")
    unchanged = told.unchanged
    out.print(f"{recorded} recorded, {unchanged:,} {were(unchanged)} there already.")
    if told.table:
        out.print(
            f"To take them back: tastemaker scores tables {quote(plain(name))} --undo {told.table}"
        )
    elif answers and told.recorded:
        out.print(
            "They cannot be taken back as one, as a table of scores can: whom they name takes them "
            "back one by one."
        )
    if line := told.range_line(on is not None):
        out.print(plain(line))
    if n := told.by_ending:
        out.print(
            f"{counted(n, 'image')} found by the end of the path, which is none on this machine."
        )
    if n := told.nameless:
        err.print(
            f"[yellow]{counted(n, 'answer')} without an annotator: kept, but no head learns from "
            "such. Name who gave them in the column annotator, and import again."
        )
    if n := told.overruled:
        what = "score contradicts a later row" if n == 1 else "scores contradict later rows"
        err.print(f"[yellow]{n} {what} for the same image; the last one counts.")
    if told.bad:
        err.print(f"[yellow]{counted(len(told.bad), 'row')} left out:")
    for left in told.bad:
        err.print(plain(f"{left.where}: {left.reason}"))
    return None


@app.command("tables")
def scores_tables(
    typed: ProjectWords = None,
    project: InProject = None,
    undo: Annotated[
        int | None,
        typer.Option(min=1, metavar="TABLE", help="Take back what still stands of this table."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the tables of scores that were imported, newest first, or take one back."""
    from tastemaker import projects
    from tastemaker.scores import imported_tables

    (name,) = in_order(typed, project)
    with database() as (_, engine):
        with sessions.reading(engine) as session:
            chosen = projects.by_name(session, name)
            tables = imported_tables.listed(session, chosen) if undo is None else []
        if undo is not None:
            told = imported_tables.take_back(engine, chosen.id, undo)
            if as_json:
                return print_json(asdict(told))
            out.print(f"{told.undone:,} taken back.")
            if n := told.corrected:
                out.print(f"{counted(n, 'image')} {were(n)} scored after it, and that stays.")
            return None
    if as_json:
        return print_json([table.as_dict() for table in tables])
    for table in tables:
        recorded = counted(table.recorded, "hint" if table.hints else "score")
        gone = ", taken back" if table.taken_back else ""
        out.print(plain(f"{table.id}  {table.at:%Y-%m-%d %H:%M}  {table.file}  {recorded}{gone}"))
    if not tables:
        out.print("No table of scores was imported into this project.")
    return None


@app.command("export")
def scores_export(
    typed: ProjectWords = None,
    project: InProject = None,
    to: Annotated[
        Path | None, path_option("--out", about=".csv or .jsonl; default: CSV to stdout.")
    ] = None,
    answers: Annotated[
        bool, typer.Option("--answers", help="Pairs and sweeps instead of the scores.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a row per image and annotator: sha256, path, score or class, annotator, scored_at."""
    (name,) = in_order(typed, project)
    from tastemaker import projects
    from tastemaker.files import require_writable
    from tastemaker.scores import answer_files, score_files
    from tastemaker.scores.row_files import check_ending

    if to is not None:
        check_ending(to)
        require_writable(to)
    with database() as (_, engine):
        rows = (answer_files.export_answers if answers else score_files.export_scores)(engine, name)
        with sessions.reading(engine) as session:
            columns = score_files.columns_of(projects.by_name(session, name))
    if as_json:
        return print_json(rows)
    score_files.write_scores(rows, to, answer_files.COLUMNS if answers else columns)
    if to is not None:
        what = counted(len(rows), "answer" if answers else "score")
        out.print(f"{what} written to {plain(str(to))}.")
    return None


@app.command("stars")
def scores_stars(
    typed: ProjectWords = None,
    project: InProject = None,
    rule: Annotated[
        str,
        typer.Option(
            help="What each mark means, 0–10: stars by their number, reject, pick, labels, "
            "rating:WORD, and the scale of a booru's points. "
            "Default: 1=2, 2=4, 3=6, 4=8, 5=10, reject=0."
        ),
    ] = "",
    record: Annotated[
        bool, typer.Option("--record", help="Record what was found; without it, it is only shown.")
    ] = False,
    as_scores: Annotated[
        bool,
        typer.Option(
            "--as-scores",
            help="Record them as scores, which count until a person scores the image, a tenth of "
            "them in the hold-out; by default they are hints, trusted as far as they fit.",
        ),
    ] = False,
    undo: Annotated[
        bool,
        typer.Option(
            "--undo", help="Take the newest recording of stars back, once it is told and asked."
        ),
    ] = False,
    of: Annotated[
        str | None,
        typer.Option("--of", metavar="RECORDING", help="With --undo: the one that is meant."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find the stars, labels and flags that other programs left in XMP, EXIF or JSON."""
    from tastemaker import projects
    from tastemaker.importing import stars

    (name,) = in_order(typed, project)
    if undo and (record or as_scores or rule):
        raise Invalid("--undo goes with none of the others.")
    if of is not None and not undo:
        raise typer.BadParameter("--of goes with --undo")
    if undo:
        return _undo_stars(name, of, yes, as_json)
    with database() as (settings, engine):
        with sessions.writing(engine) as session:
            request = stars.StarsRequest(rule=rule, record=record, as_scores=as_scores)
            job_id = stars.request_stars(session, projects.by_name(session, name), request).id
        result = finish_jobs(settings, engine, [job_id])[0].result
    if as_json:
        return print_json(result)
    out.print(
        f"{counted(result['looked_at'], 'image')} looked at, {result['marked']:,} with marks, "
        f"{result['scored']:,} with a score by the rule {plain(result['rule'])}."
    )
    if result["counts"]:
        marks = ", ".join(f"{word} {n:,} times" for word, n in result["counts"].items())
        out.print(plain(f"Found: {marks}."))
    for path, marks, score in result["rows"]:
        out.print(plain(f"  {path}: {marks} → {'nothing' if score is None else score}"))
    for path, reason in result["problems"]:
        err.print(plain(f"{path}: {reason}"))
    if record:
        unchanged = result["unchanged"]
        out.print(
            f"{counted(result['recorded'], 'score' if as_scores else 'hint')} recorded, "
            f"{unchanged:,} {were(unchanged)} there already. To take them back: --undo."
        )
    elif result["scored"]:
        out.print("Nothing was recorded. To record them: --record. Another rule: --rule.")
    return None


def _undo_stars(name: str, of: str | None, yes: bool, as_json: bool) -> None:
    """Take the newest recording back, which is told and asked for unless it was named."""
    from tastemaker import projects
    from tastemaker.importing import stars

    with database() as (_, engine):
        with sessions.reading(engine) as session:
            chosen = projects.by_name(session, name)
            newest = stars.newest_recording(session, chosen)
            recording = of or (stars.recording_of(newest[0]) if newest else "")
            told = stars.described(session, chosen, recording) if recording else None
        if told is not None:
            kind = "hint" if told.hints else "score"
            source = f"the table {told.file}" if told.file else "the marks of the pictures"
            confirm_undo(
                f"Recording {told.name} of “{chosen.name}”, from {source}, "
                f"{told.at:%Y-%m-%d %H:%M} UTC: {kind}s of {counted(told.images, 'image')}.",
                named=of is not None,
                yes=yes,
            )
        taken = stars.take_back(engine, chosen.id, recording)
    if as_json:
        return print_json({"undone": taken, "recording": recording})
    return out.print(f"{taken} taken back.")


@app.command("folders")
def scores_folders(
    typed: Annotated[list[str], words("PROJECT FOLDER")],
    project: InProject = None,
    as_json: AsJson = False,
) -> None:
    """Write the labelled embeddings as folders: data/ENCODER/NN_name/*.npy, NN the score."""
    name, place = in_order(typed, project, "FOLDER")
    folder = local_path(place)
    from tastemaker import projects
    from tastemaker.files import require_writable_folder
    from tastemaker.publishing import exports

    require_writable_folder(folder)
    if folder.exists() and any(folder.iterdir()):
        raise Invalid(f"{folder} is not empty.", "Name a new folder; nothing is overwritten.")
    with database() as (_, engine), sessions.reading(engine) as session:
        result = exports.write_folders(session, projects.by_name(session, name), folder)
    if as_json:
        return print_json(result)
    out.print(f"{counted(result['written'], 'vector')} written to {plain(result['folder'])}.")
    if between := result["between_scores"]:
        out.print(f"{counted(between, 'label')} lay between two scores; the nearest was taken.")
    if without := result["without_embedding"]:
        have = "has" if without == 1 else "have"
        out.print(f"{counted(without, 'scored image')} {have} no embedding yet.")
    return None


@top.command()
def stats(
    typed: ProjectWords = None,
    project: InProject = None,
    as_json: AsJson = False,
) -> None:
    """Print the histogram of scores, or of classes."""
    from tastemaker import projects, scores
    from tastemaker.scores import classes

    (name,) = in_order(typed, project)
    with database() as (_, engine), sessions.reading(engine) as session:
        chosen = projects.by_name(session, name)
        if chosen.labelling != "scores":
            told = classes.ratios(session, chosen)
            return print_json(told.as_json()) if as_json else print(told.text())
        counts = scores.histogram(session, chosen)
        images = projects.pool_size(session, chosen)
        raw = projects.pool_size(session, chosen, unlabelled=True)
    labels = sum(counts)
    if as_json:
        numbers = {"images": images, "labels": labels}
        return print_json({"scores": dict(enumerate(counts)), "raw": raw} | numbers)
    print(scores.histogram_text(counts, raw, images))
    return None
