"""What an audit promises, in numbers and in words, for the pages, programs, cards and tables."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sqlmodel import Session, col, select

from tastemaker import versions
from tastemaker.config import Settings
from tastemaker.database.tables import (
    Annotator,
    Audit,
    AuditImage,
    Job,
    Project,
    RemovedImage,
    Version,
    in_utc,
)
from tastemaker.errors import NotFound
from tastemaker.files.percentages import percent
from tastemaker.learning import audits
from tastemaker.learning.audits import NO_ANSWER, Findings, Side
from tastemaker.queues.audited import answers

DEFAULT_PERSON = Settings.model_fields["annotator"].default  # whose name is nobody's
WORTH_SAYING = 0.05  # a lower bound below that says nothing
CutWords = Callable[[float], str]  # a cut (0–1) in the unit of who asks


def in_points(cut: float) -> str:
    """As people score: 0.585 → “5.85 points”."""
    return f"{10 * cut:.2f} points"


def in_percent(cut: float) -> str:
    """As filters speak: 0.585 → “58.5 %”."""
    return f"{100 * cut:.4g} %"


@dataclass(frozen=True)
class AuditReport:
    """An audit with what belongs to it. `findings` is None until its images are drawn. Of `drawn`
    images, `answered` have an answer (a skip is none). `cut_words` is how its sentences tell of
    cuts."""

    audit: Audit
    version: Version
    person: str
    job: Job | None
    kept: Side
    below: Side
    findings: Findings | None
    drawn: int = 0
    left: int = 0
    cut_words: CutWords = in_points

    @property
    def answered(self) -> int:
        return self.kept.answered + self.below.answered

    @property
    def skipped(self) -> int:
        return self.kept.asked + self.below.asked - self.answered

    @property
    def searches(self) -> bool:
        """Whether it is to find the cut that holds the goal."""
        return bool(self.audit.target.get("search"))

    @property
    def state(self) -> str:
        """asking or done; of a table before: queued, running, failed or cancelled."""
        if self.findings is not None:
            return "asking" if self.left else "done"
        return self.job.state if self.job else "failed"

    @property
    def verdict(self) -> str:
        """promised, refused (with the reason in the headline), or open."""
        if self.findings is None:
            return "open"
        if self.searches and not self.findings.doubt:
            return "promised" if self.findings.found_cut else "open"
        if self.findings.doubt:
            return "promised" if self.findings.holds else "refused"
        if self.findings.holds:
            return "promised"
        return "refused" if self.findings.precision_high < self.audit.goal else "open"


# --- finding them ------------------------------------------------------------------------------


def listing(session: Session, project: Project) -> list[AuditReport]:
    """Every audit of a project, newest first."""
    mine = select(Audit).where(Audit.project_id == project.id).order_by(col(Audit.id).desc())
    return [report(session, audit) for audit in session.exec(mine)]


def newest(session: Session, project: Project) -> AuditReport | None:
    """The last one that was started; nothing is computed for the others."""
    mine = select(Audit).where(Audit.project_id == project.id).order_by(col(Audit.id).desc())
    audit = session.exec(mine.limit(1)).first()
    return None if audit is None else report(session, audit)


def get(session: Session, project: Project, audit_id: int) -> AuditReport:
    audit = session.get(Audit, audit_id)
    if audit is None or audit.project_id != project.id:
        raise NotFound("There is no such audit.", "Choose one of the list.")
    return report(session, audit)


def of_version(session: Session, version: Version) -> list[AuditReport]:
    """The audits of a version that say something by now, newest first."""
    mine = select(Audit).where(Audit.version_id == version.id).order_by(col(Audit.id).desc())
    reports = [report(session, audit) for audit in session.exec(mine)]
    return [
        one
        for one in reports
        if one.findings is not None
        and one.answered
        and (one.findings.doubt or one.findings.precision_low >= WORTH_SAYING)
    ]


def report(session: Session, audit: Audit) -> AuditReport:
    version = versions.get(session, audit.version_id)
    person = session.get_one(Annotator, audit.annotator_id).name
    job = session.get(Job, audit.job_id) if audit.job_id else None
    kept, below, drawn, left = _sides(session, audit)
    findings = None
    if audit.population:
        findings = audits.findings(
            kept, below, [(cut, size) for cut, size in audit.population["cuts"]], goal=audit.goal,
            confidence=audit.confidence, share_below=audit.share_below,
        )  # fmt: skip
        if _left_out(audit, version):
            # How many rows are like those that could be drawn is known of neither side, and the
            # share that is lost hangs on both.
            findings = replace(findings, lost=None, lost_high=1.0)
    return AuditReport(audit, version, person, job, kept, below, findings, drawn, left)


def _left_out(audit: Audit, version: Version) -> list[str]:
    """Why some rows of a table were drawn and could not be asked about, in words: the promise is
    not about their like. What the version learned from in the library is not counted at all."""
    if audit.kind != "table":
        return []
    reasons = {"unreadable": "could be read", "learned": f"{version.number} did not learn from"}
    return [told for kind, told in reasons.items() if audit.population.get(kind)]


def _of(report: AuditReport, them: str) -> str:
    """Of whom a promise is: “of them”, or “of those of them that could be read”."""
    left = _left_out(report.audit, report.version)
    return f"of those of {them} that {' and that '.join(left)}" if left else f"of {them}"


def _sides(session: Session, audit: Audit) -> tuple[Side, Side, int, int]:
    """What was answered on either side, how many images were drawn, and how many are left to be
    asked. An answer counts once all that were drawn before it on its side have one, so that what
    is looked at does not hang on what was answered; an image that was taken out of the project
    has none."""
    rows = session.execute(
        select(AuditImage.image_id, AuditImage.score, AuditImage.expected)
        .where(AuditImage.audit_id == audit.id)
        .order_by(col(AuditImage.position))
    ).all()
    removed = set(
        session.exec(
            select(RemovedImage.image_id)
            .join(AuditImage, col(AuditImage.image_id) == RemovedImage.image_id)
            .where(RemovedImage.project_id == audit.project_id, AuditImage.audit_id == audit.id)
        )
    )
    said = answers(session, audit)
    sides = []
    for above in (True, False):
        mine = [row for row in rows if (row[1] >= audit.cut) == above]
        given: list[int] = []
        for image_id, *_ in mine:
            if image_id not in said and image_id not in removed:
                break
            value = said.get(image_id)
            given.append(NO_ANSWER if value is None else int(value >= audit.good_from))
        sides.append(
            Side(
                audit.population.get("kept", 0) if above else audit.population.get("below", 0),
                np.array([row[1] for row in mine[: len(given)]], np.float64),
                # what is expected rests on all that were drawn: it is known before any answer
                np.array([row[2] for row in mine], np.float64),
                np.array(given, np.int8),
            )
        )
    left = sum(row[0] not in said and row[0] not in removed for row in rows)
    return sides[0], sides[1], len(rows), left


# --- in words ------------------------------------------------------------------------------------


def headline(report: AuditReport, *, for_file: bool = False) -> str:
    """The sentence that a person asked for, or why there is none. In a file, whoever reads it is
    not the person who scored."""
    audit, found = report.audit, report.findings
    if found is None:
        return f"The images of this audit are not drawn yet: it is {report.state}."
    if found.precision is None:
        return f"Nothing is scored yet. {forecast(report)}".rstrip()
    number, good = report.version.number, f"{audit.good_from} or more"
    kept = f"{_percent(found.precision)} of what {number} keeps is good ({good})"
    match found.doubt:
        case "reversed":
            return (
                f"No promise: {kept}, but {_percent(found.omitted)} of what it leaves out. On "
                "these images it is the wrong way round."
            )
        case "unlike":
            return (
                f"No promise: {kept}, and it expected "
                f"{_percent(float(report.kept.expected.mean()))}. These images are unlike what it "
                "learned from."
            )
        case "chance" if not found.holds:
            return (
                f"No promise: {kept}, and {_percent(found.omitted)} of what it leaves out. On "
                "these images it is not shown to be better than chance."
            )
    if report.searches and (found.found_cut is not None or not found.doubt):
        return _found(report, for_file)
    if found.precision_low < WORTH_SAYING:
        return (
            f"Too few scores for a promise yet: {report.kept.good} of {report.kept.answered} that "
            f"{number} keeps were good ({good}). {forecast(report)}"
        ).rstrip()
    every = f"the {audit.population['kept']:,} kept"
    if report.verdict == "refused":
        return (
            f"No promise of {_asked(audit.goal)}: {_of(report, every)}, at least "
            f"{at_least(found.precision_low)} and at most {at_most(found.precision_high)} "
            f"are good ({good})."
        )
    told = promise(report, for_file=for_file)
    if found.doubt == "chance":
        told += (
            f" But {_percent(found.omitted)} of what it leaves out is good as well: on these "
            "images it is not shown to be better than chance."
        )
    return told


def _found(report: AuditReport, for_file: bool) -> str:
    """“Keep from 6.25 points on: at least 90 % of the 12,004 images there you would …”"""
    audit, found = report.audit, report.findings
    assert found is not None
    if found.found_cut is None:
        return f"No cut is shown to hold {_asked(audit.goal)} yet. {forecast(report)}".rstrip()
    cut = found.found_cut.cut
    return (
        f"Keep from {report.cut_words(cut)} on: at least {_asked(audit.goal)} "
        f"{_of(report, f'the {found.found_cut.kept:,} images there')} {_would(report, for_file)} "
        f"({_asked(audit.confidence)} confidence)."
    )


def _would(report: AuditReport, for_file: bool) -> str:
    good = f"{report.audit.good_from} or more"
    who = "you" if report.person == DEFAULT_PERSON else report.person
    return f"would be scored {good} by hand" if for_file else f"{who} would score {good}"


def promise(report: AuditReport, *, for_file: bool = False) -> str:
    """“Kept 31,204: at least 92 % of them you would score 6 or more (95 % confidence). About 8 % of
    all such images are below the cut (at most 15 %).”"""
    audit, found = report.audit, report.findings
    assert found is not None
    low = found.precision_low
    share = "all" if low == 1 else f"at least {at_least(low)}"
    told = (
        f"Kept {audit.population['kept']:,}: {share} {_of(report, 'them')} "
        f"{_would(report, for_file)} ({_asked(audit.confidence)} confidence)."
    )
    if found.lost == 0 and report.below.size:
        told += (
            f" No such image was found below the cut: at most {at_most(found.lost_high)} of them "
            "are."
        )
    elif found.lost is not None and found.lost_high < 1:
        told += (
            f" About {_percent(found.lost)} of all such images are below the cut "
            f"(at most {at_most(found.lost_high)})."
        )
    return told


def forecast(report: AuditReport) -> str:
    """“About 41 more keys for a promise of 90 %, as it looks.” Empty where there is none."""
    found, goal = report.findings, report.audit.goal
    if found is None:
        return ""
    if report.searches:
        if found.keys_to_a_cut is None:
            return "As it looks, none of the cuts will: begin at a stricter one."
        if found.keys_to_a_cut == 0:
            lowest = found.found_cut and found.found_cut.kept == report.audit.population["kept"]
            if lowest or not report.left:
                return ""
            return "More keys may show that a lower cut holds it as well."
        return f"About {found.keys_to_a_cut:,} more keys to a first cut, as it looks."
    keys = found.more_keys[round(100 * goal)]
    if keys == 0:
        return ""
    if keys is None:
        if report.answered:
            told = f"A promise of {_asked(goal)} is out of reach, as it looks."
        else:
            expected = _percent(float(report.kept.expected.mean()))
            told = f"{report.version.number} itself expects {expected} of what it keeps to be good."
        within = [p for p, more in found.more_keys.items() if more is not None and p < 100 * goal]
        if within and found.found_cut is None:
            more = found.more_keys[max(within)]
            takes = f"takes about {more:,} more keys" if more else "is there"
            told += f" One of {max(within)} % {takes}."
        return told
    whence = "as it looks" if report.answered else f"if {report.version.number} is what it expects"
    return f"About {keys:,} more keys for a promise of {_asked(goal)}, {whence}."


def stricter(report: AuditReport) -> str:
    """The cut that holds the goal, where the audit's own does not; else empty."""
    found, audit = report.findings, report.audit
    if found is None or found.holds or found.found_cut is None or found.doubt or report.searches:
        return ""
    if found.found_cut.kept == audit.population["kept"]:
        return ""
    return (
        f"A stricter cut holds it: from {report.cut_words(found.found_cut.cut)} on, at least "
        f"{_asked(audit.goal)} {_of(report, f'the {found.found_cut.kept:,} kept')} "
        f"({_asked(audit.confidence)} confidence)."
    )


