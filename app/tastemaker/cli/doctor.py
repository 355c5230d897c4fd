"""`tastemaker doctor`: look at everything that must hold, change nothing, and never give up.

Each check looks at one thing and gives findings with advice. One that cannot look says that, and
the others go on: the home that needs a doctor most is the one where much is broken.
"""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from sqlmodel import Session, col, func, select

from tastemaker import images, projects, scores, versions
from tastemaker.cli import home_checks
from tastemaker.cli.home_checks import Finding, guarded
from tastemaker.cli.server import NEW_ID, copy_of
from tastemaker.cli.terminal import counted, were
from tastemaker.config import Settings
from tastemaker.database import copies, installation, sessions
from tastemaker.database.migration import current_revision, newest_revision, revisions
from tastemaker.database.tables import (
    EncoderRow,
    Image,
    ImagePath,
    Job,
    Label,
    Project,
    ScoreEvent,
    SkippedFile,
    Version,
    now,
)
from tastemaker.database.tables.base import in_utc
from tastemaker.encoding.weights import weights_of
from tastemaker.files import is_file
from tastemaker.files.visits import visit
from tastemaker.live.live_model import read_live
from tastemaker.versions import file_checks
from tastemaker.worker import is_running

FIXED_WAL = (3, 51, 3)  # sqlite.org/wal.html: the WAL-reset bug
CLOCK_SLACK = timedelta(minutes=5)

DatabaseCheck = Callable[[Session, Settings], list[Finding]]


def examine(settings: Settings) -> list[Finding]:
    """Every check in turn. Damage is what lost or may lose something; a warning is not."""
    place = guarded("The home folder", home_checks.place, settings)
    if not any(finding.level == "ok" for finding in place):
        return place
    return [
        *place,
        *guarded("SQLite", _sqlite_build, settings),
        *home_checks.examine(settings),
        *guarded("The database", _database, settings),
        *guarded("The worker", _worker, settings),
    ]


def _database(settings: Settings) -> list[Finding]:
    if unreadable := home_checks.database_file(settings):
        return unreadable
    engine = sessions.make_engine(settings)
    try:
        revision = current_revision(engine)
        if revision is None:
            return [
                Finding(
                    "damage", "The database holds no tables of Tastemaker.",
                    "Point TASTEMAKER_HOME or TASTEMAKER_DATABASE_URL at the right one, or put a "
                    "backup in its place: `tastemaker restore FILE`.",
                )
            ]  # fmt: skip
        if revision not in revisions():
            return [
                Finding(
                    "damage", f"The database is of a newer version (schema {revision}).",
                    "Start the newer program; this one leaves it alone.",
                )
            ]  # fmt: skip
        with sessions.reading(engine) as session:
            findings = guarded("The database's pages", _integrity, session)
            if revision != newest_revision():
                old = Finding(
                    "warning", f"The database has an earlier schema ({revision}).",
                    "The next start of the program upgrades it, after a copy.",
                )  # fmt: skip
                return [*findings, old]
        for what, check in DATABASE_CHECKS.items():  # PostgreSQL refuses all after one that failed
            with sessions.reading(engine) as session:
                findings += guarded(what, check, session, settings)
        return findings
    finally:
        engine.dispose()


def _worker(settings: Settings) -> list[Finding]:
    if is_running(settings):
        return [Finding("ok", "A worker is running.")]
    return [Finding("warning", "No worker is running.", "`tastemaker serve` starts one.")]


def _sqlite_build(settings: Settings) -> list[Finding]:
    if not settings.database.startswith("sqlite"):
        return [Finding("ok", "The database is PostgreSQL.")]
    version = ".".join(map(str, sessions.sqlite_version()))
    if sessions.sqlite_version() < FIXED_WAL:
        return [
            Finding(
                "warning",
                f"SQLite {version} can corrupt its write-ahead log when two processes write at "
                "once.",
                "Install pysqlite3, which brings a newer one.",
            )
        ]
    return [Finding("ok", f"SQLite {version}.")]


def _copied(session: Session, settings: Settings) -> list[Finding]:
    library = installation.identity(session).library
    (original,) = visit(lambda _: copies.original_of(settings, library), [settings.root])
    return [] if original is None else [Finding("warning", copy_of(original), NEW_ID)]


