"""The JSON API: the same things as the pages, with the same sentences."""

import hashlib
import threading
from pathlib import Path

import pytest
from routes import every_route
from sqlmodel import select
from web_world import World, add_job, add_version, embed_all, events, make_world, score_some

from tastemaker.database.sessions import reading
from tastemaker.database.tables import Collection, Image, Job
from tastemaker.importing import imports
from tests import pictures
from tests.conftest import work_on

API = "/api/v1"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path, images=8)


def test_it_describes_itself_and_lists_only_its_own_routes(world: World) -> None:
    paths = world.client.get(f"{API}/openapi.json").json()["paths"]
    assert f"{API}/projects/{{project_id}}/scores" in paths
    assert all(path.startswith(API) for path in paths)
    assert world.client.get("/docs").status_code == 404


def test_projects_are_made_and_listed(world: World) -> None:
    made = world.client.post(f"{API}/projects", json={"name": "City"})
    assert made.status_code == 201
    names = [project["name"] for project in world.client.get(f"{API}/projects").json()]
    assert names == ["Anime", "City"]
    again = world.client.post(f"{API}/projects", json={"name": "city"})
    assert again.status_code == 409 and set(again.json()) == {"error", "hint"}


def test_the_queue_leaves_out_what_the_asker_holds(world: World) -> None:
    first = world.client.get(f"{API}{world.at}/queue?n=3").json()
    held = [card["image_id"] for card in first]
    rest = world.client.get(
        f"{API}{world.at}/queue", params={"n": 8, "exclude": ",".join(map(str, held))}
    ).json()
    assert len(rest) == 5 and not {card["image_id"] for card in rest} & set(held)
    assert (
        first[0]["view"] == f"/images/{held[0]}/view?h={first[0]['sha256'][:16]}"
        and first[0]["reason"]
    )


@pytest.mark.parametrize("query", ["n=0", "n=51", "queue=best", "exclude=a", "exclude=1;2", "n=x"])
def test_a_queue_that_makes_no_sense_is_refused(world: World, query: str) -> None:
    answer = world.client.get(f"{API}{world.at}/queue?{query}")
    assert answer.status_code in (404, 422) and set(answer.json()) == {"error", "hint"}


@pytest.mark.parametrize(
    "address",
    ["queue?limit=0", "queue?limit=1000000", "queue?n=3&page=2", "library?min=nan", "?x=",
     "library?predicted_min=nan", "library?label_max=inf", "library?tags=a", "scores?limit=0",
     "../../jobs?state=foo", "../../projects?page=2", "library?%3Cscript%3E=1"],
)  # fmt: skip
def test_a_parameter_that_is_not_known_is_refused_and_not_passed_over(
    world: World, address: str
) -> None:
    separator = "" if address.startswith("?") else "/"
    answer = world.client.get(f"{API}{world.at}{separator}{address}")
    assert answer.status_code == 422 and set(answer.json()) == {"error", "hint"}


def test_what_a_request_takes_is_told_with_the_parameter_it_does_not(world: World) -> None:
    told = world.client.get(f"{API}{world.at}/queue?limit=0").json()
    assert told["error"] == "“limit” is no parameter of this request."
    assert told["hint"] == "It takes collection, exclude, n, queue."
    every = "collection=1&tag=a&scored=yes&said=&label_min=1&sort=newest&apart=yes&after=&n=3"
    assert world.client.get(f"{API}{world.at}/library?{every}").status_code == 200


def test_a_score_answers_with_its_event_and_a_repeat_with_the_same(world: World) -> None:
    body = {"image_id": 2, "value": 7, "key": "k-00000001", "expected": 0}
    answers = [world.client.post(f"{API}{world.at}/scores", json=body).json() for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0] == {
        "event_id": 1, "saved": True, "image_id": 2, "key": "k-00000001",
        "library": world.app.state.library,
    }  # fmt: skip
    assert events(world) == [(2, "set", 7)]


