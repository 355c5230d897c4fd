"""Test runs of a project with classes."""

import json
from pathlib import Path

import numpy as np
import pytest
from class_world import Classes, class_home, looks, open_classes
from sqlalchemy import event
from sqlmodel import select

from tastemaker import jobs, projects
from tastemaker.database import sessions
from tastemaker.database.tables import ClassPrediction, Collection, Image, Version
from tastemaker.evaluation import test_runs
from tests.command_line import Run

API = "/api/v1/projects/1"
TRIED = 60


@pytest.fixture
def made(tmp_path: Path) -> Classes:
    made = open_classes(class_home(tmp_path / "home", train=True))
    kinds = np.arange(TRIED) % 3
    ids = made.add(TRIED, "Others", None, seed=9, x=looks(kinds, seed=9))
    made.kinds |= dict(zip(ids, kinds.tolist(), strict=True))
    return made


def others(made: Classes) -> int:
    with sessions.reading(made.engine) as session:
        return session.exec(select(Collection.id).where(Collection.name == "Others")).one()


def run_on(made: Classes, version: Version | None = None) -> int:
    """A finished run on the other images."""
    body = {"version_id": (version or made.version()).id, "collection_id": others(made)}
    answer = made.world.client.post(f"{API}/test-runs", json=body)
    assert answer.status_code == 202, answer.text
    with sessions.reading(made.engine) as session:
        job = jobs.get(session, answer.json()["job_id"])
    made.run(job, test_runs.run)
    return int(answer.json()["id"])


def sample(made: Classes) -> list[int]:
    """The other images off the hold-out side, in the order of their hashes."""
    with sessions.reading(made.engine) as session:
        project = made.project(session)
        ids = [i for i in made.kinds if i > 90]
        rows = [session.get_one(Image, image_id) for image_id in ids]
        rows = [row for row in rows if not projects.on_holdout_side(project, row.source_group)]
    return [row.id for row in sorted(rows, key=lambda row: row.sha256)]


def said_by(made: Classes, version: Version) -> dict[int, int]:
    with sessions.reading(made.engine) as session:
        rows = select(ClassPrediction).where(ClassPrediction.version_id == version.id)
        return {row.image_id: row.predicted for row in session.exec(rows)}


def told(made: Classes, run: int) -> dict[str, object]:
    return made.world.client.get(f"{API}/test-runs/{run}").json()


def test_a_run_tells_what_the_images_are_taken_for_and_shows_each_class_surest_first(made) -> None:
    run = run_on(made)
    facts, said = told(made, run), said_by(made, made.version())
    assert (facts["n"], facts["pass_rate"], facts["accuracy"]) == (TRIED, None, None)
    assert {row["name"]: row["images"] for row in facts["taken_for"]} == {
        name: sum(said[i] == k for i in made.kinds if i > 90)
        for k, name in enumerate(("photo", "drawing", "logo"))
    }
    client = made.world.client
    shown = [card["image_id"] for card in client.get(f"{API}/test-runs/{run}/images?n=240").json()]
    assert shown == sample(made), "in an order of no meaning, without the hold-out"
    of_one = client.get(f"{API}/test-runs/{run}/images?part=class-1&n=96").json()
    assert {card["says"] for card in of_one} == {1}
    spread = [card["uncertainty"] for card in of_one]
    assert spread == sorted(spread) and len(spread) > 5
    unsure = client.get(f"{API}/test-runs/{run}/images?part=unsure").json()
    assert unsure[0]["uncertainty"] == max(card["uncertainty"] for card in unsure)
    assert client.get(f"{API}/test-runs/{run}/images?part=top").status_code == 404
    page = client.get(f"/projects/1/test-runs/{run}").text
    assert "What they are taken for" in page and "Random sample" in page
    assert "is labelled yet" in page, "no number without a label"
    assert client.get(f"/projects/1/test-runs/{run}?part=class-1").status_code == 200


def test_labels_measure_as_far_as_the_sample_is_labelled_without_a_gap(made) -> None:
    run, order = run_on(made), sample(made)
    said = said_by(made, made.version())
    made.label({i: made.kinds[i] for i in order[:20] + order[25:]}, origin="test-run")
    facts = told(made, run)
    right = [said[i] == made.kinds[i] for i in order[:20]]
    assert facts["accuracy_n"] == 20
    assert facts["accuracy"] == pytest.approx(np.mean(right)) and facts["accuracy_low"] is not None
    photo = next(row for row in facts["classes"] if row["name"] == "photo")
    having = [i for i in order[:20] if made.kinds[i] == 0]
    assert photo["recall_n"] == len(having)
    assert photo["recall"] == pytest.approx(np.mean([said[i] == 0 for i in having]))
    made.label({i: made.kinds[i] for i in order[20:25]}, origin="test-run")
    assert told(made, run)["accuracy_n"] == len(order)
    page = made.world.client.get("/projects/1/test-runs").text
    assert "Right" in page and f"n {len(order)}" in page and ">Mean<" not in page


