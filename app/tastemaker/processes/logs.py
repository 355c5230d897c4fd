"""One way to log: lines that name the request or the job they belong to.

On a terminal a line is for people; with `TASTEMAKER_LOG_FORMAT=json` it is one JSON object. The
fields of a line are facts about the work (a route's template, a status, milliseconds), never what
somebody typed or sent: no password, token, cookie, search or content of a file.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType

from tastemaker.config import Settings

Field = str | int | float

# What every line of this task, thread or process is about: its request, its job.
_about: ContextVar[Mapping[str, Field]] = ContextVar("about", default=MappingProxyType({}))
_of_the_process: dict[str, Field] = {}


def configure(settings: Settings) -> None:
    """Send all lines of this process to stderr, in the form and from the level that are set.
    Called once in every long-lived process: a spawned child inherits nothing."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if settings.log_format == "json" else PlainLines())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    for noisy in ("apscheduler", "httpx", "httpcore", "urllib3", "huggingface_hub", "PIL"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)


@contextmanager
def about(**fields: Field) -> Iterator[None]:
    """Lines logged within carry these fields."""
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def about_this_process(**fields: Field) -> None:
    """Every line of this process, from whichever thread, carries these fields from now on."""
    _of_the_process.update(fields)


def write(log: logging.Logger, level: int, event: str, **fields: Field) -> None:
    """Log an event with its own fields."""
    if log.isEnabledFor(level):
        log.log(level, event, extra={"fields": fields})


def fields_of(record: logging.LogRecord) -> dict[str, Field]:
    return {**_of_the_process, **_about.get(), **getattr(record, "fields", {})}


class PlainLines(logging.Formatter):
    """`12:34:56 info request method=GET route=/jobs status=200 ms=4.1`"""

    def format(self, record: logging.LogRecord) -> str:
        words = [
            datetime.fromtimestamp(record.created).strftime("%H:%M:%S"),
            record.levelname.lower(),
            record.getMessage(),
            *(f"{name}={value}" for name, value in fields_of(record).items()),
        ]
        line = " ".join(words)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """One JSON object a line, its time in UTC; a traceback is the field `traceback`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Field] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
