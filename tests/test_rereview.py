"""Queues of images that somebody has spoken of, blind re-asks, and neighbours: a small project with
vectors drawn by the test, so that what must be found is known."""

import time
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from sqlalchemy import Engine, event, update
from sqlmodel import Session, select

from tastemaker import projects, queues, scores
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.tables import (
    Annotator,
    CollectionImage,
    Embedding,
    EncoderRow,
    Image,
    Label,
    RemovedImage,
    ScoreEvent,
    Version,
    now,
)
from tastemaker.errors import Invalid
from tastemaker.learning.label_issues import contradictions
from tastemaker.live import embedding_matrix, live_model, model_process, project_state
from tastemaker.queues import cards, reviews
from tastemaker.queues.rereview import RE_ASK_AFTER, RE_ASK_EVERY
from tastemaker.scores import agreement, events, neighbours
from tests.conftest import add_images

DIM = 24


class Desk:
    """A project of so many images whose vectors and tastes are known, and who scores it."""

    def __init__(self, settings: Settings, engine: Engine, count: int = 260) -> None:
        self.settings, self.engine = settings, engine
        random = np.random.default_rng(3)
        self.x = random.normal(size=(count, DIM)).astype(np.float16)
        # A slip is 1 % of these: rounded taste, so that nothing else looks like one.
        taste = 5 + 1.6 * self.x[:, :3].astype(float).sum(1)
        self.taste = np.clip(np.round(taste), 0, 10).astype(int)
        with sessions.writing(engine) as session:
            encoder = EncoderRow(fingerprint="f" * 64, name="drawn", dim=DIM)
            session.add(encoder)
            session.flush()
            self.project = projects.create(session, "Desk", holdout_share=0.2)
            self.project.seed, self.project.encoder_id = 7, encoder.id
            found = add_images(session, count, project=self.project)
            self.ids = [image.id for image in found]
            for image, vector in zip(found, self.x, strict=True):
                session.add(
                    Embedding(image_id=image.id, encoder_id=encoder.id, vector=vector.tobytes())
                )
            self.me = projects.annotator(session, "me")

    def score(self, rows: range, origin: str = "queue") -> None:
        with sessions.writing(self.engine) as session:
            for row in rows:
                scores.record(
                    session, self.project, self.ids[row], self.me, "set", int(self.taste[row]),
                    origin=origin,
                )  # fmt: skip

    def say(self, image_id: int, value: int | None, kind: str = "set", **more: str) -> None:
        with sessions.writing(self.engine) as session:
            scores.record(session, self.project, image_id, self.me, kind, value, **more)  # type: ignore[arg-type]

    def age(self, hours: float = 2) -> None:
        """As if all that was said had been said so long ago."""
        with sessions.writing(self.engine) as session:
            session.execute(update(ScoreEvent).values(at=now() - timedelta(hours=hours)))

    def refit(self) -> None:
        model_process.refit(self.settings, self.engine, self.project.id)

    def next(self, queue: str, n: int = 8, **more: object) -> list[cards.Card]:
        with sessions.reading(self.engine) as session:
            return queues.next_cards(
                session, self.settings, self.project, self.me, queue, n, **more
            )  # type: ignore[arg-type]

    def review(self, kind: str, after: str = "", n: int = 48) -> reviews.Review:
        with sessions.reading(self.engine) as session:
            return reviews.review(
                session, self.settings, self.project, self.me, kind, after=after, n=n
            )

    def held_out(self, image_id: int) -> bool:
        with sessions.reading(self.engine) as session:
            image = session.get(Image, image_id)
            assert image is not None
            return projects.on_holdout_side(self.project, image.source_group)


@pytest.fixture
def desk(settings: Settings, engine: Engine) -> Desk:
    return Desk(settings, engine)


def trained(session: Session, desk: Desk) -> None:
    """An active version that knows all that was said so far."""
    session.add(
        Version(
            project_id=desk.project.id, state="ready", active=True, made_by="test",
            encoder_id=desk.project.encoder_id or 0,
            event_high=scores.highest_event(session, desk.project),
        )
    )  # fmt: skip


