"""What an import came to, as its job counts it."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tastemaker.importing.sources import Skipped
from tastemaker.importing.synthetic import PairCount


@dataclass
class Tally:
    """What became of the files so far."""

    added: int = 0
    kept: int = 0
    in_project: int = 0
    in_library: int = 0
    twice: int = 0
    skipped: int = 0
    scored: int = 0
    rewritten: int = 0
    paired: PairCount | None = None  # where damaged twins were asked for
    first_reason: str = ""
    unread: list[str] = field(default_factory=list)  # folders and archives, each with its reason
    left_out: str = ""
    placed: set[int] = field(default_factory=set)  # images of the files so far

    def skip(self, file: Skipped) -> None:
        told = f"{Path(file.label).name}: {file.reason}"
        self.skipped += 1
        self.first_reason = self.first_reason or told
        if file.holds_more:
            self.unread.append(told)

    @property
    def known(self) -> int:
        """Files whose image was there: by the run that was stopped, in the project, in the library,
        or by another of them."""
        return self.kept + self.in_project + self.in_library + self.twice

    def as_dict(self) -> dict[str, Any]:
        return {
            "added": self.added, "known": self.known, "kept": self.kept,
            "in_project": self.in_project,
            "in_library": self.in_library, "twice": self.twice, "set_aside": self.skipped,
            "scored": self.scored, "rewritten": self.rewritten, "first_reason": self.first_reason,
            "left_out": self.left_out, "unread": len(self.unread),
            "first_unread": next(iter(self.unread), ""),
        } | (asdict(self.paired) if self.paired is not None else {})  # fmt: skip
