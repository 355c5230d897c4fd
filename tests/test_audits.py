"""Audits: a version's filter is tried on images it never learned from, scored blind; what it
promises is on the page, in the API, in the tables and on the card."""

import json
import re
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from in_browser import browsing, saved, serving, shown_image
from playwright.sync_api import Browser, expect
from sqlmodel import col, select
from trained_world import Trained, open_trained, taste, trained_home, vectors
from web_world import World, add_version, drawn, make_world

from tastemaker import jobs, projects, queues, scores, versions
from tastemaker.database import sessions
from tastemaker.database.tables import (
    Audit,
    AuditImage,
    Collection,
    Embedding,
    Image,
    Label,
    Prediction,
    ScoreEvent,
    Slice,
    Tag,
    VersionLabel,
)
from tastemaker.database.tables import TestRun as TestRunRow
from tastemaker.encoding.embedding_folders import open_folder
from tastemaker.errors import Conflict, Invalid, NotFound
from tastemaker.evaluation import audit_drawing, audit_reports, audits
from tastemaker.evaluation.audit_reports import AuditReport
from tastemaker.evaluation.audit_tables import read_table
from tastemaker.evaluation.audits import Target, Terms
from tastemaker.filtering import score_tables
from tastemaker.learning.audits import FoundCut
from tastemaker.library import bulk, saved_filters
from tastemaker.library.filters import LibraryFilter
from tastemaker.publishing import card_blocks, exports, model_card
from tastemaker.versions import deletion
from tests.command_line import Run, fails
from tests.conftest import made_once
from tests.pictures import encoded
from tests.test_shards import tarred, zipped

TERMS = Terms(cut=0.6, good_from=6, seed=1)


@pytest.fixture
def home(tmp_path: Path) -> Trained:
    """“Anime” with v1.0, and 400 images that it has predicted and nobody scored."""
    return open_trained(
        Path(shutil.copytree(made_once(_predicted), tmp_path / "home", dirs_exist_ok=True))
    )


def _predicted(home: Path) -> None:
    made = open_trained(trained_home(home))
    later = made.add(400, "Later", "pool", seed=11)
    with sessions.writing(made.engine) as session:
        version = versions.by_number(session, made.project(session), "active")
        session.add_all(
            Prediction(version_id=version.id, image_id=i, score=float(score), uncertainty=0.05)
            for i, score in zip(later, taste(vectors(400, 11)) / 10, strict=True)
        )
    made.engine.dispose()


def begin(home: Trained, terms: Terms = TERMS, **target: Any) -> int:
    with sessions.reading(home.engine) as session:
        project = home.project(session)
        version = versions.by_number(session, project, "active")
        person = projects.annotator(session, home.settings.annotator)
        chosen = Target(**target) if target else Target(filter=LibraryFilter())
        prepared = audits.prepare(session, home.settings, project, version, person, chosen, terms)
    with sessions.writing(home.engine) as session:
        return audits.store(session, prepared).id


def told(home: Trained, audit_id: int) -> AuditReport:
    with sessions.reading(home.engine) as session:
        return audit_reports.get(session, home.project(session), audit_id)


def answer(home: Trained, audit_id: int, keys: int, *, good: bool | None = None) -> list[int]:
    """Score the next so many as the Score page does: by taste, or all good or bad."""
    by_image = dict(zip(ids_of(home, "Later"), taste(vectors(400, 11)).tolist(), strict=True))
    answered = []
    with sessions.writing(home.engine) as session:
        project = home.project(session)
        person = projects.annotator(session, home.settings.annotator)
        cards = queues.next_cards(
            session, home.settings, project, person, "audit", n=keys, collection_id=audit_id
        )
        for card in cards:
            value = by_image[card.image_id] if good is None else 8 if good else 2
            scores.record(
                session, project, card.image_id, person, "set", value, offer=card.offer,
                expected=card.event_id,
            )  # fmt: skip
            answered.append(card.image_id)
    return answered


def ids_of(home: Trained, collection: str) -> list[int]:
    with sessions.reading(home.engine) as session:
        named = select(Image.id).where(col(Image.name).startswith(f"{collection}-"))
        return list(session.exec(named.order_by(col(Image.id))))


# --- the act -------------------------------------------------------------------------------------


def test_what_is_drawn_was_not_learned_from_and_is_asked_blind(home: Trained) -> None:
    audit = begin(home)
    report = told(home, audit)
    truth = taste(vectors(400, 11)) / 10
    assert (report.kept.size, report.below.size) == ((truth >= 0.6).sum(), (truth < 0.6).sum())
    assert report.audit.population["learned"] > 0
    with sessions.reading(home.engine) as session:
        drawn = set(session.exec(select(AuditImage.image_id)))
        project = home.project(session)
        person = projects.annotator(session, home.settings.annotator)
        (card,) = queues.next_cards(
            session, home.settings, project, person, "audit", n=1, collection_id=audit
        )
    assert drawn <= set(ids_of(home, "Later"))
    assert (card.blind, card.label, card.reason) == (True, None, "drawn at random for an audit")