# --- what every queue keeps to -------------------------------------------------------------------


def test_every_queue_gives_a_reason_and_shows_nothing_twice(desk: Desk) -> None:
    desk.score(range(150))
    desk.age()
    desk.say(desk.ids[200], None, "flag", note="odd colours")
    desk.say(desk.ids[201], None, "skip")
    desk.refit()
    seen = {}
    for queue in queues.QUEUES:
        cards = desk.next(queue, 12, collection_id=1 if queue == "collection" else None)
        assert len({card.image_id for card in cards}) == len(cards)
        assert all(card.reason and card.queue == queue for card in cards)
        assert all(len(card.neighbours) == 3 for card in cards)
        seen[queue] = cards
        again = desk.next(queue, 12, exclude={card.image_id for card in cards})
        assert not {card.image_id for card in again} & {card.image_id for card in cards}
    empty = {queue for queue, cards in seen.items() if not cards}
    assert empty <= {"contradictions", "doubtful", "audit"}, "random vectors have no twins"
    assert seen["flagged"][0].reason == "flagged by you: odd colours"


@pytest.mark.parametrize(
    "queue", ["start", "near-threshold", "false-positives", "false-negatives", "doubtful"]
)
def test_a_queue_that_looks_at_a_model_shows_nothing_held_out(desk: Desk, queue: str) -> None:
    desk.score(range(120))
    desk.refit()
    assert not any(desk.held_out(card.image_id) for card in desk.next(queue, 500))


def test_cards_are_not_sorted_by_what_the_model_thinks(desk: Desk) -> None:
    desk.score(range(120))
    desk.refit()
    for queue in ("near-threshold", "false-negatives", "start"):
        said = [card.prediction or 0 for card in desk.next(queue, 16)]
        assert len(said) > 5 and said not in (sorted(said), sorted(said, reverse=True))


def test_an_image_taken_out_of_the_project_is_in_no_queue(desk: Desk) -> None:
    desk.score(range(120))
    desk.say(desk.ids[130], None, "flag")
    desk.say(desk.ids[131], None, "skip")
    gone = {desk.ids[130], desk.ids[131], desk.ids[5], desk.ids[200]}
    with sessions.writing(desk.engine) as session:
        session.add_all(RemovedImage(project_id=desk.project.id, image_id=i) for i in gone)
    desk.refit()
    for queue in queues.QUEUES:
        shown = desk.next(queue, 500, collection_id=1 if queue == "collection" else None)
        assert not gone & {card.image_id for card in shown}


def test_one_collection_is_scored_in_random_order_and_only_if_it_is_the_project_s(
    desk: Desk,
) -> None:
    shown = desk.next("collection", 500, collection_id=1)
    assert sorted(card.image_id for card in shown) == desk.ids
    assert [card.image_id for card in shown] != desk.ids
    assert {card.origin for card in shown} == {"queue"}, "chosen by a person: no random control"
    assert desk.next("collection") == []
    with pytest.raises(Invalid, match="not part of the project"):
        desk.next("collection", collection_id=99)


# --- second looks --------------------------------------------------------------------------------


def test_a_slip_is_doubted_until_it_is_answered_and_again_by_a_newer_version(desk: Desk) -> None:
    desk.score(range(200))
    slipped = next(
        i for row, i in enumerate(desk.ids[:200]) if desk.taste[row] >= 8 and not desk.held_out(i)
    )
    desk.say(slipped, 0)
    desk.refit()
    cards = desk.next("doubtful", 50)
    card = next(card for card in cards if card.image_id == slipped)
    assert card.label == 0 and card.reason.startswith("you said 0, but what resembles it")
    assert desk.review("doubtful").cards[0].image_id == slipped, "the worst one first"

    desk.say(slipped, 0, origin=card.origin)  # meant as it was said
    desk.refit()
    assert slipped not in {card.image_id for card in desk.next("doubtful", 50)}
    assert slipped not in {card.image_id for card in desk.review("doubtful").cards}
    with sessions.writing(desk.engine) as session:
        trained(session, desk)
    assert slipped in {card.image_id for card in desk.next("doubtful", 50)}


