"""The library's pages: filters, paging, what is done to many images, one image's whole story;
with and without a script."""

import csv
import io
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from in_browser import browsing, serving, troubles
from playwright.sync_api import Browser, Page, expect
from sqlmodel import col, select
from web_world import World, add_image, events, full_world, make_world, score_some

from tastemaker import projects, scores
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import (
    Collection,
    CollectionImage,
    Image,
    ImagePath,
    Label,
    RemovedImage,
    Slice,
    Tag,
)
from tastemaker.errors import Unavailable
from tastemaker.library import bulk, filters, saved_filters, tags
from tastemaker.live import model_requests
from tastemaker.pages import library
from tastemaker.pages import library_view as pages


@pytest.fixture
def world(tmp_path: Path) -> World:
    return full_world(tmp_path)


@pytest.fixture
def at(world: World) -> str:
    return f"{world.at}/library"


def change(world: World, *images: int, **fields: str) -> Any:
    form = {"image": [str(i) for i in images], **fields}
    return world.client.post(f"{world.at}/library/changes", data=form)


def shown(html: str) -> list[int]:
    """The ids of the tiles, in their order."""
    return [int(i) for i in re.findall(r'id="tile-(\d+)"', html)]


def stored(world: World, table: Any, *columns: Any) -> set[Any]:
    with reading(world.engine) as session:
        rows = session.execute(select(*columns)).all()
    return {tuple(row) if len(row) > 1 else row[0] for row in rows}


def labels(world: World) -> dict[int, float]:
    with reading(world.engine) as session:
        return dict(session.execute(select(Label.image_id, Label.value)).tuples().all())


# --- looking -------------------------------------------------------------------------------------


def test_the_library_shows_the_newest_first_with_score_and_prediction(
    world: World, at: str
) -> None:
    page = world.client.get(at)
    assert page.status_code == 200
    assert shown(page.text) == list(range(30, 0, -1))
    assert "30 images" in page.text
    assert "predictions by v1.1" in page.text
    tile = page.text[page.text.index('id="tile-1"') :]
    assert "7.8" in tile and "hold-out" not in tile


@pytest.mark.parametrize(
    ("query", "count"),
    [("scored=yes", 21), ("scored=no", 9), ("label_min=8", 4), ("predicted_from=6", 3),
     ("name=PICTURE-01", 10), ("predicted_min=60&label_max=2", 2), ("collection=1", 30),
     ("removed=yes", 0), ("said=flagged", 0), ("version=v1.0&predicted_min=1", 0)],
)  # fmt: skip
def test_each_filter_narrows_the_grid_and_says_to_how_many(
    world: World, at: str, query: str, count: int
) -> None:
    page = world.client.get(f"{at}?{query}")
    assert len(shown(page.text)) == count
    if count not in (0, 30):
        assert f"{count} of 30 images" in page.text


@pytest.mark.parametrize("sort", pages.ORDERS)
def test_every_order_has_an_address(world: World, at: str, sort: str) -> None:
    page = world.client.get(f"{at}?sort={sort}")
    assert page.status_code == 200
    assert shown(page.text)
    assert re.search(r"<option[^>]*selected>" + re.escape(pages.ORDERS[sort][0]), page.text)


def test_links_without_a_script_lead_through_everything_once(
    world: World, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "PER_PAGE", 7)
    seen: list[int] = []
    address = f"{at}?sort=predicted-high"
    while address:
        page = world.client.get(address)
        seen += shown(page.text)
        found = re.search(r'<a class="button" href="(\?[^"]*after=[^"]*)"', page.text)
        address = f"{at}{found[1].replace('&amp;', '&')}" if found else ""
    assert len(seen) == 30
    assert seen[:3] == [1, 5, 2]
    assert len(set(seen)) == 30


