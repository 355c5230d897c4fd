"""Several people: accounts, what each may do, one label from many scores, and how they agree."""

import html
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urljoin

import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from routes import every_route
from sqlalchemy import Engine
from sqlmodel import Session, select
from typer.testing import CliRunner, Result
from web_world import World, client_of, full_world, make_world, open_world

from tastemaker import projects, scores
from tastemaker.auth import accounts, identity, permissions, tokens
from tastemaker.cli import commands, server
from tastemaker.config import Settings
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import (
    Annotator,
    Collection,
    Label,
    Project,
    RemovedImage,
    ScoreEvent,
    Tag,
)
from tastemaker.errors import Conflict, Invalid, NotFound, NotSignedIn, TastemakerError
from tastemaker.scores import people
from tests.conftest import add_images

SECRET = "a horse and a battery"


@pytest.fixture
def session(engine: Engine) -> Session:
    with writing(engine) as session:
        yield session


@pytest.fixture
def project(session: Session) -> Project:
    return projects.create(session, "P", holdout_share=0.0)


# --- accounts ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_password_is_hashed_as_slowly_as_the_library_advises() -> None:
    """The tests hash quickly; the program does not."""
    program = "from tastemaker.auth import accounts; print(accounts.hash_password('a b c d e f'))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout.startswith("$argon2id$v=19$m=65536,t=3,p=4$"), ran.stderr


def test_a_password_is_kept_as_an_argon2_hash_and_only_the_right_one_fits(session: Session) -> None:
    ada = accounts.add(session, "  Ada   L ", SECRET)
    assert ada.name == "Ada L" and ada.role == "annotator"
    assert ada.password_hash.startswith("$argon2id$") and SECRET not in ada.password_hash
    assert accounts.check_password(session, "Ada L", SECRET) is ada
    for name, password in (("Ada L", SECRET + "!"), ("Ada L", ""), ("Bob", SECRET), ("", "")):
        assert accounts.check_password(session, name, password) is None


def test_who_has_no_password_or_is_shut_out_cannot_sign_in(session: Session) -> None:
    accounts.add(session, "Quiet")
    assert accounts.check_password(session, "Quiet", "") is None
    ada = accounts.add(session, "Ada", SECRET)
    accounts.disable(session, ada)
    assert accounts.check_password(session, "Ada", SECRET) is None
    accounts.disable(session, ada, False)
    assert accounts.check_password(session, "Ada", SECRET) is ada


def test_who_scored_without_a_password_can_be_given_one_and_nobody_elses_is_replaced(
    session: Session,
) -> None:
    me = projects.annotator(session, "me")
    assert accounts.add(session, "me", SECRET).id == me.id
    with pytest.raises(Conflict):
        accounts.add(session, "me", "another password")
    proxy = projects.annotator(session, "imported", proxy=True)
    with pytest.raises(Conflict):
        accounts.add(session, "imported", SECRET)
    with pytest.raises(NotFound):
        accounts.by_name(session, proxy.name)


@pytest.mark.parametrize("name", ["", "  ", "x" * 81, "a:b", "Admin", "a\x00b"])
def test_a_name_that_will_not_do_is_refused(session: Session, name: str) -> None:
    with pytest.raises(Invalid):
        accounts.add(session, name, SECRET)


def test_a_short_password_and_an_unknown_role_are_refused(session: Session) -> None:
    with pytest.raises(Invalid):
        accounts.add(session, "Ada", "short")
    with pytest.raises(Invalid):
        accounts.add(session, "Ada", SECRET, "king")


@pytest.mark.parametrize("password", ["x", " ", "        ", "aaaaaaaaaaaa", "seven77"])
def test_a_password_that_anybody_would_guess_is_refused(
    session: Session, settings: Settings, password: str
) -> None:
    with pytest.raises(Invalid):
        accounts.add(session, "Ada", password)
    settings.admin_password = password
    with pytest.raises(TastemakerError, match="TASTEMAKER_ADMIN_PASSWORD"):
        server.serve(settings, "0.0.0.0", 0, with_worker=False)


