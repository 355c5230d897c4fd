"""A project that starts from other heads: chosen, learned with, told, and kept when they go."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from in_browser import browsing
from in_browser import serving as browser_serving
from playwright.sync_api import Browser, expect
from scipy.special import logit
from sqlalchemy import event
from sqlmodel import Session, select
from trained_world import DIM, TASTE, Trained, open_trained, taste, trained_home, vectors
from web_world import embed_all, events, make_world, settings_in

from tastemaker import embeddings, images, projects, versions
from tastemaker.config import DEFAULT_ENCODER, Settings
from tastemaker.database import migration, sessions
from tastemaker.database.tables import EncoderRow, Project, ProjectPrior, Version, VersionPrior
from tastemaker.errors import Conflict, Invalid, TastemakerError
from tastemaker.learning.checkpoints import load_checkpoint, save_checkpoint
from tastemaker.learning.city96 import fold_platt, layout, linear_head, mlp_head
from tastemaker.learning.heads import Head
from tastemaker.learning.laion import LinearHead, laion_bytes
from tastemaker.library import duplication
from tastemaker.library.deletion import delete_project
from tastemaker.live import lineage, live_model, model_process
from tastemaker.live.live_model import LiveModel
from tastemaker.pages import formats
from tastemaker.publishing import card_blocks, exports, import_head, model_card
from tastemaker.publishing.start_from import heads_named
from tastemaker.training import retrain
from tastemaker.versions import priors, publication, starting_heads
from tastemaker.versions.deletion import delete_version
from tastemaker.versions.publication import FrozenLabel
from tests.command_line import Run, fails
from tests.conftest import until

OTHERS = np.random.default_rng(8).normal(size=DIM).astype(np.float32)
ENCODER = "efficientnet_lite0/bundled"


@pytest.fixture
def home(tmp_path: Path) -> Trained:
    """“Anime” with v1.0, and 60 images of a collection that it does not know."""
    return open_trained(trained_home(tmp_path / "home"))


def begun(home: Trained, *named: str, encoder: str | None = None, name: str = "Second") -> Trained:
    """A second project over 60 images of its own, which starts from what is named."""
    with sessions.writing(home.engine) as session:
        project = projects.create(session, name, encoder=ENCODER, holdout_share=0)
        projects.pin_encoder(session, project, session.exec(select(EncoderRow)).one())
    second = Trained(replace(home.world, project_id=project.id))
    second.add(60, f"Of {name}", "pool", seed=2)
    start(second, *named, encoder=encoder)
    return second


def start(home: Trained, *named: str, encoder: str | None = None) -> None:
    with sessions.writing(home.engine) as session:
        project = home.project(session)
        heads = heads_named(session, home.settings, project, named, encoder)
        starting_heads.start_from(session, project, heads)


def started(home: Trained) -> list[ProjectPrior]:
    with sessions.reading(home.engine) as session:
        return priors.of_project(session, home.project(session))


def live(home: Trained) -> LiveModel:
    """The live model after a refit."""
    model_process.refit(home.settings, home.engine, home.project_id)
    found = live_model.read_live(home.settings, home.project_id)
    assert found is not None
    return found


def ids_of(home: Trained) -> list[int]:
    with sessions.reading(home.engine) as session:
        return sorted(session.exec(projects.image_ids(home.project_id)).all())


def head_of(home: Trained, version: Version) -> Head:
    return Head(load_checkpoint(versions.checkpoint_path(home.settings, version)))


def written(folder: Path, name: str, tensors: object = None, **metadata: str) -> Path:
    """A head's file: that of the taste, or of these tensors."""
    none, one = np.zeros(DIM, np.float32), np.ones(DIM, np.float32)
    line = linear_head(TASTE / 2, 0.1, none, one) if tensors is None else tensors
    save_checkpoint(folder / name, line, metadata or {"encoder": ENCODER})
    return folder / name


# --- learning ------------------------------------------------------------------------------------


