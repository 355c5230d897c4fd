"""Browsing: a stretch of the images that a filter means, in an order.

Two ways lead there, and together they keep every page quick at a million images. Where one of the
filter's indexes holds few images (`GATHER`), these are gathered, checked and sorted. Where all of
them hold many, matches are frequent, and the index of the *order* is walked from the last image
shown until the page is full; so nothing is sorted, and images that arrive meanwhile move nothing.
A walk ends after `WALK` rows even so: filters that hardly agree with each other may leave a page
short, and the next one goes on where it ended.

The live model's predictions, and the answers of a search, are arrays in an order of their own;
their images are checked against the filter as they come.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import func, literal, union
from sqlalchemy import select as select_columns
from sqlalchemy.orm import aliased
from sqlmodel import Session, and_, col, select

from tastemaker.database.tables import CollectionImage, Image, Label, Prediction
from tastemaker.errors import Invalid
from tastemaker.library.filters import LIVE
from tastemaker.library.live_order import live_in_order, within_live
from tastemaker.library.orders import (
    SORTS,
    Order,
    Page,
    after_cursor,
    before_cursor,
    cursor_of,
    in_order,
    parse_cursor,
)
from tastemaker.library.scopes import (
    ResolvedFilter,
    Source,
    conditions,
    exists,
    label_range,
    name_like,
    predicted_range,
    sources,
)

GATHER = 5_000  # images that are sorted for one page
FIRST_LOOK = 500  # rows that fill a page of disagreements unless the filter leaves most out
WALK = 20_000  # index rows that are walked for one page
WALK_NAMES = 200_000  # of names, which are only compared
CHECKED_AT_ONCE = 500


def find(
    session: Session, resolved: ResolvedFilter, order: Order, after: str = "", n: int = 60,
    together: bool = False,
) -> Page:  # fmt: skip
    """The next `n` images behind the cursor `after`. `together`: of near-duplicates that agree
    with the filter, only the one that came first. Raises `Invalid` for a cursor that is none."""
    if order.by not in SORTS:
        raise Invalid(f"There is no order “{order.by[:20]}”.", f"Use {' or '.join(SORTS)}.")
    cursor = parse_cursor(after, order)
    live = resolved.filter.version == LIVE
    if (live and order.by == "predicted") or (resolved.by_live and order.by == "added"):
        return _by_live_model(session, resolved, order, cursor, n, together)
    narrow = narrowest(session, resolved, order)
    if narrow is not None:
        return _gather(session, resolved, order, narrow, cursor, n, together)
    if order.by == "disagreement":
        return _by_disagreement(session, resolved, order, cursor, n, together)
    return _walk(session, resolved, order, cursor, n, together)


def narrowest(
    session: Session, resolved: ResolvedFilter, order: Order | None = None
) -> Source | None:
    """An index that holds at most `GATHER` candidates, if the filter has one."""
    for source in sources(resolved):
        few = select_columns(source.image_id).where(*source.where).limit(GATHER + 1).subquery()
        if session.execute(select_columns(func.count()).select_from(few)).scalar_one() <= GATHER:
            return source
    if resolved.filter.name and (order is None or order.by != "name"):
        # Last, as this reads every name until it has that many; and once, so by their ids.
        named = select_columns(col(Image.id)).where(name_like(resolved, Image)).limit(GATHER + 1)
        ids = session.execute(named).scalars().all()
        if len(ids) <= GATHER:
            return Source("name", col(Image.id), (col(Image.id).in_(ids),))
    return None


# --- gathering -----------------------------------------------------------------------------------


def _gather(
    session: Session, resolved: ResolvedFilter, order: Order, source: Source,
    cursor: tuple[Any, int] | None, n: int, together: bool,
) -> Page:  # fmt: skip
    statement = gathered(resolved, order, source, together)
    if cursor is not None:
        key, image_id = statement.selected_columns[:2]
        statement = statement.where(after_cursor(order, key, image_id, cursor))
    inner = statement.subquery()
    key, image_id = inner.c.key, inner.c.image_id
    rows: Sequence[Any] = session.execute(
        select_columns(key, image_id)
        .order_by(*in_order(order, key, image_id))
        .limit(None if resolved.by_live else n + 1)
    ).all()
    rows = within_live(resolved, rows) if resolved.by_live else rows
    last = cursor_of(order, *rows[n - 1]) if len(rows) > n else ""
    return Page([image_id for _, image_id in rows[:n]], last)


def gathered(resolved: ResolvedFilter, order: Order, source: Source, together: bool = False) -> Any:
    """Select of (key, image_id) of the source's images that agree with the filter. The candidates
    are a subquery with a limit, which keeps every planner from beginning elsewhere."""
    candidates = (
        select_columns(source.image_id.label("image_id")).where(*source.where).distinct()
        .limit(10**9).subquery()
    )  # fmt: skip
    image_id = candidates.c.image_id
    prediction: Any = aliased(Prediction)
    label: Any = aliased(Label)
    image: Any = aliased(Image)
    version_id = resolved.version.id if resolved.version else 0
    predicted = and_(prediction.version_id == version_id, prediction.image_id == image_id)
    scored = and_(label.project_id == resolved.project_id, label.image_id == image_id)
    if order.by == "predicted":
        query = select_columns(prediction.honest.label("key"), image_id).join(prediction, predicted)
    elif order.by == "label":
        query = select_columns(label.value.label("key"), image_id).join(label, scored)
    elif order.by == "disagreement":
        gap = func.abs(prediction.honest - label.value / 10.0)
        query = select_columns(gap.label("key"), image_id).join(label, scored)
        query = query.join(prediction, predicted)
    elif order.by == "name":
        query = select_columns(image.name.label("key"), image_id).join(image, image.id == image_id)
    else:
        query = select_columns(image_id.label("key"), image_id)
    return query.where(
        *conditions(resolved, image_id), *_first_of_kin(resolved, image_id, together)
    )


# --- walking -------------------------------------------------------------------------------------


def _walk(
    session: Session, resolved: ResolvedFilter, order: Order, cursor: tuple[Any, int] | None,
    n: int, together: bool,
) -> Page:  # fmt: skip
    rows_walked = WALK_NAMES if order.by == "name" and resolved.filter.name else WALK
    end = session.execute(walk_end(resolved, order, cursor, rows_walked)).first()
    limit = n + 1 if not resolved.by_live else max(n + 1, 2000)
    statement = walked(resolved, order, cursor, end and (end[0], end[1]), limit, together)
    rows = list(session.execute(statement).all())
    stopped = len(rows) == limit  # full, so the walk went no further than the last of them
    last = rows[-1] if stopped else end
    rows = within_live(resolved, rows) if resolved.by_live else rows
    ids = [row[1] for row in rows[:n]]
    if len(rows) > n:
        return Page(ids, cursor_of(order, rows[n - 1][0], rows[n - 1][1]))
    after = cursor_of(order, last[0], last[1]) if last is not None else ""
    return Page(ids, after, short=bool(after))


def walked(
    resolved: ResolvedFilter, order: Order, cursor: tuple[Any, int] | None,
    end: tuple[Any, int] | None, limit: int, together: bool = False,
) -> Any:  # fmt: skip
    """Select of (key, image_id), in order, between two cursors (the end belongs to it)."""
    parts = []
    by_name = order.by == "name" and bool(resolved.filter.name)
    for key, image_id, where in _branches(resolved, order):
        named = [name_like(resolved, Image)] if by_name else []  # read from the index, so first
        part = select_columns(key.label("key"), image_id.label("image_id")).where(
            *where,
            *named,
            *conditions(resolved, image_id),
            *_first_of_kin(resolved, image_id, together),
        )
        if cursor is not None:
            part = part.where(after_cursor(order, key, image_id, cursor))
        if end is not None:
            part = part.where(before_cursor(order, key, image_id, end))
        parts.append(part)
    return _merged(order, parts).limit(limit)


def walk_end(
    resolved: ResolvedFilter, order: Order, cursor: tuple[Any, int] | None, rows: int
) -> Any:
    """Select of the row that lies so many rows behind the cursor; none if there are fewer."""
    parts = []
    for key, image_id, where in _branches(resolved, order):
        part = select_columns(key.label("key"), image_id.label("image_id")).where(*where)
        if cursor is not None:
            part = part.where(after_cursor(order, key, image_id, cursor))
        parts.append(part)
    return _merged(order, parts).offset(rows - 1).limit(1)


def _branches(resolved: ResolvedFilter, order: Order) -> list[tuple[Any, Any, list[Any]]]:
    """(key, image id, where) of the indexes that hold the images in this order. For the date, that
    is any index of the filter that is in the order of ids; or else every collection has its own,
    and they are merged as they are read."""
    if order.by == "predicted":
        version_id = resolved.version.id if resolved.version else 0
        in_range = predicted_range(resolved.filter, Prediction) if not resolved.by_live else []
        where = [Prediction.version_id == version_id, *in_range]
        return [(Prediction.honest, col(Prediction.image_id), where)]
    if order.by == "label":
        where = [Label.project_id == resolved.project_id, *label_range(resolved.filter, Label)]
        return [(col(Label.value), col(Label.image_id), where)]
    if order.by == "name":
        return [(col(Image.name), col(Image.id), [])]
    for source in sources(resolved)[:-1]:
        if source.once and source.by_id:
            return [(source.image_id, source.image_id, list(source.where))]
    in_one = [aliased(CollectionImage) for _ in resolved.collections]
    return [
        (member.image_id, member.image_id, [member.collection_id == collection_id])
        for member, collection_id in zip(in_one, resolved.collections, strict=True)
    ] or [(col(CollectionImage.image_id), col(CollectionImage.image_id), [literal(False)])]


def _merged(order: Order, parts: list[Any]) -> Any:
    if len(parts) == 1:
        key, image_id = parts[0].selected_columns
        return parts[0].order_by(*in_order(order, key.element, image_id.element))
    both = union(*parts)  # of sorted parts: a merge, which also drops what is in two collections
    return both.order_by(*in_order(order, both.selected_columns.key))


def _first_of_kin(resolved: ResolvedFilter, image_id: Any, together: bool) -> list[Any]:
    """No near-duplicate that came earlier agrees with the filter: one of each group is shown."""
    if not together or resolved.by_live:
        return []
    own, kin = aliased(Image), aliased(Image)
    return [
        ~exists(
            kin.id, own.id == image_id, kin.source_group == own.source_group, kin.id < own.id,
            *conditions(resolved, kin.id),
        )
    ]  # fmt: skip


# --- arrays --------------------------------------------------------------------------------------


def among(
    session: Session, resolved: ResolvedFilter, ids: Sequence[int], after: str, n: int
) -> Page:
    """A stretch of images that come in an order of their own, as a search answers with; the
    cursor is a place in that list."""
    start = int(after) if after.isdecimal() and len(after) < 10 else 0
    kept: list[int] = []
    for place, image_id in checked(session, resolved, ids, start):
        if len(kept) == n:
            return Page(kept, str(place))
        kept.append(image_id)
    return Page(kept)


def _by_live_model(
    session: Session, resolved: ResolvedFilter, order: Order, cursor: tuple[Any, int] | None,
    n: int, together: bool,
) -> Page:  # fmt: skip
    if resolved.live is None:
        return Page([])
    ids, predicted = live_in_order(resolved, order, cursor, WALK)
    rows = [(float(key), int(i)) for key, i in zip(predicted[:WALK], ids[:WALK], strict=True)]
    return _in_turn(session, resolved, order, rows, len(ids) > WALK, n, together)


def _by_disagreement(
    session: Session, resolved: ResolvedFilter, order: Order, cursor: tuple[Any, int] | None,
    n: int, together: bool,
) -> Page:  # fmt: skip
    """There is no index of differences; but there are only as many as there are labels, and only
    those shown are looked at closely."""
    version_id = resolved.version.id if resolved.version else 0
    gap = func.abs(Prediction.honest - col(Label.value) / 10.0)
    query = (
        select_columns(gap, col(Label.image_id))
        .join(
            Prediction,
            and_(
                col(Prediction.version_id) == version_id,
                col(Prediction.image_id) == Label.image_id,
            ),
        )
        .where(col(Label.project_id) == resolved.project_id, *label_range(resolved.filter, Label))
        .order_by(*in_order(order, gap, col(Label.image_id)))
    )
    if cursor is not None:
        query = query.where(after_cursor(order, gap, col(Label.image_id), cursor))
    page = Page([], short=True)
    for most in (WALK,) if resolved.by_live else (FIRST_LOOK, WALK):
        if page.short:
            rows = [(key, image_id) for key, image_id in session.execute(query.limit(most + 1))]
            rows = within_live(resolved, rows) if resolved.by_live else rows
            page = _in_turn(session, resolved, order, rows[:most], len(rows) > most, n, together)
    return page


def _in_turn(
    session: Session, resolved: ResolvedFilter, order: Order, rows: list[tuple[Any, int]],
    more: bool, n: int, together: bool,
) -> Page:  # fmt: skip
    """A stretch of (key, image id) rows that are in order already; `more` lie behind them."""
    kept: list[int] = []
    for place, _ in checked(session, resolved, [row[1] for row in rows], together=together):
        if len(kept) == n:
            return Page([rows[at][1] for at in kept], cursor_of(order, *rows[kept[-1]]))
        kept.append(place)
    after = cursor_of(order, *rows[-1]) if more else ""
    return Page([rows[at][1] for at in kept], after, short=bool(after))


def checked(
    session: Session,
    resolved: ResolvedFilter,
    ids: Sequence[int],
    start: int = 0,
    together: bool = False,
) -> Iterator[tuple[int, int]]:
    """(place, image id) of those that agree with the filter, in the order given."""
    size = 100
    while start < len(ids):
        chunk = ids[start : start + size]
        agree = set(
            session.exec(
                select(Image.id).where(
                    col(Image.id).in_(chunk),
                    *conditions(resolved, Image.id),
                    *_first_of_kin(resolved, Image.id, together),
                )
            )
        )
        for place, image_id in enumerate(chunk, start):
            if image_id in agree:
                yield place, image_id
        start, size = start + size, CHECKED_AT_ONCE
