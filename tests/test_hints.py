"""Stars of other programs teach as a line to start from: as far as a person's scores bear them out,
and never of an image by its own star."""

from pathlib import Path

import numpy as np
import pytest
from sqlmodel import select

from tastemaker import projects, scores
from tastemaker.database import sessions
from tastemaker.database.tables import Image
from tastemaker.scores import Origin
from tastemaker.scores.answers import RATED
from tastemaker.training import retrain
from tastemaker.versions import hints, priors
from tests.test_starting_from import begun, home, ids_of, live, second_event, trained  # noqa: F401
from tests.trained_world import Trained, taste, vectors

X = vectors(60, 2)  # of the images of `begun`


def star(project: Trained, values: dict[int, int]) -> None:
    with sessions.writing(project.engine) as session:
        row = project.project(session)
        person = projects.annotator(session, "other programs", proxy=True)
        for image_id, value in values.items():
            scores.record(session, row, image_id, person, RATED, value, origin=Origin.IMPORT)


def line(project: Trained, labelled: tuple[int, ...] = ()) -> np.ndarray | None:
    with sessions.reading(project.engine) as session:
        found = hints.as_priors(session, project.project(session), labelled=labelled)
        return priors.line_of(found[0]).weights if found else None


@pytest.fixture
def starred(home: Trained) -> Trained:  # noqa: F811
    """A project of 60 images, the last 40 with stars by the taste that its person has."""
    second = begun(home)
    star(second, dict(zip(ids_of(second)[20:], (2 * (taste(X[20:]) // 2)).tolist(), strict=True)))
    return second


def test_with_stars_there_are_predictions_before_the_first_key(starred: Trained) -> None:
    first = live(starred)
    assert np.corrcoef(first.scores[:20], taste(X[:20]))[0, 1] > 0.8
    assert [prior.name for prior in first.fit.priors] == [hints.NAME]
    assert {pick.image_id for pick in first.lists.mixed} & set(ids_of(starred)[20:]), (
        "images with stars are asked for like any other"
    )


def test_stars_that_the_keys_contradict_are_turned_round(starred: Trained) -> None:
    starred.score(dict(zip(ids_of(starred)[:15], (10 - taste(X[:15])).tolist(), strict=True)))
    (trust,) = live(starred).fit.priors
    assert trust.slope is not None and trust.slope < 0


def test_no_star_of_a_scored_image_a_relative_or_the_holdout_has_a_part(
    starred: Trained,
) -> None:
    ids = ids_of(starred)
    before = line(starred)
    assert before is not None
    with sessions.writing(starred.engine) as session:  # 21 becomes a relative of the first image
        group = session.exec(select(Image.source_group).where(Image.id == ids[0])).one()
        row = session.get_one(Image, ids[21])
        row.source_group = group
        session.add(row)
    starred.score({ids[0]: 5, ids[30]: 5})
    without = line(starred)
    assert without is not None and not np.array_equal(before, without)
    star(starred, {ids[0]: 0, ids[21]: 0, ids[30]: 0})
    assert np.array_equal(without, line(starred)), "whatever their stars are"
    star(starred, {ids[31]: 0})
    assert not np.array_equal(without, line(starred))
    apart = line(starred, (ids[31],))
    star(starred, {ids[31]: 10})
    assert np.array_equal(apart, line(starred, (ids[31],))), "labels that a training has frozen"
    with sessions.writing(starred.engine) as session:
        project = starred.project(session)
        project.holdout_share = 0.5
        session.add(project)
    with sessions.reading(starred.engine) as session:
        project = starred.project(session)
        rows = session.execute(select(Image.id, Image.source_group).where(Image.id.in_(ids)))  # type: ignore[attr-defined]
        held = [i for i, group in rows if projects.on_holdout_side(project, group)]
    before = line(starred)
    star(starred, dict.fromkeys(held, 0))
    after = line(starred)
    assert (before is None and after is None) or np.array_equal(before, after)  # type: ignore[arg-type]


def test_few_stars_or_equal_ones_are_no_line(home: Trained, tmp_path: Path) -> None:  # noqa: F811
    second = begun(home)
    ids = ids_of(second)
    star(second, dict.fromkeys(ids[: hints.FEWEST - 1], 8))
    assert line(second) is None
    star(second, dict.fromkeys(ids, 8))
    assert line(second) is None and live(second).fit.priors == ()


def test_a_training_freezes_the_line_and_its_version_says_so(starred: Trained) -> None:
    ids = ids_of(starred)
    starred.score(dict(zip(ids[:12], taste(X[:12]).tolist(), strict=True)))
    request = retrain.Request(starred.project_id, "test", second_event(starred), 5, recipe="ridge")
    version = trained(starred, request)
    with sessions.reading(starred.engine) as session:
        (row,) = priors.of_version(session, version)
    assert row.name == hints.NAME and (row.probability or 0) > 0.5