def test_predictions_are_sensible_before_the_first_key_and_ten_keys_change_them(
    home: Trained,
) -> None:
    second = begun(home, "Anime")
    (prior,) = started(second)
    assert (prior.name, prior.sha256) == ("Anime v1.0", home.version().sha256)
    assert prior.line_error is prior.followed_on is None, "a linear head is a line"
    first = live(second)
    x = vectors(60, 2)
    said = 0.5 + 0.2 * logit(head_of(home, home.version())(x))
    np.testing.assert_allclose(first.scores, np.clip(said, 0, 1), atol=0.02)
    assert np.corrcoef(first.scores, taste(x))[0, 1] > 0.8
    sha256 = home.version().sha256
    assert first.fit.priors == (live_model.StartedFrom("Anime v1.0", sha256=sha256),)
    assert live_model.lineage_in_words(first.fit) == "Starts from Anime v1.0"
    assert {pick.why for pick in first.lists.mixed} == {"control", "teaching"}
    assert first.lists.near_threshold

    ids = ids_of(second)
    second.score(dict.fromkeys(ids[:30], 5))
    equal = live(second)
    (trust,) = equal.fit.priors
    assert trust.trust is not None and trust.trust < 0.1, (
        "thirty equal scores contradict a head that ranks"
    )
    assert trust.slope is not None and trust.slope < 0.05
    assert equal.lists.label_issues == ()
    assert np.isfinite(equal.scores).all()

    second = begun(home, "Anime", name="Third")
    ids = ids_of(second)
    second.score(dict(zip(ids[:10], (10 - taste(x[:10])).tolist(), strict=True)))
    changed = live(second)
    assert np.abs(changed.scores - first.scores)[10:].mean() > 0.1
    (trust,) = changed.fit.priors
    assert trust.slope is not None and trust.slope < 0
    assert live_model.lineage_in_words(changed.fit) == (
        f"Starts from Anime v1.0 (trust {formats.probability(trust.trust)}, turned round), "
        "going by 10 labels"
    )
    start(second)
    assert live(second).fit.priors == () and started(second) == []


def test_two_files_of_one_name_have_their_own_trust(home: Trained, tmp_path: Path) -> None:
    none, one = np.zeros(DIM, np.float32), np.ones(DIM, np.float32)
    good = written(tmp_path, "model.safetensors")
    (tmp_path / "b").mkdir()
    bad = written(tmp_path / "b", "model.safetensors", linear_head(OTHERS, 0.1, none, one),
                  encoder=ENCODER)  # fmt: skip
    second = begun(home, str(good), str(bad))
    points = taste(vectors(60, 2)).tolist()
    second.score(dict(zip(ids_of(second)[:20], points, strict=False)))
    live(second)
    with sessions.writing(second.engine) as session:
        project = second.project(session)
        told = lineage.starts(session, second.settings, project)
        assert [prior["name"] for prior in told] == ["model", "model"]
        assert told[0]["trust"] > 0.5 > told[1]["trust"]
        starting_heads.take_away(session, project, told[0]["id"])
        (left,) = lineage.starts(session, second.settings, project)
        assert (left["sha256"], left["trust"]) == (told[1]["sha256"], told[1]["trust"])
        words = lineage.starts_in_words([left, left | {"fits": False, "name": "other"}])
        percent = formats.probability(left["trust"])
        turned = ", turned round" * (left["slope"] < 0)
        assert words == (
            f"model (trust {percent}{turned}), other (left out: it reads another encoder)"
        )


def test_a_live_model_of_an_earlier_release_is_still_read(settings: Settings) -> None:
    settings.make_folders()
    rows = np.zeros(1, live_model.LIVE_ROW)
    live_model.write_live(settings, 1, LiveModel(rows, live_model.FitSummary(labels=3)))
    file = settings.live / "1.json"
    content = json.loads(file.read_text())
    content["fit"]["priors"] = [{"name": "Anime v1.0", "trust": 0.5}]
    file.write_text(json.dumps(content))
    read = live_model.read_live(settings, 1)
    assert read is not None and read.fit.priors == (live_model.StartedFrom("Anime v1.0", 0.5),)


def test_a_training_freezes_what_it_starts_from_and_its_version_says_so(
    home: Trained, tmp_path: Path
) -> None:
    second = begun(home, "Anime@v1.0", str(written(tmp_path, "other.safetensors")))
    ids = ids_of(second)
    second.score(dict(zip(ids[:12], taste(vectors(60, 2))[:12].tolist(), strict=True)))
    request = retrain.Request(second.project_id, "test", second_event(second), 5, recipe="ridge")
    with_prior = trained(second, request)
    with sessions.reading(second.engine) as session:
        rows = priors.of_version(session, with_prior)
        assert [row.name for row in rows] == ["Anime v1.0", "other"]
        trust = [row.probability or 0 for row in rows]
        assert sum(trust) > 0.5 and all(row.slope is not None for row in rows)
        told = versions.as_json(session, second.settings, with_prior)["starts_from"]
        assert [one["trust"] for one in told] == trust and told[0]["sha256"] == rows[0].sha256
        card = card_blocks.markdown(model_card.card_of(session, second.settings, with_prior))
        sidecar = json.loads(exports.config(session, second.settings, with_prior).content)
    words = priors.trust_in_words(rows[0].probability, rows[0].slope).replace("\u202f", " ")
    assert f"Anime v1.0 ({words}" in card and sidecar["starts_from"] == told
    path = versions.checkpoint_path(second.settings, with_prior)
    assert "Anime v1.0" in load_checkpoint(path).metadata["starts_from"]
    x = vectors(200, 9)
    errors = {}
    start(second)
    alone = trained(second, replace(request, made_by="alone"))
    for version in (with_prior, alone):
        errors[version.made_by] = np.abs(10 * head_of(second, version)(x) - taste(x)).mean()
    assert errors["test"] < 0.8 * errors["alone"]
    assert "starts_from" not in load_checkpoint(
        versions.checkpoint_path(second.settings, alone)
    ).metadata  # fmt: skip


