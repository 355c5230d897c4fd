"""A PostgreSQL server of the tests' own, on a socket that nobody else knows."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class NoServer(Exception):
    """This machine has none, and says why."""


def programs() -> Path | None:
    """The folder of PostgreSQL's own programs; Debian keeps them off the path."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which("pg_ctl")
    places += [Path(found).parent] if found else []
    return next((place for place in places if (place / "initdb").exists()), None)


@contextmanager
def postgres() -> Iterator[str]:
    """Start it, give its address, stop it. Raises `NoServer`."""
    place = programs()
    if place is None:
        raise NoServer("no PostgreSQL server is installed on this machine")
    as_user: dict[str, Any] = {}
    folder = Path(tempfile.mkdtemp(prefix="tastemaker-postgres-"))
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        try:
            account = pwd.getpwnam("postgres")
        except KeyError:
            raise NoServer(
                "PostgreSQL does not run as root, and there is no user postgres"
            ) from None
        os.chown(folder, account.pw_uid, account.pw_gid)
        as_user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

    def run(*words: str) -> None:
        subprocess.run(
            [str(place / words[0]), *words[1:]], check=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, cwd=folder, timeout=60, **as_user,
        )  # fmt: skip

    data = str(folder / "data")
    options = f"-c listen_addresses='' -c fsync=off -c unix_socket_directories={folder}"
    try:
        run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8")
        run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
