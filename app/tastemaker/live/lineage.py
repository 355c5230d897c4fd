"""What a project starts from, and how far its scores have borne that out."""

from typing import Any

from sqlmodel import Session

from tastemaker.config import Settings
from tastemaker.database.tables import Project
from tastemaker.encoding.encoder_names import canonical
from tastemaker.live import live_model
from tastemaker.versions import priors


def starts(session: Session, settings: Settings, project: Project) -> list[dict[str, Any]]:
    """The heads that a project starts from, for programs and pages: `trust` and `slope` are null
    while the labels tell nothing of one, or the live model does not know it yet; one that does not
    `fits` the project's encoder is left out."""
    live = live_model.read_live(settings, project.id)
    borne_out = {prior.sha256: prior for prior in live.fit.priors} if live else {}
    listed = []
    for row in priors.of_project(session, project):
        found = borne_out.get(row.sha256)
        listed.append(
            priors.as_json(row)
            | {"trust": found.trust if found else None, "slope": found.slope if found else None}
            | {"fits": canonical(row.encoder) == canonical(project.encoder)}
        )
    return listed


def starts_in_words(listed: list[dict[str, Any]]) -> str:
    """“Anime v1.4 (trust 63 %), City v2.0”; empty where there are none."""
    told = []
    for prior in listed:
        trust = priors.trust_in_words(prior["trust"], prior["slope"])
        more = trust if prior["fits"] else "left out: it reads another encoder"
        told.append(f"{prior['name']} ({more})" if more else prior["name"])
    return ", ".join(told)