def test_a_list_of_versions_reads_what_they_started_from_at_once_and_no_weights(
    home: Trained,
) -> None:
    second = begun(home, "Anime")
    with sessions.writing(home.engine) as session:
        encoder = session.exec(select(EncoderRow)).one()
        for minor in range(3):
            version = Version(
                project_id=second.project_id, minor=minor, state="ready", made_by=f"test {minor}",
                encoder_id=encoder.id, event_high=0,
            )  # fmt: skip
            session.add(version)
            session.flush()
            priors.freeze(session, version, second.project(session))
    asked: list[str] = []
    with sessions.reading(home.engine) as session:
        listed = versions.list_ready(session, second.project(session))
        event.listen(home.engine, "before_cursor_execute", lambda *of: asked.append(of[2]))
        told = versions.list_as_json(session, home.settings, listed)
        lines = priors.lines_of_version(session, listed[0])
    assert [[prior["name"] for prior in one["starts_from"]] for one in told] == [["Anime v1.0"]] * 3
    (heads,) = (text for text in asked[:-1] if "version_prior" in text)
    assert "version_prior.weights" not in heads and len(lines[0].weights) == DIM


def test_a_training_that_was_killed_starts_from_what_it_began_with(home: Trained) -> None:
    second = begun(home, "Anime")
    ids = ids_of(second)
    second.score(dict(zip(ids[:12], taste(vectors(60, 2))[:12].tolist(), strict=True)))
    request = retrain.Request(second.project_id, "whole", second_event(second), 5, recipe="ridge")
    whole = trained(second, request)
    labels = [FrozenLabel(i, float(v), "train") for i, v in
              zip(ids[:12], taste(vectors(60, 2))[:12].tolist(), strict=True)]  # fmt: skip
    publication.begin(
        sessions.PlainTransactions(second.engine), second.project_id, "killed", labels,
        encoder_id=whole.encoder_id, event_high=request.event_high, seed=5, note="",
    )  # fmt: skip
    start(second)  # meanwhile the project starts from nothing
    again = trained(second, replace(request, made_by="killed"))
    one, other = (load_checkpoint(versions.checkpoint_path(second.settings, version)).tensors
                  for version in (whole, again))  # fmt: skip
    assert all(np.array_equal(one[name], other[name]) for name in one)


def second_event(home: Trained) -> int:
    with sessions.reading(home.engine) as session:
        return retrain.scores.highest_event(session, home.project(session))


def trained(home: Trained, request: retrain.Request) -> Version:
    return retrain.train_and_publish(
        sessions.PlainTransactions(home.engine), home.settings, request
    )


# --- what becomes of it --------------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["version", "project"])
def test_it_keeps_working_when_what_it_came_from_is_deleted(home: Trained, gone: str) -> None:
    second = begun(home, "Anime")
    before = live(second).scores.copy()
    if gone == "project":
        delete_project(home.settings, home.engine, home.project_id, "Anime")
    else:
        home.add(5, "More", "pool", seed=4)
        home.train()
        delete_version(home.settings, home.engine, home.version("v1.0").id)
    (prior,) = started(second)
    assert prior.name == "Anime v1.0" and (prior.source_id is None) == (gone == "project")
    np.testing.assert_array_equal(live(second).scores, before)
    second.score(dict(zip(ids_of(second)[:9], [1, 9, 2, 8, 3, 7, 5, 6, 4], strict=True)))
    version = second.train()
    with sessions.reading(second.engine) as session:
        assert [row.name for row in priors.of_version(session, version)] == ["Anime v1.0"]


def test_a_duplicate_starts_from_the_same_and_on_another_encoder_says_what_it_drops(
    home: Trained,
) -> None:
    second = begun(home, "Anime")
    with sessions.writing(second.engine) as session:
        project = second.project(session)
        same = duplication.duplicate_project(session, project, "Same")
        other = duplication.duplicate_project(
            session, project, "Other", "ViT-B-32-quickgelu/openai"
        )
        assert [prior.name for prior in priors.of_project(session, same)] == ["Anime v1.0"]
        assert priors.of_project(session, other) == []
        assert duplication.dropped_priors(session, project, other) == ["Anime v1.0"]
        assert duplication.dropped_priors(session, project, same) == []
        # The project moved since: what it started from fits a copy on the encoder from before.
        project.encoder = "ViT-B-32-quickgelu/openai"
        back = duplication.duplicate_project(session, project, "Back", ENCODER)
        assert [prior.name for prior in priors.of_project(session, back)] == ["Anime v1.0"]
        assert duplication.dropped_priors(session, project, back) == []


