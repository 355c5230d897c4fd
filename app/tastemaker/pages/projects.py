"""The first page: every project, how to make one, and the sample project for the curious."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request, Response
from sqlalchemy import Engine
from sqlmodel import Session, col, func, select

from tastemaker import embeddings, images, jobs, projects, versions
from tastemaker.auth.origins import by_htmx
from tastemaker.auth.permissions import AdminUser, GuardedRoute, ViewerUser
from tastemaker.config import DEFAULT_ENCODER, Settings
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Image, Job, Project, ScoreEvent, Version
from tastemaker.encoding.encoder_specs import known_encoders
from tastemaker.encoding.weights import Weights, weights_of
from tastemaker.errors import Invalid, TastemakerError
from tastemaker.files.texts import composed
from tastemaker.pages import priors
from tastemaker.pages.deps import Body, CurrentProject, EngineDep, Id, ReadSession, SettingsDep
from tastemaker.pages.priors import StartForm
from tastemaker.pages.project_jobs import importing
from tastemaker.pages.render import failed_embedding, redirect, render, see_other, shell
from tastemaker.publishing.start_from import heads_named
from tastemaker.sample import demo
from tastemaker.scores import classes as class_lists
from tastemaker.training.trainable import ENOUGH_TO_TRAIN
from tastemaker.versions import starting_heads

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

ENOUGH_TO_SEARCH = 12  # projects, beyond which they are looked for by name
AT_ONCE = 24  # projects: each asks for itself, and few people scroll through more

LABELLINGS = {
    "scores": "Scores from 0 to 10: what you like",
    "classes": "Classes: each image is one of them",
    "tags": "Tags: an image may have several",
}


@router.get("/")
def first(
    _: ViewerUser,
    request: Request,
    session: ReadSession,
    q: Annotated[str, Query(max_length=80)] = "",
    after: Annotated[int, Query(ge=0, lt=2**53)] = 0,
) -> Response:
    """The projects; with `q`, those whose name holds each of its words. Some at once: `after` goes
    on behind that project, and htmx asks for those alone."""
    if after and by_htmx(request):
        return render(request, "projects.html", "more", some_of(session, q, after))
    return first_page(request, session, wanted=q, after=after)


def first_page(
    request: Request,
    session: Session,
    name: str = "",
    encoder: str = DEFAULT_ENCODER,
    file: str = "",
    typed: StartForm = StartForm(),
    error: TastemakerError | None = None,
    labelling: str = "scores",
    classes: str = "",
    wanted: str = "",
    after: int = 0,
) -> Response:
    """With an `error`, the form for a new project comes back as it was filled in."""
    return render(
        request, "projects.html", None,
        shell(session, here="projects") | some_of(session, wanted, after) | {
            "images": images.count(session),
            "encoders": known_encoders(),
            "name": name,
            "chosen": encoder,
            "file": file,
            "typed": typed,
            **priors.choices(session, encoder),
            "error": error,
            "labelling": labelling,
            "labellings": LABELLINGS,
            "classes": classes,
            "demo_job": unfinished_demo(session),
            "has_sample": demo.make_sample(session) is not None,
        },
        status=error.status if error else 200,
    )  # fmt: skip


@router.post("/projects")
def create(
    _: AdminUser,
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    name: Annotated[str, Form()] = "",
    encoder: Annotated[str, Form()] = DEFAULT_ENCODER,
    file: Annotated[str, Form()] = "",
    start: Annotated[str, Form()] = "",
    head: Annotated[str, Form()] = "",
    head_encoder: Annotated[str, Form()] = "",
    labelling: Annotated[str, Form()] = "scores",
    classes: Annotated[str, Form()] = "",
) -> Response:
    typed = StartForm(start, head, head_encoder) if labelling == "scores" else StartForm()
    try:
        planned = Project(name=name, encoder=with_file(encoder, file))
        with reading(engine) as session:
            heads = priors.heads_typed(session, settings, planned, typed)
        with writing(engine) as session:
            project = made(
                session, name, labelling, class_lists.split_names(classes), encoder=planned.encoder
            )
            starting_heads.start_from(session, project, heads)
    except TastemakerError as error:
        with reading(engine) as session:
            return first_page(
                request, session, name, encoder, file, typed, error, labelling, classes
            )
    return see_other(f"/projects/{project.id}/add")


def made(
    session: Session, name: str, labelling: str, classes: Sequence[str], **options: Any
) -> Project:
    """A new project that labels so; `classes` are named where it does not score."""
    if labelling not in LABELLINGS:
        known = ", ".join(LABELLINGS)
        raise Invalid(f"A label cannot be “{labelling[:20]}”.", f"Use one of {known}.")
    if labelling != "scores":
        several = labelling == "tags"
        return class_lists.create_project(session, name, classes, several=several, **options)
    if classes:
        raise Invalid("A project that scores has no classes.", "Choose classes or tags for it.")
    return projects.create(session, name, **options)


def with_file(encoder: str, file: str) -> str:
    """An encoder's name, with the file its weights are read from where one was typed."""
    return f"{encoder}@{file.strip()}" if file.strip() else encoder


