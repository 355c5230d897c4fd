"""Under a path of another host name, behind proxies, on systems that are not POSIX."""

import io
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from in_browser import browsing, saved, serving, shown_image
from PIL import Image as Picture
from playwright.sync_api import Browser, expect
from pydantic import ValidationError
from routes import filled, page_routes
from sqlmodel import select
from test_people import SECRET
from web_world import (
    ORIGIN,
    World,
    client_of,
    events,
    full_world,
    make_world,
    one_loop,
    settings_in,
)

import tastemaker
from tastemaker.auth import accounts
from tastemaker.auth.proxies import TrustedProxies
from tastemaker.auth.sub_path import under
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import ScoreEvent
from tastemaker.errors import Conflict, Invalid
from tastemaker.files import publish_exclusive
from tastemaker.pages.app import create_app
from tests.conftest import until

PROXY = "10.1.2.3"
OWN = "the server's own"


# --- under a path --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hosted(tmp_path_factory: pytest.TempPathFactory) -> World:
    return full_world(tmp_path_factory.mktemp("hosted"), root_path="taste/")


class Addresses(HTMLParser):
    """Every value of an attribute that is a path, but for what is typed or sent back."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [
            f"{name}={value}"
            for name, value in attrs
            if (value or "").startswith("/") and name not in ("placeholder", "value")
        ]


def test_all_that_the_pages_point_to_is_under_the_path(hosted: World) -> None:
    """Whether the proxy passes the path on or takes it off."""
    seen = 0
    for route in page_routes(hosted.app):
        for path in filled(route, {"kind": ["false-positives", "doubtful-labels"]}):
            answer = hosted.client.get(f"/taste{path}")
            if answer.status_code != 200:
                continue
            found = Addresses(answer.text).found
            assert found.pop(0) == "data-root=/taste", "for the scripts"
            assert found and [one for one in found if "=/taste/" not in one] == [], path
            seen += 1
    assert seen > 20
    passed_on, taken_off = (hosted.client.get(path) for path in ("/taste/jobs", "/jobs"))
    assert passed_on.text == taken_off.text
    assert hosted.client.get("/taste").text == hosted.client.get("/taste/").text
    assert hosted.client.get("/tasteless").status_code == 404
    slashed = hosted.client.get(f"/taste{hosted.at}/library/?sort=name")
    assert slashed.headers["location"] == f"/taste{hosted.at}/library?sort=name"


def test_answers_lead_on_and_back_under_the_path_and_cookies_are_its_own(hosted: World) -> None:
    client = client_of(hosted.app)
    back = {"Referer": f"{ORIGIN}/taste{hosted.at}/library?sort=name"}
    answer = client.post("/taste/theme", data={"theme": "light"}, headers=back)
    assert answer.headers["location"] == f"/taste{hosted.at}/library?sort=name"
    assert "; Path=/taste;" in answer.headers["set-cookie"]
    wrong = client.get("/taste/projects/99/library", headers=back)
    assert wrong.status_code == 404 and f'href="/taste{hosted.at}/library?sort=name"' in wrong.text
    schema = client.get("/taste/api/v1/openapi.json").json()
    assert schema["servers"] == [{"url": "/taste"}]
    (card,) = client.get(f"/taste/api/v1{hosted.at}/queue?n=1").json()
    assert card["view"].startswith("/images/"), "programs join it to the address they know"
    assert client.get(f"/taste{card['view']}").status_code == 200
    with serving(hosted) as url, tastemaker.Client(f"{url}/taste/") as program:
        assert program.project("Anime").version("v1.1")["active"]


def test_whoever_is_not_signed_in_is_sent_to_the_login_under_the_path(tmp_path: Path) -> None:
    client = make_world(tmp_path, images=1, admin_password=OWN, root_path="/taste").client
    sent = client.get("/taste/projects/1/library").headers["location"]
    assert sent == "/taste/login?next=/projects/1/library"
    assert 'action="/taste/login"' in client.get(sent).text
    fragment = client.get("/taste/jobs", headers={"HX-Request": "true"})
    assert fragment.headers["hx-redirect"] == "/taste/login"
    of_a_page = {"HX-Request": "true", "Referer": "http://localhost/taste/projects/1/score?queue=x"}
    back = client.get("/taste/projects/1/score/strip", headers=of_a_page).headers["hx-redirect"]
    assert back == "/taste/login?next=/projects/1/score%3Fqueue%3Dx", "and then on where one was"
    signed = client.post("/taste/login", data={"password": OWN, "next": "/projects/1/library"})
    assert signed.headers["location"] == "/taste/projects/1/library"


def test_the_page_can_be_installed_under_the_path(hosted: World) -> None:
    """What a browser asks for: a manifest that begins at our first page, and icons of its sizes."""
    page = hosted.client.get("/taste/")
    (place,) = re.findall(r'<link rel="manifest" href="([^"]+)"', page.text)
    assert "manifest-src 'self'" in page.headers["content-security-policy"]
    manifest = hosted.client.get(place).json()
    assert urljoin(place, manifest["start_url"]) == urljoin(place, manifest["scope"]) == "/taste/"
    (touch,) = re.findall(r'<link rel="apple-touch-icon" href="([^"]+)"', page.text)
    sizes = {touch: "180x180"} | {icon["src"]: icon["sizes"] for icon in manifest["icons"]}
    for source, size in sizes.items():
        answer = hosted.client.get(urljoin(place, source))
        assert answer.status_code == 200, source
        if size != "any":
            width, height = Picture.open(io.BytesIO(answer.content)).size
            assert f"{width}x{height}" == size


def test_what_people_wrote_is_not_taken_for_an_address() -> None:
    page = '<a href="/x" title="see href=&#34;/y&#34;">href="/z</a><a href="//else"></a>'
    assert under("/taste", page) == page.replace('"/x"', '"/taste/x"')
    assert under("", page) == page


@pytest.mark.parametrize(
    ("typed", "path"), [("", ""), ("/", ""), ("taste", "/taste"), ("/a/taste/", "/a/taste")]
)
def test_the_path_may_be_typed_with_any_slashes(tmp_path: Path, typed: str, path: str) -> None:
    assert settings_in(tmp_path, root_path=typed).root_path == path


@pytest.mark.parametrize("typed", ["/a//b", "/../etc", "/a?b", "/tä", 'x"><b', "http://x/y"])
def test_a_path_that_is_none_is_refused(tmp_path: Path, typed: str) -> None:
    with pytest.raises(ValidationError, match="a path"):
        settings_in(tmp_path, root_path=typed)


@pytest.mark.parametrize("own", ["/images", "/projects/x", "/static", "/api", "/healthz"])
def test_a_path_that_is_the_programs_own_is_refused(tmp_path: Path, own: str) -> None:
    with pytest.raises(Invalid, match=f"TASTEMAKER_ROOT_PATH={own}: .* of the program's own"):
        create_app(settings_in(tmp_path, root_path=own))
    assert not (tmp_path / "tastemaker.db").exists(), "before anything is made"


# --- who signs in, by a proxy --------------------------------------------------------------------


@pytest.fixture
def behind(tmp_path: Path) -> World:
    world = make_world(tmp_path, images=3, admin_password=OWN, trusted_proxies=PROXY,
                       sign_in_header="Remote-User")  # fmt: skip
    with writing(world.engine) as session:
        accounts.add(session, "Ada", SECRET)
        accounts.add(session, "Zoë", role="viewer")
    return world


def through(app: FastAPI, name: str | None, address: str = PROXY) -> TestClient:
    client = client_of(app, client=(address, 4000))
    if name is not None:
        client.headers.encoding = "utf-8"
        client.headers["Remote-User"] = name
    return client


def test_a_named_proxy_says_who_signed_in(behind: World) -> None:
    ada = through(behind.app, "Ada")
    assert ada.post(f"/api/v1{behind.at}/scores", json={"image_id": 1, "value": 7}).json()["saved"]
    page = ada.get(f"{behind.at}/score")
    assert page.status_code == 200 and "Sign out" not in page.text
    viewer = through(behind.app, "Zoë")
    assert viewer.get(f"{behind.at}/library").status_code == 200
    assert viewer.post(f"/api/v1{behind.at}/train", json={}).status_code == 403
    nobody = through(behind.app, None)
    assert nobody.get(f"{behind.at}/library").headers["location"].startswith("/login")
    signed = nobody.post("/login", data={"name": "admin", "password": OWN})
    assert signed.status_code == 303, "passwords work beside it"
    assert nobody.get("/jobs").status_code == 200
    people = nobody.get(f"{behind.at}/people").text
    assert "at the proxy in front" in people and "and with your password" in people
    assert 'name="password" minlength' in people, "a person may do without one"
    assert "and when you are shut out" in ada.get(f"{behind.at}/people").text


def test_a_forged_header_is_refused(behind: World) -> None:
    for address in ("10.9.9.9", "127.0.0.1", "testclient"):
        answer = through(behind.app, "Ada", address).get("/api/v1/projects")
        assert answer.status_code == 403
        assert "does not come from a proxy that may say so" in answer.json()["error"]
    forwarded = through(behind.app, "Ada", "10.9.9.9")
    forwarded.headers["X-Forwarded-For"] = PROXY
    assert forwarded.get("/api/v1/projects").status_code == 403
    twice = through(behind.app, None)
    headers = [("Remote-User", "Ada"), ("Remote-User", "Zoe")]
    assert "twice" in twice.get("/api/v1/projects", headers=headers).json()["error"]


def test_the_proxy_lets_in_only_whom_this_server_knows(behind: World) -> None:
    owner = through(behind.app, "me").get("/api/v1/projects")
    assert owner.status_code == 403 and "the owner’s name" in owner.json()["error"]
    for name in ("Eve", "admin", "me "):
        answer = through(behind.app, name).get("/api/v1/people")
        assert answer.status_code == 403, name
    with writing(behind.engine) as session:
        accounts.disable(session, accounts.by_name(session, "Ada"))
    refused = through(behind.app, "Ada").get("/api/v1/projects")
    assert refused.status_code == 403 and "scores here no more" in refused.json()["error"]
    empty = through(behind.app, "")
    assert empty.get("/api/v1/projects").status_code == 401, "nobody has signed in"


def test_settings_that_would_let_anybody_be_anyone_are_refused(tmp_path: Path) -> None:
    for number, (fields, why) in enumerate((
        ({}, "anybody could send"), ({"trusted_proxies": "*"}, "anybody could send"),
        ({"trusted_proxies": "10.0.0.1, ::/0"}, "anybody could send"),
        ({"trusted_proxies": PROXY}, "no password is set"),
    )):  # fmt: skip
        settings = settings_in(tmp_path / str(number), sign_in_header="Remote-User", **fields)
        with pytest.raises(Invalid, match=why):
            create_app(settings)


def test_where_a_request_comes_from_is_believed_of_named_proxies_only(tmp_path: Path) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["client"][0], scope["scheme"]))

    said = [(b"x-forwarded-for", b"8.8.8.8"), (b"x-forwarded-proto", b"https")]
    for named in ("", PROXY):
        middleware = TrustedProxies(app, settings_in(tmp_path, trusted_proxies=named))
        for peer in (PROXY, "127.0.0.1"):
            scope = {"type": "http", "client": (peer, 1), "scheme": "http", "headers": said}
            one_loop().call(middleware, scope, None, None)
    plain, local = (PROXY, "http"), ("127.0.0.1", "http")
    assert seen == [plain, local, ("8.8.8.8", "https"), local]


# --- all of it, behind Debian's nginx ------------------------------------------------------------

NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error;
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{
    listen 127.0.0.1:{port};
    location {path}/ {{
      proxy_pass {upstream}{stripped};
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header Remote-User "Ada";
    }}
  }}
}}
"""


