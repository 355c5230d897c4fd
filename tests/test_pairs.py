"""Comparing two: its own events, the order that follows from them, and the page by keys."""

import re
from pathlib import Path

import numpy as np
import pytest
from in_browser import PATIENCE, PHONE, browsing, serving, shown_pair
from playwright.sync_api import Page, Route, expect
from sqlmodel import func, select
from web_world import World, embed_all, make_world, score_some

from tastemaker import projects
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Comparison, Label
from tastemaker.errors import Conflict, NotFound
from tastemaker.library import bulk
from tastemaker.live import model_process
from tastemaker.scores import comparisons
from tastemaker.scores.comparisons import ComparisonResult
from tests.conftest import add_images, until


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = make_world(tmp_path, images=8)
    score_some(world, [7, 7, 7, 7, 2, 1])
    return world


def stored(world: World) -> list[tuple[int, int, str]]:
    with reading(world.engine) as session:
        rows = session.exec(select(Comparison).order_by(Comparison.id)).all()
    return [(row.first_id, row.second_id, row.verdict) for row in rows]


# --- the order -----------------------------------------------------------------------------------


def test_the_order_recovers_known_strengths() -> None:
    random = np.random.default_rng(0)
    true = np.exp(random.normal(0, 1, 12))
    pairs = []
    for _ in range(1500):
        a, b = random.choice(12, 2, replace=False)
        won = random.random() < true[a] / (true[a] + true[b])
        pairs.append(ComparisonResult(int(a), int(b), float(won)))
    ranked = comparisons.order(range(12), pairs)
    found = np.array([next(r.strength for r in ranked if r.image_id == i) for i in range(12)])
    assert np.corrcoef(np.log(found), np.log(true))[0, 1] > 0.97
    assert sum(r.met for r in ranked) == 3000


def test_an_equal_pair_stays_equal_and_one_loss_is_not_the_end() -> None:
    even = comparisons.order([1, 2], [ComparisonResult(1, 2, 0.5)])
    assert even[0].strength == pytest.approx(even[1].strength)
    winner, loser = comparisons.order([1, 2], [ComparisonResult(1, 2, 1.0)])
    assert (winner.image_id, loser.image_id) == (1, 2)
    assert 0.1 < loser.strength < 1 < winner.strength < 10


def test_the_next_pair_is_new_and_brings_in_who_met_nobody() -> None:
    pairs: list[ComparisonResult] = []
    ids = list(range(6))
    for _ in range(15):
        pair = comparisons.next_pair(comparisons.order(ids, pairs), pairs, seed=3)
        assert pair is not None
        assert frozenset(pair) not in {frozenset((p.first_id, p.second_id)) for p in pairs}
        pairs.append(ComparisonResult(*pair, share=1.0 if pair[0] > pair[1] else 0.0))
        if len(pairs) == 3:
            assert {i for p in pairs for i in (p.first_id, p.second_id)} == set(ids)
    assert comparisons.next_pair(comparisons.order(ids, pairs), pairs, seed=3) is None
    assert [r.image_id for r in comparisons.order(ids, pairs)] == ids[::-1]


# --- recording -----------------------------------------------------------------------------------


def test_nothing_is_overwritten_an_undo_is_a_row_and_the_same_key_says_nothing_new(
    world: World,
) -> None:
    with writing(world.engine) as session:
        project, me = world.project(session), projects.annotator(session, "me")
        first = comparisons.record(session, project, me, 1, 2, "first", "a-long-key")
        again = comparisons.record(session, project, me, 1, 2, "first", "a-long-key")
        assert again.id == first.id
        with pytest.raises(Conflict):
            comparisons.record(session, project, me, 1, 3, "first", "a-long-key")
        comparisons.record(session, project, me, 3, 4, "equal")
        comparisons.undo(session, project, me)
        assert comparisons.standing_results(session, project) == [ComparisonResult(1, 2, 1.0)]
        with pytest.raises(NotFound):
            comparisons.undo(session, project, projects.annotator(session, "somebody else"))
    assert [verdict for _, _, verdict in stored(world)] == ["first", "equal", "undo"]


@pytest.mark.parametrize(
    "body",
    [{"first_id": 1, "second_id": 1, "verdict": "first"},
     {"first_id": 1, "second_id": 999, "verdict": "first"},
     {"first_id": 1, "second_id": 2, "verdict": "undo"}],
)  # fmt: skip
def test_nonsense_is_refused_and_nothing_is_stored(world: World, body: dict[str, object]) -> None:
    assert world.client.post(f"/api/v1{world.at}/comparisons", json=body).status_code in (404, 422)
    assert stored(world) == []


