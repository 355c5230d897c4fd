"""A page belongs to the person it was opened for: what it says is saved as theirs or not at all."""

import html
import re
from pathlib import Path

import pytest
from in_browser import browsing, saved, serving, shown_image
from playwright.sync_api import Browser, expect
from sqlmodel import select
from web_world import World, embed_all, events, make_world, score_some

from tastemaker import projects
from tastemaker.auth import accounts
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Comparison, ScoreEvent
from tastemaker.errors import Conflict


@pytest.fixture
def world(tmp_path: Path) -> World:
    """“me” opened the pages; then somebody chose Anna in the same browser."""
    world = make_world(tmp_path, images=8)
    score_some(world, [7, 7])
    with writing(world.engine) as session:
        accounts.add(session, "Anna")
    return world


def become(world: World, name: str) -> None:
    assert world.client.post("/person", data={"name": name}).status_code == 303


def id_of(world: World, name: str) -> int:
    with reading(world.engine) as session:
        return accounts.by_name(session, name).id


SAID = [
    ("scores", {"image_id": 3, "value": 4}),
    ("scores", {"image_id": 3, "kind": "skip"}),
    ("scores", {"image_id": 3, "kind": "flag"}),
    ("undo", {}),
    ("batches", {"images": [{"image_id": 3}], "value": 4, "key": "a-long-key"}),
    ("batches/undo", {}),
    ("comparisons", {"first_id": 1, "second_id": 2, "verdict": "first"}),
    ("comparisons/undo", {}),
]


@pytest.mark.parametrize(("path", "body"), SAID)
def test_what_a_page_of_somebody_else_says_is_refused_and_nothing_is_saved(
    world: World, path: str, body: dict[str, object]
) -> None:
    opened_for = {"Tastemaker-Opened-For": str(id_of(world, "me"))}
    become(world, "Anna")
    answer = world.client.post(f"/api/v1{world.at}/{path}", json=body, headers=opened_for)
    assert answer.status_code == 409 and answer.json()["code"] == "somebody-else"
    assert answer.json()["error"] == (
        "This page was opened by me; you score as Anna now. Nothing was saved."
    )
    assert events(world) == [(1, "set", 7), (2, "set", 7)]
    with reading(world.engine) as session:
        assert session.exec(select(Comparison)).all() == []


def test_without_a_person_in_the_request_it_is_whoever_asks(world: World) -> None:
    become(world, "Anna")
    said = {"image_id": 3, "value": 4}
    assert world.client.post(f"/api/v1{world.at}/scores", json=said).status_code == 200
    with reading(world.engine) as session:
        newest = session.exec(select(ScoreEvent).order_by(ScoreEvent.id.desc())).first()
        assert newest.annotator_id == accounts.by_name(session, "Anna").id


def test_a_page_of_somebody_shut_out_meanwhile_scores_for_nobody(world: World) -> None:
    become(world, "Anna")
    opened_for = {"Tastemaker-Opened-For": str(id_of(world, "Anna"))}
    said = {"image_id": 3, "value": 4}
    with writing(world.engine) as session:
        accounts.disable(session, accounts.by_name(session, "Anna"))
    answer = world.client.post(f"/api/v1{world.at}/scores", json=said, headers=opened_for)
    assert answer.status_code == 409 and len(events(world)) == 2


def test_the_forms_of_every_page_that_scores_say_whose_page_it_is(world: World) -> None:
    pages = ("score", "score/grid", "score/pairs", "images/1")
    shown = {page: world.client.get(f"{world.at}/{page}").text for page in pages}
    assert "You score as" in shown["score"] and ">me</a>" in shown["score"]
    become(world, "Anna")
    sent = 0
    for page, text in shown.items():
        for form in re.findall(r'<form[^>]*method="post".*?</form>', text, re.S):
            action = re.search(r'action="([^"]*)"', form)[1]
            if 'name="opened_for"' not in form:
                assert "/score" not in action and "undo" not in action, (page, action)
                continue
            found = re.findall(r'name="([^"]*)" value="([^"]*)"', form)
            fields = {name: html.unescape(value) for name, value in found}
            fields |= {"value": "4", "verdict": "first", "image": "3:0:"}
            if action.endswith("/library/changes"):
                fields["image"] = "1"
            answer = world.client.post(action, data=fields)
            assert answer.status_code == 409 and "opened by me" in answer.text, (page, action)
            sent += 1
    assert sent >= 9 and len(events(world)) == 2
    assert ">Anna</a>" in world.client.get(f"{world.at}/score").text


def test_who_scores_is_not_said_where_there_is_only_one(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=2)
    assert "You score as" not in world.client.get(f"{world.at}/score").text


def test_a_name_in_other_letters_is_not_another_person(world: World) -> None:
    with writing(world.engine) as session:
        for name in ("anna", "ANNA", "Me"):
            with pytest.raises(Conflict, match="is a name in use"):
                accounts.add(session, name)
        assert [one.name for one in accounts.list_all(session)] == ["me", "Anna"]
        assert projects.annotator(session, "Anna").name == "Anna"


@pytest.mark.browser
def test_a_key_in_a_tab_of_somebody_else_waits_until_they_score_again(
    world: World, chromium: Browser
) -> None:
    with serving(world) as at, browsing(chromium) as page:
        page.goto(f"{at}{world.at}/score")
        image = shown_image(page)
        page.context.request.post(f"{at}/person", form={"name": "Anna"}, headers={"Origin": at})
        page.keyboard.press("4")
        expect(page.locator("#toast")).to_contain_text("opened by me; you score as Anna now")
        expect(page.locator("#toast")).to_contain_text("waits here until me scores again")
        page.reload()  # Anna's page now
        expect(page.locator("#toast")).to_contain_text("1 score by me waits in this browser")
        page.keyboard.press(f"{5 if shown_image(page) else 0}")
        saved(page, world, 3)
        page.context.request.post(f"{at}/person", form={"name": "me"}, headers={"Origin": at})
        page.goto(f"{at}{world.at}/score")
        saved(page, world, 4)
        with reading(world.engine) as session:
            said = session.exec(select(ScoreEvent).order_by(ScoreEvent.id)).all()[2:]
            assert [(one.annotator_id, one.value) for one in said] == [
                (accounts.by_name(session, "Anna").id, 5), (accounts.by_name(session, "me").id, 4),
            ]  # fmt: skip
            assert said[1].image_id == image


@pytest.mark.browser
def test_who_is_signed_out_sees_at_once_where_to_sign_in_and_then_it_is_saved(
    tmp_path: Path, chromium: Browser
) -> None:
    password = "a long enough password"
    world = make_world(tmp_path, images=8, admin_password=password)
    embed_all(world)  # or the strip below the image asks again, and leads to the page to sign in on

    def signs_in() -> None:
        page.locator("[type=password]").fill(password)
        page.get_by_role("button", name="Sign in").click()

    with serving(world) as at, browsing(chromium) as page:
        page.goto(f"{at}/login?next={world.at}/score")
        signs_in()
        image = shown_image(page)
        page.context.request.post(f"{at}/logout", headers={"Origin": at})
        page.keyboard.press("4")
        expect(page.locator("#outbox")).to_contain_text("1 score waiting to be saved")
        page.locator("#outbox").get_by_role("button", name="Look").click()
        expect(page.locator("#waiting-groups").get_by_role("link", name="Sign in")).to_be_visible()
        page.keyboard.press("Escape")
        page.locator("#outbox").get_by_role("link", name="Sign in").click()
        signs_in()
        page.wait_for_url(f"{at}{world.at}/score")
        assert saved(page, world, 1) == [(image, "set", 4)]