@router.get("/encoders/weights")
def weights(_: AdminUser, request: Request, encoder: str = "", file: str = "") -> Response:
    """A line below the encoders of the form: whether the weights of the one chosen can be had."""
    try:
        told = weights_of(with_file(encoder, file))
    except TastemakerError as error:
        told = Weights("missing", error.message, error.hint)
    return render(request, "projects.html", "weights", {"weights": told})


@router.get("/encoders/heads")
def heads(
    _: AdminUser,
    request: Request,
    session: ReadSession,
    encoder: str = "",
    start: str = "",
    head: str = "",
    head_encoder: str = "",
) -> Response:
    """The part of the form that says what to start from, for the encoder that is chosen."""
    context = {"typed": StartForm(start, head, head_encoder), **priors.choices(session, encoder)}
    return render(request, "projects.html", "starts", context)


@router.post("/projects/{project_id}/encoder")
def choose_encoder(
    _: AdminUser,
    engine: EngineDep,
    project_id: Id,
    encoder: Annotated[str, Form()] = "",
    file: Annotated[str, Form()] = "",
) -> Response:
    """Another encoder, or its weights from a file, while no image of the project is embedded."""
    chosen(engine, project_id, with_file(encoder, file))
    return see_other(f"/projects/{project_id}/add")


def chosen(engine: Engine, project_id: int, encoder: str) -> dict[str, Any]:
    with writing(engine) as session:
        project = projects.get(session, project_id)
        embeddings.choose_encoder(session, project, encoder)
        return projects.summary(session, project)


@router.get("/projects/{project_id}")
def project(_: ViewerUser, project_id: Id) -> Response:
    return see_other(f"/projects/{project_id}/score")


@router.post("/demo")
def sample_library(
    _: AdminUser, request: Request, engine: EngineDep, settings: SettingsDep
) -> Response:
    """Queue the sample project, and watch it being made."""
    return redirect(request, f"/jobs/{the_demo(engine, settings).id}")


@api.post("/demo", status_code=202)
def make_sample_project(_: AdminUser, engine: EngineDep, settings: SettingsDep) -> dict[str, Any]:
    """Queue the sample project; the answer is its job, the finished one if it was made before."""
    return jobs.as_json(the_demo(engine, settings))


def the_demo(engine: Engine, settings: Settings) -> Job:
    with writing(engine) as session:
        return unfinished_demo(session) or demo.request_demo(session, settings)


def some_of(session: Session, wanted: str, after: int) -> dict[str, Any]:
    """The cards of the next projects behind `after`, of those whose name holds each word."""
    every = projects.list_all(session)
    sought = composed(wanted).casefold().split()
    found = [one for one in every if all(word in one.name.casefold() for word in sought)]
    behind = [one for one in found if one.id > after]
    shown, left = behind[:AT_ONCE], len(behind[AT_ONCE:])
    further = {"after": shown[-1].id} if left else {}
    return {
        "cards": [card(session, project) for project in shown],
        "wanted": wanted,
        "found": len(found),
        "searchable": len(every) > ENOUGH_TO_SEARCH,
        "after": after,
        "left": left,
        "more": urlencode(({"q": wanted} if wanted else {}) | further),
    }


def unfinished_demo(session: Session) -> Job | None:
    waiting = jobs.unfinished(session, "demo")
    return waiting[0] if waiting else None


def card(session: Session, project: Project) -> dict[str, object]:
    """What the first page shows of one project."""
    active = versions.active(session, project)
    some = session.exec(  # the order of the hashes is a random one that stays
        select(Image.id)
        .where(col(Image.id).in_(projects.image_ids(project.id)), Image.kind != "vector")
        .order_by(col(Image.sha256))
        .limit(4)
    ).all()
    error = active.metrics.measured.mae if active else None
    accuracy = active.classes.measured.accuracy if active else None
    known = projects.summary(session, project)
    words, page = next_page(session, project, known["images"], known["labels"], active)
    return known | {
        "pictures": some, "mean_error": error, "accuracy": accuracy, "next": words,
        "next_page": page,
    }  # fmt: skip


