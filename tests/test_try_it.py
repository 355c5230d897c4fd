"""Try it: one picture, what versions say, and nothing kept of what is refused."""

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_browser import serving
from PIL import Image as Picture
from playwright.sync_api import Page, expect
from safetensors.numpy import load_file
from sqlmodel import col, select
from trained_world import DIM, Trained, open_trained, trained_home, vectors
from try_world import PlainEncoder, answering_side, answers, file_of, vector_of

import tastemaker
from tastemaker import embeddings, images, projects, versions
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.migration import migrate
from tastemaker.database.tables import EncoderRow, Image, Job, Label, ModelRequestRow, Prediction
from tastemaker.errors import Conflict, Invalid, NotFound, TastemakerError
from tastemaker.learning.ridge import fit_ridge
from tastemaker.live import embedding_matrix, model_process, model_requests, preview_uploads
from tastemaker.live.embedding_matrix import EmbeddingMatrix
from tastemaker.live.inference_server import InferenceServer
from tastemaker.live.model_requests import ModelRequest
from tastemaker.live.project_state import ProjectState
from tests.conftest import forward
from tests.web_world import drawn, make_world


@pytest.fixture
def home(tmp_path: Path) -> Trained:
    return open_trained(trained_home(tmp_path / "home"))


@pytest.fixture
def answering(home: Trained, pool: list[Any]) -> InferenceServer:
    return answering_side(home, pool)


@pytest.fixture
def served(home: Trained, answering: InferenceServer) -> Iterator[Trained]:
    """A home whose questions are answered while the test runs."""
    with answers(home.engine, answering.handle):
        yield home


def asked(home: Trained, kind: str, blob: bytes | None = None, **payload: Any) -> ModelRequest:
    return ModelRequest(1, kind, home.project_id, payload, blob)


def upload(home: Trained, content: bytes, **fields: str) -> Any:
    return home.world.client.post(
        f"/projects/{home.project_id}/try", data=fields, files={"file": ("mine.png", content)}
    )


def kept(home: Trained) -> list[Path]:
    return list(home.settings.incoming.iterdir())


def matrix_of(home: Trained) -> EmbeddingMatrix:
    with sessions.reading(home.engine) as session:
        return embedding_matrix.load(session, home.project(session))


# --- what the model says -------------------------------------------------------------------------


def test_a_picture_is_scored_as_the_published_file_scores_its_vector(
    home: Trained, answering: InferenceServer
) -> None:
    picture, version = drawn(5), home.version()
    told = answering.answer(asked(home, "predict", file_of(picture), versions=[version.id]))
    (said,) = told["said"]
    tensors = load_file(versions.verify(home.settings, version))
    expected = forward(tensors, vector_of(picture)[None])[0]
    assert said["score"] == pytest.approx(float(expected), abs=2e-5)
    assert said["by"] == "v1.0" and said["active"] and said["out_of_fold"] is None
    low = next(start for start, name in home_brackets(home) if name == said["bracket"])
    assert low <= said["score"]
    assert told["picture"] | {"sha256": ""} == {
        "image_id": None, "name": "", "format": "PNG", "width": 960, "height": 640, "sha256": "",
    }  # fmt: skip


def test_a_picture_of_one_very_long_row_is_scored_like_any_other(
    home: Trained, answering: InferenceServer
) -> None:
    thin = Picture.new("RGB", (9_000_000, 1), "red")
    told = answering.answer(asked(home, "predict", file_of(thin), versions=[home.version().id]))
    short = Picture.new("RGB", (90, 90), "red")
    same = answering.answer(asked(home, "predict", file_of(short), versions=[home.version().id]))
    assert told["said"][0]["score"] == pytest.approx(same["said"][0]["score"], abs=1e-6)
    assert told["picture"]["width"] == 9_000_000


def home_brackets(home: Trained) -> list[Any]:
    with sessions.reading(home.engine) as session:
        return home.project(session).brackets


