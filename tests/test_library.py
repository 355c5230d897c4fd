"""The library: a filter means the same images everywhere, and a page of it touches few rows."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pytest
from cachetools import TLRUCache
from hypothesis import HealthCheck, given
from hypothesis import settings as tries
from hypothesis import strategies as st
from sqlalchemy import Engine, insert
from sqlalchemy.dialects import sqlite
from sqlmodel import Session, col, select

from tastemaker import images, projects, scores
from tastemaker.config import Settings
from tastemaker.database import counts, migration, sessions
from tastemaker.database.tables import (
    Annotator,
    Collection,
    CollectionImage,
    EncoderRow,
    Expectation,
    Image,
    ImageName,
    Label,
    Prediction,
    Project,
    RemovedImage,
    Tag,
    Version,
)
from tastemaker.errors import Conflict, Invalid, NotFound
from tastemaker.importing.sources import folder_tags
from tastemaker.library import (
    browsing,
    bulk,
    counting,
    filters,
    orders,
    saved_filters,
    scopes,
    tags,
)
from tastemaker.library.filters import LibraryFilter
from tastemaker.library.orders import Order
from tastemaker.live.live_model import LIVE_ROW, LiveModel, write_live

COUNT = 90
NAMES = ("cat", "dog", "Sunset", "100%_sure")


class Made:
    """A project with a bit of everything, and the same facts as plain Python sets."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings, self.engine = settings, engine
        random = np.random.default_rng(5)
        with sessions.writing(engine) as session:
            project = projects.create(session, "P", holdout_share=0.0)
            other = projects.create(session, "Other")
            self.me = projects.annotator(session, "me").id
            encoder = EncoderRow(fingerprint="f", name=project.encoder, dim=4)
            homes = [Collection(name=name) for name in ("A", "B", "Elsewhere", "Tried")]
            session.add_all([encoder, *homes])
            session.flush()
            self.homes = [home.id for home in homes]
            for home, mine in zip(homes, (project, project, other), strict=False):
                projects.add_collection(session, mine, home)
            projects.add_collection(session, project, homes[3], "test-run")
            version = Version(
                project_id=project.id, state="ready", active=True, made_by="t", event_high=0,
                encoder_id=encoder.id,
            )  # fmt: skip
            session.add(version)
            session.flush()
            self.facts: dict[int, dict[str, Any]] = {}
            me = session.get(Annotator, self.me)
            assert me is not None
            for i in range(1, COUNT + 1):
                sha256 = hashlib.sha256(str(i).encode()).hexdigest()
                fact: dict[str, Any] = {
                    "name": f"{NAMES[i % 4]}-{i // 3:03d}.jpg",
                    "group": f"g{i // 4}" if i % 5 == 0 else f"own{i}",
                    "homes": {h for h in range(3) if random.random() < (0.6, 0.4, 0.2)[h]}
                    | ({3} if i % 3 == 0 else set()),
                    "tags": {t for t in ("sea", "sky") if random.random() < 0.4},
                    "label": None, "said": set(), "removed": random.random() < 0.1,
                    "predicted": [*range(11), None][int(random.integers(12))],
                }  # fmt: skip
                if fact["predicted"] is not None:
                    fact["predicted"] /= 10
                session.add(
                    Image(
                        id=i, sha256=sha256, kind="file", name=fact["name"],
                        source_group=fact["group"],
                    )
                )  # fmt: skip
                session.flush()
                for home in fact["homes"]:
                    session.add(CollectionImage(collection_id=self.homes[home], image_id=i))
                session.add_all(Tag(image_id=i, tag=tag) for tag in fact["tags"])
                if fact["predicted"] is not None:
                    honest = 0.5 if i % 7 else None
                    session.add(
                        Prediction(
                            version_id=version.id, image_id=i, score=fact["predicted"],
                            out_of_fold=honest, uncertainty=0.1,
                        )
                    )  # fmt: skip
                    fact["predicted"] = fact["predicted"] if honest is None else honest
                left = fact["homes"].isdisjoint({0, 1})  # it was in the project, and is no more
                if left:
                    session.add(CollectionImage(collection_id=self.homes[0], image_id=i))
                    session.flush()
                if random.random() < 0.5:
                    fact["label"] = float(random.integers(11))
                    scores.record(session, project, i, me, "set", int(fact["label"]))
                for kind in ("flag", "skip"):
                    if random.random() < 0.2:
                        taken_back = random.random() < 0.5
                        scores.record(session, project, i, me, kind)
                        if taken_back:
                            scores.undo(session, project, me)
                        else:
                            fact["said"].add(kind)
                if left:
                    session.delete(session.get(CollectionImage, (self.homes[0], i)))
                if fact["removed"]:
                    session.add(RemovedImage(project_id=project.id, image_id=i))
                self.facts[i] = fact
            self.project_id = project.id
        rows = np.zeros(COUNT, LIVE_ROW)
        rows["image_id"] = np.arange(1, COUNT + 1)
        rows["score"] = np.round(np.random.default_rng(1).random(COUNT), 1)
        rows["score"][::9] = np.nan
        self.live = {int(r["image_id"]): float(r["score"]) for r in rows}
        write_live(settings, self.project_id, LiveModel(rows))

    def project(self, session: Session) -> Project:
        return projects.get(session, self.project_id)

    def meant(self, asked: LibraryFilter) -> set[int]:
        """What the filter means, said in the plainest way."""
        return {i for i, fact in self.facts.items() if self._agrees(i, fact, asked)}

    def _agrees(self, i: int, fact: dict[str, Any], asked: LibraryFilter) -> bool:
        homes = {3} if asked.role == "test-run" else {0, 1}
        if asked.collection is not None:
            homes = {self.homes.index(asked.collection)}
        elif asked.removed:
            homes = {0, 1, 3}
        said = self.live[i] if asked.version == "live" else fact["predicted"]
        low, high = asked.predicted_min, asked.predicted_max
        return (
            bool(homes & fact["homes"])
            and fact["removed"] == asked.removed
            and set(asked.tags) <= fact["tags"]
            and (asked.scored is None or asked.scored == (fact["label"] is not None))
            and _inside(fact["label"], asked.label_min, asked.label_max)
            and _inside(None if said is None else float(np.float32(said)), *(
                None if end is None else float(np.float32(end)) for end in (low, high)
            ))
            and (not asked.said or filters.SAID[asked.said] in fact["said"])
            and asked.name.lower() in fact["name"].lower()
            and (asked.relatives is None or fact["group"] == self.facts[asked.relatives]["group"])
        )  # fmt: skip


