"""`tastemaker scores …` and `tastemaker stats`."""

from pathlib import Path
from typing import Annotated

import typer

from tastemaker.cli.help import Commands
from tastemaker.cli.options import InProject, ProjectWords, in_order, path_option, words
from tastemaker.cli.terminal import (
    AsJson,
    counted,
    database,
    err,
    out,
    plain,
    print_json,
    were,
)
from tastemaker.database import sessions
from tastemaker.errors import Invalid
from tastemaker.files import typed_path

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
    answers: Annotated[
        bool,
        typer.Option(
            "--answers",
            help="Pairs and sweeps, as `export --answers` wrote them; without an annotator, they "
            "teach nothing.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read scores (or classes) from CSV, JSON lines or Parquet: a column `score` (or `class`), and
    `sha256` or `path`."""
    name, file = in_order(typed, project, "FILE")
    from tastemaker.scores.scales import parse_scale
    from tastemaker.scores.score_files import import_scores

    on = parse_scale(scale) if scale is not None else None
    with database() as (_, engine):
        if answers:
            from tastemaker.scores.answer_files import import_answers

            if skip_bad_rows or on is not None:
                raise Invalid("--answers goes with neither --scale nor --skip-bad-rows.")
            told = import_answers(engine, name, typed_path(file))
        else:
            told = import_scores(
                engine, name, typed_path(file), scale=on, skip_bad_rows=skip_bad_rows
            )
    if as_json:
        return print_json(told.as_dict())
    recorded = counted(told.recorded, "answer" if answers else "score")
    unchanged = told.unchanged
    out.print(f"{recorded} recorded, {unchanged:,} {were(unchanged)} there already.")
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
    for bad in told.bad:
        err.print(plain(f"{bad.where}: {bad.reason}"))
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
    from tastemaker.files import require_writable
    from tastemaker.scores import answer_files, score_files
    from tastemaker.scores.row_files import check_ending

    if to is not None:
        check_ending(to)
        require_writable(to)
    with database() as (_, engine):
        rows = (answer_files.export_answers if answers else score_files.export_scores)(engine, name)
    if as_json:
        return print_json(rows)
    score_files.write_scores(rows, to, answer_files.COLUMNS if answers else None)
    if to is not None:
        what = counted(len(rows), "answer" if answers else "score")
        out.print(f"{what} written to {plain(str(to))}.")
    return None


@app.command("folders")
def scores_folders(
    typed: Annotated[list[str], words("PROJECT FOLDER")],
    project: InProject = None,
    as_json: AsJson = False,
) -> None:
    """Write the labelled embeddings as folders: data/ENCODER/NN_name/*.npy, NN the score."""
    name, place = in_order(typed, project, "FOLDER")
    folder = typed_path(place)
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
