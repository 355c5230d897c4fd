"""Test runs: what a version says about other images, corrected where it is seen; and predictions
of images that came after the training."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from sqlmodel import Session, col, select
from trained_world import TASTE, Trained, open_trained, taste, trained_home, vectors

from tastemaker import embeddings, jobs, projects, queues, scores, versions
from tastemaker.database import sessions
from tastemaker.database.tables import (
    Annotator,
    Collection,
    Image,
    Job,
    Label,
    Prediction,
    Project,
    ProjectCollection,
    ScoreEvent,
    VersionLabel,
)
from tastemaker.database.tables import TestRun as Run
from tastemaker.database.tables import TestRunScore as RunScore
from tastemaker.encoding.similarity import cosines, highest
from tastemaker.errors import Conflict, Invalid, NotFound
from tastemaker.evaluation import comparison, flips, slices, test_run_cards, test_runs
from tastemaker.library import browsing, counting, orders, scopes, tags
from tastemaker.library.filters import LibraryFilter
from tastemaker.publishing import card_blocks, model_card, sheets
from tastemaker.versions import predictions, version_report
from tests.conftest import forward, work_on
from tests.web_world import drawn


@pytest.fixture
def home(tmp_path: Path) -> Trained:
    return open_trained(trained_home(tmp_path / "home"))


def collection_id(home: Trained, name: str) -> int:
    with sessions.reading(home.engine) as session:
        return session.exec(select(Collection.id).where(Collection.name == name)).one()


def correct(
    session: Session, project: Project, run: test_run_cards.TestRunReport, image_id: int,
    person: Annotator, value: int,
) -> None:  # fmt: skip
    """Score an image as the run's page does."""
    offer = test_run_cards.offer(session, project, run, image_id, person)
    scores.record(session, project, image_id, person, "set", value, offer=offer)


def request(home: Trained, version: str = "active", **source: object) -> Run:
    with sessions.writing(home.engine) as session:
        project = home.project(session)
        chosen = versions.by_number(session, project, version)
        return test_runs.request_run(
            session, home.settings, project, chosen, test_runs.Source(**source)  # type: ignore[arg-type]
        )  # fmt: skip


def finished(home: Trained, run: Run) -> test_run_cards.TestRunReport:
    with sessions.reading(home.engine) as session:
        job = jobs.get(session, run.job_id or 0)
    home.run(job, test_runs.run)
    return told(home, run.id)


def told(home: Trained, run_id: int) -> test_run_cards.TestRunReport:
    with sessions.reading(home.engine) as session:
        return test_run_cards.get(session, home.project(session), run_id)


def said(home: Trained, version_id: int) -> dict[int, Prediction]:
    with sessions.reading(home.engine) as session:
        rows = session.exec(select(Prediction).where(Prediction.version_id == version_id))
        return {row.image_id: row for row in rows}


# --- images that came after the training ---------------------------------------------------------


def test_the_active_version_speaks_about_images_that_came_later(home: Trained) -> None:
    version = home.version()
    before = said(home, version.id)
    later = home.add(30, "Later", "pool", seed=2)
    with sessions.writing(home.engine) as session:
        job = jobs.enqueue(session, "predict", "Predict", {}, home.project_id)
    assert home.run(job, predictions.run) == {"predicted": 30, "version": "v1.0"}
    after = said(home, version.id)
    assert {i: row.score for i, row in after.items() if i in before} == {
        i: row.score for i, row in before.items()
    }
    # Judged by the file alone, with the forward pass written down independently of the program.
    tensors = load_file(versions.verify(home.settings, version))
    expected = forward(tensors, vectors(30, 2).astype("<f2"))
    np.testing.assert_allclose([after[i].score for i in later], expected, atol=2e-5)
    spread = [row.uncertainty for row in before.values()]
    for image_id in later:
        assert min(spread) <= after[image_id].uncertainty <= max(spread)
        assert after[image_id].out_of_fold is None


def test_predicting_again_writes_nothing_twice(home: Trained) -> None:
    home.add(5, "Later", "pool", seed=2)
    for expected in (5, 0):
        with sessions.writing(home.engine) as session:
            job = jobs.enqueue(session, "predict", "Predict", {}, home.project_id)
        assert home.run(job, predictions.run)["predicted"] == expected


