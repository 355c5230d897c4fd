"""Bringing images in: `tastemaker import` and `tastemaker embed`."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlmodel import Session

from tastemaker import jobs
from tastemaker.cli.help import Commands
from tastemaker.cli.options import (
    InProject,
    ProjectWords,
    either,
    in_order,
    path_option,
    path_or_address,
    words,
)
from tastemaker.cli.terminal import (
    AsJson,
    counted,
    database,
    embedding_since,
    err,
    finish_jobs,
    out,
    plain,
    print_json,
    progress_bar,
    skipped_files,
)
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.tables import Job, Project
from tastemaker.errors import Invalid, NotFound, TastemakerError
from tastemaker.files.addresses import Address, local_path
from tastemaker.importing.outcome import known_in_words, unread_in_words

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
    damage: Annotated[
        str | None,
        typer.Option(
            metavar="KINDS",
            help="Make a damaged twin of each picture and label both, in a project with classes: "
            "jpeg,webp,chromatic,noise,blur, one of them at random.",
        ),
    ] = None,
    clean: Annotated[
        str, typer.Option(metavar="CLASS", help="With --damage: what clean pictures are.")
    ] = "",
    damaged: Annotated[
        str, typer.Option(metavar="CLASS", help="With --damage: what their twins are.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Import images, and embed them if a project is named. Where a folder or an archive could not
    be read, all else is imported, and the exit code is 1."""
    from tastemaker.importing import requests

    if damage is None and (clean or damaged):
        raise typer.BadParameter("--clean and --damaged go with --damage.")

    with database() as (settings, engine):
        with sessions.reading(engine) as session:
            target, paths = project_and_paths(session, project, typed)
        if scores_from_folders and target is None:
            raise typer.BadParameter("--scores-from-folders needs --project.")
        resolved = requests.validate_paths(settings, paths, with_vectors=scores_from_folders)
        with sessions.writing(engine) as session:
            target, _ = project_and_paths(session, project, typed)
            pairs = None
            if damage is not None:
                kinds = damage.split(",")
                pairs = requests.pairs_for(session, target, kinds, clean, damaged, role)
            job_id = requests.enqueue_import(
                session, settings, resolved, project=target, collection=collection, role=role,
                scores_from_folders=scores_from_folders, synthetic=pairs,
            ).id  # fmt: skip
        result = finish_jobs(settings, engine, [job_id])[0].result
        if as_json:
            print_json(result)
        else:
            _tell_import(result, in_pairs=damage is not None)
        unread = unread_in_words(result)
        embedding = embedding_since(engine, target.id, job_id) if target else []
        try:
            finish_jobs(settings, engine, embedding)
        except TastemakerError:  # what was imported stays, and has been told
            if unread is not None:
                err.print(plain(str(unread)))
            raise
    if unread is not None:  # told last: all that could be read is there
        raise unread


def _tell_import(result: Mapping[str, Any], in_pairs: bool) -> None:
    out.print(
        f"{counted(result['added'], 'new image')}, {known_in_words(result)}, "
        f"{result['set_aside']} skipped"
        + (f", {counted(result['scored'], 'score')}" if result["scored"] else "")
        + f" (collection “{result['collection']}”)."
    )
    if in_pairs:
        made, held, otherwise = (result[k] for k in ("pairs", "held_out", "otherwise"))
        other = f"; {otherwise:,} labelled as something else" if otherwise else ""
        out.print(
            f"{counted(made, 'pair')} of a clean picture and its damaged twin; {held:,} left "
            f"on the hold-out side, to be labelled by hand{other}."
        )
    if rewritten := result["rewritten"]:
        out.print(
            f"{counted(rewritten, 'file')} had been written again with the same pixels: scores and "
            "tags were carried over."
        )
    if result["set_aside"] and result["first_reason"] != result.get("first_unread"):
        out.print(f"Skipped first: {plain(result['first_reason'])}")
    if result["left_out"]:
        out.print(plain(result["left_out"]))


