"""Clients that read a long answer slowly, against uvicorn's own protocol and real sockets."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.responses import Response
from uvicorn import Config
from uvicorn.server import ServerState

from tastemaker.auth.connections import BoundedConnection

SECONDS = 0.5
MOST = 2
BODY = b"x" * 2**23
PIECE = 2**15
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n%s\r\n"


class Connection(BoundedConnection):
    seconds, most = SECONDS, MOST


def in_thread(work: Coroutine[Any, Any, int | list[int]]) -> Any:
    """What a coroutine gives: on a thread, as the browser of other tests has this one's loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


Opened = Callable[[bytes], Awaitable[socket.socket]]


@contextlib.asynccontextmanager
async def served(state: ServerState | None = None) -> AsyncIterator[Opened]:
    """A server whose answer is one long body; gives what opens a connection and sends a request."""
    config = Config(Response(BODY), http=Connection, lifespan="off", log_config=None)
    config.load()
    state, loop = state or ServerState(), asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**12)  # so it waits itself
    clients: list[socket.socket] = []

    async def opened(request: bytes = b"") -> socket.socket:
        client = socket.socket()
        clients.append(client)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)
        client.setblocking(False)
        await loop.sock_connect(client, server.sockets[0].getsockname())
        await loop.sock_sendall(client, request)
        return client

    try:
        yield opened
    finally:
        for client in clients:
            client.close()
        server.close()


async def read(client: socket.socket, seconds: float) -> int:
    """How many bytes come to one who takes so long for the whole body."""
    loop, got = asyncio.get_running_loop(), 0
    while True:
        try:
            piece = await loop.sock_recv(client, PIECE)
        except ConnectionResetError:
            return got
        got += len(piece)
        if not piece or got > len(BODY):
            return got
        await asyncio.sleep(seconds * len(piece) / len(BODY))


def test_an_answer_that_is_read_slowly_comes_to_its_end_and_then_another_request_is_heard() -> None:
    async def reads() -> list[int]:
        async with served() as opened:
            lasting = await opened(REQUEST % b"")
            both = [await read(lasting, 4 * SECONDS)]
            await asyncio.get_running_loop().sock_sendall(lasting, REQUEST % b"")
            both.append(await read(lasting, 0))
            closing = await opened(REQUEST % b"Connection: close\r\n")
            return [*both, await read(closing, 3 * SECONDS)]

    assert min(in_thread(reads())) > len(BODY)


def test_an_answer_that_nobody_goes_on_reading_is_given_up_whatever_is_sent_meanwhile() -> None:
    async def reads(more: bytes) -> int:
        async with served() as opened:
            client, loop = await opened(REQUEST % more), asyncio.get_running_loop()
            await loop.sock_recv(client, PIECE)
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                async with asyncio.timeout(20):
                    while True:  # the server goes, or this would end by the clock
                        await loop.sock_sendall(client, b"\r\n")
                        await asyncio.sleep(SECONDS / 5)
            return await read(client, 0)

    for more in (b"", b"Connection: close\r\n"):
        assert in_thread(reads(more)) < len(BODY) // 2


def test_an_answer_that_is_read_nearly_to_its_end_and_no_further_is_given_up() -> None:
    async def reads(more: bytes) -> int:
        state = ServerState()
        async with served(state) as opened:
            client, loop = await opened(REQUEST % more), asyncio.get_running_loop()
            await loop.sock_recv(client, 1)
            (connection,) = state.connections
            left = connection.transport.get_write_buffer_size
            connection.transport.set_write_buffer_limits(high=2**21, low=2**20)
            async with asyncio.timeout(20):
                while not left():
                    await asyncio.sleep(0)
                while left() >= 2**20 - 2**17:  # and so it is told to go on writing
                    await loop.sock_recv(client, PIECE)
                    await asyncio.sleep(0)  # the server writes
            unsent = left()
            async with asyncio.timeout(20):
                while state.connections:
                    await asyncio.sleep(SECONDS / 5)
            return int(unsent)

    for more in (b"", b"Connection: close\r\n"):
        assert in_thread(reads(more)) > 0


def test_who_reads_makes_room_after_who_stands_idle() -> None:
    async def reads() -> int:
        async with served() as opened:
            reading = asyncio.create_task(read(await opened(REQUEST % b""), 2 * SECONDS))
            await asyncio.sleep(SECONDS / 2)
            loop = asyncio.get_running_loop()
            idle, _ = await opened(b""), await asyncio.sleep(SECONDS / 4)
            newcomer = await opened(REQUEST % b"")
            with contextlib.suppress(ConnectionResetError):
                assert await loop.sock_recv(idle, 1) == b"", "it made room"
            assert await loop.sock_recv(newcomer, 12) == b"HTTP/1.1 200"
            return await reading

    assert in_thread(reads()) > len(BODY)
