"""The command line. Names, options, exit codes and JSON shapes are a contract with scripts.

Exit codes: 0 done, 1 failed (one sentence on stderr), 2 wrong usage. A command that needs a job
done hands it to the running worker, or does it itself when none runs.
"""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from sqlalchemy import Engine

from app import __version__, db, jobs
from app.config import Settings
from app.errors import Invalid, TastemakerError
from app.tables import Job

app = typer.Typer(
    name="tastemaker",
    help="Teach a machine your taste in images: score, train, review, repeat.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
project_app = typer.Typer(help="Make and list projects.", no_args_is_help=True)
scores_app = typer.Typer(help="Bring scores in and out.", no_args_is_help=True)
versions_app = typer.Typer(help="List, show, activate, export versions.", no_args_is_help=True)
app.add_typer(project_app, name="project")
app.add_typer(scores_app, name="scores")
app.add_typer(versions_app, name="versions")

out, err = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False)

ProjectName = Annotated[str, typer.Option("--project", "-p", help="Name of the project.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def main() -> None:
    """Entry point: errors meant for a person become one sentence and exit code 1."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except TastemakerError as error:
        err.print(f"[red]{_plain(error.message)}[/red] {_plain(error.hint)}".rstrip())
        sys.exit(1)
    except ValidationError as error:  # of the settings: nothing else is validated on this way
        first = error.errors()[0]
        name = f"{Settings.model_config['env_prefix']}{first['loc'][0]}".upper()
        err.print(f"[red]{name} cannot be used:[/red] {_plain(first['msg'])}.")
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("Stopped. What was finished is kept.")
        sys.exit(130)
    except BrokenPipeError:
        sys.stdout = None  # the reader of our output went away
        sys.exit(0)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")


def print_json(data: Any) -> None:
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def database() -> Iterator[tuple[Settings, Engine]]:
    from app.migrate import migrate

    settings = Settings()
    yield settings, migrate(settings)


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


# --- running -----------------------------------------------------------------------------------


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 8000,
    worker: Annotated[bool, typer.Option(help="Also run the worker.")] = True,
) -> None:
    """Serve the web application, and run the worker beside it."""
    from app.serving import serve as run

    run(Settings(), host, port, with_worker=worker)


@app.command()
def worker() -> None:
    """Run the worker alone: imports, embedding, training, the live model."""
    from filelock import Timeout

    from app.worker import run_forever

    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    try:
        run_forever(Settings())
    except Timeout:
        raise TastemakerError(
            "Another worker is running on this home folder.", "One is enough; nothing was done."
        ) from None


@app.command()
def demo(
    serve_after: Annotated[
        bool, typer.Option("--serve/--no-serve", help="Serve the application afterwards.")
    ] = True,
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    as_json: AsJson = False,
) -> None:
    """Make the sample project: pictures, a scripted rater's scores, v1.0 and v1.1."""
    from app.demo import PROJECT, request_demo

    with database() as (settings, engine):
        with db.writing(engine) as session:
            job_id = request_demo(session, settings).id
        result = finish_jobs(settings, engine, [job_id])[0].result
    if as_json:
        print_json(result)
    else:
        out.print(f"The sample project “{PROJECT}” is ready: {result.get('versions', '')}.")
    if serve_after:
        from app.serving import serve as run

        run(settings, "127.0.0.1", port, with_worker=True)


# --- projects ----------------------------------------------------------------------------------


@project_app.command("create")
def project_create(
    name: str,
    kind: Annotated[str, typer.Option(help="score or class.")] = "score",
    encoder: Annotated[str, typer.Option(help="MODEL/TAG, or MODEL@FILE.safetensors.")] = (
        "efficientnet_lite0/bundled"
    ),
    threshold: Annotated[float, typer.Option(help="Pass from this score on, 0–1.")] = 0.5,
    as_json: AsJson = False,
) -> None:
    """Make a project."""
    from app import projects

    with database() as (_, engine), db.writing(engine) as session:
        project = projects.create(session, name, kind=kind, encoder=encoder, threshold=threshold)
        made = projects.summary(session, project)
    if as_json:
        print_json(made)
    else:
        out.print(f"Project “{made['name']}” made, with encoder {made['encoder']}.")


@project_app.command("list")
def project_list(as_json: AsJson = False) -> None:
    """List the projects."""
    from app import projects

    with database() as (_, engine), db.reading(engine) as session:
        found = [projects.summary(session, project) for project in projects.every(session)]
    if as_json:
        return print_json(found)
    table = Table("project", "kind", "encoder", "images", "labels", "active")
    for p in found:
        counts = (str(p["images"]), str(p["labels"]), p["active_version"] or "–")
        table.add_row(p["name"], p["kind"], p["encoder"], *counts)
    out.print(table if found else "There is no project yet: tastemaker project create NAME")
    return None


@project_app.command("show")
def project_show(name: str, as_json: AsJson = False) -> None:
    """Show one project."""
    from app import projects

    with database() as (_, engine), db.reading(engine) as session:
        shown = projects.summary(session, projects.named(session, name))
    if as_json:
        return print_json(shown)
    for key, value in shown.items():
        out.print(f"{key.replace('_', ' '):16} {value}")
    return None


# --- images and scores -------------------------------------------------------------------------


@app.command("import")
def import_images(
    paths: Annotated[list[Path], typer.Argument(help="Folders, pictures, or zips of pictures.")],
    project: Annotated[str | None, typer.Option("--project", "-p")] = None,
    collection: Annotated[str | None, typer.Option(help="Name of the collection.")] = None,
    role: Annotated[str, typer.Option(help="pool or test-run.")] = "pool",
    scores_from_folders: Annotated[
        bool, typer.Option(help="Folders NN or NN_name hold the score NN; .npy vectors too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import images, and embed them if a project is named."""
    from app import projects
    from app.imports import request_import

    if scores_from_folders and project is None:
        raise typer.BadParameter("--scores-from-folders needs --project.")
    with database() as (settings, engine):
        with db.writing(engine) as session:
            target = projects.named(session, project) if project else None
            job_id = request_import(
                session, settings, paths, project=target, collection=collection, role=role,
                scores_from_folders=scores_from_folders,
            ).id  # fmt: skip
        done = finish_jobs(settings, engine, [job_id])[0]
        embedding = _unfinished(engine, "embed", target.id) if target else []
        finish_jobs(settings, engine, embedding)
    result = done.result
    if as_json:
        return print_json(result)
    out.print(
        f"{result['added']} new images, {result['known']} known already, "
        f"{result['set_aside']} set aside"
        + (f", {result['scored']} scores" if result["scored"] else "")
        + f" (collection “{result['collection']}”)."
    )
    if result["set_aside"]:
        out.print(f"Set aside first: {_plain(result['first_reason'])}")
    return None


@scores_app.command("import")
def scores_import(file: Path, project: ProjectName, as_json: AsJson = False) -> None:
    """Read scores from CSV or JSON lines: a column `score`, and `sha256` or `path`."""
    from app.score_files import import_scores

    with database() as (_, engine):
        result = import_scores(engine, project, file)
    if as_json:
        return print_json(result)
    out.print(f"{result['recorded']} scores recorded, {result['unchanged']} were there already.")
    return None


@scores_app.command("export")
def scores_export(
    project: ProjectName,
    to: Annotated[
        Path | None, typer.Option("--out", help=".csv or .jsonl; default: CSV to stdout.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write one row per image and annotator: sha256, path, score, annotator, scored_at."""
    from app.score_files import export_scores, write_scores

    with database() as (_, engine):
        rows = export_scores(engine, project)
    if as_json:
        return print_json(rows)
    write_scores(rows, to)
    if to is not None:
        out.print(f"{len(rows)} scores written to {to}.")
    return None


@app.command()
def stats(project: ProjectName, as_json: AsJson = False) -> None:
    """Print the histogram of scores."""
    from app import projects, scores

    with database() as (_, engine), db.reading(engine) as session:
        chosen = projects.named(session, project)
        counts = scores.histogram(session, chosen)
        raw = projects.pool_size(session, chosen, unlabelled=True)
    if as_json:
        return print_json({"scores": dict(enumerate(counts)), "raw": raw})
    print(scores.histogram_text(counts, raw))
    return None


# --- learning ----------------------------------------------------------------------------------


@app.command()
def embed(
    collection: Annotated[str | None, typer.Option(help="Only this collection.")] = None,
    project: Annotated[str | None, typer.Option("--project", "-p")] = None,
    as_json: AsJson = False,
) -> None:
    """Embed the images that have no embedding yet."""
    from app import images, projects
    from app.embeddings import declared

    with database() as (settings, engine):
        with db.writing(engine) as session:
            if project:
                chosen = [projects.named(session, project)]
            else:  # those whose vectors came from outside have nothing to embed
                chosen = [p for p in projects.every(session) if not declared(session, p)]
            if not chosen:
                raise Invalid("There is no project to embed.", "tastemaker project create NAME")
            payload = (
                {"collection_id": images.find_collection(session, collection).id}
                if collection
                else {}
            )
            ids = [
                jobs.enqueue(
                    session, "embed", f"Embed the images of “{p.name}”", payload, p.id, once=True
                ).id
                for p in chosen
            ]
        results = [job.result for job in finish_jobs(settings, engine, ids)]
    if as_json:
        return print_json(results)
    for p, result in zip(chosen, results, strict=True):
        out.print(f"{p.name}: {result['embedded']} embedded, {result['set_aside']} set aside.")
    return None


@app.command()
def train(
    project: ProjectName,
    note: Annotated[str, typer.Option(help="A line to remember this version by.")] = "",
    recipe: Annotated[str | None, typer.Option(help="auto, ridge or city96.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the version is published.")] = True,
    as_json: AsJson = False,
) -> None:
    """Train a new version on the scores as they stand now."""
    from app import projects, versions
    from app.retraining import request_training
    from app.worker import is_running

    with database() as (settings, engine):
        with db.writing(engine) as session:
            chosen = projects.named(session, project)
            job_id = request_training(session, settings, chosen, note, recipe).id
        if not wait and is_running(settings):
            if as_json:
                return print_json({"job": job_id})
            out.print(f"Job {job_id} is queued.")
            return None
        result = finish_jobs(settings, engine, [job_id])[0].result
        with db.reading(engine) as session:
            shown = versions.as_json(session, settings, versions.get(session, result["version_id"]))
    if as_json:
        return print_json(shown)
    out.print(f"{shown['version']} is published: {_quality(shown)}. {shown['activation']}.")
    return None


def _quality(version: dict[str, Any]) -> str:
    """The numbers of a version in a line, saying what they were measured on."""
    for name, part in (("hold-out", "holdout"), ("out-of-fold", "out_of_fold")):
        numbers = version["metrics"].get(part) or {}
        if numbers.get("mae") is not None:
            interval = (
                f" ({numbers['mae_low']:.2f}–{numbers['mae_high']:.2f})"
                if numbers.get("mae_low") is not None
                else ""
            )
            return f"{name} MAE {numbers['mae']:.2f}{interval} points on {numbers['n']} images"
    return "not measured yet"


# --- versions ----------------------------------------------------------------------------------


@versions_app.command("list")
def versions_list(project: ProjectName, as_json: AsJson = False) -> None:
    """List the versions of a project, oldest first."""
    from app import projects, versions

    with database() as (settings, engine), db.reading(engine) as session:
        chosen = projects.named(session, project)
        found = [
            versions.as_json(session, settings, version)
            for version in reversed(versions.listing(session, chosen))
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


@versions_app.command("show")
def versions_show(project: str, version: str, as_json: AsJson = False) -> None:
    """Show one version."""
    from app import projects, versions

    with database() as (settings, engine), db.reading(engine) as session:
        chosen = versions.named(session, projects.named(session, project), version)
        shown = versions.as_json(session, settings, chosen)
    if as_json:
        return print_json(shown)
    out.print(f"{shown['version']}: {_quality(shown)}")
    for key in ("active", "activation", "images", "note", "parent", "encoder", "file", "sha256"):
        out.print(f"{key:12} {shown[key]}")
    return None


@versions_app.command("activate")
def versions_activate(project: str, version: str) -> None:
    """Make a version the active one."""
    from app import projects, versions

    with database() as (settings, engine), db.writing(engine) as session:
        chosen = versions.named(session, projects.named(session, project), version)
        versions.verify(settings, chosen)
        versions.activate(session, chosen)
    out.print(f"{chosen.number} is active.")


@versions_app.command("export")
def versions_export(
    project: str,
    version: str,
    folder: Path,
    layout: Annotated[str, typer.Option("--format", help="city96.")] = "city96",
) -> None:
    """Copy a version's checkpoint and sidecar into a folder."""
    from app import projects, versions
    from app.files import write_atomic

    if layout != "city96":
        raise typer.BadParameter("Only the city96 layout can be exported.", param_hint="--format")
    with database() as (settings, engine), db.reading(engine) as session:
        chosen = versions.named(session, projects.named(session, project), version)
        source = versions.verify(settings, chosen)
        config = versions.config_path(settings, chosen)
    folder.mkdir(parents=True, exist_ok=True)
    for path in (source, config):
        write_atomic(folder / path.name, path.read_bytes())
        out.print(str(folder / path.name))


# --- using a version ---------------------------------------------------------------------------


@app.command()
def score(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="Folder, picture, or embeddings: .npy, .parquet.")
    ],
    model: Annotated[str, typer.Option(help="FILE.safetensors or PROJECT@v1.3 (or @active).")],
    low: Annotated[float, typer.Option("--min", help="Lowest percentage.")] = 0.0,
    high: Annotated[float, typer.Option("--max", help="Highest percentage.")] = 100.0,
    copy: Annotated[Path | None, typer.Option(help="Copy what passes into this folder.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folder structure.")] = False,
    top: Annotated[int | None, typer.Option(help="Only the N best, best first.")] = None,
    to: Annotated[Path | None, typer.Option("--out", help=".parquet, .csv or .jsonl.")] = None,
    encoder: Annotated[str | None, typer.Option(help="If the file does not name it.")] = None,
    precision: Annotated[str, typer.Option(help="fp32, or fast (bf16, 2e-3 off).")] = "fp32",
    as_json: AsJson = False,
) -> None:
    """Score pictures or embeddings, and filter by the result."""
    from app import score_tables, scoring
    from app.embedding_files import EMBEDDING_SUFFIXES

    if precision not in ("fp32", "fast"):
        raise typer.BadParameter("fp32 or fast", param_hint="--precision")
    if copy is not None and source.suffix.lower() in EMBEDDING_SUFFIXES:
        raise typer.BadParameter("embeddings are no pictures to copy", param_hint="--copy")
    score_tables.check_limits(low, high, top)
    if to is not None:
        score_tables.check_ending(to)
        if to.resolve() == source.resolve():
            raise Invalid("--out names the source itself.", "Choose another name.")
    if copy is not None:
        scoring.check_target(source, copy)
    settings = Settings()
    chosen = scoring.read_model(_model_path(settings, model))
    kept: list[Any] = []
    written = 0
    with _bar() as bar, _set_aside() as tell:
        task = bar.add_task("Scoring", total=None)
        rows = scoring.score_source(
            source, chosen, settings, encoder=encoder, precision=precision,  # type: ignore[arg-type]
            on_error=tell,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
        rows = score_tables.within(rows, low, high)
        if top is not None:
            rows = iter([score_tables.best(rows, top)])
        if to is not None:  # as they come; all are held in memory only where they are wanted after
            wanted = copy is not None or as_json
            rows = _kept(rows, kept) if wanted else rows
            written = score_tables.write(to, rows, chosen.about)
            rows = iter(kept)
        ranked = score_tables.best(rows)
    if copy is not None:
        paths = ranked["path"].to_pylist()
        copied = scoring.copy_pictures(paths, source, copy, keep=keep)
        err.print(f"{copied} pictures copied into {copy}.")
    if as_json:
        print_json(score_tables.as_dicts(ranked))
    elif to is None:
        for row in score_tables.as_dicts(ranked):
            print(f"{row['percent']:6.2f} %  {row['path']}")
    else:
        out.print(f"{written} rows written to {to}.")


def _kept(tables: Iterator[Any], kept: list[Any]) -> Iterator[Any]:
    for table in tables:
        kept.append(table)
        yield table


@contextmanager
def _set_aside(most: int = 100) -> Iterator[Callable[[str, str], None]]:
    """Tell on stderr what could not be used, each as it comes; beyond `most`, how many more."""
    count = 0

    def tell(path: str, reason: str) -> None:
        nonlocal count
        count += 1
        if count <= most:
            err.print(f"set aside {_plain(path)}: {_plain(reason)}")

    try:
        yield tell
    finally:
        if count > most:
            err.print(f"and {count - most} more set aside")


def _model_path(settings: Settings, model: str) -> Path:
    """The file of `FILE.safetensors` or `PROJECT@VERSION`."""
    if "@" not in model or Path(model).is_file():
        return Path(model)
    from app import projects, versions

    name, number = model.rsplit("@", 1)
    with database() as (_, engine), db.reading(engine) as session:
        version = versions.named(session, projects.named(session, name), number)
        return versions.verify(settings, version)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check the installation: exit code 0 with warnings at most, 1 with damage."""
    from app.doctor import examine

    findings = examine(Settings())
    if as_json:
        print_json([{"level": f.level, "what": f.what, "hint": f.hint} for f in findings])
    else:
        marks = {"ok": "[green]ok[/green]", "warning": "[yellow]warning[/yellow]"}
        for f in findings:
            mark = marks.get(f.level, "[red]damage[/red]")
            out.print(f"{mark:>8}  {_plain(f.what)} {_plain(f.hint)}".rstrip())
    if any(f.level == "damage" for f in findings):
        raise typer.Exit(1)


# --- waiting for jobs --------------------------------------------------------------------------


def finish_jobs(settings: Settings, engine: Engine, ids: list[int]) -> list[Job]:
    """See the jobs through, showing their progress; with no worker alive, do them here. Raises
    `TastemakerError` with the reason of the first that failed."""
    from app.worker import run_here

    if not ids:
        return []
    with _bar() as bar:
        tasks: dict[int, Any] = {}

        def finished() -> bool:
            with db.reading(engine) as session:
                found = [jobs.get(session, job_id) for job_id in ids]
            for job in found:
                if job.state in ("running", "done"):
                    if job.id not in tasks:
                        tasks[job.id] = bar.add_task(job.title, total=None)
                    text = f"{job.title}: {job.message}" if job.message else job.title
                    bar.update(
                        tasks[job.id], description=text, completed=job.done, total=job.total or None
                    )
            return all(job.state in jobs.FINISHED for job in found)

        run_here(settings, engine, finished)
    with db.reading(engine) as session:
        found = [jobs.get(session, job_id) for job_id in ids]
    for job in found:
        if job.state != "done":
            raise TastemakerError(job.error or f"The job was {job.state}.")
    return found


def _unfinished(engine: Engine, kind: str, project_id: int) -> list[int]:
    with db.reading(engine) as session:
        return [job.id for job in jobs.unfinished(session, kind, project_id)]


def _bar() -> Progress:
    """A progress bar on stderr, on a terminal only."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), MofNCompleteColumn(),
        TimeRemainingColumn(), console=err, transient=True, disable=not err.is_terminal,
    )  # fmt: skip


if __name__ == "__main__":
    main()
