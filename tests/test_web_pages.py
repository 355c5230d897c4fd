"""The pages over HTTP: what they show, what their forms do, and how they say that something is
wrong."""

import html
import re
import threading
from html.parser import HTMLParser
from pathlib import Path

import pytest
from sqlmodel import Session, select
from web_world import (
    ORIGIN,
    World,
    add_image,
    add_job,
    add_version,
    client_of,
    embed_all,
    events,
    full_world,
    make_world,
    score_some,
    settings_in,
)

from tastemaker import jobs, projects, scores, versions
from tastemaker.database import installation
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import (
    Collection,
    Job,
    Label,
    Project,
    ScoreEvent,
    Version,
    now,
)
from tastemaker.jobs import failures
from tastemaker.pages.app import create_app
from tastemaker.pages.places import ReviewPlace
from tastemaker.pages.versions import activation
from tastemaker.scores import Offer, Origin, offers
from tests.flat_metrics import from_flat

HTMX = {"HX-Request": "true"}
REVIEWING = ReviewPlace(review="false-positives").text()


class Forms(HTMLParser):
    """Every form of a page: its address and what it would send without a press of a button."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.found.append((given["action"], {}))
        elif tag == "input" and self.found and "name" in given:
            self.found[-1][1][given["name"]] = given.get("value", "")

    def to(self, part: str) -> tuple[str, dict[str, str]]:
        return next(form for form in self.found if part in form[0])


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path, images=6)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Only looked at, never changed."""
    return full_world(tmp_path_factory.mktemp("full"))


def label(world: World, image_id: int) -> float | None:
    with reading(world.engine) as session:
        row = session.get(Label, (world.project_id, image_id))
        return None if row is None else row.value


# --- the first page ------------------------------------------------------------------------------


def test_the_empty_first_page_says_what_to_do_first(tmp_path: Path) -> None:
    client = client_of(create_app(settings_in(tmp_path)))
    page = client.get("/").text
    assert "Make the sample project" in page
    assert [action for action, _ in Forms(page).found] == ["/theme", "/demo", "/projects"]


def test_the_sample_library_is_one_job_however_often_it_is_asked_for(tmp_path: Path) -> None:
    client = client_of(create_app(settings_in(tmp_path)))
    first = client.post("/demo")
    assert first.status_code == 303
    assert client.post("/demo").headers["location"] == first.headers["location"]
    assert "It is being made" in client.get("/").text


def test_many_projects_are_looked_for_by_name_and_a_new_one_is_a_link_away(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=1)

    def add(*names: str) -> None:
        with writing(world.engine) as session:
            for name in names:
                projects.create(session, name)

    add(*(f"Series {number}" for number in range(10)), "Städte <b>")
    page = world.client.get("/").text
    assert 'name="q"' not in page, "twelve can be seen"
    assert '<a href="#new">New project</a>' in page and 'id="new"' in page
    add("Städte bei Nacht")
    page = world.client.get("/").text
    assert 'name="q"' in page and page.count('class="cover"') == 13
    found = world.client.get("/", params={"q": "nacht  STÄDTE"}).text
    assert re.findall(r'<b class="name" hx-ignore>(.*?)</b>', found) == ["Städte bei Nacht"]
    assert "“nacht  STÄDTE” in the name: 1 of 13 projects" in found and 'name="q"' in found
    none = world.client.get("/", params={"q": "<i>"}).text
    assert "0 of 13 projects" in none and "<i>" not in none and "New project" in none
    assert "Look around first" not in none


def test_of_many_projects_some_are_shown_at_once(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=1)
    with writing(world.engine) as session:
        for number in range(50):
            projects.create(session, f"Series {number:02}")

    def names(page: str) -> list[str]:
        return re.findall(r'<b class="name" hx-ignore>(.*?)</b>', page)

    def more(page: str) -> str:
        return html.unescape(re.search(r'href="(/\?[^"]*)" hx-get="\1"', page)[1])

    first = world.client.get("/").text
    assert len(names(first)) == 24 and "27 not shown yet" in first
    second = world.client.get(more(first)).text
    assert len(names(second)) == 24 and "3 not shown yet" in second
    assert '<a class="button" href="/">First page</a>' in second
    alone = world.client.get(more(first), headers={"HX-Request": "true"}).text
    assert names(alone) == names(second) and "<h1>" not in alone
    last = world.client.get(more(second)).text
    assert "That is all of them." in last
    shown = [*names(first), *names(second), *names(last)]
    assert len(set(shown)) == len(shown) == 51
    found = world.client.get("/", params={"q": "series"}).text
    assert "50 of 51 projects" in found and more(found).startswith("/?q=series&after=")
    assert names(world.client.get(more(found)).text)[-1] == "Series 47"


