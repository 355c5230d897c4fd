"""Audits: a version's filter is tried on images it never learned from, scored blind; what it
promises is on the page, in the API, in the tables and on the card."""

from pathlib import Path

import numpy as np
import pytest
from sqlmodel import col, select
from trained_world import Trained, open_trained, taste, trained_home, vectors

from tastemaker import projects, queues, scores, versions
from tastemaker.database import sessions
from tastemaker.database.tables import (
    Audit,
    AuditImage,
    Embedding,
    Image,
    Label,
    Prediction,
    ScoreEvent,
    VersionLabel,
)
from tastemaker.errors import Conflict, Invalid, NotFound
from tastemaker.evaluation import audit_reports, audits
from tastemaker.evaluation.audit_reports import AuditReport
from tastemaker.evaluation.audits import Target, Terms
from tastemaker.library.filters import LibraryFilter

TERMS = Terms(cut=0.6, good_from=6, seed=1)


@pytest.fixture
def home(tmp_path: Path) -> Trained:
    """“Anime” with v1.0, and 400 images that it has predicted and nobody scored."""
    home = open_trained(trained_home(tmp_path / "home"))
    later = home.add(400, "Later", "pool", seed=11)
    truth = taste(vectors(400, 11)) / 10
    with sessions.writing(home.engine) as session:
        version = versions.by_number(session, home.project(session), "active")
        for image_id, score in zip(later, truth, strict=True):
            session.add(
                Prediction(
                    version_id=version.id, image_id=image_id, score=float(score), uncertainty=0.05
                )
            )
    return home


def begin(home: Trained, terms: Terms = TERMS, **target: object) -> int:
    with sessions.writing(home.engine) as session:
        project = home.project(session)
        version = versions.by_number(session, project, "active")
        person = projects.annotator(session, home.settings.annotator)
        chosen = Target(**target) if target else Target(filter=LibraryFilter())  # type: ignore[arg-type]
        return audits.start(session, home.settings, project, version, person, chosen, terms).id


def told(home: Trained, audit_id: int) -> AuditReport:
    with sessions.reading(home.engine) as session:
        return audit_reports.get(session, home.project(session), audit_id)


def answer(home: Trained, audit_id: int, keys: int, *, good: bool | None = None) -> list[int]:
    """Score the next so many as the Score page does: by taste, or all good or bad."""
    by_image = dict(zip(ids_of(home, "Later"), taste(vectors(400, 11)).tolist(), strict=True))
    answered = []
    with sessions.writing(home.engine) as session:
        project = home.project(session)
        person = projects.annotator(session, home.settings.annotator)
        cards = queues.next_cards(
            session, home.settings, project, person, "audit", n=keys, collection_id=audit_id
        )
        for card in cards:
            value = by_image[card.image_id] if good is None else 8 if good else 2
            scores.record(
                session, project, card.image_id, person, "set", value, offer=card.offer,
                expected=card.event_id,
            )  # fmt: skip
            answered.append(card.image_id)
    return answered


def ids_of(home: Trained, collection: str) -> list[int]:
    with sessions.reading(home.engine) as session:
        named = select(Image.id).where(col(Image.name).startswith(f"{collection}-"))
        return list(session.exec(named.order_by(col(Image.id))))


# --- the act -------------------------------------------------------------------------------------


def test_what_is_drawn_was_not_learned_from_and_is_asked_blind(home: Trained) -> None:
    audit = begin(home)
    report = told(home, audit)
    truth = taste(vectors(400, 11)) / 10
    assert (report.kept.size, report.below.size) == ((truth >= 0.6).sum(), (truth < 0.6).sum())
    assert report.audit.population["learned"] > 0
    with sessions.reading(home.engine) as session:
        drawn = set(session.exec(select(AuditImage.image_id)))
        project = home.project(session)
        person = projects.annotator(session, home.settings.annotator)
        (card,) = queues.next_cards(
            session, home.settings, project, person, "audit", n=1, collection_id=audit
        )
    assert drawn <= set(ids_of(home, "Later"))
    assert (card.blind, card.label, card.reason) == (True, None, "drawn at random for an audit")


def test_answers_make_a_promise_and_an_undo_takes_its_share_back(home: Trained) -> None:
    audit = begin(home)
    assert told(home, audit).verdict == "open"
    assert "Nothing is scored yet. About " in audit_reports.headline(told(home, audit))
    answer(home, audit, 80)
    report = told(home, audit)
    assert (report.verdict, report.answered, report.kept.good) == ("promised", 80, 64)
    assert audit_reports.headline(report).startswith(f"Kept {report.kept.size}: at least 9"), (
        audit_reports.headline(report)
    )
    with sessions.writing(home.engine) as session:
        project = home.project(session)
        scores.undo(session, project, projects.annotator(session, home.settings.annotator))
    assert told(home, audit).answered == 79


