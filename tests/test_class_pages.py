"""The pages, the API and the commands of a project with classes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from class_world import Classes, class_home, open_classes
from fastapi.testclient import TestClient
from sqlalchemy import event
from sqlmodel import col, select
from web_world import events, make_world

from tastemaker import projects
from tastemaker.cli import commands
from tastemaker.database import sessions
from tastemaker.database.tables import (
    ClassPrediction,
    Collection,
    Job,
    Label,
    Version,
    VersionLabel,
)
from tastemaker.evaluation import class_comparison, slices
from tastemaker.library import bulk, scopes
from tastemaker.library.filters import LibraryFilter
from tastemaker.pages import kinds
from tastemaker.pages.app import all_routers
from tastemaker.queues import confusion
from tastemaker.scores import class_changes, classes
from tests.command_line import Run
from tests.desk import png

API = "/api/v1/projects/1"


@pytest.fixture
def made(tmp_path: Path) -> Classes:
    return open_classes(class_home(tmp_path / "home"))


@pytest.fixture
def trained(tmp_path: Path) -> Classes:
    return open_classes(class_home(tmp_path / "home", train=True))


def words(made: Classes, image_id: int) -> str:
    with sessions.reading(made.engine) as session:
        return classes.of(session, 1).words(made.labelled(image_id))


# --- making one ----------------------------------------------------------------------------------


def test_a_class_project_is_made_on_the_first_page(tmp_path: Path) -> None:
    world = make_world(tmp_path / "home", images=0)
    form = {"name": "Kinds", "labelling": "classes", "classes": "photo, drawing\nlogo"}
    answer = world.client.post("/projects", data=form)
    assert answer.status_code == 303 and answer.headers["location"] == "/projects/2/add"
    told = world.client.get("/api/v1/projects/2/classes").json()
    assert [(row["name"], row["key"], row["labels"]) for row in told] == [
        ("photo", "1", 0), ("drawing", "2", 0), ("logo", "3", 0),
    ]  # fmt: skip
    again = world.client.post("/projects", data=form | {"name": "More", "classes": "only"})
    assert again.status_code == 422 and "at least two classes" in again.text
    assert 'value="More"' in again.text and ">only</textarea>" in again.text, "as it was filled in"


def test_the_api_makes_projects_with_classes_or_tags_and_refuses_bad_ones(tmp_path: Path) -> None:
    client = make_world(tmp_path / "home", images=0).client
    body = {"name": "Tags", "labelling": "tags", "classes": ["dog", "beach"]}
    made = client.post("/api/v1/projects", json=body)
    assert (made.status_code, made.json()["kind"], made.json()["labelling"]) == (
        201, "class", "tags",
    )  # fmt: skip
    for bad, code in (
        ({"name": "A", "labelling": "classes", "classes": ["x", "X"]}, 409),
        ({"name": "A", "labelling": "classes"}, 422),
        ({"name": "A", "classes": ["x", "y"]}, 422),
        ({"name": "A", "labelling": "ranks"}, 422),
    ):
        assert client.post("/api/v1/projects", json=bad).status_code == code, bad


# --- labelling -----------------------------------------------------------------------------------


def test_the_room_has_a_button_and_a_key_for_each_class_and_works_without_a_script(made) -> None:
    client = made.world.client
    page = client.get("/projects/1/score").text
    assert re.findall(r'name="value" value="(\d)"[^>]*><span hx-ignore>(\w+)', page) == [
        ("0", "photo"), ("1", "drawing"), ("2", "logo"),
    ]  # fmt: skip
    keys = json.loads(re.search(r'data-keys="([^"]*)"', page)[1].replace("&#34;", '"'))
    assert (keys["score-0"], keys["score-2"]) == (["1"], ["3"]) and "pick" not in keys
    form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))
    form = {k: v.replace("&#34;", '"').replace("&amp;", "&") for k, v in form.items()}
    image = int(re.search(r'data-image="(\d+)"', page)[1])
    answer = client.post(f"/projects/1/images/{image}/score", data=form | {"value": "2"})
    assert answer.status_code == 303 and words(made, image) == "logo"
    undone = client.post("/projects/1/undo", data={"place": form["place"]})
    assert undone.status_code == 303 and made.labelled(image) is None


def test_a_program_labels_by_number_or_name_and_learns_why_not(made) -> None:
    client = made.world.client
    for said, name in (({"value": 0}, "photo"), ({"class": "logo"}, "logo")):
        answer = client.post(f"{API}/scores", json={"image_id": 80, **said})
        assert answer.status_code == 200 and words(made, 80) == name
    for wrong in ({"value": 3}, {"class": "statue"}, {"value": -1}, {"value": 2**60}):
        refused = client.post(f"{API}/scores", json={"image_id": 80, **wrong})
        assert refused.status_code == 422 and "is no class" in refused.json()["error"]
    assert words(made, 80) == "logo"


def test_tags_are_boxes_that_are_saved_together(tmp_path: Path) -> None:
    made = open_classes(class_home(tmp_path / "home", labels=0, several=True))
    client = made.world.client
    assert client.get("/projects/1/score").text.count('type="checkbox" name="tag"') == 3
    for ticked, expected in ((["0", "2"], "photo, logo"), ([], "none of the tags")):
        form = {"value": "tags", "tag": ticked, "key": f"a key of {len(ticked)}"}
        assert client.post("/projects/1/images/5/score", data=form).status_code == 303
        assert words(made, 5) == expected
    odd = client.post("/projects/1/images/5/score", data={"value": "tags", "tag": ["77"]})
    assert odd.status_code == 422
    assert [value for _, _, value in events(made.world)] == [0b101, 0]


def test_somebodys_own_key_wins_over_that_of_a_class(made) -> None:
    client = made.world.client
    client.put(f"{API}/classes/1", json={"key": "s"})
    assert client.post("/keys", data={"skip": "s"}).status_code in (200, 303, 404)
    page = client.get("/projects/1/score").text
    keys = json.loads(re.search(r'data-keys="([^"]*)"', page)[1].replace("&#34;", '"'))
    taken = [key for action, held in keys.items() for key in held]
    assert len(taken) == len(set(taken))


# --- classes change ------------------------------------------------------------------------------


def test_classes_are_renamed_merged_added_and_deleted_on_their_page(made) -> None:
    client = made.world.client
    at = "/projects/1/classes"
    fields = {"name": "photograph", "key": "p", "colour": "4", "weight": "2.5"}
    assert client.post(f"{at}/0", data=fields).status_code == 303
    assert client.post(f"{at}/2/merge", data={"into": "1"}).status_code == 303
    assert client.post(at, data={"name": "sketch"}).status_code == 303
    rows = client.get(f"{API}/classes").json()
    assert [(row["name"], row["labels"]) for row in rows] == [
        ("photograph", 20), ("drawing", 40), ("sketch", 0),
    ]  # fmt: skip
    assert (rows[0]["weight"], rows[0]["colour"]) == (2.5, 4)
    twice = client.post(f"{at}/1", data=fields | {"key": "x"})
    assert twice.status_code == 409 and "Two classes would be called" in twice.text
    assert client.post(f"{at}/3/delete").status_code == 303
    assert client.post(f"{at}/1/delete").status_code == 409, "one class tells nothing apart"
    assert client.get(f"{at}?saved=Saved.").status_code == 200


def test_many_images_get_a_class_at_once_and_one_undo_takes_it_back(made) -> None:
    client = made.world.client
    page = client.get("/projects/1/score/grid").text
    assert 'name="value" value="2"' in page and "at_least" not in page and ">Pairs<" not in page
    boxes = re.findall(r'name="image" value="([^"]+)"', page)[:3]
    images = [int(box.split(":")[0]) for box in boxes]
    form = {"image": boxes, "value": "2", "key": "some key"}
    answer = client.post("/projects/1/score/grid", data=form)
    assert answer.status_code == 303 and "saved=3" in answer.headers["location"]
    assert {words(made, image) for image in images} == {"logo"}
    page = client.get("/projects/1/score/grid").text
    named = {"event_id": re.search(r'name="event_id" value="(\d+)"', page)[1]}
    assert client.post("/projects/1/score/grid/undo", data=named).status_code == 303
    assert client.post("/projects/1/score/grid/undo", data=named).status_code in (404, 409)
    assert [made.labelled(image) for image in images] == [None] * 3
    body = {"images": [{"image_id": i} for i in images], "value": 1, "key": "another key"}
    assert len(client.post(f"{API}/batches", json=body).json()["events"]) == 3
    assert (
        client.post(f"{API}/batches", json=body | {"value": 7, "key": "third key"}).status_code
        == 422
    )
    assert {words(made, image) for image in images} == {"drawing"}


def test_many_images_get_the_ticked_tags_at_once(tmp_path: Path) -> None:
    made = open_classes(class_home(tmp_path / "home", labels=0, several=True))
    client = made.world.client
    page = client.get("/projects/1/score/grid").text
    boxes = re.findall(r'name="image" value="([^"]+)"', page)[:2]
    form = {"image": boxes, "value": "tags", "tag": ["0", "2"], "key": "some key"}
    assert "saved=2" in client.post("/projects/1/score/grid", data=form).headers["location"]
    assert {words(made, int(box.split(":")[0])) for box in boxes} == {"photo, logo"}


def test_a_batch_reads_the_classes_once(made) -> None:
    asked: list[str] = []

    def note(connection, cursor, statement, *_: object) -> None:
        if "FROM project_class" in statement:
            asked.append(statement)

    event.listen(made.engine, "before_cursor_execute", note)
    body = {"images": [{"image_id": i} for i in range(70, 90)], "value": 1, "key": "some key"}
    assert made.world.client.post(f"{API}/batches", json=body).status_code == 200
    assert made.world.client.post(f"{API}/batches/undo", json={}).status_code == 200
    event.remove(made.engine, "before_cursor_execute", note)
    assert len(asked) == 2, "one each, for twenty labels"


# --- which pages serve which kind ----------------------------------------------------------------


def pages() -> dict[str, str]:
    """Every page of a project that needs no more in its address → which kinds it serves."""
    return {
        route.path.replace("{project_id}", "1").replace("{image_id}", "3").replace("{kind}", kind):
        kinds.served_by(route.endpoint.__module__.rpartition(".")[2], route.path)
        for router in all_routers() for route in router.routes
        for kind in (KINDS if "{kind}" in route.path else ("",))
        if "GET" in route.methods and route.path.startswith("/projects/{project_id}/")
        and set(re.findall(r"{(\w+)}", route.path)) <= {"project_id", "image_id", "kind"}
        and not route.path.endswith(("/score/waiting", "/adopting", "/training", "/try/{token}"))
    }  # fmt: skip


KINDS = ("doubtful", "contradictions")  # reviews of either kind of project
SERVED = (200, 303)


def statuses(client: TestClient) -> dict[str, int]:
    return {page: client.get(page).status_code for page in pages()}


def test_every_page_serves_a_project_with_classes_or_says_that_it_does_not(trained) -> None:
    client, served = trained.world.client, pages()
    for page in (
        "score",
        "score/grid",
        "library",
        "versions",
        "settings",
        "people",
        "publish",
        "add",
        "encoders",
        "compare",
        "slices",
        "test-runs",
        "try",
        "images/3",
        "review",
        "review/doubtful",
    ):
        assert served[f"/projects/1/{page}"] == "both", page
    for page, status in statuses(client).items():
        assert (status == 409) == (served[page] == "scores") and status in (*SERVED, 409), page
    for page in ("review/confused", "review/no-class"):
        assert client.get(f"/projects/1/{page}").status_code == 200, page
    refused = client.get("/projects/1/review/false-positives")
    assert refused.status_code == 404 and "confused, no-class, doubtful" in refused.text
    refused = client.get(f"{API}/review/false-positives")
    assert refused.status_code == 404 and "confused, no-class, doubtful" in refused.text
    refused = client.get("/projects/1/audits").text
    assert "this is for projects that score" in refused and "Review" in refused
    sweep = {"images": [{"image_id": 80}], "value": 1, "sweep": "below", "key": "a" * 12}
    refused = client.post(f"{API}/batches", json=sweep)
    assert refused.status_code == 422 and "no more or less" in refused.text
    for queue in (
        "mixed", "boundary", "diverse", "confused", "no-class", "doubtful", "contradictions",
        "re-ask", "random", "flagged", "skipped",
    ):  # fmt: skip
        assert client.get(f"/projects/1/score?queue={queue}").status_code == 200
    assert client.get(f"{API}/queue?queue=near-threshold").status_code == 404


def test_every_page_but_those_of_classes_serves_a_project_that_scores(tmp_path: Path) -> None:
    client, served = make_world(tmp_path / "home", images=3).client, pages()
    for page, status in statuses(client).items():
        assert (status == 409) == (served[page] == "classes") and status in (*SERVED, 409), page
    for page in ("review/confused", "review/no-class"):
        assert client.get(f"/projects/1/{page}").status_code == 404, page
        assert client.get(f"/api/v1/projects/1/{page}").status_code == 404, page
    for page in ("confusion", "classes", "routers"):
        answer = client.get(f"/projects/1/{page}")
        assert answer.status_code == 409 and "it has no classes" in answer.text


# --- versions ------------------------------------------------------------------------------------


def test_a_version_shows_its_figures_with_what_they_rest_on(trained) -> None:
    client = trained.world.client
    page = client.get("/versions/1").text
    assert "It gets the class right for" in page and "drawn at random" in page
    assert "always giving the commonest" in page and "of the original" in page
    assert re.search(r"gives 32 images the scores they have here, to within [\de-]+", page)
    assert "accuracy" in client.get("/projects/1/versions").text
    told = client.get("/api/v1/projects/1/versions").json()
    first = told[0] if isinstance(told, list) else told["versions"][0]
    assert first["classes"]["accuracy_n"] == 60 and first["mae"] is None


# --- the commands --------------------------------------------------------------------------------


def test_the_commands_make_list_change_and_count_classes(run: Run) -> None:
    made = run("project", "create", "Kinds", "--kind", "class", "--classes", "photo,drawing,logo")
    assert made.code == 0, made.err
    assert run("project", "create", "X", "--kind", "class").code == 1
    assert run("project", "create", "X", "--classes", "a,b").code == 1
    rows = run("classes", "list", "Kinds", "--json").json
    assert [row["name"] for row in rows] == ["photo", "drawing", "logo"]
    assert run("classes", "add", "Kinds", "sketch", "--key", "s").code == 0
    assert run("classes", "change", "Kinds", "photo", "--name", "real").code == 0
    assert run("classes", "merge", "Kinds", "logo", "drawing", "--yes").code == 0
    assert run("classes", "delete", "Kinds", "3", "--yes").code == 0
    assert [row["name"] for row in run("classes", "list", "Kinds", "--json").json] == [
        "real", "drawing",
    ]  # fmt: skip
    stats = run("stats", "Kinds").out
    assert stats.startswith("0 images in dataset.") and "drawing" in stats
    assert run("classes", "change", "Kinds", "photo", "--name", "x").code == 1
    assert run("project", "create", "Plain").code == 0
    assert "has no classes" in run("classes", "list", "Plain").err


# --- damaged twins -------------------------------------------------------------------------------


def test_pairs_are_asked_for_on_the_page_of_a_class_project_by_the_api_and_by_a_command(
    made, tmp_path, run: Run
) -> None:
    client, folder = made.world.client, tmp_path / "clean"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.png").write_bytes(png(number))
    asked = {"folder": str(folder), "damage": ["jpeg", "blur"], "clean": "photo"}
    page = client.get("/projects/1/add").text
    assert 'name="damage" value="jpeg"' in page and 'name="damage-jpeg"' in page
    wrong = client.post("/projects/1/add/folder", data=asked | {"damaged": "photo"})
    assert wrong.status_code == 422 and "would both be “photo”" in wrong.text
    assert 'value="blur" checked' in wrong.text, "as it was filled in"
    watched = client.post(
        "/projects/1/add/folder", data=asked | {"damaged": "logo", "watch": "true"}
    )
    assert watched.status_code == 422 and "no damaged twins" in watched.text
    for answer in (
        client.post("/projects/1/add/folder", data=asked | {"damaged": "logo"}),
        client.post(f"{API}/imports", json=asked | {"damaged": "logo"}),
        client.post(
            "/projects/1/add/files",
            files={"files": ("a.png", png(3))},
            data={"damage-blur": "blur", "damage-jpeg": "jpeg", "clean": "photo", "damaged": "2"},
        ),
    ):
        assert answer.status_code in (202, 303)
    with sessions.reading(made.engine) as session:
        jobs = session.exec(select(Job).where(Job.kind == "import")).all()
    pairs = {"kinds": ["jpeg", "blur"], "clean": 0, "damaged": 2, "seed": 5}
    assert [job.payload["synthetic"] for job in jobs] == [pairs] * 2, "one of a folder, one sent"
    for words, sentence in (
        (("--damage", "rust"), "no kind of damage"),
        (("--damage", "jpeg", "--clean", "photo", "--damaged", "cat"), "is no class"),
    ):
        assert sentence in run("import", "Kinds", folder, *words).sentence
    assert run("import", "Kinds", folder, "--clean", "photo").code == 2


def test_filters_and_the_confused_queue_read_a_merged_class_as_what_it_became(trained) -> None:
    with sessions.writing(trained.engine) as session:
        project = trained.project(session)
        version = trained.version()
        told = {
            row.image_id: row.predicted
            for row in session.exec(select(ClassPrediction).where(
                ClassPrediction.version_id == version.id
            ))
        }  # fmt: skip
        was = confusion.disagreements(session, project, version)
        class_changes.merge(session, project, 2, into=1)
        for number in (1, 2):  # a filter that was kept from before means the same
            for field, expected in (
                ("predicted_as", {image for image, said in told.items() if said in (1, 2)}),
                ("labelled", {i for i, kind in trained.kinds.items() if kind in (1, 2)}),
            ):
                ids = scopes.filtered_ids(session, project, LibraryFilter(**{field: number}))
                found = set(session.exec(ids))
                if field == "labelled":
                    found |= {i for i in expected if trained.labelled(i) is None}
                assert found == expected, (field, number)
        left = confusion.disagreements(session, project, version)
    apart = [row for row in was if {row.label, row.said} != {1, 2}]
    assert {row.image_id for row in left} == {row.image_id for row in apart}
    assert len(apart) < len(was)


def test_a_request_that_comes_twice_is_answered_though_its_class_is_gone(made) -> None:
    body = {"image_id": 80, "value": 2, "key": "one and the same"}
    first = made.world.client.post(f"{API}/scores", json=body)
    assert made.world.client.delete(f"{API}/classes/2").status_code == 200
    again = made.world.client.post(f"{API}/scores", json=body)
    assert again.status_code == 200 and again.json()["event_id"] == first.json()["event_id"]
    other = made.world.client.post(f"{API}/scores", json=body | {"value": 1})
    assert other.status_code == 409 and "another score" in other.json()["error"]


# --- a classifier in other projects --------------------------------------------------------------


def test_what_a_classifier_says_is_a_filter_and_a_slice_of_another_project(trained, run) -> None:
    with sessions.writing(trained.engine) as session:
        taste = projects.create(session, "Taste")
        collection = session.exec(select(Collection)).one()
        projects.add_collection(session, taste, collection, "pool")
    version = trained.version()
    with sessions.reading(trained.engine) as session:
        rows = select(ClassPrediction).where(ClassPrediction.version_id == version.id)
        logos = {row.image_id for row in session.exec(rows) if row.predicted == 2}
    client = trained.world.client
    page = client.get("/projects/2/library").text
    assert '<option value="1:2 Kinds: logo"' in page and "Classified as" in page
    assert "Classified as" not in client.get("/projects/1/library").text, "its own is Predicted as"
    for typed in ("1:2 Kinds: logo", "kinds:Logo", "1:2"):
        told = client.get(
            "/api/v1/projects/2/library", params={"classified": typed, "n": 90}
        ).json()
        assert {image["image_id"] for image in told["images"]} == logos, typed
        shown = client.get("/projects/2/library", params={"classified": typed}).text
        assert shown.count(" selected>") == page.count(" selected>") + 1, "the form keeps it"
    for wrong in ("Kinds:statue", "Taste:logo", "7:2", "1:999999"):
        answer = client.get("/api/v1/projects/2/library", params={"classified": wrong})
        assert answer.status_code == 404 and "No classifier here says" in answer.text

    added = run("slices", "add", "Taste", "Logos", "--filter", "classified=1:2 Kinds: logo")
    assert added.code == 0, added.err
    with sessions.writing(trained.engine) as session:
        (row,) = slices.listing(session, projects.get(session, 2))
        assert slices.in_words(session, row) == "library filter: classified Kinds: logo"
        assert set(slices.members(session, projects.get(session, 2), row).tolist()) == logos
        class_changes.change(session, trained.project(session), 2, name="emblem")
        class_changes.merge(session, trained.project(session), 1, into=2)
    second = trained.train()
    with sessions.reading(trained.engine) as session:
        rows = select(ClassPrediction).where(ClassPrediction.version_id == second.id)
        both = {row.image_id for row in session.exec(rows) if row.predicted == 2}
        (row,) = slices.listing(session, projects.get(session, 2))
        told = set(slices.members(session, projects.get(session, 2), row).tolist())
        assert slices.in_words(session, row) == "library filter: classified Kinds: emblem"
    assert told == both and len(both) > len(logos), "as the new version says"


def test_a_filter_by_predicted_class_goes_on_to_the_next_page(trained) -> None:
    client = trained.world.client
    assert client.get("/projects/1/library?predicted_as=1").status_code == 200
    kept = LibraryFilter(predicted_as=1, classified="1:2")
    assert kept.as_query() == "predicted_as=1&classified=1%3A2"


# --- two versions side by side --------------------------------------------------------------------


def test_two_versions_are_compared_class_by_class_on_images_that_neither_saw(trained, run) -> None:
    client = trained.world.client
    assert "There is only v1.0" in client.get("/projects/1/compare").text
    before = trained.version()
    wrong = [i for i, kind in trained.kinds.items() if kind == 0 and trained.labelled(i) == 0][:12]
    trained.label(dict.fromkeys(wrong, 1), origin="queue")  # the newer one learns nonsense
    after = trained.train()
    told = client.get(f"{API}/compare?a=v1.0&b=v1.1").json()
    with sessions.reading(trained.engine) as session:
        said = {
            (row.version_id, row.image_id): row.predicted
            for row in session.exec(select(ClassPrediction))
        }
        labels = dict(session.exec(select(VersionLabel.image_id, VersionLabel.value).where(
            VersionLabel.version_id == after.id
        )).all())  # fmt: skip
    judging = [i for i in labels if i in said_by(said, before) and i in said_by(said, after)]
    assert told["n"] == len(judging) == 60
    for share, version in (("old", before), ("new", after)):
        expected = sum(said[version.id, i] != labels[i] for i in judging) / len(judging)
        assert told["wrong"][share] == pytest.approx(expected)
    photo = told["classes"][0]
    hit = sum(said[after.id, i] == labels[i] == 0 for i in judging)
    assert photo["recall"]["new"] == pytest.approx(hit / photo["labelled"])
    assert photo["labelled"] == sum(value == 0 for value in labels.values())
    moved = [i for i in trained.kinds if said[before.id, i] != said[after.id, i]]
    assert (told["images"], told["changed"]) == (90, len(moved)) and moved
    assert sum(row["images"] for row in told["changes"]) == len(moved)

    page = client.get("/projects/1/compare").text
    assert "Class by class" in page and "Taken for something else" in page and "v1.1" in page
    lines = run("versions", "diff", "Kinds", "v1.0", "v1.1").out
    assert f"{len(moved)} of 90 images are taken for something else" in lines
    assert client.get("/projects/1/compare?a=v1.0&b=v1.0").status_code == 422
    place = json.dumps({"kind": "compare", "a": "v1.0", "b": "v1.1"})
    flip = client.post("/projects/1/images/3/score", data={"value": "1", "place": place})
    assert flip.status_code == 409 and "for projects that score" in flip.text

    change = told["changes"][0]
    was, now = (("photo", "drawing", "logo").index(change[side]) for side in ("before", "after"))
    at = f"/projects/1/compare?a=v1.0&b=v1.1&before={was}&after={now}"
    assert f'href="{at.removeprefix("/projects/1/compare")}#cell"' in page.replace("&amp;", "&")
    shown = re.findall(r'id="card-(\d+)"', client.get(at).text)
    with sessions.reading(trained.engine) as session:
        held = set(session.exec(select(Label.image_id).where(col(Label.holdout))))
    expected = {i for i in trained.kinds if (said[before.id, i], said[after.id, i]) == (was, now)}
    assert set(map(int, shown)) == expected - held and len(expected) == change["images"]
    assert len(expected & held) == change["held"] > 0  # a label must not follow a version
    assert "not shown: the hold-out only measures" in client.get(at).text
    flips = client.get(f"{API}/compare/flips", params={"was": was, "now": now}).json()
    assert [row["image_id"] for row in flips["flips"]] == list(map(int, shown))
    assert client.get(f"{API}/compare/flips?was=statue&now=0").status_code == 422
    place = json.dumps({"kind": "change", "a": "v1.0", "b": "v1.1", "before": was, "after": now})
    swapped = client.post(
        f"/projects/1/images/{shown[0]}/score", data={"value": str(now), "place": place},
        headers={"HX-Request": "true"},
    ).text  # fmt: skip
    assert f'id="verdict-{shown[0]}"' in swapped and 'id="counts"' in swapped
    plain = client.post(f"/projects/1/images/{shown[0]}/score", data={"value": "0", "place": place})
    assert "Saved photo for" in client.get(plain.headers["location"]).text
    assert client.get("/projects/1/compare?a=v1.0&b=v1.1&before=99&after=98").status_code == 200


def test_what_was_taken_out_of_the_project_is_in_no_change_and_one_key_compares_nothing_anew(
    trained,
) -> None:
    client = trained.world.client
    wrong = [i for i, kind in trained.kinds.items() if kind == 0 and trained.labelled(i) == 0][:12]
    trained.label(dict.fromkeys(wrong, 1), origin="queue")
    trained.train()
    change = client.get(f"{API}/compare?a=v1.0&b=v1.1").json()["changes"][0]
    of = {"was": change["before"], "now": change["after"], "a": "v1.0", "b": "v1.1"}
    gone, *left = [
        row["image_id"] for row in client.get(f"{API}/compare/flips", params=of).json()["flips"]
    ]
    with sessions.writing(trained.engine) as session:
        bulk.remove(session, trained.project(session), [gone])
    flips = client.get(f"{API}/compare/flips", params=of).json()
    assert [row["image_id"] for row in flips["flips"]] == left
    assert flips["images"] == len(left) + flips["held"]
    assert client.get(f"{API}/compare?a=v1.0&b=v1.1").json()["images"] == 89

    judged: list[str] = []

    def note(connection, cursor, statement, *_: object) -> None:
        if "FROM version_label" in statement:
            judged.append(statement)

    was, now = (("photo", "drawing", "logo").index(change[side]) for side in ("before", "after"))
    place = {"kind": "change", "a": "v1.0", "b": "v1.1", "before": was, "after": now}
    form = {"value": "1", "place": json.dumps(place)}
    event.listen(trained.engine, "before_cursor_execute", note)
    swapped = client.post(
        f"/projects/1/images/{left[0]}/score", data=form, headers={"HX-Request": "true"}
    ).text
    event.remove(trained.engine, "before_cursor_execute", note)
    assert f"<b>{flips['images']}</b>" in swapped and not judged


def test_no_class_is_better_by_one_burst_alone() -> None:
    """Twelve frames of one scene are one witness."""
    truth = np.arange(60) < 12
    old, new = np.arange(60) < 6, truth
    burst = np.where(truth, 0, np.arange(60))
    told = class_comparison._move(0, "logo", truth, old, new, burst)
    assert (told.labelled, told.verdict, told.difference.value) == (12, "too few labels", None)
    apart = class_comparison._move(0, "logo", truth, old, new, np.arange(60))
    assert apart.verdict == "better"


def said_by(said: dict[tuple[int, int], int], version: Version) -> set[int]:
    return {image for number, image in said if number == version.id}


@pytest.mark.parametrize(
    "words",
    [
        ("audit", "start", "Kinds"),
        ("tournament", "Kinds"),
        ("scores", "stars", "Kinds"), ("replay", "Kinds", "Pictures"),
        ("write-back", "Kinds"),
        ("series", "Kinds"),
    ],
)  # fmt: skip
def test_a_command_of_scores_says_so_to_a_project_with_classes(run, tmp_path, words) -> None:
    class_home(tmp_path / "home", train=True)
    assert commands.served_by(" ".join(words[: words.index("Kinds")])) == "scores"
    said = run(*words)
    assert said.code == 1 and "score" in said.err, said


def test_an_order_that_a_project_does_not_offer_is_refused_and_not_taken_for_another(
    trained: Classes,
) -> None:
    client = trained.world.client
    for sort in ("disagreement", "agreement", "score-high", "score-low"):
        page = client.get(f"/projects/1/library?sort={sort}")
        assert page.status_code == 422 and "is an order of scores" in page.text, sort
        told = client.get(f"/api/v1/projects/1/library?sort={sort}")
        assert told.status_code == 422 and "predicted-low" in told.json()["hint"], sort
    page = client.get("/projects/1/library?sort=predicted-low").text
    assert re.search(r'<option value="predicted-low" selected>Least certain', page)
    for kind in ("doubtful", "contradictions", "confused", "no-class"):
        assert client.get(f"/projects/1/review/{kind}?order=evidence").status_code == 200
        refused = client.get(f"/projects/1/review/{kind}?order=confidence")
        assert refused.status_code == 422 and "one order" in refused.text, kind
        refused = client.get(f"/api/v1/projects/1/review/{kind}?order=confidence")
        assert refused.status_code == 422, kind
