"""Fetching published weights from the Hugging Face hub, and telling how far that is.

A file has its name in the cache only once it is whole: until then it lies beside it under a name of
its own, which nothing reads. Where a download ends, it is begun again; what is left of one whose
process was killed is deleted by the next.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

# Bytes that are there, and how many there will be (0: not known).
Report = Callable[[int, int], None]

ABANDONED = 3600.0  # seconds after which a part of a file that does not grow belongs to nobody

_report: ContextVar[Report | None] = ContextVar("report of downloads", default=None)


@contextlib.contextmanager
def reported_to(report: Report) -> Iterator[None]:
    """What is fetched meanwhile, in this thread, is reported again and again."""
    before = _report.set(report)
    try:
        yield
    finally:
        _report.reset(before)


def fetch(repository: str, names: Sequence[str]) -> Path:
    """The first of these files that a repository has, from the cache or fetched into it; where the
    hub does not answer, the first that is in the cache. Raises what huggingface_hub does: HTTP
    errors, those of the file system, and its own."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    _sweep(repository)
    report = _report.get()
    bar = {"tqdm_class": _bar(report)} if report else {}
    for name in names[:-1]:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, name, **bar))
        except LocalEntryNotFoundError:  # no answer: it may have this file all the same
            cached = (huggingface_hub.try_to_load_from_cache(repository, other) for other in names)
            for file in cached:
                if isinstance(file, str):
                    return Path(file)
            raise
        except EntryNotFoundError:
            continue
    return Path(huggingface_hub.hf_hub_download(repository, names[-1], **bar))


def _bar(report: Report) -> Any:
    """In the place of a progress bar on a terminal."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs | {"disable": True})

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            report(int(self.n), int(self.total or 0))

    return Bar


def _sweep(repository: str) -> None:
    """Delete the parts of files that a killed process left behind."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repository, repo_type="model"))
    for part in (folder / "blobs").glob("*.incomplete"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > ABANDONED:
                part.unlink()