def test_every_project_says_what_it_needs_next(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=20)

    def told() -> tuple[str, str]:
        card = world.client.get("/").text.split('class="panel">')[1]
        return re.findall(r'<p class="small"><a href="([^"]+)">([^<]+)</a>', card)[0]

    assert told() == (f"{world.at}/score", "Score 20 more to train")
    score_some(world, [index % 11 for index in range(20)])
    assert told() == (f"{world.at}/versions", "Train the first version")
    add_version(world, 0, {})
    with writing(world.engine) as session:
        version = session.get(Version, 1)
        assert version is not None
        version.active = True
        version.event_high = scores.highest_event(session, world.project(session))
        session.add(version)
    assert told() == (f"{world.at}/review/false-positives", "Review what v1.0 gets wrong")
    score_some(world, [5] * 20)
    assert told() == (f"{world.at}/versions", "20 new scores since v1.0: train")


def test_while_nothing_is_embedded_the_strip_says_what_training_waits_for(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=20)
    score_some(world, [index % 11 for index in range(20)])
    train = f'action="{world.at}/train"'
    strip = world.client.get(f"{world.at}/score/strip").text
    assert "Train, as soon as the first images are embedded" in strip
    assert train not in strip and ">Versions</a>" not in strip
    embed_all(world)
    strip = world.client.get(f"{world.at}/score/strip").text
    assert train in strip and "as soon as" not in strip


def test_a_new_project_leads_to_adding_images(world: World) -> None:
    answer = world.client.post("/projects", data={"name": "  City  photos "})
    assert answer.status_code == 303
    page = world.client.get(answer.headers["location"])
    assert page.status_code == 200 and "City photos" in page.text


@pytest.mark.parametrize(("name", "status"), [("anime", 409), ("", 422), ("a/b", 422)])
def test_a_bad_project_name_gives_one_sentence_and_no_project(
    world: World, name: str, status: int
) -> None:
    answer = world.client.post("/projects", data={"name": name})
    assert answer.status_code == status and 'role="alert"' in answer.text
    assert Forms(answer.text).to("/projects")[1]["name"] == name
    with reading(world.engine) as session:
        assert len(session.exec(select(Project)).all()) == 1


# --- scoring -------------------------------------------------------------------------------------


def test_a_score_without_a_script_is_saved_and_the_next_image_comes(world: World) -> None:
    page = world.client.get(f"{world.at}/score").text
    action, fields = Forms(page).to("/score")
    answer = world.client.post(action, data=fields | {"value": "7"})
    assert answer.status_code == 303
    image_id = int(action.split("/")[4])
    assert label(world, image_id) == 7
    following = world.client.get(answer.headers["location"]).text
    assert Forms(following).to("/score")[0] != action
    assert "your score" in following


def test_the_same_form_sent_twice_is_one_score(world: World) -> None:
    action, fields = Forms(world.client.get(f"{world.at}/score").text).to("/score")
    for _ in range(3):
        assert world.client.post(action, data=fields | {"value": "4"}).status_code == 303
    assert len(events(world)) == 1


@pytest.mark.parametrize("value", ["11", "-1", "5.5", "", "ten", "NaN", "1e400"])
def test_what_is_no_score_changes_nothing(world: World, value: str) -> None:
    answer = world.client.post(f"{world.at}/images/1/score", data={"value": value})
    assert answer.status_code == 422 and "from 0 to 10" in answer.text
    assert events(world) == []


@pytest.mark.parametrize(
    ("path", "data", "status"),
    [
        ("images/999/score", {"value": "5"}, 404),
        ("images/1/score", {"value": "5", "queue": "best"}, 422),
        ("images/1/score", {"value": "5", "origin": "import"}, 422),
        ("images/1/score", {"value": "5", "expected": "many"}, 422),
        ("images/99999999999999999999/score", {"value": "5"}, 404),
        ("undo", {}, 404),
    ],
)
def test_a_request_that_makes_no_sense_changes_nothing(
    world: World, path: str, data: dict[str, str], status: int
) -> None:
    assert world.client.post(f"{world.at}/{path}", data=data).status_code == status
    assert events(world) == []


def test_two_tabs_get_one_score_and_one_answer_with_both_values(world: World) -> None:
    fields = {"expected": "0", "origin": "queue"}
    first = world.client.post(f"{world.at}/images/1/score", data=fields | {"value": "9"})
    second = world.client.post(f"{world.at}/images/1/score", data=fields | {"value": "2"})
    assert (first.status_code, second.status_code) == (303, 409)
    assert "9 there, 2 here" in second.text
    assert label(world, 1) == 9


@pytest.mark.parametrize("page", ["score", "score/grid", "score/pairs"])
def test_the_back_button_asks_for_a_page_to_score_on_anew(world: World, page: str) -> None:
    answer = world.client.get(f"{world.at}/{page}")
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")