def test_answers_make_a_promise_and_an_undo_takes_its_share_back(home: Trained) -> None:
    audit = begin(home)
    assert told(home, audit).verdict == "open"
    assert "Nothing is scored yet. About " in audit_reports.headline(told(home, audit))
    answer(home, audit, 80)
    report = told(home, audit)
    assert (report.verdict, report.answered, report.kept.good) == ("promised", 80, 64)
    assert audit_reports.headline(report).startswith(f"Kept {report.kept.size}: at least 9"), (
        audit_reports.headline(report)
    )
    with sessions.writing(home.engine) as session:
        project = home.project(session)
        scores.undo(session, project, projects.annotator(session, home.settings.annotator))
    assert told(home, audit).answered == 79


def test_a_search_names_the_lowest_cut_that_holds_the_promise(home: Trained, run: Run) -> None:
    audit = begin(home, Terms(cut=None, good_from=6, seed=1))
    assert "About " in audit_reports.headline(told(home, audit))
    answer(home, audit, 6)
    report = told(home, audit)
    assert (report.verdict, report.searches) == ("open", True)
    assert audit_reports.headline(report).startswith("No cut is shown to hold 90 % yet. About ")
    answer(home, audit, 294)
    report = told(home, audit)
    truth = taste(vectors(400, 11)) / 10
    assert audit_reports.headline(report) == (
        f"Keep from 6.00 points on: at least 90 % of the {(truth >= 0.6).sum()} images there you "
        "would score 6 or more (95 % confidence)."
    )
    assert (report.verdict, audit_reports.stricter(report)) == ("promised", "")
    typed = run("audit", "status", "Anime")
    assert "Keep from 60 % on: at least 90 %" in typed.out and "points" not in typed.out


def test_answers_are_labels_and_a_later_version_may_learn_while_the_promise_stands(
    home: Trained,
) -> None:
    audit = begin(home)
    mine = answer(home, audit, 60)
    before = audit_reports.as_json(told(home, audit))
    with sessions.reading(home.engine) as session:
        labels = session.exec(select(Label).where(col(Label.image_id).in_(mine))).all()
        origins = session.exec(
            select(ScoreEvent.origin).where(col(ScoreEvent.image_id).in_(mine))
        ).all()
    assert len(labels) == 60 and set(origins) == {"audit"}
    assert not any(label.measures for label in labels), "they are no random sample of the pool"
    assert home.train().number == "v1.1"
    assert audit_reports.as_json(told(home, audit)) == before
    with sessions.writing(home.engine) as session:  # corrected with the prediction in sight
        project = home.project(session)
        person = projects.annotator(session, home.settings.annotator)
        scores.record(session, project, mine[0], person, "set", 0, origin="review")
    assert audit_reports.as_json(told(home, audit)) == before
    second = begin(home)  # by v1.1, which learned from those images
    with sessions.reading(home.engine) as session:
        drawn = set(session.exec(select(AuditImage.image_id).where(AuditImage.audit_id == second)))
        newest = versions.by_number(session, home.project(session), "v1.1")
        known = select(VersionLabel.image_id).where(
            VersionLabel.version_id == newest.id, VersionLabel.side != "aside"
        )
        learned = set(session.exec(known))
    assert len(learned & set(mine)) > 40 and not drawn & learned


def test_answers_of_one_audit_count_in_the_next_and_nobody_elses_do(home: Trained) -> None:
    first = begin(home)
    answer(home, first, 50)
    second = begin(home, Terms(cut=0.6, good_from=6, seed=1))
    assert told(home, second).answered == 50
    with sessions.writing(home.engine) as session:
        project = home.project(session)
        other = projects.annotator(session, "Anna")
        nothing = queues.next_cards(
            session, home.settings, project, other, "audit", n=3, collection_id=first
        )
        with pytest.raises(NotFound, match="no such audit"):
            queues.next_cards(
                session, home.settings, project, other, "audit", n=3, collection_id=99
            )
    assert nothing == []


def test_an_answer_out_of_turn_waits_until_those_before_it_are_given(home: Trained) -> None:
    audit = begin(home)
    with sessions.writing(home.engine) as session:
        project = home.project(session)
        person = projects.annotator(session, home.settings.annotator)
        kept = session.exec(
            select(AuditImage.image_id)
            .where(AuditImage.audit_id == audit, AuditImage.score >= 0.6)
            .order_by(col(AuditImage.position))
        ).all()
        scores.record(session, project, kept[1], person, "set", 7, origin="audit")
    assert told(home, audit).kept.asked == 0
    with sessions.writing(home.engine) as session:
        scores.record(session, home.project(session), kept[0], person, "skip", origin="audit")
    report = told(home, audit)
    assert (report.kept.asked, report.kept.answered, report.skipped) == (2, 1, 1)