def _inside(value: float | None, low: float | None, high: float | None) -> bool:
    if low is None and high is None:
        return True
    return value is not None and (low is None or value >= low) and (high is None or value <= high)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    home = tmp_path_factory.mktemp("library")
    settings = Settings(home=home, min_free_gb=0, _env_file=None)  # type: ignore[call-arg]
    engine = migration.migrate(settings)
    yield Made(settings, engine)
    engine.dispose()


def maybe(strategy: Any) -> Any:
    return st.none() | strategy


tenths = st.integers(0, 10).map(lambda n: n / 10)
any_filter = st.builds(
    LibraryFilter,
    collection=maybe(st.sampled_from([1, 2, 4])),
    tags=st.sampled_from([(), (), ("sea",), ("sea", "sky"), ("nowhere",)]),
    scored=maybe(st.booleans()),
    label_min=maybe(st.integers(0, 10).map(float)),
    label_max=maybe(st.integers(0, 10).map(float)),
    predicted_min=maybe(tenths),
    predicted_max=maybe(tenths),
    version=st.sampled_from(["active", "active", "live", "v1.0"]),
    said=st.sampled_from(["", "", "flagged", "skipped"]),
    name=st.sampled_from(["", "", "SUN", "00%", "_", "cat-0", "%"]),
    relatives=st.sampled_from([None, None, None, 20, 21]),
    removed=st.sampled_from([False, False, False, True]),
    role=st.sampled_from(["pool", "pool", "pool", "test-run"]),
)
any_order = st.builds(Order, st.sampled_from(list(orders.SORTS)), st.booleans())


# --- a filter is one thing in three forms --------------------------------------------------------