def test_a_late_relative_of_a_trained_image_is_judged_without_its_label(home: Trained) -> None:
    version = home.version()
    with sessions.reading(home.engine) as session:
        trained_on, group = session.execute(
            select(VersionLabel.image_id, Image.source_group)
            .join(Image, col(Image.id) == VersionLabel.image_id)
            .where(VersionLabel.version_id == version.id, VersionLabel.side == "train")
        ).first()  # type: ignore[misc]
    (relative,) = home.add(1, "Crops", "pool", seed=3, group=group)
    with sessions.writing(home.engine) as session:
        job = jobs.enqueue(session, "predict", "Predict", {}, home.project_id)
    home.run(job, predictions.run)
    rows = said(home, version.id)
    assert rows[relative].out_of_fold == pytest.approx(rows[trained_on].out_of_fold)


def test_embedding_new_images_asks_the_active_version_about_them(
    home: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "embed_project", lambda *_: {"embedded": 3})
    for _ in range(2):  # a second embedding before the prediction has begun adds no second job
        with sessions.writing(home.engine) as session:
            job = jobs.enqueue(session, "embed", "Embed", {}, home.project_id)
        embeddings.run(work_on(home.settings, home.engine, job.id))
    with sessions.reading(home.engine) as session:
        waiting = jobs.unfinished(session, "predict", home.project_id)
    assert [job.title for job in waiting] == ["Predict the new images of “Anime”"]


def test_going_back_to_an_older_version_lets_it_catch_up(home: Trained) -> None:
    first = home.version()
    home.add(4, "Later", "pool", seed=2)
    home.train()
    client = home.world.client
    assert client.post(f"/api/v1/versions/{first.id}/activate").status_code == 200
    with sessions.reading(home.engine) as session:
        (job,) = jobs.unfinished(session, "predict", home.project_id)
    assert home.run(job, predictions.run) == {"predicted": 4, "version": "v1.0"}
    assert client.post(f"/versions/{first.id}/activate").status_code == 303
    with sessions.reading(home.engine) as session:
        assert jobs.unfinished(session, "predict") == [], "nothing is missing any more"


# --- a run ---------------------------------------------------------------------------------------


def test_a_run_shows_the_highest_the_lowest_and_the_doubtful(home: Trained) -> None:
    ids = home.add(50, "Holiday", None, seed=4)
    run = finished(home, request(home, collection_id=collection_id(home, "Holiday")))
    summary, rows = run.run.summary, said(home, run.version.id)
    scores = {i: rows[i].score for i in ids}
    with sessions.reading(home.engine) as session:
        project = home.project(session)
        held = {
            i for i in ids
            if projects.on_holdout_side(project, session.get(Image, i).source_group)  # type: ignore[union-attr]
        }  # fmt: skip
        link = session.get(ProjectCollection, (project.id, run.collection.id))
    assert link is not None and link.role == "test-run", "its images stay out of the queues"
    assert summary["n"] == 50 and summary["holdout"] == len(held) > 0
    assert summary["passes"] == sum(score >= 0.5 for score in scores.values())
    assert summary["mean"] == pytest.approx(np.mean(list(scores.values())), abs=1e-4)
    assert sum(summary["histogram"]) == 50
    shown = sorted(set(ids) - held, key=lambda i: -scores[i])
    grids = {part: [entry[0] for entry in summary["grids"][part]] for part in test_runs.GRIDS}
    assert grids["top"] == shown
    assert grids["bottom"] == shown[::-1]
    assert grids["threshold"] == sorted(shown, key=lambda i: abs(scores[i] - 0.5))