@pytest.mark.sqlite
def test_projects_of_an_older_release_start_from_nothing(settings: Settings) -> None:
    """Of a release whose database was a file: an earlier schema is begun in an empty one."""
    settings.make_folders()
    engine = sessions.make_engine(settings)
    migration.upgrade(engine, "0007")
    with sessions.writing(engine) as session:
        run = session.connection().exec_driver_sql
        run(
            "INSERT INTO project (id, name, kind, encoder, threshold, brackets, recipe, card, "
            "holdout_share, seed, show_prediction_first, created_at, aggregate, auto_train_every, "
            "auto_train_drift) VALUES (1, 'P', 'score', 'e/f', 0.5, '[]', 'auto', '{}', 0.1, 0, 0, "
            "'2026-01-01', 'median', 0, 0)"
        )
        run("INSERT INTO encoder (id, fingerprint, name, dim, declared, details) "
            "VALUES (1, 'f', 'e/f', 8, 0, '{}')")  # fmt: skip
        run(
            "INSERT INTO version (project_id, major, minor, state, active, note, made_by, "
            "encoder_id, file, sha256, bytes, event_high, seed, recipe, metrics, curve, "
            "activation, created_at) VALUES (1, 1, 0, 'ready', 1, '', 'job 1', 1, '', '', 0, 0, "
            "0, '{}', '{}', '{}', '', '2026-01-01')"
        )
    engine.dispose()
    engine = migration.migrate(settings)
    with sessions.reading(engine) as session:
        project = projects.get(session, 1)
        (version,) = versions.list_ready(session, project)
        assert priors.of_project(session, project) == priors.of_version(session, version) == []
        assert projects.summary(session, project)["starts_from"] == []
    engine.dispose()


# --- heads that are no lines ---------------------------------------------------------------------


def a_network(gain: float = 1.0) -> dict[str, np.ndarray]:
    """A head that bends: the taste, folded up in the middle."""
    inner = np.stack([TASTE, -TASTE, OTHERS])
    return mlp_head(inner, [0.5, 0.2, 0.0], gain * np.array([0.6, -0.5, 0.3]), 0.0)


def test_a_head_that_bends_is_followed_on_the_images_at_hand_and_the_loss_is_told(
    home: Trained, tmp_path: Path
) -> None:
    file = written(tmp_path, "network.safetensors", a_network())
    second = begun(home, str(file))
    (before,) = started(second)
    assert before.weights is None and priors.as_json(before)["ready"] is False
    model = live(second)
    (after,) = started(second)
    said = Head(a_network())(vectors(60, 2))
    assert after.line_error is not None and 0.01 < after.line_error < 1
    assert after.followed_on == 140, "its own images, and those of the library"
    assert np.corrcoef(model.scores, said)[0, 1] > 0.95
    with sessions.reading(second.engine) as session:
        row = session.get(ProjectPrior, after.id)
        assert row is not None and row.head is not None, "followed anew when there are more"


def test_with_few_images_a_head_that_bends_waits(home: Trained, tmp_path: Path) -> None:
    file = written(tmp_path, "network.safetensors", a_network())
    second = begun(home, str(file))
    with sessions.writing(second.engine) as session:
        for row in session.exec(select(priors.Embedding)).all()[15:]:
            session.delete(row)
    priors.follow(sessions.PlainTransactions(second.engine), second.project_id)
    assert started(second)[0].weights is None
    with sessions.reading(second.engine) as session:
        assert priors.usable(session, second.project(session)) == []