def test_the_command_line_adds_lists_and_shuts_out(tmp_path: Path) -> None:
    def run(*words: str, typed: str = "") -> Result:
        home = {"TASTEMAKER_HOME": str(tmp_path)}
        return CliRunner().invoke(commands.app, ["user", *words], input=typed, env=home)

    def listed() -> dict[str, Any]:
        result = run("list", "--json")
        assert SECRET not in result.stdout
        return {person["name"]: person for person in json.loads(result.stdout)}

    assert run("add", "Ada", "--password-stdin", typed=SECRET + "\n").exit_code == 0
    short = run("add", "Bob", "--password-stdin", typed="x\n")
    assert "at least" in str(short.exception)
    assert run("add", "Cat", "--no-password").exit_code == 0
    run("disable", "Cat")
    assert listed()["Ada"]["signs_in"] and not listed()["Cat"]["signs_in"]
    assert listed()["Cat"]["disabled"]
    run("disable", "Cat", "--undo")
    assert not listed()["Cat"]["disabled"]
    assert isinstance(run("disable", "Nobody").exception, NotFound)


# --- signing in, and what an annotator may do -----------------------------------------------------


@pytest.fixture
def guarded(tmp_path: Path) -> World:
    world = make_world(tmp_path, images=3, admin_password="the server's own")
    with writing(world.engine) as session:
        accounts.add(session, "Ada", SECRET)
        accounts.add(session, "Bob", SECRET)
    return world


def signed_in(world: World, name: str, password: str = SECRET):
    client = client_of(world.app)
    answer = client.post("/login", data={"name": name, "password": password})
    assert answer.status_code == 303, answer.text
    return client


def with_token(world: World, name: str, scope: str, days: int = 90):
    """A program, which has a token and nothing else."""
    with writing(world.engine) as session:
        user = identity.person(accounts.by_name(session, name))
        token, _ = tokens.create(session, world.settings, user, "a program", scope, days)
    return program(world, token)


def program(world: World, token: str, **kwargs: Any):
    client = client_of(world.app, **kwargs)
    client.headers.pop("Origin")
    client.headers["Authorization"] = f"Bearer {token}"
    return client


def test_everybody_scores_under_their_own_name(guarded: World) -> None:
    ada, bob = signed_in(guarded, "Ada"), signed_in(guarded, "Bob")
    admin = signed_in(guarded, "", "the server's own")
    for client, value in ((ada, 3), (bob, 9), (admin, 5)):
        answer = client.post(f"/api/v1{guarded.at}/scores", json={"image_id": 1, "value": value})
        assert answer.status_code == 200, answer.text
    with reading(guarded.engine) as session:
        label = session.exec(select(Label)).one()
        assert (label.value, label.annotators) == (5.0, 3)
    assert [s["value"] for s in ada.get(f"/api/v1{guarded.at}/scores").json()] == [3]
    undone = bob.post(f"/api/v1{guarded.at}/undo", json={})
    assert undone.status_code == 200
    assert [s["value"] for s in ada.get(f"/api/v1{guarded.at}/scores").json()] == [3]


def test_nobody_takes_back_what_somebody_else_said(guarded: World) -> None:
    ada, bob = signed_in(guarded, "Ada"), signed_in(guarded, "Bob")
    event = ada.post(f"/api/v1{guarded.at}/scores", json={"image_id": 1, "value": 3}).json()
    taken = bob.post(f"/api/v1{guarded.at}/undo", json={"event_id": event["event_id"]})
    assert taken.status_code == 403


def test_a_person_who_is_shut_out_is_out_at_once(guarded: World) -> None:
    ada = signed_in(guarded, "Ada")
    assert ada.get("/").status_code == 200
    with writing(guarded.engine) as session:
        accounts.disable(session, accounts.by_name(session, "Ada"))
    assert ada.get("/").status_code == 303
    assert client_of(guarded.app).post(
        "/login", data={"name": "Ada", "password": SECRET}
    ).status_code == 401  # fmt: skip