def test_undo_shows_the_image_again(world: World) -> None:
    world.client.post(f"{world.at}/images/3/score", data={"value": "9"})
    answer = world.client.post(f"{world.at}/undo", data={"queue": "mixed"})
    assert label(world, 3) is None
    page = world.client.get(answer.headers["location"]).text
    assert Forms(page).to("/score")[0] == f"{world.at}/images/3/score"


def origins(world: World) -> list[tuple[str, str]]:
    """(kind, origin) of everything that was said, oldest first."""
    with reading(world.engine) as session:
        rows = session.exec(select(ScoreEvent).order_by(ScoreEvent.id)).all()
    return [(row.kind, row.origin) for row in rows]


def offer(world: World, image_id: int, what: Offer, person: str = "") -> str:
    """What a card of the image would bring back."""
    with writing(world.engine) as session:
        by = projects.annotator(session, person or world.settings.annotator)
        return scores.sign_offer(session, world.project_id, image_id, by.id, what)


def offered(world: World, action: str, fields: dict[str, str]) -> Offer:
    """What the server reads in the offer of a form."""
    with writing(world.engine) as session:
        person = projects.annotator(session, world.settings.annotator)
        image_id = int(action.split("/")[4])
        found = offers.read(session, world.project_id, image_id, person.id, fields["offer"])
    assert found is not None
    return found


def test_an_image_that_was_flagged_first_stays_flagged_when_it_is_scored(world: World) -> None:
    action, fields = Forms(world.client.get(f"{world.at}/score").text).to("/flag")
    answer = world.client.post(action, data=fields | {"note": "odd"})
    page = world.client.get(answer.headers["location"]).text
    assert "Flagged." in page and "You can still score it." in page
    assert 'id="previous" hidden' in page, "the prediction comes after the score"
    action, again = Forms(page).to("/score")
    assert again["offer"] == fields["offer"] and offered(world, action, again).origin == "control"
    after = world.client.post(action, data=again | {"value": "6"})
    assert "Flagged." not in world.client.get(after.headers["location"]).text
    flagged = world.client.get(f"{world.at}/score?queue=flagged").text
    assert Forms(flagged).to("/score")[0] == action
    assert offered(world, *Forms(flagged).to("/score")).origin == "review"


@pytest.mark.parametrize("origin", [one for one in Origin if one != Origin.IMPORT])
def test_an_image_that_was_taken_back_is_scored_as_it_came(world: World, origin: Origin) -> None:
    form = {"value": "9", "offer": offer(world, 3, Offer(origin, "drawn at random"))}
    world.client.post(f"{world.at}/images/3/score", data=form)
    answer = world.client.post(f"{world.at}/undo", data={"queue": "mixed"})
    action, fields = Forms(world.client.get(answer.headers["location"]).text).to("/score")
    assert offered(world, action, fields) == Offer(origin, "drawn at random")
    world.client.post(action, data=fields | {"value": "4"})
    assert origins(world) == [("set", origin), ("undo", origin), ("set", origin)]
    told = world.client.post(f"/api/v1{world.at}/undo", json={"key": "a-long-key"}).json()
    assert told["card"]["origin"] == origin, "and so by the API"


# --- where a score came from ---------------------------------------------------------------------


def through(world: World, door: str, image_id: int, offer: str, claim: str = "control") -> int:
    """Score an image with 7 through one of the doors; the status of the answer."""
    said = {"value": "7", "offer": offer, "origin": claim, "reason": "they say"}
    one = {"image_id": image_id, "offer": offer, "origin": claim, "reason": "they say"}
    match door:
        case "form":
            answer = world.client.post(f"{world.at}/images/{image_id}/score", data=said)
        case "api":
            answer = world.client.post(f"/api/v1{world.at}/scores", json=one | {"value": 7})
        case "grid":
            answer = world.client.post(
                f"{world.at}/score/grid", data={"image": f"{image_id}:0:{offer}", "value": "7"}
            )
        case "batch":
            answer = world.client.post(
                f"/api/v1{world.at}/batches",
                json={"images": [one], "value": 7, "key": f"key-{image_id:05d}"},
            )
    return answer.status_code


DOORS = ("form", "api", "grid", "batch")


@pytest.fixture
def held_out(tmp_path: Path) -> World:
    """A project half of whose images only ever measure; and an image that is not in it."""
    world = make_world(tmp_path, images=12)
    with writing(world.engine) as session:
        project = world.project(session)
        project.holdout_share, project.seed = 0.5, 3  # the first and the last five have both sides
        session.add(project)
        elsewhere = Collection(name="Elsewhere")
        session.add(elsewhere)
        session.flush()
        add_image(session, world.settings, elsewhere, 99)
    return world


def came_from(world: World) -> list[tuple[str, str]]:
    with reading(world.engine) as session:
        rows = session.exec(select(ScoreEvent).order_by(ScoreEvent.id)).all()
    return [(row.origin, row.reason) for row in rows]


