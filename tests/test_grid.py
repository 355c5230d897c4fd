"""Many images at once: by mouse, by keyboard alone, without a script; and one undo for all."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_browser import browsing, saved, serving
from playwright.sync_api import Page, expect
from sqlmodel import Session, select
from web_world import World, events, make_world

from tastemaker import projects, scores
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Annotator, Label
from tastemaker.errors import Conflict, Invalid
from tastemaker.pages import keymap
from tastemaker.scores import batches
from tastemaker.scores.batches import BatchItem


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path, images=12)


@pytest.fixture
def page(world: World, chromium) -> Iterator[Page]:
    with serving(world) as at, browsing(chromium) as page:
        page.goto(f"{at}{world.at}/score/grid")
        yield page


def labels(session: Session) -> dict[int, float]:
    return dict(session.execute(select(Label.image_id, Label.value)).all())


# --- recording -----------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sets(st.integers(1, 6), min_size=1), st.integers(0, 10)), max_size=5))
def test_undoing_every_batch_leaves_what_was_before(said: list[tuple[set[int], int]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as home:
        world = make_world(Path(home), images=6)
        with writing(world.engine) as session:
            project, person = world.project(session), projects.annotator(session, "me")
            states = [labels(session)]
            for number, (images, value) in enumerate(said):
                chosen = [BatchItem(image) for image in images]
                batches.record_batch(session, project, person, chosen, "set", value, f"k{number}")
                session.expire_all()
                states.append(labels(session))
            for number, (images, _) in reversed(list(enumerate(said))):
                inverse = scores.undo(session, project, person).event
                undone = batches.undone_together(session, inverse)
                assert {event.image_id for event in undone} == images
                session.expire_all()
                assert labels(session) == states[number]
        world.engine.dispose()


def test_the_same_batch_twice_changes_nothing_the_second_time(world: World) -> None:
    for _ in range(2):
        answer = world.client.post(
            f"/api/v1{world.at}/batches",
            json={"images": [{"image_id": 1}, {"image_id": 2}], "value": 7, "key": "a-long-key"},
        )
        assert answer.status_code == 200 and set(answer.json()["events"]) == {"1", "2"}
    assert events(world) == [(1, "set", 7), (2, "set", 7)]


def test_what_was_scored_elsewhere_or_is_gone_is_left_out_and_the_others_are_saved(
    world: World,
) -> None:
    world.client.post(f"/api/v1{world.at}/scores", json={"image_id": 1, "value": 3})
    asked = [{"image_id": i, "expected": 0} for i in (1, 2, 999)]
    answer = world.client.post(
        f"/api/v1{world.at}/batches", json={"images": asked, "value": 7, "key": "a-long-key"}
    ).json()
    assert set(answer["events"]) == {"2"} and set(answer["refused"]) == {"1", "999"}
    assert "3 there, 7 here" in answer["refused"]["1"]
    with reading(world.engine) as session:
        assert labels(session) == {1: 3.0, 2: 7.0}


def test_nothing_selected_too_much_and_nonsense_are_refused(world: World) -> None:
    at = f"{world.at}/score/grid"
    one = "1:0:no-offer"
    for form in ({"value": "7"}, {"image": "1", "value": "7"}, {"image": one, "value": "11"},
                 {"image": one}):  # fmt: skip
        assert world.client.post(at, data=form).status_code == 422, form
    claimed = {"images": [{"image_id": 1, "origin": "import"}], "value": 7, "key": "a-long-key"}
    assert world.client.post(f"/api/v1{world.at}/batches", json=claimed).status_code == 422
    with writing(world.engine) as session, pytest.raises(Invalid):
        batches.record_batch(
            session, world.project(session), projects.annotator(session, "me"),
            [BatchItem(i) for i in range(1, batches.MOST + 2)], "set", 5, "key",
        )  # fmt: skip
    assert events(world) == []


def test_a_sweep_is_no_label_and_the_random_sample_asks_all_the_same(world: World) -> None:
    """Else whoever sweeps away what is easy would leave a sample of what is hard."""
    at, asked = f"/api/v1{world.at}", [{"image_id": number} for number in range(1, 13)]
    swept = {"images": asked, "value": 5, "sweep": "at_least", "key": "a-long-key"}
    made = world.client.post(f"{at}/batches", json=swept).json()["events"]
    assert len(made) == 12
    with reading(world.engine) as session:
        assert labels(session) == {}
    assert "Nothing is left in this queue" in world.client.get(f"{world.at}/score/grid").text
    card = world.client.get(f"{at}/queue").json()[0]
    assert "random" in card["reason"]
    told = {"image_id": card["image_id"], "value": 3, "offer": card["offer"]}
    assert world.client.post(f"{at}/scores", json=told).status_code == 200
    page = world.client.get(f"{world.at}/images/{card['image_id']}").text
    assert "at least 5" in page
    for wrong in ({"value": 0}, {"value": None}, {"sweep": "liked"}):
        again = swept | wrong | {"key": "another-key"}
        assert world.client.post(f"{at}/batches", json=again).status_code == 422
    other = next(number for number in range(1, 13) if number != card["image_id"])
    form = {"image": f"{other}:{made[str(other)]}:", "value": "below 5"}
    world.client.post(f"{world.at}/score/grid", data=form)
    assert events(world)[-1] == (other, "below", 5)


def test_an_undo_tells_of_a_sweep_that_stands_again(world: World) -> None:
    at = f"/api/v1{world.at}"
    for said in ({"value": 5, "sweep": "at_least"}, {"value": 7}):
        body = said | {"images": [{"image_id": 3}], "key": f"a-key-of-{said['value']}"}
        assert world.client.post(f"{at}/batches", json=body).status_code == 200
    answer = world.client.post(f"{at}/batches/undo", json={"key": "another-key"}).json()
    assert answer["scores"] == {"3": None}
    assert answer["sweeps"] == {"3": {"kind": "at_least", "value": 5}}


def test_a_key_that_somebody_chose_before_stays_theirs() -> None:
    """The sweeps came later, and P and X may be taken."""
    person = Annotator(name="me", keys={"zoom": "x", "score-3": "p"})
    keys = keymap.of(person)
    assert (keys["zoom"], keys["score-3"]) == (("x",), ("p",))
    assert keys["pick"] == keys["reject"] == ()
    assert keymap.by_default(person)["pick"] == (), "no page offers it"
    session = Session()
    keymap.change(session, person, {"skip": "s", "pick": "", "reject": ""})
    assert keymap.of(person)["skip"] == ("s",) and keymap.of(person)["pick"] == ()
    with pytest.raises(Conflict):
        keymap.change(session, person, {"pick": "x"})
    keymap.change(session, person, {"score-3": ""})
    assert keymap.of(person)["pick"] == ("p",)
    with pytest.raises(Conflict):
        keymap.change(session, person, {"score-3": "f"})


# --- in the browser ------------------------------------------------------------------------------


@pytest.mark.browser
def test_selected_tiles_are_scored_by_one_key_and_taken_back_by_one(
    world: World, page: Page
) -> None:
    tiles = page.locator("[data-tile]")
    tiles.nth(0).click()
    tiles.nth(4).click(modifiers=["Shift"])
    expect(page.locator("#chosen")).to_have_text("5 selected")
    page.keyboard.press("2")
    stored = saved(page, world, 5)
    assert [value for _, _, value in stored] == [2] * 5
    expect(tiles.nth(0).locator(".chip")).to_have_text("2")
    expect(page.locator("#chosen")).to_have_text("Select images")
    page.keyboard.press("Backspace")
    saved(page, world, 10)
    expect(page.locator(".tile .chip")).to_have_count(0)
    with reading(world.engine) as session:
        assert labels(session) == {}
    tiles.nth(1).click()
    page.keyboard.press("-")
    assert saved(page, world, 11)[-1][2] == 10, "the tile knows what was said and taken back"
    tiles.nth(2).click()
    page.keyboard.press("Space")
    assert saved(page, world, 12)[-1][1:] == ("skip", None), "skips what was clicked"
    tiles.nth(3).click()
    tiles.nth(4).click()
    page.keyboard.press("p")
    assert [event[1:] for event in saved(page, world, 14)[-2:]] == [("at_least", 5)] * 2
    expect(tiles.nth(4).locator(".chip")).to_have_text("≥ 5")
    tiles.nth(5).click()
    page.get_by_role("button", name="< 5").click()
    assert saved(page, world, 15)[-1][1:] == ("below", 5)
    page.keyboard.press("Backspace")
    assert saved(page, world, 16)[-1][1] == "undo"
    with reading(world.engine) as session:
        assert len(labels(session)) == 1, "a sweep is no label"


@pytest.mark.browser
def test_the_keyboard_alone_selects_scores_corrects_and_undoes(world: World, page: Page) -> None:
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("#chosen")).to_have_text("2 selected")
    page.keyboard.press("9")
    assert [value for _, _, value in saved(page, world, 2)] == [9, 9]
    page.keyboard.press("Space")
    page.keyboard.press("4")
    corrected = saved(page, world, 3)
    assert corrected[-1] == (corrected[1][0], "set", 4)
    chip = page.locator(f'[data-tile="{corrected[-1][0]}"] [data-score]')
    for number, key in enumerate(("p", "7"), 4):
        page.keyboard.press("Space")
        page.keyboard.press(key)
        saved(page, world, number)
    expect(chip).to_have_text("7")
    page.keyboard.press("Backspace")
    expect(chip).to_have_text("≥ 5")
    page.keyboard.press("Control+a")
    expect(page.locator("#chosen")).to_have_text("10 selected")
    page.keyboard.press("Escape")
    expect(page.locator("#chosen")).to_have_text("Select images")


@pytest.mark.browser
def test_dragging_selects_what_it_passes(world: World, page: Page) -> None:
    first, third = (page.locator("[data-tile]").nth(n).bounding_box() for n in (0, 2))
    page.mouse.move(first["x"] + 60, first["y"] + 60)
    page.mouse.down()
    page.mouse.move(third["x"] + 60, third["y"] + 60, steps=8)
    page.mouse.up()
    expect(page.locator("#chosen")).to_have_text("3 selected")


@pytest.mark.browser
def test_without_a_script_tiles_are_check_boxes_and_buttons_score_them(
    world: World,
    chromium,
) -> None:
    with serving(world) as at, browsing(chromium, java_script_enabled=False) as page:
        page.goto(f"{at}{world.at}/score/grid")
        boxes = page.locator("[data-tile] input")
        boxes.nth(0).check()
        boxes.nth(1).check()
        page.get_by_role("button", name="Score 6").click()
        expect(page.get_by_text("Saved 2.")).to_be_visible()
        assert [value for _, _, value in events(world)] == [6, 6]
        page.get_by_role("button", name="Undo").click()
        expect(page.get_by_text("Taken back.")).to_be_visible()
        boxes.nth(0).check()
        page.get_by_role("button", name="Skip").click()
        assert events(world)[-1][1] == "skip"


@pytest.mark.browser
def test_what_is_said_offline_waits_in_order_and_survives_leaving(world: World, page: Page) -> None:
    there, tiles = page.url, page.locator("[data-tile]")
    page.route("**/api/v1/**", lambda route: route.abort())
    tiles.nth(0).click()
    tiles.nth(2).click(modifiers=["Shift"])
    page.keyboard.press("6")
    expect(page.locator("#chosen")).to_have_text("Select images")
    tiles.nth(0).click()
    tiles.nth(2).click(modifiers=["Shift"])
    page.keyboard.press("7")  # on second thoughts; the first is not saved yet
    expect(page.locator("#outbox")).to_contain_text("2 keys waiting to be saved; nothing is lost")
    page.goto(there.replace("score/grid", "library"))
    assert events(world) == []
    page.goto(there)
    expect(page.locator("#outbox")).to_contain_text("2 keys waiting to be saved")
    page.unroute("**/api/v1/**")
    page.evaluate("dispatchEvent(new Event('online'))")
    assert [value for _, _, value in saved(page, world, 6)] == [6] * 3 + [7] * 3
    expect(page.locator("#outbox")).to_be_hidden()


@pytest.mark.browser
def test_what_waits_from_many_is_sent_by_the_page_for_one(world: World, page: Page) -> None:
    page.route("**/api/v1/**", lambda route: route.abort())
    page.locator("[data-tile]").nth(0).click()
    page.keyboard.press("6")
    expect(page.locator("#outbox")).to_contain_text("1 key waiting to be saved")
    page.unroute("**/api/v1/**")
    page.goto(page.url.replace("/grid", ""))
    assert [value for _, _, value in saved(page, world, 1)] == [6]
