"""Bringing images in: `tastemaker import` and `tastemaker embed`."""

from pathlib import Path
from typing import Annotated

import typer

from tastemaker import jobs
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
from tastemaker.errors import Invalid

app = typer.Typer()


@app.command("import")
def import_images(
    paths: Annotated[list[Path], typer.Argument(help="Folders, pictures, or zips of pictures.")],
    project: Annotated[
        str | None, typer.Option("--project", "-p", help="The project that uses the images.")
    ] = None,
    collection: Annotated[str | None, typer.Option(help="Name of the collection.")] = None,
    role: Annotated[str, typer.Option(help="pool or test-run.")] = "pool",
    scores_from_folders: Annotated[
        bool, typer.Option(help="Folders NN or NN_name hold the score NN; .npy vectors too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import images, and embed them if a project is named."""
    from tastemaker import projects
    from tastemaker.importing.requests import request_import

    if scores_from_folders and project is None:
        raise typer.BadParameter("--scores-from-folders needs --project.")
    with database() as (settings, engine):
        with sessions.writing(engine) as session:
            target = projects.by_name(session, project) if project else None
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
        f"{counted(result['added'], 'new image')}, {result['known']} known already, "
        f"{result['set_aside']} skipped"
        + (f", {counted(result['scored'], 'score')}" if result["scored"] else "")
        + f" (collection “{result['collection']}”)."
    )
    if result["set_aside"]:
        out.print(f"Skipped first: {plain(result['first_reason'])}")
    return None


@app.command()
def embed(
    collection: Annotated[str | None, typer.Option(help="Only this collection.")] = None,
    project: Annotated[
        str | None, typer.Option("--project", "-p", help="Only the images of this project.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Embed the images that have no embedding yet."""
    from tastemaker import images, projects
    from tastemaker.embeddings import declared

    with database() as (settings, engine):
        with sessions.writing(engine) as session:
            if project:
                chosen = [projects.by_name(session, project)]
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