@app.command("import-embeddings")
def import_embeddings(
    typed: Annotated[
        list[str],
        words("PROJECT SOURCE", "SOURCE: .npy, .npz, .parquet, or a folder of clip-retrieval."),
    ],
    project: InProject = None,
    encoder: Annotated[
        str, typer.Option(help="What made them, as ViT-L-14/openai, if not the project's.")
    ] = "",
    pictures: Annotated[
        Path | None,
        path_option("--pictures", about="Where the paths start: images get theirs.", metavar="DIR"),
    ] = None,
    collection: Annotated[str, typer.Option(help="Name of the collection.")] = "",
    role: Annotated[str, typer.Option(help="pool or test-run.")] = "pool",
    as_json: AsJson = False,
) -> None:
    """Import embeddings made elsewhere, with or without their pictures. Those without one are
    filtered, predicted and exported like others; once their disk is there, the same command with
    --pictures brings the pictures in."""
    from tastemaker import projects
    from tastemaker.importing.vectors import look_at, request_vectors

    name, source = in_order(typed, project, "SOURCE")
    with database() as (settings, engine):
        looked = look_at(settings, source, pictures)
        with sessions.writing(engine) as session:
            target = projects.by_name(session, name)
            job_id = request_vectors(
                session, settings, looked, target, encoder=encoder, collection=collection,
                role=role,
            ).id  # fmt: skip
        result = finish_jobs(settings, engine, [job_id])[0].result
    if as_json:
        return print_json(result)
    out.print(
        f"{counted(result['added'], 'new image')}, {result['known']:,} known, "
        f"{result['set_aside']:,} skipped (collection “{result['collection']}”)."
    )
    if pictures is not None:
        out.print(
            f"{counted(result['pictures'], 'picture')} found and read, "
            f"{result['unreadable']:,} not readable."
        )
    if result["without"]:
        out.print(f"{counted(result['without'], 'image')} of it have no picture here.")
    if result["set_aside"]:
        out.print(f"Skipped first: {plain(result['first_reason'])}")
    return None


