"""Every library has a random id: what a page or a browser's outbox of one says is never saved in
another, and every answer says whose it is and what exactly it is about."""

import html
import re
from pathlib import Path

import pytest
from sqlmodel import select
from web_world import World, add_version, events, full_world, make_world, score_some

from tastemaker.database.sessions import reading
from tastemaker.database.tables import Comparison, Image

HEADER = "Tastemaker-Library"
ANOTHER = "0123456789abcdef"


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = make_world(tmp_path, images=6)
    score_some(world, [7, 7])
    return world


def library(world: World) -> str:
    return str(world.app.state.library)


SAID = [
    ("scores", {"image_id": 3, "value": 4, "key": "a-long-key"}),
    ("scores", {"image_id": 3, "kind": "skip", "key": "a-long-key"}),
    ("undo", {"key": "a-long-key"}),
    ("batches", {"images": [{"image_id": 3}], "value": 4, "key": "a-long-key"}),
    ("batches/undo", {"key": "a-long-key"}),
    ("comparisons", {"first_id": 1, "second_id": 2, "verdict": "first"}),
]


@pytest.mark.parametrize(("path", "body"), SAID)
def test_what_is_meant_for_another_library_is_refused_and_nothing_is_saved(
    world: World, path: str, body: dict[str, object]
) -> None:
    address = f"/api/v1{world.at}/{path}"
    answer = world.client.post(address, json=body, headers={HEADER: ANOTHER})
    assert answer.status_code == 409 and answer.json()["code"] == "another-library"
    assert "waits in this browser" in answer.json()["hint"]
    assert events(world) == [(1, "set", 7), (2, "set", 7)]
    with reading(world.engine) as session:
        assert session.exec(select(Comparison)).all() == []
    assert world.client.post(address, json=body, headers={HEADER: library(world)}).status_code < 300


@pytest.mark.parametrize(("path", "body"), SAID[:5])
def test_an_answer_that_something_is_saved_names_the_library_and_the_key(
    world: World, path: str, body: dict[str, object]
) -> None:
    answer = world.client.post(f"/api/v1{world.at}/{path}", json=body)
    told = answer.json()
    assert (told["saved"], told["library"], told["key"]) == (True, library(world), "a-long-key")
    assert answer.headers[HEADER] == library(world)


def test_every_refusal_says_whose_it_is_and_a_final_one_what_it_is_about(world: World) -> None:
    at = f"/api/v1{world.at}"
    said = {"image_id": 1, "value": 4, "expected": 0, "key": "a-long-key"}
    stale = world.client.post(f"{at}/scores", json=said)
    assert stale.status_code == 409 and stale.headers[HEADER] == library(world)
    about = {name: stale.json()[name] for name in ("code", "image_id", "key", "newest")}
    assert about == {"code": "stale", "image_id": 1, "key": "a-long-key", "newest": 1}
    late = world.client.post(f"{at}/undo", json={"event_id": 1, "key": "a-long-key"}).json()
    assert (late["code"], late["key"]) == ("no-undo", "a-long-key")
    for path, body in (("scores", {"image_id": 99, "value": 4}), ("scores", {}), ("nowhere", {})):
        refusal = world.client.post(f"{at}/{path}", json=body)
        assert 400 <= refusal.status_code < 500 and "code" not in refusal.json()
        assert refusal.headers[HEADER] == library(world)


def test_a_score_lands_only_on_the_pixels_that_were_seen(world: World) -> None:
    """Two copies of a library share its id, and may have grown apart."""
    with reading(world.engine) as session:
        third, fourth = (session.get(Image, image_id).sha256 for image_id in (3, 4))
    at, said = f"/api/v1{world.at}", {"image_id": 3, "value": 4}
    refusal = world.client.post(f"{at}/scores", json=said | {"sha256": fourth})
    assert refusal.status_code == 409 and refusal.json()["code"] == "another-image"
    items = [{"image_id": 3, "sha256": fourth}, {"image_id": 4, "sha256": fourth}]
    batch = world.client.post(
        f"{at}/batches", json={"images": items, "value": 5, "key": "a-long-key"}
    ).json()
    assert list(batch["events"]) == ["4"] and list(batch["refused"]) == ["3"]
    assert batch["stale"] == []
    assert world.client.post(f"{at}/scores", json=said | {"sha256": third}).status_code == 200
    assert events(world)[2:] == [(4, "set", 5), (3, "set", 4)]


