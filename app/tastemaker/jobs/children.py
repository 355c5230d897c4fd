"""The process of one job, and what each kind of job runs.

A process that is spawned imports the module of its entry point: this one imports little, so that a
job begins half a second sooner than with the worker's libraries.
"""

import logging
import traceback
from multiprocessing.connection import Connection

from tastemaker import files, jobs
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.errors import TastemakerError, Unavailable, of_the_disk
from tastemaker.jobs.context import JobContext
from tastemaker.jobs.failures import Failure
from tastemaker.processes import JOB_NICENESS, call, logs, lower_priority

log = logging.getLogger(__name__)

# What each kind of job runs, by name: the modules import torch, which only children pay for.
HANDLERS = {
    "import": "tastemaker.importing.imports:run",
    "vectors": "tastemaker.importing.vectors:run",
    "stars": "tastemaker.importing.stars:run",
    "series": "tastemaker.library.series:run",
    "write-back": "tastemaker.publishing.write_back:run",
    "embed": "tastemaker.embeddings:run",
    "train": "tastemaker.training.retrain:run",
    "demo": "tastemaker.sample.demo:run",
    "predict": "tastemaker.versions.predictions:run",
    "test-run": "tastemaker.evaluation.test_runs:run",
    "audit": "tastemaker.evaluation.audit_drawing:run",
    "adopt": "tastemaker.publishing.import_head:run",
    "tournament": "tastemaker.evaluation.tournament:run",
    "migrate": "tastemaker.training.migration:run",
}


def main(settings: Settings, job_id: int, fence: int, pipe: Connection) -> None:
    """Entry point of a job's process: run the handler, send how it ended. What comes through the
    pipe, whatever it is, says that its turn is over."""
    lower_priority(JOB_NICENESS)
    logs.configure(settings)
    engine = sessions.make_engine(settings)
    with sessions.reading(engine) as session:
        job = jobs.get(session, job_id)
    context = JobContext(
        settings, engine, job, jobs.Claim(job_id, fence), lambda *event: pipe.send(event), pipe.poll
    )
    logs.about_this_process(job=job_id, kind=job.kind)
    logs.write(log, logging.DEBUG, "job process began")
    try:
        files.require_free_space(settings.root, settings.min_free_gb)
        result = call(HANDLERS[job.kind], context)
        context.last_report()
        pipe.send(("done", result))
    except jobs.LostJob:
        pipe.send(("lost", None))
    except jobs.TurnOver:
        pipe.send(("gave way", None))
    except TastemakerError as error:
        ending = "crashed" if isinstance(error, Unavailable) else "failed"
        pipe.send((ending, Failure.of(error)))
    except BaseException as error:  # it must reach the job's page
        context.log(traceback.format_exc(limit=8))
        known = of_the_disk(error)
        pipe.send(("failed" if known else "crashed", Failure.of(known or error)))
