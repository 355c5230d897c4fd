"""`tastemaker doctor`: look at everything that must hold, change nothing."""

from dataclasses import dataclass
from typing import Literal

from sqlmodel import Session, col, select

from tastemaker import images, projects, scores, versions
from tastemaker.cli.server import NEW_ID, copy_of
from tastemaker.cli.terminal import counted, were
from tastemaker.config import Settings
from tastemaker.database import backups, copies, installation, sessions
from tastemaker.database.migration import migrate
from tastemaker.database.tables import Image, ImagePath, Label, SkippedFile
from tastemaker.files import free_space
from tastemaker.versions import file_checks
from tastemaker.worker import is_running

Level = Literal["ok", "warning", "damage"]

FIXED_WAL = (3, 51, 3)  # sqlite.org/wal.html: the WAL-reset bug


@dataclass(frozen=True)
class Finding:
    level: Level
    what: str
    hint: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Every check in turn. Damage is what lost or may lose something; a warning is not."""
    engine = migrate(settings)
    findings = [_sqlite_build(settings), _space(settings)]
    with sessions.reading(engine) as session:
        findings += [
            *_integrity(session),
            *_labels(session),
            *_checkpoints(session, settings),
            *_uploads(session, settings),
            *_paths(session),
        ]
        findings += _copied(session, settings)
    engine.dispose()
    findings.append(_backup(settings))
    running = is_running(settings)
    findings.append(
        Finding("ok", "A worker is running.")
        if running
        else Finding("warning", "No worker is running.", "`tastemaker serve` starts one.")
    )
    return findings


def _sqlite_build(settings: Settings) -> Finding:
    if not settings.database.startswith("sqlite"):
        return Finding("ok", "The database is PostgreSQL.")
    version = ".".join(map(str, sessions.sqlite_version()))
    if sessions.sqlite_version() < FIXED_WAL:
        return Finding(
            "warning",
            f"SQLite {version} can corrupt its write-ahead log when two processes write at once.",
            "Install pysqlite3, which brings a newer one.",
        )
    return Finding("ok", f"SQLite {version}.")


def _copied(session: Session, settings: Settings) -> list[Finding]:
    original = copies.original_of(settings, installation.identity(session).library)
    return [] if original is None else [Finding("warning", copy_of(original), NEW_ID)]


def _space(settings: Settings) -> Finding:
    free = free_space(settings.root) / 2**30
    if free < settings.min_free_gb:
        return Finding(
            "warning", f"Only {free:.1f} GB are free; uploads and jobs are refused.", "Free some."
        )
    return Finding("ok", f"{free:.0f} GB free in {settings.root}.")


def _backup(settings: Settings) -> Finding:
    if not settings.database.startswith("sqlite"):
        return Finding("ok", "PostgreSQL keeps backups of its own.")
    newest = backups.newest(settings)
    if newest is None:
        return Finding("warning", "There is no backup.", "`tastemaker backup` makes one.")
    return Finding("ok", f"The newest backup is of {newest:%Y-%m-%d %H:%M} UTC.")


def _integrity(session: Session) -> list[Finding]:
    if session.get_bind().dialect.name != "sqlite":
        return []
    connection = session.connection()
    lines = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    orphans = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    if lines == ["ok"] and not orphans:
        return [Finding("ok", "The database is sound.")]
    what = lines[0] if lines != ["ok"] else f"{len(orphans)} rows without their parent"
    return [
        Finding(
            "damage",
            f"The database is damaged: {what}.",
            "`tastemaker restore` puts a backup in its place.",
        )
    ]


def _labels(session: Session) -> list[Finding]:
    """Labels must be what follows from the events."""
    findings = []
    for project in projects.list_all(session):
        derived = scores.labels_at(session, project, scores.highest_event(session, project))
        stored = session.exec(select(Label).where(Label.project_id == project.id)).all()
        same = {(x.image_id, x.value, x.holdout, x.measures) for x in stored} == {
            (x.image_id, x.value, x.holdout, x.measures) for x in derived.values()
        }
        if same:
            findings.append(Finding("ok", f"“{project.name}”: {counted(len(stored), 'label')}."))
        else:
            findings.append(
                Finding("damage", f"The labels of “{project.name}” differ from its score events.")
            )
    return findings


def _checkpoints(session: Session, settings: Settings) -> list[Finding]:
    findings = []
    for project in projects.list_all(session):
        for version in versions.list_ready(session, project):
            name = f"“{project.name}” {version.number}"
            state = file_checks.check_hash(session, settings, version)
            if not state.intact:
                hint = f"{file_checks.SAFE} {file_checks.WAY_OUT}"
                findings.append(Finding("damage", f"“{project.name}”: {state.message}", hint))
                continue
            proof = file_checks.verify_scores(session, settings, version)
            if not proof.holds:
                findings.append(
                    Finding("warning", f"{name} is not in the original's format. {proof.why}")
                )
            elif not proof.sidecar:
                findings.append(
                    Finding(
                        "warning", f"The .config.json of {name} is missing or names another file.",
                        "Restore it from a backup; the checkpoint itself is intact.",
                    )
                )  # fmt: skip
            else:
                findings.append(Finding("ok", f"{name} is intact."))
    return findings


def _uploads(session: Session, settings: Settings) -> list[Finding]:
    uploads = session.exec(select(Image).where(Image.kind == "upload")).all()
    gone = [image.name for image in uploads if not _is_whole(settings, image)]
    if gone:
        return [
            Finding(
                "damage", f"{counted(len(gone), 'uploaded file')} missing or cut, {gone[0]} first.",
                "Restore a backup, or upload them again.",
            )
        ]  # fmt: skip
    return [Finding("ok", f"{len(uploads)} uploaded files.")]


def _is_whole(settings: Settings, image: Image) -> bool:
    """Whether an upload is there with as many bytes as it came with."""
    try:
        size = images.stored_path(settings, image).stat().st_size
    except OSError:
        return False
    return size > 0 and size == (image.bytes or size)


def _paths(session: Session) -> list[Finding]:
    missing = session.exec(select(ImagePath).where(col(ImagePath.state) != "present")).all()
    skipped = session.exec(select(SkippedFile)).all()
    findings = []
    if n := len(missing):
        findings.append(
            Finding(
                "warning", f"{counted(n, 'scanned file')} {were(n)} moved or deleted.",
                "Import their folder again to find them; their scores are kept.",
            )
        )  # fmt: skip
    if skipped:
        first, n = skipped[0], len(skipped)
        findings.append(
            Finding(
                "warning", f"{counted(n, 'file')} {were(n)} skipped; {first.path}: {first.reason}"
            )
        )
    return findings
