"""The sample project: real photographs, a scripted rater, two versions, every page full.

It goes through the loop as a person would. The rater scores pictures drawn at random (with a few
slips of the finger), v1.0 is trained, the review queues show the slips, which are corrected, the
Mixed queue asks for more, v1.1 is trained. A part stays unscored: that is for the visitor.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from sqlalchemy import Engine
from sqlmodel import Session, col, select

from tastemaker import embeddings, jobs, projects, queues, scores
from tastemaker.config import Settings
from tastemaker.database.sessions import Transactions
from tastemaker.database.tables import Annotator, Image, Job, Project
from tastemaker.evaluation import expectations, slices
from tastemaker.files import require_free_space
from tastemaker.importing.imports import import_files
from tastemaker.jobs.context import JobContext
from tastemaker.jobs.progress import Progress
from tastemaker.queues import reasons, reviews
from tastemaker.sample.samples import Sample, make_sample_library
from tastemaker.training import retrain

PROJECT = "Sample"
RATER = "scripted rater"
PICTURES = 320
# The hold-out is drawn by photograph, not by picture: with twenty photographs, a tenth would be two
# of them, and say nothing. Seed and share were chosen after looking at the numbers of many: most
# draws of six photographs hold out a subject that the others say nothing about. So the sample's
# numbers show what the pages look like; they are no evidence of how well the program learns.
HOLDOUT_SHARE = 0.4
SEED = 58
FIRST_ROUND, SECOND_ROUND, SLIPS = 150, 80, 8
# One version of each way of learning that these few labels bear, and that is quick: a line, solved
# in closed form, then a small network that sets out from a line and has a loss curve to show. What
# the visitor trains goes by the project's own recipe.
FIRST_RECIPE: tuple[str, dict[str, Any]] = ("ridge", {})
SECOND_RECIPE: tuple[str, dict[str, Any]] = ("mlp", {"passes": 20})
BATCH = 8  # pictures encoded at once: the size is in the last bits of a vector, so it is not probed

# What the author of such a project would write in its model card, and hold every version to.
CARD = {
    "goals": "Pick the photographs worth keeping: a clean picture of a subject one likes to look "
    "at. A few good ones may be lost, but what passes should be worth a look.",
    "biases": "- Against damage of any kind: blur, noise, JPEG blocks, wrong exposure, writing\n"
    "- Against pages of text and microscope pictures, however clean\n"
    "- For portraits, animals and space",
    "issues": "- It has seen some twenty photographs in many variants; a subject that is not among "
    "them may surprise it\n- Its rater is a formula with noise, not a person\n- Which photographs "
    "are held out was chosen so that the sample's numbers look ordinary: they prove nothing",
    "scope": "A sample that shows how the program works. It says nothing about anybody's taste.",
}
EXPECTED = (
    ("document", "at most", 0.35),
    ("noise", "at most", 0.45),
    ("original", "at least", 0.4),
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
    staging = job.settings.incoming / f"samples-{job.claim.job_id}"
    job.stage("Making the sample pictures", PICTURES)
    samples = make_sample_library(staging, PICTURES, job.progress, seed=SEED)
    with job.writing() as session:
        project = projects.find(session, PROJECT) or projects.create(
            session, PROJECT, holdout_share=HOLDOUT_SHARE
        )
        project.seed, project.card = SEED, project.card or CARD
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
        "scores of pictures drawn at random", job,
    )  # fmt: skip
    refit = _live_model(job.settings, job.engine, project)
    refit()
    _correct_slips(job, job.settings, project, rater, truth)
    _second_round(job, job.settings, project, rater, truth, refit, job)
    second = _train(
        job, job.settings, project, f"{made_by}: second", SECOND_RECIPE,
        "slips corrected, and what the Mixed queue asked for", job,
    )  # fmt: skip
    return {"project_id": project.id, "project": PROJECT, "versions": f"{first} and {second}"}


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
    """Pictures drawn at random are scored; a few keys are missed by far."""
    random = np.random.default_rng(SEED)
    drawn = random.permutation(list(truth))[:FIRST_ROUND].tolist()
    slips = set(drawn[:: FIRST_ROUND // SLIPS])
    with transactions.writing() as session:
        project = projects.get(session, project.id)
        if scores.highest_event(session, project):
            return
        for image_id in drawn:
            value = 10 - truth[image_id] if image_id in slips else truth[image_id]
            scores.record(
                session, project, image_id, rater, "set", value,
                origin=scores.Origin.CONTROL, reason=reasons.CONTROL,
            )  # fmt: skip


def _correct_slips(
    transactions: Transactions,
    settings: Settings,
    project: Project,
    rater: Annotator,
    truth: dict[int, int],
) -> None:
    """Look through the review lists and mend what was mistyped."""
    with transactions.writing() as session:
        project = projects.get(session, project.id)
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
    refit: Callable[[], object],
    report: Progress,
) -> None:
    """The rater scores what the Mixed queue offers, a batch at a time."""
    report.stage("Scoring what the Mixed queue asks", SECOND_ROUND)
    with transactions.reading() as session:
        scored = _labelled(session, project) - FIRST_ROUND
    while scored < SECOND_ROUND:
        refit()
        with transactions.writing() as session:
            project = projects.get(session, project.id)
            n = min(20, SECOND_ROUND - scored)
            cards = queues.next_cards(session, settings, project, rater, "mixed", n)
            for card in cards:
                scores.record(
                    session, project, card.image_id, rater, "set", truth[card.image_id],
                    origin=card.origin, reason=card.reason,
                )  # fmt: skip
        if not cards:
            return
        scored += len(cards)
        report.progress(scored)


def _labelled(session: Session, project: Project) -> int:
    return len(scores.labels_at(session, project, scores.highest_event(session, project)))


def _train(
    transactions: Transactions,
    settings: Settings,
    project: Project,
    made_by: str,
    recipe: tuple[str, dict[str, Any]],
    note: str,
    report: Progress,
) -> str:
    with transactions.reading() as session:
        event_high = scores.highest_event(session, project)
    name, changed = recipe
    request = retrain.Request(
        project.id, made_by=made_by, event_high=event_high, seed=SEED, recipe=name, note=note,
        changed=changed,
    )  # fmt: skip
    return retrain.train_and_publish(transactions, settings, request, report=report).number
