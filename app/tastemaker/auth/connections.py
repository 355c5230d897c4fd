"""Clients that are slow, stand idle, or are too many.

Whoever opens a connection and says nothing, sends a request letter by letter or does not read its
answer costs no thread, but a place. uvicorn bounds only the pause after an answer; here every pause
in which the server waits for the client is bounded, and so is the number of connections. Where all
places are taken, the client that was waited for longest makes room; so scores get through however
many connections stand open. Only where every place is at work is a newcomer refused.
"""

import asyncio
import contextlib
import socket
from typing import ClassVar

from starlette.types import Message, Receive
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tastemaker.config import Settings
from tastemaker.errors import TooSlow

PROGRESS = 4096  # bytes within the time that is waited: who sends or takes fewer stands still
UNSENT = 2**16  # bytes that the system takes ahead of sending them, which cannot be seen from here


def patient(receive: Receive, seconds: float) -> Receive:
    """The body of a request, as long as it comes in: raises `TooSlow` where so many seconds of
    waiting brought less than `PROGRESS` bytes, and not its end. What the server does meanwhile
    does not count."""
    complete = False
    waited, received = 0.0, 0

    async def timed() -> Message:
        nonlocal complete, waited, received
        if complete:  # what may come now is only the news that the client is gone
            return await receive()
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(seconds - waited):
                message = await receive()
        except TimeoutError:
            complete = True
            raise TooSlow(
                f"The request did not go on for {seconds:g} seconds; nothing of it was kept.",
                "Send it again, over a better connection if there is one.",
            ) from None
        waited += clock() - began
        received += len(message.get("body", b""))
        if received >= PROGRESS:
            waited, received = 0.0, 0
        complete = not message.get("more_body", False)
        return message

    return timed


class BoundedConnection(HttpToolsProtocol):
    """One connection of uvicorn's. The invariant: while the server waits for this client, for the
    head of a request, a body that nobody reads any more or the reading of an answer, one of its
    two timers runs. A body that somebody reads is `patient`'s, which can answer."""

    seconds: ClassVar[float]
    most: ClassVar[int]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn’s own
        super().connection_made(transport)
        self._head_timer: asyncio.TimerHandle | None = None
        self._reading_timer: asyncio.TimerHandle | None = None
        self._in_head = self._body_comes = False
        self._drained = 0  # bytes of a body that was answered already
        self._untaken = 0  # bytes of an answer, when the client last took some
        self.heard_at = self._took_at = self.loop.time()
        with contextlib.suppress(AttributeError, OSError):  # not every system or socket has it
            transport.get_extra_info("socket").setsockopt(
                socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT
            )
        self._expect_a_request()
        self._find_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop(self._head_timer)
        self._stop(self._reading_timer)
        super().connection_lost(exc)

    # --- how many -------------------------------------------------------------------------------

    @property
    def waits_for_client(self) -> bool:
        at_work = self.cycle is not None and not self.cycle.response_complete
        return not at_work or self._body_comes or self.flow.write_paused

    def _find_room(self) -> None:
        others = [
            other
            for other in self.connections
            if other is not self
            and isinstance(other, BoundedConnection)
            and not other.transport.is_closing()
        ]
        if len(others) < self.most:
            return
        waiting = [other for other in others if other.waits_for_client]
        for other in waiting:
            other._look_what_was_taken()
        if waiting:
            min(waiting, key=lambda other: other.heard_at).transport.abort()
            return
        self._answer(
            503,
            f"All {self.most} connections of this server are at work; nothing was changed. "
            "Try again in a few seconds.",
            b"retry-after: 2\r\n",
        )

    # --- how long -------------------------------------------------------------------------------

    def _expect_a_request(self) -> None:
        self._stop(self._head_timer)
        self._drained = 0
        self._head_timer = self.loop.call_later(self.seconds, self._no_request_came)

    def _no_request_came(self) -> None:
        if self._in_head:
            self._answer(
                408,
                f"The request did not come in within {self.seconds:g} seconds; nothing was "
                "changed. Send it again.",
            )
        elif self.transport.get_write_buffer_size():  # it still reads, which has its own timer
            self._expect_a_request()
        else:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self.heard_at = self.loop.time()
        super().data_received(data)
        if self._body_comes and self.cycle is not None and self.cycle.response_complete:
            self._drained += len(data)
            if self._drained >= PROGRESS:
                self._expect_a_request()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._in_head, self._body_comes = False, True
        self._stop(self._head_timer)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._body_comes = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.heard_at = self.loop.time()
        self._expect_reading()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._expect_a_request()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        self._look_what_was_taken()
        if self.cycle is None or not self.cycle.response_complete:
            self._stop(self._reading_timer)  # what is still to be written begins it anew
        super().resume_writing()

    def _expect_reading(self) -> None:
        """From now on nothing is written until the client has taken what there is."""
        self._stop(self._reading_timer)
        self._untaken, self._took_at = self.transport.get_write_buffer_size(), self.loop.time()
        if self._untaken:
            self._reading_timer = self.loop.call_later(self.seconds, self._reading_goes_on)

    def _reading_goes_on(self) -> None:
        self._look_what_was_taken()
        if self.loop.time() - self._took_at >= self.seconds:
            self.transport.abort()
        elif self._untaken:
            self._reading_timer = self.loop.call_later(self.seconds, self._reading_goes_on)

    def _look_what_was_taken(self) -> None:
        left = self.transport.get_write_buffer_size()
        if self._untaken - left >= PROGRESS or left == 0 < self._untaken:
            self._untaken = left
            self.heard_at = self._took_at = self.loop.time()

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()

    def _answer(self, status: int, sentence: str, more: bytes = b"") -> None:
        """Answer before any application is asked, and close."""
        content = sentence.encode()
        head = (
            b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
            b"connection: close\r\n%s\r\n"
        )
        self.transport.write(STATUS_LINE[status] + head % (len(content), more) + content)
        self.transport.close()


def connection_class(settings: Settings) -> type[BoundedConnection]:
    """What uvicorn makes of every connection."""

    class Connection(BoundedConnection):
        seconds, most = settings.idle_seconds, settings.max_connections

    return Connection