def test_htmx_gets_the_next_tiles_alone(
    world: World, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "PER_PAGE", 7)
    answer = world.client.get(f"{at}?after=24", headers={"HX-Request": "true"})
    assert shown(answer.text) == list(range(23, 16, -1))
    assert "<html" not in answer.text
    assert 'hx-swap-oob="beforeend:#shelf"' in answer.text


@pytest.mark.parametrize(
    "query",
    [
        "sort=size",
        "label_min=12",
        "after=x",
        "like=abc",
        "like=99999",
        "collection=77",
        "version=v7.7",
    ],
)
def test_an_address_that_means_nothing_is_answered_in_words(
    world: World, at: str, query: str
) -> None:
    answer = world.client.get(f"{at}?{query}")
    assert answer.status_code in (400, 404, 422)
    assert "<h1" in answer.text
    program = world.client.get(f"/api/v1{at}?{query}")
    assert program.status_code == answer.status_code
    assert program.json()["error"]


def test_empty_states_say_what_to_do(world: World, at: str, tmp_path: Path) -> None:
    assert "Nothing matches" in world.client.get(f"{at}?name=nowhere").text
    assert "is above the highest, 2" in world.client.get(f"{at}?label_min=8&label_max=2").text
    ranged = world.client.get(f"{at}?predicted_from=8&predicted_to=2").text
    assert "asked for, 8, is above the highest, 2." in ranged
    assert "Nothing was taken out" in world.client.get(f"{at}?removed=yes").text
    empty = make_world(tmp_path / "empty", images=0)
    assert "Add images" in empty.client.get(f"{empty.at}/library").text
    assert "no version yet" in make_world(tmp_path / "one", images=1).client.get(
        f"{empty.at}/library?sort=predicted-high"
    ).text  # fmt: skip


def test_near_duplicates_share_a_tile_that_opens(world: World, at: str) -> None:
    with writing(world.engine) as session:
        for image_id in (3, 9, 12):
            image = session.get(Image, image_id)
            assert image is not None
            image.source_group = "kin"
            session.add(image)
    page = world.client.get(at)
    assert {3, 9, 12} & set(shown(page.text)) == {3}
    assert "×3<" in page.text
    assert shown(world.client.get(f"{at}?relatives=3&apart=yes").text) == [12, 9, 3]
    assert {3, 9, 12} <= set(shown(world.client.get(f"{at}?apart=yes").text))


# --- searching by likeness -----------------------------------------------------------------------