def test_a_head_of_laion_is_followed_on_vectors_that_are_not_normalised(tmp_path: Path) -> None:
    """Another scale, another length of the vectors, a clipped line instead of a sigmoid."""
    rng = np.random.default_rng(3)
    direction = rng.normal(size=768)
    line = LinearHead(30 * direction / np.linalg.norm(direction), 5.5)
    (tmp_path / "sac.safetensors").write_bytes(laion_bytes(line, {}))
    x = (rng.normal(size=(200, 768)) * rng.uniform(8, 12, (200, 1))).astype(np.float32)
    home = open_trained(trained_home(tmp_path / "home"))
    with sessions.writing(home.engine) as session:
        encoder = EncoderRow(fingerprint="l" * 16, name="ViT-L-14-quickgelu/openai", dim=768)
        session.add(encoder)
        project = projects.create(session, "L", encoder=encoder.name)
        session.flush()
        projects.pin_encoder(session, project, encoder)
        home_collection = images.collection_named(session, "Large")
        projects.add_collection(session, project, home_collection)
        made = add_vectors(session, project, encoder, x)
        heads = heads_named(session, home.settings, project, [str(tmp_path / "sac.safetensors")])
        starting_heads.start_from(session, project, heads)
    large = Trained(replace(home.world, project_id=project.id))
    model = live(large)
    points = np.clip(x @ line.weights / np.linalg.norm(x, axis=1) + line.bias, 0, 10)
    assert len(made) == 200 and np.corrcoef(model.scores, points)[0, 1] > 0.9
    (prior,) = started(large)
    assert prior.line_error is not None and prior.line_error < 1


def add_vectors(
    session: Session, project: Project, encoder: EncoderRow, x: np.ndarray
) -> list[int]:
    from tastemaker.database.tables import CollectionImage, Image
    from tastemaker.embeddings import store_vectors

    collection = images.collection_named(session, "Large")
    made = [Image(sha256=f"{n:064x}", kind="file", name=f"{n}.jpg", source_group=f"{n:016x}")
            for n in range(len(x))]  # fmt: skip
    session.add_all(made)
    session.flush()
    session.add_all(CollectionImage(collection_id=collection.id, image_id=i.id) for i in made)
    store_vectors(session, encoder.id, zip([i.id for i in made], x, strict=True))
    return [image.id for image in made]


# --- what is refused -----------------------------------------------------------------------------


def refusal(home: Trained, *named: str, encoder: str | None = None) -> TastemakerError:
    before = [prior.sha256 for prior in started(home)]
    with pytest.raises(TastemakerError) as raised:
        start(home, *named, encoder=encoder)
    assert raised.value.hint, "it says what to do next"
    assert [prior.sha256 for prior in started(home)] == before, "nothing was changed"
    return raised.value


def test_a_head_of_another_encoder_is_refused_with_both_named(
    home: Trained, tmp_path: Path
) -> None:
    second = begun(home, "Anime")
    other = written(tmp_path, "other.safetensors", encoder="ViT-B-32-quickgelu/openai")
    error = refusal(second, str(other))
    assert "ViT-B-32-quickgelu/openai" in error.message and ENCODER in error.message
    silent = written(tmp_path, "silent.safetensors", format="city96")
    assert "does not say which encoder" in refusal(second, str(silent)).message
    start(second, str(silent), encoder=ENCODER)
    assert "says that it was trained on" in refusal(second, str(other), encoder=ENCODER).message
    weights = written(
        tmp_path, "weights.safetensors", encoder=ENCODER, encoder_fingerprint="f" * 16
    )
    assert "other weights" in refusal(second, str(weights)).message
    none, one = np.zeros(7, np.float32), np.ones(7, np.float32)
    narrow = written(tmp_path, "narrow.safetensors", linear_head(one, 0, none, one))
    assert "reads 7 numbers" in refusal(second, str(narrow)).message


@pytest.mark.parametrize(
    ("gain", "level", "because"),
    [(0.0, 1.0, "same score"), (1e8, 0.0, "beyond"), (np.nan, 0.0, "not finite")],
)
def test_a_constant_an_absurd_and_a_broken_head_are_refused(
    home: Trained, tmp_path: Path, gain: float, level: float, because: str
) -> None:
    second = begun(home)
    none, one = np.zeros(DIM, np.float32), np.ones(DIM, np.float32)
    tensors = linear_head(gain * TASTE, level, none, one)
    assert because in refusal(second, str(written(tmp_path, "bad.safetensors", tensors))).message


def test_classes_and_what_is_not_there_are_refused(home: Trained, tmp_path: Path) -> None:
    second = begun(home)
    classes = {
        name: np.ones(shape, np.float32) for name, shape in layout(DIM, outputs=3).items()
    }  # fmt: skip
    file = written(tmp_path, "classes.safetensors", classes)
    assert "3 classes" in refusal(second, str(file)).message
    assert "no file" in refusal(second, str(tmp_path / "nothing.safetensors")).message
    assert "no project" in refusal(second, "Nobody@v1.0").message
    assert "no version v9.9" in refusal(second, "Anime@v9.9").message
    assert "no version yet" in refusal(second, "Second").message
    rooted = settings_in(second.settings.home, import_roots="/nowhere")
    roots = Trained(replace(second.world, settings=rooted))
    line = written(tmp_path, "line.safetensors")
    assert "folders that may be imported" in refusal(roots, str(line)).message
    many = [
        str(written(tmp_path, f"{n}.safetensors", fold_platt(a_network(n + 1.0), 1, n)))
        for n in range(starting_heads.MOST + 1)
    ]
    assert "8 heads at most" in refusal(second, *many).message