@contextmanager
def nginx(folder: Path, upstream: str, path: str, stripped: str) -> Iterator[str]:
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(program).exists():
        pytest.skip("nginx is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "nginx.conf"
    words = {"folder": folder, "port": port, "upstream": upstream}
    config.write_text(NGINX.format(path=path, stripped=stripped, **words))
    process = subprocess.Popen([program, "-p", folder, "-c", config, "-e", folder / "error"])
    try:
        until(lambda: _answers(port), 20, "for nginx")
        yield f"http://localhost:{port}{path}"
    finally:
        process.terminate()
        process.wait(10)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.browser
def test_the_loop_runs_under_a_path_behind_nginx_that_says_who_signed_in(
    chromium: Browser, tmp_path: Path
) -> None:
    world = full_world(
        tmp_path / "home", admin_password=OWN, trusted_proxies="127.0.0.1",
        sign_in_header="Remote-User", root_path="/taste",
    )  # fmt: skip
    with writing(world.engine) as session:
        accounts.add(session, "Ada", SECRET, role="admin")
    before = len(events(world))
    with (
        serving(world) as upstream,
        nginx(tmp_path, upstream.replace("localhost", "127.0.0.1"), "/taste", "") as address,
        browsing(chromium) as page,
    ):
        lost: list[str] = []
        page.on("response", lambda answer: lost.append(f"{answer.status} {answer.url}")
                if answer.status >= 400 else None)  # fmt: skip
        page.goto(f"{address}/")
        page.get_by_role("link", name="Anime").first.click()
        page.goto(f"{address}{world.at}/score")
        first = shown_image(page)
        page.keyboard.press("7")
        second = shown_image(page)
        page.keyboard.press("2")
        assert shown_image(page) not in (first, second)
        page.keyboard.press("Backspace")
        assert shown_image(page) == second
        assert saved(page, world, before + 3)[-3][:2] == (first, "set")
        page.get_by_role("link", name="Library").first.click()
        expect(page.locator(".shelf-tile img").first).to_be_visible()
        page.locator(".shelf-picture").first.click()
        expect(page).to_have_url(f"{address}{world.at}/images/30")
        page.get_by_role("link", name="Review").first.click()
        page.get_by_role("link", name="Versions").first.click()
        expect(page.get_by_role("heading", name="Versions")).to_be_visible()
        assert page.url.startswith(f"{address}/projects/") and lost == []
    with reading(world.engine) as session:
        newest = session.exec(select(ScoreEvent).order_by(ScoreEvent.id.desc())).first()
        assert newest.annotator_id == accounts.by_name(session, "Ada").id


# --- without what only POSIX has -----------------------------------------------------------------

HIDING = """
import builtins, os, signal

ONLY_POSIX = {"resource", "fcntl", "pwd", "grp", "termios", "posix"}
really = builtins.__import__


def importing(name, globals=None, locals=None, fromlist=(), level=0):
    asks = (globals or {}).get("__name__", "")
    if name in ONLY_POSIX and asks.startswith("tastemaker"):
        raise ImportError(f"{asks} needs {name}")
    return really(name, globals, locals, fromlist, level)


builtins.__import__ = importing
for name in ("nice", "link", "fchmod", "sync", "setpriority"):
    delattr(os, name)
del signal.pthread_sigmask
"""

THE_LOOP = """
import importlib, pkgutil, sys
from pathlib import Path

import tastemaker
from sqlmodel import select

if __name__ == "__main__":
    for found in pkgutil.walk_packages(tastemaker.__path__, "tastemaker."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    from tastemaker import embeddings, jobs, projects, scores, versions
    from tastemaker.config import Settings
    from tastemaker.database import sessions
    from tastemaker.database.migration import migrate
    from tastemaker.database.tables import Image, Job
    from tastemaker.encoding.encoder_specs import BUNDLED
    from tastemaker.importing import imports, requests
    from tastemaker.jobs.children import HANDLERS
    from tastemaker.jobs.context import JobContext
    from tastemaker.training.retrain import request_training

    settings = Settings(home=sys.argv[1], min_free_gb=0, _env_file=None)
    settings.make_folders()
    engine = migrate(settings)

    def work():
        while True:
            with sessions.writing(engine) as session:
                taken = jobs.claim_next(session)
            if taken is None:
                return
            context = JobContext(settings, engine, *taken, lambda kind, value: None)
            module, name = HANDLERS[taken[0].kind].split(":")
            result = getattr(importlib.import_module(module), name)(context)
            with sessions.writing(engine) as session:
                jobs.finish(session, context.claim, result)

    with sessions.writing(engine) as session:
        project = projects.create(session, "Anime", encoder=BUNDLED)
        resolved = requests.validate_paths(settings, [sys.argv[2]])
        requests.enqueue_import(session, settings, resolved, project=project)
    work()
    with sessions.writing(engine) as session:
        project = projects.get(session, 1)
        person = projects.annotator(session, settings.annotator)
        for image in session.exec(select(Image)).all():
            value = 3 * (image.id % 4)
            scores.record(session, project, image.id, person, "set", value, origin="queue")
        request_training(session, settings, project, recipe="ridge")
    work()
    with sessions.reading(engine) as session:
        version = versions.active(session, projects.get(session, 1))
        assert versions.verify(settings, version).is_file()
        print(version.number, version.metrics.images)
"""


@pytest.mark.slow
def test_everything_imports_and_the_loop_runs_without_what_only_posix_has(tmp_path: Path) -> None:
    """In every process: a module that hides it is imported when a Python begins."""
    (tmp_path / "hiding").mkdir()
    (tmp_path / "hiding" / "sitecustomize.py").write_text(HIDING)
    (tmp_path / "loop.py").write_text(THE_LOOP)
    random = np.random.default_rng(1)
    (tmp_path / "pictures").mkdir()
    for number in range(12):
        pixels = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Picture.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    words = [sys.executable, tmp_path / "loop.py", tmp_path / "home", tmp_path / "pictures"]
    path = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "hiding"), *sys.path])}
    run = subprocess.run(words, env=os.environ | path, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.split()[0] == "v1.0"


def test_a_process_without_limits_of_the_system_watches_its_own_time() -> None:
    program = """
from tastemaker.processes import systems
systems.resource, systems.WATCHED_EVERY = None, 0.05
systems.limit_memory(2**30)
systems.limit_cpu(0)
while True:
    pass
"""
    run = subprocess.run([sys.executable, "-c", program], timeout=30)
    assert run.returncode == 1


def test_a_name_is_never_taken_twice_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "link")
    for number in range(2):
        (tmp_path / f"{number}.part").write_text(str(number))
    publish_exclusive(tmp_path / "0.part", tmp_path / "published")
    with pytest.raises(Conflict, match="never overwritten"):
        publish_exclusive(tmp_path / "1.part", tmp_path / "published")
    assert (tmp_path / "published").read_text() == "0"
    assert not (tmp_path / "0.part").exists() and (tmp_path / "1.part").exists()
