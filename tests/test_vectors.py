"""Embeddings made elsewhere come into a project; their pictures may come later, or never."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine
from sqlmodel import Session, select
from web_world import client_of, drawn

from tastemaker import embeddings, images, jobs, projects, scores
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.tables import Embedding, Image, Job, Label, Project, Tag
from tastemaker.importing import vectors as imported
from tastemaker.importing.vectors import look_at, request_vectors
from tastemaker.live import embedding_matrix
from tastemaker.pages.app import create_app
from tastemaker.pages.formats import job_result
from tastemaker.pictures.pictures import ingest
from tests.command_line import Run, fails
from tests.conftest import work_on

ENCODER = "ViT-B-32-quickgelu/openai"  # 512 values


@pytest.fixture
def project(engine: Engine) -> Iterator[Project]:
    with sessions.writing(engine) as session:
        made = projects.create(session, "Web", encoder=ENCODER, holdout_share=0.0)
    yield made


def vectors(count: int, seed: int = 0, dim: int = 512) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def write_layout(folder: Path, x: np.ndarray, paths: list[str]) -> Path:
    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    np.save(folder / "img_emb" / "img_emb_0.npy", x.astype(np.float16))
    table = pa.table({"image_path": paths})
    pq.write_table(table, folder / "metadata" / "metadata_0.parquet")
    return folder


def bring(settings: Settings, engine: Engine, source: Path, **more: Any) -> dict[str, Any]:
    looked = look_at(settings, source, more.pop("pictures", None))
    with sessions.writing(engine) as session:
        project = projects.by_name(session, "Web")
        job_id = request_vectors(session, settings, looked, project, **more).id
    work = work_on(settings, engine, job_id)
    result = imported.run(work)
    with sessions.writing(engine) as session:
        jobs.finish(session, work.claim, result)
    return result


def all_images(session: Session) -> list[Image]:
    return list(session.exec(select(Image).order_by(Image.id)))


def test_embeddings_come_first_and_their_pictures_when_the_disk_is_there(
    tmp_path: Path, settings: Settings, engine: Engine, project: Project
) -> None:
    x = vectors(8)
    x[5], x[6], x[7] = x[4], 0, np.nan
    paths = [f"00/{n}.jpg" for n in range(6)] + ["zero.jpg", "https://example.org/a.jpg?b=1"]
    paths[3], paths[4] = "../outside.jpg", "n" * 300 + ".jpg"  # longer than a file's name can be
    source = write_layout(tmp_path / "laion", x, paths)
    first = bring(settings, engine, source)
    assert {name: first[name] for name in ("added", "known", "set_aside", "without")} == {
        "added": 5, "known": 1, "set_aside": 2, "without": 5,
    }  # fmt: skip
    with sessions.writing(engine) as session:
        made = all_images(session)
        assert [(i.name, i.kind) for i in made[:2]] == [
            ("00/0.jpg", "vector"),
            ("00/1.jpg", "vector"),
        ]
        person = projects.annotator(session, "me")
        here = projects.get(session, project.id)
        scores.record(session, here, made[1].id, person, "set", 7)
        before = embedding_matrix.load(session, here)
        assert len(before.ids) == 5 and not before.scorable.any()

    page = client_of(create_app(settings)).get("/projects/1/library").text
    assert page.count("No picture here") == 5 and "00/0.jpg" in page and "/thumb" not in page

    disk = tmp_path / "disk"
    (disk / "00").mkdir(parents=True)
    for n in (0, 1):
        drawn(n).save(disk / "00" / f"{n}.jpg")
    (disk / "00" / "2.jpg").write_bytes(b"no picture")
    drawn(9).save(tmp_path / "outside.jpg")
    again = bring(settings, engine, source, pictures=disk)
    assert (again["added"], again["known"], again["pictures"]) == (0, 6, 2)
    assert (again["unreadable"], again["without"]) == (1, 3)
    with sessions.reading(engine) as session:
        after = all_images(session)
        assert [i.id for i in after] == [i.id for i in made], "no image twice"
        assert [(i.name, i.kind, i.width) for i in after[:2]] == [
            ("0.jpg", "file", 640), ("1.jpg", "file", 960),
        ]  # fmt: skip
        assert images.source_path(session, settings, after[0]) == disk / "00" / "0.jpg"
        assert images.other_names(session, after[0]) == ["00/0.jpg"]
        assert session.exec(select(Label.image_id, Label.value)).all() == [(made[1].id, 7.0)]
        kept = session.get_one(Embedding, (after[0].id, project.encoder_id or 1)).vector
        assert kept == x[0].astype("<f2").tobytes()
        here = projects.get(session, project.id)
        assert (
            embedding_matrix.load(session, here, before).scorable.tolist()
            == [True] * 2 + [False] * 3
        )
    assert job_result(Job(kind="vectors", title="", state="done", result=again)) == (
        "0 new, 6 known, 2 skipped. 3 have no picture here"
    )
    third = bring(settings, engine, source)
    assert (third["added"], third["known"]) == (0, 6), "found by the name it came under"


@pytest.mark.slow
def test_a_picture_that_is_in_the_library_gets_the_vector(
    tmp_path: Path, settings: Settings, engine: Engine, project: Project, run: Run
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    place = disk / "a.png"
    drawn(1).save(place)
    facts = ingest(place, settings.thumbs)
    with sessions.writing(engine) as session:
        known, _ = images.add_picture(session, facts, place.name, None, uploaded=False)
    pq.write_table(
        pa.table({"path": ["a.png"], "embedding": list(vectors(1))}), tmp_path / "v.parquet"
    )
    first = run("import-embeddings", "Web", tmp_path / "v.parquet").out
    assert "1 new image" in first
    with sessions.writing(engine) as session:
        here, bare = projects.get(session, project.id), all_images(session)[-1]
        me = projects.annotator(session, "me")
        scores.record(session, here, bare.id, me, "set", 7, origin=scores.Origin.IMPORT)
        images.add_tags(session, bare.id, ["kept"])
    done = run("import-embeddings", "Web", tmp_path / "v.parquet", "--pictures", disk).out
    assert "1 picture found and read, 0 not readable" in done
    with sessions.reading(engine) as session:
        here = projects.get(session, project.id)
        ids, x = embeddings.project_matrix(session, here)
        assert ids.tolist() == [known.id] and x.shape == (1, 512)
        labelled = session.exec(select(Label.image_id, Label.value)).all()
        assert (known.id, 7.0) in labelled and session.get(Tag, (known.id, "kept"))
    again = run("import-embeddings", "Web", tmp_path / "v.parquet", "--pictures", disk).out
    assert "0 new images, 1 known" in again and "0 pictures found" in again
    with sessions.reading(engine) as session:
        inside = session.exec(projects.image_ids(project.id)).all()
        assert inside == [known.id], "the one without a picture does not come back"


def test_a_project_whose_pictures_wait_to_be_embedded_takes_no_embeddings(
    tmp_path: Path, settings: Settings, engine: Engine, project: Project, run: Run
) -> None:
    drawn(1).save(tmp_path / "a.png")
    facts = ingest(tmp_path / "a.png", settings.thumbs)
    with sessions.writing(engine) as session:
        image, _ = images.add_picture(session, facts, "a.png", None, uploaded=True)
        own = images.collection_named(session, "Own")
        images.put_in_collection(session, own.id, image.id)
        projects.add_collection(session, projects.get(session, project.id), own)
    np.save(tmp_path / "v.npy", vectors(2))
    fails(run("import-embeddings", "Web", tmp_path / "v.npy"), "are to be embedded here")
    with sessions.reading(engine) as session:
        assert projects.get(session, project.id).encoder_id is None
        assert session.exec(select(Job)).all() == []


def test_what_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, settings: Settings, engine: Engine, project: Project, run: Run
) -> None:
    def saved(name: str, x: np.ndarray) -> Path:
        np.save(tmp_path / name, x)
        return tmp_path / f"{name}.npy"

    fails(run("import-embeddings", "Web", saved("wide", vectors(2, dim=768))), "768 values", "512")
    fails(run("import-embeddings", "Web", saved("zeros", np.zeros((2, 512), "f4"))), "No row holds")
    fails(run("import-embeddings", "Web", tmp_path / "none.npy"), "There is no file or folder")
    fails(run("import-embeddings", "Web", tmp_path), "There are no embeddings in")
    mixed = vectors(3)
    mixed[2] *= 12
    done = bring(settings, engine, saved("mixed", mixed))
    assert (done["added"], done["set_aside"], done["collection"]) == (2, 1, "mixed")
    assert "mixed.npy/2: it is L2-normalised and the others are not" in done["first_reason"]
    fails(run("import-embeddings", "Web", saved("raw", 12 * vectors(2))), "not L2-normalised")
    fails(
        run(
            "import-embeddings",
            "Web",
            saved("x", vectors(2, dim=768)),
            "--encoder",
            "ViT-L-14-quickgelu/openai",
        ),
        "are embedded with",
    )
    with sessions.reading(engine) as session:
        assert len(all_images(session)) == 2
