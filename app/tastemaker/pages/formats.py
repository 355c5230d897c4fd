"""How numbers, times and results are written on the pages: the filters of the templates."""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from markupsafe import Markup

from tastemaker.database.tables import Job
from tastemaker.evaluation import expectations
from tastemaker.files import percentages
from tastemaker.importing.outcome import known_in_words
from tastemaker.learning.version_metrics import ExpectationCheck
from tastemaker.versions.version_report import SPACE

if TYPE_CHECKING:  # most pages show none, and a start need not wait for it
    from markdown_it import MarkdownIt


def percent(value: float | None, digits: int = 0) -> str:
    """0.783 → “78 %”, 0.996 → “> 99 %”; of what is only estimated see `probability`."""
    return percentages.percent(value, digits).replace(" ", SPACE)


def percent_to(low: float, high: float) -> str:
    """The ends of an interval: “80–93 %”."""
    return percentages.percent_range(low, high).replace(" ", SPACE)


def found(check: ExpectationCheck) -> str:
    """What a slice scores, in the unit of what is expected of it: “3.17”, “31.7 %”."""
    return expectations.shown(check).replace(" ", SPACE)


def probability(value: float | None) -> str:
    """How sure a model is: 0.783 → “78 %”, 1 → “> 99 %”."""
    return percentages.probability(value).replace(" ", SPACE)


def predicted(value: float | None) -> str:
    """A prediction in 0–1, or how sure it is, on the scale people score on: 0.378 → “3.8”."""
    return "–" if value is None else f"{10 * value:.1f}"


def points(value: float | None, digits: int = 2) -> str:
    """Points of 0–10: a mean error, a difference."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 2) -> str:
    """A difference: “+0.12”, “−0.05”."""
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def share(value: float | None) -> str:
    """A share that may be small: “11 %”, “0.4 %”."""
    small = value is not None and 0 < value < 0.0995
    return percent(value, digits=1 if small else 0)


def exact_percent(value: float) -> str:
    """A share that somebody chose, with all of its digits: 0.999 → “99.9 %”."""
    return f"{round(100 * value, 6):g}{SPACE}%"


def score(value: float | None) -> str:
    """7.0 → “7”; a median between two people may be 6.5."""
    return "–" if value is None else f"{value:g}"


def count(value: float) -> str:
    return f"{value:,.0f}".replace(",", SPACE)


def size(value: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f}{SPACE}{unit}" if unit == "bytes" else f"{value:.1f}{SPACE}{unit}"
        value /= 1000
    return f"{value:.1f}{SPACE}GB"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.0f}{SPACE}s"
    if seconds < 3600:
        return f"{seconds // 60:.0f}{SPACE}min {seconds % 60:.0f}{SPACE}s"
    return f"{seconds // 3600:.0f}{SPACE}h {seconds % 3600 // 60:.0f}{SPACE}min"


def job_result(job: Job) -> str:
    """What a job that ended well has brought, in words."""
    if job.state != "done":
        return ""
    result = job.result
    skipped = f"{count(result.get('set_aside', 0))} skipped"
    match job.kind, result:
        case "import", _:
            added, scored = (count(result.get(k, 0)) for k in ("added", "scored"))
            with_score = f", {scored} with a score" if result.get("scored") else ""
            told = f"{added} new, {known_in_words(result)}, {skipped}{with_score}."
            if rewritten := result.get("rewritten"):
                told += f" {count(rewritten)} written again with the same pixels: scores kept."
            if "pairs" in result:
                pairs = "pair" if result["pairs"] == 1 else "pairs"
                told += f" {count(result['pairs'])} {pairs} with damaged twins"
                told += f", {count(result['held_out'])} left to be labelled by hand."
            return f"{told} {result.get('left_out', '')}".rstrip(" .")
        case "vectors", {"added": added, "known": known, "without": without}:
            told = f"{count(added)} new, {count(known)} known, {skipped}"
            return f"{told}. {count(without)} have no picture here" if without else told
        case "stars", {"record": True, "recorded": recorded, "unchanged": unchanged}:
            return f"{count(recorded)} recorded, {count(unchanged)} there already"
        case "stars", {"marked": marked, "scored": scored}:
            return f"{count(marked)} images with stars or labels, {count(scored)} with a score"
        case "series", {"series": series, "besides": besides, "tag": tagged}:
            done = ", tagged" if tagged else ""
            return f"{count(series)} series, {count(besides)} images besides the best of each{done}"
        case "write-back", {"undone": undone}:
            return f"{count(undone)} sidecars are as before"
        case "write-back", {"write": True, "written": written}:
            return f"{count(written)} sidecars written"
        case "write-back", {"due": due}:
            return f"{count(due)} sidecars would be written"
        case "embed", _:
            return f"{count(result.get('embedded', 0))} embedded, {skipped}"
        case "train", {"version": version}:
            inactive = ", but not made active" if result.get("active") is False else ""
            return f"{version} is published{inactive}"
        case "adopt", {"version": version}:
            return f"{version} is imported{', and active' if result.get('active') else ''}"
        case "predict" | "test-run", _:
            return f"{count(result.get('predicted', result.get('n', 0)))} images predicted"
        case "audit", _:
            return "Images are drawn and wait to be scored"
        case "tournament", {"rows": rows}:
            return f"{count(sum(not row['error'] for row in rows))} encoders compared"
        case "migrate", {"moved": True, "encoder": encoder}:
            version, why = result.get("version"), result.get("why", "")
            made = f"{version} is active" if version else why[:1].upper() + why[1:]
            return f"The project works with {encoder} now. {made}".rstrip(" .")
        case "migrate", {"version": version, "why": why}:
            return f"{version} is published, and the project keeps its encoder: {why}"
        case "demo", {"project": project, "versions": versions}:
            return f"The project “{project}” with the versions {versions}"
    return ""


def when(at: datetime | None, seconds: bool = False) -> Markup | str:
    """A point in time, on this machine's clock. Databases hand it back in UTC without its zone."""
    if at is None:
        return "–"
    at = (at.replace(tzinfo=UTC) if at.tzinfo is None else at).astimezone()
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        at.isoformat(timespec="seconds"),
        at.tzname(),
        at.strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M"),
    )


def by_camera(taken_at: str) -> Markup:
    """When a picture was taken, as the clock of its camera showed it, wherever that was."""
    at = datetime.fromisoformat(taken_at)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        at.isoformat(timespec="seconds"),
        f"{at:%H:%M:%S} by the camera's clock",
        f"{at:%Y-%m-%d %H:%M}",
    )


def markdown(text: str) -> Markup:
    """What a person wrote in Markdown, as HTML: lists, emphasis, links, lines as they were typed.
    No HTML of theirs, no pictures, and no headings beside those of the page."""
    return Markup(_markdown().render(text))


@lru_cache(maxsize=1)
def _markdown() -> "MarkdownIt":
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False, "breaks": True})
    return reader.disable(["heading", "lheading", "image"])


FILTERS: dict[str, Callable[..., str]] = {
    "percent": percent, "percent_to": percent_to, "found": found,
    "probability": probability, "predicted": predicted, "points": points, "signed": signed,
    "share": share,
    "score": score, "exact_percent": exact_percent,
    "count": count, "size": size, "duration": duration, "when": when, "by_camera": by_camera,
    "own_words": markdown,
    "outcome": job_result,
}  # fmt: skip