def next_page(
    session: Session, project: Project, images: int, labels: int, active: Version | None
) -> tuple[str, str]:
    """What a project needs next, in words, and the page that does it."""
    if not images:
        return (
            ("Images are coming in", "score")
            if importing(session, project)
            else ("Add images", "add")
        )
    if failed_embedding(session, project):
        return "Its images could not be embedded", "score"
    if active is None and labels < ENOUGH_TO_TRAIN:
        verb = "Score" if project.labelling == "scores" else "Label"
        return f"{verb} {ENOUGH_TO_TRAIN - labels} more to train", "score"
    if active is None:
        return "Train the first version", "versions"
    newer = select(func.count()).where(
        ScoreEvent.project_id == project.id, ScoreEvent.kind == "set",
        col(ScoreEvent.id) > active.event_high,
    )  # fmt: skip
    since = int(session.exec(newer).one())
    if since >= ENOUGH_TO_TRAIN:
        what = "scores" if project.labelling == "scores" else "labels"
        return f"{since} new {what} since {active.number}: train", "versions"
    if project.labelling != "scores":
        return f"Look at what {active.number} confuses", "confusion"
    return f"Review what {active.number} gets wrong", "review/false-positives"


# --- for programs --------------------------------------------------------------------------------


class NewProject(Body):
    """`start_from`: heads that it starts from, each PROJECT (its active version), PROJECT@VERSION
    or the path of a .safetensors file on this machine; `head_encoder`: what such a file was trained
    on, where it does not say. Without an `encoder`, it is that of the first head, else the default
    one. `labelling`: what a label is, a score, one of the `classes`, or any of them as tags."""

    name: str
    encoder: str | None = None
    threshold: float = 0.5
    start_from: tuple[str, ...] = ()
    head_encoder: str | None = None
    labelling: Literal["scores", "classes", "tags"] = "scores"
    classes: tuple[str, ...] = ()


@api.get("/projects")
def list_projects(_: ViewerUser, session: ReadSession) -> list[dict[str, Any]]:
    """Every project in short."""
    return [projects.summary(session, project) for project in projects.list_all(session)]


@api.post("/projects", status_code=201)
def create_project(
    _: AdminUser, engine: EngineDep, settings: SettingsDep, body: NewProject
) -> dict[str, Any]:
    """A new project; its encoder is fixed by the first embedding. `weights` says whether those of
    the encoder are `here`, `to fetch`, `missing` or `unknown`, and what to do if they are missing:
    before anybody scores."""
    planned = Project(name=body.name, encoder=body.encoder or DEFAULT_ENCODER)
    with reading(engine) as session:
        heads = heads_named(session, settings, planned, body.start_from, body.head_encoder)
    with writing(engine) as session:
        encoder = starting_heads.encoder_for(heads, body.encoder)
        project = made(
            session, body.name, body.labelling, body.classes, encoder=encoder,
            threshold=body.threshold,
        )  # fmt: skip
        starting_heads.start_from(session, project, heads)
        summary = projects.summary(session, project)
    return summary | {"weights": weights_of(summary["encoder"]).as_dict()}


class ChosenEncoder(Body):
    """MODEL/TAG, MODEL@FILE.safetensors or MODEL/TAG@FILE.safetensors."""

    encoder: str


@api.post("/projects/{project_id}/encoder")
def change_encoder(
    _: AdminUser, engine: EngineDep, project_id: Id, body: ChosenEncoder
) -> dict[str, Any]:
    """Another encoder for a project none of whose images is embedded yet; afterwards it is refused,
    and a duplicate of the project can have another one."""
    summary = chosen(engine, project_id, body.encoder)
    return summary | {"weights": weights_of(summary["encoder"]).as_dict()}


@api.get("/encoders")
def list_encoders(_: ViewerUser) -> list[dict[str, Any]]:
    """The encoders there are to choose from, and whether their weights can be had."""
    return [
        asdict(known) | {"weights": weights_of(known.name).as_dict()} for known in known_encoders()
    ]


@api.get("/projects/{project_id}")
def show_project(_: ViewerUser, session: ReadSession, project: CurrentProject) -> dict[str, Any]:
    """One project in short."""
    return projects.summary(session, project)
