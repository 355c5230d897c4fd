"""The files of the live model: read as they were written, whatever release wrote them."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tastemaker.config import Settings
from tastemaker.live.live_model import (
    LIVE_ROW,
    ErrorLists,
    ErrorRecord,
    FitSummary,
    LiveModel,
    Pick,
    PickLists,
    forget_live,
    read_live,
    write_live,
)
from tests.web_world import make_world

OLDER = {
    "queue": [{"image_id": 7, "why": "control"}],
    "near": [{"image_id": 3, "why": "threshold", "score": 0.5, "uncertainty": 0.1}],
    "start": [{"image_id": 9, "why": "diverse"}],
    "mistakes": {
        "false-positives": [{"image_id": 1, "why": "mistake", "score": 0.7, "label": 2.0}],
        "false-negatives": [],
    },
    "suspected": {
        "false-positives": [],
        "false-negatives": [
            {
                "image_id": 2, "why": "suspected_fn", "score": 0.3, "probability": 0.8,
                "neighbour": 4, "neighbour_label": 9.0,
            }
        ],
    },
    "doubtful": [{"image_id": 5, "why": "doubtful", "score": 0.9, "label": 1.0, "quality": 0.01}],
    "contradictions": [
        {
            "image_id": 6, "why": "contradiction", "label": 9.0, "twin": 8, "twin_label": 1.0,
            "gap": 0.8,
        }
    ],
    "event_high": 40, "labels": 20, "noise": 0.1, "penalty": 3.5, "seconds": 0.2,
    "errors": [{"labels": 10, "error": 2.5, "kept": True}],
}  # fmt: skip


def rows_of(*ids: int) -> np.ndarray:
    rows = np.zeros(len(ids), LIVE_ROW)
    rows["image_id"], rows["score"], rows["uncertainty"] = ids, 0.25, 0.5
    return rows


def facts_path(settings: Settings) -> Path:
    return settings.live / "1.json"


picks = st.lists(
    st.builds(
        Pick,
        image_id=st.integers(1, 2**40),
        score=st.none() | st.floats(0, 1),
        label=st.none() | st.floats(0, 10),
        twin=st.none() | st.integers(1, 2**40),
        twin_label=st.none() | st.floats(0, 10),
        quality=st.floats(0, 1),
    ),
    max_size=4,
).map(tuple)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(picks, picks, picks, st.integers(0, 2**60))
def test_what_is_read_is_what_was_written(
    settings: Settings, mixed: tuple[Pick, ...], wrong: tuple[Pick, ...], pairs: tuple[Pick, ...],
    event: int,
) -> None:  # fmt: skip
    fit = FitSummary(event, len(mixed), 0.1, None, (ErrorRecord(10, 2.5, kept=False),), 0.25)
    lists = PickLists(mixed=mixed, mistakes=ErrorLists((), wrong), contradictions=pairs)
    write_live(settings, 1, LiveModel(rows_of(2, 5), fit, lists))
    live = read_live(settings, 1)
    assert live is not None
    assert (live.fit, live.lists) == (fit, lists)
    assert (live.of(5), live.of(3), live.of(9)) == ((0.25, 0.5), None, None)


def test_a_live_model_is_read_once_until_it_is_replaced_and_gone_when_forgotten(
    settings: Settings,
) -> None:
    write_live(settings, 1, LiveModel(rows_of(1), FitSummary(event_high=1)))
    first = read_live(settings, 1)
    assert first is not None and read_live(settings, 1) is first
    write_live(settings, 1, LiveModel(rows_of(1, 2), FitSummary(event_high=2)))
    second = read_live(settings, 1)
    assert second is not None and (second.fit.event_high, len(second.ids)) == (2, 2)
    forget_live(settings, 1)
    assert read_live(settings, 1) is None


def test_the_file_of_an_earlier_release_is_read(settings: Settings) -> None:
    write_live(settings, 1, LiveModel(rows_of(*range(1, 10))))
    facts_path(settings).write_text(json.dumps(OLDER))
    live = read_live(settings, 1)
    assert live is not None
    assert live.fit == FitSummary(40, 20, 0.1, 3.5, (ErrorRecord(10, 2.5, kept=True),), 0.2)
    lists = live.lists
    assert lists.mixed == (Pick(7, "control"),)
    assert lists.near_threshold == (Pick(3, "threshold", 0.5, 0.1),)
    assert lists.start == (Pick(9, "diverse"),)
    assert lists.mistakes.of("false-positives") == (Pick(1, "mistake", 0.7, label=2.0),)
    (suspect,) = lists.suspected.of("false-negatives")
    assert (suspect.twin, suspect.twin_label, suspect.probability) == (4, 9.0, 0.8)
    assert lists.label_issues[0].quality == 0.01
    assert (lists.contradictions[0].twin, lists.contradictions[0].gap) == (8, 0.8)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b'{"queue": 3}', b'{"queue": [{"why": "control"}]}',
        b'{"queue": [{"image_id": 1, "why": "a reason of another release"}]}', b"\xff\xfe",
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_counts_as_no_live_model_and_is_replaced(
    settings: Settings, content: bytes
) -> None:
    write_live(settings, 1, LiveModel(rows_of(1)))
    facts_path(settings).write_bytes(content)
    assert read_live(settings, 1) is None
    write_live(settings, 1, LiveModel(rows_of(1)))
    assert read_live(settings, 1) is not None


def test_rows_of_another_release_count_as_no_live_model(settings: Settings) -> None:
    write_live(settings, 1, LiveModel(rows_of(1)))
    for content in (b"", b"junk", np.zeros(3, [("image_id", "<i8"), ("score", "<f4")])):
        rows_path = settings.live / "1.npy"
        rows_path.unlink()
        if isinstance(content, bytes):
            rows_path.write_bytes(content)
        else:
            np.save(rows_path, content)
        facts_path(settings).touch()
        assert read_live(settings, 1) is None


@pytest.mark.parametrize("content", [b"{", json.dumps(OLDER).encode()])
def test_every_page_that_looks_at_the_live_model_opens_whatever_its_file_holds(
    tmp_path: Path, content: bytes
) -> None:
    world = make_world(tmp_path)
    write_live(world.settings, world.project_id, LiveModel(rows_of(*range(1, 10))))
    facts_path(world.settings).write_bytes(content)
    for page in (
        "/score", "/score?queue=start", "/score?queue=false-negatives", "/score/grid",
        "/score/strip", "/try", "/library", "/library?version=live", "/images/1",
        "/review/false-positives", "/review/doubtful", "/review/contradictions",
    ):  # fmt: skip
        answer = world.client.get(f"{world.at}{page}", follow_redirects=True)
        assert answer.status_code == 200, page