def test_what_knows_the_projects_own_scores_is_refused(home: Trained) -> None:
    """Its own version, a version that started from it, and one of a project with the same scores:
    each would count scores twice."""
    assert "this project itself" in refusal(home, "Anime@v1.0").message
    second = begun(home, "Anime")
    second.score(dict(zip(ids_of(second)[:9], [1, 9, 2, 8, 3, 7, 5, 6, 4], strict=True)))
    second.train()
    assert "started from “Anime” itself" in refusal(home, "Second").message
    with sessions.writing(home.engine) as session:
        copy = duplication.duplicate_project(session, home.project(session), "Copy")
        assert [name for _, name in starting_heads.fitting(session, ENCODER, copy)] == [
            "Anime", "Second",
        ]  # fmt: skip
    twin = Trained(replace(home.world, project_id=copy.id))
    assert "the very scores of “Copy”" in refusal(twin, "Anime").message


def test_its_own_head_is_refused_by_way_of_its_file_too(home: Trained) -> None:
    second = begun(home)
    own = versions.checkpoint_path(home.settings, home.version())
    assert "this project itself" in refusal(home, str(own)).message
    job = import_head.import_checkpoint(second.engine, second.settings, second.project_id, own)
    second.run(job, import_head.run)
    assert "this project itself" in refusal(home, "Second@v0.0").message
    begun(home, "Second@v0.0", name="Third")


def test_a_deleted_version_in_between_does_not_make_one_forget(home: Trained) -> None:
    """Anime → Second → Third, the one by its version, the other by its file."""
    keys = [1, 9, 2, 8, 3, 7, 5, 6, 4]
    second = begun(home, "Anime")
    second.score(dict(zip(ids_of(second), keys, strict=False)))
    between = second.train()
    third = begun(home, str(versions.checkpoint_path(home.settings, between)), name="Third")
    third.score(dict(zip(ids_of(third), keys, strict=False)))
    last = third.train()
    second.add(5, "More", "pool", seed=4)
    second.score({ids_of(second)[-1]: 5})
    second.train()
    delete_version(home.settings, home.engine, between.id)
    with sessions.reading(home.engine) as session:
        edges = session.exec(select(VersionPrior).where(VersionPrior.version_id == between.id))
        assert [(edge.name, edge.weights) for edge in edges] == [("Anime v1.0", None)]
        known = starting_heads.knowing(session, home.project_id)
        assert {home.version().id, between.id, last.id} <= known
        assert starting_heads.knowing(session, third.project_id) == {last.id}
        assert starting_heads.fitting(session, ENCODER, home.project(session)) == []
    assert "started from “Anime” itself" in refusal(home, "Third").message


def test_offered_are_the_versions_that_fit(home: Trained) -> None:
    second = begun(home)
    with sessions.reading(home.engine) as session:
        project = second.project(session)
        offered = starting_heads.fitting(session, ENCODER, project)
        assert [(version.number, name) for version, name in offered] == [("v1.0", "Anime")]
        assert starting_heads.fitting(session, "ViT-B-32-quickgelu/openai") == []
        assert starting_heads.fitting(session, ENCODER, home.project(session)) == []
    start(second, "Anime")
    with sessions.writing(home.engine) as session:
        project = second.project(session)
        assert starting_heads.fitting(session, ENCODER, project) == []
        head = heads_named(session, home.settings, project, ["Anime"])[0]
        with pytest.raises(Conflict, match="already"):
            starting_heads.add(session, project, head)
        (prior,) = priors.of_project(session, project)
        assert starting_heads.take_away(session, project, prior.id) == "Anime v1.0"
        starting_heads.add(session, project, head)
        project.kind = "class"
        with pytest.raises(Invalid, match="classes"):
            starting_heads.start_from(session, project, [head])
    with sessions.reading(home.engine) as session:
        assert session.exec(select(VersionPrior)).all() == []


# --- pages, programs and the command line --------------------------------------------------------


