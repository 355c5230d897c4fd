"""The lists of Review against what they mean, and the plans that keep them quick."""

import numpy as np
import pytest
from sqlalchemy import Engine
from sqlalchemy.dialects import sqlite
from sqlmodel import Session

from tastemaker import projects, scores
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.tables import EncoderRow, Prediction, RemovedImage, Version
from tastemaker.errors import Invalid
from tastemaker.live import live_model
from tastemaker.live.live_model import (
    LISTED,
    ErrorLists,
    FitSummary,
    LiveModel,
    Pick,
    PickLists,
)
from tastemaker.queues import rereview, reviews
from tests.conftest import add_images


class Wrong:
    """Sixty labels, and a version that is wrong about many of them: the facts as plain arrays."""

    def __init__(self, settings: Settings, engine: Engine, count: int = 60) -> None:
        self.settings, self.engine = settings, engine
        random = np.random.default_rng(5)
        self.value = random.integers(0, 11, count)
        self.said = random.random(count).round(3)
        self.honest = np.where(random.random(count) < 0.5, random.random(count).round(3), np.nan)
        self.uncertainty = np.where(random.random(count) < 0.1, 0.0, random.random(count))
        with sessions.writing(engine) as session:
            encoder = EncoderRow(fingerprint="f", name="drawn", dim=4)
            session.add(encoder)
            session.flush()
            self.project = projects.create(session, "Wrong", threshold=0.4, holdout_share=0.3)
            self.me = projects.annotator(session, "me")
            self.ids = [image.id for image in add_images(session, count, project=self.project)]
            for image_id, value in zip(self.ids, self.value.tolist(), strict=True):
                scores.record(session, self.project, image_id, self.me, "set", value)
            self.version = Version(
                project_id=self.project.id, state="ready", active=True, made_by="test",
                encoder_id=encoder.id, event_high=scores.highest_event(session, self.project),
            )  # fmt: skip
            session.add(self.version)
            session.flush()
            session.add_all(
                Prediction(
                    version_id=self.version.id, image_id=image_id, score=self.said[i],
                    out_of_fold=None if np.isnan(self.honest[i]) else self.honest[i],
                    uncertainty=self.uncertainty[i],
                )
                for i, image_id in enumerate(self.ids)
            )  # fmt: skip
            labels = scores.labels_at(session, self.project, self.version.event_high)
            self.held_out = {i for i, label in labels.items() if label.holdout}

    def expected(self, kind: str, by: str = "evidence") -> list[int]:
        """Image ids in the order of the list, from the arrays alone."""
        said = np.where(np.isnan(self.honest), self.said, self.honest)
        passes, should = said >= 0.4, self.value >= 4
        wrong = passes & ~should if kind == "false-positives" else ~passes & should
        with np.errstate(divide="ignore"):
            rank = np.abs(said - self.value / 10) / self.uncertainty
        if by == "confidence":
            rank = np.abs(said - 0.4)
        order = sorted(np.flatnonzero(wrong).tolist(), key=lambda i: (-rank[i], self.ids[i]))
        return [self.ids[i] for i in order if self.ids[i] not in self.held_out]

    def review(
        self, kind: str, after: str = "", n: int = 48, order: str = "evidence"
    ) -> reviews.Review:
        with sessions.reading(self.engine) as session:
            return reviews.review(
                session, self.settings, self.project, self.me, kind, after=after, n=n, order=order
            )


@pytest.mark.parametrize("order", ["evidence", "confidence"])
@pytest.mark.parametrize("kind", ["false-positives", "false-negatives"])
def test_mistakes_are_listed_in_their_order_page_by_page(
    settings: Settings, engine: Engine, kind: str, order: str
) -> None:
    made = Wrong(settings, engine)
    expected, seen, after = made.expected(kind, order), [], ""
    assert len(expected) > 5
    while True:
        page = made.review(kind, after, n=3, order=order)
        assert page.labelled == len(expected)
        seen += [card.image_id for card in page.cards]
        after = page.next
        if not after:
            break
    assert seen == expected


def test_what_was_looked_at_since_the_training_leaves_the_list_and_is_counted(
    settings: Settings, engine: Engine
) -> None:
    made = Wrong(settings, engine)
    first, second, third = made.expected("false-positives")[:3]
    with sessions.writing(engine) as session:
        scores.record(session, made.project, first, made.me, "set", 1, origin="review")
        scores.record(session, made.project, second, made.me, "set", 1)  # no second look
        session.add(RemovedImage(project_id=made.project.id, image_id=third))
    page = made.review("false-positives")
    listed = [card.image_id for card in page.cards]
    assert first not in listed and second in listed and third not in listed
    assert (page.reviewed, page.labelled) == (1, len(made.expected("false-positives")) - 2)
    with sessions.writing(engine) as session:
        scores.undo(session, made.project, made.me)
        scores.undo(session, made.project, made.me)
    assert made.review("false-positives").cards[0].image_id == first


@pytest.mark.sqlite
def test_mistakes_are_looked_up_from_the_labels(settings: Settings, engine: Engine) -> None:
    """Twenty thousand labels are walked, never a million predictions; and what is settled is
    gathered once, not looked for at every label. The plan is SQLite's."""
    made = Wrong(settings, engine, 5)
    with sessions.reading(engine) as session:
        for kind in ("false-positives", "false-negatives"):
            plan = plan_of(session, reviews.wrong_labels(made.project, made.version, kind))
            assert any("label USING" in step for step in plan), plan
            assert any(
                "prediction USING" in step and "(version_id=? AND image_id=?)" in step
                for step in plan
            ), plan


@pytest.mark.sqlite
def test_what_is_settled_of_a_few_images_is_looked_up_by_them(
    settings: Settings, engine: Engine
) -> None:
    """Not by a walk over all that was said since the training, once for every 32 images. The
    plan is SQLite's."""
    made = Wrong(settings, engine, 5)
    with sessions.reading(engine) as session:
        plan = plan_of(session, rereview.rereviews(session, made.project, list(range(1, 33))))
    assert any("ix_score_event_image (project_id=? AND image_id=?)" in step for step in plan), plan


def plan_of(session: Session, statement: object) -> list[str]:
    text = str(
        statement.compile(  # type: ignore[attr-defined]
            dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}
        )
    )
    rows = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {text}")
    return [row[3] for row in rows]


def test_a_list_that_may_be_cut_short_says_so(settings: Settings, engine: Engine) -> None:
    """The live model lists no more than so many suspects: the count is then “200+”."""
    made = Wrong(settings, engine)
    for listed in (LISTED - 1, LISTED):
        picks = tuple(Pick(i, "suspected_fp", 0.9, 0.1, probability=0.9) for i in range(listed))
        lists = PickLists(suspected=ErrorLists(picks, ()))
        rows = np.zeros(0, live_model.LIVE_ROW)
        fit = FitSummary(event_high=1, labels=60, noise=0.1, penalty=1.0, errors=(), seconds=0.1)
        live_model.write_live(settings, made.project.id, LiveModel(rows, fit, lists))
        assert made.review("false-positives").capped == (listed == LISTED)
        assert not made.review("false-negatives").capped


def test_an_order_that_there_is_not_is_named(settings: Settings, engine: Engine) -> None:
    with pytest.raises(Invalid, match="no order “age”"):
        Wrong(settings, engine).review("false-positives", order="age")