def test_two_versions_are_judged_by_the_same_images_of_the_collection(made, run: Run) -> None:
    first, before = made.version(), run_on(made)
    order = sample(made)
    made.label({i: made.kinds[i] for i in order}, origin="test-run")
    wrong = [i for i in sorted(made.kinds)[:60] if made.kinds[i] == 0]
    made.label(dict.fromkeys(wrong, 1), origin="queue")  # the newer one learns nonsense
    newer = made.train()
    after = run_on(made, newer)
    facts, old, new = told(made, after), said_by(made, first), said_by(made, newer)
    tried = [i for i in made.kinds if i > 90]
    assert facts["against"] == {
        "run": before, "version": "v1.0", "version_id": first.id, "n": TRIED,
        "changed": sum(old[i] != new[i] for i in tried),
    }  # fmt: skip
    apart = np.mean([new[i] != made.kinds[i] for i in order]) - np.mean(
        [old[i] != made.kinds[i] for i in order]
    )
    assert facts["versus"]["difference"] == pytest.approx(apart) and apart > 0
    assert facts["versus"]["verdict"] == "worse" and facts["accuracy_n"] == len(order)
    page = made.world.client.get(f"/projects/1/test-runs/{after}").text
    assert "points of error in 100 against v1.0" in page and "worse" in page
    assert "taken for something else" in run("test-run", "show", "Kinds", str(after)).out
    assert "v1.0" in run("test-run", "list", "Kinds").out


def test_a_class_is_corrected_where_it_is_seen_by_the_page_and_by_a_program(made) -> None:
    run, order = run_on(made), sample(made)
    client = made.world.client
    place = f'{{"kind": "test-run", "run": {run}, "part": "sample"}}'
    form = {"value": "2", "place": place}
    answer = client.post(f"/projects/1/images/{order[0]}/score", data=form)
    assert (
        answer.status_code == 303 and f"/test-runs/{run}?part=sample" in answer.headers["location"]
    )
    assert "Saved logo for" in client.get(answer.headers["location"]).text
    swapped = client.post(
        f"/projects/1/images/{order[1]}/score", data=form, headers={"HX-Request": "true"}
    ).text
    assert 'id="corrected"' in swapped and f'id="verdict-{order[1]}"' in swapped
    body = {"image_id": order[2], "class": "drawing"}
    assert client.post(f"{API}/test-runs/{run}/scores", json=body).status_code == 200
    for wrong in ({"class": "statue"}, {"value": 9}, {"value": -1}, {}):
        refused = client.post(f"{API}/test-runs/{run}/scores", json={"image_id": order[3]} | wrong)
        assert refused.status_code == 422, wrong
    assert [made.labelled(i) for i in order[:4]] == [2, 2, 1, None]


def test_only_what_is_labelled_of_a_large_collection_is_read_and_a_key_measures_nothing(
    made,
) -> None:
    run, order = run_on(made), sample(made)
    made.label({i: made.kinds[i] for i in order[:12]}, origin="test-run")
    client, read = made.world.client, []

    def note(connection, cursor, statement, parameters, *_: object) -> None:
        if "class_prediction.predicted" in statement and "sha256" in statement:
            named = parameters.values() if isinstance(parameters, dict) else parameters
            read.append(len(set(order) & set(named)))

    event.listen(made.engine, "before_cursor_execute", note)
    assert client.get(f"{API}/test-runs").json()[0]["accuracy_n"] == 12
    assert read == [12], "as far as the sample is labelled, not the collection"
    place = json.dumps({"kind": "test-run", "run": run, "part": "sample"})
    form = {"value": "2", "place": place}
    client.post(f"/projects/1/images/{order[12]}/score", data=form, headers={"HX-Request": "true"})
    body = {"image_id": order[13], "class": "drawing"}
    assert client.post(f"{API}/test-runs/{run}/scores", json=body).status_code == 200
    event.remove(made.engine, "before_cursor_execute", note)
    assert read == [12] and [made.labelled(i) for i in order[12:14]] == [2, 1]


def test_merged_renamed_and_deleted_classes_break_no_run_that_was_made(made) -> None:
    run, order = run_on(made), sample(made)
    made.label({i: made.kinds[i] for i in order}, origin="test-run")
    client = made.world.client
    assert client.post("/projects/1/classes", data={"name": "sketch"}).status_code == 303
    assert client.post("/projects/1/classes/2/merge", data={"into": "1"}).status_code == 303
    assert client.post("/projects/1/classes/0/delete").status_code == 303
    facts = told(made, run)
    photos = [i for i in order if made.kinds[i] == 0]
    gap = order.index(photos[0])
    assert facts["accuracy_n"] == gap, "labels of a class that is gone are none"
    for part in ("sample", "unsure", "class-0", "class-2"):
        assert client.get(f"/projects/1/test-runs/{run}?part={part}").status_code == 200


def test_tags_are_told_each_for_itself(tmp_path) -> None:
    made = open_classes(class_home(tmp_path / "home", train=True, several=True))
    kinds = np.arange(TRIED) % 3
    ids = made.add(TRIED, "Others", None, seed=9, x=looks(kinds, seed=9))
    made.kinds |= dict(zip(ids, kinds.tolist(), strict=True))
    run, order = run_on(made), sample(made)
    as_tags = {0: 0b001, 1: 0b010, 2: 0b110}
    made.label({i: as_tags[made.kinds[i]] for i in order}, origin="test-run")
    facts, said = told(made, run), said_by(made, made.version())
    drawing = next(row for row in facts["classes"] if row["name"] == "drawing")
    having = [i for i in order if made.kinds[i] in (1, 2)]
    assert drawing["recall"] == pytest.approx(np.mean([bool(said[i] & 2) for i in having]))
    assert facts["accuracy"] == pytest.approx(
        np.mean([said[i] == as_tags[made.kinds[i]] for i in order])
    )
    assert made.world.client.get(f"/projects/1/test-runs/{run}").status_code == 200
