"""Several people, each in two tabs, say and take back things in any order, some of them again, or
late, or after they may no longer: whatever happens, every score is stored once, on its image.

Hypothesis makes up the stories. A request is written when a tab decides on it, with what the tab
knew at that moment, and sent whenever the story says so, as a browser's outbox does.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlmodel import col, select

from tastemaker import projects
from tastemaker.auth import accounts
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Annotator, Collection, Comparison, Label, ScoreEvent
from tastemaker.scores import offers
from tastemaker.scores.origin import Origin
from tests.web_world import World, client_of, make_world

STORIES = int(os.environ.get("STORIES", "14"))
STEPS = int(os.environ.get("STORY_STEPS", "22"))

SECRET = "a horse and a battery"
PEOPLE = ("Ada", "Bob", "Carla")
IMAGES = 4

people = st.sampled_from(PEOPLE)
tabs = st.sampled_from((0, 1))
images = st.integers(1, IMAGES)
when = st.sampled_from(("now", "now", "twice", "later"))
values = st.one_of(st.integers(0, 10), st.sampled_from(("skip", "flag")))


@dataclass
class Said:
    """An event as the model has it; `undoes` names the event that it takes back."""

    event: int
    person: str
    image: int
    kind: str
    value: int | None
    origin: str
    group: str | None = None
    undoes: int | None = None


@dataclass(frozen=True)
class Request:
    """What a tab decided to send."""

    person: str
    tab: int
    path: str
    body: dict[str, Any]


@dataclass
class Model:
    """What must be in the database, in a list and three dicts."""

    events: list[Said] = field(default_factory=list)
    by_key: dict[str, Said] = field(default_factory=dict)
    pairs: dict[int, tuple[str, int, int, str, int | None]] = field(default_factory=dict)
    pair_keys: dict[str, int] = field(default_factory=dict)

    def standing(self, person: str | None = None, image: int | None = None) -> list[Said]:
        undone = {one.undoes for one in self.events if one.undoes is not None}
        return [
            one
            for one in self.events
            if one.undoes is None
            and one.event not in undone
            and person in (None, one.person)
            and image in (None, one.image)
        ]

    def newest(self, person: str, image: int) -> int:
        there = self.standing(person, image)
        return there[-1].event if there else 0

    def labels(self) -> dict[int, float]:
        scores: dict[int, dict[str, int]] = {}
        for one in self.standing():
            if one.kind == "set":
                scores.setdefault(one.image, {})[one.person] = one.value
        return {image: float(median(said.values())) for image, said in scores.items()}

    def standing_pairs(self, person: str) -> list[int]:
        undone = {pair[4] for pair in self.pairs.values()}
        return [
            number
            for number, pair in self.pairs.items()
            if pair[0] == person and pair[4] is None and number not in undone
        ]


class ManyHands(RuleBasedStateMachine):
    """One story, in a project of its own."""

    world: World
    clients: dict[tuple[str, int], TestClient]
    numbers: dict[str, int]
    story = 0
    requests: Bundle[Request] = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.model, self.keys = Model(), 0
        self.known: dict[tuple[str, int, int], int] = {}  # what a tab saw on an image last
        self.barred: set[str] = set()
        type(self).story += 1
        with writing(self.world.engine) as session:
            project = projects.create(session, f"Story {self.story}", holdout_share=0.0)
            collection = session.exec(select(Collection)).one()
            projects.add_collection(session, project, collection)
            self.project_id = project.id

    def teardown(self) -> None:
        for name in self.barred:
            self.set_role(name, "annotator")

    def new_key(self) -> str:
        self.keys += 1
        return f"story-{self.story}-key-{self.keys}"

    def send(self, request: Request) -> httpx.Response:
        address = f"/api/v1/projects/{self.project_id}/{request.path}"
        return self.clients[request.person, request.tab].post(address, json=request.body)

    # --- what a tab decides on ------------------------------------------------------------------

    @rule(
        target=requests, person=people, tab=tabs, image=images, value=values,
        knows=st.booleans(), offered_to=st.none() | people, offered=images, when=when,
    )  # fmt: skip
    def score(
        self, person: str, tab: int, image: int, value: int | str, knows: bool,
        offered_to: str | None, offered: int, when: str,
    ) -> Request:  # fmt: skip
        """Perhaps with an offer, which may be somebody else's or another image's."""
        what = {"kind": value} if isinstance(value, str) else {"value": value}
        body = {"image_id": image, "key": self.new_key()} | what
        if knows:
            body["expected"] = self.known.get((person, tab, image), 0)
        if offered_to is not None:
            body["offer"] = self.offer(offered_to, offered)
        return self.decided(Request(person, tab, "scores", body), when)

    def offer(self, person: str, image: int) -> str:
        with reading(self.world.engine) as session:
            card = offers.Offer(Origin.CONTROL, "a random sample")
            return offers.sign(session, self.project_id, image, self.numbers[person], card)

    @rule(
        target=requests, person=people, tab=tabs, value=st.none() | st.integers(0, 10),
        sweep=st.none() | st.sampled_from(("at_least", "below")),
        chosen=st.lists(images, min_size=1, max_size=3, unique=True), knows=st.booleans(),
        when=when,
    )  # fmt: skip
    def batch(
        self, person: str, tab: int, chosen: list[int], value: int | None, sweep: str | None,
        knows: bool, when: str,
    ) -> Request:  # fmt: skip
        """A score, a skip, or, with a bound, a sweep of several images."""
        expected = {n: self.known.get((person, tab, n), 0) if knows else None for n in chosen}
        listed = [{"image_id": n, "expected": expected[n]} for n in chosen]
        body = {"images": listed, "value": value, "key": self.new_key()}
        if value and sweep:
            body["sweep"] = sweep
        return self.decided(Request(person, tab, "batches", body), when)

    @rule(
        target=requests, person=people, tab=tabs, first=images, second=images,
        verdict=st.sampled_from(("first", "second", "equal")), when=when,
    )  # fmt: skip
    def pair(
        self, person: str, tab: int, first: int, second: int, verdict: str, when: str
    ) -> Request:
        ids = {"first_id": first, "second_id": second}
        body = ids | {"verdict": verdict, "key": self.new_key()}
        return self.decided(Request(person, tab, "comparisons", body), when)

    @rule(target=requests, person=people, tab=tabs, named=st.none() | st.integers(0, 30), when=when)
    def undo(self, person: str, tab: int, named: int | None, when: str) -> Request:
        """The newest, or one of the last events of anybody by its number."""
        body: dict[str, Any] = {"key": self.new_key()}
        if named is not None and self.model.events:
            body["event_id"] = self.model.events[-1 - named % len(self.model.events)].event
        return self.decided(Request(person, tab, "undo", body), when)

    def decided(self, request: Request, when: str) -> Request:
        """Mostly it is sent at once, and may be sent again at any time."""
        for _ in range({"now": 1, "twice": 2, "later": 0}[when]):
            self.deliver_by(request)
        return request

    # --- what arrives ---------------------------------------------------------------------------

    @rule(request=requests, other_tab=st.booleans())
    def deliver(self, request: Request, other_tab: bool) -> None:
        """Now, late, or once more; perhaps by the person's other tab, which shares the outbox."""
        tab = 1 - request.tab if other_tab else request.tab
        self.deliver_by(Request(request.person, tab, request.path, request.body))

    def deliver_by(self, request: Request) -> None:
        answer = self.send(request)
        if request.person in self.barred:
            assert answer.status_code == 403, answer.text
            return
        arrive = {
            "scores": self.scored, "batches": self.batched, "comparisons": self.compared,
            "undo": self.undone,
        }  # fmt: skip
        arrive[request.path](request, answer)

    @rule(request=requests, thief=people)
    def steal(self, request: Request, thief: str) -> None:
        """Somebody else sends what was decided on, under its key: it is theirs, or refused."""
        body = request.body
        used = body["key"] in self.model.by_key or body["key"] in self.model.pair_keys
        if thief == request.person or not used or request.path == "batches":
            return
        answer = self.send(Request(thief, 0, request.path, body))
        assert answer.status_code == (403 if thief in self.barred else 409), answer.text

    @rule(person=people, tab=tabs)
    def take_back_a_pair(self, person: str, tab: int) -> None:
        answer = self.send(Request(person, tab, "comparisons/undo", {}))
        standing = self.model.standing_pairs(person)
        if person in self.barred:
            assert answer.status_code == 403
        elif not standing:
            assert answer.status_code == 404
        else:
            assert answer.json()["undoes"] == standing[-1]
            _, first, second, _, _ = self.model.pairs[standing[-1]]
            with reading(self.world.engine) as session:
                newest = session.exec(select(Comparison.id).order_by(col(Comparison.id))).all()[-1]
            self.model.pairs[newest] = (person, first, second, "undo", standing[-1])

    @rule(person=people)
    def lose_the_role(self, person: str) -> None:
        self.set_role(person, "viewer")
        self.barred.add(person)

    @precondition(lambda self: self.barred)
    @rule()
    def get_the_roles_back(self) -> None:
        for name in self.barred:
            self.set_role(name, "annotator")
        self.barred.clear()

    def set_role(self, name: str, role: str) -> None:
        with writing(self.world.engine) as session:
            accounts.set_role(session, accounts.by_name(session, name), role)

    # --- what it must have done -----------------------------------------------------------------

    def scored(self, request: Request, answer: httpx.Response) -> None:
        body, person, image = request.body, request.person, request.body["image_id"]
        kind, value = body.get("kind", "set"), body.get("value")
        origin = "api"
        if "offer" in body and body["offer"] == self.offer(person, image):
            origin = "control"
        event = self.append(
            person, image, kind, value, body["key"], body.get("expected"), origin, None
        )
        if event is None:
            assert answer.status_code == 409 and answer.json()["code"] == "stale", answer.text
            assert answer.json()["newest"] == self.model.newest(person, image)
            return
        assert answer.status_code == 200, answer.text
        told = answer.json()
        if event.event == 0:
            event.event = told["event_id"]
        assert told["event_id"] == event.event
        assert (told["image_id"], told["key"]) == (image, body["key"])
        self.known[person, request.tab, image] = self.model.newest(person, image)

    def batched(self, request: Request, answer: httpx.Response) -> None:
        assert answer.status_code == 200, answer.text
        body, person, told = request.body, request.person, answer.json()
        kind = body.get("sweep") or ("skip" if body["value"] is None else "set")
        saved, stale = {}, []
        for one in body["images"]:
            image = one["image_id"]
            event = self.append(
                person, image, kind, body["value"], f"{body['key']}:{image}", one["expected"],
                "api", f"batch:{body['key']}",
            )  # fmt: skip
            if event is None:
                stale.append(image)
                continue
            event.event = event.event or told["events"][str(image)]
            saved[str(image)] = event.event
            self.known[person, request.tab, image] = self.model.newest(person, image)
        assert (told["events"], told["stale"]) == (saved, stale)

    def append(
        self, person: str, image: int, kind: str, value: int | None, key: str,
        expected: int | None, origin: str, group: str | None,
    ) -> Said | None:  # fmt: skip
        """The event of this key, a new one with the number 0; None where another tab was faster."""
        if (before := self.model.by_key.get(key)) is not None:
            return before
        if expected is not None and expected != self.model.newest(person, image):
            return None
        event = Said(0, person, image, kind, value, origin, group)
        self.model.events.append(event)
        self.model.by_key[key] = event
        return event

    def compared(self, request: Request, answer: httpx.Response) -> None:
        body = request.body
        first, second = body["first_id"], body["second_id"]
        if first == second:
            assert answer.status_code == 422
            return
        assert answer.status_code == 200, answer.text
        number = answer.json()["comparison_id"]
        assert self.model.pair_keys.setdefault(body["key"], number) == number
        what = (request.person, first, second, body["verdict"], None)
        assert self.model.pairs.setdefault(number, what) == what

    def undone(self, request: Request, answer: httpx.Response) -> None:
        body, person = request.body, request.person
        if (before := self.model.by_key.get(body["key"])) is not None:
            assert (answer.status_code, answer.json()["event_id"]) == (200, before.event)
            return
        standing, named = self.model.standing(person), body.get("event_id")
        whose = next((one.person for one in self.model.events if one.event == named), person)
        if whose != person:
            assert answer.status_code == 403, answer.text
        elif not standing:
            assert answer.status_code == 404, answer.text
        elif named not in (None, standing[-1].event):
            assert answer.status_code == 409, answer.text
        else:
            assert answer.status_code == 200, answer.text
            newest = standing[-1]
            group = [newest] if newest.group is None else [
                one for one in standing if one.group == newest.group
            ]  # fmt: skip
            assert answer.json()["undoes"] == newest.event
            number = answer.json()["event_id"] - group.index(newest)
            for place, one in enumerate(group):
                inverse = Said(
                    number + place, person, one.image, "undo", None, one.origin, None, one.event
                )
                self.model.events.append(inverse)
                if one is newest:
                    self.model.by_key[body["key"]] = inverse
                self.known[person, request.tab, one.image] = self.model.newest(person, one.image)

    @invariant()
    def everything_is_stored_once_on_its_image(self) -> None:
        names = {number: name for name, number in self.numbers.items()}
        with reading(self.world.engine) as session:
            rows = session.exec(
                select(ScoreEvent)
                .where(ScoreEvent.project_id == self.project_id)
                .order_by(col(ScoreEvent.id))
            ).all()
            labels = session.exec(select(Label).where(Label.project_id == self.project_id)).all()
            pairs = session.exec(
                select(Comparison).where(Comparison.project_id == self.project_id)
            ).all()
        assert [
            Said(
                row.id, names[row.annotator_id], row.image_id, row.kind, row.value, row.origin,
                row.event_group, row.undoes,
            )
            for row in rows
        ] == sorted(self.model.events, key=lambda one: one.event)  # fmt: skip
        assert {row.image_id: row.value for row in labels} == self.model.labels()
        assert {
            row.id: (names[row.annotator_id], row.first_id, row.second_id, row.verdict, row.undoes)
            for row in pairs
        } == self.model.pairs


@pytest.fixture(scope="module")
def hands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[type[ManyHands]]:
    home: Path = tmp_path_factory.mktemp("hands")
    world = make_world(home, images=IMAGES, admin_password="the server's own secret")
    with writing(world.engine) as session:
        for name in PEOPLE:
            accounts.add(session, name, SECRET)
    clients = {}
    for name in PEOPLE:
        for tab in (0, 1):
            clients[name, tab] = client_of(world.app)
            assert (
                clients[name, tab]
                .post("/login", data={"name": name, "password": SECRET})
                .is_redirect
            )
    with reading(world.engine) as session:
        numbers = {row.name: row.id for row in session.exec(select(Annotator))}
    ManyHands.world, ManyHands.clients, ManyHands.numbers = world, clients, numbers
    yield ManyHands
    world.engine.dispose()


def run(machine: type[ManyHands], stories: int, steps: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=stories, stateful_step_count=steps, deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


def test_whatever_several_people_do_every_score_is_stored_once_on_its_image(
    hands: type[ManyHands],
) -> None:
    run(hands, STORIES, STEPS)


@pytest.mark.soak
def test_whatever_several_people_do_for_long(hands: type[ManyHands]) -> None:
    run(hands, 10 * STORIES, 3 * STEPS)