def test_answers_are_labels_and_a_later_version_may_learn_while_the_promise_stands(
    home: Trained,
) -> None:
    audit = begin(home)
    mine = answer(home, audit, 60)
    before = audit_reports.as_json(told(home, audit))
    with sessions.reading(home.engine) as session:
        labels = session.exec(select(Label).where(col(Label.image_id).in_(mine))).all()
        origins = session.exec(
            select(ScoreEvent.origin).where(col(ScoreEvent.image_id).in_(mine))
        ).all()
    assert len(labels) == 60 and set(origins) == {"audit"}
    assert not any(label.measures for label in labels), "they are no random sample of the pool"
    assert home.train().number == "v1.1"
    assert audit_reports.as_json(told(home, audit)) == before
    with sessions.writing(home.engine) as session:  # corrected with the prediction in sight
        project = home.project(session)
        person = projects.annotator(session, home.settings.annotator)
        scores.record(session, project, mine[0], person, "set", 0, origin="review")
    assert audit_reports.as_json(told(home, audit)) == before
    second = begin(home)  # by v1.1, which learned from those images
    with sessions.reading(home.engine) as session:
        drawn = set(session.exec(select(AuditImage.image_id).where(AuditImage.audit_id == second)))
        newest = versions.by_number(session, home.project(session), "v1.1")
        known = select(VersionLabel.image_id).where(
            VersionLabel.version_id == newest.id, VersionLabel.side != "aside"
        )
        learned = set(session.exec(known))
    assert len(learned & set(mine)) > 40 and not drawn & learned


def test_answers_of_one_audit_count_in_the_next_and_nobody_elses_do(home: Trained) -> None:
    first = begin(home)
    answer(home, first, 50)
    second = begin(home, Terms(cut=0.6, good_from=6, seed=1))
    assert told(home, second).answered == 50
    with sessions.writing(home.engine) as session:
        project = home.project(session)
        other = projects.annotator(session, "Anna")
        nothing = queues.next_cards(
            session, home.settings, project, other, "audit", n=3, collection_id=first
        )
        with pytest.raises(NotFound, match="no such audit"):
            queues.next_cards(
                session, home.settings, project, other, "audit", n=3, collection_id=99
            )
    assert nothing == []


def test_an_answer_out_of_turn_waits_until_those_before_it_are_given(home: Trained) -> None:
    audit = begin(home)
    with sessions.writing(home.engine) as session:
        project = home.project(session)
        person = projects.annotator(session, home.settings.annotator)
        kept = session.exec(
            select(AuditImage.image_id)
            .where(AuditImage.audit_id == audit, AuditImage.score >= 0.6)
            .order_by(col(AuditImage.position))
        ).all()
        scores.record(session, project, kept[1], person, "set", 7, origin="audit")
    assert told(home, audit).kept.asked == 0
    with sessions.writing(home.engine) as session:
        scores.record(session, home.project(session), kept[0], person, "skip", origin="audit")
    report = told(home, audit)
    assert (report.kept.asked, report.kept.answered, report.skipped) == (2, 1, 1)


# --- refusals ------------------------------------------------------------------------------------


def test_an_audit_that_would_tell_nothing_is_refused_with_the_reason(home: Trained) -> None:
    with pytest.raises(Conflict, match=r"Only \d+ of 400 images pass at 10.0 by v1.0"):
        begin(home, Terms(cut=1.0, good_from=6))
    with pytest.raises(NotFound, match="no such test run"):
        begin(home, test_run=7)
    with pytest.raises(Invalid, match="one of a test run"):
        begin(home, test_run=7, filter=LibraryFilter())
    for wrong in (Terms(0, 6), Terms(float("nan"), 6), Terms(0.6, 11), Terms(0.6, 6, goal=1)):
        with pytest.raises(Invalid):
            begin(home, wrong)


def test_images_of_another_kind_are_refused(home: Trained) -> None:
    """The training set lies close together; what is to be audited, anywhere."""
    random = np.random.default_rng(3)
    with sessions.writing(home.engine) as session:
        version = versions.by_number(session, home.project(session), "active")
        learned = session.exec(select(VersionLabel.image_id)).all()
        for row in session.exec(select(Embedding).where(col(Embedding.image_id).in_(learned))):
            near = 1 + random.normal(0, 0.1, len(row.vector) // 2)
            row.vector = near.astype("<f2").tobytes()
            session.add(row)
        assert version.encoder_id == row.encoder_id
    with pytest.raises(Conflict, match=r"unlike everything that v1\.0 learned from"):
        begin(home)


def test_a_version_that_is_the_wrong_way_round_gets_no_promise(home: Trained) -> None:
    with sessions.writing(home.engine) as session:
        for row in session.exec(
            select(Prediction).where(col(Prediction.image_id).in_(ids_of(home, "Later")))
        ):
            row.score = 1 - row.score
            session.add(row)
    audit = begin(home)
    answer(home, audit, 60)
    report = told(home, audit)
    assert report.verdict == "refused"
    assert "it is the wrong way round" in audit_reports.headline(report)
    assert audit_reports.stricter(report) == ""


# --- a table -------------------------------------------------------------------------------------


def test_a_deleted_version_takes_its_audits_along_and_the_scores_stay(home: Trained) -> None:
    from tastemaker.versions import deletion

    audit = begin(home)
    answer(home, audit, 5)
    home.train()
    old = home.version("v1.0")
    with sessions.writing(home.engine) as session:
        versions.activate(session, versions.by_number(session, home.project(session), "v1.1"))
        words = deletion.what_goes(session, old).in_words()
    assert words.endswith("predictions and 1 audit")
    deletion.delete_version(home.settings, home.engine, old.id)
    with sessions.reading(home.engine) as session:
        assert session.exec(select(Audit)).all() == []
        assert session.exec(select(AuditImage)).all() == []
        kept = session.exec(select(ScoreEvent).where(ScoreEvent.origin == "audit")).all()
    assert len(kept) == 5