def test_a_test_run_and_a_filter_are_audited_within_their_bounds(home: Trained, run: Run) -> None:
    away = home.add(60, "Holiday", "test-run", seed=13)
    version = home.version("v1.0")
    with sessions.writing(home.engine) as session:
        session.add_all(
            Prediction(version_id=version.id, image_id=i, score=0.7, uncertainty=0.1) for i in away
        )
        holiday = session.exec(select(Collection.id).where(Collection.name == "Holiday")).one()
        tried = TestRunRow(
            project_id=home.project_id, version_id=version.id, collection_id=holiday,
            summary={"n": 60},
        )  # fmt: skip
        session.add(tried)
        session.flush()
        run_id = tried.id
        wanted = LibraryFilter(name="Later-1", predicted_min=0.3)
        saved_filters.save(session, home.project(session), "Some", wanted)
    page = home.world.client.get(f"{home.world.at}/audits?target=run:{run_id}").text
    assert f'value="run:{run_id}" selected>Holiday by v1.0<' in page
    facts = run("audit", "start", "Anime", "--test-run", run_id, "--min", "60%", "--json").json
    assert (facts["kind"], facts["target"], facts["kept"]) == ("test-run", "Holiday", 60)
    with sessions.reading(home.engine) as session:
        assert set(session.exec(select(AuditImage.image_id))) == set(away)
        (slice_,) = session.exec(select(Slice.id).where(Slice.name == "Some"))
    form = {"target": f"filter:{slice_}", "cut": "5", "good_from": "6"}
    there = home.world.client.post(f"{home.world.at}/audits", data=form)
    assert there.headers["location"].endswith("/audits/2"), there.text
    truth = taste(vectors(400, 11))[100:200]
    report = told(home, 2)
    assert (report.kept.size, report.below.size) == (
        (truth >= 5).sum(), ((truth >= 3) & (truth < 5)).sum(),
    )  # fmt: skip
    fails(run("audit", "start", "Anime", "v1.1", "--test-run", run_id), "has no version v1.1")


# --- refusals ------------------------------------------------------------------------------------


def test_an_audit_that_would_tell_nothing_is_refused_with_the_reason(home: Trained) -> None:
    with pytest.raises(Conflict, match=r"Only \d+ of 400 images pass at 10\.00 points by v1\.0"):
        begin(home, Terms(cut=1.0, good_from=6))
    with pytest.raises(NotFound, match="no such test run"):
        begin(home, test_run=7)
    with pytest.raises(Invalid, match="one of a test run"):
        begin(home, test_run=7, filter=LibraryFilter())
    for wrong in (Terms(0, 6), Terms(float("nan"), 6), Terms(0.6, 11), Terms(0.6, 6, goal=1)):
        with pytest.raises(Invalid):
            begin(home, wrong)