def test_twins_scored_far_apart_are_shown_as_a_pair_until_both_are_answered(desk: Desk) -> None:
    open_side = [row for row in range(200) if not desk.held_out(desk.ids[row])]
    first, second = open_side[0], open_side[1]
    with sessions.writing(desk.engine) as session:
        row = session.get(Embedding, (desk.ids[second], desk.project.encoder_id))
        assert row is not None
        row.vector = (desk.x[first] + np.float16(0.01)).tobytes()
    desk.score(range(200))
    desk.say(desk.ids[first], 9)
    desk.say(desk.ids[second], 1)
    desk.refit()
    pair = {desk.ids[first], desk.ids[second]}
    shown = desk.review("contradictions").cards
    assert {card.image_id for card in shown[:2]} == pair
    high = next(card for card in shown if card.image_id == desk.ids[first])
    assert high.reason == "you said 9, and 1 for its near-twin"
    assert high.neighbours[0].image_id == desk.ids[second] and high.neighbours[0].score == 1
    assert {card.image_id for card in desk.next("contradictions", 2)} == pair
    for image_id in pair:
        assert desk.review("contradictions").labelled == 1
        value = 9 if image_id == desk.ids[first] else 1
        desk.say(image_id, value, origin="review")
    assert desk.review("contradictions").labelled == 0


def test_a_flag_is_dealt_with_by_a_second_look_and_a_new_flag_raises_it_again(desk: Desk) -> None:
    image_id = desk.ids[3]
    desk.say(image_id, None, "flag", note="is this a photograph?")
    desk.say(image_id, 4)  # scored all the same: the flag stands
    (card,) = desk.next("flagged")
    assert (card.image_id, card.label) == (image_id, 4)
    desk.say(image_id, 5, origin=card.origin)
    assert desk.next("flagged") == []
    desk.say(image_id, None, "flag")
    assert [card.image_id for card in desk.next("flagged")] == [image_id]


def test_a_second_look_that_is_taken_back_leaves_the_flag_to_be_dealt_with(desk: Desk) -> None:
    image_id = desk.ids[3]
    desk.say(image_id, None, "flag")
    (card,) = desk.next("flagged")
    desk.say(image_id, 5, origin=card.origin)
    with sessions.writing(desk.engine) as session:
        scores.undo(session, desk.project, desk.me)
    assert [card.image_id for card in desk.next("flagged")] == [image_id]


def test_a_skipped_image_comes_back_when_asked_for_and_rests_when_skipped_again(
    desk: Desk,
) -> None:
    desk.say(desk.ids[0], None, "skip")
    desk.say(desk.ids[1], None, "skip")
    shown = desk.next("skipped")
    assert {card.image_id for card in shown} == {desk.ids[0], desk.ids[1]}
    desk.say(desk.ids[0], None, "skip", origin=shown[0].origin)
    desk.say(desk.ids[1], 6, origin=shown[0].origin)
    assert desk.next("skipped") == []
    with sessions.writing(desk.engine) as session:
        trained(session, desk)
    assert [card.image_id for card in desk.next("skipped")] == [desk.ids[0]]


def test_a_second_look_never_makes_a_picked_image_measure(desk: Desk) -> None:
    held = [i for i in desk.ids if desk.held_out(i)][:3]
    desk.say(held[0], 4, origin="queue")
    desk.say(held[1], 4, origin="control")
    desk.say(held[2], None, "skip", origin="control")
    for image_id, origin in ((held[0], "re-ask"), (held[1], "re-ask"), (held[2], "review")):
        desk.say(image_id, 6, origin=origin)
    with sessions.reading(desk.engine) as session:
        measures = {label.image_id: label.measures for label in session.exec(select(Label))}
    assert measures == {held[0]: False, held[1]: True, held[2]: False}