def test_a_search_shows_the_nearest_first_and_the_filter_holds(
    world: World, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def ask(engine: Any, kind: str, payload: dict[str, Any], **_: Any) -> dict[str, Any]:
        asked.append((kind, payload))
        return {"images": [{"image_id": i, "similarity": 0.9} for i in (5, 2, 30, 28, 1)]}

    monkeypatch.setattr(model_requests, "call", ask)
    monkeypatch.setattr(library, "PER_PAGE", 2)
    first = world.client.get(f"{at}?like=7")
    assert shown(first.text) == [5, 2]
    after = re.search(r"\?(like=7&amp;after=\d+)", first.text)
    assert after
    second = world.client.get(f"{at}?{after[1].replace('&amp;', '&')}")
    assert shown(second.text) == [30, 28]
    assert asked == [("similar", {"image_id": 7, "limit": pages.ALIKE})], "asked once"
    assert shown(world.client.get(f"{at}?like=7&scored=no").text) == [30, 28]


def test_a_search_that_nobody_answers_says_so_and_offers_a_way_on(
    world: World, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: Any, **__: Any) -> dict[str, Any]:
        raise Unavailable("The worker is not running.", "Start it.")

    monkeypatch.setattr(model_requests, "call", ask)
    answer = world.client.get(f"{at}?like=7")
    assert answer.status_code == 503
    assert "The worker is not running." in answer.text
    assert "Show everything" in answer.text


def test_an_encoder_without_words_does_not_offer_to_look_for_them(world: World, at: str) -> None:
    assert 'name="text"' not in world.client.get(at).text
    answer = world.client.get(f"{at}?text=sunset")
    assert answer.status_code == 422
    assert "knows pictures only" in answer.text


# --- doing ---------------------------------------------------------------------------------------


def test_a_selection_is_scored_and_taken_back_as_one(world: World, at: str) -> None:
    before = labels(world)
    answer = change(world, 1, 2, 30, value="9", key="k" * 12)
    assert answer.status_code == 303
    assert labels(world) == before | {1: 9, 2: 9, 30: 9}
    page = world.client.get(answer.headers["location"])
    assert "Scored 3 images." in page.text
    event = re.search(r'name="event_id" value="(\d+)"', page.text)
    assert event
    undone = world.client.post(f"{at}/undo", data={"event_id": event[1], "queue": at})
    assert undone.headers["location"].startswith(at)
    assert labels(world) == before


def test_the_same_form_twice_scores_once(world: World) -> None:
    change(world, 29, 30, value="4", key="k" * 12)
    said = events(world)
    again = change(world, 29, 30, value="4", key="k" * 12)
    assert events(world) == said
    assert "Nothing changed" in world.client.get(again.headers["location"]).text


def test_everything_that_matches_is_changed_on_whatever_page_it_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "PER_PAGE", 3)
    answer = change(world, everything="yes", query="scored=no", action="tag", tag="later, look")
    assert answer.status_code == 303
    assert stored(world, Tag, Tag.image_id, Tag.tag) == {
        (i, tag) for i in range(22, 31) for tag in ("later", "look")
    }
    change(world, 22, action="untag", tag="later")
    assert (22, "later") not in stored(world, Tag, Tag.image_id, Tag.tag)


def test_images_are_put_into_a_new_collection_and_moved_on(world: World, at: str) -> None:
    change(world, 1, 2, action="put", collection="Best")
    assert {(2, 1), (2, 2)} <= stored(
        world, CollectionImage, CollectionImage.collection_id, CollectionImage.image_id
    )
    assert shown(world.client.get(f"{at}?collection=2").text) == [2, 1]
    change(world, 1, action="move", collection="Later", query="collection=2")
    assert shown(world.client.get(f"{at}?collection=2").text) == [2]
    assert shown(world.client.get(f"{at}?collection=3").text) == [1]
    assert len(shown(world.client.get(at).text)) == 30, "and it is still in the first one"