def test_images_of_another_kind_are_refused(home: Trained) -> None:
    """The training set lies close together; what is to be audited, anywhere."""
    random = np.random.default_rng(3)
    with sessions.writing(home.engine) as session:
        version = versions.by_number(session, home.project(session), "active")
        learned = session.exec(select(VersionLabel.image_id)).all()
        for row in session.exec(select(Embedding).where(col(Embedding.image_id).in_(learned))):
            near = 1 + random.normal(0, 0.1, len(row.vector) // 2)
            row.vector = near.astype("<f2").tobytes()
            session.add(row)
        assert version.encoder_id == row.encoder_id
    with pytest.raises(Conflict, match=r"unlike everything that v1\.0 learned from"):
        begin(home)


def test_a_version_that_is_the_wrong_way_round_gets_no_promise(home: Trained) -> None:
    with sessions.writing(home.engine) as session:
        for row in session.exec(
            select(Prediction).where(col(Prediction.image_id).in_(ids_of(home, "Later")))
        ):
            row.score = 1 - row.score
            session.add(row)
    audit = begin(home)
    answer(home, audit, 60)
    report = told(home, audit)
    assert report.verdict == "refused"
    assert "it is the wrong way round" in audit_reports.headline(report)
    assert audit_reports.stricter(report) == ""


# --- where the promise is told -------------------------------------------------------------------


def test_the_promise_is_in_the_card_the_export_and_the_tables_of_scores(
    home: Trained, run: Run, tmp_path: Path
) -> None:
    with sessions.reading(home.engine) as session:
        before = card_blocks.markdown(
            model_card.card_of(session, home.settings, home.version("v1.0"))
        )
    assert "## Audits" not in before
    audit = begin(home)
    answer(home, audit, 60)
    sentence = "of them would be scored 6 or more by hand (95 % confidence)."
    with sessions.reading(home.engine) as session:
        version = home.version("v1.0")
        card = card_blocks.markdown(model_card.card_of(session, home.settings, version))
        beside = exports.config(session, home.settings, version).content
    assert sentence in card.partition("## Audits")[2]
    assert isinstance(beside, bytes)
    (told,) = json.loads(beside)["promises"]
    assert sentence in told["promise"] and told["kept_answered"] == 48
    assert "me" not in told.values(), "nobody is named in a file"
    np.save(tmp_path / "x.npy", vectors(20, 5))
    for model in ("Anime@v1.0", _exported(home, tmp_path)):
        run("score", tmp_path / "x.npy", "--model", model, "--out", tmp_path / "x.parquet")
        metadata = pq.read_schema(tmp_path / "x.parquet").metadata
        (promised,) = json.loads(metadata[b"promises"])
        assert promised == told


def _exported(home: Trained, to: Path) -> Path:
    with sessions.reading(home.engine) as session:
        version = home.version("v1.0")
        for part in (exports.checkpoint(home.settings, version),
                     exports.config(session, home.settings, version)):  # fmt: skip
            content = part.content
            file = to / part.name
            file.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    return to / f"{exports.stem(version)}.safetensors"


def test_a_script_starts_an_audit_answers_it_from_a_file_and_reads_its_promise(
    home: Trained, run: Run, tmp_path: Path
) -> None:
    fails(run("audit", "status", "Anime"), "“Anime” has no audit yet.")
    fails(run("audit", "list", "Nope"), "There is no project “Nope”.")
    few = run("audit", "start", "Anime", "--min", "100")
    fails(few, "of 400 images pass at 100 % by v1.0: too few")
    fails(run("audit", "start", "Anime", "--min", "0"), "The cut is above 0 and at most 100 %.")
    started = run("audit", "start", "Anime", "--min", "60", "--good", 6, "--seed", 1, "--json").json
    assert (started["state"], started["kept"] + started["below"]) == ("asking", 400)
    by_hash = truth_by_hash(home)
    waiting = run("audit", "images", "Anime", "--json").json
    assert "score" not in waiting[0]
    rows = [f"{one['sha256']},{by_hash[one['sha256']]}" for one in waiting[:80]]
    file = tmp_path / "answers.csv"
    file.write_text("sha256,score\n" + "\n".join(rows) + f"\n{'0' * 64},5\n")
    assert "Nothing was recorded" in run("audit", "status", "Anime", "--answers", file).sentence
    file.write_text("sha256,score\n" + "\n".join(rows) + "\n")
    told = run("audit", "status", "Anime", 1, "--answers", file, "--json").json
    assert (told["verdict"], told["kept_answered"], told["left"]) == ("promised", 64, 320)
    again = run("audit", "status", "Anime", "--answers", file)
    assert "0 recorded, 80 known already." in again.err
    assert told["headline"] in " ".join(again.out.split())
    assert "promised" in run("audit", "list", "Anime").out
    fails(run("audit", "status", "Anime", "--sidecar"), "This audit is of no table")
    file.write_text(f"sha256,score\n{ids_hash(home, 'Pictures')},5\n")
    assert "was not drawn for this audit" in run("audit", "status", "Anime", "--answers", file).err


def truth_by_hash(home: Trained) -> dict[str, int]:
    truth = dict(zip(ids_of(home, "Later"), taste(vectors(400, 11)).tolist(), strict=True))
    with sessions.reading(home.engine) as session:
        rows = session.execute(select(Image.id, Image.sha256)).all()
    return {sha256: truth[image_id] for image_id, sha256 in rows if image_id in truth}


def ids_hash(home: Trained, collection: str) -> str:
    with sessions.reading(home.engine) as session:
        return session.get_one(Image, ids_of(home, collection)[0]).sha256


def test_a_table_is_audited_by_its_pictures_and_gets_its_promise_beside_it(
    home: Trained, run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "found"
    folder.mkdir()
    for number in range(45):
        drawn(number).resize((48, 32)).save(folder / f"{number:02d}.png")
    paths = pa.array([f"found/{number:02d}.png" for number in range(46)])  # the last is gone
    given = np.where(np.arange(46) < 35, 0.8, 0.3).astype(np.float32)
    given[45] = 0.9
    table = tmp_path / "found.parquet"
    about = {"model": "Anime@v1.0", "model_sha256": home.version("v1.0").sha256}
    score_tables.write(table, [score_tables.table(paths, given)], about)
    with pytest.raises(Conflict, match="was scored by Other@v7"):
        score_tables.write(table.with_name("other.parquet"),
                           [score_tables.table(paths, given)], {"model": "Other@v7"})  # fmt: skip
        begin(home, table=table.with_name("other.parquet"))
    with pytest.raises(NotFound, match=r"None of the pictures of found\.parquet is there"):
        begin(home, table=table, root=tmp_path / "elsewhere" / "deep")
    audit = begin(home, table=table)
    assert told(home, audit).state == "queued"
    assert "are not drawn yet" in audit_reports.headline(told(home, audit))
    early = run("audit", "status", "Anime", "--json").json
    assert (early["state"], early["precision_low"], early["more_keys"]) == ("queued", None, None)
    assert "are not drawn yet" in run("audit", "status", "Anime").out
    assert home.world.client.get(f"/api/v1{home.world.at}/audits/{audit}").json() == early
    fails(run("audit", "status", "Anime", "--sidecar"), "are not drawn yet")
    assert not table.with_name("found.parquet.promise.json").exists()
    page = f"{home.world.at}/audits/{audit}"
    assert "The images are being drawn" in home.world.client.get(page).text
    assert "waiting for the worker" in home.world.client.get(f"{page}/progress").text
    with sessions.reading(home.engine) as session:
        job = jobs.get(session, told(home, audit).audit.job_id or 0)
    assert home.run(job, audit_drawing.run) == {"audit": audit, "kept": 36}
    assert home.world.client.get(f"{page}/progress").headers["hx-refresh"] == "true"
    assert "1 drawn picture could not be had" in home.world.client.get(page).text
    report = told(home, audit)
    assert (report.drawn, report.audit.population["unreadable"]) == (45, 1)
    answer(home, audit, 45, good=True)
    report = told(home, audit)
    assert (report.state, report.kept.answered, report.below.answered) == ("done", 35, 10)
    assert report.findings is not None
    assert report.findings.doubt == "chance", "what it leaves out is as good"
    assert (report.findings.lost, report.findings.lost_high) == (None, 1), (
        "of how many is not known"
    )
    assert "of those of them that could be read you would score" in audit_reports.promise(report)
    said = run("audit", "status", "Anime", "--sidecar")
    assert "found.parquet.promise.json" in said.sentence
    beside = json.loads((tmp_path / "found.parquet.promise.json").read_text())
    assert (beside["kept"], beside["target"]) == (36, "found.parquet")


def test_a_folder_of_parts_is_audited_and_only_as_long_as_it_stays_the_same(
    home: Trained, run: Run, tmp_path: Path
) -> None:
    for number in range(40):
        drawn(number).resize((48, 32)).save(tmp_path / f"{number:02d}.png")
    about = {"model": "Anime@v1.0", "model_sha256": home.version("v1.0").sha256}
    folder, parts = tmp_path / "scores", []
    for part in range(2):
        paths = pa.array([f"{20 * part + row:02d}.png" for row in range(20)])
        rows = score_tables.table(paths, np.full(20, 0.8, np.float32))
        parts.append({"file": f"part-{part}.parquet"})
        score_tables.write(folder / parts[-1]["file"], [rows], about)
    (folder / "manifest.json").write_text(json.dumps({"complete": False, "parts": parts}))
    with pytest.raises(Conflict, match="are not whole"):
        begin(home, table=folder)
    (folder / "manifest.json").write_text(json.dumps({"complete": True, "parts": parts}))
    audit = begin(home, table=folder)
    with sessions.reading(home.engine) as session:
        job = jobs.get(session, told(home, audit).audit.job_id or 0)
    assert home.run(job, audit_drawing.run) == {"audit": audit, "kept": 40}
    assert told(home, audit).drawn == 40
    again = begin(home, table=folder)
    score_tables.write(folder / "part-1.parquet", [rows.slice(1)], about)
    refused = run("audit", "status", "Anime", str(audit), "--sidecar")
    assert refused.code == 1 and "scores was changed since the audit" in refused.sentence
    with sessions.reading(home.engine) as session:
        job = jobs.get(session, told(home, again).audit.job_id or 0)
    with pytest.raises(Conflict, match="scores was changed since"):
        home.run(job, audit_drawing.run)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_table_of_another_project_with_the_same_number_is_refused(
    home: Trained, tmp_path: Path, form: str
) -> None:
    rows = [score_tables.table(pa.array(["a.png"] * 40), np.full(40, 0.8, np.float32))]
    table = tmp_path / f"scores.{form}"
    score_tables.write(table, rows, {"model": "Photos@v1.0"})
    with pytest.raises(Conflict, match=r"was scored by Photos@v1\.0"):
        begin(home, table=table)
    score_tables.write(table, rows, {"model": "Anime@v1.0"})
    with pytest.raises(NotFound, match=r"such as “a\.png”"):
        begin(home, table=table)


def learned(home: Trained, count: int) -> list[str]:
    """The hashes of images that v1.0 learned from."""
    with sessions.reading(home.engine) as session:
        mine = select(Image.sha256).join(VersionLabel, col(VersionLabel.image_id) == Image.id)
        return list(session.exec(mine.where(VersionLabel.side == "train").limit(count)))


def table_of(home: Trained, path: Path, names: list[str]) -> Path:
    about = {"model": "Anime@v1.0", "model_sha256": home.version("v1.0").sha256}
    rows = score_tables.table(pa.array(names), np.full(len(names), 0.8, np.float32))
    score_tables.write(path, [rows], about)
    return path


def draw(home: Trained, audit: int) -> dict[str, Any]:
    with sessions.reading(home.engine) as session:
        job = jobs.get(session, told(home, audit).audit.job_id or 0)
    return home.run(job, audit_drawing.run)


def test_a_promise_names_the_version_that_learned_from_what_was_left_out(
    home: Trained, tmp_path: Path
) -> None:
    for number in range(34):
        drawn(number).resize((48, 32)).save(tmp_path / f"{number:02d}.png")
    names = [f"{number:02d}.png" for number in range(34)] + learned(home, 3)
    audit = begin(home, table=table_of(home, tmp_path / "t.parquet", names))
    assert draw(home, audit)["kept"] == 37
    answer(home, audit, 34, good=True)
    report = told(home, audit)
    assert report.findings is not None and report.audit.population["learned"] == 3
    whom = "that v1.0 did not learn from"
    assert f"of those of them {whom} you would score" in audit_reports.promise(report)
    found = replace(report.findings, holds=False, doubt="", found_cut=FoundCut(0.85, 30))
    told_of = audit_reports.stricter(replace(report, findings=found))
    assert f"at least 90 % of those of the 30 kept {whom} (95 % confidence)" in told_of


def test_a_table_of_archives_is_audited_by_the_pictures_that_were_drawn_from_them(
    home: Trained, tmp_path: Path
) -> None:
    content = [encoded(drawn(number).resize((48, 32))) for number in range(60)]
    folder, names, packed = tmp_path / "shards", list[str](), list[tuple[str, dict[str, bytes]]]()
    packed.append(("in/00000.tar", {f"{n:04}.png": content[n] for n in range(20)}))
    packed.append(("in/00001.tar", {f"deep/{n:04}.png": content[n] for n in range(20, 40)}))
    packed.append(("more.zip", {f"{n:04}.png": content[n] for n in range(40, 60)}))
    for shard, members in packed:
        (zipped if shard.endswith("zip") else tarred)(folder / shard, members | {"a.txt": b"cap"})
        names += [f"{shard}/{member}" for member in members]
    (folder / "in" / "00002.tar").write_bytes(b"not an archive" * 100)
    broken = ["in/00002.tar/0001.png", "in/00000.tar/9999.png", "gone.tar/0001.png"]
    table = table_of(home, tmp_path / "t.parquet", [*names, *broken])
    with pytest.raises(NotFound, match=r"None of the pictures of t\.parquet is there"):
        begin(home, table=table, root=tmp_path / "elsewhere" / "deep")
    audit = begin(home, table=table, root=folder)
    assert draw(home, audit)["kept"] == 63
    report = told(home, audit)
    assert (report.drawn, report.audit.population["unreadable"]) == (60, 3)
    with sessions.reading(home.engine) as session:
        mine = select(Image).join(AuditImage, col(AuditImage.image_id) == Image.id)
        images = session.exec(mine.where(AuditImage.audit_id == audit)).all()
        assert {image.sha256 for image in images} == {sha256(each).hexdigest() for each in content}
        assert {image.name for image in images} >= {"0000.png", "0020.png", "0059.png"}
        assert not session.exec(select(Tag.tag).where(col(Tag.tag).contains("tar"))).all()
    assert not list(home.settings.incoming.iterdir()), "what was taken out stays in the store alone"
    (folder / "more.zip").unlink()
    again = begin(home, table=table, root=folder)
    assert draw(home, again)["kept"] == 63, "those of the zip cannot be had"
    assert told(home, again).drawn == 40
    answer(home, audit, 60, good=True)
    assert "Kept 63: at least" in audit_reports.promise(told(home, audit))


def test_an_archive_outside_of_the_folders_that_may_be_read_is_not_looked_into(
    home: Trained, tmp_path: Path
) -> None:
    members = {f"{n:04}.png": encoded(drawn(n).resize((48, 32))) for n in range(40)}
    inside, secret = tmp_path / "inside", tmp_path / "secret"
    tarred(secret / "s.tar", members)
    inside.mkdir()
    table = table_of(home, inside / "t.parquet", [f"{secret}/s.tar/{name}" for name in members])
    audit = begin(home, table=table)
    home.settings.import_roots = str(inside)
    vars(home.settings).pop("roots", None)  # as a worker that is started with it
    with pytest.raises(Invalid, match="None of the 40 drawn pictures could be found"):
        draw(home, audit)


def test_a_table_of_what_the_version_learned_from_is_no_audit(
    home: Trained, tmp_path: Path
) -> None:
    audit = begin(home, table=table_of(home, tmp_path / "t.parquet", learned(home, 40)))
    with pytest.raises(Conflict, match=r"none is left to ask about: v1\.0 learned from 40"):
        draw(home, audit)
    assert told(home, audit).findings is None


def test_a_table_is_read_by_what_its_columns_are_and_not_by_how_they_begin(
    home: Trained, tmp_path: Path
) -> None:
    whole = [f"{number},{number % 2},007" for number in range(150_000)]
    mixed = ['"a\n,b.png",0.25,Anime@v1.0', "x.png,1e-3,Anime@v1.0"]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["path,aesthetic_score,model", *whole, *mixed]) + "\n")
    assert path.stat().st_size > 2**20
    table = read_table(path)
    assert table.scores[-3:].tolist() == [1.0, 0.25, 0.001] and table.model == "7"
    assert table.paths([0, 150_000]) == {0: "0", 150_000: "a\n,b.png"}
    rows = {"path": ["a.png"] * 40, "aesthetic_score": [0.8] * 40, "model": ["Photos@v1.0"] * 40}
    pq.write_table(pa.table(rows), tmp_path / "t.parquet")
    with pytest.raises(Conflict, match=r"was scored by Photos@v1\.0"):
        begin(home, table=tmp_path / "t.parquet")


