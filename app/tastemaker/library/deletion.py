"""Deleting a project: what a person said in it is written down first, what was published stays.

Every row goes in one transaction. Ids may be given again, so the files under the old one make way:
the checkpoints move to a folder named for the moment, the live model is removed.
"""

from pathlib import Path

from sqlalchemy import Engine

from tastemaker import jobs, projects
from tastemaker.config import Settings
from tastemaker.database.sessions import writing
from tastemaker.database.tables import now
from tastemaker.errors import Conflict, Invalid
from tastemaker.files import write_atomic
from tastemaker.live import live_model
from tastemaker.scores.score_files import columns_of, labels_of, score_bytes


def delete_project(settings: Settings, engine: Engine, project_id: int, typed: str) -> Path:
    """Delete a project whose name was `typed`. Returns the CSV file, among the backups, that its
    scores were written to. Images, their files and their thumbnails stay.

    Raises `Invalid` for another name, and `Conflict` while a job of the project is unfinished.
    """
    with writing(engine) as session:
        project = projects.get(session, project_id)
        if " ".join(typed.split()) != project.name:
            raise Invalid(
                "That is not the name of this project; nothing was deleted.",
                f"Type “{project.name}” to delete it.",
            )
        if jobs.unfinished(session, project_id=project_id):
            raise Conflict(
                "A job of this project is still under way; nothing was deleted.",
                "Cancel it first, or wait for its end.",
            )
        stamp = f"{project_id}-{now():%Y%m%d-%H%M%S}"
        kept = settings.backups / f"scores-of-project-{stamp}.csv"
        write_atomic(kept, score_bytes(labels_of(session, project), ".csv", columns_of(project)))
        session.delete(project)
    published = settings.checkpoints / str(project_id)
    if published.exists():
        published.rename(settings.checkpoints / f"deleted-{stamp}")
    live_model.forget_live(settings, project_id)
    return kept