def test_a_new_password_ends_the_sessions_of_the_old_one(guarded: World) -> None:
    ada = signed_in(guarded, "Ada")
    with writing(guarded.engine) as session:
        accounts.set_password(session, accounts.by_name(session, "Ada"), "another long one")
    assert ada.get("/").status_code == 303
    signed_in(guarded, "Ada", "another long one")


def test_programs_sign_in_with_every_request_and_shutting_out_works_at_once(guarded: World) -> None:
    client = client_of(guarded.app)
    assert client.get("/api/v1/projects", auth=("Ada", SECRET)).status_code == 200
    assert client.get("/api/v1/projects", auth=("Ada", SECRET)).status_code == 200
    assert client.get("/api/v1/projects", auth=("Ada", "wrong")).status_code == 401
    (card,) = client.get("/api/v1/projects/1/queue?n=1", auth=("Ada", SECRET)).json()
    assert client.get(card["view"], auth=("Ada", SECRET)).status_code == 200
    assert client.get(card["view"], auth=("Ada", "wrong")).status_code == 401
    with writing(guarded.engine) as session:
        accounts.disable(session, accounts.by_name(session, "Ada"))
    assert client.get("/api/v1/projects", auth=("Ada", SECRET)).status_code == 401


def test_a_name_is_not_looked_at_after_many_wrong_passwords_from_everywhere(guarded: World) -> None:
    statuses = []
    for address in range(6):
        client = client_of(guarded.app, client=(f"10.0.0.{address}", 1))
        statuses += [
            client.post("/login", data={"name": "Ada", "password": "guess"}).status_code
            for _ in range(9)
        ]
    assert statuses[:50] == [401] * 50 and 429 in statuses[50:]


def test_strangers_who_guess_do_not_shut_out_a_browser_that_has_signed_in_before(
    guarded: World,
) -> None:
    admin = signed_in(guarded, "", "the server's own")
    admin.post("/logout")
    own = {"name": "", "password": "the server's own"}
    for address in range(6):
        stranger = client_of(guarded.app, client=(f"10.0.1.{address}", 1))
        for _ in range(10):
            stranger.post("/login", data={"password": "guess"})
    assert stranger.post("/login", data=own).status_code == 429
    assert admin.post("/login", data=own).status_code == 303
    # Nor is the browser's mark a way to guess more, or to guess for another name.
    admin.post("/logout")
    guesses = [admin.post("/login", data={"password": "guess"}).status_code for _ in range(11)]
    assert guesses == [401] * 10 + [429]
    forged = client_of(guarded.app, cookies={"tastemaker_device": "forged"}, client=("10.0.2.1", 1))
    assert forged.post("/login", data=own).status_code == 429


# --- the owner of the server is told by the password, never by a row ------------------------------


@pytest.fixture
def namesake(guarded: World) -> World:
    """Somebody signs in under the name that the owner of the server scores under."""
    with writing(guarded.engine) as session:
        accounts.add(session, guarded.settings.annotator, SECRET)
    return guarded


@pytest.mark.parametrize("basic", [False, True], ids=["by cookie", "by Basic"])
def test_a_person_with_the_owners_name_is_no_admin_and_can_be_shut_out(
    namesake: World, basic: bool
) -> None:
    me = namesake.settings.annotator
    auth = {"auth": (me, SECRET)} if basic else {}
    client = client_of(namesake.app) if basic else signed_in(namesake, me)

    def status(path: str) -> int:
        return client.get(path, **auth).status_code

    assert (status("/api/v1/projects"), status("/api/v1/people")) == (200, 403)
    with writing(namesake.engine) as session:
        accounts.set_password(session, accounts.by_name(session, me), "another long one")
    assert status("/api/v1/projects") == 401
    client = client_of(namesake.app) if basic else signed_in(namesake, me, "another long one")
    auth = {"auth": (me, "another long one")} if basic else {}
    assert status("/api/v1/projects") == 200
    with writing(namesake.engine) as session:
        accounts.disable(session, accounts.by_name(session, me))
    assert status("/api/v1/projects") == 401
    owner = signed_in(namesake, "", "the server's own")
    assert owner.get("/api/v1/people").status_code == 200, "the owner is not that person"


