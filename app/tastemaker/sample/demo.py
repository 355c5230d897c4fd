"""The sample project: pictures in many lights, a scripted rater, two versions, every page full.

It goes through the loop as a person would. The rater scores a hold-out that only measures, and a
few pictures drawn at random (with slips of the finger); v1.0 is trained; Review shows the slips,
which are corrected; the Mixed queue asks for more; v1.1 is trained. A part stays unscored, and the
last slips stay uncorrected: they are for the visitor.

It takes the plain bundled encoder, not the default one: with a third of the numbers it is made in a
third of the time, and a visitor waits for it.

`python -m bench sample` makes it with ten seeds, and prints what v1.1 gained in each.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from sqlalchemy import Engine
from sqlmodel import Session, col, select

from tastemaker import embeddings, jobs, projects, queues, scores
from tastemaker.config import Settings
from tastemaker.database.sessions import Transactions
from tastemaker.database.tables import Annotator, Image, Job, Project, Version
from tastemaker.encoding.encoder_specs import BUNDLED
from tastemaker.evaluation import expectations, slices
from tastemaker.files import require_free_space
from tastemaker.importing.imports import import_files
from tastemaker.jobs.context import JobContext
from tastemaker.jobs.progress import Progress
from tastemaker.queues import reasons, reviews
from tastemaker.sample.samples import COUNT, Sample, make_sample_library
from tastemaker.training import retrain

PROJECT = "Sample"
RATER = "scripted rater"
# A third, so that with every seed of the bench HELD_OUT pictures lie on that side: enough that
# “better” can be told with an interval, and nothing chosen by looking.
HOLDOUT_SHARE = 1 / 3
SEED = 0
HELD_OUT = 110  # scores of the first round that only measure
FIRST_ROUND, SECOND_ROUND = 30, 120  # scores that train v1.0, and those that v1.1 has more
FIRST_SLIPS, SECOND_SLIPS = 2, 4
# One version of each way of learning that these few labels bear, and that is quick: a line, solved
# in closed form, then a small network that sets out from a line and has a loss curve to show. What
# the visitor trains goes by the project's own recipe.
FIRST_RECIPE: tuple[str, dict[str, Any]] = ("ridge", {})
SECOND_RECIPE: tuple[str, dict[str, Any]] = ("mlp", {"passes": 20})
BATCH = 8  # pictures encoded at once: the size is in the last bits of a vector, so it is not probed

# What the author of such a project would write in its model card, and hold every version to.
CARD = {
    "goals": "Pick the pictures in warm light: evening suns, red and gold, whatever they show.",
    "biases": "- For red, orange and gold\n- Against blue and grey, however good the picture is\n"
    "- What a picture shows does not matter to its rater, and should not to it",
    "issues": "- Its rater is a formula that looks at the colours of a picture, with noise; not a "
    "person\n- Three of five pictures were painted by a program; the others were cut from 21 "
    "pictures, most of them photographs, that come with scientific libraries, and coloured\n"
    "- Parts of one photograph that do not overlap count as different pictures, although they "
    "resemble each other: on other photographs it may err more than measured here\n- A few scores "
    "were mistyped on purpose, so that Review has something to show",
    "scope": "A sample that shows how the program works. It says nothing about anybody's taste, "
    "and counting red and blue pixels would do the same.",
}
EXPECTED = (
    ("evening", "at least", 0.6),
    ("night", "at most", 0.4),
    ("document", "at least", 0.35),
)


def request_demo(session: Session, settings: Settings) -> Job:
    """Queue the making of the sample project; if it was made before, its finished job."""
    done = make_sample(session)
    if done is not None:
        return done
    require_free_space(settings.root, settings.min_free_gb)
    return jobs.enqueue(session, "demo", "Make the sample project", once=True)


def make_sample(session: Session) -> Job | None:
    """The job that made the sample project, if the project is still there under any name."""
    done = session.exec(
        select(Job).where(Job.kind == "demo", Job.state == "done").order_by(col(Job.id).desc())
    ).first()
    there = done is not None and session.get(Project, done.result.get("project_id")) is not None
    return done if there else None


def run(job: JobContext) -> dict[str, Any]:
    """Every step can be done twice: after a crash the job goes on where it was."""
    seed = int(job.payload.get("seed", SEED))
    staging = job.settings.incoming / f"samples-{job.claim.job_id}"
    job.stage("Making the sample pictures", COUNT)
    samples = make_sample_library(staging, COUNT, job.progress, seed=seed)
    with job.writing() as session:
        project = projects.find(session, PROJECT) or projects.create(
            session, PROJECT, encoder=BUNDLED, holdout_share=HOLDOUT_SHARE
        )
        project.seed, project.card = seed, project.card or CARD
        rater = projects.annotator(session, RATER, proxy=True)
    import_files(
        job,
        {
            "staging": staging.name,
            "files": [[path.name, path.name] for path in sorted(staging.iterdir())],
            "collection": "Sample library", "role": "pool",
        },
        project.id,
        queue_embedding=False,
        in_order=True,  # draws go by the ids: so the sample is the same every time
    )  # fmt: skip
    embeddings.embed_project(job, project.id, batch=BATCH)
    _expect(job, project)

    truth = _truth(job, samples)
    _first_round(job, project, rater, truth)
    made_by = f"job {job.claim.job_id}"
    first = _train(
        job, job.settings, project, f"{made_by}: first", FIRST_RECIPE,
        f"{FIRST_ROUND} scores of pictures drawn at random", job,
    )  # fmt: skip
    refit = _live_model(job.settings, job.engine, project)
    refit()
    _correct_slips(job, job.settings, project, rater, truth, first)
    _second_round(job, job.settings, project, rater, truth, first, refit, job)
    second = _train(
        job, job.settings, project, f"{made_by}: second", SECOND_RECIPE,
        "slips corrected, and what the Mixed queue asked for", job,
    )  # fmt: skip
    return {
        "project_id": project.id,
        "project": PROJECT,
        "versions": f"{first.number} and {second.number}",
    }


def _expect(transactions: Transactions, project: Project) -> None:
    """State what some tags should score on average, as their slices' expectations."""
    with transactions.writing() as session:
        project = projects.get(session, project.id)
        if slices.listing(session, project):
            return
        for tag, bound, value in EXPECTED:
            row = slices.add(session, project, "tag", {"tag": tag})
            expectations.expect(session, project, row.id, "mean", bound, value)