def test_the_neighbours_are_the_most_alike_of_the_labelled_images(
    home: Trained, answering: InferenceServer
) -> None:
    told = answering.answer(asked(home, "predict", file_of(drawn(5)), versions=[home.version().id]))
    x = vectors(80, 1).astype("<f2").astype(np.float32)
    vector = vector_of(drawn(5))
    closeness = x @ vector / np.linalg.norm(x, axis=1) / np.linalg.norm(vector)
    with sessions.reading(home.engine) as session:
        labels = {
            label.image_id: label.value
            for label in session.exec(select(Label).order_by(col(Label.image_id)))
        }
    ids = list(labels)  # labelled are exactly the 80 images, in order
    best = np.argsort(-closeness)[:6]
    assert [near["image_id"] for near in told["neighbours"]] == [ids[row] for row in best]
    assert [near["label"] for near in told["neighbours"]] == [labels[ids[row]] for row in best]


def test_an_image_the_version_learned_from_is_also_judged_without_it(
    home: Trained, answering: InferenceServer
) -> None:
    version = home.version()
    with sessions.reading(home.engine) as session:
        row = session.exec(
            select(Prediction).where(
                Prediction.version_id == version.id, col(Prediction.out_of_fold).is_not(None)
            )
        ).first()
    assert row is not None
    told = answering.answer(asked(home, "predict", image_id=row.image_id, versions=[version.id]))
    assert told["said"][0]["score"] == pytest.approx(row.score, abs=1e-5)
    assert told["said"][0]["out_of_fold"] == pytest.approx(row.out_of_fold)


def test_the_live_model_answers_beside_versions(home: Trained, answering: InferenceServer) -> None:
    x = vectors(80, 1)
    ridge = fit_ridge(x, np.linspace(0, 1, 80), link="identity")
    answering.states = {home.project_id: ProjectState(matrix=matrix_of(home), ridge=ridge)}
    told = answering.answer(
        asked(home, "predict", file_of(drawn(5)), versions=[home.version().id], live=True)
    )
    assert [said["by"] for said in told["said"]] == ["v1.0", "live model"]
    expected = ridge.predict(vector_of(drawn(5))[None])[0]
    assert told["said"][1]["score"] == pytest.approx(float(expected), abs=1e-6)


def test_a_live_model_that_comes_after_the_start_is_asked_too(home: Trained) -> None:
    states: dict[int, ProjectState] = {}
    side = InferenceServer(home.settings, home.engine, states)
    question = asked(home, "predict", image_id=3, versions=[], live=True)
    with pytest.raises(Conflict, match="no live model"):
        side.answer(question)
    x = vectors(80, 1)
    ridge = fit_ridge(x, np.linspace(0, 1, 80), link="identity")
    states[home.project_id] = ProjectState(matrix=matrix_of(home), ridge=ridge)
    assert [said["by"] for said in side.answer(question)["said"]] == ["live model"]