def test_a_table_that_is_cut_short_or_damaged_is_told_as_one(home: Trained, tmp_path: Path) -> None:
    table_of(home, path := tmp_path / "t.parquet", [f"{number}.png" for number in range(4000)])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Invalid, match=r"t\.parquet is cut short or damaged\. Copy it again"):
        read_table(path)
    path.write_bytes(whole)
    scores = pq.read_metadata(path).row_group(0).column(1)
    end = scores.data_page_offset + scores.total_compressed_size
    path.write_bytes(whole[: scores.data_page_offset] + bytes(end - scores.data_page_offset)
                     + whole[end:])  # fmt: skip
    with pytest.raises(Invalid, match=r"t\.parquet is cut short or damaged\. Copy it again"):
        read_table(path)


@pytest.mark.parametrize("file", ["../t.parquet", "/etc/passwd", "..", "", "a\\b.parquet"])
def test_a_manifest_leads_to_no_file_outside_of_its_folder(
    home: Trained, tmp_path: Path, file: str
) -> None:
    table_of(home, tmp_path / "t.parquet", ["a.png"])
    (tmp_path / "scores").mkdir()
    told_of = {"complete": True, "parts": [{"file": file, "rows": 1}]}
    (tmp_path / "scores" / "manifest.json").write_text(json.dumps(told_of))
    with pytest.raises(Invalid, match="is no file of this folder"):
        read_table(tmp_path / "scores")
    about = {"kind": "embeddings", "dim": 4, "encoder": "x", "encoder_fingerprint": "y"}
    (tmp_path / "scores" / "manifest.json").write_text(json.dumps(told_of | about))
    with pytest.raises(Invalid, match=r"manifest\.json is damaged"):
        open_folder(tmp_path / "scores")


