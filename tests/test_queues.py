"""What is shown next, and why: nothing twice, nothing held out, everything in the end."""

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from sqlalchemy import Engine
from sqlmodel import col, delete, func, select

from tastemaker import embeddings, images, projects, queues, scores, versions
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.migration import migrate
from tastemaker.database.tables import Annotator, CollectionImage, Image, Label, Prediction
from tastemaker.errors import NotFound
from tastemaker.learning.ridge import fit_ridge, half_scale
from tastemaker.live import live_model, model_process
from tastemaker.live.live_model import Pick, Why
from tastemaker.live.project_state import ProjectState
from tastemaker.queues import reasons, reviews
from tastemaker.sample.demo import RATER
from tests.conftest import add_images

MISTAKES = ("false-positives", "false-negatives")


class Sitting:
    """The sample project, the person who scores it, and what a page would ask."""

    def __init__(self, root: Path) -> None:
        self.settings = Settings(home=root, min_free_gb=0, _env_file=None)  # type: ignore[call-arg]
        self.engine: Engine = migrate(self.settings)
        with sessions.writing(self.engine) as session:
            self.project = projects.by_name(session, "Sample")
            self.me = projects.annotator(session, "me")

    def next(self, queue: str = "mixed", n: int = 5, exclude: set[int] | None = None) -> list:  # type: ignore[type-arg]
        with sessions.reading(self.engine) as session:
            return queues.next_cards(
                session, self.settings, self.project, self.me, queue, n, exclude or ()
            )

    def review(self, kind: str, **more: Any) -> reviews.Review:
        with sessions.reading(self.engine) as session:
            return reviews.review(session, self.settings, self.project, self.me, kind, **more)

    def say(
        self, image_id: int, value: int | None, kind: str = "set", origin: str = "queue"
    ) -> int:
        with sessions.writing(self.engine) as session:
            return scores.record(
                session, self.project, image_id, self.me, kind, value, origin=origin
            ).event.id

    def refit(self, seen: ProjectState | None = None) -> None:
        model_process.refit(self.settings, self.engine, self.project.id, seen)

    def held_out(self) -> set[int]:
        with sessions.reading(self.engine) as session:
            return {
                image.id
                for image in session.exec(select(Image))
                if projects.on_holdout_side(self.project, image.source_group)
            }

    def open(self) -> set[int]:
        """Pool images without a label."""
        with sessions.reading(self.engine) as session:
            pool = set(session.exec(projects.image_ids(self.project.id, "pool")))
            return pool - set(session.exec(select(Label.image_id)))