def test_a_killed_run_ends_the_same(home: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    home.add(20, "Holiday", None, seed=4)
    run = request(home, collection_id=collection_id(home, "Holiday"))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(test_runs, "summarise", killed)
        with pytest.raises(KeyboardInterrupt):
            test_runs.run(work_on(home.settings, home.engine, run.job_id or 0))
    assert told(home, run.id).run.summary == {}
    with sessions.writing(home.engine) as session:
        jobs.requeue_orphans(session)
    once = finished(home, run).run.summary
    assert once["n"] == 20
    with sessions.writing(home.engine) as session:
        again = jobs.enqueue(session, "test-run", "again", {"run": run.id}, home.project_id)
    assert home.run(again, test_runs.run) == {"run": run.id, "n": 20}
    assert told(home, run.id).run.summary == once


def test_a_correction_joins_the_labels_and_never_measures(home: Trained) -> None:
    home.add(50, "Holiday", None, seed=4)
    run = finished(home, request(home, collection_id=collection_id(home, "Holiday")))
    wrong = [entry[0] for entry in run.run.summary["grids"]["top"][:3]]
    with sessions.writing(home.engine) as session:
        person = projects.annotator(session, home.settings.annotator)
        for image_id in wrong:
            correct(session, home.project(session), run, image_id, person, 1)
    with sessions.reading(home.engine) as session:
        labels = [session.get(Label, (home.project_id, image_id)) for image_id in wrong]
        linked = session.exec(select(RunScore.event_id)).all()
        events = session.exec(
            select(ScoreEvent).where(col(ScoreEvent.id).in_(linked))
        ).all()  # fmt: skip
    assert [label.value for label in labels if label] == [1, 1, 1]
    assert not any(label.measures for label in labels if label)
    assert {(e.image_id, e.origin, e.reason) for e in events} == {
        (image_id, "test-run", "test run of v1.0 on “Holiday”") for image_id in wrong
    }
    assert told(home, run.run.id).corrected == 3
    trained = home.train()
    with sessions.reading(home.engine) as session:
        sides = dict(
            session.execute(
                select(VersionLabel.image_id, VersionLabel.side).where(
                    VersionLabel.version_id == trained.id
                )
            ).all()
        )
    assert {sides[image_id] for image_id in wrong} == {"train"}


def test_nothing_of_a_test_run_leaks_into_what_is_told_of_the_project(home: Trained) -> None:
    pool = told_of_project(home)
    assert pool["images"] == 80
    tried = home.add(50, "Holiday", None, seed=4)
    with sessions.writing(home.engine) as session:
        tags.add(session, [1, 2, *tried], ["sea"])
    run = finished(home, request(home, collection_id=collection_id(home, "Holiday")))
    with sessions.writing(home.engine) as session:
        slices.add(session, home.project(session), "tag", {"tag": "sea"})
        person = projects.annotator(session, home.settings.annotator)
        for image_id, *_ in run.run.summary["grids"]["top"][:5]:
            correct(session, home.project(session), run, image_id, person, 1)
    assert told_of_project(home) == pool
    newer = home.train()
    assert told_of_project(home) == pool
    with sessions.reading(home.engine) as session:
        project = home.project(session)
        progress = queues.progress(session, home.settings, project)
        assert (progress.scored, progress.images, progress.labelled) == (80, 80, 85)  # all teach
        assert [(tag.tag, tag.images) for tag in tags.most_common(session, project)] == [("sea", 2)]
        assert slices.tags(session, project) == [("sea", 2)]
        (sea,) = slices.measured(session, project, newer)
        assert (sea.images, sea.library_share) == (2, 2 / 80)
        both = flips.pair(session, project)
        assert comparison.moved(session, both).images == 80
        ends, _ = sheets.unseen_ends(session, project, [newer], n=80)
        shown = {tile.image_id for tile in ends[0].best + ends[0].worst}
        for name in sheets.SHEETS:
            listed = sheets.sheet_tiles(session, project, newer, name, n=200)
            shown |= {tile.image_id for tile in listed}
        assert shown and not shown & set(tried)
        asked = LibraryFilter(role="test-run")
        assert set(session.exec(scopes.filtered_ids(session, project, asked))) == set(tried)


def told_of_project(home: Trained) -> dict[str, object]:
    """The numbers that pages, commands and the model card tell of the project's images."""
    with sessions.reading(home.engine) as session:
        project, version = home.project(session), versions.active(session, home.project(session))
        assert version is not None
        resolved = scopes.resolve(session, project, LibraryFilter())
        page = browsing.find(session, resolved, orders.Order(), n=500)
        spread = predictions.percentiles(session, version)
        histogram = version_report.prediction_histograms(session, project, version)[0]
        summary = projects.summary(session, project)
        assert spread is not None
        return {
            "images": len(page.ids),
            "counted": counting.count(session, project, resolved),
            "summary": (summary["images"], summary["unlabelled"]),
            "predicted": (spread.images, histogram.images),
            "embedded": embeddings.count(session, project.encoder_id, project.id),
            "card": "80 images in dataset"
            in card_blocks.markdown(model_card.card_of(session, home.settings, version)),
        }


@pytest.mark.slow
def test_a_second_version_on_the_same_images_says_what_changed(home: Trained) -> None:
    ids = home.add(50, "Holiday", None, seed=4)
    first = finished(home, request(home, collection_id=collection_id(home, "Holiday")))
    top = [entry[0] for entry in first.run.summary["grids"]["top"][:8]]
    with sessions.writing(home.engine) as session:
        person = projects.annotator(session, home.settings.annotator)
        for image_id in top:
            correct(session, home.project(session), first, image_id, person, 0)
    newer = home.train()
    second = finished(
        home, request(home, newer.number, collection_id=collection_id(home, "Holiday"))
    )
    against = second.run.summary["against"]
    old, new = said(home, first.version.id), said(home, newer.id)

    def passes(row: Prediction) -> bool:
        return (row.score if row.out_of_fold is None else row.out_of_fold) >= 0.5

    assert against["version"] == "v1.0" and against["n"] == 50
    assert against["down"] == sum(passes(old[i]) and not passes(new[i]) for i in ids)
    assert against["up"] == sum(passes(new[i]) and not passes(old[i]) for i in ids)
    with sessions.reading(home.engine) as session:
        listed = test_run_cards.listing(session, home.project(session))
    assert [(one.version.number, one.corrected) for one in listed] == [("v1.1", 0), ("v1.0", 8)]


def test_what_cannot_be_tried_is_refused_in_words(home: Trained, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="feeds the queues"):
        request(home, collection_id=collection_id(home, "Pictures"))
    with pytest.raises(Invalid, match="Name what to look at"):
        request(home)
    with pytest.raises(Invalid, match="more than one source"):
        request(home, collection_id=1, folder="/tmp")
    with pytest.raises(NotFound, match="no such collection"):
        request(home, collection_id=999)
    with pytest.raises(NotFound, match="no file or folder"):
        request(home, folder=str(tmp_path / "nowhere"))
    (tmp_path / "bare").mkdir()
    with pytest.raises(Invalid, match="There is no picture"):
        request(home, folder=str(tmp_path / "bare"))
    with sessions.reading(home.engine) as session:
        assert session.exec(select(Run)).all() == []
        assert jobs.unfinished(session) == []


def test_new_images_never_land_in_a_pool_of_the_same_name(home: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "Pictures"
    folder.mkdir()
    drawn(1).save(folder / "one.jpg")
    first = request(home, folder=str(folder))
    again = request(home, folder=str(folder))
    assert told(home, first.id).collection.name == "Pictures 2"
    assert told(home, again.id).collection.name == "Pictures 2", "tried before: the same one"
    with sessions.reading(home.engine) as session:
        roles = dict(
            session.execute(select(Collection.name, ProjectCollection.role)
                            .join(ProjectCollection,
                                  col(ProjectCollection.collection_id) == Collection.id)).all()
        )  # fmt: skip
    assert roles == {"Pictures": "pool", "Pictures 2": "test-run"}


def test_asking_twice_for_the_same_run_gives_one(home: Trained) -> None:
    home.add(3, "Holiday", None, seed=4)
    holiday = collection_id(home, "Holiday")
    assert request(home, collection_id=holiday).id == request(home, collection_id=holiday).id


# --- the pages -----------------------------------------------------------------------------------


@pytest.fixture
def shown(home: Trained) -> tuple[Trained, test_run_cards.TestRunReport]:
    home.add(60, "Holiday <b>", None, seed=4)
    return home, finished(home, request(home, collection_id=collection_id(home, "Holiday <b>")))


def test_the_page_corrects_in_place_and_takes_back(
    shown: tuple[Trained, test_run_cards.TestRunReport],
) -> None:
    home, run = shown
    client = home.world.client
    at = f"/projects/{home.project_id}/test-runs/{run.run.id}"
    page = client.get(at).text
    assert "Holiday &lt;b&gt;" in page and "by v1.0" in page
    image_id, score, _ = run.run.summary["grids"]["top"][0]
    assert f'id="card-{image_id}"' in page and f"{100 * score:.0f}" in page
    answer = client.post(
        f"{at}/images/{image_id}/score", data={"value": "2", "expected": "0"},
        headers={"HX-Request": "true"},
    )  # fmt: skip
    assert answer.status_code == 200 and "Saved: 2" in answer.text
    assert f'action="/projects/{home.project_id}/undo"' in answer.text
    assert client.post(f"{at}/undo", data={}, headers={"HX-Request": "true"}).status_code == 200
    with sessions.reading(home.engine) as session:
        assert session.get(Label, (home.project_id, image_id)) is None
    # The same without a script: back to the same part of the page, at the same card.
    answer = client.post(
        f"{at}/images/{image_id}/score", data={"value": "3", "part": "top", "after": "0"}
    )
    assert answer.status_code == 303 and answer.headers["location"].endswith(f"#card-{image_id}")
    assert "Saved 3 for" in client.get(answer.headers["location"]).text


def test_an_image_that_the_run_does_not_show_is_not_scored_through_it(
    shown: tuple[Trained, test_run_cards.TestRunReport],
) -> None:
    home, run = shown
    at = f"/projects/{home.project_id}/test-runs/{run.run.id}"
    answer = home.world.client.post(f"{at}/images/1/score", data={"value": "3"})
    assert answer.status_code == 404
    assert home.world.client.get(f"{at}?part=middle").status_code == 404
    assert home.world.client.get(f"{at}9").status_code == 404


def test_a_double_correction_from_two_tabs_shows_both_values(
    shown: tuple[Trained, test_run_cards.TestRunReport],
) -> None:
    home, run = shown
    api = f"/api/v1/projects/{home.project_id}/test-runs/{run.run.id}"
    card = home.world.client.get(f"{api}/images").json()[0]
    say = {"image_id": card["image_id"], "expected": 0}
    assert home.world.client.post(f"{api}/scores", json=say | {"value": 2}).status_code == 200
    answer = home.world.client.post(f"{api}/scores", json=say | {"value": 7})
    assert answer.status_code == 409 and "2 there, 7 here" in answer.json()["error"]


def test_the_api_tells_runs_and_starts_them(
    shown: tuple[Trained, test_run_cards.TestRunReport],
) -> None:
    home, run = shown
    api = f"/api/v1/projects/{home.project_id}/test-runs"
    (listed,) = home.world.client.get(api).json()
    assert listed["state"] == "done" and listed["n"] == 60 and listed["version"] == "v1.0"
    assert home.world.client.get(f"{api}/{run.run.id}").json() == listed
    body = {"version_id": run.version.id, "collection_id": run.collection.id}
    answer = home.world.client.post(api, json=body)
    assert answer.status_code == 202 and answer.json()["state"] == "queued"
    assert home.world.client.post(api, json=body | {"folder": "/tmp"}).status_code == 422


def test_the_form_starts_a_run_and_keeps_what_was_typed_when_refused(home: Trained) -> None:
    at = f"/projects/{home.project_id}/test-runs"
    page = home.world.client.get(at).text
    assert "What would it make of other pictures?" in page
    fields = {"version": str(home.version().id), "folder": "/no/where", "name": "Mine"}
    answer = home.world.client.post(at, data=fields, files={"files": ("", b"")})
    assert answer.status_code == 404 and 'value="/no/where"' in answer.text
    assert "There is no file or folder" in answer.text
    home.add(3, "Holiday", None, seed=4)
    fields |= {"collection": str(collection_id(home, "Holiday")), "source": "collection"}
    answer = home.world.client.post(at, data=fields | {"source": "x"}, files={"files": ("", b"")})
    assert "not one of the choices" in answer.text
    # Only what was chosen is looked at, whatever stands in the other fields.
    answer = home.world.client.post(at, data=fields, files={"files": ("", b"")})
    assert answer.status_code == 303
    assert "is looking at the images" in home.world.client.get(answer.headers["location"]).text
    assert list(home.settings.incoming.iterdir()) == []


@pytest.mark.slow
def test_a_failed_run_says_why_and_goes_on(home: Trained, tmp_path: Path) -> None:
    home.add(3, "Holiday", None, seed=4)
    run = request(home, collection_id=collection_id(home, "Holiday"))
    with sessions.writing(home.engine) as session:
        job = session.get(Job, run.job_id)
        assert job is not None
        job.state, job.error = "failed", "The encoder’s weights are gone."
        session.add(job)
    at = f"/projects/{home.project_id}/test-runs/{run.id}"
    page = home.world.client.get(at).text
    assert "The encoder’s weights are gone." in page and "Go on with it" in page
    assert home.world.client.post(f"{at}/retry").status_code == 303
    assert finished(home, run).state == "done"


def test_without_a_version_the_page_says_what_to_do_first(tmp_path: Path) -> None:
    from tests.web_world import make_world

    world = make_world(tmp_path / "home", images=1)
    page = world.client.get(f"{world.at}/test-runs").text
    assert "There is no version to try yet" in page


# --- likeness ------------------------------------------------------------------------------------


@given(st.lists(st.integers(-5, 5), max_size=30), st.integers(0, 40))
def test_the_highest_are_those_a_full_sort_gives(values: list[int], n: int) -> None:
    wanted = sorted(range(len(values)), key=lambda row: (-values[row], row))[:n]
    assert highest(np.array(values, float), n).tolist() == wanted


def test_a_vector_is_like_itself_and_unlike_its_opposite() -> None:
    x = np.stack([TASTE, -TASTE, 0 * TASTE])
    np.testing.assert_allclose(cosines(x, TASTE), [1, -1, 0], atol=1e-6)
    assert taste(x)[0] > taste(x)[1]
    with pytest.raises(Conflict):
        cosines(x, TASTE[:3])