def test_paging_through_a_review_while_answering_misses_nothing(desk: Desk) -> None:
    desk.score(range(240))
    with sessions.writing(desk.engine) as session:
        for row in range(0, 240, 6):
            scores.record(
                session, desk.project, desk.ids[row], desk.me, "set", 10 - int(desk.taste[row])
            )
    desk.refit()
    everything = [card.image_id for card in desk.review("doubtful", n=500).cards]
    assert len(everything) > 8
    seen: list[int] = []
    after = ""
    while True:
        page = desk.review("doubtful", after, n=3)
        seen += [card.image_id for card in page.cards]
        desk.say(page.cards[0].image_id, 5, origin="review")
        after = page.next
        if not after:
            break
    assert seen == everything
    with pytest.raises(Invalid, match="no place in the list"):
        desk.review("doubtful", "1_x_2")


# --- blind re-asks -------------------------------------------------------------------------------


def test_a_re_ask_hides_the_old_score_and_moves_the_label_when_answered(desk: Desk) -> None:
    desk.score(range(RE_ASK_AFTER + 20))
    assert desk.next("re-ask") == [], "an hour must have passed"
    desk.age()
    cards = desk.next("re-ask", 8)
    assert len(cards) == 8 and {card.origin for card in cards} == {"re-ask"}
    assert all(card.blind and card.label is None for card in cards)
    assert all(card.image_id in desk.ids[:20] for card in cards), "of the oldest"
    card = cards[0]
    old = int(desk.taste[desk.ids.index(card.image_id)])
    assert not any(character.isdigit() for character in card.reason)
    desk.say(card.image_id, 10 - old, origin=card.origin)
    with sessions.reading(desk.engine) as session:
        label = session.get(Label, (desk.project.id, card.image_id))
        told = queues.card_for(session, desk.settings, desk.project, desk.me, card.image_id)
        kept = events.standing_on(session, desk.project.id, card.image_id)
    assert label is not None and label.value == 10 - old
    assert told.reason.startswith(f"asked again: you said {old} on ")
    assert [event.value for event in kept] == [old, 10 - old]
    assert card.image_id not in {card.image_id for card in desk.next("re-ask", 50)}


@pytest.mark.slow
def test_one_in_twenty_of_the_mixed_queue_is_a_re_ask(desk: Desk) -> None:
    desk.score(range(150))
    desk.age()
    desk.refit()
    origins: Counter[str] = Counter()
    held: list[cards.Card] = []
    for _ in range(4 * RE_ASK_EVERY):
        held += desk.next("mixed", 6 - len(held), exclude={card.image_id for card in held})
        card = held.pop(0)
        origins[card.origin] += 1
        desk.say(card.image_id, 5, origin=card.origin)
    assert origins["re-ask"] in (3, 4, 5)
    with sessions.writing(desk.engine) as session:
        desk.me = projects.annotator(session, "newcomer")
    assert all(card.origin != "re-ask" for card in desk.next("mixed", 40))


def test_noise_comes_from_pairs_of_blind_scores_only(desk: Desk) -> None:
    first, second, third = desk.ids[:3]
    desk.say(first, 4)
    desk.say(first, 6, origin="re-ask")
    desk.say(first, 6, origin="re-ask")
    desk.say(second, 9, origin="review")  # with the prediction in sight
    desk.say(second, 2, origin="re-ask")
    desk.say(third, 1)
    desk.say(third, 8)  # a corrected slip, not a second opinion
    with sessions.reading(desk.engine) as session:
        noise = agreement.annotator_noise(session, desk.project, desk.me)
        nobody = agreement.annotator_noise(session, desk.project, Annotator(id=99, name="x"))
        assert agreement.annotator_noise(session, desk.project) == noise
    assert noise is not None and nobody is None
    sigma = noise.sigma
    assert sigma.n == noise.mae.n == 2 and sigma.value == pytest.approx((4 / 2 / 2) ** 0.5)
    assert sigma.low < sigma.value < sigma.high
    for point, scaled in ((sigma.value, noise.mae.value), (sigma.low, noise.mae.low)):
        assert scaled == pytest.approx(point * 0.798, abs=1e-3)


