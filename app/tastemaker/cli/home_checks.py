"""What `tastemaker doctor` sees without the database: the home folder, its disk, who may read it,
what was left in it, its backups, and the port."""

import json
import os
import socket
import stat
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import make_url

from tastemaker.cli.terminal import counted, were
from tastemaker.config import Settings
from tastemaker.database import backups
from tastemaker.database.tables import now
from tastemaker.errors import TastemakerError
from tastemaker.files import free_space, try_writing

Level = Literal["ok", "warning", "damage"]

OLD_BACKUP = timedelta(days=7)
PORT = 8000  # where `serve` listens unless it is told otherwise
RESTORE = "Put a backup in its place: `tastemaker restore FILE`."


@dataclass(frozen=True)
class Finding:
    level: Level
    what: str
    hint: str = ""


def guarded(what: str, check: Callable[..., list[Finding]], *arguments: Any) -> list[Finding]:
    """The findings of a check; where it cannot look, that is its finding."""
    try:
        return check(*arguments)
    except TastemakerError as error:
        return [Finding("damage", error.message, error.hint)]
    except Exception as error:  # a doctor that dies of the illness tells nobody anything
        origin = getattr(error, "orig", None) or error
        reason = (str(origin).strip() or type(origin).__name__).splitlines()[0].rstrip(".")
        return [
            Finding("damage", f"{what} could not be looked at: {reason}.",
                    "Put right what it names, then look again.")
        ]  # fmt: skip


def examine(settings: Settings) -> list[Finding]:
    """All checks of the home folder, which is there."""
    findings = []
    for what, check in CHECKS.items():
        findings += guarded(what, check, settings)
    return findings


def place(settings: Settings) -> list[Finding]:
    """Whether there is a home folder to look into: then one of the findings is “ok”."""
    try:
        root = settings.root
    except (OSError, RuntimeError) as error:  # a loop of links
        why = f"The home folder {settings.home} leads nowhere: {error}."
        return [Finding("damage", why, "Point TASTEMAKER_HOME at a folder.")]
    if not root.exists():
        hint = "`tastemaker serve` makes it, or point TASTEMAKER_HOME at the right one."
        return [Finding("warning", f"There is no home folder {root} yet.", hint)]
    if not root.is_dir():
        hint = "Move the file away, or point TASTEMAKER_HOME at a folder."
        return [Finding("damage", f"{root} is a file, and a folder is needed.", hint)]
    found = [Finding("ok", f"The home folder is {root}.")]
    folders = ("images", "thumbs", "checkpoints", "backups", "live", "incoming")
    for folder in (root / name for name in folders):
        if folder.exists() and not folder.is_dir():
            hint = "Move it away; the program makes the folder anew."
            found.append(Finding("damage", f"{folder} is a file, and a folder is needed.", hint))
        elif not folder.exists():
            hint = "The next start makes it; what was in it comes back from a backup."
            found.append(Finding("warning", f"The folder {folder} is missing.", hint))
    return found


def database_file(settings: Settings) -> list[Finding]:
    """What is wrong with the file of an SQLite database, before it is opened; nothing where it can
    be."""
    url = make_url(settings.database)
    if url.get_backend_name() != "sqlite":
        return []
    file = Path(url.database or "")
    if not file.exists():
        hint = "`tastemaker serve` makes one; if there was one, restore a backup."
        return [Finding("warning", f"There is no database {file} yet.", hint)]
    if not file.is_file():
        return [Finding("damage", f"{file} is a folder, and a database is needed.", RESTORE)]
    if file.stat().st_size == 0:
        return [Finding("damage", f"The database {file} is empty.", RESTORE)]
    if not os.access(file, os.R_OK):
        hint = "Start the program as the user whose file it is."
        return [Finding("damage", f"The database {file} may not be read by you.", hint)]
    return []


def _writable(settings: Settings) -> list[Finding]:
    try:
        try_writing(settings.root)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        hint = "See that its disk is not mounted read-only, and that you may write to it."
        return [Finding("damage", f"The home folder cannot be written: {reason}.", hint)]
    return []


def _space(settings: Settings) -> list[Finding]:
    free = free_space(settings.root) / 2**30
    if free < settings.min_free_gb:
        only = f"Only {free:.1f} GB are free; uploads and jobs are refused."
        return [Finding("warning", only, "Free some.")]
    return [Finding("ok", f"{free:.0f} GB free in {settings.root}.")]


def _private(settings: Settings) -> list[Finding]:
    """The database holds password hashes, and the home pictures meant for nobody else."""
    if os.name != "posix":
        return []
    root = settings.root
    found = [path for path in (root / "tastemaker.db", settings.backups) if path.exists()]
    open_ones = [path for path in found if stat.S_IMODE(path.stat().st_mode) & 0o077]
    if open_ones:
        hint = f"chmod go= '{open_ones[0]}'"
        return [Finding("warning", f"{open_ones[0]} can be read by others here.", hint)]
    if stat.S_IMODE(root.stat().st_mode) & 0o007:
        hint = f"Pictures may be meant for nobody else: chmod o= '{root}'"
        return [Finding("warning", "Others on this machine may look into the home folder.", hint)]
    return []


def _leftovers(settings: Settings) -> list[Finding]:
    before = now().timestamp() - 24 * 3600
    left = [path for path in settings.root.rglob("*.part") if path.lstat().st_mtime < before]
    if not left:
        return []
    n = len(left)
    what = f"{counted(n, 'half-written file')} {were(n)} left: {left[0]}."
    return [Finding("warning", what, "A running worker removes them within a day.")]


def _backups(settings: Settings) -> list[Finding]:
    if not settings.database.startswith("sqlite"):
        return [Finding("ok", "PostgreSQL keeps backups of its own.")]
    newest = backups.newest(settings)
    if newest is None:
        return [Finding("warning", "There is no backup.", "`tastemaker backup` makes one.")]
    made = backups.made_at(newest)
    found = guarded("The newest backup", _verified, newest)
    told = f"The newest backup is of {made:%Y-%m-%d %H:%M} UTC."
    if found:
        return [*found, Finding("warning", told, "`tastemaker backup` makes a new one.")]
    if now() - made > OLD_BACKUP:
        return [Finding("warning", told, "`tastemaker backup` makes a new one.")]
    return [Finding("ok", told)]


def _verified(backup: Path) -> list[Finding]:
    backups.verify(backup)
    return []


def _port(_: Settings) -> list[Finding]:
    """Whether another program has the port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex(("127.0.0.1", PORT)) != 0:
            return []
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/healthz", timeout=2) as answer:
            ours = "version" in json.loads(answer.read(1000))
    except (OSError, ValueError):
        ours = False
    if ours:
        return [Finding("ok", f"Tastemaker answers on port {PORT}.")]
    what = f"Another program has port {PORT}."
    return [Finding("warning", what, f"`tastemaker serve --port {PORT + 1}` takes another.")]


CHECKS: dict[str, Callable[[Settings], list[Finding]]] = {
    "Writing to the home folder": _writable,
    "The disk": _space,
    "Who may read the home folder": _private,
    "What was left behind": _leftovers,
    "The backups": _backups,
    "The port": _port,
}
