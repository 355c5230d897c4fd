"""API tokens: scoped, expiring, shown once, and bound to whose they are; and who only looks."""

import hashlib
import json
import logging
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from routes import filled, page_routes
from sqlmodel import select
from test_people import SECRET, program, signed_in, with_token
from typer.testing import CliRunner
from web_world import World, client_of, full_world, make_world, open_world

from tastemaker.auth import accounts, identity, tokens
from tastemaker.cli import commands
from tastemaker.database.backups import back_up, restore
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import ApiToken, ScoreEvent, now
from tastemaker.errors import Conflict, Forbidden, Invalid

OWN = "the server's own"


@pytest.fixture
def guarded(tmp_path: Path) -> World:
    world = make_world(tmp_path, images=3, admin_password=OWN)
    with writing(world.engine) as session:
        accounts.add(session, "Ada", SECRET)
        accounts.add(session, "Bob", SECRET)
    return world


def made(client: Any, **fields: object) -> dict[str, Any]:
    answer = client.post("/api/v1/tokens", json={"name": "a program"} | fields)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()


def test_a_token_lets_a_program_in_as_its_person_is_shown_once_and_stored_as_a_hash(
    guarded: World,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    ada = signed_in(guarded, "Ada")
    token = made(ada, scope="score")["token"]
    robot = program(guarded, token)
    score = robot.post(f"/api/v1{guarded.at}/scores", json={"image_id": 1, "value": 7})
    assert score.status_code == 200, score.text
    with reading(guarded.engine) as session:
        assert (
            session.exec(select(ScoreEvent)).one().annotator_id
            == accounts.by_name(session, "Ada").id
        )
        (row,) = session.exec(select(ApiToken))
    assert row.token_sha256 == hashlib.sha256(token.encode()).hexdigest()
    (listed,) = ada.get("/api/v1/tokens").json()
    assert listed["last_used_at"] and listed["scope"] == "score" and not listed["expired"]
    assert token not in json.dumps(listed)
    assert token not in ada.get(f"{guarded.at}/people").text
    assert robot.get("/api/v1/projects", params={"token": token}).status_code == 422
    assert token not in caplog.text.replace(f"token={token}", ""), "the client logs its own address"


@pytest.mark.sqlite
def test_no_byte_of_the_database_file_tells_a_token(guarded: World) -> None:
    token = made(signed_in(guarded, "Ada"), scope="score")["token"]
    assert program(guarded, token).get("/api/v1/projects").status_code == 200
    database = guarded.settings.root / "tastemaker.db"
    wal = database.with_name("tastemaker.db-wal")
    stored = database.read_bytes() + wal.read_bytes()
    assert hashlib.sha256(token.encode()).hexdigest().encode() in stored
    assert token.encode() not in stored


def test_a_token_expires_is_revoked_and_never_outlives_what_it_was_made_under(
    guarded: World,
) -> None:
    def status(client: Any) -> int:
        return client.get("/api/v1/projects").status_code

    old, revoked, kept = (with_token(guarded, "Ada", "read") for _ in range(3))
    bobs = with_token(guarded, "Bob", "read")
    assert [status(client) for client in (old, revoked, kept, bobs)] == [200] * 4
    with writing(guarded.engine) as session:
        first = session.exec(select(ApiToken)).first()
        first.expires_at = now() - timedelta(seconds=1)
        session.add(first)
    ada, bob = signed_in(guarded, "Ada"), signed_in(guarded, "Bob")
    assert bob.delete("/api/v1/tokens/2").status_code == 404, "another's"
    assert ada.delete("/api/v1/tokens/2").status_code == 204
    assert [status(client) for client in (old, revoked, kept)] == [401, 401, 200]
    answer = revoked.get("/api/v1/projects")
    assert "invalid_token" in answer.headers["www-authenticate"]
    assert "expired or been revoked" in answer.json()["error"]
    with writing(guarded.engine) as session:
        accounts.disable(session, accounts.by_name(session, "Ada"))
        accounts.set_password(session, accounts.by_name(session, "Bob"), "another long one")
    assert [status(kept), status(bobs)] == [401, 401]
    with writing(guarded.engine) as session:
        accounts.disable(session, accounts.by_name(session, "Ada"), False)
    assert status(kept) == 401, "who is let in again makes new ones"


def test_a_token_never_does_more_than_its_person_may_at_that_moment(
    guarded: World,
) -> None:
    score = {"image_id": 1, "value": 7}
    scores_at = f"/api/v1{guarded.at}/scores"
    with writing(guarded.engine) as session:
        accounts.set_role(session, accounts.by_name(session, "Ada"), "admin")
    full = with_token(guarded, "Ada", "admin")
    assert full.get("/api/v1/people").status_code == 200
    for role, sees, changes in (("annotator", 403, 200), ("viewer", 403, 403), ("admin", 200, 200)):
        with writing(guarded.engine) as session:
            accounts.set_role(session, accounts.by_name(session, "Ada"), role)
        assert full.get("/api/v1/people").status_code == sees
        assert full.post(scores_at, json=score).status_code == changes, role
    assert "token may not" in with_token(guarded, "Ada", "read").post(scores_at, json=score).text
    with writing(guarded.engine) as session:
        bob = identity.person(accounts.by_name(session, "Bob"))
        with pytest.raises(Forbidden, match="cannot have the scope"):
            tokens.create(session, guarded.settings, bob, "mine", "admin")
        for name, scope, days in (("", "read", 1), ("x", "root", 1), ("x", "read", 0),
                                  ("x", "read", 367)):  # fmt: skip
            with pytest.raises(Invalid):
                tokens.create(session, guarded.settings, bob, name, scope, days)
        for _ in range(tokens.MOST):
            tokens.create(session, guarded.settings, bob, "one of many", "read")
        with pytest.raises(Conflict):
            tokens.create(session, guarded.settings, bob, "one too many", "read")
    another = full.post("/api/v1/tokens", json={"name": "a child of it"})
    assert another.status_code == 403 and "A token cannot make another" in another.text


def test_a_token_decides_before_a_cookie_and_alone_needs_no_origin(
    guarded: World,
) -> None:
    form = {"text": "", "value": "7"}
    evil = {"Origin": "http://evil.example"}
    token = made(signed_in(guarded, "Ada"), scope="read")["token"]
    admin = signed_in(guarded, "", OWN)
    assert admin.get("/api/v1/people").status_code == 200
    both = {"Authorization": f"Bearer {token}"}
    assert admin.get("/api/v1/people", headers=both).status_code == 403, "Ada's, not the owner's"
    assert admin.get("/api/v1/people", headers={"Authorization": "Bearer x"}).status_code == 401
    crossed = admin.post("/theme", data=form, headers=both | evil)
    assert crossed.status_code == 403 and "came from" in crossed.text, "a cookie came with it"
    robot = program(guarded, token)
    assert robot.post("/theme", data=form).status_code == 303
    assert robot.post("/theme", data=form, headers=evil).status_code == 303
    assert robot.get("/", headers={"Host": "evil.example"}).status_code == 403


def test_an_open_server_takes_a_token_as_its_person_and_no_wrong_one(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=2)
    with writing(world.engine) as session:
        accounts.add(session, "Ada")
    robot = with_token(world, "Ada", "read")
    assert robot.get("/api/v1/projects").status_code == 200
    assert robot.get("/api/v1/people").status_code == 403
    assert program(world, "tmk_wrong").get("/api/v1/projects").status_code == 401
    # What anybody could make for themselves here ends when the server gets a password.
    token = made(world.client, scope="admin")["token"]
    assert program(world, token).get("/api/v1/people").status_code == 200
    world.engine.dispose()
    closed = open_world(tmp_path, admin_password=OWN)
    assert program(closed, token).get("/api/v1/people").status_code == 401
    assert made(signed_in(closed, "", OWN))["person"] is None


def test_wrong_tokens_and_wrong_passwords_share_one_limit(guarded: World) -> None:
    right = with_token(guarded, "Ada", "read")
    stranger = program(guarded, "tmk_guess", client=("10.9.0.1", 1))
    assert [stranger.get("/api/v1/projects").status_code for _ in range(6)] == [401] * 6
    guess = {"name": "Ada", "password": "guess"}
    person = client_of(guarded.app, client=("10.9.0.1", 1))
    assert [person.post("/login", data=guess).status_code for _ in range(5)] == [401] * 4 + [429]
    assert stranger.get("/api/v1/projects").status_code == 429
    assert [right.get("/api/v1/projects").status_code for _ in range(15)] == [200] * 15


@pytest.mark.sqlite
def test_a_token_that_was_revoked_does_not_come_back_with_a_backup(
    guarded: World,
    tmp_path: Path,
) -> None:
    """Backups are of the file; PostgreSQL keeps its own."""
    robot = with_token(guarded, "Ada", "read")
    backup = back_up(guarded.settings).path
    guarded.engine.dispose()
    restore(guarded.settings, backup)
    world = open_world(guarded.settings.home, admin_password=OWN)
    token = robot.headers["Authorization"].removeprefix("Bearer ")
    assert program(world, token).get("/api/v1/projects").status_code == 401


def test_the_page_makes_a_token_shows_it_once_and_revokes_it(guarded: World) -> None:
    ada = signed_in(guarded, "Ada")
    at = f"{guarded.at}/people"
    shown = ada.post(f"{at}/tokens", data={"name": "at night", "scope": "score", "days": "30"})
    token = re.search(r'value="(tmk_[^"]+)"', shown.text)[1]
    assert shown.headers["cache-control"] == "no-store" and "shown this once" in shown.text
    assert program(guarded, token).get("/api/v1/projects").status_code == 200
    refused = ada.post(f"{at}/tokens", data={"name": "x", "scope": "admin"})
    assert refused.status_code == 403 and "no more than you" in refused.text
    listed = ada.get(at).text
    assert "at night" in listed and token not in listed
    assert ada.post("/tokens/1/revoke").status_code == 303
    assert program(guarded, token).get("/api/v1/projects").status_code == 401
    assert "at night" not in ada.get(at).text


def test_the_command_line_makes_lists_and_revokes_tokens(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=1, admin_password=OWN)
    home = {"TASTEMAKER_HOME": str(tmp_path), "TASTEMAKER_ADMIN_PASSWORD": OWN}

    def run(*words: str, typed: str = "") -> str:
        result = CliRunner().invoke(commands.app, ["user", *words], input=typed, env=home)
        assert result.exit_code == 0, result.exception
        return result.stdout

    run("add", "Vera", "--password-stdin", "--role", "viewer", typed=SECRET + "\n")
    token = run("token", "create", "Vera", "--name", "watch").splitlines()[-1]
    own = json.loads(
        run("token", "create", "admin", "--name", "ops", "--scope", "admin", "--json")
    )["token"]
    assert program(world, token).get("/api/v1/projects").status_code == 200
    assert program(world, own).get("/api/v1/people").status_code == 200
    listed = json.loads(run("token", "list", "--json"))
    assert [(t["name"], t["person"], t["scope"]) for t in listed] == [
        ("watch", "Vera", "read"), ("ops", None, "admin"),
    ]  # fmt: skip
    assert token not in run("token", "list")
    run("token", "revoke", "1")
    assert program(world, token).get("/api/v1/projects").status_code == 401
    run("role", "Vera", "annotator")
    assert json.loads(run("list", "--json"))[-1]["role"] == "annotator"


# --- people who look -----------------------------------------------------------------------------


def test_no_page_shows_a_viewer_a_form_that_would_be_refused(tmp_path: Path) -> None:
    """Every page as somebody who looks: nothing on it that could be sent but the theme and signing
    out, and somebody who scores finds the forms where they were."""
    world = full_world(tmp_path, admin_password=OWN)
    with writing(world.engine) as session:
        accounts.add(session, "Vera", SECRET, "viewer")
        accounts.add(session, "Ada", SECRET)
    vera, ada = signed_in(world, "Vera"), signed_in(world, "Ada")
    review = ["false-positives", "doubtful"]
    seen, hidden = 0, 0
    for route in page_routes(world.app):
        for address in filled(route, {"version_id": ["2"], "name": review, "what": review}):
            answer = vera.get(address)
            if answer.status_code != 200:
                assert answer.status_code in (303, 403, 404, 422), (address, answer.status_code)
                continue
            forms = set(re.findall(r'(?:method="post" action|hx-post)="([^"]*)"', answer.text))
            assert forms <= {"/theme", "/logout"}, address
            seen += 1
            hidden += 'class="scale' in ada.get(address).text
    assert seen >= 8 and hidden >= 2
    moved = vera.get(f"{world.at}/score")
    assert moved.headers["location"] == f"{world.at}/library"


def test_nobody_changes_what_they_may_do_themselves(guarded: World) -> None:
    with writing(guarded.engine) as session:
        eve = accounts.add(session, "Eve", SECRET, "admin").id
        ada = accounts.by_name(session, "Ada").id
    client = signed_in(guarded, "Eve")
    own = client.post(f"/api/v1/people/{eve}/role", json={"role": "viewer"})
    assert own.status_code == 409 and "Another admin can" in own.json()["hint"]
    assert client.post(f"/people/{ada}/role", data={"role": "viewer"}).status_code == 303
    assert client.post(f"/people/{ada}/role", data={"role": "king"}).status_code == 422
    listed = {p["name"]: p["role"] for p in client.get("/api/v1/people").json()}
    assert listed["Ada"] == "viewer"
