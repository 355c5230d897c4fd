"""How work reports how far it is: to the page of a job, or to nobody."""

from typing import Any, Protocol

IN_MB = ", in MB"  # how the message of a part ends that counts megabytes


class Progress(Protocol):
    def stage(self, message: str, total: int = 0) -> None:
        """Begin a part of the work with its own count."""

    def progress(
        self,
        done: int,
        total: int | None = None,
        message: str | None = None,
        curve: dict[str, Any] | None = None,
    ) -> None:
        """Report how far that part is; `curve` is the loss curve so far."""

    def log(self, line: str) -> None:
        """Add a line to the log."""


class Silent:
    """Progress that nobody watches."""

    def stage(self, message: str, total: int = 0) -> None: ...

    def progress(
        self,
        done: int,
        total: int | None = None,
        message: str | None = None,
        curve: dict[str, Any] | None = None,
    ) -> None: ...

    def log(self, line: str) -> None: ...
