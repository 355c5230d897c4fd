"""Rows of the schema in which a slice kept what was expected of classes, and what becomes of
them."""

from datetime import datetime

import pytest
from sqlalchemy import Engine, MetaData, insert
from sqlalchemy.exc import IntegrityError
from sqlmodel import select

from tastemaker.database import sessions
from tastemaker.database.tables import Expectation, Project, Slice

FORMER = "0015"
THEN = datetime(2026, 1, 1)
DEFINITIONS = {
    1: {"tag": "scan", "figures": {"1": "recall:0", "2": "accuracy", "9": "f1:1"}},  # 9: removed
    2: {"filter": {"labelled": 2}, "figures": {"1": "share:2", "4": "share:12"}},  # 1: of another
    3: {"tag": "photo", "figures": {}},
    4: {"tag": "scan"},
}
PROJECT_OF = {1: 1, 2: 1, 3: 1, 4: 2}
STATED = [  # id, slice, measure, bound, value, blocks
    (1, 1, "mean", "at least", 0.9, True), (2, 1, "mean", "at least", 0.5, False),
    (4, 2, "mean", "at most", 0.05, False), (5, 4, "pass_rate", "at most", 0.1, True),
    (6, 4, "mean", "at least", 0.4, False),
]  # fmt: skip
MEASURES = {
    1: ("recall", 0), 2: ("accuracy", None), 4: ("share", 12), 5: ("pass_rate", None),
    6: ("mean", None),
}  # fmt: skip


def fill(engine: Engine) -> None:
    """Two projects, with classes and with scores, in a database of the former schema."""
    then = MetaData()
    then.reflect(engine, only=["project", "slice", "expectation"])
    with sessions.writing(engine) as session:
        for project_id, labelling in ((1, "classes"), (2, "scores")):
            session.execute(insert(then.tables["project"]).values(
                id=project_id, name=f"P{project_id}", kind="score", labelling=labelling,
                encoder="e", threshold=0.5, holdout_share=0.1, seed=1, recipe="auto", brackets=[],
                show_prediction_first=False, card={}, created_at=THEN,
            ))  # fmt: skip
        for slice_id, definition in DEFINITIONS.items():
            session.execute(insert(then.tables["slice"]).values(
                id=slice_id, project_id=PROJECT_OF[slice_id], name=f"S{slice_id}",
                kind="filter" if "filter" in definition else "tag", definition=definition,
                created_at=THEN,
            ))  # fmt: skip
        for stated_id, slice_id, measure, bound, value, blocks in STATED:
            session.execute(insert(then.tables["expectation"]).values(
                id=stated_id, project_id=PROJECT_OF[slice_id], slice_id=slice_id, measure=measure,
                bound=bound, value=value, blocks=blocks,
            ))  # fmt: skip


def check(engine: Engine) -> None:
    """Nothing was lost, and the table holds what it should and refuses what it should not."""
    with sessions.writing(engine) as session:
        rows = {row.id: row for row in session.exec(select(Expectation)).all()}
        assert {i: (row.measure, row.class_number) for i, row in rows.items()} == MEASURES
        for stated_id, slice_id, _, bound, value, blocks in STATED:
            row = rows[stated_id]
            assert (row.project_id, row.slice_id) == (PROJECT_OF[slice_id], slice_id)
            assert (row.bound, row.value, row.blocks) == (bound, value, blocks)
        for kept in session.exec(select(Slice)).all():
            before = {k: v for k, v in DEFINITIONS[kept.id].items() if k != "figures"}
            assert kept.definition == before
        fields = {"id": 20, "project_id": 1, "slice_id": 3, "bound": "at most", "value": 0.5}
        for wrong in (
            {"measure": "recall"}, {"measure": "mean", "class_number": 1},
            {"measure": "accuracy", "class_number": 0}, {"measure": "f1", "class_number": -1},
            {"measure": "mae"}, {"measure": "mean", "value": 1.5},
            {"measure": "mean", "bound": "="}, {"measure": "mean", "slice_id": 99},
        ):  # fmt: skip
            with pytest.raises(IntegrityError), session.begin_nested():
                session.add(Expectation(**fields | wrong))
                session.flush()
        session.add(Expectation(**fields, measure="f1", class_number=3))
        session.flush()
        session.delete(session.get_one(Project, 1))
        session.flush()
        session.expire_all()
        assert {row.id for row in session.exec(select(Expectation)).all()} == {5, 6}