def test_a_session_ends_with_the_password_that_opened_it(guarded: World, tmp_path: Path) -> None:
    owner, ada = signed_in(guarded, "", "the server's own"), signed_in(guarded, "Ada")
    cookies = [dict(client.cookies) for client in (owner, ada)]
    guarded.engine.dispose()

    def statuses(password: str) -> list[int]:
        world = open_world(guarded.settings.home, admin_password=password)
        return [client_of(world.app, cookies=c).get("/").status_code for c in cookies]

    assert statuses("the server's own") == [200, 200]
    assert statuses("a new one of the server") == [303, 200], "the server's is not Ada's"


def test_whoever_is_shut_out_in_the_middle_of_a_request_is_not_taken_for_the_owner(
    guarded: World,
) -> None:
    with writing(guarded.engine) as session:
        ada = accounts.by_name(session, "Ada")
        user = identity.person(ada)
        accounts.disable(session, ada)
        with pytest.raises(NotSignedIn):
            user.person(session)


def test_an_unknown_name_takes_the_work_of_a_known_one(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clock alone nobody shall learn who is here."""
    accounts.add(session, "Ada", SECRET)
    accounts.add(session, "Cat")
    looked_at: list[str] = []
    hasher = accounts._hasher()

    class Watched:
        def hash(self, password: str) -> str:
            return hasher.hash(password)

        def verify(self, password: str, stored: str) -> bool:
            looked_at.append(stored)
            return hasher.verify(password, stored)

    monkeypatch.setattr(accounts, "_hasher", Watched)
    for name in ("Ada", "Cat", "nobody of that name"):
        assert accounts.check_password(session, name, "guess") is None
    assert len(looked_at) == 3
    assert all(stored.startswith("$argon2id$") for stored in looked_at)


# What an annotator may change. Opening another route to them is a decision: it is made here.
MAY_CHANGE = {
    "/theme",
    "/projects/{project_id}/compare/images/{image_id}/score",
    "/projects/{project_id}/compare/undo",
    "/projects/{project_id}/images/{image_id}/flag",
    "/projects/{project_id}/images/{image_id}/score",
    "/projects/{project_id}/images/{image_id}/skip",
    "/projects/{project_id}/keys",
    "/projects/{project_id}/library/changes",  # scores only; see `library_changes`
    "/projects/{project_id}/library/undo",
    "/projects/{project_id}/people/tokens",  # their own
    "/projects/{project_id}/score/grid",
    "/projects/{project_id}/audits",
    "/projects/{project_id}/score/grid/undo",
    "/projects/{project_id}/score/pairs",
    "/projects/{project_id}/score/pairs/undo",
    "/projects/{project_id}/test-runs/{run_id}/images/{image_id}/score",
    "/projects/{project_id}/test-runs/{run_id}/undo",
    "/projects/{project_id}/try",
    "/projects/{project_id}/try/warm",
    "/projects/{project_id}/try/{token}/again",
    "/projects/{project_id}/undo",
    "/tokens/{token_id}/revoke",
    "/api/v1/keys",
    "/api/v1/projects/{project_id}/audits",
    "/api/v1/projects/{project_id}/batches",
    "/api/v1/projects/{project_id}/batches/undo",
    "/api/v1/projects/{project_id}/comparisons",
    "/api/v1/projects/{project_id}/comparisons/undo",
    "/api/v1/projects/{project_id}/library",  # scores only; see `library_changes`
    "/api/v1/projects/{project_id}/predict",
    "/api/v1/projects/{project_id}/scores",
    "/api/v1/projects/{project_id}/test-runs/{run_id}/scores",
    "/api/v1/projects/{project_id}/undo",
    "/api/v1/tokens",
    "/api/v1/tokens/{token_id}",
}
# What only an admin may look at, files to take away among it.
ADMIN_SEES = {
    "/encoders/heads", "/encoders/weights", "/jobs", "/jobs/list", "/jobs/{job_id}",
    "/jobs/{job_id}/progress",
    "/projects/{project_id}/add", "/projects/{project_id}/add/encoder",
    "/projects/{project_id}/encoders", "/projects/{project_id}/folders",
    "/projects/{project_id}/labels.{ending}", "/projects/{project_id}/library.csv",
    "/projects/{project_id}/publish", "/projects/{project_id}/publish/adopting",
    "/projects/{project_id}/routers", "/routers/{name}/download", "/api/v1/routers/{name}/file",
    "/projects/{project_id}/series", "/projects/{project_id}/series/found",
    "/projects/{project_id}/stars", "/projects/{project_id}/stars/found",
    "/projects/{project_id}/write-back", "/projects/{project_id}/write-back/found",
    "/versions/{version_id}/checkpoint", "/versions/{version_id}/config",
    "/versions/{version_id}/download", "/versions/{version_id}/elsewhere/{form}",
    "/versions/{version_id}/laion",
    "/versions/{version_id}/predictions.{ending}", "/versions/{version_id}/training-set.csv",
    "/versions/{version_id}/training-set.jsonl",
    "/metrics", "/api/v1/folders", "/api/v1/jobs", "/api/v1/jobs/{job_id}", "/api/v1/people",
    "/api/v1/projects/{project_id}/labels", "/api/v1/projects/{project_id}/labels/tables",
    "/api/v1/projects/{project_id}/series",
    "/api/v1/versions/{version_id}/download",
    "/api/v1/versions/{version_id}/export", "/api/v1/versions/{version_id}/predictions",
    "/api/v1/versions/{version_id}/training-set", "/api/v1/projects/{project_id}/watched",
}  # fmt: skip
OPEN = {"/healthz", "/readyz", "/login", "/logout", "/person"}


# What somebody who looks may change: how the pages look in their browser.
LOOKER_CHANGES = {"/theme"}


@pytest.mark.parametrize(
    ("role", "scope"),
    [("annotator", ""), ("viewer", ""), ("admin", "score"), ("annotator", "read")],
)
def test_every_route_names_one_permission_and_nobody_gets_further(
    guarded: World, role: str, scope: str
) -> None:
    """Every route × method × role, by password and by token: 403 exactly where the signature does
    not name what they may."""
    with writing(guarded.engine) as session:
        accounts.set_role(session, accounts.by_name(session, "Ada"), role)
    ada = with_token(guarded, "Ada", scope) if scope else signed_in(guarded, "Ada")
    acts_as = {"score": "annotator", "read": "viewer", "": role}[scope]
    let_in: dict[str, set[str]] = {"GET": set(), "POST": set(), "PUT": set(), "DELETE": set()}
    refused: set[str] = set()
    for route in every_route(guarded.app.routes):
        if not isinstance(route, APIRoute):
            assert route.path in ("/static", "/api/v1/openapi.json")
            continue
        (permission,) = permissions.permissions_of(route.endpoint)
        assert route.dependant, "worked out without a fault, the open ones too"
        assert (route.path in OPEN) == isinstance(permission, permissions.Public), route.path
        if route.path in OPEN:
            continue
        (method,) = route.methods
        own = route.path.replace("{token_id}", "999")  # which would end what is tried here
        address = re.sub("{[^}]*}", "1", own)
        status = ada.request(method, address).status_code
        assert (status == 403) == (acts_as not in permission.roles), (method, route.path, status)
        if status == 403:
            refused |= {route.path} if method == "GET" else set()
        else:
            let_in[method].add(route.path)
    changes = let_in["POST"] | let_in["PUT"] | let_in["DELETE"]
    assert changes == (MAY_CHANGE if acts_as == "annotator" else LOOKER_CHANGES)
    assert refused == ADMIN_SEES


@pytest.mark.parametrize("role", ["viewer", "annotator"])
@pytest.mark.parametrize("fill", [full_world, make_world], ids=["full", "empty"])
def test_no_link_of_any_page_leads_to_a_refusal(
    tmp_path: Path, fill: Callable[..., World], role: str
) -> None:
    """Whoever is no admin follows every link that they are shown, and whoever only looks is not
    sent to where one scores."""
    world = fill(tmp_path, admin_password="the server's own")
    with writing(world.engine) as session:
        accounts.add(session, "Ada", SECRET, role)
    ada = signed_in(world, "Ada")
    seen, ahead = {"/"}, [("/", "/")]
    while ahead:
        shown_on, at = ahead.pop()
        answer = ada.get(at)
        assert answer.status_code in (200, 303), (at, "on", shown_on, answer.status_code)
        if "text/html" not in answer.headers.get("content-type", ""):
            continue
        for link in re.findall(r'href="([^"#]*)', answer.text):
            there = urljoin(at, html.unescape(link))
            plain = re.sub(r"\d+", "N", there.partition("?")[0])
            scoring = plain.startswith("/projects/N/score")
            assert not (role == "viewer" and scoring), (there, "on", at)
            if (
                there.startswith("/")
                and there not in seen
                and plain.count("/")
                and (
                    sum(re.sub(r"\d+", "N", known.partition("?")[0]) == plain for known in seen) < 3
                )
            ):
                seen.add(there)
                ahead.append((at, there))
    assert len(seen) > 15
    assert "The admin changes these" in ada.get(f"{world.at}/settings").text, "no page is empty"


def test_a_role_is_checked_before_the_body_is_read(guarded: World) -> None:
    ada = signed_in(guarded, "Ada")
    sent = []

    def body() -> Iterator[bytes]:
        for _ in range(1000):
            sent.append(1)
            yield b"x" * 1024

    answer = ada.post("/projects", content=body(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 403
    assert "Only the admin" in answer.text


def test_who_follows_a_link_beyond_their_rights_is_told_of_the_page_not_of_a_change(
    guarded: World,
) -> None:
    with writing(guarded.engine) as session:
        accounts.add(session, "Rita", SECRET, "viewer")
    for name, told in (("Ada", "Only an admin sees this."), ("Rita", "you may look at the rest")):
        answer = signed_in(guarded, name).get(f"{guarded.at}/add")
        assert answer.status_code == 403
        assert told in answer.text and "nothing was changed" not in answer.text
    robot = with_token(guarded, "Ada", "read").get("/api/v1/people")
    assert robot.status_code == 403 and "This token may not see this." in robot.text


def test_a_route_without_a_permission_cannot_be_made() -> None:
    router = APIRouter(route_class=permissions.GuardedRoute)
    with pytest.raises(TypeError, match="0 permissions"):
        router.get("/open")(lambda: None)


def test_a_second_permission_is_refused_wherever_it_is_named() -> None:
    def open_(_: permissions.AnyVisitor) -> None: ...

    router = APIRouter(route_class=permissions.GuardedRoute)
    router.get("/open", dependencies=[Depends(permissions.Public())])(open_)
    (route,) = router.routes
    app = FastAPI()
    app.router.routes.append(route)
    for _ in range(2):  # and refused again
        with pytest.raises(TypeError, match="2 permissions"):
            TestClient(app).get("/open")


def test_what_an_endpoint_takes_is_worked_out_when_it_is_first_asked_for() -> None:
    asked: list[str] = []

    def first() -> None:
        asked.append("first")

    def double(
        number: int, _: permissions.AnyVisitor, known: Annotated[None, Depends(first)]
    ) -> int:
        asked.append("endpoint")
        return 2 * number

    app, router = FastAPI(), APIRouter(route_class=permissions.GuardedRoute)
    router.get("/double")(double)
    (route,) = router.routes
    assert isinstance(route, permissions.GuardedRoute)
    route.ask_first(Depends(lambda: asked.append("before")))
    app.router.routes.append(route)
    assert "dependant" not in vars(route)
    with ThreadPoolExecutor(8) as many:  # whoever comes while another works it out waits for it
        told = list(many.map(lambda _: len(route.dependant.dependencies), range(8)))
    assert set(told) == {3} and "dependant" in vars(route)
    answer = TestClient(app).get("/double?number=21")
    assert (answer.json(), asked) == (42, ["before", "first", "endpoint"])
    with pytest.raises(AttributeError):
        _ = route.what_no_route_has


def test_an_annotator_scores_from_the_library_in_their_own_name_and_changes_nothing_else(
    guarded: World,
) -> None:
    ada = signed_in(guarded, "Ada")
    form, api = f"{guarded.at}/library/changes", f"/api/v1{guarded.at}/library"
    one = ada.post(form, data={"image": "1", "value": "7", "key": "k" * 8})
    assert one.status_code == 303, one.text
    both = ada.post(api, json={"action": "score", "images": [2, 3], "value": 4})
    assert (both.status_code, both.json()["changed"]) == (200, 2)
    with reading(guarded.engine) as session:
        me = session.exec(select(Annotator).where(Annotator.name == "Ada")).one()
        said = {e.image_id: (e.value, e.annotator_id) for e in session.exec(select(ScoreEvent))}
        assert said == {1: (7, me.id), 2: (4, me.id), 3: (4, me.id)}
    undone = ada.post(f"{guarded.at}/library/undo", data={"event_id": both.json()["event_id"]})
    assert undone.status_code == 303
    with reading(guarded.engine) as session:
        assert [label.image_id for label in session.exec(select(Label))] == [1]
        before = [len(session.exec(select(t)).all()) for t in (Tag, Collection, RemovedImage)]
    for action in ("tag", "untag", "put", "move", "remove", "restore"):
        asked = {"action": action, "image": "1", "tag": "sea", "collection": "Mine"}
        assert ada.post(form, data=asked).status_code == 403, action
        wanted = {"action": action, "images": [1], "tags": ["sea"], "collection": "Mine"}
        assert ada.post(api, json=wanted).status_code == 403, action
    with reading(guarded.engine) as session:
        after = [len(session.exec(select(t)).all()) for t in (Tag, Collection, RemovedImage)]
    assert after == before
    for page in (f"{guarded.at}/library", f"{guarded.at}/images/1"):
        shown = ada.get(page).text
        assert "Take out of the project" not in shown and 'name="value"' in shown
        admin = signed_in(guarded, "", "the server's own").get(page).text
        assert "Take out of the project" in admin


def test_without_a_password_on_the_server_a_browser_chooses_who_scores(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=2)
    with writing(world.engine) as session:
        accounts.add(session, "Ada")
        accounts.disable(session, accounts.add(session, "Gone"))
    client = client_of(world.app)
    assert client.post("/person", data={"name": "Ada"}).status_code == 303
    client.post(f"/api/v1{world.at}/scores", json={"image_id": 1, "value": 3})
    world.client.post(f"/api/v1{world.at}/scores", json={"image_id": 1, "value": 9})
    with reading(world.engine) as session:
        assert session.exec(select(Label)).one().annotators == 2
    assert client.post("/person", data={"name": "Gone"}).status_code == 422
    assert client.post("/person", data={"name": "Nobody"}).status_code == 404
    forged = client_of(world.app, cookies={"tastemaker_person": "999999"})
    assert forged.get(f"{world.at}/score").status_code == 200


# --- one label from several scores ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "label"), [("median", 4), ("mean", 5), ("lowest", 2), ("highest", 9), ("newest", 4)]
)
def test_the_label_is_the_aggregate_and_follows_a_change_of_rule(
    session: Session, project: Project, how: str, label: float
) -> None:
    image = add_images(session, 1, project=project)[0]
    for name, value in (("a", 9), ("b", 2), ("c", 4)):
        scores.record(session, project, image.id, projects.annotator(session, name), "set", value)
    project.aggregate = how
    session.add(project)
    session.flush()
    scores.rebuild_labels(session, project)
    assert session.exec(select(Label.value)).one() == label
    scores.record(session, project, image.id, projects.annotator(session, "c"), "set", 4)
    assert session.exec(select(Label.value)).one() == label


# --- agreement ------------------------------------------------------------------------------------


def test_bias_and_distance_are_measured_on_the_images_of_both(
    session: Session, project: Project
) -> None:
    images = add_images(session, 30, project=project)
    strict, mild, other = (projects.annotator(session, n) for n in ("strict", "mild", "other"))
    for number, image in enumerate(images[:20]):
        value = number % 7
        scores.record(session, project, image.id, strict, "set", value)
        scores.record(session, project, image.id, mild, "set", value + 2)
    scores.record(session, project, images[25].id, other, "set", 10)
    robot = projects.annotator(session, "robot", proxy=True)
    scores.record(session, project, images[0].id, robot, "set", 10)
    found = people.agreement(session, project)
    by_name = {habit.name: habit for habit in found.habits}
    assert set(by_name) == {"strict", "mild", "other"} and found.shared == 20
    assert by_name["strict"].bias.value == -2 and by_name["mild"].bias.value == 2
    assert by_name["strict"].error.value == 2 and by_name["other"].bias.value is None
    (pair,) = found.pairs
    assert pair.difference.n == 20 and pair.error.value == 2 and pair.rank == pytest.approx(1)


def test_the_interval_holds_the_mean_and_too_few_images_say_nothing() -> None:
    assert people.mean_of([1.0] * 4).value is None
    mean = people.mean_of([0.0, 1.0, 2.0, 3.0, 4.0])
    assert mean.low < mean.value == 2.0 < mean.high
    import numpy as np
    from scipy.stats import spearmanr

    random = np.random.default_rng(1)
    a, b = random.integers(0, 11, (2, 50))
    assert people.spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert people.spearman(a, a * 0) is None


def test_the_page_shows_everybody_and_adds_a_person(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=8)
    at = f"{world.at}/people"
    assert "Nobody has scored" in world.client.get(at).text
    with writing(world.engine) as session:
        for name, shift in (("Ada", 0), ("Bob", 1)):
            person = accounts.add(session, name)
            for image in range(1, 9):
                scores.record(session, world.project(session), image, person, "set", image + shift)
    text = world.client.get(at).text
    assert "Ada and Bob" in text and "−1.00" in text
    refused = world.client.post(at, data={"name": "Cat", "password": "short"})
    assert refused.status_code == 422 and 'value="Cat"' in refused.text
    assert "short" not in refused.text.replace("shortest", "")
    assert world.client.post(at, data={"name": "Cat", "password": SECRET}).status_code == 303
    with reading(world.engine) as session:
        cat = session.exec(select(Annotator).where(Annotator.name == "Cat")).one()
    assert world.client.post(f"/people/{cat.id}/disable").status_code == 303
    shown = world.client.get(f"/api/v1{world.at}/people").json()
    assert shown["pairs"][0]["error"]["value"] == 1
    assert {p["name"]: p["disabled"] for p in world.client.get("/api/v1/people").json()}["Cat"]


def test_nobody_shuts_out_whom_they_are_here_as(guarded: World) -> None:
    with writing(guarded.engine) as session:
        eve = accounts.add(session, "Eve", SECRET, "admin").id
        ada = accounts.by_name(session, "Ada").id
    client = signed_in(guarded, "Eve")
    own = client.post(f"/api/v1/people/{eve}/disable", json={"disabled": True})
    assert own.status_code == 409 and "Nobody shuts out" in own.json()["error"]
    assert client.post(f"/people/{eve}/disable").status_code == 409
    shut = client.post(f"/api/v1/people/{ada}/disable", json={"disabled": True})
    assert shut.status_code == 200 and shut.json()["disabled"] is True
    opened = client.post(f"/api/v1/people/{ada}/disable", json={"disabled": False})
    assert opened.json()["disabled"] is False
    changed = client.post(f"/api/v1/people/{ada}/password", json={"password": "quite another"})
    assert changed.status_code == 200 and "password" not in changed.text.replace("another", "")
    signed_in(guarded, "Ada", "quite another")
