"""The doors: every route against strange hosts and strange origins, and the login."""

import base64
import hashlib
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import uvicorn
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from routes import every_route
from sqlmodel import func, select
from starlette.routing import Route
from web_world import ORIGIN, World, client_of, make_world, settings_in

from tastemaker.auth.failed_logins import FailedLogins
from tastemaker.auth.identity import SESSION_COOKIE
from tastemaker.auth.middleware import CSP
from tastemaker.auth.origins import host_name, known_hosts, safe_redirect_path
from tastemaker.auth.permissions import limits_its_body
from tastemaker.cli import server
from tastemaker.database.sessions import reading
from tastemaker.database.tables import Image, Job, LoginSession, Project, ScoreEvent
from tastemaker.errors import TooManyAttempts
from tastemaker.pages.app import create_app

PASSWORD = "correct horse"
SAFE = {"GET", "HEAD", "OPTIONS"}
BODIES = {
    "form": ("application/x-www-form-urlencoded", b"value=7&name=Evil&folder=/tmp&password=x"),
    "text": ("text/plain", b'{"image_id": 1, "value": 7}'),
    "multipart": (
        "multipart/form-data; boundary=b",
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        b"x\r\n--b--\r\n",
    ),
    "json": ("application/json", b'{"image_id": 1, "value": 7}'),
}
ELSEWHERE = {
    "another origin": {"Origin": "http://evil.example"},
    "another port": {"Origin": "http://localhost:9999"},
    "no origin at all": {"Origin": "null"},
    "another site": {"Sec-Fetch-Site": "cross-site"},
    "a sister site": {"Sec-Fetch-Site": "same-site"},
    "a lie about the site": {"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.example"},
    "a lie about the origin": {"Sec-Fetch-Site": "cross-site", "Origin": ORIGIN},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("open"), images=2)


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world behind a password, with a client that is signed in."""
    world = make_world(tmp_path_factory.mktemp("locked"), images=2, admin_password=PASSWORD)
    answer = world.client.post("/login", data={"password": PASSWORD})
    assert answer.status_code == 303
    return world


def routes(world: World) -> list[tuple[str, str]]:
    """(method, address) of everything the application answers, with 1 for every id."""
    found = []
    for route in every_route(world.app.routes):
        methods = sorted(route.methods) if isinstance(route, Route) else ["GET", "POST"]
        found += [(method, re.sub(r"{[^}]*}", "1", route.path)) for method in methods]
    assert len(found) > 40
    return found


def test_no_two_routes_answer_the_same_request(world: World) -> None:
    """Of two routes with one method and one address, the second would never be asked."""
    counted = Counter(
        (method, re.sub(r"{[^}]*}", "{}", route.path))
        for route in every_route(world.app.routes)
        if isinstance(route, Route)
        for method in route.methods or ()
    )
    assert len(counted) > 100
    assert not [request for request, times in counted.items() if times > 1]


def kept(world: World) -> tuple[int, ...]:
    with reading(world.engine) as session:
        counts = [session.exec(select(func.count()).select_from(t)).one()
                  for t in (Project, ScoreEvent, Job, LoginSession)]  # fmt: skip
    return tuple(counts)


# --- hosts and origins ---------------------------------------------------------------------------


# Every request goes through one middleware: so each rule is proved on a page and on the API, and
# for every route once that it goes through.
A_PAGE, THE_API = ("POST", "/projects/1/images/1/score"), ("POST", "/api/v1/projects/1/scores")


def changing(world: World) -> list[tuple[str, str]]:
    return [(method, path) for method, path in routes(world) if method not in SAFE]


def from_elsewhere(world: World) -> TestClient:
    """A client with a valid cookie that does not say it comes from our own pages."""
    client = client_of(world.app, cookies=dict(world.client.cookies))
    del client.headers["Origin"]
    return client


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "",
                                  "localhost@evil.example", "169.254.169.254"])  # fmt: skip
def test_a_strange_host_name_gets_no_answer(locked: World, host: str) -> None:
    for method, path in (A_PAGE, THE_API, ("GET", "/"), ("GET", "/healthz")):
        answer = locked.client.request(method, path, headers={"Host": host})
        assert answer.status_code == 403, (method, path)


def test_no_route_answers_under_a_strange_host_name(locked: World) -> None:
    for method, path in routes(locked):
        answer = locked.client.request(method, path, headers={"Host": "evil.example"})
        assert answer.status_code == 403, (method, path)


@pytest.mark.parametrize("where", ELSEWHERE)
@pytest.mark.parametrize("body", BODIES)
def test_nothing_is_changed_from_elsewhere_even_with_a_valid_cookie(
    locked: World, where: str, body: str
) -> None:
    kind, content = BODIES[body]
    before = kept(locked)
    for method, path in (A_PAGE, THE_API):
        headers = {"Content-Type": kind, **ELSEWHERE[where]}
        answer = from_elsewhere(locked).request(method, path, content=content, headers=headers)
        assert answer.status_code == 403, path
    assert kept(locked) == before


def test_no_route_is_changed_from_elsewhere(locked: World) -> None:
    before, client = kept(locked), from_elsewhere(locked)
    for method, path in changing(locked):
        answer = client.request(method, path, headers=ELSEWHERE["another origin"])
        assert answer.status_code == 403, (method, path)
    assert kept(locked) == before


@pytest.mark.parametrize("body", ["form", "text", "multipart"])
def test_a_request_that_does_not_say_where_it_comes_from_must_be_json_for_the_api(
    world: World, body: str
) -> None:
    kind, content = BODIES[body]
    for method, path in (A_PAGE, THE_API):
        headers = {"Content-Type": kind}
        answer = from_elsewhere(world).request(method, path, content=content, headers=headers)
        assert answer.status_code == 403, path


def test_no_route_takes_a_form_that_does_not_say_where_it_comes_from(world: World) -> None:
    (kind, content), client = BODIES["form"], from_elsewhere(world)
    for method, path in changing(world):
        answer = client.request(method, path, content=content, headers={"Content-Type": kind})
        assert answer.status_code == 403, (method, path)


def test_a_program_may_use_the_api_without_an_origin(world: World) -> None:
    del (client := client_of(world.app)).headers["Origin"]
    answer = client.post(f"/api/v1{world.at}/scores", json={"image_id": 1, "value": 7})
    assert answer.status_code == 200
    assert client.post(f"{world.at}/train", json={}).status_code == 403


def test_a_program_sends_files_with_a_header_that_no_page_can_add(world: World) -> None:
    """A page elsewhere would have to ask before it adds one, and is never told yes."""
    del (client := client_of(world.app)).headers["Origin"]
    kind, content = BODIES["multipart"]
    said = {"Content-Type": kind, "X-Requested-With": "curl"}
    heads = f"/api/v1{world.at}/heads"
    assert client.post(heads, content=content, headers={"Content-Type": kind}).status_code == 403
    assert client.post(heads, content=content, headers=said).status_code == 422
    evil = said | {"Origin": "http://evil.example"}
    assert client.post(heads, content=content, headers=evil).status_code == 403
    page = f"{world.at}/heads"
    assert client.post(page, content=content, headers=said).status_code == 403


def test_no_get_changes_anything(world: World) -> None:
    before = kept(world)
    for method, path in routes(world):
        if method == "GET":
            world.client.get(path)
    assert kept(world) == before


def test_the_host_list_takes_loopback_allowed_and_served_names_and_no_wildcard(
    tmp_path: Path,
) -> None:
    settings = settings_in(tmp_path, allowed_hosts="taste.lan, Other.Example:8443")
    names = known_hosts(settings, "192.168.1.5")
    assert names == {"localhost", "127.0.0.1", "::1", "taste.lan", "other.example", "192.168.1.5"}
    assert known_hosts(settings_in(tmp_path), "0.0.0.0") == {"localhost", "127.0.0.1", "::1"}
    assert known_hosts(settings_in(tmp_path), "::") == {"localhost", "127.0.0.1", "::1"}


@pytest.mark.parametrize(
    ("host", "name"),
    [("localhost:8000", "localhost"), ("[::1]:8000", "::1"), ("LOCALHOST.", "localhost"),
     ("localhost:port", ""), ("a/b", ""), ("user@localhost", ""), ("[::1", "")],
)  # fmt: skip
def test_a_host_header_is_taken_apart_strictly(host: str, name: str) -> None:
    assert host_name(host) == name


# --- what every answer carries -------------------------------------------------------------------


def test_every_answer_carries_the_headers_even_an_error(world: World) -> None:
    for path in (
        "/",
        f"{world.at}/score",
        "/nothing",
        "/healthz",
        "/api/v1/projects",
        "/static/app.css",
    ):
        headers = world.client.get(path).headers
        assert headers["content-security-policy"] == CSP, path
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers
    assert "unsafe" not in CSP


def test_a_crash_is_a_page_that_says_what_is_safe_and_tells_nothing(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=0)

    def crash() -> None:
        raise RuntimeError("the secret is 42")

    world.app.add_api_route("/crash", crash)
    answer = world.client.get("/crash")
    assert answer.status_code == 500
    assert "Everything saved before is safe" in answer.text
    assert "secret" not in answer.text and "Traceback" not in answer.text
    assert answer.headers["content-security-policy"] == CSP


def test_pictures_are_sandboxed_webp_for_this_origin_only(world: World) -> None:
    for size in ("thumb", "view"):
        answer = world.client.get(f"/images/1/{size}")
        assert answer.status_code == 200 and answer.content[8:12] == b"WEBP"
        assert answer.headers["content-type"] == "image/webp"
        assert answer.headers["content-security-policy"].startswith("sandbox")
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "private, no-cache"
        known = {"If-None-Match": answer.headers["etag"]}
        assert world.client.get(f"/images/1/{size}", headers=known).status_code == 304


def test_only_an_address_that_names_the_pixels_is_kept_for_good(world: World) -> None:
    """Ids begin at one in every library: under the address of one image, another library has
    another picture."""
    with reading(world.engine) as session:
        first, second = (session.get(Image, image_id).sha256 for image_id in (1, 2))
    for size in ("thumb", "view"):
        answer = world.client.get(f"/images/1/{size}?h={first[:16]}")
        assert answer.status_code == 200 and "immutable" in answer.headers["cache-control"]
        assert world.client.get(f"/images/1/{size}?h={second[:16]}").status_code == 404


@pytest.mark.parametrize(
    "path", ["/static/../app/config.py", "/static/..%2fapp/config.py", "/static/%252e%252e/x",
             "/static/..%5capp%5cconfig.py", "/static/app.css%00.js", "/static//etc/passwd"],
)  # fmt: skip
def test_static_files_are_the_only_ones_there(world: World, path: str) -> None:
    assert world.client.get(path).status_code == 404


def test_a_body_larger_than_any_form_is_refused(world: World) -> None:
    answer = world.client.post("/projects", data={"name": "x" * (2 * 2**20)})
    assert answer.status_code == 413


def test_a_body_that_announces_nothing_is_refused_at_the_same_size(world: World) -> None:
    def form() -> Iterator[bytes]:
        yield b"name="
        yield from [b"x" * 2**16] * 20

    def json_body() -> Iterator[bytes]:
        yield b'{"name": "'
        yield from [b"x" * 2**16] * 20

    form_kind = {"Content-Type": "application/x-www-form-urlencoded"}
    json_kind = {"Content-Type": "application/json"}
    for path in ("/projects", f"{world.at}/add/files", f"{world.at}/try"):
        answer = world.client.post(path, content=form(), headers=form_kind)
        assert answer.status_code == 413 and "larger than any form" in answer.text, path
    answer = world.client.post("/api/v1/projects", content=json_body(), headers=json_kind)
    assert answer.status_code == 413 and "larger than any form" in answer.json()["error"]


def test_only_routes_that_take_files_take_more_than_a_form(world: World) -> None:
    larger = {
        route.path
        for route in every_route(world.app.routes)
        if isinstance(route, APIRoute) and limits_its_body(route)
    }
    assert larger == {
        "/projects/{project_id}/add/files", "/api/v1/projects/{project_id}/uploads",
        "/projects/{project_id}/test-runs", "/projects/{project_id}/try",
        "/projects/{project_id}/heads", "/api/v1/projects/{project_id}/heads",
        "/api/v1/projects/{project_id}/predict", "/projects/{project_id}/add/scores",
        "/api/v1/projects/{project_id}/labels",
    }  # fmt: skip


def test_markup_in_names_stays_text(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=0)
    evil = "<img onerror=alert(1)>"
    answer = world.client.post(f"{world.at}/settings", data={"name": evil, "threshold": "5"})
    assert answer.status_code == 303
    for path in ("/", f"{world.at}/settings", f"{world.at}/score", f"{world.at}/versions"):
        assert evil not in world.client.get(path).text


# --- the login -----------------------------------------------------------------------------------


def test_without_a_login_only_four_doors_are_open(locked: World) -> None:
    stranger = client_of(locked.app)
    for method, path in routes(locked):
        if path in ("/login", "/healthz", "/readyz") or path.startswith("/static"):
            continue
        answer = stranger.request(method, path)
        moved = answer.status_code == 303 and answer.headers["location"].startswith("/login?next=")
        assert moved or answer.status_code == 401, (method, path)
    assert stranger.get("/healthz").json()["status"] == "ok"
    assert stranger.get("/static/app.css").status_code == 200
    assert stranger.get("/login").status_code == 200


def test_the_cookie_is_guarded_and_only_its_hash_is_kept(locked: World) -> None:
    client = client_of(locked.app)
    answer = client.post("/login", data={"password": PASSWORD, "next": "/jobs"})
    assert answer.headers["location"] == "/jobs"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie and "Secure" not in cookie
    token = client.cookies["tastemaker_session"]
    with reading(locked.engine) as session:
        hashes = session.exec(select(LoginSession.token_sha256)).all()
    assert hashlib.sha256(token.encode()).hexdigest() in hashes and token not in hashes


def test_under_https_the_cookie_is_secure(locked: World) -> None:
    client = client_of(locked.app)
    answer = client.post(
        "https://localhost/login", data={"password": PASSWORD},
        headers={"Origin": "https://localhost"},
    )  # fmt: skip
    assert "Secure" in answer.headers["set-cookie"]


def test_signing_in_makes_a_new_session_and_signing_out_ends_it(locked: World) -> None:
    def sign_in(token: str) -> str:
        client = client_of(locked.app, cookies={SESSION_COOKIE: token})
        answer = client.post("/login", data={"password": PASSWORD})
        return answer.headers["set-cookie"].split(";")[0].removeprefix(f"{SESSION_COOKIE}=")

    def status(token: str) -> int:
        return client_of(locked.app, cookies={SESSION_COOKIE: token}).get("/").status_code

    first = sign_in("planted-before-the-login")
    second = sign_in(first)
    assert len({"planted-before-the-login", first, second}) == 3
    assert [status(t) for t in ("planted-before-the-login", first, second)] == [303, 303, 200]
    client_of(locked.app, cookies={SESSION_COOKIE: second}).post("/logout")
    assert status(second) == 303


def test_the_eleventh_guess_from_one_address_is_not_looked_at(tmp_path: Path) -> None:
    app = create_app(settings_in(tmp_path, admin_password=PASSWORD))
    client = client_of(app, client=("10.0.0.1", 1))
    for _ in range(10):
        assert client.post("/login", data={"password": "guess"}).status_code == 401
    assert client.post("/login", data={"password": PASSWORD}).status_code == 429
    other = client_of(app, client=("10.0.0.2", 1))
    assert other.post("/login", data={"password": PASSWORD}).status_code == 303


def test_tries_are_forgotten_after_the_window() -> None:
    time = [0.0]
    tries = FailedLogins(limit=2, window=600, clock=lambda: time[0])
    tries.begin("a")
    tries.begin("a")
    with pytest.raises(TooManyAttempts):
        tries.begin("a")
    time[0] = 601
    tries.begin("a")


def test_of_45_guesses_at_once_ten_are_looked_at_and_right_ones_are_not_counted() -> None:
    tries = FailedLogins()
    start = threading.Barrier(45)

    def guess(_: int) -> bool:
        start.wait()
        try:
            tries.begin("a", "admin")
        except TooManyAttempts:
            return False
        return True

    with ThreadPoolExecutor(45) as pool:
        assert sum(pool.map(guess, range(45))) == 10
    for _ in range(100):
        tries.begin("b", "Ada")()


def test_many_requests_at_once_with_the_right_password_are_all_let_in(locked: World) -> None:
    client = client_of(locked.app, client=("10.0.3.1", 1))
    with ThreadPoolExecutor(12) as pool:
        asked = [
            pool.submit(client.get, "/api/v1/projects", auth=("admin", PASSWORD)) for _ in range(24)
        ]
    assert {one.result().status_code for one in asked} == {200}


def test_the_api_takes_the_password_as_user_admin_and_counts_wrong_ones(tmp_path: Path) -> None:
    app = create_app(settings_in(tmp_path, admin_password=PASSWORD))
    client = client_of(app)

    def ask(user: str, password: str, path: str = "/api/v1/projects") -> int:
        encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
        return client.get(path, headers={"Authorization": f"Basic {encoded}"}).status_code

    assert ask("admin", PASSWORD) == 200
    assert ask("root", PASSWORD) == 401
    assert ask("admin", PASSWORD, "/") == 303  # pages take the cookie only
    assert client.get("/api/v1/projects", headers={"Authorization": "Basic ???"}).status_code == 401
    assert [ask("admin", "guess") for _ in range(10)] == [401] * 9 + [429], "root's counts too"


@pytest.mark.parametrize(
    ("asked", "given"),
    [("/jobs?x=1", "/jobs?x=1"), ("//evil.example", "/"), ("https://evil.example/", "/"),
     ("/\\evil.example", "/"), ("jobs", "/"), ("/a\nb", "/"), ("javascript:alert(1)", "/")],
)  # fmt: skip
def test_after_signing_in_one_stays_on_this_site(asked: str, given: str) -> None:
    assert safe_redirect_path(asked) == given


def test_behind_a_password_no_page_is_kept_by_the_browser(tmp_path: Path) -> None:
    guarded = make_world(tmp_path / "guarded", images=0, admin_password=PASSWORD)
    assert guarded.client.get("/login").headers["cache-control"] == "no-store"
    open_to_all = make_world(tmp_path / "open", images=0)
    assert open_to_all.client.get("/").headers["cache-control"] == "private, no-cache"


def test_an_error_shows_no_project_to_a_stranger(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=0, admin_password=PASSWORD)
    strange = world.client.get(f"{world.at}/score", headers={"Host": "evil.example"})
    assert strange.status_code == 403 and "Anime" not in strange.text


def test_head_is_answered_like_get(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=1)
    for path in ("/", f"{world.at}/score", "/images/1/thumb", "/static/app.css", "/healthz"):
        assert world.client.head(path).status_code == world.client.get(path).status_code == 200
    assert world.client.head("/nothing").status_code == 404


# --- numbers and texts that cannot be stored -----------------------------------------------------


def test_a_number_beyond_what_a_database_holds_is_no_fault_of_the_program(world: World) -> None:
    huge = 2**63
    for route in every_route(world.app.routes):
        if not isinstance(route, APIRoute):
            continue
        (method,) = route.methods
        address = re.sub(r"{[^}]*}", "1", route.path)
        asked = [(parameter.alias, "query") for parameter in route.dependant.query_params]
        asked += [(parameter.alias, "form") for parameter in route.dependant.body_params]
        for name, where in asked:
            given = {"params": {name: huge}} if where == "query" else {"data": {name: huge}}
            status = world.client.request(method, address, **given).status_code
            assert status < 500 or status == 503, (method, route.path, name)
    for path in ("undo", "compare/undo", "library/undo"):
        answer = world.client.post(f"{world.at}/{path}", data={"event_id": huge})
        assert answer.status_code == 422, path
    assert world.client.get(f"{world.at}/score?collection={huge}").status_code == 422
    answer = world.client.post(f"/api/v1{world.at}/predict", data={"image_id": 1})
    assert answer.status_code == 422


@pytest.mark.parametrize("text", [r"half a pair \ud800", r"a zero \u0000 byte"])
def test_what_is_no_character_is_stored_nowhere(world: World, text: str) -> None:
    json = {"Content-Type": "application/json"}
    for method, path, field in (
        ("PUT", "/api/v1/projects/1/card", "biases"),
        ("POST", "/api/v1/projects/1/slices", "tag"),
        ("POST", "/api/v1/projects", "name"),
    ):
        body = f'{{"{field}": "{text}"}}'
        answer = world.client.request(method, path, content=body, headers=json)
        assert answer.status_code == 422 and "no character" in answer.text, path
    body = r'{"biases": "a whole pair \ud83d\ude00 and a \\ud800 that is spelt"}'
    answer = world.client.put("/api/v1/projects/1/card", content=body, headers=json)
    assert answer.status_code == 200 and "\N{GRINNING FACE}" in answer.json()["biases"]


# --- addresses -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_address_that_a_user_types_is_fetched(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: reached.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *asked, **_: reached.append(asked) or [])
    typed = "http://evil.example/a.png"
    for method, path in routes(world):
        fields = dict.fromkeys(("folder", "path", "name", "query", "encoder", "file"), typed)
        world.client.request(method, path, params={"text": typed, "next": typed})
        if method == "POST":
            world.client.post(path, data=fields)
            world.client.post(path, json=fields)
    assert reached == []


def test_a_client_cannot_say_that_it_is_another_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvicorn would believe X-Forwarded-For of the loopback address, where any program of this
    machine can be; `TrustedProxies` believes proxies that are named (test_where_it_runs)."""
    started: list[uvicorn.Config] = []

    class Unstarted(uvicorn.Server):
        def run(self, sockets: object = None) -> None:
            started.append(self.config)

    monkeypatch.setattr(uvicorn, "Server", Unstarted)
    monkeypatch.setattr(server.signal, "signal", lambda *_: None)
    for number, proxies in enumerate(("", "10.1.2.3")):
        settings = settings_in(tmp_path / str(number), trusted_proxies=proxies)
        server.serve(settings, "127.0.0.1", 0, with_worker=False)
    assert [config.proxy_headers for config in started] == [False, False]