def measuring(world: World) -> int:
    with reading(world.engine) as session:
        labels = session.exec(select(Label)).all()
    assert any(one.holdout for one in labels)
    return sum(one.measures for one in labels)


@pytest.mark.parametrize("door", DOORS)
def test_what_a_client_claims_does_not_measure_and_what_the_server_offered_does(
    held_out: World, door: str
) -> None:
    drawn = Offer(Origin.CONTROL, "random sample (for evaluation)")
    forged = offer(held_out, 1, drawn)
    broken = forged[:-2] + ("AA" if forged[-2:] != "AA" else "BB")
    bad = ["", "control", broken, offer(held_out, 12, drawn), offer(held_out, 4, drawn, "Anna")]
    for image_id, token in enumerate(bad, 1):
        assert through(held_out, door, image_id, token) < 400
    reason = "" if door == "grid" else "they say"
    assert came_from(held_out) == [("api", reason)] * 5 and measuring(held_out) == 0
    for image_id in range(6, 13):
        assert through(held_out, door, image_id, offer(held_out, image_id, drawn)) < 400
    assert came_from(held_out)[5:] == [("control", "random sample (for evaluation)")] * 7
    assert measuring(held_out) > 0


@pytest.mark.parametrize("door", ["form", "api", "batch"])
@pytest.mark.parametrize("claim", ["queue", "re-ask", "review"])
def test_without_an_offer_a_score_is_a_programs_or_a_correction(
    held_out: World, door: str, claim: str
) -> None:
    assert through(held_out, door, 1, "", claim) < 400
    assert came_from(held_out) == [("review" if claim == "review" else "api", "they say")]
    assert not Origin.REVIEW.blind and not Origin.API.blind


def test_an_offer_holds_after_a_restart_and_days_later(held_out: World) -> None:
    action, fields = Forms(held_out.client.get(f"{held_out.at}/score").text).to("/score")
    installation._known.clear()  # as a new process
    again = client_of(create_app(held_out.settings))
    assert again.post(action, data=fields | {"value": "5"}).status_code == 303
    assert came_from(held_out)[0] == ("control", "random sample (for evaluation)")


@pytest.mark.parametrize("door", DOORS)
def test_an_image_that_is_not_in_the_project_is_not_scored(held_out: World, door: str) -> None:
    status = through(held_out, door, 13, offer(held_out, 13, Offer(Origin.QUEUE)))
    assert status == {"form": 404, "api": 404, "grid": 303, "batch": 200}[door]
    assert came_from(held_out) == [], "of a batch, the others would have been saved"


def test_the_library_and_the_comparison_score_no_image_that_is_not_in_the_project(
    held_out: World,
) -> None:
    at, client = held_out.at, held_out.client
    add_version(held_out, 0, {})
    add_version(held_out, 1, {})
    bulk = {"action": "score", "images": [13], "value": 3}
    for answer in (
        client.post(f"{at}/library/changes", data={"image": "13", "value": "3"}),
        client.post(f"/api/v1{at}/library", json=bulk),
        client.post(f"{at}/compare/images/13/score", data={"value": "3"}),
    ):
        assert answer.status_code == 404 and "is not in this project" in answer.text
    assert came_from(held_out) == []


def test_the_page_of_an_empty_project_leads_to_adding(tmp_path: Path) -> None:
    bare = make_world(tmp_path, images=0)
    assert f'href="{bare.at}/add"' in bare.client.get(f"{bare.at}/score").text


def test_a_page_that_waits_for_images_reloads_when_the_first_is_in(world: World) -> None:
    answer = world.client.get(f"{world.at}/score/waiting", headers=HTMX)
    assert answer.headers["hx-refresh"] == "true"
    score_some(world, [5] * 6)
    page = world.client.get(f"{world.at}/score").text
    assert "Everything here is scored" in page
    assert "hx-refresh" not in world.client.get(f"{world.at}/score/waiting").headers


def test_many_people_writing_at_once_never_wait_for_each_other_forever(world: World) -> None:
    """More writers than the server has threads: with the write lock held by a dependency, the
    holder would wait for a thread and the threads for the lock."""
    answers: list[int] = []

    def write(number: int) -> None:
        data = {"value": str(number % 11), "key": f"key-{number:04d}"}
        path = f"{world.at}/images/{number % 6 + 1}/score"
        answers.append(world.client.post(path, data=data).status_code)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(60)]
    with world.client:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert answers == [303] * 60
    assert len(events(world)) == 60


# --- review --------------------------------------------------------------------------------------


def test_review_shows_what_was_predicted_and_what_was_said(full: World) -> None:
    page = full.client.get(f"{full.at}/review/false-positives").text
    assert "picture-000.jpg" in page and "predicted <b>7.8" in page and "you said 2" in page
    page = full.client.get(f"{full.at}/review/false-negatives").text
    assert "picture-003.jpg" in page and "picture-000.jpg" not in page