@app.command("watch")
def watch_folder(
    typed: Annotated[list[str], words("PROJECT [FOLDER]", "Without a folder, list them.")],
    project: InProject = None,
    collection: Annotated[str | None, typer.Option(help="Name of the collection.")] = None,
    role: Annotated[str, typer.Option(help="pool or test-run.")] = "pool",
    stop: Annotated[bool, typer.Option("--stop", help="Watch this folder no longer.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch a folder: the running worker brings in what is new in it, every half minute."""
    from tastemaker import projects
    from tastemaker.importing import watching

    name, folder = in_order(typed, project, "[FOLDER]")
    if stop and not folder:
        raise typer.BadParameter("--stop needs the folder: PROJECT FOLDER --stop")
    with database() as (settings, engine), sessions.writing(engine) as session:
        chosen = projects.by_name(session, name)
        if folder and stop:
            watching.stop(session, chosen, local_path(folder))
        elif folder:
            watching.watch(session, settings, chosen, folder, collection=collection, role=role)
        rows = watching.as_json(session, chosen)
    if as_json:
        return print_json(rows)
    for row in rows:
        told = [f"{row['gone']:,} moved away or deleted"] if row["gone"] else []
        told += [str(row["trouble"])] if row["trouble"] else []
        more = "".join(f" – {one}" for one in told)
        out.print(plain(f"{row['path']} → “{row['collection']}” ({row['role']}){more}"))
    if not rows:
        out.print("No folder is watched.")
    return None


@app.command("series")
def series_of_images(
    typed: ProjectWords = None,
    project: InProject = None,
    within: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds between one picture and the next, by the camera's clock; of pictures "
            "that do not say when they were taken, by their files.",
        ),
    ] = 10.0,
    alike: Annotated[
        float, typer.Option(min=0, max=1, help="How alike the two look, as a cosine.")
    ] = 0.9,
    tag: Annotated[
        bool,
        typer.Option(
            "--tag", help="Tag them “best of its series” and “rest of its series”, to filter by."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find bursts and copies, and which of each to keep, with the reason; nothing is deleted."""
    from tastemaker import projects, versions
    from tastemaker.library import series, taken_times
    from tastemaker.scores import classes

    (name,) = in_order(typed, project)
    with database() as (settings, engine):
        with sessions.reading(engine) as session:
            chosen = projects.by_name(session, name)
            classes.check_scores(chosen)
            waiting = taken_times.unasked(session, chosen)
        if waiting:
            with progress_bar() as bar:
                task = bar.add_task("Reading when pictures were taken", total=len(waiting))
                taken_times.read_taken_times(
                    sessions.PlainTransactions(engine), settings, waiting,
                    lambda done, total: bar.update(task, completed=done),
                )  # fmt: skip
        with sessions.reading(engine) as session:
            version = versions.chosen(session, chosen)
            found = list(series.find_series(session, chosen, version, within=within, alike=alike))
        if tag:
            series.tag(sessions.PlainTransactions(engine), found, chosen)
    if as_json:
        return print_json([asdict(one) for one in found])
    for one in found:
        together = series.why_together(one.links, within)
        out.print(plain(f"{one.keep.path}: keep ({one.reason}); {together}"))
        for member in one.rest:
            out.print(plain(f"  {member.path}"))
    rest = sum(len(one.rest) for one in found)
    out.print(
        f"{len(found):,} series, {counted(rest, 'picture')} besides the best of each."
        + (" They are tagged." if tag else " To filter and sweep by it in the library: --tag.")
    )
    return None


def project_and_paths(
    session: Session, named: str | None, typed: list[str]
) -> tuple[Project | None, list[Path]]:
    """The project, if one is named, and the paths. Of several words the first is a project where
    nothing lies under it; what lies there is a path, as it always was."""
    from tastemaker import projects

    paths = [local_path(word) for word in typed]
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
        str | None,
        typer.Argument(
            metavar="[PROJECT|SRC]",
            help="Only the images of this project; with --out, what `score` reads pictures from: a "
            "folder, or archives, these also at an address (s3://…, https://…).",
        ),
    ] = None,
    collection: Annotated[str | None, typer.Option(help="Only this collection.")] = None,
    project: InProject = None,
    encoder: Annotated[
        str | None, typer.Option(metavar="ENCODER", help="With --out: what reads the pictures.")
    ] = None,
    to: Annotated[
        Path | None,
        path_option(
            "--out",
            about="Write the embeddings of SRC into this .npz (`embeddings`, `paths`), and "
            "nothing into the library.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Embed the images that have no embedding yet, or pictures outside the library into a file."""
    if (to is None) != (encoder is None):
        raise typer.BadParameter("--encoder and --out go together: SRC --encoder E --out FILE")
    if to is not None and encoder is not None:
        if name is None or project is not None or collection is not None:
            raise typer.BadParameter("SRC --encoder E --out FILE, and nothing of the library")
        embed_source(path_or_address(name), encoder, to, as_json)
        return

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
        named = dict(zip(ids, (p.name for p in chosen), strict=True))

        results: list[dict[str, Any]] = []

        def tell(job: Job) -> None:
            results.append({"project": named[job.id]} | job.result)
            if not as_json:
                counts = f"{job.result['embedded']} embedded, {job.result['set_aside']} skipped."
                out.print(f"{named[job.id]}: {counts}")

        try:
            finish_jobs(settings, engine, ids, tell)
        finally:
            if as_json and results:  # what is done is told, whatever became of the others
                print_json(results)


def embed_source(source: Path | Address, encoder: str, to: Path, as_json: bool) -> None:
    """Write the embeddings of the pictures of a source, in their order."""
    from tastemaker.encoding.embedding_files import write_embeddings
    from tastemaker.encoding.encode_files import Source, embed_files
    from tastemaker.encoding.encoder_specs import parse
    from tastemaker.encoding.encoders import load
    from tastemaker.files import require_writable
    from tastemaker.filtering.every_picture import every_picture
    from tastemaker.filtering.losses import ErrorCount
    from tastemaker.pictures.pictures import Limits
    from tastemaker.processes import ready_to_compute

    if to.suffix.lower() != ".npz":
        raise Invalid(f"{to.name} is no .npz.", "Name the file to write like embeddings.npz.")
    require_writable(to)
    settings = Settings()
    ready_to_compute(settings.torch_threads)
    vectors: dict[int, Any] = {}
    names: list[str] = []
    limits = Limits.of(settings).anywhere()
    with skipped_files() as skip:
        unread = ErrorCount(skip)
        pictures = every_picture(
            source, limits, settings.min_free_gb, unread, lambda line: err.print(plain(line))
        )
        network = load(parse(encoder))

        def drawn() -> Iterator[Source]:
            for name, picture in pictures.named:
                names.append(name)
                yield picture

        with progress_bar() as bar:
            task = bar.add_task("Embedding", total=pictures.total)
            found = embed_files(
                network, drawn(), limits=limits, guarded=True,
                on_error=lambda index, error: unread(names[index], error),
            )  # fmt: skip
            for index, vector in found:
                vectors[index] = vector
                bar.advance(task)
    if not vectors:
        raise Invalid("None of the pictures could be embedded.")
    order = sorted(vectors)
    write_embeddings(to, [vectors[i] for i in order], [names[i] for i in order])
    told = {"embedded": len(order), "skipped": len(names) - len(order), "file": str(to)}
    if as_json:
        print_json(told)
    else:
        out.print(f"{counted(len(order), 'picture')} embedded into {plain(str(to))}.")
    if unread.incomplete:
        raise unread.in_words()
