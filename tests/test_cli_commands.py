"""Commands for projects, versions, jobs, slices and test runs, and the pages beside them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import select
from trained_world import Trained, open_trained, trained_home, vectors
from web_world import drawn

from tastemaker import jobs, projects, versions
from tastemaker.database import tables
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import (
    Job,
    Prediction,
    ScoreEvent,
    Tag,
    Version,
    VersionLabel,
)
from tastemaker.evaluation import expectations, test_runs
from tastemaker.training import retrain
from tests.command_line import Run, fails
from tests.pictures import encoded, scene, write


@pytest.fixture
def home(tmp_path: Path, run: Run) -> Iterator[Trained]:
    home = open_trained(trained_home(tmp_path / "home"))
    yield home
    home.engine.dispose()


def training(home: Trained) -> int:
    with writing(home.engine) as session:
        project = home.project(session)
        return retrain.request_training(session, home.settings, project, recipe="ridge").id


@pytest.mark.parametrize(
    "words",
    [
        ["project", "set", "Nope", "--name", "x"], ["project", "delete", "Nope", "--yes"],
        ["project", "duplicate", "Nope", "New"], ["versions", "delete", "Nope", "v1.0", "--yes"],
        ["jobs", "list", "Nope"], ["slices", "list", "Nope"], ["slices", "remove", "Nope", "x"],
        ["slices", "add", "Nope", "--tag", "x"], ["test-run", "list", "Nope"],
        ["test-run", "start", "Nope", "--folder", "."], ["test-run", "show", "Nope", "1"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_an_unknown_project_is_named_with_those_there_are(
    home: Trained, run: Run, words: list[str]
) -> None:
    fails(run(*words), "There is no project “Nope”.", "There are: “Anime”.")


# --- projects ------------------------------------------------------------------------------------


def test_settings_are_changed_all_or_none(home: Trained, run: Run) -> None:
    set_ = ("project", "set", "Anime")
    training(home)  # nothing speaks against it meanwhile
    told = run(
        *set_, "--name", "City", "--threshold", "60%", "--recipe", "ridge", "--aggregate", "mean",
        "--auto-train-every", 50, "--auto-train-drift", 0.5, "--show-prediction-first",
        "--bracket", "0=bad", "--bracket", "45.5=good", "--json",
    )  # fmt: skip
    assert told.json == {
        "name": "City", "threshold": 0.6, "recipe": "ridge", "aggregate": "mean",
        "auto_train_every": 50, "auto_train_drift": 0.5, "show_prediction_first": True,
        "brackets": [[0, "bad"], [0.455, "good"]], "starts_from": [],
    }  # fmt: skip
    shown = run("project", "show", "City", "--json").json
    assert (shown["threshold"], shown["recipe"]) == (0.6, "ridge")
    set_ = ("project", "set", "City", "--threshold", "0.4")
    for words, sentence in (
        (["--recipe", "magic"], "There is no recipe “magic”."),
        (["--aggregate", "sum"], "median, mean"),
        (["--auto-train-every", "-1"], "whole number of new scores"),
        (["--auto-train-drift", "11"], "between 0 and 10"),
        (["--name", "a/b"], "cannot be used"),
        (["--bracket", "40"], "“40” is no bracket."),
        (["--bracket", "0.4=x"], "0.4 % or 40 %?"),
        (["--bracket", "10=x"], "the first begins at 0 %"),
    ):
        fails(run(*set_, *words), sentence)
    assert run("project", "show", "City", "--json").json["threshold"] == 0.6
    run("project", "create", "Other")
    fails(run("project", "set", "City", "--name", "other"), "exists already")
    assert "“City” is changed: threshold 0.5." in run("project", "set", "City", "--threshold",
                                                       "0.5").out  # fmt: skip


def test_a_project_is_deleted_once_one_says_so_and_its_scores_are_kept(
    home: Trained, run: Run
) -> None:
    fails(run("project", "delete", "Anime"), "no terminal to ask on", "--yes")
    job = training(home)
    fails(run("project", "delete", "Anime", "--yes"), "still under way", "Cancel it first")
    assert run("jobs", "cancel", job, "--json").json["state"] == "cancelled"
    told = run("project", "delete", "anime", "--yes", "--json").json
    assert told["deleted"] == "Anime"
    assert len(Path(told["scores"]).read_text().splitlines()) == 81
    assert list((home.settings.checkpoints).glob("deleted-1-*/Anime-v1.0.safetensors"))
    assert run("project", "list", "--json").json == []


@pytest.mark.usefixtures("jobs_here")
def test_a_project_is_duplicated_with_every_score(home: Trained, run: Run) -> None:
    made = run("project", "duplicate", "Anime", "Again", "--json").json
    assert (made["name"], made["labels"], made["images"]) == ("Again", 80, 80)
    assert made["jobs"] == [] and made["active_version"] is None
    assert run("train", "Again", "--recipe", "ridge", "--json").json["version"] == "v1.0"
    fails(run("project", "duplicate", "Anime", "again"), "exists already")
    fails(run("project", "duplicate", "Anime", "New", "--encoder", "no slash"), "not the name of")
    assert len(run("project", "list", "--json").json) == 2


def test_a_program_and_the_settings_page_duplicate_too(home: Trained) -> None:
    client, clip = home.world.client, "ViT-B-32-quickgelu/openai"
    made = client.post("/api/v1/projects/1/duplicate", json={"name": "By API", "encoder": clip})
    assert made.status_code == 201, made.text
    assert (made.json()["encoder"], made.json()["labels"]) == (clip, 80)
    (queued,) = made.json()["jobs"]
    with reading(home.engine) as session:
        assert jobs.get(session, queued).project_id == made.json()["id"]
    again = client.post("/api/v1/projects/1/duplicate", json={"name": "By API"})
    assert again.status_code == 409
    page = client.get("/projects/1/settings").text
    assert "Duplicate this project" in page and 'value="Anime 2"' in page
    refused = client.post("/projects/1/duplicate", data={"name": "by api", "encoder": clip})
    assert refused.status_code == 409 and 'value="by api"' in refused.text
    assert f'<option value="{clip}" selected' in refused.text
    sent = client.post("/projects/1/duplicate", data={"name": "By form", "encoder": ""})
    assert (sent.status_code, sent.headers["location"]) == (303, "/projects/3/score")


# --- versions ------------------------------------------------------------------------------------


def test_a_version_is_deleted_with_all_that_is_its_own_and_its_number_is_not_given_again(
    home: Trained, run: Run
) -> None:
    second = home.train()
    if not second.active:
        run("versions", "activate", "Anime", "v1.1")
    first = home.version("v1.0")
    fails(run("versions", "delete", "Anime", "active", "--yes"), "is the active version and stays",
          "versions activate")  # fmt: skip
    fails(run("versions", "delete", "Anime", "v1.0"), "no terminal to ask on")
    fails(run("versions", "delete", "Anime", "v9.9", "--yes"), "There are: v1.1, v1.0.")
    training(home)  # an unfinished training does not need it
    file = versions.checkpoint_path(home.settings, first)
    told = run("versions", "delete", "Anime", "v1.0", "--yes")
    assert told.out.startswith("v1.0 is deleted: its file and 80 predictions. Scores stay.")
    assert not file.exists() and not versions.config_path(home.settings, first).exists()
    assert [v["version"] for v in run("versions", "list", "Anime", "--json").json] == ["v1.1"]
    table = run("versions", "list", "Anime").out  # into a pipe, so as wide as it is
    assert "active" in table and "version" in table and "…" not in table
    shown = run("versions", "show", "Anime", "v1.1", "--json").json
    assert shown["parent"] == "v1.0", "what it was measured against can still be named"
    (expected, *_) = shown["outlook"]["in_words"]
    assert "more labels would" in expected
    assert expected in " ".join(run("versions", "show", "Anime", "v1.1").out.split())
    with reading(home.engine) as session:
        for table in (Prediction, VersionLabel):
            rows = select(table).where(table.version_id == first.id)
            assert session.exec(rows).first() is None
        assert len(session.exec(select(ScoreEvent)).all()) == 80
    assert run("doctor").code == 0
    page = home.world.client.get(f"/versions/{second.id}")
    assert "It was made after a version that was deleted since." in page.text
    assert home.world.client.get(f"/versions/{first.id}").status_code == 404
    for path in ("versions", "compare", "publish", "slices", "test-runs"):
        assert home.world.client.get(f"/projects/1/{path}").status_code in (200, 422), path


def test_going_back_to_a_version_names_the_job_that_lets_it_catch_up(
    home: Trained, run: Run
) -> None:
    assert run("versions", "activate", "Anime", "v1.0").out == "v1.0 is active.\n"
    home.add(5, "Pictures", None, seed=3)
    told = " ".join(run("versions", "activate", "Anime", "v1.0").out.split())
    job = run("jobs", "list", "--json").json[0]
    assert (job["kind"], job["state"]) == ("predict", "queued")
    assert f"v1.0 is active. Images came after it: job {job['id']} predicts them" in told


def test_the_newest_number_is_not_given_again_either(home: Trained, run: Run) -> None:
    home.train()
    run("versions", "activate", "Anime", "v1.0")
    assert run("versions", "delete", "Anime", "v1.1", "--yes").code == 0
    assert home.train().number == "v1.2"


def test_a_version_with_test_runs_says_that_they_go_and_one_under_way_keeps_it(
    home: Trained, run: Run
) -> None:
    old = home.version("v1.0")
    home.train()
    run("versions", "activate", "Anime", "v1.1")
    home.add(5, "New", None, seed=3)
    with writing(home.engine) as session:
        collection = next(c for c in test_runs.collections_to_try(session, home.project(session)))
        made = test_runs.request_run(
            session, home.settings, home.project(session), old, test_runs.Source(collection[0])
        )
        job = jobs.get(session, made.job_id or 0)
    client = home.world.client
    refused = client.delete(f"/api/v1/versions/{old.id}")
    assert refused.status_code == 409 and "is under way and needs it" in refused.text
    assert "is under way and needs it" in client.get(f"/versions/{old.id}").text
    home.run(job, test_runs.run)
    assert "1 test run" in client.get(f"/versions/{old.id}").text
    wrong = client.post(f"/versions/{old.id}/delete", data={"number": "v1.1"})
    assert wrong.status_code == 422 and "nothing was deleted" in wrong.text
    gone = client.post(f"/versions/{old.id}/delete", data={"number": "v1.0"})
    assert (gone.status_code, gone.headers["location"]) == (303, "/projects/1/versions")
    with reading(home.engine) as session:
        assert session.exec(select(tables.TestRun)).all() == []
    active = home.version("active")
    refused = client.delete(f"/api/v1/versions/{active.id}")
    assert refused.status_code == 409 and "is the active version" in refused.text
    assert client.delete(f"/api/v1/versions/{old.id}").status_code == 404


def test_a_program_is_told_what_went(home: Trained, run: Run) -> None:
    old = home.version("v1.0")
    home.train()
    run("versions", "activate", "Anime", "v1.1")
    gone = home.world.client.delete(f"/api/v1/versions/{old.id}").json()
    assert gone == {
        "version": "v1.0", "predictions": 80, "test_runs": 0, "audits": 0, "bytes": old.bytes,
    }  # fmt: skip
    with reading(home.engine) as session:
        row = session.get(Version, old.id)
        assert row is not None and row.state == "building"


# --- jobs ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("jobs_here")
def test_jobs_are_listed_shown_cancelled_and_tried_again(home: Trained, run: Run) -> None:
    job = training(home)
    listed = run("jobs", "list", "Anime", "--json").json
    assert (listed[0]["id"], listed[0]["state"]) == (job, "queued")
    assert "payload" not in listed[0] and "seconds_left" in listed[0]
    run("project", "create", "Other")
    assert run("jobs", "list", "-p", "Other", "--json").json == []
    assert "Train" in run("jobs", "list").out
    assert "is cancelled" in run("jobs", "cancel", job).out
    fails(run("jobs", "cancel", job), "has already ended (cancelled)")
    done = run("jobs", "retry", job, "--json").json
    assert (done["state"], done["result"]["version"]) == ("done", "v1.1")
    shown = run("jobs", "show", job, "--json").json
    assert shown["state"] == "done" and "queued again by hand" in shown["log"]
    assert f"{job}: " in run("jobs", "show", job).out
    fails(run("jobs", "retry", job), "only a failed or cancelled job can be retried")
    for words in (["show", 99], ["cancel", 99], ["retry", 99]):
        fails(run("jobs", *words), "There is no job 99.")


def test_a_failed_job_tells_why(home: Trained, run: Run) -> None:
    with writing(home.engine) as session:
        job = Job(kind="train", title="Train", project_id=1, state="failed", error="No [sun].")
        session.add(job)
        session.flush()
        number = job.id
    assert "No [sun]." in run("jobs", "list").out
    assert f"{number}: Train: failed, No [sun]." in run("jobs", "show", number).out


# --- slices --------------------------------------------------------------------------------------


def test_slices_are_added_listed_with_their_figures_and_removed(home: Trained, run: Run) -> None:
    with writing(home.engine) as session:
        session.add_all(Tag(image_id=image_id, tag="photo") for image_id in range(1, 21))
    assert run("slices", "list", "Anime").out.startswith("No slice yet")
    added = run("slices", "add", "Anime", "--tag", "photo", "--json").json
    assert (added["name"], added["definition"]) == ("photo", {"tag": "photo"})
    wanted = "?label_min=6&predicted_max=80"
    liked = run("slices", "add", "Liked", "-p", "Anime", "--filter", wanted, "--json").json
    assert liked["definition"] == {"filter": {"label_min": 6.0, "predicted_max": 0.8}}
    told = run("slices", "list", "Anime", "--json").json
    assert told["version"] == "v1.0"
    assert {row["name"]: row["images"] for row in told["slices"]}["photo"] == 20
    assert "photo" in run("slices", "list", "Anime", "v1.0").out
    with writing(home.engine) as session:
        project = projects.by_name(session, "Anime")
        expectations.expect(session, project, added["id"], "mean", "at most", 1.0)
        expectations.expect(session, project, added["id"], "pass_rate", "at most", 1.0)
    (mean, _) = run("slices", "list", "Anime", "--json").json["expectations"]
    said = run("slices", "list", "Anime").out
    assert f"mean prediction at most 10 points: {10 * mean['value']:.3g} over 20" in said
    assert "pass rate at most 100 %: " in said
    for words, sentence in (
        (["--tag", "photo"], "There is a slice “photo” already."),
        (["--tag", "nothing"], "No image carries the tag “nothing”."),
        (["X", "--filter", "colour=red"], "A filter has no “colour”."),
        (["X", "--filter", ""], "This filter is empty."),
        (["--text", "sunset"], "reads no text"),
    ):
        fails(run("slices", "add", "Anime", *words), sentence)
    fails(run("slices", "remove", "Anime", "sky"), "no slice “sky”", "“Liked”, “photo”")
    assert run("slices", "remove", "Anime", "PHOTO", "--json").json["id"] == added["id"]
    assert [row["name"] for row in run("slices", "list", "Anime", "--json").json["slices"]] == [
        "Liked"
    ]
    fails(run("slices", "list", "Anime", "v9.9"), "There are: v1.0.")


# --- test runs -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("jobs_here")
def test_a_version_is_tried_on_a_collection_and_the_run_is_shown(home: Trained, run: Run) -> None:
    fails(run("test-run", "start", "Anime", "--collection", "Nope"), "no collection")
    fails(run("test-run", "start", "Anime", "--collection", "Pictures"), "feeds the queues")
    fails(run("test-run", "start", "Anime", "--folder", "nowhere"), "no file or folder “nowhere”")
    fails(run("test-run", "start", "Anime", "v9.9", "--collection", "Pictures"), "There are: v1.0.")
    run("project", "create", "Empty")
    fails(run("test-run", "start", "Empty", "--folder", "."), "has no version yet")
    home.add(12, "New ones", None, seed=4, x=vectors(12, 4))
    assert run("test-run", "list", "Anime").out.startswith("No test run yet")
    made = run("test-run", "start", "Anime", "--collection", "New ones", "--json").json
    assert (made["state"], made["n"], made["version"]) == ("done", 12, "v1.0")
    assert run("test-run", "list", "-p", "Anime", "--json").json == [made]
    assert run("test-run", "show", "Anime", made["id"], "--json").json == made
    line = run("test-run", "show", "Anime", made["id"]).out
    assert f"{made['passes']} of 12 pass from 5.0 on" in line
    assert "New ones" in run("test-run", "list", "Anime").out
    fails(run("test-run", "show", "Anime", 99), "There is no such test run.")
    fails(run("test-run", "show", "Anime", "x"), "not the number of a run")


@pytest.mark.slow
def test_a_version_is_tried_on_a_folder(done: Run, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for number in range(3):
        drawn(number).save(tmp_path / "new" / f"{number}.png")
    made = done("test-run", "start", "Sample", "v1.0", "--folder", "new", "--json")
    assert made.code == 0, made
    assert (made.json["n"], made.json["collection"]) == (3, "new")


@pytest.fixture
def done(sample: Path, run: Run) -> Run:
    return run


def test_what_was_done_before_an_embedding_failed_is_told(
    tmp_path: Path, run: Run, jobs_here: None
) -> None:
    files = [tmp_path / "mine" / f"{number}.png" for number in range(3)]
    for number, file in enumerate(files):
        write(file, encoded(scene(seed=number)))
    run("project", "create", "Mine", "--encoder", "efficientnet_lite0/bundled")
    run("project", "create", "On CLIP", "--encoder", "ViT-B-32-quickgelu/openai")
    said = run("import", "On CLIP", tmp_path / "mine", "--json")
    assert said.code == 1 and (said.json["added"], said.json["known"]) == (3, 0)
    assert "could not be downloaded" in said.sentence
    every = run("embed")
    assert every.code == 1 and "could not be downloaded" in every.sentence
    assert every.out == "Mine: 0 embedded, 0 skipped.\n"
    told = run("embed", "--json")
    assert told.code == 1 and "could not be downloaded" in told.sentence
    (mine,) = told.json
    assert (mine["project"], mine["embedded"], mine["set_aside"]) == ("Mine", 0, 0)


@pytest.mark.slow
def test_a_duplicate_on_another_encoder_is_embedded_or_says_why_not(
    done: Run, tmp_path: Path
) -> None:
    same = done("project", "duplicate", "Sample", "Twin", "--json").json
    assert same["jobs"] == [] and same["labels"] > 100
    said = done(
        "project", "duplicate", "Sample", "On CLIP", "--encoder", "ViT-B-32-quickgelu/openai"
    )
    assert said.code == 1 and "Project “On CLIP” made" in said.out
    assert "could not be downloaded" in said.sentence
    with_error = done("jobs", "list", "On CLIP", "--json").json
    assert [job["state"] for job in with_error] == ["failed"]
    again = done(
        "project", "duplicate", "Sample", "Twice", "--encoder", "ViT-B-32-quickgelu/openai",
        "--json",
    )  # fmt: skip
    assert again.code == 1 and again.json["labels"] == same["labels"]
    assert done("project", "show", "On CLIP", "--json").json["labels"] == same["labels"]
