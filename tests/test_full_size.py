"""A picture at its full size; and lanes: what is slow never stands before a score."""

import asyncio
import hashlib
import io
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio.to_thread import current_default_thread_limiter, run_sync
from PIL import Image as Picture
from web_world import ORIGIN, OWN_PAGE, World, drawn, make_world

from tastemaker.auth import lanes
from tastemaker.auth.lanes import Lane
from tastemaker.database.sessions import writing
from tastemaker.database.tables import Image, ImagePath
from tastemaker.errors import Unavailable
from tastemaker.pictures import full_size


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Image 1 has a file of its own, on this machine."""
    world = make_world(tmp_path / "home", images=3)
    file = tmp_path / "picture.png"
    drawn(1).save(file)
    content, status = file.read_bytes(), file.stat()
    with writing(world.engine) as session:
        image = session.get_one(Image, 1)
        image.sha256 = hashlib.sha256(content).hexdigest()
        session.add(image)
        session.add(
            ImagePath(image_id=1, path=str(file), size=status.st_size, mtime_ns=status.st_mtime_ns)
        )
    return world


def file_of(world: World) -> Path:
    return world.settings.root.parent / "picture.png"


def test_a_picture_is_shown_at_its_full_size_without_its_metadata(world: World) -> None:
    answer = world.client.get("/images/1/full")
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/webp"
    picture = Picture.open(io.BytesIO(answer.content))
    assert picture.size == drawn(1).size and not picture.getexif()
    file_of(world).rename(file_of(world).with_suffix(".gone"))
    assert world.client.get("/images/1/full").status_code == 404, "a thumbnail is all there is"


def test_other_bytes_under_the_same_name_size_and_time_are_not_shown(world: World) -> None:
    file, before = file_of(world), file_of(world).stat()
    other = io.BytesIO()
    drawn(2).save(other, "PNG")
    content = other.getvalue()[: before.st_size]
    file.write_bytes(content.ljust(before.st_size, b"\0"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    answer = world.client.get("/images/1/full")
    assert answer.status_code == 404 and "changed since it was imported" in answer.text


def test_what_a_webp_file_cannot_hold_is_shown_as_jpeg() -> None:
    content = full_size.encoded(Picture.new("RGB", (20_000, 2), "red"))
    assert full_size.media_type(content) == "image/jpeg"
    assert Picture.open(io.BytesIO(content)).size == (20_000, 2)
    assert full_size.media_type(full_size.encoded(Picture.new("RGB", (9, 9)))) == "image/webp"


# --- lanes ---------------------------------------------------------------------------------------


def in_a_loop_of_its_own(work: Coroutine[Any, Any, None]) -> None:
    """In a thread of its own: the browser of other tests keeps a loop running in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


async def served(world: World, work: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    transport = httpx.ASGITransport(app=world.app)
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=OWN_PAGE) as client:
        await work(client)


async def score(client: httpx.AsyncClient, world: World) -> httpx.Response:
    body = {"image_id": 2, "value": 7}
    return await client.post(f"/api/v1{world.at}/scores", json=body, timeout=20)


def test_a_score_is_saved_while_every_other_thread_is_busy(world: World) -> None:
    done = threading.Event()

    async def work(client: httpx.AsyncClient) -> None:
        busy = current_default_thread_limiter().total_tokens
        async with anyio.create_task_group() as group:
            for _ in range(int(busy)):
                group.start_soon(run_sync, done.wait)
            try:
                with anyio.fail_after(20):
                    assert (await score(client, world)).status_code == 200
                    form = {"value": "8", "key": "a key of a form"}
                    address = f"{world.at}/images/3/score"
                    assert (await client.post(address, data=form)).status_code == 303
            finally:
                done.set()

    in_a_loop_of_its_own(served(world, work))


def test_45_zooms_at_once_keep_no_thumbnail_waiting_and_the_last_are_told_to_come_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = threading.Event()
    monkeypatch.setattr(
        full_size.FullSize, "make", lambda *_: done.wait() and full_size.encoded(drawn(1))
    )

    async def work(client: httpx.AsyncClient) -> None:
        statuses: list[int] = []

        async def zoom() -> None:
            answer = await client.get("/images/1/full", timeout=30)
            statuses.append(answer.status_code)
            if answer.status_code == 503:
                assert "Try again" in answer.text and int(answer.headers["retry-after"]) > 0

        async with anyio.create_task_group() as group:
            for _ in range(45):
                group.start_soon(zoom)
            try:
                with anyio.fail_after(20):
                    while len(statuses) < 45 - 1 - lanes.PICTURES.waiting:
                        await asyncio.sleep(0)
                    assert set(statuses) == {503}
                    assert (await client.get("/images/1/thumb")).status_code in (200, 404)
                    assert (await client.get("/images/2/thumb")).status_code == 200
            finally:
                done.set()
        assert statuses.count(200) == 1 + lanes.PICTURES.waiting

    in_a_loop_of_its_own(served(world, work))


def test_a_lane_works_so_many_at_once_and_refuses_what_it_has_no_room_for() -> None:
    lane = Lane("tests", threads=1, waiting=1)
    done, at_work = threading.Event(), []

    def job() -> int:
        at_work.append(1)
        assert len(at_work) == 1
        done.wait()
        at_work.pop()
        return 5

    async def work() -> None:
        answers: list[int] = []

        async def ask() -> None:
            answers.append(await lane.run(job))

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            group.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(Unavailable, match="tests"):
                await lane.run(job)
            done.set()
        assert answers == [5, 5]

    in_a_loop_of_its_own(work())
