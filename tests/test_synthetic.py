"""Pairs of clean pictures and their damaged twins: made by an import, the same every time, never
in the hold-out, never apart."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture
from sqlmodel import select

from tastemaker import images, projects, scores
from tastemaker.database import sessions
from tastemaker.database.tables import Image, Job, Label, Project, ScoreEvent, SyntheticImage
from tastemaker.encoding.encoder_specs import BUNDLED
from tastemaker.errors import BadImage, Invalid
from tastemaker.importing import requests
from tastemaker.pages.formats import job_result
from tastemaker.pictures import damage
from tastemaker.pictures.damage import Damage, TwinOrder
from tastemaker.pictures.pictures import KnownPicture
from tastemaker.scores import class_changes, classes
from tests.desk import Desk, noise, png

CLEAN, DAMAGED = 0, 1


def class_project(desk: Desk, **options: Any) -> Project:
    with sessions.writing(desk.engine) as session:
        project = classes.create_project(
            session, "Artefacts", ["clean", "damaged"], encoder=BUNDLED, **options
        )
        project.seed = 5  # which side of the hold-out an image is on follows from it
        return project


def bring_in(desk: Desk, project: Project, *kinds: str, **options: Any) -> Any:
    with sessions.reading(desk.engine) as session:
        asked = requests.pairs_for(
            session, project, kinds or tuple(damage.KINDS), "clean", "damaged"
        )
    return desk.bring_in(project=project, synthetic=asked, **options)


def labels(desk: Desk, project: Project) -> dict[int, Label]:
    return {row.image_id: row for row in desk.all(Label, Label.project_id == project.id)}


@pytest.mark.parametrize("kind", damage.KINDS)
def test_the_same_picture_gets_the_same_twin_whatever_else_there_is(kind: str) -> None:
    picture = noise(3, 64)
    drawn = damage.drawn((kind,), "a" * 64, 7)
    assert drawn.kind == kind and drawn == damage.drawn((kind,), "a" * 64, 7)
    strengths = {damage.drawn((kind,), f"{n:064x}", 7) for n in range(40)}
    assert len(strengths) > 10, "and others get others"
    content = damage.damaged(picture, drawn)
    assert content == damage.damaged(picture, drawn)
    with Picture.open(io.BytesIO(content)) as twin:
        assert twin.size == picture.size and twin.info.get("exif") is None
        change = np.abs(np.asarray(twin.convert("RGB"), float) - np.asarray(picture, float))
    assert 0.2 < change.mean() < 60, "it is damaged, and still the picture"


def test_red_and_blue_are_shifted_apart_and_green_stays() -> None:
    picture = noise(1, 32)
    with Picture.open(
        io.BytesIO(damage.damaged(picture, Damage.of("chromatic", right=3, down=0)))
    ) as twin:
        after, before = np.asarray(twin), np.asarray(picture)
    assert (after[..., 1] == before[..., 1]).all()
    assert (after[:, 3:, 0] == before[:, :-3, 0]).all()
    assert (after[:, :-3, 2] == before[:, 3:, 2]).all()


def test_an_import_makes_pairs_that_share_a_group_and_never_measure(desk: Desk) -> None:
    project = class_project(desk, holdout_share=0.4)
    for number in range(12):
        desk.put(f"{number}.png", png(number))
    result = bring_in(desk, project)
    assert result["pairs"] + result["held_out"] == 12
    assert min(result["pairs"], result["held_out"]) >= 2
    twins = desk.all(SyntheticImage)
    assert len(twins) == result["pairs"]
    by_id = {row.id: row for row in desk.all(Image)}
    known = labels(desk, project)
    assert len(known) == 2 * result["pairs"], "what is held out waits for a person"
    assert {row.value for row in known.values()} == {CLEAN, DAMAGED}
    assert not any(row.holdout or row.measures for row in known.values())
    for twin in twins:
        clean, made = by_id[twin.source_id], by_id[twin.image_id]
        assert clean.source_group == made.source_group
        assert known[clean.id].value == CLEAN and known[made.id].value == DAMAGED
        assert twin.damage["kind"] in damage.KINDS and made.kind == "upload"
        drawn = damage.drawn(tuple(damage.KINDS), clean.sha256, project.seed)
        assert twin.damage == drawn.as_json(), "what it takes to make it again"
    with sessions.reading(desk.engine) as session:
        events = session.exec(select(ScoreEvent).where(ScoreEvent.project_id == project.id)).all()
        high = scores.highest_event(session, project)
        assert {event.origin for event in events} == {"synthetic"}
        assert scores.drawn_at_random(session, project.id, high) == set()


def test_done_again_nothing_changes_and_another_damage_makes_further_twins(desk: Desk) -> None:
    project = class_project(desk, holdout_share=0)
    for number in range(3):
        desk.put(f"{number}.png", png(number))
    assert bring_in(desk, project, "jpeg")["pairs"] == 3
    before = [(row.image_id, row.damage) for row in desk.all(SyntheticImage)]
    events = len(desk.all(ScoreEvent))
    read = len(desk.read)
    assert bring_in(desk, project, "jpeg")["pairs"] == 3
    assert [(row.image_id, row.damage) for row in desk.all(SyntheticImage)] == before
    assert len(desk.all(ScoreEvent)) == events and len(desk.read) == read, "nothing was read again"
    assert bring_in(desk, project, "noise")["pairs"] == 3
    assert len(desk.all(SyntheticImage)) == 6, "no twin got a twin"


def test_what_a_person_called_damaged_gets_no_twin_and_keeps_its_label(desk: Desk) -> None:
    project = class_project(desk, holdout_share=0)
    desk.put("a.png", png(1))
    desk.put("b.png", png(2))
    desk.bring_in(project=project)
    image = desk.image(png(1))
    with sessions.writing(desk.engine) as session:
        me = projects.annotator(session, "me")
        scores.record(session, project, image.id, me, "set", DAMAGED)
    done = bring_in(desk, project)
    assert (done["pairs"], done["held_out"], done["otherwise"]) == (1, 0, 1)
    job = Job(kind="import", title="", state="done", result=done)
    assert "1 pair with damaged twins, 0 left to be labelled by hand" in job_result(job)
    assert labels(desk, project)[image.id].value == DAMAGED


def test_classes_that_change_before_the_import_runs_are_followed(desk: Desk) -> None:
    project = class_project(desk, holdout_share=0)
    desk.put("a.png", png(1))
    with sessions.writing(desk.engine) as session:
        asked = requests.pairs_for(session, project, ("jpeg",), "clean", "damaged")
        spoilt = class_changes.add(session, project, "spoilt").number
        class_changes.merge(session, project, DAMAGED, spoilt)
    assert desk.bring_in(project=project, synthetic=asked)["pairs"] == 1
    assert {row.value for row in labels(desk, project).values()} == {CLEAN, spoilt}
    with sessions.writing(desk.engine) as session:
        class_changes.add(session, project, "other")
        class_changes.delete(session, project, spoilt)
    done = desk.bring_in(project=project, synthetic=asked)
    assert (done["pairs"], done["known"]) == (0, 1), "the pictures are in all the same"


def test_a_twin_that_a_person_labels_by_chance_measures_no_version_anywhere(desk: Desk) -> None:
    project = class_project(desk, holdout_share=0)
    desk.put("a.png", png(1))
    bring_in(desk, project, "blur")
    (twin,) = desk.all(SyntheticImage)
    with sessions.writing(desk.engine) as session:
        other = classes.create_project(
            session, "Other", ["x", "y"], encoder=BUNDLED, holdout_share=0.5
        )
        group = images.get(session, twin.image_id).source_group
        other.seed = next(
            seed
            for seed in range(100)
            if projects.on_holdout_side(other.model_copy(update={"seed": seed}), group)
        )
        projects.add_collection(session, other, images.find_collection(session, "pictures"))
        me = projects.annotator(session, "me")
        for image_id in (twin.image_id, twin.source_id):
            scores.record(session, other, image_id, me, "set", 1, origin=scores.Origin.CONTROL)
    there = labels(desk, other)
    assert there[twin.source_id].measures and not there[twin.image_id].measures
    with sessions.writing(desk.engine) as session:
        scores.rebuild_labels(session, projects.get(session, other.id))
        drawn = scores.drawn_at_random(session, other.id, 10**6)
    assert drawn == {twin.source_id}
    assert not labels(desk, other)[twin.image_id].measures, "nor once labels are derived anew"


def test_a_clean_file_that_changed_or_is_gone_is_named_and_the_others_have_twins(
    desk: Desk, tmp_path: Path
) -> None:
    project = class_project(desk, holdout_share=0)
    changed, gone = desk.put("changed.png", png(1)), desk.put("gone.png", png(2))
    desk.put("good.png", png(3))

    def meanwhile() -> None:
        if gone.exists():
            gone.unlink()

    desk.meanwhile[desk.folder / "good.png"] = meanwhile
    changed_order = TwinOrder(
        KnownPicture(changed, "0" * 64), Damage.of("jpeg", quality=20), tmp_path / "twin.jpg"
    )
    with pytest.raises(BadImage, match="changed since it was imported"):
        damage.make_twin(changed_order, desk.settings.thumbs)
    result = bring_in(desk, project, "jpeg")
    assert result["pairs"] == 2
    assert "gone.png" in desk.reasons()


def test_what_cannot_be_paired_is_refused_in_a_sentence(desk: Desk) -> None:
    project = class_project(desk)
    with sessions.reading(desk.engine) as session:
        for given, sentence in (
            ((project, ["rust"], "clean", "damaged"), "no kind of damage"),
            ((project, [], "clean", "damaged"), "No kind"),
            ((project, ["jpeg"], "clean", "clean"), "both be"),
            ((project, ["jpeg"], "clean", "nothing"), "no class"),
            ((desk.project, ["jpeg"], "clean", "damaged"), "project with classes"),
            ((None, ["jpeg"], "clean", "damaged"), "project with classes"),
        ):
            with pytest.raises(Invalid, match=sentence):
                requests.pairs_for(session, *given)
        with pytest.raises(Invalid, match="test run"):
            requests.pairs_for(session, project, ["jpeg"], "clean", "damaged", "test-run")