@given(st.integers(5, 2000))
def test_the_noise_interval_ends_at_quantiles_of_chi_square(degrees: int) -> None:
    for z, share in ((agreement.Z95, 0.975), (-agreement.Z95, 0.025)):
        exact = chi2.ppf(share, degrees)
        assert agreement._chi_square(degrees, z) == pytest.approx(exact, rel=0.05)


# --- neighbours ----------------------------------------------------------------------------------


def test_neighbours_are_the_nearest_labels_by_cosine_and_follow_undo(desk: Desk) -> None:
    desk.score(range(200))
    wide = desk.x.astype(np.float32)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)

    def found(image_id: int) -> list[neighbours.Neighbour]:
        with sessions.reading(desk.engine) as session:
            near = neighbours.nearest(session, desk.settings, desk.project, [image_id])
        return near[image_id]

    right = 0
    for row in (0, 50, 210, 250):
        cosine = wide[:200] @ wide[row]
        if row < 200:
            cosine[row] = -1
        best = [desk.ids[i] for i in np.argsort(-cosine)[:3]]
        near = found(desk.ids[row])
        right += len({n.image_id for n in near} & set(best))
        assert all(n.score == desk.taste[desk.ids.index(n.image_id)] for n in near)
        assert [n.similarity for n in near] == sorted((n.similarity for n in near), reverse=True)
    assert right >= 10, "of twelve; the sketch may miss one"

    with sessions.writing(desk.engine) as session:
        scores.undo(session, desk.project, desk.me)
    for row in range(200, 260):
        assert desk.ids[199] not in {n.image_id for n in found(desk.ids[row])}


def test_a_label_that_is_embedded_late_becomes_a_neighbour_and_is_not_asked_for_at_every_card(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, key = desk.ids[0], (desk.ids[0], desk.project.encoder_id)
    with sessions.writing(desk.engine) as session:
        session.delete(session.get(Embedding, key))
    desk.score(range(5))
    asked: list[int] = []
    matrix = neighbours.embeddings.matrix

    def counted(session: Session, encoder: int, ids: list[int]) -> object:
        asked.extend(i for i in ids if i == late)
        return matrix(session, encoder, ids)

    monkeypatch.setattr(neighbours.embeddings, "matrix", counted)

    def found() -> set[int]:
        with sessions.reading(desk.engine) as session:
            near = neighbours.nearest(session, desk.settings, desk.project, [desk.ids[9]], 5)
        return {n.image_id for n in near[desk.ids[9]]}

    assert found() == set(desk.ids[1:5])
    monkeypatch.setattr(neighbours.time, "monotonic", lambda: 1e9)
    found()
    before = len(asked)
    assert before >= 2 and found() == set(desk.ids[1:5]) and len(asked) == before
    with sessions.writing(desk.engine) as session:
        session.add(Embedding(image_id=late, encoder_id=key[1] or 0, vector=desk.x[0].tobytes()))
    monkeypatch.setattr(neighbours.time, "monotonic", lambda: 1e9 + neighbours.LOOK_AGAIN)
    assert late in found()


# --- contradictions, the numbers -----------------------------------------------------------------


def test_contradictions_are_far_scores_of_near_images_largest_gap_first() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(2500, 12))
    y = np.full(2500, 0.5)
    x[1], x[2001], x[3] = x[0] + 1e-3, x[2000] + 1e-3, x[2] + 1e-3
    y[0], y[1] = 0.2, 0.9
    y[2000], y[2001] = 0.9, 0.3
    y[2], y[3] = 0.4, 0.6  # a little apart: nothing to say about
    found = contradictions(x, y, np.arange(2500))
    assert [(pair.first, pair.second) for pair in found] == [(0, 1), (2000, 2001)]
    assert found[0].gap == pytest.approx(0.7)
    assert contradictions(x[:1], y[:1], np.arange(1)) == []
    assert contradictions(np.zeros((4, 3)), np.array([0, 1, 0, 1.0]), np.arange(4))