def test_a_correction_answers_with_the_card_and_an_undo(tmp_path: Path) -> None:
    world = full_world(tmp_path)
    path = f"{world.at}/images/1/score"
    data = {"value": "8", "place": REVIEWING, "origin": "review"}
    answer = world.client.post(path, data=data, headers=HTMX)
    assert answer.status_code == 200 and "<html" not in answer.text
    for part in ("verdict-1", "scale-1", "counts"):
        assert f'id="{part}" hx-swap-oob="true"' in answer.text
    assert "predicted" not in answer.text.partition("<form")[0]  # the card keeps what it showed
    action, fields = Forms(answer.text).to("/undo")
    taken_back = world.client.post(action, data=fields, headers=HTMX)
    assert "Taken back" in taken_back.text and label(world, 1) == 2


def test_a_correction_without_a_script_comes_back_with_an_undo(tmp_path: Path) -> None:
    world = full_world(tmp_path)
    data = {"value": "8", "place": REVIEWING, "origin": "review"}
    answer = world.client.post(f"{world.at}/images/1/score", data=data)
    page = world.client.get(answer.headers["location"]).text
    action, fields = Forms(page).to("/undo")
    assert world.client.post(action, data=fields).status_code == 303
    assert label(world, 1) == 2


def test_review_before_the_first_version_says_what_to_do(world: World) -> None:
    assert "train a first version" in world.client.get(f"{world.at}/review/false-positives").text
    assert world.client.get(f"{world.at}/review/best").status_code == 404


# --- versions ------------------------------------------------------------------------------------


def test_the_versions_page_says_what_was_measured_on_what(full: World) -> None:
    page = full.client.get(f"{full.at}/versions").text
    assert "Measured on 60 hold-out images" in page
    assert "1.22" in page and "1.08–1.60" in page
    assert "Better than v1.0" in page


def test_a_figure_that_is_only_out_of_fold_says_so(world: World) -> None:
    metrics = {
        "images": 40, "holdout": {"n": 0, "mae": None},
        "out_of_fold": {"n": 40, "mae": 1.5, "mae_low": 1.2, "mae_high": 1.9, "fp_rate": 0.2,
                        "fn_rate": None, "spearman": 0.5},
    }  # fmt: skip
    add_version(world, 0, {}, metrics=metrics, curve={})
    page = world.client.get(f"{world.at}/versions").text
    assert "Cross-validated on 40 images that a queue or a person picked" in page


def test_both_files_download_under_the_name_of_project_and_version(full: World) -> None:
    answer = full.client.get("/versions/2/checkpoint")
    assert answer.content == b"the head of v1.1"
    assert 'filename="Anime-v1.1.safetensors"' in answer.headers["content-disposition"]
    answer = full.client.get("/versions/2/config")
    assert 'filename="Anime-v1.1.config.json"' in answer.headers["content-disposition"]


def test_an_altered_file_is_not_handed_out(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=0)
    version_id = add_version(world, 0, {})
    (world.settings.checkpoints / "Anime-v1.0.safetensors").write_bytes(b"something else")
    answer = world.client.get(f"/versions/{version_id}/checkpoint")
    assert answer.status_code >= 400 and b"something else" not in answer.content


def test_activating_moves_the_mark(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=0)
    first, second = add_version(world, 0, {}), add_version(world, 1, {})
    assert world.client.post(f"/versions/{first}/activate").status_code == 303
    with reading(world.engine) as session:
        rows = session.exec(select(Version.id).where(Version.active)).all()
    assert rows == [first] != [second]


def test_jobs_stay_in_the_project_one_came_from(world: World) -> None:
    link = f'href="/jobs?project={world.project_id}"'
    assert link in world.client.get(f"{world.at}/score").text
    inside = world.client.get(f"/jobs?project={world.project_id}").text
    assert f'href="{world.at}/library"' in inside and 'aria-current="page"' in inside
    for elsewhere in ("/jobs", "/jobs?project=99"):
        assert "/library" not in world.client.get(elsewhere).text


def test_while_the_first_images_come_in_no_page_says_that_there_are_none(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=0)
    pages = ("library", "score/grid", "review/false-positives", "versions", "compare", "publish")
    assert "There are no images" in world.client.get(f"{world.at}/library").text
    add_job(world, "running", "import")
    for page in pages:
        text = world.client.get(f"{world.at}/{page}").text
        assert "There are no images" not in text, page
    assert "The first images are on their way" in world.client.get(f"{world.at}/library").text


def test_a_job_that_waits_for_another_of_its_kind_says_so(world: World) -> None:
    """On every page that shows it, until the first has ended; an import runs beside another."""
    first = add_job(world, "running", "embed")
    second = add_job(world, "queued", "embed", message="", done=0, total=0)
    for page in ("/jobs", f"/jobs/{second}", f"/jobs/{second}/progress", "/jobs/list"):
        text = world.client.get(page).text
        assert f"waiting for job {first} to end" in text and "the worker" not in text, page
    with writing(world.engine) as session:
        jobs.get(session, first).state = "done"
    assert "waiting for the worker" in world.client.get(f"/jobs/{second}").text
    add_job(world, "running", "import", asked_by=1)
    add_job(world, "queued", "import", asked_by=2)
    assert "to end" not in world.client.get("/jobs/list").text