@pytest.fixture(scope="module")
def template(sample_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample project with most of its scores taken back: much to show."""
    root = tmp_path_factory.mktemp("queues") / "home"
    shutil.copytree(sample_home, root)
    sitting = Sitting(root)
    with sessions.writing(sitting.engine) as session:
        rater = projects.annotator(session, RATER)
        while projects.pool_size(session, sitting.project, unlabelled=True) < 260:
            scores.undo(session, sitting.project, rater)
    sitting.refit()
    sitting.engine.dispose()
    return root


@pytest.fixture
def young(template: Path, tmp_path: Path) -> Iterator[Sitting]:
    shutil.copytree(template, tmp_path / "home")
    sitting = Sitting(tmp_path / "home")
    yield sitting
    sitting.engine.dispose()


@pytest.fixture
def grown(sample: Path) -> Iterator[Sitting]:
    """The sample project with its two versions, and some labels that they must think wrong."""
    sitting = Sitting(sample)
    with sessions.writing(sitting.engine) as session:
        version = versions.active(session, sitting.project)
        assert version is not None
        by_score = session.exec(
            select(Prediction.image_id)
            .join(Label, col(Label.image_id) == Prediction.image_id)
            .where(Prediction.version_id == version.id, ~col(Label.holdout))
            .order_by(func.coalesce(Prediction.out_of_fold, Prediction.score))
        ).all()
        for value, wrong in ((9, by_score[:15]), (1, by_score[-15:])):
            for image_id in wrong:
                scores.record(session, sitting.project, image_id, sitting.me, "set", value)
    sitting.refit()
    yield sitting
    sitting.engine.dispose()


# --- scoring -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_whole_sitting_shows_every_image_once_and_the_held_out_ones_only_by_chance(
    young: Sitting,
) -> None:
    with sessions.writing(young.engine) as session:  # a smaller pool, for the sake of time
        session.execute(delete(CollectionImage).where(col(CollectionImage.image_id) % 2 == 0))
    seen = ProjectState()
    young.refit(seen)
    held_out, to_show = young.held_out(), young.open()
    shown: Counter[int] = Counter()
    origins: Counter[str] = Counter()
    waiting: list[queues.Card] = []  # on their way to the page already
    random = np.random.default_rng(5)
    while True:
        waiting += young.next(n=4 - len(waiting), exclude={card.image_id for card in waiting})
        if not waiting:
            break
        card = waiting.pop(0)
        shown[card.image_id] += 1
        origins[card.origin] += 1
        assert card.reason and card.queue == "mixed" and card.label is None
        assert (card.origin == "control") == (card.reason == "random sample (for evaluation)")
        if card.image_id in held_out:
            assert card.origin == "control"
        if sum(shown.values()) % 11 == 0:
            young.say(card.image_id, None, "skip")
        else:
            young.say(card.image_id, int(random.integers(0, 11)), origin=card.origin)
        if sum(shown.values()) % 30 == 0:
            young.refit(seen)
    assert set(shown) == to_show, "the pool is empty at the end, skipped ones included"
    assert shown.most_common(1)[0][1] == 1, "no image came twice"
    assert origins["queue"] > 0 and origins["control"] > 0
    assert young.next("random") == []


@pytest.mark.parametrize("queue", ["mixed", "random"])
def test_what_is_on_its_way_is_not_offered_again(young: Sitting, queue: str) -> None:
    first = {card.image_id for card in young.next(queue, 30)}
    second = {card.image_id for card in young.next(queue, 30, exclude=first)}
    assert len(first) == len(second) == 30 and not first & second
    assert {card.image_id for card in young.next(queue, 30)} == first, "asking changes nothing"


def test_excluding_everything_leaves_nothing_and_asking_for_all_gives_all(young: Sitting) -> None:
    to_show = young.open()
    assert young.next(exclude=to_show) == []
    (last,) = sorted(to_show)[:1]
    assert [card.image_id for card in young.next("random", exclude=to_show - {last})] == [last]
    cards = young.next("mixed", n=10_000)
    assert sorted(card.image_id for card in cards) == sorted(to_show)


def test_a_skipped_image_is_gone_for_the_one_who_skipped_it_until_it_is_undone(
    young: Sitting,
) -> None:
    image_id = young.next()[0].image_id
    young.say(image_id, None, "skip")
    everything = {card.image_id for card in young.next(n=10_000)}
    assert image_id not in everything
    me, young.me = young.me, other(young, "somebody else")
    assert image_id in {card.image_id for card in young.next(n=10_000)}
    young.me = me
    with sessions.writing(young.engine) as session:
        scores.undo(session, young.project, me)
    assert image_id in {card.image_id for card in young.next(n=10_000)}


def other(sitting: Sitting, name: str) -> Annotator:
    with sessions.writing(sitting.engine) as session:
        return projects.annotator(session, name)


def test_a_person_s_score_takes_an_image_off_everybody_s_queue(young: Sitting) -> None:
    image_id = young.next()[0].image_id
    young.say(image_id, 5)
    young.me = other(young, "somebody else")
    assert image_id not in {card.image_id for card in young.next(n=10_000)}


def test_the_random_queue_draws_from_both_sides_and_from_everywhere(young: Sitting) -> None:
    to_show, held_out = young.open(), young.held_out()
    drawn = [card.image_id for card in young.next("random", n=10_000)]
    assert sorted(drawn) == sorted(to_show)
    ranks = np.argsort(np.argsort(drawn))
    trend = np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]
    assert abs(trend) < 0.3, "the order of arrival must not show through"
    early = np.mean([image_id in held_out for image_id in drawn[: len(drawn) // 2]])
    late = np.mean([image_id in held_out for image_id in drawn[len(drawn) // 2 :]])
    assert abs(early - late) < 0.25


def test_cards_carry_the_live_model_s_view_and_the_event_to_build_on(young: Sitting) -> None:
    card = young.next()[0]
    live = live_model.read_live(young.settings, young.project.id)
    assert live is not None
    assert (card.prediction, card.uncertainty) == live.of(card.image_id)
    assert card.predicted_by == "live model" and card.event_id == 0 and card.has_pixels
    event = young.say(card.image_id, 7)
    with sessions.reading(young.engine) as session:
        after = queues.card_for(session, young.settings, young.project, young.me, card.image_id)
    assert (after.label, after.event_id) == (7, event)


def test_images_of_a_test_run_and_bare_vectors_are_not_for_scoring(
    settings: Settings, engine: Engine
) -> None:
    with sessions.writing(engine) as session:
        project = projects.create(session, "P")
        person = projects.annotator(session, "me")
        add_images(session, 3, "Tried on")
        pool = add_images(session, 3, "Pool")
        pool[0].kind = "vector"
        for name, role in (("Tried on", "test-run"), ("Pool", "pool")):
            found = images.find_collection(session, name)
            projects.add_collection(session, project, found, role)
        cards = queues.next_cards(session, settings, project, person, "mixed", 10)
        assert {card.image_id for card in cards} == {pool[1].id, pool[2].id}
        with pytest.raises(NotFound, match="no queue “best”"):
            queues.next_cards(session, settings, project, person, "best")


def test_an_image_in_two_collections_is_shown_once(settings: Settings, engine: Engine) -> None:
    with sessions.writing(engine) as session:
        project = projects.create(session, "P")
        person = projects.annotator(session, "me")
        (image,) = add_images(session, 1, "One")
        for name in ("One", "Two"):
            collection = images.collection_named(session, name)
            images.put_in_collection(session, collection.id, image.id)
            projects.add_collection(session, project, collection)
        cards = queues.next_cards(session, settings, project, person, "mixed", 10)
        assert [card.image_id for card in cards] == [image.id]
        assert projects.pool_size(session, project) == 1


# --- review ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MISTAKES)
def test_the_review_lists_exactly_the_labels_on_the_wrong_side_by_their_size(
    grown: Sitting, kind: str
) -> None:
    with sessions.writing(grown.engine) as session:  # some labels on the threshold itself
        labels = session.exec(select(Label).where(~col(Label.holdout)).limit(12)).all()
        for label in labels:
            scores.record(session, grown.project, label.image_id, grown.me, "set", 5)
    with sessions.reading(grown.engine) as session:
        version = versions.active(session, grown.project)
        assert version is not None
        labels = session.exec(select(Label)).all()
        said = {
            row.image_id: row
            for row in session.exec(select(Prediction).where(Prediction.version_id == version.id))
        }
    wrong = {}
    for label in labels:
        row = said[label.image_id]
        f = row.score if row.out_of_fold is None else row.out_of_fold
        y, t = label.value / 10, grown.project.threshold
        mistaken = y < t <= f if kind == "false-positives" else f < t <= y
        if mistaken and not label.holdout:
            wrong[label.image_id] = (-abs(f - y) / row.uncertainty, label.image_id)
    assert len(wrong) > 3
    page = grown.review(kind, n=10_000)
    listed = [card.image_id for card in page.cards[: page.labelled]]
    assert listed == sorted(wrong, key=wrong.__getitem__)
    assert page.version == version.number
    for card in page.cards[: page.labelled]:
        assert re.fullmatch(r"predicted [\d.]+, you said [\d.]+", card.reason)
        assert card.predicted_by == version.number and card.label is not None
    pages, after = [], ""
    while len(pages) < len(listed):
        part = grown.review(kind, after=after, n=2)
        pages += [card.image_id for card in part.cards]
        after = part.next
    assert pages[: len(listed)] == listed, "page by page it is the same list"


@pytest.mark.parametrize("kind", MISTAKES)
def test_nothing_held_out_is_ever_in_a_review_and_suspects_are_unlabelled(
    young: Sitting, kind: str
) -> None:
    page = young.review(kind, n=10_000)
    held_out, to_show = young.held_out(), young.open()
    assert page.suspected > 0
    assert not {card.image_id for card in page.cards} & held_out
    assert len({card.image_id for card in page.cards}) == len(page.cards)
    for card in page.cards[page.labelled :]:
        assert card.image_id in to_show and card.label is None
        assert card.predicted_by == "live model" and card.reason.startswith(
            ("likely ", "you scored a near-twin ")
        )
        assert card.origin == "review"


def test_a_corrected_or_confirmed_mistake_leaves_the_review_and_comes_back_when_undone(
    grown: Sitting,
) -> None:
    before = grown.review("false-positives", n=10_000)
    corrected, confirmed = before.cards[0], before.cards[1]
    assert before.labelled >= 2
    with sessions.writing(grown.engine) as session:
        for card, value in ((corrected, 9), (confirmed, int(confirmed.label or 0))):
            scores.record(
                session, grown.project, card.image_id, grown.me, "set", value, origin="review"
            )
    after = grown.review("false-positives", n=10_000)
    gone = {card.image_id for card in before.cards} - {card.image_id for card in after.cards}
    assert gone == {corrected.image_id, confirmed.image_id}
    assert (after.labelled, after.reviewed) == (before.labelled - 2, 1)
    for _ in range(2):
        with sessions.writing(grown.engine) as session:
            scores.undo(session, grown.project, grown.me)
    again = grown.review("false-positives", n=10_000)
    assert [c.image_id for c in again.cards] == [c.image_id for c in before.cards]


def test_a_suspect_that_was_scored_or_skipped_is_none_any_more(young: Sitting) -> None:
    page = young.review("false-negatives", n=10_000)
    scored, skipped = page.cards[page.labelled], page.cards[page.labelled + 1]
    young.say(scored.image_id, 9, origin="review")
    young.say(skipped.image_id, None, "skip", origin="review")
    left = {card.image_id for card in young.review("false-negatives", n=10_000).cards}
    assert not {scored.image_id, skipped.image_id} & left


def test_an_unknown_review_is_not_found(grown: Sitting) -> None:
    with pytest.raises(NotFound, match="no review “best”"):
        grown.review("best")


# --- the live model ----------------------------------------------------------------------------


def test_the_live_model_judges_a_label_by_a_fit_without_its_photograph(young: Sitting) -> None:
    live = live_model.read_live(young.settings, young.project.id)
    assert live is not None
    with sessions.reading(young.engine) as session:
        rows = session.execute(
            select(Label.image_id, Label.value, Image.source_group)
            .join(Image, col(Image.id) == Label.image_id)
            .where(~col(Label.holdout))
            .order_by(col(Label.image_id))
        ).all()
        assert young.project.encoder_id is not None
        _, vectors = embeddings.matrix(session, young.project.encoder_id, [row[0] for row in rows])
    x, y = vectors.astype(np.float32), np.array([value / 10 for _, value, _ in rows])
    groups = np.array([group for *_, group in rows])
    judged = np.array([live.of(image_id)[0] for image_id, *_ in rows])  # type: ignore[index]
    settled = {"link": "identity", "penalties": [live.fit.penalty], "scale": half_scale(x)}
    for group in np.unique(groups):
        inside = groups == group
        without = fit_ridge(x[~inside], y[~inside], groups[~inside], **settled)  # type: ignore[arg-type]
        assert np.allclose(judged[inside], without.predict(x[inside]), atol=1e-3)
    everything = fit_ridge(x, y, **settled)  # type: ignore[arg-type]
    assert np.abs(judged - everything.predict(x)).mean() > 0.02, "that would be another thing"


def test_the_live_model_notices_scores_new_vectors_and_a_moved_threshold(young: Sitting) -> None:
    watched: dict[int, ProjectState] = {}

    def refitted() -> bool:
        for seen in watched.values():
            seen.refitted_at = -1e9  # its rest is over
        before = (young.settings.live / "1.json").stat().st_ino
        model_process.poll(young.settings, young.engine, watched)
        return (young.settings.live / "1.json").stat().st_ino != before

    assert refitted() and not refitted()
    young.say(young.next()[0].image_id, 5)
    assert refitted() and not refitted()
    with sessions.writing(young.engine) as session:
        projects.change(session, projects.get(session, young.project.id), threshold=0.7)
    assert refitted() and not refitted()


@pytest.mark.parametrize(
    ("then", "beside_figures_of_now"),
    [
        ("most informative near the threshold: 4.4 ± 2.5", "most informative near the threshold"),
        ("near a boundary: photo 55 %, logo: old 40 %", "near a boundary"),
        ("no tag fits; likeliest: photo 20 %", "no tag fits"),
        ("predicted 7.1, you said 2", "you said 2"),
        ("flagged by Mira: 2 hands too many", "flagged by Mira: 2 hands too many"),
        (reasons.CONTROL, reasons.CONTROL),
        ("", ""),
    ],
)
def test_a_reason_of_that_time_brings_no_figures_of_that_time(
    then: str, beside_figures_of_now: str
) -> None:
    assert reasons.without_figures(then) == beside_figures_of_now


def test_reasons_are_words_for_a_person() -> None:
    pick = Pick(1, "threshold", score=0.78, uncertainty=0.1, label=9.0)
    assert reasons.describe(pick) == "close to your threshold"
    assert reasons.describe(replace(pick, why="teaching")) == "most informative near the threshold"
    assert reasons.describe(replace(pick, why="mistake")) == "predicted 7.8, you said 9"
    near = replace(pick, why="suspected_fp", twin=2, twin_label=2.0)
    assert reasons.describe(near) == "you scored a near-twin 2"
    pair = replace(near, why="contradiction")
    assert reasons.describe(pair) == "you said 9, and 2 for its near-twin"
    assert reasons.describe(Pick(1, "control")) == "random sample (for evaluation)"
    for why in get_args(Why):
        assert re.fullmatch("[^_]+", reasons.describe(replace(pick, why=why)))


def test_progress_counts_what_the_pages_keep_in_sight(young: Sitting) -> None:
    with sessions.reading(young.engine) as session:
        counts = queues.progress(session, young.settings, young.project)
        labels = session.exec(select(Label)).all()
    assert counts.images == counts.embedded == 420
    assert counts.labelled == len(labels) == 420 - len(young.open())
    assert counts.holdout_labelled == sum(label.holdout for label in labels)
    assert counts.set_aside == 0