def test_a_number_without_end_is_no_good_score_and_what_was_taken_out_is_not_asked(
    home: Trained, run: Run
) -> None:
    form = {"target": "library:v1.0", "good_from": "inf", "cut": "6"}
    said = home.world.client.post(f"{home.world.at}/audits", data=form)
    assert said.status_code == 422 and "“inf” is no number for the good score" in said.text
    audit = begin(home)
    gone = run("audit", "images", "Anime", "--json").json[0]["image_id"]
    with sessions.writing(home.engine) as session:
        bulk.remove(session, home.project(session), [gone])
    left = run("audit", "images", "Anime", str(audit), "--json").json
    assert gone not in [row["image_id"] for row in left] and left


def test_a_table_that_is_none_is_refused(home: Trained, tmp_path: Path) -> None:
    for name, text, sentence in (
        ("a.txt", "x", "no known ending"),
        ("a.csv", "path,other\na,1\n", "no column “aesthetic_score”"),
        ("b.csv", "path,aesthetic_score\na,70\n", "not all in 0–1"),
        ("c.csv", "path,aesthetic_score\na,good\n", "holds no numbers"),
        ("d.parquet", "no table", "is not a Parquet file"),
        ("d.jsonl", "no table", "cannot be read as a table"),
        ("e.csv", "path,class,probability,percent\na,b,0.5,50\n", "tells classes apart"),
        ("f.csv", "path,class,probability,aesthetic_score\na,b,0.5,0.7\n", "tells classes apart"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(Invalid, match=sentence):
            begin(home, table=tmp_path / name)


# --- pages ---------------------------------------------------------------------------------------


def test_the_api_and_the_form_start_the_same_audit(home: Trained) -> None:
    at, client = home.world.at, home.world.client
    version = home.version("v1.0")
    body = {"version_id": version.id, "filter": {}, "cut": 0.6, "good_from": 6, "seed": 1}
    made = client.post(f"/api/v1{at}/audits", json=body)
    assert made.status_code == 201, made.text
    (card,) = client.get(f"/api/v1{at}/queue?queue=audit&collection=1&n=1").json()
    client.post(
        f"/api/v1{at}/scores",
        json={"image_id": card["image_id"], "value": 7, "offer": card["offer"]},
    )
    assert client.get(f"/api/v1{at}/audits/1").json()["kept_good"] == 1
    (last,) = client.get(f"/api/v1{at}/history?n=1").json()  # a slip, put right as blindly
    assert (last["value"], last["card"]["prediction"], last["card"]["blind"]) == (7, None, True)
    again = {"image_id": card["image_id"], "value": 3, "offer": last["card"]["offer"]}
    client.post(f"/api/v1{at}/scores", json=again)
    assert client.get(f"/api/v1{at}/audits/1").json()["kept_good"] == 0
    client.post(f"/api/v1{at}/scores", json=again | {"value": 7})
    client.post(f"/api/v1{at}/scores", json=again | {"value": 0, "offer": "", "origin": "review"})
    assert client.get(f"/api/v1{at}/audits/1").json()["kept_good"] == 1
    form = {"target": "library:v1.0", "cut": "6.0", "good_from": "6", "goal": "90"}
    there = client.post(f"{at}/audits", data=form)
    assert there.headers["location"] == f"{at}/audits/2"
    assert "Nothing is scored yet." in client.get(f"{at}/audits/2").text, "another draw"
    page = client.get(f"{at}/audits/1").text
    assert "Too few scores for a promise yet: 1 of 1 that v1.0 keeps" in page
    assert [one["id"] for one in client.get(f"/api/v1{at}/audits").json()] == [2, 1]
    found = client.post(f"/api/v1{at}/audits", json=body | {"cut": None, "find": True}).json()
    assert found["cut"] == 0.5 and found["kept"] > made.json()["kept"], "to be searched from"
    assert client.post(f"{at}/audits", data=form | {"cut": ""}).status_code == 303
    wrong = client.post(f"{at}/audits", data=form | {"cut": "9,99"})
    assert wrong.status_code == 409
    assert "images pass at 9.99 points by v1.0" in wrong.text and 'value="9,99"' in wrong.text
    assert client.post(f"{at}/audits", data=form | {"goal": "most"}).status_code == 422
    assert client.get(f"{at}/audits/9").status_code == 404
    outside = client.post(f"/api/v1{at}/audits", json=body | {"filter": None, "table": "/no.csv"})
    assert outside.status_code == 404 and "There is no file /no.csv." in outside.text


def test_a_deleted_version_takes_its_audits_along_and_the_scores_stay(home: Trained) -> None:
    audit = begin(home)
    answer(home, audit, 5)
    home.train()
    old = home.version("v1.0")
    with sessions.writing(home.engine) as session:
        versions.activate(session, versions.by_number(session, home.project(session), "v1.1"))
        words = deletion.what_goes(session, old).in_words()
    assert words.endswith("predictions and 1 audit")
    deletion.delete_version(home.settings, home.engine, old.id)
    with sessions.reading(home.engine) as session:
        assert session.exec(select(Audit)).all() == []
        assert session.exec(select(AuditImage)).all() == []
        kept = session.exec(select(ScoreEvent).where(ScoreEvent.origin == "audit")).all()
    assert len(kept) == 5


@pytest.mark.browser
def test_an_audit_is_walked_by_keyboard(tmp_path: Path, chromium: Browser) -> None:
    """Started, scored and read without a mouse; nothing that was predicted is seen on the way."""
    world = make_world(tmp_path, images=60)
    add_version(world, 1, {i: 0.8 if i <= 45 else 0.2 for i in range(1, 61)})
    with serving(world) as url, browsing(chromium) as page:
        page.goto(f"{url}{world.at}/audits#new")
        page.get_by_label("Good from").focus()
        page.keyboard.press("5")
        page.get_by_role("button", name="Draw the images").press("Enter")
        promise = page.locator("#promise")
        expect(promise).to_contain_text("Nothing is scored yet. About")
        page.get_by_role("link", name="Score them").press("Enter")
        for number in range(6):
            shown_image(page)
            assert page.locator(".this-one").inner_text().count("predicted") == 0
            page.keyboard.press("7")
            saved(page, world, number + 1)
        expect(page.locator("#previous-score")).to_contain_text("7")
        expect(page.locator("#previous-said")).to_have_text("")
        page.get_by_role("link", name="See what it promises").press("Enter")
        expect(promise).to_contain_text(re.compile(r"Kept 45: at least [2-8]\d\s% of them you"))
        expect(page.locator("#forecast")).to_contain_text("more keys for a promise of 90")
        page.get_by_role("link", name="Score on").press("Enter")
        for number in range(6, 8):
            shown_image(page)
            page.keyboard.press("7")
            saved(page, world, number + 1)
        with sessions.writing(world.engine) as session:
            project = world.project(session)
            person = projects.annotator(session, world.settings.annotator)
            for card in queues.next_cards(
                session, world.settings, project, person, "audit", n=20, collection_id=1
            ):
                scores.record(session, project, card.image_id, person, "set", 7, offer=card.offer)
        page.get_by_role("link", name="See what it promises").press("Enter")
        expect(promise).to_contain_text("Kept 45: at least 9")
    assert set(origins(world)) == {"audit"}


def origins(world: World) -> list[str]:
    with sessions.reading(world.engine) as session:
        return list(session.exec(select(ScoreEvent.origin)))