def test_train_queues_one_job_and_shows_it(world: World) -> None:
    embed_all(world)
    score_some(world, [1, 9, 5, 3])
    answer = world.client.post(f"{world.at}/train", data={"note": "first"}, headers=HTMX)
    assert 'id="training"' in answer.text and "<html" not in answer.text
    assert "waiting for the worker" in answer.text
    page = world.client.get(f"{world.at}/versions").text
    assert 'http-equiv="refresh"' in page  # without a script
    with reading(world.engine) as session:
        (job,) = session.exec(select(Job).where(Job.kind == "train")).all()
    assert job.payload["note"] == "first"


def test_a_correction_refused_for_a_newer_score_can_be_given_again(world: World) -> None:
    image_id = 3
    score_some(world, [7], first=image_id)
    at = f"{world.at}/images/{image_id}/score"
    form = {"value": "2", "expected": "0", "place": REVIEWING, "origin": "review"}
    refused = world.client.post(at, data=form, headers=HTMX)
    assert refused.status_code == 409 and "7 there, 2 here" in refused.text
    renewed = re.search(
        rf'name="expected" id="expected-{image_id}" value="(\d+)" hx-swap-oob="true"', refused.text
    )
    assert renewed
    again = world.client.post(at, data=form | {"expected": renewed[1]}, headers=HTMX)
    assert again.status_code == 200 and "Saved 2" in again.text


def test_training_on_nothing_is_refused_in_one_sentence(world: World) -> None:
    page = world.client.post(f"{world.at}/train")
    toast = world.client.post(f"{world.at}/train", headers=HTMX)
    assert page.status_code == toast.status_code == 409
    assert "nothing to learn from" in page.text and "nothing to learn from" in toast.text
    assert "<html" not in toast.text and toast.headers["hx-reswap"] == "none"
    program = world.client.post(f"/api/v1{world.at}/train", json={})
    assert "nothing to learn from" in program.json()["error"]
    with reading(world.engine) as session:
        assert session.exec(select(Job)).all() == []


@pytest.mark.parametrize(
    ("why", "versus", "told"),
    [
        ("first version", None, "Active (first version)."),
        ("better than v1.0 on 60 hold-out images", {"verdict": "better"}, ""),
        ("not activated: worse than v1.0", {"verdict": "worse"}, "It was not made active."),
        ("chosen by hand", {"verdict": "worse"}, "Active (chosen by hand)."),
    ],
)
def test_the_reason_for_activating_is_told_where_it_adds_something(
    why: str, versus: dict[str, str] | None, told: str
) -> None:
    version = Version(activation=why, active=True, metrics=from_flat({"versus_parent": versus}))
    assert activation(version) == told
    version.active = False
    assert activation(version) == told.replace("Active (", "It was active before (")


def test_only_the_active_version_is_called_active(world: World) -> None:
    first = add_version(world, 0, {}, metrics={}, activation="first version")
    second = add_version(world, 1, {}, metrics={}, activation="chosen by hand")
    for active, other in ((second, first), (first, second)):
        with writing(world.engine) as session:
            versions.activate(session, versions.get(session, active), "chosen by hand")
        card = world.client.get(f"{world.at}/versions").text
        assert card.count("Active (chosen by hand).") == 1
        assert card.count("It was active before (") == 1
        page = world.client.get(f"/versions/{other}").text
        assert "Not active." in page and "It was active before (" in page
        assert "It was active" not in world.client.get(f"/versions/{active}").text


def test_train_cannot_be_pressed_and_is_refused_with_the_same_sentence(world: World) -> None:
    embed_all(world)
    for score, sentence in (
        (3, "No image is scored yet"), (3, "Only one image is scored"),
        (8, "All 2 scored images have the same score of 3"),
    ):  # fmt: skip
        page = world.client.get(f"{world.at}/versions").text
        assert sentence in page and re.search(r"<button[^>]*disabled>Train", page)
        refused = world.client.post(f"{world.at}/train")
        assert refused.status_code == 409 and sentence in refused.text
        score_some(world, [score], first=count_scores(world) + 1)
    page = world.client.get(f"{world.at}/versions").text
    assert "disabled" not in page and re.search(r'<button class="primary" *>Train', page)


def count_scores(world: World) -> int:
    with reading(world.engine) as session:
        return len(session.exec(select(Label)).all())


