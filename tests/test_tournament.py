"""Which encoder suits a project's labels, and the move to it."""

import functools
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from in_browser import browsing, serving
from PIL import Image as Pillow
from playwright.sync_api import Browser, expect
from sqlalchemy import Engine
from sqlmodel import Session, col, delete, func, select
from web_world import World

from tastemaker import embeddings, jobs, projects, versions
from tastemaker.cli.encoders import print_rows
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.migration import migrate
from tastemaker.database.tables import Embedding, EncoderRow, Image, Job, Label, Project, Version
from tastemaker.encoding.encoder_specs import BUNDLED, EncoderSpec, parse
from tastemaker.encoding.encoders import Encoder, load
from tastemaker.errors import Conflict, Invalid, NotTrainable, StorageFull
from tastemaker.evaluation import comparison, flips, tournament
from tastemaker.importing import imports
from tastemaker.live import embedding_matrix, project_state
from tastemaker.pages import formats
from tastemaker.pages.app import create_app
from tastemaker.training import learners, migration, retrain
from tastemaker.versions import predictions
from tests import pictures
from tests.command_line import Run, fails
from tests.conftest import work_on
from tests.desk import request_import
from tests.web_world import client_of, settings_in

STAGES = "efficientnet_lite0+stages/bundled"
COUNT = 26


def paint(folder: Path) -> None:
    """Small pictures in folders of their score: the redder the better."""
    random = np.random.default_rng(3)
    for number in range(COUNT):
        score = number % 11
        colour = np.array([20 + 20 * score, 110, 220 - 20 * score])
        pixels = (colour + random.normal(0, 25, (48, 64, 3))).clip(0, 255).astype(np.uint8)
        content = pictures.encoded(Pillow.fromarray(pixels))
        pictures.write(folder / f"{score:02}" / f"{number}.png", content)


class Home:
    """A project whose pictures are embedded and scored, and that has trained v1.0."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings, self.engine = settings, engine

    def run(self, job: Job, run: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        """What the worker's child does, and that the job has ended."""
        context = work_on(self.settings, self.engine, job.id)
        result = run(context)
        with sessions.writing(self.engine) as session:
            jobs.finish(session, context.claim, result)
        return result

    def project(self, session: Session) -> Project:
        return projects.get(session, 1)

    def move(self, encoder: str = STAGES) -> Job:
        with sessions.writing(self.engine) as session:
            project = self.project(session)
            return migration.request_migration(session, self.settings, project, encoder)

    def try_encoders(self, *names: str, images: int = 400) -> Job:
        with sessions.writing(self.engine) as session:
            return tournament.request_tournament(
                session, self.settings, self.project(session), names, images
            )

    def asked_for(self, kind: str) -> Job:
        """The one job of a kind that waits."""
        with sessions.reading(self.engine) as session:
            (job,) = jobs.unfinished(session, kind)
            return job

    def vectors(self, encoder: str) -> int:
        with sessions.reading(self.engine) as session:
            query = select(func.count()).select_from(Embedding).join(EncoderRow)
            return session.exec(query.where(EncoderRow.name == encoder)).one()


