"""`tastemaker serve`: the web process, and a worker beside it that is restarted when it dies."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import uvicorn

from tastemaker.auth import accounts
from tastemaker.auth.connections import connection_class
from tastemaker.auth.origins import LOOPBACK
from tastemaker.config import Settings
from tastemaker.database import copies
from tastemaker.errors import Invalid, TastemakerError
from tastemaker.processes import loading, logs, one_thread_for_products
from tastemaker.processes.systems import interrupts_blocked
from tastemaker.versions import file_checks

FIRST_PAUSE = 0.5  # seconds before a worker that ended is started again; doubled each time
LONG_LIFE = 60.0  # seconds after which its end says nothing about the next one


NEW_ID = "Stop the program here and type: tastemaker library-id --new"


def copy_of(original: Path) -> str:
    """What is wrong with a home folder that is a copy of another one which is still there."""
    return (
        f"This library is a copy of the one in {original}, with the same id: a browser cannot tell "
        "which of them a score waits for."
    )


def serve(settings: Settings, host: str, port: int, *, with_worker: bool, begin: str = "") -> None:
    """Serve until stopped; `begin` is the page to begin with. Raises `TastemakerError` for a taken
    port, an address that others can reach without a password set, or a password that is easily
    guessed."""
    logs.configure(settings)
    if settings.admin_password:
        try:
            accounts.validate_password(settings.admin_password)
        except Invalid as error:
            raise TastemakerError(
                f"TASTEMAKER_ADMIN_PASSWORD will not do. {error.message}", error.hint
            ) from error
    if host not in LOOPBACK and not settings.admin_password:
        raise TastemakerError(
            f"{host} can be reached from other machines, and no password is set.",
            "Set TASTEMAKER_ADMIN_PASSWORD, or serve on 127.0.0.1.",
        )
    listening = _listen(host, port)
    port = listening.getsockname()[1]
    with loading():
        from tastemaker.pages.app import create_app

        application = create_app(settings, served_on=host)
    server = uvicorn.Server(
        uvicorn.Config(
            application, log_config=None, log_level="warning", access_log=False,
            timeout_graceful_shutdown=5, http=connection_class(settings),
            server_header=False, proxy_headers=False,  # `TrustedProxies` sees to them
        )
    )  # fmt: skip
    supervisor = WorkerSupervisor() if with_worker else None
    if supervisor:
        supervisor.start()
    name = f"[{host}]" if ":" in host else host
    original = copies.note_place(settings, application.state.library)
    if original is not None:
        print(f"{copy_of(original)} {NEW_ID}", file=sys.stderr, flush=True)
    file_checks.check_all_files(application.state.engine, settings)
    print(
        f"Tastemaker is at http://{name}:{port}{settings.root_path}{begin}  (Ctrl-C stops it)",
        flush=True,
    )
    # uvicorn raises the signal again once it has stopped: the worker is still to be ended then.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    one_thread_for_products()
    try:
        server.run(sockets=[listening])
    finally:
        if supervisor:
            supervisor.stop()


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket, bound before anything is started: a taken port is reported at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol must be named: asyncio sets TCP_NODELAY only then, and without it every answer
    # waits 40 ms for the client's delayed acknowledgement.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise TastemakerError(
            f"Port {port} on {host} cannot be used: {error.strerror or error}.",
            f"Stop the program that has it, or choose another: --port {port + 1 if port else 8001}",
        ) from error
    listening.listen(128)
    listening.set_inheritable(False)
    return listening


class WorkerSupervisor:
    """Keeps one worker process alive: a thread waits for its end and starts the next."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._supervise, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _supervise(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            with interrupts_blocked():  # Ctrl-C is for this process, which ends its worker
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tastemaker.cli", "worker"],
                    env=os.environ | {"TASTEMAKER_SUPERVISED": str(os.getpid())},
                    stdin=subprocess.DEVNULL,
                )
            if self._stopping.is_set():
                self._process.terminate()
            began = time.monotonic()
            self._process.wait()
            if time.monotonic() - began > LONG_LIFE:
                pause = FIRST_PAUSE
            self._stopping.wait(pause)
            pause = min(pause * 2, 10.0)

    def stop(self) -> None:
        self._stopping.set()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._thread.join(5)