def test_ten_copies_at_once_are_one_score(world: World) -> None:
    body = {"image_id": 2, "value": 7, "key": "k-00000001", "expected": 0}
    ids: list[int] = []

    def send() -> None:
        answer = world.client.post(f"{API}{world.at}/scores", json=body)
        ids.append(answer.json()["event_id"])

    threads = [threading.Thread(target=send) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ids == [1] * 10 and len(events(world)) == 1


@pytest.mark.parametrize(
    "body",
    [{}, {"image_id": 1}, {"image_id": 1, "value": 11}, {"image_id": 1, "value": -1},
     {"image_id": 1, "value": 5.5}, {"image_id": 1, "value": "5"}, {"image_id": 1, "value": True},
     {"image_id": 1, "value": 5, "kind": "skip"}, {"image_id": 1, "value": 5, "kind": "undo"},
     {"image_id": 1, "value": 5, "origin": "import"}, {"image_id": 1, "value": 5, "at": "1970"},
     {"image_id": 1, "value": 5, "key": "short"}, {"image_id": 2**70, "value": 5},
     {"image_id": 999, "value": 5}, [], "5", None],
)  # fmt: skip
def test_a_bad_score_is_refused_in_one_sentence_and_changes_nothing(
    world: World, body: object
) -> None:
    answer = world.client.post(f"{API}{world.at}/scores", json=body)
    assert answer.status_code in (404, 422)
    assert answer.json()["error"] and "hint" in answer.json()
    assert events(world) == []


def test_undo_answers_with_the_card_and_takes_only_the_newest(world: World) -> None:
    score_some(world, [3, 8])
    assert world.client.post(f"{API}{world.at}/undo", json={"event_id": 1}).status_code == 409
    answer = world.client.post(f"{API}{world.at}/undo", json={"event_id": 2}).json()
    assert answer["image_id"] == 2 and answer["undoes"] == 2
    assert answer["card"]["label"] is None


def test_versions_jobs_and_training(world: World) -> None:
    version_id = add_version(world, 0, {})
    job_id = add_job(world)
    (version,) = world.client.get(f"{API}{world.at}/versions").json()
    assert version["version"] == "v1.0" and version["mae"] == 1.32
    assert world.client.post(f"{API}/versions/{version_id}/activate").json()["active"] is True
    job = world.client.get(f"{API}/jobs/{job_id}").json()
    assert job["state"] == "running" and job["seconds_left"] > 0 and "fence" not in job
    assert world.client.post(f"{API}/jobs/{job_id}/cancel").json()["cancel_requested"] is True
    embed_all(world)
    score_some(world, [1, 9, 4])
    queued = world.client.post(f"{API}{world.at}/train", json={"recipe": "ridge"})
    assert queued.status_code == 202 and queued.json()["kind"] == "train"


def test_review_lists_the_mistakes(world: World) -> None:
    score_some(world, [2, 9])
    add_version(world, 1, {1: 0.78, 2: 0.2})
    wrong = world.client.get(f"{API}{world.at}/review/false-positives").json()
    assert [card["image_id"] for card in wrong["cards"]] == [1] and wrong["version"] == "v1.1"
    assert world.client.get(f"{API}{world.at}/review/best").status_code == 404


# What a form of a page does, and how a program does the same. None: only a browser needs it.
COUNTERPARTS = {
    "/projects/{project_id}/classes": "/projects/{project_id}/classes",
    "/projects/{project_id}/classes/{number}": "/projects/{project_id}/classes/{number}",
    "/projects/{project_id}/classes/{number}/merge": (
        "/projects/{project_id}/classes/{number}/merge"
    ),
    "/projects/{project_id}/classes/{number}/delete": "/projects/{project_id}/classes/{number}",
    "/projects/{project_id}/encoder": "/projects/{project_id}/encoder",
    "/projects/{project_id}/library/copy": "/projects/{project_id}/library/copies",
    "/demo": "/demo",
    "/jobs/{job_id}/cancel": "/jobs/{job_id}/cancel",
    "/jobs/{job_id}/retry": "/jobs/{job_id}/retry",
    "/login": None,  # a program sends name and password with each request
    "/logout": None,
    "/people/{person_id}/disable": "/people/{person_id}/disable",
    "/people/{person_id}/password": "/people/{person_id}/password",
    "/people/{person_id}/role": "/people/{person_id}/role",
    "/projects/{project_id}/people/tokens": "/tokens",
    "/tokens/{token_id}/revoke": "/tokens/{token_id}",
    "/person": None,
    "/projects": "/projects",
    "/projects/{project_id}/add/files": "/projects/{project_id}/uploads",
    "/projects/{project_id}/add/folder": "/projects/{project_id}/imports",
    "/projects/{project_id}/add/scores": "/projects/{project_id}/labels",
    "/projects/{project_id}/add/scores/{table_id}/undo":
        "/projects/{project_id}/labels/tables/{table_id}",
    "/projects/{project_id}/card": "/projects/{project_id}/card",
    "/projects/{project_id}/compare/images/{image_id}/score": "/projects/{project_id}/scores",
    "/projects/{project_id}/compare/undo": "/projects/{project_id}/undo",
    "/projects/{project_id}/delete": "/projects/{project_id}/delete",
    "/projects/{project_id}/duplicate": "/projects/{project_id}/duplicate",
    "/projects/{project_id}/expectations": "/projects/{project_id}/expectations",
    "/projects/{project_id}/expectations/{expectation_id}/remove":
        "/projects/{project_id}/expectations/{expectation_id}",
    "/projects/{project_id}/heads": "/projects/{project_id}/heads",
    "/projects/{project_id}/images/{image_id}/flag": "/projects/{project_id}/scores",
    "/projects/{project_id}/images/{image_id}/score": "/projects/{project_id}/scores",
    "/projects/{project_id}/images/{image_id}/skip": "/projects/{project_id}/scores",
    "/projects/{project_id}/audits": "/projects/{project_id}/audits",
    "/projects/{project_id}/audits/{audit_id}/retry": "/jobs/{job_id}/retry",
    "/projects/{project_id}/keys": "/keys",
    "/projects/{project_id}/library/changes": "/projects/{project_id}/library",
    "/projects/{project_id}/library/filters": "/projects/{project_id}/filters",
    "/projects/{project_id}/library/filters/{slice_id}/delete":
        "/projects/{project_id}/filters/{slice_id}",
    "/projects/{project_id}/library/undo": "/projects/{project_id}/library",
    "/projects/{project_id}/migrate": "/projects/{project_id}/migrate",
    "/projects/{project_id}/people": "/people",
    "/projects/{project_id}/priors": "/projects/{project_id}/priors",
    "/projects/{project_id}/priors/{prior_id}/take-away":
        "/projects/{project_id}/priors/{prior_id}",
    "/projects/{project_id}/score/grid": "/projects/{project_id}/batches",
    "/projects/{project_id}/score/grid/undo": "/projects/{project_id}/batches/undo",
    "/projects/{project_id}/score/pairs": "/projects/{project_id}/comparisons",
    "/projects/{project_id}/score/pairs/undo": "/projects/{project_id}/comparisons/undo",
    "/projects/{project_id}/settings": "/projects/{project_id}/settings",
    "/projects/{project_id}/slices": "/projects/{project_id}/slices",
    "/projects/{project_id}/slices/{slice_id}/remove": "/projects/{project_id}/slices/{slice_id}",
    "/projects/{project_id}/slices/{slice_id}/search":
        "/projects/{project_id}/slices/{slice_id}/search",
    "/projects/{project_id}/test-runs": "/projects/{project_id}/test-runs",
    "/projects/{project_id}/test-runs/{run_id}/cancel": "/jobs/{job_id}/cancel",
    "/projects/{project_id}/test-runs/{run_id}/images/{image_id}/score":
        "/projects/{project_id}/test-runs/{run_id}/scores",
    "/projects/{project_id}/test-runs/{run_id}/retry": "/jobs/{job_id}/retry",
    "/projects/{project_id}/test-runs/{run_id}/undo": "/projects/{project_id}/undo",
    "/projects/{project_id}/tournament": "/projects/{project_id}/tournament",
    "/projects/{project_id}/train": "/projects/{project_id}/train",
    "/projects/{project_id}/try": "/projects/{project_id}/predict",
    "/projects/{project_id}/try/warm": None,
    "/projects/{project_id}/try/{token}/add": "/projects/{project_id}/uploads",
    "/projects/{project_id}/try/{token}/again": "/projects/{project_id}/predict",
    "/projects/{project_id}/undo": "/projects/{project_id}/undo",
    "/theme": None,
    "/versions/{version_id}/activate": "/versions/{version_id}/activate",
    "/versions/{version_id}/delete": "/versions/{version_id}",
    "/projects/{project_id}/routers": "/projects/{project_id}/routers",
    "/projects/{project_id}/routers/{name}/delete": "/routers/{name}",
    "/projects/{project_id}/stars": "/projects/{project_id}/stars",
    "/projects/{project_id}/stars/record": "/projects/{project_id}/stars",
    "/projects/{project_id}/stars/undo": "/projects/{project_id}/stars",
    "/projects/{project_id}/series": "/projects/{project_id}/series",
    "/projects/{project_id}/series/untag": "/projects/{project_id}/series",
    "/projects/{project_id}/write-back": "/projects/{project_id}/write-back",
    "/projects/{project_id}/write-back/undo": "/projects/{project_id}/write-back",
    "/projects/{project_id}/watched/{watched_id}/stop":
        "/projects/{project_id}/watched/{watched_id}",
}  # fmt: skip


def test_whatever_a_page_changes_a_program_can_change(world: World) -> None:
    routes = every_route(world.app.routes)
    posted = {r.path for r in routes if "POST" in (getattr(r, "methods", None) or ())}
    pages = {path for path in posted if not path.startswith(API)}
    assert pages == COUNTERPARTS.keys(), "say how a program does this, or why only a browser does"
    known = world.client.get(f"{API}/openapi.json").json()["paths"]
    for path in filter(None, COUNTERPARTS.values()):
        assert known[API + path].keys() & {"post", "put", "delete"}, path


@pytest.mark.slow
def test_a_program_adds_a_folder_and_files(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("pictures")
    picture = pictures.encoded(pictures.scene())
    pictures.write(folder / "a.png", picture)
    at = f"{API}{world.at}"
    asked = {"folder": str(folder), "collection": "New ones"}
    job = world.client.post(f"{at}/imports", json=asked)
    assert job.status_code == 202, job.text
    assert job.json()["title"] == "Import “New ones”"
    sent = world.client.post(
        f"{at}/uploads", files=[("files", ("b.png", picture))], data={"collection": "Sent"}
    )
    assert sent.status_code == 202 and sent.json()["kind"] == "import"
    sent_files = [("files", ("c.png", picture))]
    waiting = len(list(world.settings.incoming.iterdir()))
    for answer, status in (
        (world.client.post(f"{at}/imports", json={"folder": str(folder / "no")}), 404),
        (world.client.post(f"{at}/imports", json={"folder": ""}), 422),
        (world.client.post(f"{at}/imports", json=asked | {"role": "test"}), 422),
        (world.client.post(f"{at}/imports", json={"folder": "/" + "x" * 5000}), 404),
        (world.client.post(f"{at}/imports", json=asked | {"collection": "x" * 121}), 422),
        (world.client.post(f"{at}/uploads", data={"collection": "x" * 121}, files=sent_files), 422),
        (
            world.client.post(f"{at}/uploads", data={"collection": "x" * 3000}, files=sent_files),
            422,
        ),
        (world.client.post(f"{at}/train", content=b"{"), 422),
        (world.client.post(f"{at}/uploads", json={}), 422),
        (world.client.post(f"{at}/uploads", data={"collection": "x"}, files=[]), 422),
        (world.client.post(f"{API}/projects/9/uploads", files=[("f", ("b.png", b"x"))]), 404),
    ):
        assert answer.status_code == status and set(answer.json()) == {"error", "hint"}, answer.text
    assert len(list(world.settings.incoming.iterdir())) == waiting, "what is refused leaves nothing"
    for number in (job.json()["id"], sent.json()["id"]):
        imports.run(work_on(world.settings, world.engine, number))
    sha256 = hashlib.sha256(picture).hexdigest()
    with reading(world.engine) as session:
        names = {row.name for row in session.exec(select(Collection))}
        assert len(session.exec(select(Image).where(Image.sha256 == sha256)).all()) == 1
    assert {"New ones", "Sent"} <= names


def test_a_training_may_begin_a_series_and_the_sample_is_asked_for_once(world: World) -> None:
    embed_all(world)
    score_some(world, [1, 9, 4])
    world.client.post(f"{API}{world.at}/train", json={"major": True})
    with reading(world.engine) as session:
        (job,) = session.exec(select(Job).where(Job.kind == "train"))
    assert job.payload["major"] is True
    first, second = (world.client.post(f"{API}/demo") for _ in range(2))
    assert first.status_code == 202 and first.json()["id"] == second.json()["id"]