def _clock(session: Session, _: Settings) -> list[Finding]:
    """Scores and jobs are ordered by number, so a clock that was set loses none; what is told of
    their time is wrong."""
    written = [
        session.exec(select(func.max(col(column)))).one()
        for column in (ScoreEvent.at, Job.created_at)
    ]
    newest = max((in_utc(moment) for moment in written if moment is not None), default=None)
    if newest is None or newest - now() <= CLOCK_SLACK:
        return []
    return [
        Finding(
            "warning", f"The clock stands before the newest entry ({newest:%Y-%m-%d %H:%M} UTC).",
            "See that the clock of this machine is right; no score is lost by it.",
        )
    ]  # fmt: skip


def _jobs(session: Session, settings: Settings) -> list[Finding]:
    findings = []
    states = dict(session.exec(select(Job.state, func.count()).group_by(Job.state)).all())
    if n := states.get("failed", 0):
        look = "The page Jobs says why, and what to do: `tastemaker jobs list`."
        findings.append(Finding("warning", f"{counted(n, 'job')} failed.", look))
    if (n := states.get("running", 0)) and not is_running(settings):
        again = "The next worker takes them up again."
        findings.append(
            Finding("warning", f"{counted(n, 'job')} {were(n)} left by a worker that ended.", again)
        )
    return findings


def _weights(session: Session, _: Settings) -> list[Finding]:
    """Of the encoders that projects and their active versions work with; one that was declared
    embeds nothing here."""
    own, embeds = col(Project.encoder_id) == EncoderRow.id, ~col(EncoderRow.declared)
    of_projects = select(Project.encoder).join(EncoderRow, own).where(embeds)
    of_versions = (
        select(EncoderRow.name)
        .join(Version, col(Version.encoder_id) == EncoderRow.id)
        .join(Project, col(Project.id) == Version.project_id)
        .where(Version.active, Version.state == "ready", embeds, ~own)
    )
    used = {*session.exec(of_projects), *session.exec(of_versions)}
    known = visit(weights_of, sorted(used))
    return [Finding("warning", k.sentence, k.remedy) for k in known if k and k.state == "missing"]


def _live_models(session: Session, settings: Settings) -> list[Finding]:
    made_anew = "The worker makes it anew; remove the file if it does not."
    return [
        Finding("warning", f"The live model of “{project.name}” cannot be read.", made_anew)
        for project in projects.list_all(session)
        if is_file(settings.live / f"{project.id}.json") and read_live(settings, project.id) is None
    ]


def _orphans(session: Session, settings: Settings) -> list[Finding]:
    """Files that no row names: nothing is lost, they only take space."""
    uploads = set(session.exec(select(Image.sha256).where(Image.kind == "upload")))
    stored = [path for path in settings.images.rglob("*") if path.is_file()]
    nobodys = [
        path for path in stored
        if "".join(path.relative_to(settings.images).parts).partition(".")[0] not in uploads
    ]  # fmt: skip
    heads = {versions.checkpoint_path(settings, one) for one in session.exec(select(Version))}
    nobodys += [path for path in settings.checkpoints.rglob("*.safetensors") if path not in heads]
    if not nobodys:
        return []
    n = len(nobodys)
    return [
        Finding(
            "warning", f"{counted(n, 'file')} {were(n)} left that nothing refers to: {nobodys[0]}.",
            "They only take space. Make a backup before you remove them.",
        )
    ]  # fmt: skip


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


def _labels(session: Session, _: Settings) -> list[Finding]:
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


def _paths(session: Session, _: Settings) -> list[Finding]:
    rows = session.exec(select(ImagePath.path, ImagePath.state)).all()
    present = [Path(path) for path, state in rows if state == "present"]
    there = visit(is_file, present)
    silent = [path for path, answer in zip(present, there, strict=True) if answer is None]
    skipped = session.exec(select(SkippedFile)).all()
    findings = []
    if n := len(silent):
        findings.append(
            Finding(
                "warning",
                f"{counted(n, 'scanned file')} could not be looked at, {silent[0]} first: the disk "
                "or share does not answer.",
                "Connect it, or take it off the system, then look again; the scores are safe.",
            )
        )  # fmt: skip
    if n := len(rows) - len(present) + there.count(False):
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


DATABASE_CHECKS: dict[str, DatabaseCheck] = {
    "The labels": _labels,
    "The versions": _checkpoints,
    "The uploads": _uploads,
    "The scanned files": _paths,
    "The files in the home folder": _orphans,
    "The library's id": _copied,
    "The clock": _clock,
    "The jobs": _jobs,
    "The encoders": _weights,
    "The live models": _live_models,
}