def test_a_project_is_begun_from_a_version_on_the_first_page(home: Trained, tmp_path: Path) -> None:
    client = home.world.client
    version = str(home.version().id)
    page = client.get("/").text
    assert (
        "Anime v1.0</option>" not in page
        and f"those there are read <span hx-ignore>{ENCODER}" in page
    )
    offered = client.get(f"/encoders/heads?encoder={ENCODER}").text
    assert f'<option value="{version}" >Anime v1.0</option>' in offered
    other = client.get("/encoders/heads?encoder=ViT-B-32-quickgelu/openai").text
    assert "Anime v1.0" not in other and "a file of a head" in other
    made = client.post("/projects", data={"name": "Second", "encoder": ENCODER, "start": version})
    assert made.status_code == 303
    second = int(made.headers["location"].split("/")[2])
    settings = client.get(f"/projects/{second}/settings").text
    assert "Anime v1.0" in settings and "no score has borne it out yet" in settings
    assert "it then does not start from Anime v1.0, which reads this encoder." in settings

    form = {"name": "Third", "encoder": "ViT-B-32-quickgelu/openai", "start": version}
    refused = client.post("/projects", data=form)
    assert refused.status_code == 409
    assert f"Anime v1.0 reads the vectors of {ENCODER}" in refused.text
    assert "works with ViT-B-32-quickgelu/openai" in refused.text
    for typed, because in (("", "No file is named"), ("/etc/passwd", "no .safetensors file")):
        form = {"name": "Third", "encoder": ENCODER, "start": "file", "head": typed}
        assert because in client.post("/projects", data=form).text
    assert client.post("/projects", data={"name": "Third", "start": "99"}).status_code == 404
    with sessions.reading(home.engine) as session:
        assert projects.find(session, "Third") is None, "what is refused leaves nothing behind"

    file = written(tmp_path, "mine.safetensors")
    added = client.post(f"/projects/{second}/priors", data={"start": "file", "head": str(file)})
    assert added.status_code == 303
    again = client.post(f"/projects/{second}/priors", data={"start": "file", "head": str(file)})
    assert again.status_code == 409 and "starts from mine already" in again.text
    listed = client.get(f"/api/v1/projects/{second}/priors").json()
    assert [prior["name"] for prior in listed] == ["Anime v1.0", "mine"]
    gone = client.post(f"/projects/{second}/priors/{listed[0]['id']}/take-away")
    assert gone.status_code == 303
    assert client.get(f"/api/v1/projects/{second}").json()["starts_from"] == ["mine"]


def test_programs_choose_change_and_take_away(home: Trained, tmp_path: Path) -> None:
    client = home.world.client
    body = {"name": "Second", "start_from": ["Anime@active"]}
    made = client.post("/api/v1/projects", json=body).json()
    assert (made["encoder"], made["starts_from"]) == (ENCODER, ["Anime v1.0"])
    at = f"/api/v1/projects/{made['id']}/priors"
    source = {"source": str(written(tmp_path, "bare.safetensors", format="city96"))}
    assert client.post(at, json=source).status_code == 422
    both = client.post(at, json=source | {"encoder": ENCODER}).json()
    assert [prior["ready"] for prior in both] == [True, True]
    assert client.delete(f"{at}/{both[0]['id']}").json()[0]["name"] == "bare"
    assert client.delete(f"{at}/{both[0]['id']}").status_code == 404
    assert [p["name"] for p in client.put(at, json={"start_from": ["Anime"]}).json()] == [
        "Anime v1.0"
    ]  # fmt: skip
    copy = {"name": "Copy", "encoder": "ViT-B-32-quickgelu/openai"}
    copied = client.post(at.replace("priors", "duplicate"), json=copy).json()
    assert (copied["starts_from"], copied["dropped_priors"]) == ([], ["Anime v1.0"])
    with sessions.writing(home.engine) as session:  # as after a change of the encoder
        session.get_one(Project, made["id"]).encoder = "ViT-B-32-quickgelu/openai"
    assert [prior["fits"] for prior in client.get(at).json()] == [False]
    page = client.get(f"/projects/{made['id']}/settings").text
    assert f"reads {ENCODER}, and is left out" in page and "it then does not start" not in page
    assert client.put(at, json={"start_from": []}).json() == []


def test_a_new_project_reads_the_weights_from_where_the_head_s_project_does(home: Trained) -> None:
    with sessions.reading(home.engine) as session:
        source = home.project(session)
        version = versions.active(session, source)
        assert version is not None
        source.encoder = f"{ENCODER}@/moved/here.safetensors"
        head = starting_heads.head_of(session, home.settings, version)
        assert starting_heads.encoder_for([head], None) == source.encoder
        assert starting_heads.encoder_for([head], "a/b") == "a/b"
        source.encoder_id = None  # as if it had moved to another encoder
        assert starting_heads.head_of(session, home.settings, version).encoder == ENCODER
        session.rollback()
    assert starting_heads.encoder_for([], None) == DEFAULT_ENCODER