def test_the_api_gives_the_order_and_leaves_the_labels_alone(world: World) -> None:
    at = f"/api/v1{world.at}/comparisons"
    shown = world.client.get(at).json()
    assert shown["low"] == 7 and len(shown["order"]) == 4 and shown["next"]
    world.client.post(at, json={"first_id": 3, "second_id": 1, "verdict": "first"})
    assert world.client.get(at).json()["order"][0]["image_id"] == 3
    assert world.client.post(f"{at}/undo").json()["undoes"] == 1
    with reading(world.engine) as session:
        assert session.exec(select(func.count()).select_from(Label)).one() == 6


def test_undo_is_offered_to_whom_it_has_something_to_take_back(world: World) -> None:
    with writing(world.engine) as session:
        other = projects.annotator(session, "somebody else")
        comparisons.record(session, world.project(session), other, 1, 2, "first")
    page = f"{world.at}/score/pairs"
    assert "1 pair compared" in world.client.get(page).text
    assert "<button disabled>Undo" in world.client.get(page).text
    said = {"first_id": "3", "second_id": "4", "verdict": "equal"}
    answer = world.client.post(page, data=said, headers={"HX-Request": "true"})
    assert "<button >Undo" in answer.text
    (comparison_id,) = re.findall(r'name="comparison_id" value="(\d+)"', answer.text)
    named = {"comparison_id": comparison_id}
    world.client.post(page, data=said | {"first_id": "5"})
    late = world.client.post(f"{page}/undo", data=named)
    assert late.status_code == 409, "another was compared since, in another tab"
    at = f"/api/v1{world.at}/comparisons/undo"
    newer = int(comparison_id) + 1
    assert world.client.post(f"{at}?comparison_id={newer}").json()["undoes"] == newer
    assert world.client.post(f"{at}?comparison_id={newer}").status_code == 409
    answer = world.client.post(f"{page}/undo", data=named, headers={"HX-Request": "true"})
    assert "<button disabled>Undo" in answer.text


# --- in the browser ------------------------------------------------------------------------------


@pytest.mark.browser
def test_arrows_decide_space_is_even_and_backspace_brings_the_pair_back(
    world: World,
    chromium,
) -> None:
    with serving(world) as at, browsing(chromium) as page:
        page.goto(f"{at}{world.at}/score/pairs")
        for number, (key, verdict) in enumerate(
            [("ArrowLeft", "first"), ("ArrowRight", "second"), ("Space", "equal")], 1
        ):
            shown = shown_pair(page)  # a pair that just appeared takes no key yet
            page.keyboard.press(key)
            expect(page.get_by_text(re.compile(rf"\b{number} pairs? compared"))).to_be_visible()
            assert stored(world)[-1][0] == shown and stored(world)[-1][2] == verdict
        page.keyboard.press("Backspace")
        expect(page.get_by_text("2 pairs compared")).to_be_visible()
        assert shown_pair(page) == shown
        assert stored(world)[-1][2] == "undo"


@pytest.mark.browser
def test_pairs_judged_by_keys_change_the_live_order(world: World, chromium) -> None:
    embed_all(world)
    with writing(world.engine) as session:
        world.project(session).holdout_share = 0

    def order(page: Page) -> list[str | None]:
        """The pictures of the library, the best by the live model first."""
        model_process.refit(world.settings, world.engine, world.project_id)
        page.goto(f"{at}{world.at}/library?sort=predicted-high&version=live")
        return [each.get_attribute("id") for each in page.locator(".shelf-tile").all()]

    with serving(world) as at, browsing(chromium) as page:
        before = order(page)
        page.goto(f"{at}{world.at}/score/pairs?low=0")
        for number in range(1, 9):
            first = shown_pair(page)
            second = int(page.locator("[name=second_id]").get_attribute("value") or 0)
            better = before.index(f"tile-{first}") > before.index(f"tile-{second}")
            page.keyboard.press("ArrowLeft" if better else "ArrowRight")
            expect(page.get_by_text(re.compile(rf"\b{number} pairs? compared"))).to_be_visible()
        after = order(page)
        assert sorted(after) == sorted(before) and len(before) == 8
        assert after != before, "the scores are the same as before"


@pytest.mark.browser
def test_without_a_script_the_pictures_are_buttons(world: World, chromium) -> None:
    with serving(world) as at, browsing(chromium, java_script_enabled=False) as page:
        page.goto(f"{at}{world.at}/score/pairs")
        page.locator(".contestant").first.click()
        expect(page.get_by_text("1 pair compared")).to_be_visible()
        page.get_by_role("button", name="Undo").click()
        expect(page.get_by_text("0 pairs compared")).to_be_visible()
        page.goto(f"{at}{world.at}/score/pairs?low=10")
        expect(page.get_by_text("There are not two images to compare")).to_be_visible()


# When the click was made that sent a form: what the page goes by, however busy the server is.
NOTE_CLICKS = """() => {
  let clicked = 0;
  window.sentBy = [];
  document.addEventListener("click", (event) => { clicked = event.timeStamp; }, true);
  document.addEventListener("submit", () => window.sentBy.push(clicked));
}"""


