"""Bringing images in: `tastemaker import` and `tastemaker embed`."""

from pathlib import Path
from typing import Annotated

import typer
from sqlmodel import Session

from tastemaker import jobs
from tastemaker.cli.help import Commands
from tastemaker.cli.options import InProject, either
from tastemaker.cli.terminal import (
    AsJson,
    counted,
    database,
    finish_jobs,
    out,
    plain,
    print_json,
    unfinished,
)
from tastemaker.database import sessions
from tastemaker.database.tables import Project
from tastemaker.errors import Invalid, NotFound
from tastemaker.files import typed_path
from tastemaker.importing.outcome import known_in_words

app = Commands()


@app.command("import")
def import_images(
    typed: Annotated[
        list[str],
        typer.Argument(
            metavar="[PROJECT] PATHS",
            help="Folders, pictures, or zips of pictures. A project may come first, where there "
            "is no file of its name.",
        ),
    ],
    project: InProject = None,
    collection: Annotated[str | None, typer.Option(help="Name of the collection.")] = None,
    role: Annotated[str, typer.Option(help="pool or test-run.")] = "pool",
    scores_from_folders: Annotated[
        bool, typer.Option(help="Folders NN or NN_name hold the score NN; .npy vectors too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import images, and embed them if a project is named."""
    from tastemaker.importing.requests import request_import

    with database() as (settings, engine):
        with sessions.writing(engine) as session:
            target, paths = project_and_paths(session, project, typed)
            if scores_from_folders and target is None:
                raise typer.BadParameter("--scores-from-folders needs --project.")
            job_id = request_import(
                session, settings, paths, project=target, collection=collection, role=role,
                scores_from_folders=scores_from_folders,
            ).id  # fmt: skip
        done = finish_jobs(settings, engine, [job_id])[0]
        embedding = unfinished(engine, "embed", target.id) if target else []
        finish_jobs(settings, engine, embedding)
    result = done.result
    if as_json:
        return print_json(result)
    out.print(
        f"{counted(result['added'], 'new image')}, {known_in_words(result)}, "
        f"{result['set_aside']} skipped"
        + (f", {counted(result['scored'], 'score')}" if result["scored"] else "")
        + f" (collection “{result['collection']}”)."
    )
    if rewritten := result["rewritten"]:
        out.print(
            f"{counted(rewritten, 'file')} had been written again with the same pixels: scores and "
            "tags were carried over."
        )
    if result["set_aside"]:
        out.print(f"Skipped first: {plain(result['first_reason'])}")
    if result["left_out"]:
        out.print(plain(result["left_out"]))
    return None


def project_and_paths(
    session: Session, named: str | None, typed: list[str]
) -> tuple[Project | None, list[Path]]:
    """The project, if one is named, and the paths. Of several words the first is a project where
    nothing lies under it; what lies there is a path, as it always was."""
    from tastemaker import projects

    paths = [typed_path(word) for word in typed]
    if named is not None:
        return projects.by_name(session, named), paths
    if len(typed) < 2 or _there(paths[0]):
        return None, paths
    try:
        return projects.by_name(session, typed[0]), paths[1:]
    except NotFound as error:
        message = f"There is no file or folder “{typed[0]}”, and no project of that name."
        raise NotFound(message, error.hint) from None


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long for a name, or a zero in it
        return False


@app.command()
def embed(
    name: Annotated[
        str | None, typer.Argument(metavar="[PROJECT]", help="Only the images of this project.")
    ] = None,
    collection: Annotated[str | None, typer.Option(help="Only this collection.")] = None,
    project: InProject = None,
    as_json: AsJson = False,
) -> None:
    """Embed the images that have no embedding yet."""
    from tastemaker import images, projects
    from tastemaker.embeddings import declared

    wanted = either(name, project)
    with database() as (settings, engine):
        with sessions.writing(engine) as session:
            if wanted:
                chosen = [projects.by_name(session, wanted)]
            else:  # those whose vectors came from outside have nothing to embed
                chosen = [p for p in projects.list_all(session) if not declared(session, p)]
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
        out.print(f"{p.name}: {result['embedded']} embedded, {result['set_aside']} skipped.")
    return None