@pytest.mark.slow
def test_the_command_line_begins_from_heads_and_says_so(home: Trained, run: Run) -> None:
    made = run("project", "create", "Second", "--start-from", "Anime@v1.0")
    assert "It starts from Anime v1.0." in made.out and f"encoder {ENCODER}." in made.out
    shown = run("project", "show", "Second", "--json").json
    assert shown["starts_from"] == ["Anime v1.0"]
    assert [(prior["name"], prior["trust"]) for prior in shown["priors"]] == [("Anime v1.0", None)]
    assert "Anime v1.0" in run("project", "show", "Second").out
    assert "starts from nothing" in run("project", "set", "Second", "--start-from", "none").out
    again = run("project", "set", "Second", "--start-from", "Anime", "--json").json
    assert again["starts_from"] == ["Anime v1.0"]
    copied = run("project", "duplicate", "Second", "Copy", "--encoder", "ViT-B-32-quickgelu/openai",
                 "--no-wait")  # fmt: skip
    assert "It does not start from Anime v1.0, which reads another encoder." in copied.out
    refused = run("project", "create", "Third", "--encoder", "ViT-B-32-quickgelu/openai",
                  "--start-from", "Anime")  # fmt: skip
    fails(refused, ENCODER, "ViT-B-32-quickgelu/openai")


def test_a_project_begun_from_a_version_predicts_before_the_first_key(
    chromium: Browser, tmp_path: Path
) -> None:
    """From another project's head; ten keys that say the opposite turn it round."""
    world = make_world(tmp_path / "home", images=30)
    embed_all(world)
    with sessions.reading(world.engine) as session:
        x = embeddings.matrix(session, 1)[1].astype(np.float64)
    likes = np.clip(np.round(5 + 4 * x[:, 0]), 0, 10).astype(int)
    anime = Trained(world)
    anime.score(dict(enumerate(likes.tolist()[:30], 1)))
    anime.train()
    with browser_serving(world) as address, browsing(chromium) as page:
        page.goto(address)
        asked: list[str] = []
        page.on("request", lambda one: asked.append(one.url) if "/heads" in one.url else None)
        page.get_by_label("Name").fill("Second")
        page.locator("[name=encoder]").select_option(ENCODER)  # which brings the heads that fit
        page.get_by_label("Start from").select_option("Anime v1.0")
        expect(page.get_by_label("Its path on this machine")).to_be_hidden()
        page.get_by_label("Name").fill("Second one")
        page.get_by_label("Name").fill("Second")
        page.get_by_label("Name").blur()
        assert len(asked) == 1, "what is typed elsewhere does not begin this part anew"
        page.get_by_role("button", name="Create the project").click()
        expect(page).to_have_url(re.compile(r"/projects/2/add"))
        second = Trained(replace(world, project_id=2))
        with sessions.writing(world.engine) as session:
            project = second.project(session)
            project.show_prediction_first = True
            projects.add_collection(session, project, images.collection_named(session, "Pictures"))
            projects.pin_encoder(session, project, session.get_one(EncoderRow, 1))
        first = live(second).scores.copy()
        assert np.corrcoef(first, likes)[0, 1] > 0.7

        page.goto(f"{address}/projects/2/score")
        expect(page.locator("#strip")).to_contain_text("Starts from Anime v1.0")
        expect(page.locator("#this-said")).to_contain_text("by the live model")
        image_id = 0
        for number in range(10):
            ready = page.locator(f'#score[data-ready]:not([data-ready="{image_id}"])')
            expect(ready).to_have_count(1)
            image_id = int(ready.get_attribute("data-ready") or "")
            page.keyboard.press(str(min(9, 10 - likes[image_id - 1])))
            until(lambda n=number: len(events(world)) == 30 + n + 1, what="for the score")
        changed = live(second)
        assert np.corrcoef(changed.scores, likes)[0, 1] < 0.3
        assert np.abs(changed.scores - first).mean() > 0.1
        page.reload()
        trusted = re.compile(r"trust [<> ]*\d+.*, going by \d+ labels")
        expect(page.locator("#strip")).to_contain_text(trusted)


def test_a_head_made_elsewhere_serves_the_project_it_was_imported_into(
    home: Trained, tmp_path: Path
) -> None:
    """It knows no score of anybody here, though the project's scores measured it."""
    file = written(tmp_path, "elsewhere.safetensors")
    job = import_head.import_checkpoint(
        home.engine, home.settings, home.project_id, file, encoder=ENCODER
    )
    home.run(job, import_head.run)
    start(home, "Anime@v0.0")
    assert [prior.name for prior in started(home)] == ["Anime v0.0"]
    home.add(5, "More", "pool", seed=4)
    version = home.train()
    with sessions.reading(home.engine) as session:
        known = {home.version("v1.0").id, version.id}
        assert starting_heads.knowing(session, home.project_id) == known
        (row,) = priors.of_version(session, version)
        assert row.probability is not None and row.probability > 0.3