once = functools.cache(load)


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading the same networks again and again would be most of the time."""
    monkeypatch.setattr(embeddings, "load", once)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("encoders")
    paint(place / "pictures")
    settings = settings_in(place / "home", torch_threads=1)
    home = Home(settings, engine := migrate(settings))
    with sessions.writing(engine) as session:
        project = projects.create(session, "Red", encoder=BUNDLED, recipe="ridge")
        project.seed = 5
        job = request_import(
            session, settings, [place / "pictures"], project=project, scores_from_folders=True
        )
    home.run(job, imports.run)
    with sessions.reading(engine) as session:
        (embed,) = jobs.unfinished(session, "embed")
    home.run(embed, embeddings.run)
    with sessions.writing(engine) as session:
        job = retrain.request_training(session, settings, home.project(session))
    home.run(job, retrain.run)
    engine.dispose()
    return place / "home"


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Home:
    shutil.copytree(made, tmp_path / "home")
    settings = settings_in(tmp_path / "home", torch_threads=1)
    return Home(settings, sessions.make_engine(settings))


@pytest.mark.slow
def test_encoders_are_compared_on_the_same_labels_and_told_with_their_cost(
    home: Home, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = f"{BUNDLED}+ViT-B-32-quickgelu/openai"
    fails(run("tournament", "Red", "--encoder", BUNDLED), "needs another encoder")
    result = home.run(home.try_encoders(STAGES, gone, BUNDLED), tournament.run)
    own, stages, missing = result["rows"]
    assert [row["encoder"] for row in result["rows"]] == [BUNDLED, STAGES, gone]
    with sessions.reading(home.engine) as session:
        trained = session.exec(select(func.count()).where(~col(Label.holdout))).one()
    assert own["n"] == stages["n"] == trained < COUNT
    assert (own["numbers"], stages["numbers"]) == (1280, 2848)
    for row in (own, stages):
        assert row["mae"]["low"] <= row["mae"]["value"] <= row["mae"]["high"] < 5
        assert row["spearman"]["value"] > 0.3
        assert row["gigabytes"] == pytest.approx(COUNT * row["numbers"] * 2 / 1e9)
    assert (own["missing"], own["hours"]) == (0, None)
    assert stages["missing"] == COUNT - trained and 0 < stages["hours"] < 1
    difference = stages["mae"]["value"] - own["mae"]["value"]
    assert stages["difference"]["value"] == pytest.approx(difference, abs=1e-6)
    assert stages["verdict"] in ("better", "worse", "no difference shown")
    assert "lacks a part" in missing["error"] and "@/path" in missing["error"]
    print_rows(result["rows"])
    printed = capsys.readouterr().out
    assert "in use" in printed and f"{gone}: {gone} lacks a part" in " ".join(printed.split())
    with sessions.reading(home.engine) as session:
        assert tournament.latest(session, home.project(session)).result == result
        assert home.project(session).encoder == BUNDLED
    # What is embedded stays: the second time nothing is, and it says the same.
    before = home.vectors(STAGES)
    again = home.run(home.try_encoders(STAGES), tournament.run)["rows"][1]
    assert home.vectors(STAGES) == before == trained
    assert again["mae"] == stages["mae"] and again["hours"] > 0


def test_each_label_is_predicted_by_a_head_that_never_saw_it() -> None:
    """A candidate whose numbers are noise ranks nothing, however many there are of them."""
    random = np.random.default_rng(0)
    ids, labels = np.arange(60), {i: i % 11 / 10 for i in range(60)}
    y = np.array(list(labels.values()))
    noise = random.normal(size=(60, 500)).astype(np.float16)
    tells = (noise + 8 * y[:, None]).astype(np.float16)
    candidates = [
        tournament.Candidate("noise", ids, noise),
        tournament.Candidate("tells", ids[3:], tells[3:], seconds=0.5, missing=7200),
        tournament.Candidate("fails", error="No weights."),
    ]
    groups = {i: str(i) for i in labels}
    first, second, third = tournament.compared(candidates, labels, groups, 0.5, 1_000_000)
    assert first["n"] == second["n"] == 57  # on the same images
    assert abs(first["spearman"]["value"] or 0) < 0.4 and second["spearman"]["value"] > 0.9
    assert second["verdict"] == "better" and second["difference"]["high"] < 0
    assert second["hours"] == 1.0 and second["gigabytes"] == 1.0
    assert (third["encoder"], third["error"]) == ("fails", "No weights.") and "mae" not in third
    with pytest.raises(NotTrainable, match=r"Only 5 of the labelled images"):
        tournament.compared(
            [tournament.Candidate("few", ids[:5], noise[:5])], labels, groups, 0.5, 60
        )


def test_the_sample_stays_when_a_label_comes_or_goes(home: Home) -> None:
    with sessions.writing(home.engine) as session:
        project = home.project(session)
        before = tournament.sample(session, project, 12)
        assert len(before) == 12 and before == tournament.sample(session, project, 12)
        kept = tournament.sample(session, project, 10)
        assert kept.keys() < before.keys()
        lowest = session.exec(select(func.min(Label.image_id)).where(~col(Label.holdout))).one()
        session.delete(session.get(Label, (project.id, lowest)))
        session.flush()
        after = tournament.sample(session, project, 12)
    assert len(before.keys() - after.keys()) <= 1


def test_the_seconds_of_a_picture_leave_out_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def embedded(*_: Any, **__: Any) -> Iterator[tuple[int, None]]:
        clock[0] += 5.0  # the children that decode
        for number in range(tournament.TIMED):
            clock[0] += 0.25
            yield number, None

    monkeypatch.setattr(tournament, "embed_files", embedded)
    monkeypatch.setattr(tournament.time, "perf_counter", lambda: clock[0])
    assert tournament._timed(cast(Any, None), range(16), cast(Any, None)) == 0.25


@pytest.mark.parametrize(
    ("names", "images", "error", "sentence"),
    [
        ((BUNDLED,), 400, Invalid, "needs another encoder"),
        ((" ",), 400, Invalid, "needs another encoder"),
        (tuple(f"ViT-B-32/t{n}" for n in range(9)), 400, Invalid, "At most 8"),
        ((STAGES,), 5, Invalid, "20 to 2,000"),
        (("ViT-B-23/x",), 400, Invalid, "has no model"),
        ((f"{BUNDLED}+{STAGES}",), 400, Invalid, "twice"),
    ],
)
def test_a_tournament_that_means_nothing_is_refused(
    home: Home, names: tuple[str, ...], images: int, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        home.try_encoders(*names, images=images)


def test_too_few_labels_and_vectors_from_outside_are_refused(home: Home) -> None:
    with sessions.writing(home.engine) as session:
        some = session.exec(select(Label.image_id).limit(COUNT - 15)).all()
        for image_id in some:
            session.delete(session.get(Label, (1, image_id)))
    with pytest.raises(NotTrainable, match="a tournament needs 20"):
        home.try_encoders(STAGES)
    with sessions.writing(home.engine) as session:
        session.exec(select(EncoderRow)).one().declared = True
    with pytest.raises(Conflict, match="does not embed its own images"):
        home.try_encoders(STAGES)
    with pytest.raises(Conflict, match="vectors from outside"):
        home.move()
    with sessions.writing(home.engine) as session:
        home.project(session).encoder_id = None
    with pytest.raises(Conflict, match="embedded yet"):
        home.move()


def test_a_project_moves_to_another_encoder_and_back(home: Home) -> None:
    job = home.move()
    assert home.move().id == job.id  # asked for twice
    with pytest.raises(Conflict, match=r"is moving to .*\+stages/bundled already"):
        home.move("efficientnet_lite0+whole/bundled")
    with sessions.reading(home.engine) as session:
        matrix = embedding_matrix.load(session, home.project(session))
        stamp = project_state.stamp_of(session, home.project(session))
    result = home.run(job, migration.run)
    assert (result["embedded"], result["moved"], result["version"]) == (COUNT, True, "v2.0")
    with sessions.reading(home.engine) as session:
        project = home.project(session)
        new, old = versions.list_ready(session, project)
        assert (new.number, new.active, old.number, old.active) == ("v2.0", True, "v1.0", False)
        assert project.encoder == STAGES and project.encoder_id == new.encoder_id
        assert new.metrics.predicted == COUNT and new.note == f"moved to {STAGES}"
        # Both say something of the same images, each through its own encoder.
        both = flips.Pair(project, old, new)
        assert comparison.paired_metrics(session, both).n > 0
        assert f"v1.0 sees through {BUNDLED}, v2.0" in comparison.encoders_differ(session, both)
        # The live model is due again, and holds none of the old vectors.
        moved = embedding_matrix.load(session, project, matrix)
        assert (matrix.x.shape[1], moved.x.shape[1]) == (1280, 2848)
        assert np.array_equal(moved.x, embeddings.matrix(session, project.encoder_id)[1])
        state = project_state.ProjectState(stamp=stamp, matrix=matrix)
        assert state.is_due(project_state.stamp_of(session, project))
        assert not state.follows(project)
    page = client_of(create_app(home.settings)).get("/projects/1/encoders").text
    assert "Go back to v1.0" in page and f"v1.0 was trained on <span hx-ignore>{BUNDLED}" in page
    with sessions.writing(home.engine) as session:  # one picture more, known to the new encoder
        lost = session.exec(select(Embedding).where(Embedding.encoder_id == old.encoder_id)).first()
        session.delete(lost)
    with sessions.writing(home.engine) as session:
        old = versions.by_number(session, home.project(session), "v1.0")
        predictions.activate_by_hand(session, home.settings, old)
    with sessions.reading(home.engine) as session:
        assert home.project(session).encoder == BUNDLED
        (embed,) = jobs.unfinished(session, "embed")
    assert home.run(embed, embeddings.run)["embedded"] == 1
    assert home.vectors(STAGES) == home.vectors(BUNDLED) == COUNT


def test_a_migration_that_is_stopped_half_way_changes_nothing_and_goes_on(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_files, read = embeddings.embed_files, []

    def stopped_after(count: int) -> None:
        def some(*args: Any, **options: Any) -> Any:
            for found in embed_files(*args, **options):
                if len(read) == count:
                    raise KeyboardInterrupt
                read.append(found)
                yield found

        monkeypatch.setattr(embeddings, "embed_files", some)

    monkeypatch.setattr(embeddings, "CHUNK", 4)
    stopped_after(9)
    job = home.move()
    with pytest.raises(KeyboardInterrupt):
        migration.run(work_on(home.settings, home.engine, job.id))
    kept = home.vectors(STAGES)
    assert kept == 8
    with sessions.writing(home.engine) as session:
        assert home.project(session).encoder == BUNDLED
        assert versions.active(session, home.project(session)).number == "v1.0"
        jobs.requeue_orphans(session, [job.id])
    stopped_after(10**6)
    monkeypatch.setattr(learners, "_predict_all", interrupted)
    with pytest.raises(KeyboardInterrupt):  # then in the training
        migration.run(work_on(home.settings, home.engine, job.id))
    assert home.vectors(STAGES) == COUNT and len(read) == 9 + COUNT - kept
    with sessions.writing(home.engine) as session:
        assert home.project(session).encoder == BUNDLED
        jobs.requeue_orphans(session, [job.id])
    monkeypatch.undo()
    monkeypatch.setattr(embeddings, "load", once)
    assert home.run(job, migration.run)["version"] == "v2.0"
    with sessions.reading(home.engine) as session:
        assert home.project(session).encoder == STAGES
        assert len(session.exec(select(Version)).all()) == 2


def test_an_embedding_whose_project_moves_while_it_loads_embeds_with_the_new_one(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def moved_meanwhile(spec: EncoderSpec) -> Encoder:
        loaded.append(spec.name)
        if len(loaded) == 1:
            with sessions.writing(home.engine) as session:
                row = embeddings.encoder_row(session, once(parse(STAGES)))
                embeddings.use_encoder(session, home.project(session), row)
        return once(spec)

    monkeypatch.setattr(embeddings, "load", moved_meanwhile)
    with sessions.writing(home.engine) as session:
        last = select(func.max(Embedding.image_id)).scalar_subquery()
        session.execute(delete(Embedding).where(col(Embedding.image_id) == last))
        job = jobs.enqueue(session, "embed", "Embed", {}, 1)
    assert home.run(job, embeddings.run) == {
        "embedded": COUNT, "set_aside": 0, "encoder": STAGES,
    }  # fmt: skip
    assert loaded == [BUNDLED, STAGES]


def interrupted(*args: Any) -> None:
    raise KeyboardInterrupt


def test_where_the_new_version_is_worse_the_project_stays(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tastemaker.evaluation import evaluate

    worse = "not activated: worse than v1.0 on 20 images drawn at random or from files"
    monkeypatch.setattr(evaluate, "activation", lambda *_: (False, worse))
    result = home.run(home.move(), migration.run)
    assert (result["moved"], result["version"], result["why"]) == (False, "v2.0", worse)
    with sessions.writing(home.engine) as session:
        assert home.project(session).encoder == BUNDLED
        second = versions.by_number(session, home.project(session), "v2.0")
        predictions.activate_by_hand(session, home.settings, second)  # all the same
        assert home.project(session).encoder == STAGES
        assert jobs.unfinished(session) == []


@pytest.mark.slow
def test_without_enough_labels_the_project_moves_and_trains_later(home: Home, run: Run) -> None:
    with sessions.writing(home.engine) as session:
        for label in session.exec(select(Label)).all():
            session.delete(label)
    told = run("project", "migrate", "Red", STAGES)
    assert told.code == 0, told.err
    assert told.out.startswith("Not trained: No image is scored yet")
    assert told.out.endswith(f"The project works with {STAGES}.\n")
    with sessions.reading(home.engine) as session:
        (job,) = session.exec(select(Job).where(Job.kind == "migrate")).all()
        assert job.result["version"] is None
        because = f"The project works with {STAGES} now. Not trained: No image is scored yet"
        assert formats.job_result(job).startswith(because)
    fails(run("project", "migrate", "Red", STAGES), "works with", "already")
    with sessions.reading(home.engine) as session:
        assert home.project(session).encoder == STAGES


def test_a_migration_to_itself_or_onto_a_full_disk_is_refused(home: Home) -> None:
    with pytest.raises(Conflict, match=r"works with .* already"):
        home.move(BUNDLED)
    home.settings = home.settings.model_copy(update={"min_free_gb": 1e9})
    with pytest.raises(StorageFull, match="kept free"):
        home.move()
    with sessions.reading(home.engine) as session:
        assert session.exec(select(func.count()).select_from(Image)).one() == COUNT
        assert jobs.unfinished(session) == []


def test_the_page_tries_encoders_and_moves_the_project(home: Home) -> None:
    client = client_of(create_app(home.settings))
    page = client.get("/projects/1/encoders").text
    assert f"<b hx-ignore>{BUNDLED}</b>, 1,280 numbers" in page.replace("\u202f", ",")
    assert "Tried on your labels" not in page and f'value="{STAGES}"' in page
    typed = {"encoder": STAGES, "other": "ViT-B-23/x", "images": "50"}
    refused = client.post("/projects/1/tournament", data=typed)
    assert refused.status_code == 422 and "has no model “ViT-B-23”" in refused.text
    assert f'value="{STAGES}" checked' in refused.text and 'value="ViT-B-23/x"' in refused.text
    sent = client.post("/projects/1/tournament", data=typed | {"other": ""})
    with sessions.reading(home.engine) as session:
        (job,) = jobs.unfinished(session, "tournament")
        assert job.payload == {"encoders": [STAGES], "images": 50}
    assert (sent.status_code, sent.headers["location"]) == (303, f"/jobs/{job.id}")
    assert "Try encoders on “Red”" in client.get("/projects/1/encoders").text
    api = "/api/v1/projects/1"
    assert client.get(f"{api}/tournament").json() is None
    same = client.post(f"{api}/tournament", json={"encoders": [STAGES], "images": 50})
    assert (same.status_code, same.json()["id"]) == (202, job.id)

    def measured(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 22}

    row = {
        "encoder": BUNDLED, "error": "", "n": 22, "numbers": 1280, "mae": measured(1.5),
        "spearman": measured(0.6), "hours": None, "missing": 0, "gigabytes": 0.001,
        "difference": None, "verdict": "",
    }  # fmt: skip
    better = {"difference": measured(-0.3), "verdict": "better", "hours": 0.5, "missing": 9}
    failed = {"encoder": "ViT-B-32/x", "error": "Its weights are not here."}
    rows = [row, row | better | {"encoder": STAGES}, failed]
    home.run(job, lambda _: {"rows": rows, "images": COUNT})
    assert client.get(f"{api}/tournament").json()["result"]["rows"] == rows
    page = client.get("/projects/1/encoders").text
    for told in ("1.50", "0.50 to 0.70", 'class="verdict-better"', "−0.30", "30", "not here."):
        assert told in page
    moved = client.post("/projects/1/migrate", data={"encoder": STAGES})
    waiting = client.post(f"{api}/migrate", json={"encoder": STAGES}).json()
    assert moved.headers["location"] == f"/jobs/{waiting['id']}"
    refused = client.post(f"{api}/migrate", json={"encoder": BUNDLED})
    assert refused.status_code == 409
    refused = client.post("/projects/1/migrate", data={"encoder": "ViT-B-23/x"})
    assert refused.status_code == 422
    to_try, to_move = refused.text.split('<details class="panel" id="move" open>')
    assert "has no model “ViT-B-23”" in to_move and 'value="ViT-B-23/x"' in to_move
    assert "ViT-B-23" not in to_try


@pytest.mark.browser
def test_in_the_browser_an_encoder_is_tried_moved_to_and_left_again(
    home: Home, chromium: Browser
) -> None:
    world = SimpleNamespace(app=create_app(home.settings))
    with serving(cast("World", world)) as address, browsing(chromium) as page:
        page.goto(f"{address}/projects/1/encoders")
        page.get_by_label(re.compile(re.escape(STAGES))).check()
        page.get_by_role("button", name="Try them").click()
        expect(page).to_have_url(re.compile("/jobs/"))
        expect(page.get_by_role("heading", name="Try encoders on")).to_be_visible()
        home.run(home.asked_for("tournament"), tournament.run)

        page.goto(f"{address}/projects/1/encoders")
        row = page.get_by_role("row").filter(has_text=STAGES)
        expect(row.locator("[data-of='mean error']")).to_have_text(re.compile(r"\d\.\d\d"))
        row.get_by_role("button", name="Move").click()
        expect(page.get_by_role("heading", name="Move")).to_be_visible()
        home.run(home.asked_for("migrate"), migration.run)

        page.goto(f"{address}/projects/1/encoders")
        expect(page.locator("#used + p")).to_contain_text(STAGES)
        page.get_by_role("button", name="Go back to v1.0").click()
        page.goto(f"{address}/projects/1/encoders")
        expect(page.locator("#used + p")).not_to_contain_text(STAGES)
        expect(page.get_by_role("button", name="Go back to v2.0")).to_be_visible()