def at_least(share: float) -> str:
    """A lower bound in per cent, rounded so that it stays one."""
    return _percent(math.floor(1000 * share + 1e-6) / 1000 if share >= 0.99 else
                    math.floor(100 * share + 1e-6) / 100)  # fmt: skip


def at_most(share: float) -> str:
    """An upper bound in per cent, rounded so that it stays one."""
    return _percent(math.ceil(1000 * share - 1e-6) / 1000 if share < 0.01 else
                    math.ceil(100 * share - 1e-6) / 100)  # fmt: skip


def _asked(share: float) -> str:
    """A goal or a confidence as it was asked for, never rounded up."""
    return f"{round(100 * share, 6):g} %"


def _percent(share: float | None) -> str:
    """With a digit after the point where all depends on it."""
    at_the_end = share is not None and (0 < share < 0.01 or 0.99 < share < 1)
    return percent(share, digits=1 if at_the_end else 0)


# --- for programs --------------------------------------------------------------------------------

FOUND = ("precision", "precision_low", "precision_high", "omitted", "omitted_high", "lost",
         "lost_high", "more_keys", "cut_that_holds", "cut_that_holds_keeps", "keys_to_a_cut",
         "doubt", "stricter", "forecast")  # fmt: skip


def as_json(report: AuditReport) -> dict[str, Any]:
    """An audit for programs; shares in 0–1, null before there are answers. All that is found out
    is null until its images are drawn."""
    audit, found = report.audit, report.findings
    numbers: dict[str, Any] = dict.fromkeys(FOUND)
    if found is not None:
        numbers |= {
            "precision": found.precision, "precision_low": found.precision_low,
            "precision_high": found.precision_high, "omitted": found.omitted,
            "omitted_high": found.omitted_high, "lost": found.lost, "lost_high": found.lost_high,
            "more_keys": {str(percent): keys for percent, keys in found.more_keys.items()},
            "cut_that_holds": found.found_cut.cut if found.found_cut else None,
            "cut_that_holds_keeps": found.found_cut.kept if found.found_cut else None,
            "keys_to_a_cut": found.keys_to_a_cut, "doubt": found.doubt,
            "stricter": stricter(report), "forecast": forecast(report),
        }  # fmt: skip
    return {
        "id": audit.id, "version": report.version.number, "version_id": audit.version_id,
        "kind": audit.kind, "target": audit.name, "person": report.person, "cut": audit.cut,
        "good_from": audit.good_from, "goal": audit.goal, "confidence": audit.confidence,
        "share_below": audit.share_below, "searches": report.searches, "state": report.state,
        "verdict": report.verdict,
        "headline": headline(report), "kept": audit.population.get("kept"),
        "below": audit.population.get("below"), "learned": audit.population.get("learned"),
        "unreadable": audit.population.get("unreadable", 0),
        "kept_answered": report.kept.answered, "kept_good": report.kept.good,
        "below_answered": report.below.answered, "below_good": report.below.good,
        "skipped": report.skipped, "left": report.left, "job_id": audit.job_id,
        "error": report.job.error if report.job else "",
        "created_at": in_utc(audit.created_at).isoformat(), **numbers,
    }  # fmt: skip


def promise_json(report: AuditReport) -> dict[str, Any]:
    """What goes with a file: the sentence, and what it rests on. Nobody is named."""
    whole = as_json(report)
    names = ("version", "kind", "target", "cut", "good_from", "goal", "confidence", "verdict",
             "kept", "below", "kept_answered", "kept_good", "below_answered", "below_good",
             "precision_low", "omitted_high", "lost", "lost_high", "doubt",
             "searches", "cut_that_holds", "cut_that_holds_keeps", "learned", "unreadable",
             "created_at")  # fmt: skip
    return {
        "promise": headline(report, for_file=True), "model_sha256": report.version.sha256,
        **{name: whole[name] for name in names},
    }  # fmt: skip