def test_a_running_training_shows_its_bar_rate_and_time_left(world: World) -> None:
    job_id = add_job(world)
    page = world.client.get(f"{world.at}/versions/training?job_id={job_id}").text
    assert 'value="640"' in page and "120 a second" in page and "11" in page and "<svg" in page
    with writing(world.engine) as session:
        jobs.get(session, job_id).state = "done"
    answer = world.client.get(f"{world.at}/versions/training?job_id={job_id}")
    assert answer.headers["hx-refresh"] == "true"


# --- jobs ----------------------------------------------------------------------------------------


def test_a_failed_job_says_what_is_safe_and_can_be_retried(world: World) -> None:
    job_id = add_job(world, "failed", error="The disk is full.")
    page = world.client.get(f"/jobs/{job_id}").text
    assert "The disk is full." in page and "Your scores" in page and "fitting fold 1 of 5" in page
    assert world.client.post(f"/jobs/{job_id}/retry").status_code == 303
    assert world.client.post(f"/jobs/{job_id}/retry").status_code == 409
    with reading(world.engine) as session:
        assert jobs.get(session, job_id).state == "queued"
    page = world.client.get(f"/jobs/{job_id}").text
    assert "<dt>waiting since</dt>" in page and "ended</dt>" not in page


@pytest.mark.parametrize(
    ("kind", "there"),
    [("embed", "add#encoder"), ("import", "add"), ("train", "versions"), ("adopt", "publish#bring"),
     ("test-run", "test-runs/1")],
)  # fmt: skip
def test_a_failed_job_links_to_where_it_is_put_right(world: World, kind: str, there: str) -> None:
    cause = failures.NO_WEIGHTS if kind == "embed" else ""
    job_id = add_job(world, "failed", kind, error="No.", cause=cause, payload={"run": 1})
    for path in ("/jobs", f"/jobs/{job_id}"):
        page = world.client.get(path).text
        assert f'href="{world.at}/{there}"' in page.partition("<main")[2], path
    with writing(world.engine) as session:
        jobs.retry(session, job_id)
    assert "anew" not in world.client.get("/jobs").text


def test_what_an_import_set_aside_is_told_where_its_images_are_scored(world: World) -> None:
    result = {"added": 1, "known": 2, "set_aside": 4, "scored": 0, "first_reason": "a.txt: no"}
    job_id = add_job(world, "done", "import", result=result, finished_at=now())
    for path in (f"{world.at}/score", "/jobs", f"/jobs/{job_id}"):
        assert "1 new, 2 known already, 4 skipped" in world.client.get(path).text, path
    assert f'href="/jobs/{job_id}"' in world.client.get(f"{world.at}/score").text


def test_a_failed_embedding_is_told_with_a_retry(world: World) -> None:
    job_id = add_job(world, "failed", "embed", error="The weights are missing.")
    page = world.client.get(f"{world.at}/score").text
    assert "Embedding failed" in page and "The weights are missing." in page
    assert Forms(page).to(f"/jobs/{job_id}/retry") and "embedding: 0 of 6" not in page
    world.client.post(f"/jobs/{job_id}/retry")
    assert "Embedding failed" not in world.client.get(f"{world.at}/score").text


def test_a_page_that_watches_a_job_is_loaded_anew_when_it_ends(world: World) -> None:
    job_id = add_job(world, "running", "demo")
    for path in (f"/jobs/{job_id}/progress", "/jobs/list"):
        assert "hx-refresh" not in world.client.get(path, headers=HTMX).headers
    with writing(world.engine) as session:
        job = jobs.get(session, job_id)
        job.state, job.result = "done", {"project_id": world.project_id}
    assert world.client.get("/jobs/list", headers=HTMX).headers["hx-refresh"] == "true"
    page = world.client.get(f"/jobs/{job_id}").text
    assert page.index("Score images") < page.index("See the versions")
    with writing(world.engine) as session:
        jobs.get(session, job_id).kind = "import"
    watched = world.client.get(f"/jobs/{job_id}/progress", headers=HTMX)
    assert watched.headers["hx-refresh"] == "true"


def test_cancel_stops_a_waiting_job_and_asks_a_running_one(world: World) -> None:
    waiting, running = add_job(world, "queued"), add_job(world, "running")
    assert "cancelled" in world.client.post(f"/jobs/{waiting}/cancel", headers=HTMX).text
    assert "Stopping" in world.client.post(f"/jobs/{running}/cancel", headers=HTMX).text
    assert world.client.get("/jobs/99").status_code == 404


# --- settings ------------------------------------------------------------------------------------


def test_settings_are_kept(world: World) -> None:
    data = {
        "name": "Toons",
        "threshold": "6,25",
        "recipe": "ridge",
        "show_prediction_first": "true",
    }
    answer = world.client.post(f"{world.at}/settings", data=data)
    page = world.client.get(answer.headers["location"]).text
    assert "Settings saved" in page and 'value="6.25"' in page and 'value="Toons"' in page
    with reading(world.engine) as session:
        project = world.project(session)
        assert project.threshold == 0.625 and project.show_prediction_first