def test_of_a_batch_those_scored_elsewhere_meanwhile_are_told_apart(world: World) -> None:
    items = [{"image_id": 1, "expected": 0}, {"image_id": 99}, {"image_id": 3}]
    body = {"images": items, "value": 5, "key": "a-long-key"}
    batch = world.client.post(f"/api/v1{world.at}/batches", json=body).json()
    assert set(batch["refused"]) == {"1", "99"} and batch["stale"] == [1]


def test_every_form_that_scores_names_its_library_and_is_refused_by_another(
    tmp_path: Path,
) -> None:
    world = full_world(tmp_path)
    add_version(world, 2, {})
    posted = 0
    for page in ("score", "score/grid", "score/pairs", "review/false-positives", "images/1"):
        text = world.client.get(f"{world.at}/{page}").text
        for form in re.findall(r"<form[^>]*>.*?</form>", text, re.DOTALL):
            if 'name="opened_for"' not in form:
                continue
            action = html.unescape(re.findall(r'action="([^"]+)"', form)[0])
            fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', form))
            assert fields["opened_in"] == library(world)
            before = events(world)
            body = fields | {"opened_in": ANOTHER, "value": "4"}
            assert world.client.post(action, data=body).status_code == 409, action
            assert events(world) == before
            posted += 1
    assert posted >= 7


def test_what_is_read_for_a_page_of_another_library_is_refused_as_well(world: World) -> None:
    """Else its pictures and those of this library would be scored as one."""
    for path in ("queue", "history", "images/1"):
        answer = world.client.get(f"/api/v1{world.at}/{path}", headers={HEADER: ANOTHER})
        assert answer.status_code == 409 and answer.json()["code"] == "another-library"


PROXIED = [
    ({"Sec-Fetch-Site": "same-origin"}, "A proxy between the browser and Tastemaker changes"),
    ({"X-Forwarded-For": "10.0.0.7"}, "A proxy between the browser and Tastemaker changes"),
    ({}, "This request came from taste.lan:8080, and Tastemaker is asked as localhost"),
]


@pytest.mark.parametrize(("more", "text"), PROXIED)
def test_behind_a_proxy_that_changes_the_host_the_refusal_names_it_and_the_settings(
    world: World, more: dict[str, str], text: str
) -> None:
    headers = {"Origin": "http://taste.lan:8080"} | more
    for answer in (
        world.client.post(f"/api/v1{world.at}/scores", json=SAID[0][1], headers=headers),
        world.client.post(f"{world.at}/undo", data={}, headers=headers),
    ):
        assert answer.status_code == 403 and text in answer.text
        for remedy in (
            "proxy_set_header Host $http_host",
            "ProxyPreserveHost On",
            "add taste.lan to TASTEMAKER_ALLOWED_HOSTS",
        ):
            assert remedy in answer.text
    assert len(events(world)) == 2


def test_a_name_that_is_not_allowed_is_named_with_the_setting(world: World) -> None:
    answer = world.client.get("/api/v1/projects", headers={"Host": "taste.lan:8000"})
    assert answer.status_code == 403
    assert "add taste.lan to TASTEMAKER_ALLOWED_HOSTS" in answer.json()["hint"]


def test_a_page_that_comes_without_its_style_says_why(tmp_path: Path) -> None:
    """As behind a proxy that serves it under a path: nothing but the style sheet hides the line."""
    world = make_world(tmp_path / "home", images=1)
    page = world.client.get(f"{world.at}/score").text
    assert page.index("came without its style") < page.index("skip-link")
    style = world.client.get("/static/app.css").text
    assert ".no-style { display: none !important; }" in style
