"""Results: what a version likes most and least among images it never saw, beside the one before it;
how far it errs, in a sentence; and what to do next. A first training lands here."""

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlmodel import Session

from tastemaker import versions
from tastemaker.auth.permissions import GuardedRoute, ViewerUser
from tastemaker.database.tables import Project, Version
from tastemaker.evaluation import comparison
from tastemaker.evaluation.flips import Pair
from tastemaker.learning.version_metrics import Estimate
from tastemaker.pages.deps import CurrentProject, ReadSession
from tastemaker.pages.formats import count, points, signed
from tastemaker.pages.render import render, shell
from tastemaker.publishing import sheets
from tastemaker.versions import version_report
from tastemaker.versions.outlook import outlook

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

SHOWN = 12  # images at either end


@dataclass(frozen=True)
class Summary:
    """How far a version errs, in words: a `headline`, the `finding` that may be drawn from it
    (its `verdict` in a word, for its colour), and what that `rests_on`."""

    headline: str
    verdict: str = ""
    finding: str = ""
    rests_on: str = ""

    def as_json(self) -> dict[str, str]:
        return {
            "headline": self.headline, "verdict": self.verdict, "finding": self.finding,
            "rests_on": self.rests_on,
        }  # fmt: skip


# --- the page ------------------------------------------------------------------------------------


@router.get("/projects/{project_id}/results")
def page(
    _: ViewerUser,
    request: Request,
    session: ReadSession,
    project: CurrentProject,
    version: str = "",
) -> Response:
    """Of that version, by its number; else of the newest."""
    ready = versions.list_ready(session, project)
    context: dict[str, Any] = {"version": None}
    if ready:
        chosen = versions.by_number(session, project, version) if version else ready[0]
        context = results_of(session, project, chosen)
    return render(request, "results.html", None, shell(session, project, "versions") | context)


def results_of(session: Session, project: Project, version: Version) -> dict[str, Any]:
    before = before_it(session, project, version)
    shown, new = sheets.unseen_ends(
        session, project, [version, before] if before else [version], SHOWN
    )
    summary = summarise(session, project, version, before)
    return {
        "version": version,
        "before": before,
        "summary": summary,
        "outlook": outlook(version.metrics),
        "shown": shown,
        "never_scored": new,
        "next": "score" if version_report.caveats(version) or not summary.verdict else "review",
    }


def before_it(session: Session, project: Project, version: Version) -> Version | None:
    """The version it came after: its parent, or the next older one."""
    known = version_report.neighbours(session, project, version)
    return known["parent"] or known["before"]


# --- in words ------------------------------------------------------------------------------------


def summarise(
    session: Session, project: Project, version: Version, before: Version | None
) -> Summary:
    """Beside the one before it, on the images that judge both; else beside one fixed answer."""
    paired = None
    if before is not None:
        paired = comparison.paired_metrics(session, Pair(project, before, version))
    if before is None or paired is None or not paired.n:
        alone = _alone(version)
        why = f" {paired.why_not}" if paired else ""
        return Summary(alone.headline, alone.verdict, alone.finding, alone.rests_on + why)
    mae = paired.metrics["mae"]
    headline = (
        f"{version.number} errs {points(mae.new, 1)} points where {before.number} erred "
        f"{points(mae.old, 1)}"
    )
    if paired.constant_mae is not None:
        headline += f"; always guessing the middle errs {points(paired.constant_mae, 1)}"
    return Summary(
        f"{headline}.",
        mae.verdict,
        finding(mae.verdict, mae.difference, before.number),
        f"On {count(paired.n)} images drawn at random or scored in files, each predicted by heads "
        f"that never saw it.{_of_then(before, mae.old)}",
    )


def _of_then(before: Version, now: float | None) -> str:
    """What the older version was published with, where that reads otherwise: scores were corrected
    since, or other images measured it."""
    then = before.metrics.measured.mae.value
    if then is None or now is None or points(then, 1) == points(now, 1):
        return ""
    return (
        f" {before.number} was published with an error of {points(then, 1)}, by the images and "
        "scores of then."
    )


def _alone(version: Version) -> Summary:
    measured, metrics = version.metrics.measured, version.metrics
    if measured.mae.value is None:
        return Summary("Nothing is measured yet: there are too few labels.")
    headline = f"{version.number} errs {points(measured.mae.value, 1)} points"
    if metrics.baseline_mae is not None:
        headline += f" where always guessing the middle errs {points(metrics.baseline_mae, 1)}"
    versus, rests_on = metrics.versus_baseline, version_report.measured_in_words(metrics)
    if versus is None:
        return Summary(f"{headline}.", rests_on=rests_on)
    said = finding(versus.verdict, versus.difference, "that")
    return Summary(f"{headline}.", versus.verdict, said, rests_on)


def finding(verdict: str, difference: Estimate, other: str) -> str:
    """“Better than v1.0 by 0.65 points (0.37 to 0.94).” Only as far as the interval carries it."""
    value, low, high = difference.value, difference.low, difference.high
    if verdict == "no difference shown":
        span = "" if low is None else f" ({signed(low)} to {signed(high)})"
        return f"Not yet shown to be better than {other}: {signed(value)} points of error{span}."
    known = [abs(end) for end in (low, high) if end is not None]
    span = f" ({points(min(known))} to {points(max(known))})" if known else ""
    by = points(None if value is None else abs(value))
    return f"{verdict.capitalize()} than {other} by {by} points{span}."


# --- for programs --------------------------------------------------------------------------------


@api.get("/projects/{project_id}/results")
def show_results(
    _: ViewerUser, session: ReadSession, project: CurrentProject, version: str = ""
) -> dict[str, Any]:
    """What a version (by its number, else the newest) likes most and least of what it never saw,
    beside the one before it, and how far both err."""
    ready = versions.list_ready(session, project)
    if not ready and not version:
        return {"version": "", "before": "", "summary": {}, "never_scored": False, "shown": []}
    chosen = versions.by_number(session, project, version) if version else ready[0]
    known = results_of(session, project, chosen)
    return {
        "version": chosen.number,
        "before": known["before"].number if known["before"] else "",
        "summary": known["summary"].as_json(),
        "outlook": known["outlook"].as_json() if known["outlook"] else None,
        "never_scored": known["never_scored"],
        "shown": [
            {
                "version": ends.version.number,
                "best": [tile.as_dict() for tile in ends.best],
                "worst": [tile.as_dict() for tile in ends.worst],
            }
            for ends in known["shown"]
        ],
    }