def test_taking_out_hides_an_image_everywhere_and_bringing_back_shows_it(
    world: World, at: str
) -> None:
    answer = change(world, 4, 30, action="remove")
    assert "No file was touched" in world.client.get(answer.headers["location"]).text
    assert not {4, 30} & set(shown(world.client.get(at).text))
    assert shown(world.client.get(f"{at}?removed=yes").text) == [30, 4]
    assert stored(world, RemovedImage, RemovedImage.image_id) == {4, 30}
    with reading(world.engine) as session:
        assert not {4, 30} & set(session.exec(projects.image_ids(world.project_id)))
    assert "Taken out of this project" in world.client.get(f"{world.at}/images/4").text
    change(world, 4, 30, action="restore")
    assert {4, 30} <= set(shown(world.client.get(at).text))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"value": "7"}, "No image is selected"),
        ({"image": "1", "value": "11"}, "not a score"),
        ({"image": "1", "action": "tag", "tag": " , "}, "No tag was typed"),
        ({"image": "1", "action": "put"}, "No collection was named"),
        ({"image": "1", "action": "move", "collection": "B"}, "out of which collection"),
        ({"image": "1", "action": "eat"}, "nothing one can do"),
        ({"image": "one", "value": "7"}, "is the number of one"),
        ({"everything": "yes", "query": "like=3", "action": "remove"}, "A search has no end"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words_and_changes_nothing(
    world: World, fields: dict[str, str], sentence: str
) -> None:
    before = (labels(world), stored(world, Tag, Tag.image_id), stored(world, CollectionImage,
              CollectionImage.collection_id), events(world))  # fmt: skip
    answer = world.client.post(f"{world.at}/library/changes", data=fields)
    assert 400 <= answer.status_code < 500
    assert sentence in answer.text
    after = (labels(world), stored(world, Tag, Tag.image_id), stored(world, CollectionImage,
             CollectionImage.collection_id), events(world))  # fmt: skip
    assert after == before


def test_another_projects_images_are_left_alone(world: World) -> None:
    with writing(world.engine) as session:
        other = projects.create(session, "Other")
        other_id = other.id
    answer = world.client.post(
        f"/projects/{other_id}/library/changes", data={"image": "1", "action": "remove"}
    )
    assert answer.status_code == 404 and "is not in this project" in answer.text
    assert stored(world, RemovedImage, RemovedImage.image_id) == set()
    assert world.client.get(f"/projects/{other_id}/images/1").status_code == 404


def test_going_back_leads_nowhere_else(world: World) -> None:
    for evil in ("//evil.example/x", "https://evil.example/", "/\\evil.example"):
        answer = change(world, 1, value="7", back=evil)
        assert answer.headers["location"].startswith(("/?", "/projects/"))


# --- saved filters -------------------------------------------------------------------------------


def test_a_filter_is_saved_listed_and_removed(world: World, at: str) -> None:
    form = {"name": "Best", "query": "predicted_min=60&scored=yes&sort=name"}
    answer = world.client.post(f"{at}/filters", data=form)
    assert answer.status_code == 303
    page = world.client.get(answer.headers["location"])
    assert "The filter is saved." in page.text
    assert 'aria-current="page">Best</a>' in page.text
    (definition,) = stored_json(world)
    assert definition == {"filter": {"predicted_min": 0.6, "scored": True}}
    assert world.client.post(f"{at}/filters/1/delete").status_code == 303
    assert stored_json(world) == []
    assert world.client.post(f"{at}/filters", data={"name": "x", "query": ""}).status_code >= 400


def stored_json(world: World) -> list[dict[str, Any]]:
    with reading(world.engine) as session:
        return list(session.exec(select(Slice.definition)))


# --- one image -----------------------------------------------------------------------------------


def test_an_image_has_its_whole_story_on_its_page(world: World, tmp_path: Path) -> None:
    here = tmp_path / "p.jpg"
    here.write_bytes(b"x")
    with writing(world.engine) as session:
        project = world.project(session)
        me = projects.annotator(session, world.settings.annotator)
        scores.record(session, project, 1, me, "flag", note="blurred <b>")
        scores.undo(session, project, me)
        tags.add(session, [1], ["a&b"])
        for path, size in ((here, 1), (tmp_path / "gone.jpg", 1)):
            mtime = path.stat().st_mtime_ns if path.exists() else 0
            session.add(ImagePath(path=str(path), image_id=1, size=size, mtime_ns=mtime))
    page = world.client.get(f"{world.at}/images/1")
    assert page.status_code == 200
    for said in ("took back", "the flag", "blurred &lt;b&gt;", "a&amp;b", "File missing",
                 "moved or deleted since", "without having seen it", "Pictures"):  # fmt: skip
        assert said in page.text, said
    facts = world.client.get(f"/api/v1{world.at}/library/1").json()
    assert [(h["kind"], h["stands"]) for h in facts["history"]] == [
        ("undo", False), ("flag", False), ("set", True),
    ]  # fmt: skip
    assert facts["tags"] == ["a&b"]
    assert facts["predictions"][0]["out_of_fold"] == 0.78
    assert world.client.get(f"{world.at}/images/999").status_code == 404


def test_a_score_is_corrected_on_the_images_page_and_taken_back_there(world: World) -> None:
    here = f"{world.at}/images/21"
    assert "Undo" in world.client.get(here).text, "it was scored last"
    answer = change(world, 21, value="0", back=here)
    assert answer.headers["location"].startswith(f"{here}?")
    assert labels(world)[21] == 0
    page = world.client.get(here)
    event = re.search(r'name="event_id" value="(\d+)"', page.text)
    assert event
    back = world.client.post(f"{world.at}/library/undo", data={"event_id": event[1], "queue": here})
    assert back.headers["location"].startswith(here)
    assert labels(world)[21] == 4


def test_names_and_tags_that_are_markup_stay_text(world: World, at: str) -> None:
    evil = '"><img src=x onerror=alert(1)>'
    with writing(world.engine) as session:
        image = session.get(Image, 1)
        assert image is not None
        image.name = evil
        session.add(image)
        tags.add(session, [1], [evil])
    for address in (at, f"{world.at}/images/1", f"{at}?tag={evil}&name=onerror"):
        assert "<img src=x" not in world.client.get(address).text


# --- for programs --------------------------------------------------------------------------------


def test_programs_page_through_the_library_by_its_cursor(world: World) -> None:
    api = f"/api/v1{world.at}/library"
    ids: list[int] = []
    after = ""
    while True:
        answer = world.client.get(api, params={"n": 8, "sort": "score-high", "after": after}).json()
        ids += [image["image_id"] for image in answer["images"]]
        after = answer["next"]
        if not after:
            break
    assert len(ids) == len(set(ids)) == 21
    values = [labels(world)[i] for i in ids]
    assert values == sorted(values, reverse=True)
    assert answer["count"] == {"images": 30, "exact": True}


def test_programs_change_many_images_and_save_filters(world: World) -> None:
    api = f"/api/v1{world.at}"
    body: dict[str, Any] = {"action": "score", "filter": {"scored": False}, "value": 3}
    answer = world.client.post(f"{api}/library", json=body).json()
    assert (answer["chosen"], answer["changed"]) == (9, 9)
    undo = world.client.post(f"{api}/undo", json={"event_id": answer["event_id"]})
    assert undo.status_code == 200
    assert len(labels(world)) == 21
    for bad in ({"action": "score", "images": [1]}, {"action": "burn", "images": [1]},
                {"action": "tag", "images": [1], "tags": []}, {"action": "remove", "images": []},
                {"action": "remove", "filter": {"x": 1}},
                {"action": "tag", "extra": 1}):  # fmt: skip
        assert 400 <= world.client.post(f"{api}/library", json=bad).status_code < 500, bad
    made = world.client.post(f"{api}/filters", json={"name": "F", "filter": {"scored": True}})
    assert made.status_code == 201
    listed = world.client.get(f"{api}/filters").json()
    assert listed == [{"id": made.json()["id"], "name": "F", "filter": {"scored": True}}]
    assert world.client.delete(f"{api}/filters/{made.json()['id']}").status_code == 204
    world.client.post(f"{api}/library", json={"action": "tag", "images": [1, 2], "tags": ["sea"]})
    assert world.client.get(f"{api}/tags").json() == [
        {"tag": "sea", "images": 2, "estimated": False}
    ]
    assert world.client.get(f"{api}/tags?begin=s").json() == [{"tag": "sea"}]


def test_two_people_at_once_lose_nothing(world: World) -> None:
    """A bulk action works in parts; scores that arrive in between stand."""
    threads = [
        threading.Thread(target=change, args=(world, *range(1, 31)), kwargs={"value": "5"}),
        threading.Thread(target=score_some, args=(world, [9] * 3, 28)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(labels(world)) == set(range(1, 31))
    assert all(value == 5 for i, value in labels(world).items() if i < 28)


# --- in a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, str]]:
    world = full_world(tmp_path_factory.mktemp("served"))
    with writing(world.engine) as session:
        project = world.project(session)
        tags.add(session, [1, 2, 3], ["sea"])
        bulk.remove(session, project, [20])
        saved_filters.save(session, project, "At sea", filters.from_dict({"tags": ["sea"]}))
    with serving(world) as url:
        yield world, url


def pick(page: Page, image_id: int) -> Any:
    return page.locator(f"#tile-{image_id} [data-pick]")


@pytest.mark.browser
def test_a_range_is_selected_scored_by_a_key_corrected_and_taken_back(
    chromium: Browser, served: tuple[World, str]
) -> None:
    world, url = served
    before = labels(world)
    with browsing(chromium) as page:
        page.goto(f"{url}{world.at}/library")
        expect(page.locator("#changes")).to_be_hidden()
        pick(page, 30).click()
        pick(page, 27).click(modifiers=["Shift"])
        expect(page.locator("#selected")).to_have_text("4 selected")
        page.keyboard.press("8")
        expect(page.locator("#toast")).to_contain_text("Scored 4 images.")
        expect(page.locator("#tile-28 .chip")).to_have_text("8")
        expect(page.locator("#selected")).to_have_text("4 selected")
        page.keyboard.press("9")
        expect(page.locator("#tile-28 .chip")).to_have_text("9")
        assert {i: labels(world)[i] for i in range(27, 31)} == dict.fromkeys(range(27, 31), 9)
        page.keyboard.press("Escape")
        expect(page.locator("#changes")).to_be_hidden()
        page.keyboard.press("Backspace")
        page.wait_for_url("**done=undone**")
        expect(page.locator("#tile-28 .chip")).to_have_text("8")
        # A filter applies as soon as it is chosen, asks for nothing that was left empty, and its
        # field keeps the focus.
        page.locator("[name=sort]").select_option("name")
        page.wait_for_url("**/library?sort=name")
        expect(page.locator("[name=sort]")).to_be_focused()
        expect(page.locator("#show")).to_be_hidden()
        # So do words once the typing pauses; however often it does, it is one step back.
        page.locator("#filters [name=name]").press_sequentially("picture")
        page.wait_for_url("**/library?name=picture&sort=name")
        expect(page.locator("#filters [name=name]")).to_be_focused()
        page.keyboard.type("-1")
        page.wait_for_url("**/library?name=picture-1&sort=name")
        expect(page.locator("#filters [name=name]")).to_have_value("picture-1")
        page.go_back()
        page.wait_for_url("**/library?sort=name")
    with writing(world.engine) as session:
        person = projects.annotator(session, world.settings.annotator)
        scores.undo(session, world.project(session), person)
    assert labels(world) == before


@pytest.mark.browser
def test_a_saved_filter_of_a_long_name_fits_a_phone(
    chromium: Browser, served: tuple[World, str]
) -> None:
    world, url = served
    with writing(world.engine) as session:
        asked = filters.from_dict({"tags": ["sea"], "name": "picture"})
        long = saved_filters.save(session, world.project(session), "w" * 110, asked).id
    with browsing(chromium) as page:
        page.set_viewport_size({"width": 390, "height": 844})
        page.goto(f"{url}{world.at}/library?tag=sea&name=picture")
        page.locator(".save-filter summary").click()
        expect(page.get_by_role("button", name="Remove the saved filter")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == 390
    with writing(world.engine) as session:
        saved_filters.delete(session, world.project(session), long)


@pytest.mark.browser
def test_by_keyboard_alone_one_walks_selects_scores_and_opens(
    chromium: Browser, served: tuple[World, str]
) -> None:
    world, url = served
    with browsing(chromium) as page:
        page.goto(f"{url}{world.at}/library?apart=yes")
        page.keyboard.press("ArrowRight")
        expect(page.locator("#tile-30 .shelf-picture")).to_be_focused()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Shift+ArrowRight")
        expect(page.locator("#selected")).to_have_text("2 selected")
        expect(pick(page, 29)).to_be_checked()
        page.keyboard.press("Control+a")
        expect(page.locator("#selected")).to_have_text("29 selected")
        page.keyboard.press("Escape")
        page.keyboard.press("1")
        expect(page.locator("#tile-28 .chip")).to_have_text("1")
        page.locator("#tile-28 .shelf-picture").focus()
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_have_text("picture-027.jpg")
        page.keyboard.press("6")
        expect(page.locator("#toast")).to_contain_text("Scored 1 image.")
        assert labels(world)[28] == 6
        for _ in range(2):
            page.keyboard.press("Backspace")
            page.wait_for_url("**done=undone**")
            page.goto(f"{url}{world.at}/images/28")
        assert 28 not in labels(world)


@pytest.mark.browser
def test_tags_and_taking_out_change_the_tiles_in_their_place(
    chromium: Browser, served: tuple[World, str]
) -> None:
    world, url = served
    with browsing(chromium) as page:
        page.goto(f"{url}{world.at}/library")
        pick(page, 25).click()
        page.get_by_role("button", name="Take out of the project").click()
        expect(page.locator("#tile-25")).to_contain_text("taken out")
        assert 25 in stored(world, RemovedImage, RemovedImage.image_id)
        page.goto(f"{url}{world.at}/library?removed=yes")
        pick(page, 25).click()
        page.get_by_role("button", name="Bring back").click()
        expect(page.locator("#toast")).to_contain_text("Brought back: 1 image.")
        assert 25 not in stored(world, RemovedImage, RemovedImage.image_id)


@pytest.mark.browser
def test_scrolling_brings_the_next_tiles(
    chromium: Browser, served: tuple[World, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, url = served
    monkeypatch.setattr(library, "PER_PAGE", 12)
    with browsing(chromium, java_script_enabled=True) as page:
        page.set_viewport_size({"width": 800, "height": 500})
        page.goto(f"{url}{world.at}/library")
        expect(page.locator(".shelf-tile")).to_have_count(12)
        page.mouse.wheel(0, 20_000)
        expect(page.locator(".shelf-tile")).to_have_count(24)
        page.mouse.wheel(0, 20_000)
        expect(page.locator(".shelf-tile")).to_have_count(29)
        expect(page.locator("#pager")).to_contain_text("That is all of them.")
        ids = page.locator(".shelf-tile").evaluate_all("tiles => tiles.map(t => t.id)")
        assert len(set(ids)) == 29


@pytest.mark.browser
def test_without_a_script_one_filters_selects_and_scores(
    chromium: Browser, served: tuple[World, str]
) -> None:
    world, url = served
    before = labels(world)
    with browsing(chromium, java_script_enabled=False) as page:
        page.goto(f"{url}{world.at}/library")
        page.get_by_label("File name contains").fill("picture-02")
        page.get_by_role("button", name="Show").click()
        expect(page.locator(".shelf-tile")).to_have_count(10)
        pick(page, 23).check()
        pick(page, 24).check()
        page.get_by_role("button", name="Score 10").click()
        expect(page.locator("#toast")).to_contain_text("Scored 2 images.")
        assert labels(world) == before | {23: 10, 24: 10}
        page.locator("#toast").get_by_role("button", name="Undo").click()
        expect(page.locator("#toast")).to_contain_text("Taken back.")
        expect(page.locator(".shelf-tile")).to_have_count(10)
    assert labels(world) == before


@pytest.mark.browser
def test_nothing_is_wrong_for_those_who_see_or_point_differently(
    chromium: Browser, served: tuple[World, str]
) -> None:
    world, url = served
    with browsing(chromium) as page:
        for address in ("library", "library?tag=sea&predicted_min=20", "library?name=none",
                        "library?removed=yes", "images/1", "images/30"):  # fmt: skip
            page.goto(f"{url}{world.at}/{address}")
            assert troubles(page) == [], address


# --- taken away ----------------------------------------------------------------------------------


def test_what_the_filter_shows_is_listed_and_copied(
    world: World, at: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    listed = world.client.get(f"{at}.csv?label_min=8")
    rows = list(csv.DictReader(io.StringIO(listed.text)))
    assert len(rows) == 4 and all(float(row["score"]) >= 8 for row in rows)
    assert {row["predicted_by"] for row in rows} == {"v1.1"}
    with reading(world.engine) as session:
        labels = dict(
            session.execute(
                select(Image.sha256, Label.value).join(Label, col(Label.image_id) == Image.id)
            ).all()
        )
    assert {row["sha256"]: float(row["score"]) for row in rows} == {
        sha256: value for sha256, value in labels.items() if value >= 8
    }
    # The files: two are there, of one name; the others are gone.
    outside = tmp_path_factory.mktemp("outside")  # of the program's own folder
    folder, into = outside / "photos", outside / "best"
    with writing(world.engine) as session:
        for number, row in enumerate(rows[:2]):
            path = folder / str(number) / "same.jpg"
            path.parent.mkdir(parents=True)
            path.write_bytes(f"picture {number}".encode())
            image = session.exec(select(Image).where(Image.sha256 == row["sha256"])).one()
            image.name = "same.jpg"
            status = path.stat()
            session.add(
                ImagePath(
                    path=str(path), image_id=image.id, size=status.st_size,
                    mtime_ns=status.st_mtime_ns,
                )
            )  # fmt: skip
    form = {"query": "label_min=8", "folder": str(into)}
    for sentence, extra in (("Copied 2 files", "Of 2 the file is gone"),
                            ("Copied 0 files", "2 were in the folder already")):  # fmt: skip
        answer = world.client.post(f"{at}/copy", data=form)
        page = world.client.get(answer.headers["location"]).text
        assert sentence in page and extra in page
    assert {path.name: path.read_bytes() for path in into.iterdir()} == {
        "same.jpg": b"picture 0", "same-1.jpg": b"picture 1",
    }  # fmt: skip
    api = world.client.post(
        f"/api/v1{at}/copies", json={"folder": str(into), "query": "name=nowhere"}
    )
    assert api.json() == {"copied": 0, "there": 0, "gone": 0}


@pytest.mark.parametrize(
    ("query", "folder", "sentence"),
    [("", "", "No folder was named"), ("", "best", "not a full path"),
     ("", "HOME/images", "own folder"), ("text=a+cat", "/tmp/x", "A search"),
     ("predicted_from=5&version=live", "/tmp/x", "live model"), ("", "/proc/x", "/proc/x")],
)  # fmt: skip
def test_copies_that_cannot_be_made_are_refused_before_any(
    world: World, at: str, query: str, folder: str, sentence: str
) -> None:
    folder = folder.replace("HOME", str(world.settings.root))
    answer = world.client.post(f"/api/v1{at}/copies", json={"query": query, "folder": folder})
    assert answer.status_code >= 400 and sentence in str(answer.json())


def test_images_of_test_runs_are_shown_where_the_filter_asks_for_them(
    world: World, at: str
) -> None:
    with writing(world.engine) as session:
        tried = Collection(name="Holiday")
        session.add(tried)
        session.flush()
        projects.add_collection(session, world.project(session), tried, "test-run")
        ids = {add_image(session, world.settings, tried, number).id for number in range(40, 43)}
        collection = tried.id
    assert not ids & set(shown(world.client.get(at).text))
    assert "30 images" in world.client.get(at).text
    for query in ("role=test-run", f"collection={collection}"):
        page = world.client.get(f"{at}?{query}").text
        assert set(shown(page)) == ids and "3 images" in page, query
    scored = world.client.get(f"{at}?collection={collection}&scored=yes").text
    assert "Nothing matches" in scored and "0 of 3 images" in scored
    assert world.client.get(f"{at}?role=both").status_code == 422
    assert change(world, *ids, action="tag", tag="sea").status_code == 303  # they are its own
    end = world.client.get(f"{at}?after=1").text
    assert "That was all of them" in end and "First page" in end
