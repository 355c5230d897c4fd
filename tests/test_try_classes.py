"""Try it with what tells classes apart: versions, class files made elsewhere, and routers."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from class_world import Classes, class_home, open_classes
from router_world import X, make, router_home
from safetensors.numpy import save_file
from sqlmodel import col, select
from trained_world import DIM, Trained
from try_world import answering_side, answers, file_of, vector_of

import tastemaker
from tastemaker import projects, versions
from tastemaker.database import sessions
from tastemaker.database.tables import ClassPrediction, Collection, EncoderRow
from tastemaker.errors import CheckpointError, Conflict, NotFound, Unavailable
from tastemaker.learning.checkpoints import load_checkpoint
from tastemaker.learning.heads import Head
from tastemaker.live import model_process, preview_uploads
from tastemaker.live.inference_server import InferenceServer
from tastemaker.live.model_requests import ModelRequest
from tastemaker.live.project_state import ProjectState
from tastemaker.publishing import import_head
from tastemaker.scores import class_changes, classes
from tests.test_import_head import random_head
from tests.web_world import drawn

PICTURE = file_of(drawn(5))


@pytest.fixture
def kinds(tmp_path: Path) -> Classes:
    return open_classes(class_home(tmp_path / "home", train=True))


@pytest.fixture
def routed(tmp_path: Path) -> Classes:
    return router_home(tmp_path / "home")


def ask(side: InferenceServer, project_id: int = 1, **payload: Any) -> dict[str, Any]:
    blob = None if "image_id" in payload else PICTURE
    return side.answer(ModelRequest(1, "predict", project_id, payload, blob))


def outputs(made: Trained) -> np.ndarray:
    """What the published file says of the picture."""
    version = made.version()
    head = Head(load_checkpoint(versions.verify(made.settings, version)))
    said: np.ndarray = head(vector_of(drawn(5))[None])[0]
    return said


# --- versions ------------------------------------------------------------------------------------


def test_a_version_tells_the_probability_of_each_class_as_its_file_does(kinds, pool) -> None:
    side = answering_side(kinds, pool)
    told = ask(side, versions=[kinds.version().id])
    (said,) = told["said"]
    expected = dict(zip(("photo", "drawing", "logo"), outputs(kinds).tolist(), strict=True))
    assert {row["name"]: row["probability"] for row in said["classes"]} == pytest.approx(expected)
    shown = [row["probability"] for row in said["classes"]]
    assert shown == sorted(shown, reverse=True) and said["score"] is None and not said["several"]
    nearest = told["neighbours"][0]
    assert nearest["label"] == kinds.labelled(nearest["image_id"])
    with sessions.reading(kinds.engine) as session:
        taught = col(ClassPrediction.out_of_fold).is_not(None)
        held = session.exec(select(ClassPrediction.image_id).where(taught)).first()
    rows = ask(side, image_id=held, versions=[kinds.version().id])["said"][0]["classes"]
    assert sum(row["out_of_fold"] for row in rows) == pytest.approx(1), "it learned from this one"


def test_classes_are_called_as_by_now_and_one_that_is_gone_is_named_so(kinds, pool) -> None:
    p = outputs(kinds)
    with sessions.writing(kinds.engine) as session:
        project = kinds.project(session)
        classes.forget(session)
        class_changes.add(session, project, "sketch")
        class_changes.change(session, project, 0, name="photograph")
        class_changes.merge(session, project, 2, into=1)
    side = answering_side(kinds, pool)
    rows = {r["name"]: r for r in ask(side, versions=[1])["said"][0]["classes"]}
    assert set(rows) == {"photograph", "drawing"}, "sketch was not known to the version"
    assert rows["drawing"]["probability"] == pytest.approx(float(p[1] + p[2]))
    with sessions.writing(kinds.engine) as session:
        class_changes.delete(session, kinds.project(session), 0)
    rows = {r["name"]: r for r in ask(side, versions=[1])["said"][0]["classes"]}
    assert rows["photo"]["gone"] and not rows["drawing"]["gone"]


# --- the live model ------------------------------------------------------------------------------


@pytest.mark.parametrize("several", [False, True])
def test_before_the_first_version_the_live_model_tells_classes_and_tags(
    tmp_path: Path, pool, several
) -> None:
    made = open_classes(class_home(tmp_path / "home", several=several))
    client, at, state = made.world.client, "/projects/1/try", ProjectState()
    side = answering_side(made, pool)
    side.states = {1: state}
    assert "There is no model to ask yet" in client.get(at).text
    with pytest.raises(Conflict, match="no live model") as refused:
        ask(side, live=True)
    assert ("tag" if several else "two classes") in refused.value.hint
    model_process.refit(made.settings, made.engine, 1, state)
    assert 'name="version-live" checked' in client.get(at).text
    with answers(made.engine, side.handle):
        there = client.post(at, files={"file": ("a.png", PICTURE)}).headers["location"]
        told = client.post("/api/v1/projects/1/predict", files={"file": ("a.png", PICTURE)}).json()
    (said,) = told["said"]
    assert (said["by"], said["score"], said["several"]) == ("live model", None, several)
    ((_, (p,)),) = state.kinds.ridge.predict(vector_of(drawn(5))[None])
    expected = dict(zip(("photo", "drawing", "logo"), p.tolist(), strict=True))
    assert {r["name"]: r["probability"] for r in said["classes"]} == pytest.approx(expected)
    page = client.get(there).text
    assert "<h2>Live model" in page and page.count("<meter") == 3


def test_the_live_model_names_a_class_as_it_is_called_by_now(tmp_path: Path, pool) -> None:
    made = open_classes(class_home(tmp_path / "home"))
    state = ProjectState()
    model_process.refit(made.settings, made.engine, 1, state)
    with sessions.writing(made.engine) as session:
        project = made.project(session)
        class_changes.change(session, project, 0, name="photograph")
        class_changes.merge(session, project, 2, into=1)
    side = answering_side(made, pool)
    side.states = {1: state}
    (said,) = ask(side, image_id=1, live=True)["said"]
    assert {row["name"] for row in said["classes"]} == {"photograph", "drawing"}
    assert sum(row["probability"] for row in said["classes"]) == pytest.approx(1)


def test_while_the_live_model_of_classes_is_fitted_anew_it_says_so(tmp_path: Path, pool) -> None:
    made = open_classes(class_home(tmp_path / "home"))
    model_process.refit(made.settings, made.engine, 1)
    with pytest.raises(Unavailable, match="fitted anew"):
        ask(answering_side(made, pool), live=True)


def test_tags_are_each_for_themselves(tmp_path: Path, pool) -> None:
    made = open_classes(class_home(tmp_path / "home", train=True, several=True))
    with answers(made.engine, answering_side(made, pool).handle):
        client, at = made.world.client, "/projects/1/try"
        told = client.post("/api/v1/projects/1/predict", files={"file": ("a.png", PICTURE)}).json()
        there = client.post(at, files={"file": ("a.png", PICTURE)}).headers["location"]
    (said,) = told["said"]
    assert said["several"] and said["score"] is None
    expected = dict(zip(("photo", "drawing", "logo"), outputs(made).tolist(), strict=True))
    assert {r["name"]: r["probability"] for r in said["classes"]} == pytest.approx(expected)
    page = client.get(there).text
    has = sum(p >= 0.5 for p in expected.values())
    assert page.count("has it</span>") == has and page.count("has it not</span>") == 3 - has
    assert "an image has those from 50" in page


def test_the_page_shows_names_bars_and_the_nearest_labels_and_several_pictures(kinds, pool) -> None:
    client, at = kinds.world.client, "/projects/1/try"
    with answers(kinds.engine, answering_side(kinds, pool).handle):
        assert 'name="version-1" checked' in client.get(at).text
        there = client.post(at, files={"file": ("a.png", PICTURE)}).headers["location"]
        both = [("file", (f"{n}.png", file_of(drawn(n)))) for n in (5, 6)]
        group = client.post(at, files=both).headers["location"]
    page = client.get(there).text
    assert page.count("<meter") == 3 and "Nearest among your labels" in page
    best = ("photo", "drawing", "logo")[int(outputs(kinds).argmax())]
    assert f'>{best}</span> <span class="faint">{outputs(kinds).max():.0%}'[:-1] in page.replace(
        "\u202f", ""
    )
    assert "Add it to the project and label it" in page
    shown = client.get(group).text
    assert shown.count("/view") == 2 and shown.count('class="chip kind') >= 2


def test_before_the_first_version_the_page_says_what_to_do(tmp_path: Path) -> None:
    made = open_classes(class_home(tmp_path / "home", labels=0))
    page = made.world.client.get("/projects/1/try").text
    assert "There is no model to ask yet" in page and "Label" in page


def test_a_version_with_two_hundred_classes_shows_the_likeliest_and_folds_the_rest(kinds) -> None:
    rows = [
        {"name": f"kind {n}", "colour": n % 12, "gone": False, "probability": 1 / (n + 2),
         "out_of_fold": None}
        for n in range(200)
    ]  # fmt: skip
    picture = {"image_id": None, "width": 8, "height": 8, "format": "PNG", "sha256": ""}
    said = {"by": "v1.0", "version_id": 1, "active": True, "score": None, "several": False}
    token = preview_uploads.new_token()
    preview_uploads.folder(kinds.settings, token).mkdir()
    answer = {"picture": picture, "said": [said | {"classes": rows}], "neighbours": []}
    preview_uploads.store_answer(kinds.settings, token, answer | {"project_id": 1, "name": "a.png"})
    page = kinds.world.client.get(f"/projects/1/try/{token}").text
    assert page.count("<meter") == 200 and "190 less likely ones" in page
    shown = page[page.index("<meter") :]
    assert shown.index("kind 9<") < shown.index("190 less likely") < shown.index("kind 10<")


# --- class files made elsewhere ------------------------------------------------------------------


def foreign(made: Trained, tmp_path: Path, labels: dict[str, str] | None) -> Trained:
    """A project for a class file of three outputs, with the vectors of this home."""
    save_file(random_head(3, DIM), tmp_path / "Kinds.safetensors")
    beside = {
        "arch": "class", "labels": labels, "encoder": {"name": None},
        "model_params": {"features": DIM, "outputs": 3},
    }  # fmt: skip
    (tmp_path / "Kinds.config.json").write_text(json.dumps(beside))
    with sessions.writing(made.engine) as session:
        own = made.project(session)
        project = projects.create(session, "Foreign", encoder=own.encoder)
        projects.pin_encoder(session, project, session.get_one(EncoderRow, own.encoder_id))
        home = session.exec(select(Collection)).one()
        projects.add_collection(session, project, home)
        job_id = project.id
    job = import_head.import_checkpoint(
        made.engine, made.settings, job_id, tmp_path / "Kinds.safetensors", encoder=own.encoder
    )
    made.world.project_id = job_id
    made.run(job, import_head.run)
    return made


def test_a_class_file_made_elsewhere_names_its_classes_as_its_sidecar_does(
    kinds, pool, tmp_path
) -> None:
    names = {"0": "clean", "1": "blurred", "2": "noisy"}
    made = foreign(kinds, tmp_path, names)
    side = answering_side(made, pool)
    (said,) = ask(side, made.project_id, versions=[made.version().id])["said"]
    assert {row["name"]: row["probability"] for row in said["classes"]} == pytest.approx(
        dict(zip(names.values(), outputs(made).tolist(), strict=True))
    )
    assert said["score"] == pytest.approx(1 - float(outputs(made)[0]))


def test_a_class_file_whose_labels_do_not_match_is_refused(kinds, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="must name the 3 classes"):
        foreign(kinds, tmp_path, {"0": "clean", "1": "blurred"})


# --- routers -------------------------------------------------------------------------------------


def test_a_router_says_which_member_scored_and_gives_the_score_that_a_program_gets(
    routed, pool
) -> None:
    router = tastemaker.load(make(routed))
    expected = router.explain(vector_of(drawn(5))[None])[0]
    told = ask(answering_side(routed, pool), routers=["Mixed"])
    (said,) = told["said"]
    assert said["by"] == "Mixed" and said["router"] == "Mixed" and said["version_id"] is None
    assert (said["score"], said["taken_for"], said["scored_by"]) == (
        pytest.approx(expected.score), expected.name, expected.scorer,
    )  # fmt: skip
    assert {row["name"]: row["probability"] for row in said["classes"]} == pytest.approx(
        {share.name: share.probability for share in expected.shares}
    )
    assert {row["name"]: row["scorer"] for row in said["classes"]} == {
        "photo": "Photos@v1.0", "drawing": "Drawings@v1.0", "logo": None,
    }  # fmt: skip
    assert said["threshold"] == 0.5 and told["neighbours"]


def test_a_router_scores_rejects_or_abstains_and_says_which(routed, pool) -> None:
    router = tastemaker.load(make(routed))
    make(routed, "Strict", abstain=0.999)
    assert "no score below 99.9\u202f%" in routed.world.client.get("/projects/1/routers").text
    side = answering_side(routed, pool)
    seen = set()
    ids = sorted(routed.kinds)
    for row in range(12):
        told = ask(side, image_id=ids[row], routers=["Mixed", "Strict"])["said"]
        expected = router.explain(X[row : row + 1])[0]
        outcome = "rejected" if expected.scorer is None else "scored"
        assert told[0]["outcome"] == outcome and (outcome != "rejected" or told[0]["score"] == 0)
        unsure = expected.probability < 0.999
        assert (told[1]["outcome"] == "abstained") == unsure == (told[1]["score"] is None)
        seen |= {outcome, told[1]["outcome"]}
    assert seen == {"scored", "rejected", "abstained"}


def test_a_router_is_asked_from_the_pages_and_the_api_of_every_project_of_its_encoder(
    routed, pool
) -> None:
    make(routed)
    make(routed, "Soft one", mode="soft", abstain=0.6)
    client = routed.world.client
    with answers(routed.engine, answering_side(routed, pool).handle):
        for project in (1, 2):
            at = f"/projects/{project}/try"
            assert 'name="version-router:Mixed"' in client.get(at).text
            form = {"version-router:Mixed": "on", "version-router:Soft_one": "on"}
            there = client.post(at, data=form, files={"file": ("a.png", PICTURE)})
            page = client.get(there.headers["location"]).text
            assert 'name="version-router:Soft_one" checked' in page, "as it was asked"
            assert page.count('<span class="badge">router</span>') == 2 and "never passes" in page
        body = {"image_id": 1, "versions": ["active", "router:Mixed"]}
        told = client.post("/api/v1/projects/1/predict", json=body).json()
        assert [one["by"] for one in told["said"]] == ["v1.0", "Mixed"]
        gone = client.post("/api/v1/projects/1/predict", json=body | {"versions": ["router:No"]})
        assert gone.status_code == 404 and "no router" in gone.json()["error"]
        outside = {"image_id": 1, "versions": ["router:../routers/Mixed"]}
        assert client.post("/api/v1/projects/1/predict", json=outside).status_code == 404


def test_a_router_that_lacks_a_member_or_has_another_one_does_not_speak(routed, pool) -> None:
    folder = make(routed)
    side = answering_side(routed, pool)
    assert ask(side, routers=["Mixed"])["said"][0]["score"] is not None
    member = next(folder.glob("*Photos*.safetensors"))
    content = member.read_bytes()
    member.write_bytes(content[:-1] + b"x")
    with pytest.raises(CheckpointError, match="is not the file"):
        ask(side, routers=["Mixed"])
    member.unlink()
    with pytest.raises(CheckpointError, match="lacks a member"):
        ask(side, routers=["Mixed"])
    shutil.rmtree(folder)
    with pytest.raises(NotFound, match="no router"):
        ask(side, routers=["Mixed"])
    assert "router:Mixed" not in routed.world.client.get("/projects/1/try").text


def test_a_router_of_another_encoder_is_not_offered_and_does_not_speak(routed, pool) -> None:
    make(routed)
    with sessions.writing(routed.engine) as session:
        project = routed.project(session)
        row = session.get_one(EncoderRow, project.encoder_id)
        row.fingerprint = "f" * 16
        session.add(row)
    assert "router:Mixed" not in routed.world.client.get("/projects/1/try").text
    with pytest.raises(Conflict, match="reads vectors of"):
        ask(answering_side(routed, pool), image_id=1, routers=["Mixed"])
