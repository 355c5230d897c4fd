"""How many images agree with a filter."""

import math
from dataclasses import dataclass

from sqlalchemy import func
from sqlalchemy import select as select_columns
from sqlmodel import Session

from tastemaker import projects
from tastemaker.database import counts
from tastemaker.database.tables import Project
from tastemaker.library.browsing import checked, gathered, narrowest
from tastemaker.library.filters import LibraryFilter
from tastemaker.library.live_order import within_live
from tastemaker.library.orders import Order
from tastemaker.library.scopes import ResolvedFilter, sources

SAMPLE = 1000  # images from which the size of a large selection is estimated


@dataclass(frozen=True)
class Count:
    """How many images agree with a filter; not `exact`: about so many."""

    images: int
    exact: bool = True


def count(session: Session, project: Project, resolved: ResolvedFilter) -> Count | None:
    """Exact where an index of the filter holds few; else estimated from images drawn at random,
    and None where too few of those agree to say."""
    wanted = resolved.filter
    if wanted == LibraryFilter(version=wanted.version, role=wanted.role):
        return Count(projects.size(session, project, wanted.role))
    narrow = narrowest(session, resolved, Order("name"))  # without reading every name once more
    if narrow is None and wanted.removed:  # what was taken out is in no sample
        narrow = next(source for source in sources(resolved) if source.kind == "removed")
    if narrow is not None and not resolved.by_live:
        everything = gathered(resolved, Order(), narrow).subquery()
        many = session.execute(select_columns(func.count()).select_from(everything)).scalar_one()
        return Count(int(many))
    if wanted.removed:
        return None
    role = wanted.role if wanted.collection is None else projects.ANY_ROLE
    size = projects.size(session, project, role)
    drawn = counts.cached_count(
        ("sample", str(session.get_bind().engine.url), project.id, role),
        lambda: projects.sample(session, project, SAMPLE, role),
        lambda ids: size > counts.LARGE,
    )
    agree = [(0, image_id) for _, image_id in checked(session, resolved, drawn)]
    hits = len(within_live(resolved, agree) if resolved.by_live else agree)
    if len(drawn) == size:
        return Count(hits)
    if hits < 10:
        return None
    about = size * hits / len(drawn)
    digits = 1 - math.floor(math.log10(about))
    return Count(int(round(about, digits)), exact=False)
