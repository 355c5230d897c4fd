"""What a process does that starts beside others. In a module of its own, because each of them loads
it: with the module of the tests it would load all that the tests use."""

from pathlib import Path

from tastemaker.config import Settings
from tastemaker.database import installation, migration, sessions


def bring_up_to_date(home: str) -> str | None:
    engine = migration.migrate(Settings(home=Path(home), _env_file=None))
    return migration.current_revision(engine)


def find_identity(home: str) -> installation.Identity:
    settings = Settings(home=Path(home), _env_file=None)
    with sessions.reading(sessions.make_engine(settings)) as session:
        return installation.identity(session)