@given(asked=any_filter)
def test_a_filter_survives_the_address_and_the_slice(asked: LibraryFilter) -> None:
    assert filters.from_dict(asked.as_dict()) == asked
    assert filters.from_pairs(parse_qsl(asked.as_query())) == asked
    assert filters.from_pairs(asked.as_pairs()) == asked


@pytest.mark.parametrize(
    "query",
    ["label_min=11", "label_max=x", "predicted_min=-1", "predicted_max=nan", "predicted_max=101",
     "said=liked", "scored=perhaps", "collection=one", "collection=-1", "relatives=1.5",
     "removed=1", "collection=99999999999999999999"],
)  # fmt: skip
def test_a_value_that_means_nothing_is_refused_in_words(query: str) -> None:
    with pytest.raises(Invalid, match=r"\w+"):
        filters.from_pairs(parse_qsl(query))


@pytest.mark.parametrize(
    "saved",
    [{"colour": "red"}, {"tags": "sea"}, {"tags": [1]}, {"scored": "yes"}, {"predicted_min": 60},
     {"label_min": True}, {"removed": 1}],
)  # fmt: skip
def test_a_saved_filter_that_means_nothing_is_refused(saved: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        filters.from_dict(saved)


def test_a_filter_of_another_projects_collection_or_a_lost_version_is_not_found(
    made: Made,
) -> None:
    with sessions.reading(made.engine) as session:
        project = made.project(session)
        for asked in ({"collection": made.homes[2]}, {"version": "v9.9"}, {"relatives": 10**6}):
            with pytest.raises(NotFound):
                scopes.filtered_ids(session, project, asked)


# --- the same images everywhere ------------------------------------------------------------------


@tries(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(asked=any_filter)
def test_a_filter_selects_exactly_what_it_says(made: Made, asked: LibraryFilter) -> None:
    with sessions.reading(made.engine) as session:
        project = made.project(session)
        if asked.version == "live" and asked.by_prediction:
            with pytest.raises(Invalid, match="live model"):
                scopes.filtered_ids(session, project, asked)
            return
        ids = session.exec(scopes.filtered_ids(session, project, asked)).all()
    assert sorted(ids) == sorted(made.meant(asked)), "each once, and no other"


@tries(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    asked=any_filter, order=any_order, gather=st.sampled_from([0, 5, 5000]),
    walk=st.sampled_from([20, 20_000]), look=st.sampled_from([5, 500]),
    n=st.sampled_from([12, 60]),
)  # fmt: skip
def test_paging_shows_every_image_once_and_in_order_by_every_way(
    made: Made, asked: LibraryFilter, order: Order, gather: int, walk: int, look: int, n: int
) -> None:
    """Whether an index is gathered or walked, and however short the walks are."""
    with pytest.MonkeyPatch.context() as patch, sessions.reading(made.engine) as session:
        patch.setattr(browsing, "GATHER", gather)
        patch.setattr(browsing, "WALK", walk)
        patch.setattr(browsing, "FIRST_LOOK", look)
        patch.setattr(browsing, "WALK_NAMES", walk)
        found = scopes.resolve(session, made.project(session), asked, made.settings)
        shown = paged(session, found, order, n)
    keys = {i: key_of(made, i, order, asked) for i in made.meant(asked)}
    expected = [i for i, key in keys.items() if key is not None]
    expected.sort(key=lambda i: (keys[i], i), reverse=order.descending)
    assert shown == expected


def paged(
    session: Session, found: scopes.ResolvedFilter, order: Order, n: int, together: bool = False
) -> list[int]:
    shown: list[int] = []
    after = ""
    while True:
        stretch = browsing.find(session, found, order, after, n, together)
        assert len(stretch.ids) <= n
        assert stretch.after != after or not after, "it goes on"
        shown += stretch.ids
        after = stretch.after
        if not after:
            return shown


def key_of(made: Made, i: int, order: Order, asked: LibraryFilter) -> Any:
    fact = made.facts[i]
    if order.by == "predicted" and asked.version == "live":
        return None if np.isnan(made.live[i]) else float(np.float32(made.live[i]))
    by_version = None if asked.version == "live" else fact["predicted"]
    if order.by == "disagreement":
        known = by_version is not None and fact["label"] is not None
        return abs(by_version - fact["label"] / 10.0) if known else None
    return {"added": i, "predicted": by_version, "label": fact["label"], "name": fact["name"]}[
        order.by
    ]


@tries(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(asked=any_filter, order=any_order, gather=st.sampled_from([0, 5000]))
def test_of_near_duplicates_that_agree_the_first_stands_for_all(
    made: Made, asked: LibraryFilter, order: Order, gather: int
) -> None:
    if asked.version == "live" and asked.by_prediction:
        return
    with pytest.MonkeyPatch.context() as patch, sessions.reading(made.engine) as session:
        patch.setattr(browsing, "GATHER", gather)
        found = scopes.resolve(session, made.project(session), asked, made.settings)
        shown = paged(session, found, order, 25, together=True)
    first: dict[str, int] = {}
    for i in sorted(made.meant(asked)):
        first.setdefault(made.facts[i]["group"], i)
    listed = {i for i in first.values() if key_of(made, i, order, asked) is not None}
    assert set(shown) == listed
    assert len(shown) == len(set(shown))


@tries(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(asked=any_filter, gather=st.sampled_from([0, 5000]))
def test_a_count_that_claims_to_be_exact_is(made: Made, asked: LibraryFilter, gather: int) -> None:
    with pytest.MonkeyPatch.context() as patch, sessions.reading(made.engine) as session:
        patch.setattr(browsing, "GATHER", gather)
        project = made.project(session)
        found = scopes.resolve(session, project, asked, made.settings)
        counted = counting.count(session, project, found)
    if counted is None:
        assert asked.removed and asked.by_prediction
    else:
        assert counted == counting.Count(len(made.meant(asked)))


def test_images_that_arrive_meanwhile_move_nothing(settings: Settings, engine: Engine) -> None:
    made = Made(settings, engine)
    with sessions.reading(engine) as session:
        found = scopes.resolve(session, made.project(session), LibraryFilter(), settings)
        first = browsing.find(session, found, Order(), n=10)
        rest = browsing.find(session, found, Order(), first.after, 10)
    with sessions.writing(engine) as session:
        for i in range(5):
            session.add(
                Image(
                    id=10**6 + i, sha256=f"{i:064d}", kind="file", name="new", source_group=f"n{i}"
                )
            )
        session.flush()
        new = session.exec(select(Image.id).where(Image.name == "new")).all()
        bulk.put_in(session, made.homes[0], list(new))
    with sessions.reading(engine) as session:
        again = browsing.find(session, found, Order(), first.after, 10)
        assert again == rest
        assert browsing.find(session, found, Order(), n=5).ids == sorted(new, reverse=True)


@pytest.mark.parametrize("after", ["x", "1~", "nan~3", "inf~3", "0.5~-1", "~", "1e999~2", "0.5"])
def test_a_place_that_is_none_is_refused(made: Made, after: str) -> None:
    with sessions.reading(made.engine) as session, pytest.raises(Invalid):
        found = scopes.resolve(session, made.project(session), LibraryFilter(), made.settings)
        browsing.find(session, found, Order("predicted"), after)


def test_the_answers_of_a_search_keep_their_order_and_the_filter_holds(made: Made) -> None:
    answers = [int(i) for i in np.random.default_rng(3).permutation(COUNT) + 1]
    asked = LibraryFilter(tags=("sea",))
    with sessions.reading(made.engine) as session:
        found = scopes.resolve(session, made.project(session), asked, made.settings)
        shown, after = [], ""
        while True:
            stretch = browsing.among(session, found, answers, after, 6)
            shown += stretch.ids
            after = stretch.after
            if not after:
                break
    assert shown == [i for i in answers if i in made.meant(asked)]


# --- no page reads the whole table ---------------------------------------------------------------


@pytest.mark.sqlite
@pytest.mark.parametrize("by", ["added", "predicted", "label", "name"])
@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize(
    "asked",
    [LibraryFilter(), LibraryFilter(tags=("sea",)), LibraryFilter(scored=False),
     LibraryFilter(predicted_min=0.4), LibraryFilter(label_min=3, label_max=6),
     LibraryFilter(said="flagged"), LibraryFilter(collection=1)],
    ids=str,
)  # fmt: skip
def test_a_walk_follows_one_index_and_sorts_nothing(
    made: Made, by: str, descending: bool, asked: LibraryFilter
) -> None:
    order = Order(by, descending)
    cursor = ("m" if by == "name" else 0.5, 40)
    with sessions.reading(made.engine) as session:
        found = scopes.resolve(session, made.project(session), asked, made.settings)
        statement = browsing.walked(found, order, cursor, None, 61, together=True)
        plan = plan_of(session, statement)
        end = plan_of(session, browsing.walk_end(found, order, cursor, 20_000))
    for step in [*plan, *end]:
        assert "TEMP B-TREE" not in step, plan
        assert not step.startswith("SCAN") or "CONSTANT ROW" in step or "SUBQUERY" in step, plan
        assert "AUTOMATIC" not in step, plan
    looked_up = [step for step in plan if "prediction" in step and by != "predicted"]
    assert not any("ix_prediction_honest" in step for step in looked_up), plan


@pytest.mark.sqlite
@pytest.mark.parametrize("by", [*orders.SORTS])
@pytest.mark.parametrize("source", range(3))
def test_gathering_begins_at_the_narrow_index_and_looks_the_rest_up(
    made: Made, by: str, source: int
) -> None:
    asked = LibraryFilter(tags=("sea",), label_min=3, predicted_min=0.4)
    with sessions.reading(made.engine) as session:
        found = scopes.resolve(session, made.project(session), asked, made.settings)
        narrow = scopes.sources(found)[source]
        plan = plan_of(session, browsing.gathered(found, Order(by), narrow, together=True))
    scans = [step for step in plan if step.startswith("SCAN")]
    assert len(scans) <= 1, plan
    assert all("anon" in step or "SUBQUERY" in step for step in scans), plan


def plan_of(session: Session, statement: Any) -> list[str]:
    text = str(statement.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}))
    rows = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {text}")
    return [row[3] for row in rows]


def test_other_names_are_looked_up_only_where_one_matches(
    settings: Settings, engine: Engine
) -> None:
    """Asking for each of a million images whether one of its other names does takes 0.1 s."""
    made = Made(settings, engine)
    (known,) = made.meant(LibraryFilter(name="cat-001"))
    with sessions.writing(engine) as session:
        session.add(ImageName(image_id=known, name="Holiday-7.JPG"))
    for text, asks in (("holiday-7.j", True), ("CAT-001", False)):
        wanted = LibraryFilter(name=text)
        with sessions.reading(engine) as session:
            project = made.project(session)
            assert session.exec(scopes.filtered_ids(session, project, wanted)).all() == [known]
            found = scopes.resolve(session, project, wanted)
            assert ("image_name" in str(scopes.name_like(found, Image))) == asks


# --- taken out of a project ----------------------------------------------------------------------


def test_what_is_taken_out_is_in_no_list_and_its_label_comes_back_with_it(
    settings: Settings, engine: Engine
) -> None:
    made = Made(settings, engine)
    with sessions.writing(engine) as session:
        project = made.project(session)
        ids = sorted(made.meant(LibraryFilter(scored=True)))[:5]
        before = (projects.size(session, project), projects.pool_size(session, project))
        unlabelled = projects.pool_size(session, project, unlabelled=True)
        labels = session.exec(select(Label.value).where(col(Label.image_id).in_(ids))).all()
        assert bulk.remove(session, project, ids) == 5
        assert bulk.remove(session, project, ids) == 0, "a second time there is nothing to do"
        listed = set(session.exec(projects.image_ids(project.id)))
        assert not listed & set(ids)
        assert projects.size(session, project) == before[0] - 5
        assert projects.pool_size(session, project) == before[1] - 5
        assert projects.pool_size(session, project, unlabelled=True) == unlabelled
        shown = session.exec(scopes.filtered_ids(session, project, {"removed": True})).all()
        assert set(ids) <= set(shown)
        assert bulk.restore(session, project, ids) == 5
        assert projects.size(session, project) == before[0]
        again = session.exec(select(Label.value).where(col(Label.image_id).in_(ids))).all()
        assert again == labels


def test_another_project_keeps_what_this_one_took_out(settings: Settings, engine: Engine) -> None:
    made = Made(settings, engine)
    with sessions.writing(engine) as session:
        other = projects.by_name(session, "Other")
        home = session.get(Collection, made.homes[0])
        assert home is not None
        projects.add_collection(session, other, home)
        before = projects.size(session, other)
        bulk.remove(session, made.project(session), sorted(made.meant(LibraryFilter()))[:9])
        assert projects.size(session, other) == before


# --- tags and collections ------------------------------------------------------------------------


def test_tags_are_given_and_taken_once_and_counted_in_the_project(
    settings: Settings, engine: Engine
) -> None:
    made = Made(settings, engine)
    with sessions.writing(engine) as session:
        project = made.project(session)
        ids = sorted(made.meant(LibraryFilter()))[:20]
        names = tags.parse(" river ,river,  old   town,")
        assert names == ["river", "old town"]
        assert tags.add(session, ids, names) == 40
        assert tags.add(session, ids, names) == 0
        assert tags.remove(session, ids[:5], ["river"]) == 5
        known = {tag.tag: tag.images for tag in tags.most_common(session, project)}
        sea = len(made.meant(LibraryFilter(tags=("sea",))))
        assert known == known | {"river": 15, "old town": 20, "sea": sea}
        assert tags.starting_with(session, "s") == ["sea", "sky"]
        assert tags.starting_with(session, "zz") == []


@pytest.mark.parametrize("text", ["", " , ,", "a\x00b", "x" * 101])
def test_what_is_no_tag_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        tags.parse(text)


def test_in_a_large_project_tags_are_estimated_from_a_sample(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tags, "SAMPLE", 40)
    counts._counts.clear()
    with sessions.reading(made.engine) as session:
        project = made.project(session)
        known = {tag.tag: tag for tag in tags.most_common(session, project)}
        sample = projects.sample(session, project, 40)
        assert len(set(sample)) == 40
        assert set(sample) <= made.meant(LibraryFilter())
        exact = len(made.meant(LibraryFilter(tags=("sea",))))
    assert known["sea"].estimated
    assert exact / 2 < known["sea"].images < exact * 2


def test_folders_below_the_imported_one_are_tags_but_not_those_that_score() -> None:
    assert folder_tags("a.jpg") == []
    assert folder_tags("cats/black/a.jpg") == ["cats", "black"]
    assert folder_tags("cats/07_nice/a.jpg", scored=True) == ["cats"]
    assert folder_tags("2024/a.jpg") == ["2024"]


def test_images_move_between_collections_and_none_is_lost(
    settings: Settings, engine: Engine
) -> None:
    made = Made(settings, engine)
    with sessions.writing(engine) as session:
        project = made.project(session)
        ids = sorted(made.meant(LibraryFilter(collection=made.homes[0])))[:10]
        new = bulk.collection_for(session, project, " Best  of ")
        assert new.name == "Best of"
        assert bulk.move(session, made.homes[0], new.id, ids) == 10
        assert bulk.move(session, made.homes[0], new.id, ids) == 0
        inside = session.exec(scopes.filtered_ids(session, project, {"collection": new.id})).all()
        assert sorted(inside) == ids
        assert projects.size(session, project) == len(made.meant(LibraryFilter()))
        with pytest.raises(Invalid):
            bulk.move(session, new.id, new.id, ids)
        with pytest.raises(Invalid, match="does not use"):
            bulk.collection_for(session, project, "Elsewhere")


def test_a_bulk_score_is_taken_back_as_one_and_asks_only_for_the_projects_images(
    settings: Settings, engine: Engine
) -> None:
    made = Made(settings, engine)
    outside = sorted(
        set(made.facts)
        - made.meant(LibraryFilter())
        - made.meant(LibraryFilter(removed=True))
        - made.meant(LibraryFilter(role="test-run"))
    )
    with sessions.writing(engine) as session:
        project = made.project(session)
        me = session.get(Annotator, made.me)
        assert me is not None
        before = labels(session)
        ids = bulk.selected_images(
            session, project, [*sorted(made.meant(LibraryFilter()))[:30], outside[0]]
        )
        assert outside[0] not in ids
        for part in bulk.parts(ids, 10):
            bulk.score(session, project, me, part, 10, "group")
        assert all(labels(session)[i] == 10 for i in ids)
        scores.undo(session, project, me)
        assert labels(session) == before


def labels(session: Session) -> dict[int, float]:
    return dict(session.execute(select(Label.image_id, Label.value)).tuples().all())


def test_too_many_at_once_are_refused_before_anything_is_done(made: Made) -> None:
    with sessions.reading(made.engine) as session:
        project = made.project(session)
        with pytest.raises(Invalid, match="match"):
            bulk.matching_images(session, project, LibraryFilter(), most=5)
        with pytest.raises(Invalid, match="selected"):
            bulk.selected_images(session, project, [])


# --- saved filters -------------------------------------------------------------------------------


def test_a_filter_is_saved_under_a_name_and_replaced_under_the_same(
    settings: Settings, engine: Engine
) -> None:
    made = Made(settings, engine)
    with sessions.writing(engine) as session:
        project = made.project(session)
        saved_filters.save(session, project, " At  sea ", LibraryFilter(tags=("sea",)))
        row = saved_filters.save(
            session, project, "At sea", LibraryFilter(tags=("sea",), scored=True)
        )
        assert row.definition == {"filter": {"tags": ["sea"], "scored": True}}
        assert [(r.name, f) for r, f in saved_filters.list_saved(session, project)] == [
            ("At sea", LibraryFilter(tags=("sea",), scored=True))
        ]
        for name, asked in (("", LibraryFilter(scored=True)), ("all", LibraryFilter())):
            with pytest.raises(Invalid):
                saved_filters.save(session, project, name, asked)
        with pytest.raises(Invalid, match="live model"):
            saved_filters.save(
                session, project, "x", LibraryFilter(version="live", predicted_min=0.5)
            )
        session.add(Expectation(project_id=project.id, slice_id=row.id, value=0.1))
        session.flush()
        with pytest.raises(Conflict):
            saved_filters.delete(session, project, row.id)
        with pytest.raises(NotFound):
            saved_filters.delete(session, projects.by_name(session, "Other"), row.id)


# --- counts --------------------------------------------------------------------------------------


def test_small_counts_are_of_this_moment_and_large_ones_may_be_older(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    counts_of = TLRUCache(10, counts._expires, timer=lambda: clock[0])
    monkeypatch.setattr(counts, "_counts", counts_of)
    results = iter([1, 2, 100, 101, 102])

    def count() -> int:
        return counts.cached_count("key", lambda: next(results), lambda n: n >= 100)

    assert [count(), count(), count(), count()] == [1, 2, 100, 100]
    clock[0] = counts.LEAST_SECONDS - 0.1
    assert count() == 100
    clock[0] = counts.LEAST_SECONDS + 0.1
    assert count() == 101


def test_a_count_is_kept_the_longer_the_longer_it_took() -> None:
    brief, long = counts._Count(1, 0.01), counts._Count(1, 2.0)
    assert counts._expires("key", brief, 5.0) == 5 + counts.LEAST_SECONDS
    assert counts._expires("key", long, 5.0) == 5 + 2 * counts.PATIENCE


def test_a_projects_size_counts_an_image_in_two_collections_once(
    settings: Settings, engine: Engine
) -> None:
    made = Made(settings, engine)
    with sessions.writing(engine) as session:
        project = made.project(session)
        assert projects.size(session, project) == len(made.meant(LibraryFilter()))
        empty = projects.create(session, "Empty")
        assert projects.size(session, empty) == 0


def test_the_many_images_of_a_test_go_in_and_out(tmp_path: Path) -> None:
    """The insert statements of `bulk` and `tags` ignore what is there already."""
    settings = Settings(home=tmp_path, min_free_gb=0, _env_file=None)  # type: ignore[call-arg]
    engine = migration.migrate(settings)
    with sessions.writing(engine) as session:
        session.execute(
            insert(Image),
            [
                {
                    "sha256": f"{i:064d}",
                    "kind": "file",
                    "name": "n",
                    "bytes": 0,
                    "source_group": str(i),
                }
                for i in range(1200)
            ],
        )
        home = images.collection_named(session, "A")
        ids = list(session.exec(select(Image.id)))
        assert bulk.put_in(session, home.id, ids) == 1200
        assert bulk.put_in(session, home.id, ids) == 0
        assert [len(part) for part in bulk.parts(ids)] == [500, 500, 200]
    engine.dispose()