def _truth(transactions: Transactions, samples: list[Sample]) -> dict[int, int]:
    """Image id -> the rater's score, in the order of the file names."""
    wanted = {sample.path.name: sample.score for sample in samples}
    with transactions.reading() as session:
        rows = session.execute(
            select(Image.id, Image.name)
            .where(col(Image.name).in_(wanted))
            .order_by(col(Image.name))
        )
        return {image_id: wanted[name] for image_id, name in rows}


def _first_round(
    transactions: Transactions, project: Project, rater: Annotator, truth: dict[int, int]
) -> None:
    """Pictures drawn at random from either side of the hold-out are scored; a few keys are missed
    by far, among those that train."""
    random = np.random.default_rng(project.seed)
    with transactions.writing() as session:
        project = projects.get(session, project.id)
        if scores.highest_event(session, project):
            return
        groups = dict(session.execute(select(Image.id, Image.source_group)).all())
        drawn = random.permutation(list(truth)).tolist()
        held = [i for i in drawn if projects.on_holdout_side(project, groups[i])]
        trains = [i for i in drawn if not projects.on_holdout_side(project, groups[i])]
        given = truth | _slips(trains[:FIRST_ROUND], truth, FIRST_SLIPS)
        for image_id in held[:HELD_OUT] + trains[:FIRST_ROUND]:
            scores.record(
                session, project, image_id, rater, "set", given[image_id],
                origin=scores.Origin.CONTROL, reason=reasons.CONTROL,
            )  # fmt: skip


def _slips(scored: list[int], truth: dict[int, int], count: int) -> dict[int, int]:
    """Of the pictures that are scored, the first few with a clear score, scored the wrong way
    round."""
    clear = [image_id for image_id in scored if abs(truth[image_id] - 5) >= 3]
    return {image_id: 10 - truth[image_id] for image_id in clear[:count]}


def _correct_slips(
    transactions: Transactions,
    settings: Settings,
    project: Project,
    rater: Annotator,
    truth: dict[int, int],
    first: Version,
) -> None:
    """Look through the review lists and mend what was mistyped in the first round."""
    with transactions.writing() as session:
        project = projects.get(session, project.id)
        if _labelled_since(session, project, first):
            return
        for kind in reviews.REVIEWS:
            page = reviews.review(session, settings, project, rater, kind)
            for card in page.cards:
                if card.label is not None and abs(card.label - truth[card.image_id]) >= 2:
                    scores.record(
                        session, project, card.image_id, rater, "set", truth[card.image_id],
                        origin=scores.Origin.REVIEW, reason=card.reason,
                    )  # fmt: skip


def _live_model(settings: Settings, engine: Engine, project: Project) -> Callable[[], object]:
    """What refits it, with the images held in memory from one time to the next."""
    # It loads scipy: not for the web process, which imports this module.
    from tastemaker.live import model_process

    state = model_process.ProjectState()
    return lambda: model_process.refit(settings, engine, project.id, state)


def _second_round(
    transactions: Transactions,
    settings: Settings,
    project: Project,
    rater: Annotator,
    truth: dict[int, int],
    first: Version,
    refit: Callable[[], object],
    report: Progress,
) -> None:
    """The rater scores what the Mixed queue offers, a batch at a time; in the first one some keys
    are missed, and nobody has looked yet."""
    report.stage("Scoring what the Mixed queue asks", SECOND_ROUND)
    with transactions.reading() as session:
        scored = _labelled_since(session, project, first)
    while scored < SECOND_ROUND:
        refit()
        with transactions.writing() as session:
            project = projects.get(session, project.id)
            n = min(20, SECOND_ROUND - scored)
            cards = queues.next_cards(session, settings, project, rater, "mixed", n)
            asked = [card.image_id for card in cards if card.origin != scores.Origin.CONTROL]
            given = truth | _slips(asked, truth, SECOND_SLIPS if scored == 0 else 0)
            for card in cards:
                scores.record(
                    session, project, card.image_id, rater, "set", given[card.image_id],
                    origin=card.origin, reason=card.reason,
                )  # fmt: skip
        if not cards:
            return
        scored += len(cards)
        report.progress(scored)


def _labelled_since(session: Session, project: Project, version: Version) -> int:
    """How many images have a label that had none when the version was trained."""
    now = scores.highest_event(session, project)
    before, after = (scores.labels_at(session, project, at) for at in (version.event_high, now))
    return len(after.keys() - before.keys())


def _train(
    transactions: Transactions,
    settings: Settings,
    project: Project,
    made_by: str,
    recipe: tuple[str, dict[str, Any]],
    note: str,
    report: Progress,
) -> Version:
    with transactions.reading() as session:
        event_high = scores.highest_event(session, project)
    name, changed = recipe
    request = retrain.Request(
        project.id, made_by=made_by, event_high=event_high, seed=project.seed, recipe=name,
        note=note, changed=changed,
    )  # fmt: skip
    return retrain.train_and_publish(transactions, settings, request, report=report)
