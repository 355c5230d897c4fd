"""One version of a project with classes: how good it is class by class, and its file."""

from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response
from sqlmodel import Session

from tastemaker.config import Settings
from tastemaker.database.tables import EncoderRow, Project, Version
from tastemaker.evaluation import expectations
from tastemaker.pages.render import render, shell
from tastemaker.versions import class_report, file_checks, training_set, version_report


def in_words(version: Version) -> dict[str, Any]:
    """What the list says of a version: on what its numbers rest, and what to mind."""
    if version.classes.numbers:
        measured = version_report.measured_in_words(version.classes)
        finding = class_report.finding(version.classes)
        return {
            "caveats": class_report.caveats(version), "measured": f"{measured} {finding}".strip(),
        }  # fmt: skip
    return {
        "caveats": version_report.caveats(version),
        "measured": version_report.measured_in_words(version.metrics),
    }


def page(
    request: Request, session: Session, settings: Settings, project: Project, version: Version,
    more: Mapping[str, Any], status: int,
) -> Response:  # fmt: skip
    """`more` is what the pages of all versions show: what deleting it would take, and why not."""
    record = version.classes
    context = {
        "version": version,
        "record": record,
        "encoder": session.get(EncoderRow, version.encoder_id),
        "rows": class_report.rows(version),
        "in_short": class_report.in_short(record.measured.confusion),
        "headline": class_report.headline(version),
        "finding": class_report.finding(record),
        "measured_in_words": version_report.measured_in_words(record),
        "caveats": class_report.caveats(version),
        "report": expectations.check(session, version),
        "wanted": expectations.wanted,
        "editable": False,
        "sides": training_set.count_sides(session, version),
        "file": file_checks.check_hash(session, settings, version),
        "score_check": file_checks.verify_scores(session, settings, version),
        "safe": file_checks.SAFE,
        "way_out": file_checks.WAY_OUT,
        "recipe": version_report.recipe_sentence(version),
        **version_report.neighbours(session, project, version),
        **more,
    }
    frame = shell(session, project, "versions")
    return render(request, "class_version.html", None, frame | context, status=status)