@pytest.mark.parametrize(
    "fields",
    [{"threshold": "0"}, {"threshold": "10"}, {"threshold": "nan"}, {"threshold": "half"},
     {"name": ""}, {"name": "a/b"}, {"name": "x" * 81}, {"recipe": "magic"}],
)  # fmt: skip
def test_bad_settings_change_nothing(world: World, fields: dict[str, str]) -> None:
    data = {"name": "Anime", "threshold": "5", "recipe": "auto"} | fields
    assert world.client.post(f"{world.at}/settings", data=data).status_code == 422
    with reading(world.engine) as session:
        project = world.project(session)
        assert (project.name, project.threshold, project.recipe) == ("Anime", 0.5, "auto")


def test_a_threshold_outside_its_range_is_told_in_points_and_the_form_is_kept(
    world: World,
) -> None:
    data = {"name": "Toons", "threshold": "50", "recipe": "ridge"}
    answer = world.client.post(f"{world.at}/settings", data=data)
    assert answer.status_code == 422
    assert "The threshold lies between 0.1 and 9.9 points." in answer.text
    assert 'value="Toons"' in answer.text and 'value="50"' in answer.text
    assert '<option value="ridge" selected>' in answer.text
    assert f'href="{world.at}/score"' in answer.text


# --- what holds for all --------------------------------------------------------------------------


def test_no_page_has_an_inline_script_or_style(full: World) -> None:
    paths = ["/", f"{full.at}/score", f"{full.at}/review/false-positives", f"{full.at}/versions",
             f"{full.at}/add", f"{full.at}/settings", "/jobs", "/jobs/1", "/nothing"]  # fmt: skip
    for path in paths:
        text = full.client.get(path).text
        assert " style=" not in text and "<style" not in text and " onclick" not in text, path
        assert text.count("<script") == text.count("<script src="), path
        assert "hx-on" not in text and "js:" not in text, path


def test_an_error_keeps_the_navigation_and_leads_back(world: World) -> None:
    answer = world.client.get(
        f"{world.at}/review/best", headers={"Referer": f"http://localhost{world.at}/versions?x=1"}
    )
    assert answer.status_code == 404 and "<h1" in answer.text
    assert f'href="{world.at}/settings"' in answer.text
    assert f'class="button" href="{world.at}/versions?x=1"' in answer.text
    for elsewhere in ("http://evil.example/x", "http://localhost//evil.example/x"):
        answer = world.client.get("/nothing", headers={"Referer": elsewhere})
        assert "evil" not in answer.text and "To the first page" in answer.text


def test_an_unknown_page_is_a_404_in_every_form(world: World) -> None:
    assert "no such page" in world.client.get("/nothing").text
    assert world.client.get("/projects/x/score").status_code == 404
    assert world.client.get("/projects/99/score").status_code == 404
    assert world.client.get("/api/v1/nothing").json()["error"] == "There is no such page."


@pytest.mark.parametrize(
    ("asked", "there"),
    [
        ("/projects/1/", "/projects/1"), ("/jobs/", "/jobs"), ("/projects", "/"),
        ("/projects/?x=1", "/?x=1"),
        ("/projects/1/library/?name=a%26b", "/projects/1/library?name=a%26b"),
        ("/projects/%0d%0aX:%20y/library/", "/projects/%0D%0AX%3A%20y/library"),
        ("/projects/99/", "/projects/99"), ("/nothing/", None), ("/nothing", None),
        ("//evil.example/", None), ("//evil.example/projects/", None), ("/\\evil.example/", None),
        ("/%2Fevil.example/", None), ("/%2Fprojects/", None),
        ("/api/v1/projects/", None), ("/api/v1/projects/1/", None),
    ],
)  # fmt: skip
def test_a_page_with_a_slash_too_many_is_found_and_nothing_leads_elsewhere(
    world: World, asked: str, there: str | None
) -> None:
    for method in ("GET", "HEAD"):
        answer = world.client.request(method, f"{ORIGIN}{asked}")
        assert (answer.status_code, answer.headers.get("location")) == (
            (404, None) if there is None else (308, there)
        )


@pytest.mark.sqlite
def test_a_busy_database_is_a_503_that_keeps_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tastemaker.database.sessions.BUSY_SECONDS", 0.05)
    other = make_engine_with_short_wait(world)
    world.app.state.engine = other
    with Session(world.engine.execution_options(begin="IMMEDIATE")) as session:
        session.connection()  # begins, and never commits
        answer = world.client.post(f"{world.at}/images/1/score", data={"value": "5"})
    assert answer.status_code == 503 and answer.headers["retry-after"] == "2"
    assert "nothing was saved" in answer.text
    assert events(world) == []


def make_engine_with_short_wait(world: World) -> object:
    from tastemaker.database.sessions import make_engine

    return make_engine(world.settings)