@pytest.mark.browser
def test_a_double_click_judges_one_pair(world: World, chromium) -> None:
    """Clicks without end, on the pair that is sent and on the next: the second pair is judged by
    the first of them that comes half a second after the one before."""
    with serving(world) as at, browsing(chromium) as page:
        page.goto(f"{at}{world.at}/score/pairs")
        shown_pair(page)
        page.evaluate(NOTE_CLICKS)
        box = page.locator(".contestant").first.bounding_box()
        assert box

        def two_are_judged() -> bool:
            page.mouse.click(box["x"] + 100, box["y"] + 100)
            return len(stored(world)) == 2

        until(two_are_judged, PATIENCE, "for two pairs")
        first, second = page.evaluate("window.sentBy")[:2]
    assert second - first >= 500


@pytest.mark.browser
def test_a_pair_whose_picture_does_not_load_takes_no_key_and_no_click(
    world: World, chromium
) -> None:
    with serving(world) as at, browsing(chromium) as page:
        lost, sent = True, []

        def lose(route: Route) -> None:
            route.abort() if lost else route.continue_()

        page.route("**/images/*/view*", lose)
        page.on("request", lambda request: sent.append(request.method))
        page.clock.install()  # the page tries again after two seconds
        page.goto(f"{at}{world.at}/score/pairs")
        expect(page.locator("#toast")).to_contain_text("does not load")
        page.clock.run_for(1000)
        page.keyboard.press("ArrowLeft")
        expect(page.locator(".pair.ignored"), "the key shows that it did not count").to_be_visible()
        page.locator(".contestant").first.click()
        page.clock.run_for(200)
        expect(page.locator(".pair.ignored")).to_have_count(0)
        assert stored(world) == [] and "POST" not in sent
        lost = False
        page.clock.run_for(2600)
        shown_pair(page)
        expect(page.locator("#toast .wrong")).to_have_count(0)
        page.keyboard.press("ArrowLeft")
        expect(page.get_by_text("1 pair compared")).to_be_visible()


@pytest.mark.browser
def test_without_a_connection_the_pair_stays_and_the_page_says_so(world: World, chromium) -> None:
    with serving(world) as at, browsing(chromium) as page:
        page.goto(f"{at}{world.at}/score/pairs")
        first = shown_pair(page)
        page.context.set_offline(True)
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#toast")).to_contain_text("this pair is not saved")
        assert shown_pair(page) == first and stored(world) == []
        page.context.set_offline(False)
        page.keyboard.press("ArrowLeft")
        expect(page.get_by_text("1 pair compared")).to_be_visible()
        expect(page.locator("#toast .wrong")).to_have_count(0)
        assert [stored(world)[0][0], stored(world)[0][2]] == [first, "first"]


@pytest.mark.browser
def test_on_a_phone_undo_is_in_sight(world: World, chromium) -> None:
    with serving(world) as at, browsing(chromium, has_touch=True, is_mobile=True) as page:
        page.set_viewport_size(PHONE)
        page.goto(f"{at}{world.at}/score/pairs")
        undo = page.locator("#pair-undo button").bounding_box()
        bar = page.locator("nav[aria-label=Pages]").bounding_box()
        assert undo and bar and undo["y"] + undo["height"] <= bar["y"]
        page.goto(f"{at}{world.at}/score/grid")
        expect(page.locator("#grid-help")).to_be_visible()
        assert page.locator("#grid-help").inner_text() == "Tap the images, then a score."


def test_a_pair_of_another_project_or_one_taken_out_is_refused(world: World) -> None:
    with writing(world.engine) as session:
        other = projects.create(session, "Other")
        (stranger,) = add_images(session, 1, "Elsewhere", other)
        strange = stranger.id
        bulk.remove(session, world.project(session), [2])
    for pair in ({"first_id": 1, "second_id": strange}, {"first_id": 2, "second_id": 1}):
        answer = world.client.post(
            f"/api/v1{world.at}/comparisons", json=pair | {"verdict": "first"}
        )
        assert answer.status_code == 404 and "not in this project" in answer.text
        form = pair | {"verdict": "first", "key": "another key"}
        assert world.client.post(f"{world.at}/score/pairs", data=form).status_code == 404
    assert stored(world) == []


def test_a_key_takes_back_nothing_that_was_not_asked_under_it(world: World) -> None:
    with writing(world.engine) as session:
        project = world.project(session)
        me, ada = projects.annotator(session, "me"), projects.annotator(session, "Ada")
        comparisons.record(session, project, me, 1, 2, "first", key="the very same key")
        for person in (me, ada):
            with pytest.raises(Conflict):
                comparisons.undo(session, project, person, key="the very same key")