def test_a_fit_on_the_former_encoder_says_nothing_of_the_new_ones_vectors(
    home: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    ridge = fit_ridge(vectors(80, 1), np.linspace(0, 1, 80), link="identity")
    state = ProjectState(matrix=matrix_of(home), ridge=ridge)
    with sessions.writing(home.engine) as session:
        other = EncoderRow(name="other", fingerprint="f" * 16, dim=DIM + 8)
        session.add(other)
        session.flush()
        longer = np.ones((80, DIM + 8), np.float16)
        embeddings.store_vectors(session, other.id, enumerate(longer, 1))
        home.project(session).encoder_id = other.id
    monkeypatch.setattr(model_process, "_fit", broken)
    with pytest.raises(ZeroDivisionError):
        model_process.refit(home.settings, home.engine, home.project_id, state)
    side = InferenceServer(home.settings, home.engine, {home.project_id: state})
    with pytest.raises(TastemakerError, match="live model"):
        side.answer(asked(home, "predict", image_id=3, versions=[], live=True))


def broken(*_: object) -> None:
    raise ZeroDivisionError


def test_similar_images_come_nearest_first_and_without_the_image_itself(
    home: Trained, answering: InferenceServer
) -> None:
    told = answering.answer(asked(home, "similar", image_id=4, limit=5))["images"]
    x = vectors(80, 1)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    wanted = [int(row) + 1 for row in np.argsort(-(unit @ unit[3])) if row != 3][:5]
    assert [near["image_id"] for near in told] == wanted


def test_text_search_says_when_the_encoder_knows_no_words(
    home: Trained, answering: InferenceServer
) -> None:
    with pytest.raises(Invalid, match="knows no words"):
        answering.answer(asked(home, "text", text="a lake"))
    with pytest.raises(Invalid, match="search text"):
        answering.answer(asked(home, "text", text=" "))


def test_text_search_ranks_by_likeness_to_the_words(
    home: Trained, answering: InferenceServer
) -> None:
    with sessions.writing(home.engine) as session:
        project = home.project(session)
        project.encoder = "ViT-B-32-quickgelu/openai"
        session.add(project)
    answering._encoders["ViT-B-32-quickgelu/openai"] = PlainEncoder()
    told = answering.answer(asked(home, "text", text="a lake", limit=3))["images"]
    x, text = vectors(80, 1).astype("<f2").astype(np.float32), vectors(1, len("a lake"))[0]
    closeness = x @ text / np.linalg.norm(x, axis=1)
    assert [n["image_id"] for n in told] == [int(r) + 1 for r in np.argsort(-closeness)[:3]]


@pytest.mark.parametrize(
    ("payload", "error", "sentence"),
    [
        ({"image_id": 1, "versions": [99]}, NotFound, "no such version"),
        ({"image_id": 1, "versions": []}, Invalid, "No version was chosen"),
        ({"image_id": 999, "versions": [1]}, NotFound, "not in the library"),
        ({"staged": "../../etc", "versions": [1]}, Invalid, "not a picture that was tried"),
        ({"image_id": 1, "versions": [], "live": True}, Conflict, "no live model"),
        ({"image_id": True, "versions": [1]}, Invalid, "whole number"),
    ],
)
def test_what_cannot_be_answered_is_said(
    home: Trained, answering: InferenceServer, payload: dict[str, Any], error: type, sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        answering.answer(asked(home, "predict", **payload))


def test_a_file_that_was_altered_does_not_speak(home: Trained, answering: InferenceServer) -> None:
    path = versions.checkpoint_path(home.settings, home.version())
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(Conflict, match="altered"):
        answering.answer(asked(home, "predict", file_of(drawn(1)), versions=[1]))


def test_other_weights_under_the_same_name_do_not_speak(
    home: Trained, answering: InferenceServer
) -> None:
    with sessions.reading(home.engine) as session:
        encoder = answering._encoders[home.project(session).encoder]
    encoder.fingerprint = "f" * 16
    with pytest.raises(Conflict, match="never mix"):
        answering.answer(asked(home, "predict", file_of(drawn(1)), versions=[1]))


def test_a_question_of_an_unknown_kind_is_refused(
    home: Trained, answering: InferenceServer
) -> None:
    with pytest.raises(Invalid, match="not a question"):
        answering.answer(asked(home, "sing"))


# --- the page ------------------------------------------------------------------------------------


def test_the_page_takes_a_picture_shows_the_answer_and_keeps_it_for_a_while(
    served: Trained,
) -> None:
    client, at = served.world.client, f"/projects/{served.project_id}/try"
    assert 'name="version-1" checked' in client.get(at).text
    answer = upload(served, file_of(drawn(5)), **{"version-1": "on"})
    assert answer.status_code == 303
    there = answer.headers["location"]
    page = client.get(there).text
    assert "v1.0" in page and "Nearest among your scores" in page and "mine.png" in page
    view = client.get(f"{there}/view")
    assert view.headers["content-type"] == "image/webp"
    assert "sandbox" in view.headers["content-security-policy"]
    with sessions.writing(served.engine) as session:
        other = projects.create(session, "Another").id
    elsewhere = there.replace(f"/projects/{served.project_id}/", f"/projects/{other}/")
    assert client.get(f"{elsewhere}/view").status_code == 404
    assert client.post(f"{elsewhere}/add").status_code == 404
    with Picture.open(io.BytesIO(view.content)) as seen:
        assert seen.size == (960, 640) and not seen.getexif()
    again = client.post(f"{there}/again", data={"version-1": "on"})
    assert again.status_code == 303 and again.headers["location"] == there
    with sessions.reading(served.engine) as session:
        assert images.count(session) == 80, "nothing entered the library"
        assert session.exec(select(ModelRequestRow)).all() == []


def test_a_tried_picture_can_be_added_and_is_then_offered_for_scoring(served: Trained) -> None:
    client = served.world.client
    there = upload(served, file_of(drawn(5))).headers["location"]
    answer = client.post(f"{there}/add")
    assert answer.status_code == 303
    with sessions.reading(served.engine) as session:
        (job,) = session.exec(select(Job).where(Job.kind == "import", Job.state == "queued"))
    assert job.payload["files"] == [["000000", "mine.png"]] and job.payload["role"] == "pool"
    waiting = answer.headers["location"]
    assert "being added" in client.get(waiting).text
    from tastemaker.importing import imports

    served.run(job, imports.run)
    sha256 = waiting.rsplit("/", 1)[1]
    with sessions.reading(served.engine) as session:
        image = session.exec(select(Image).where(Image.sha256 == sha256)).one()
    answer = client.get(waiting)
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/projects/{served.project_id}/score?image={image.id}"
    assert (
        "This picture is in the project"
        in client.get(upload(served, file_of(drawn(5))).headers["location"]).text
    )


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def bomb() -> bytes:
    """A PNG of a few bytes that claims 30,000 × 30,000 pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(
            ">I", zlib.crc32(kind + data)
        )  # fmt: skip

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + (
        chunk(b"IEND", b"")
    )  # fmt: skip


BAD = {
    "an SVG named .png": (SVG, "not a picture of a known format"),
    "a text": (b"hello", "not a picture of a known format"),
    "half a JPEG": (file_of(drawn(3), "JPEG")[:4000], "cut short"),
    "a bomb": (bomb(), "million pixels"),
    "an empty file": (b"", "empty"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_picture_is_refused_in_words_and_nothing_is_kept(served: Trained, what: str) -> None:
    content, sentence = BAD[what]
    answer = upload(served, content)
    assert answer.status_code == 422 and sentence in answer.text
    api = f"/api/v1/projects/{served.project_id}/predict"
    told = served.world.client.post(api, files={"file": ("x.png", content)})
    assert told.status_code == 422 and sentence in told.json()["error"]
    assert kept(served) == []
    with sessions.reading(served.engine) as session:
        assert session.exec(select(ModelRequestRow)).all() == []
    assert upload(served, file_of(drawn(2))).status_code == 303, "and the next one is answered"


def test_a_picture_beyond_the_cap_is_refused(
    served: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview_uploads, "MOST_BYTES", 2000)
    answer = upload(served, file_of(drawn(2)))
    assert answer.status_code == 413 and "A picture to try" in answer.text
    api = f"/api/v1/projects/{served.project_id}/predict"
    body = {"picture": base64.b64encode(file_of(drawn(2))).decode()}
    assert served.world.client.post(api, json=body).status_code == 413
    assert kept(served) == []


def pictures(*contents: bytes) -> list[Any]:
    return [("file", (f"{n}.png", content)) for n, content in enumerate(contents)]


def test_several_pictures_are_predicted_at_once_and_a_bad_one_says_so_in_its_place(
    served: Trained,
) -> None:
    client, at = served.world.client, f"/projects/{served.project_id}/try"
    contents = [file_of(drawn(5)), b"no picture", file_of(drawn(6))]
    answer = client.post(at, files=pictures(*contents))
    assert answer.status_code == 303
    page = client.get(answer.headers["location"]).text
    tokens = re.findall(rf'href="{at}/([0-9a-f]{{32}})"><img', page)
    assert len(tokens) == 2 and page.count("not a picture of a known format") == 1
    alone = client.post(f"/api/v1{at.removesuffix('/try')}/predict", files=pictures(contents[2]))
    shown = client.get(f"{at}/{tokens[1]}").text
    assert f"{10 * alone.json()['said'][0]['score']:.1f}" in shown and "2.png" in shown
    assert client.get(f"{at}/{tokens[0]}/view").headers["content-type"] == "image/webp"
    again = client.post(f"{answer.headers['location']}/again", data={"version-1": "on"})
    assert again.status_code == 303 and len(kept(served)) == 3
    together = client.post(f"{answer.headers['location']}/add")
    assert together.status_code == 404 and "several pictures" in together.text

    told = client.post(f"/api/v1/projects/{served.project_id}/predict", files=pictures(*contents))
    each = told.json()["pictures"]
    assert [one["name"] for one in each] == ["0.png", "1.png", "2.png"]
    assert each[2]["said"] == alone.json()["said"] and "not a picture" in each[1]["error"]
    assert len(kept(served)) == 3, "nothing of what the API is sent"


def test_no_file_too_many_or_bad_ones_alone_are_refused_and_nothing_is_kept(
    served: Trained,
) -> None:
    client, at = served.world.client, f"/projects/{served.project_id}/try"
    assert "No file was sent" in client.post(at, files={"file": ("", b"")}).text
    assert "not a picture" in client.post(at, files=pictures(b"a", b"b")).text
    assert "at most 24" in client.post(at, files=pictures(*[b"a"] * 25)).text
    assert kept(served) == []


def test_without_a_worker_the_page_says_so_and_keeps_nothing(
    home: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_requests, "CLAIM_SECONDS", 0.05)
    answer = upload(home, file_of(drawn(2)))
    assert answer.status_code == 503 and "worker is not running" in answer.text
    assert kept(home) == []


def test_the_api_answers_as_the_page_does_and_keeps_nothing(
    served: Trained, tmp_path: Path
) -> None:
    api = f"/api/v1/projects/{served.project_id}/predict"
    content = file_of(drawn(5))
    client = served.world.client
    by_form = client.post(api, files={"file": ("a.png", content)}).json()
    encoded = base64.b64encode(content).decode()
    by_json = client.post(api, json={"picture": encoded, "versions": ["v1.0"]}).json()
    assert by_form["said"] == by_json["said"] and by_form["neighbours"] == by_json["neighbours"]
    of_library = client.post(api, json={"image_id": 3, "versions": [1, "active"]}).json()
    assert [said["by"] for said in of_library["said"]] == ["v1.0"]
    assert of_library["picture"]["image_id"] == 3
    (tmp_path / "a.png").write_bytes(content)
    with serving(served.world) as url, tastemaker.Client(url) as program:
        asked = program.project("Anime").predict(tmp_path / "a.png", "v1.0")
    assert asked["said"] == by_json["said"]
    assert kept(served) == []


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "Name one picture"),
        ({"image_id": 1, "picture": "aGk="}, "Name one picture"),
        ({"picture": "§"}, "base64"),
        ({"image_id": 1, "versions": ["v9.9"]}, "no version v9.9"),
        ({"image_id": 1, "colour": "red"}, "colour"),
        ({"image_id": 0}, "image_id"),
        ([1], "cannot be used"),
    ],
)
def test_the_api_refuses_in_words(served: Trained, body: Any, sentence: str) -> None:
    answer = served.world.client.post(f"/api/v1/projects/{served.project_id}/predict", json=body)
    assert answer.status_code in (404, 422) and sentence in answer.json()["error"]
    assert kept(served) == []


def test_a_tried_picture_is_forgotten_after_an_hour(served: Trained) -> None:
    import os
    import time

    there = upload(served, file_of(drawn(5))).headers["location"]
    (folder,) = kept(served)
    preview_uploads.sweep(served.settings)
    assert served.world.client.get(there).status_code == 200
    long_ago = time.time() - preview_uploads.KEPT_SECONDS - 1
    os.utime(folder, (long_ago, long_ago))
    preview_uploads.sweep(served.settings)
    answer = served.world.client.get(there)
    assert answer.status_code == 404 and "no longer kept" in answer.text


def test_without_any_model_the_page_says_what_to_do_first(tmp_path: Path) -> None:
    world = make_world(tmp_path / "home", images=1)
    assert "There is no model to ask yet" in world.client.get(f"{world.at}/try").text
    assert world.client.post(f"{world.at}/try/warm").status_code == 204


# --- in the browser ------------------------------------------------------------------------------

GIVE = """([event, name, type, bytes]) => {
  const given = new DataTransfer();
  given.items.add(new File([new Uint8Array(bytes)], name, { type }));
  const how = { bubbles: true, cancelable: true };
  document.body.dispatchEvent(event === "paste"
    ? new ClipboardEvent("paste", { ...how, clipboardData: given })
    : new DragEvent("drop", { ...how, dataTransfer: given }));
}"""


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted_and_a_bad_one_leaves_the_page_as_it_is(
    page: Page, served: Trained, event: str
) -> None:
    from in_browser import serving, violations

    page.set_default_timeout(30_000)
    with serving(served.world) as url:
        page.goto(f"{url}/projects/{served.project_id}/try")
        page.evaluate(GIVE, [event, "bad.png", "image/png", list(b"not a picture")])
        expect(page.locator(".toast.wrong")).to_contain_text("not a picture of a known format")
        page.get_by_role("button", name="Close").click()
        page.evaluate(GIVE, [event, "note.txt", "text/plain", list(b"words")])
        expect(page.locator(".toast.wrong")).to_contain_text("That is not a picture.")
        page.evaluate(GIVE, [event, "mine.png", "image/png", list(file_of(drawn(5)))])
        expect(page.locator(".score-said")).to_contain_text("±")
        expect(page.locator(".near li")).to_have_count(6)
        expect(page.locator(".tried-picture img")).to_have_js_property("naturalWidth", 960)
        assert violations(page) == []


# --- with the real encoder -----------------------------------------------------------------------


def test_a_picture_of_the_library_gets_the_score_that_the_library_shows(sample: Path) -> None:
    settings = Settings(home=sample, min_free_gb=0, _env_file=None)  # type: ignore[call-arg]
    engine = migrate(settings)
    side = InferenceServer(settings, engine)
    try:
        with sessions.reading(engine) as session:
            project = projects.by_name(session, "Sample")
            version = versions.active(session, project)
            assert version is not None
            rows = session.exec(
                select(Prediction).where(Prediction.version_id == version.id).limit(3)
            ).all()
            files = [
                images.source_path(session, settings, images.get(session, row.image_id))
                for row in rows
            ]
        for row, path in zip(rows, files, strict=True):
            question = ModelRequest(
                1, "predict", project.id, {"versions": [version.id]}, path.read_bytes()
            )
            told = side.answer(question)
            # A batch of another size may round a vector's last float16 digit differently.
            assert told["said"][0]["score"] == pytest.approx(row.score, abs=2e-3)
            assert told["picture"]["image_id"] == row.image_id
    except TastemakerError as error:
        pytest.fail(str(error))
    finally:
        side.close()
        engine.dispose()