def test_relatives_may_differ_when_they_are_no_twins() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(200, 6))
    x[1] = x[0] + 0.3 * np.linalg.norm(x[0]) / 6**0.5  # a degraded copy
    y = np.full(200, 0.5)
    y[0], y[1] = 0.9, 0.2
    groups = np.arange(200)
    apart = contradictions(x, y, groups)
    groups[1] = 0
    assert len(contradictions(x, y, groups)) >= len(apart)


# --- what the live model holds in memory ----------------------------------------------------------


def test_what_is_in_memory_follows_images_taken_out_brought_back_and_moved(desk: Desk) -> None:
    """None of these changes how many images there are, nor which is the newest."""
    first, second, third = desk.ids[:3]
    with sessions.writing(desk.engine) as session:
        other = projects.Collection(name="Only tried")
        session.add(other)
        session.flush()
        projects.add_collection(session, desk.project, other, "test-run")
        out_of_pool = select(CollectionImage).where(CollectionImage.image_id == third)
        session.delete(session.exec(out_of_pool).one())
        session.add(CollectionImage(collection_id=other.id, image_id=third))
        session.add(RemovedImage(project_id=desk.project.id, image_id=first))

    def held(known: embedding_matrix.EmbeddingMatrix | None) -> embedding_matrix.EmbeddingMatrix:
        with sessions.reading(desk.engine) as session:
            return embedding_matrix.load(session, desk.project, known)

    before = held(None)
    assert held(before) is before, "nothing changed"
    assert first not in before.ids and not before.scorable[before.ids == third].any()
    with sessions.writing(desk.engine) as session:
        session.delete(session.get(RemovedImage, (desk.project.id, first)))
        session.add(RemovedImage(project_id=desk.project.id, image_id=second))
        session.add(CollectionImage(collection_id=1, image_id=third))
    after = held(before)
    assert first in after.ids and second not in after.ids
    assert after.scorable[after.ids == third].all()
    assert (after.x[after.ids == first] == desk.x[0]).all()


# --- the pace of the searches --------------------------------------------------------------------


def test_a_search_that_is_owed_is_made_up_for_though_nobody_scores_on(desk: Desk) -> None:
    watched: dict[int, project_state.ProjectState] = {}

    def look() -> tuple[int, float]:
        """The newest event that the queues know of, and when was searched last."""
        model_process.poll(desk.settings, desk.engine, watched)
        live = live_model.read_live(desk.settings, desk.project.id)
        assert live is not None
        return live.fit.event_high, watched[desk.project.id].searched_at

    desk.score(range(100))
    _, first = look()
    seen = watched[desk.project.id]
    desk.score(range(100, 110))
    seen.refitted_at -= project_state.REST_SECONDS
    event, second = look()
    assert event == 110 and second == first, "the queues follow at once, the search rests"
    assert look() == (event, first)
    seen.searched_at -= project_state.SEARCH_SECONDS
    assert look()[1] > first, "made up for"
    settled = look()
    seen.searched_at -= project_state.SEARCH_SECONDS
    assert look()[1] == settled[1] - project_state.SEARCH_SECONDS, "nothing new: nothing to search"
    seen.owes_search, seen.search_seconds = True, 60.0
    assert not seen.is_due(seen.stamp), "a long search rests ten times as long"  # type: ignore[arg-type]


def test_a_person_does_not_wait_as_long_as_what_arrives_by_itself(desk: Desk) -> None:
    statements: list[str] = []

    def noted(*details: object) -> None:
        statements.append(str(details[2]))

    event.listen(desk.engine, "before_cursor_execute", noted)
    with sessions.reading(desk.engine) as session:
        stamp = project_state.stamp_of(session, desk.project)
    event.remove(desk.engine, "before_cursor_execute", noted)
    assert statements and not any("weights" in one for one in statements), "four times a second"
    slow = project_state.ProjectState(
        stamp=stamp, refitted_at=time.monotonic() - 2 * project_state.REST_SECONDS, refit_seconds=60
    )
    assert not slow.is_due(replace(stamp, embedding=stamp.embedding + 1))
    for change in ({"event": 999}, {"threshold": 6.5}, {"encoder": 99}, {"priors": ("f" * 64,)}):
        assert slow.is_due(replace(stamp, **change)), change
