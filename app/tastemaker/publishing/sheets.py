"""Contact sheets: the images a version likes most, likes least, and cannot decide about. A burst
would fill them, so of near-duplicates each shows one."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from operator import attrgetter
from typing import Any

from more_itertools import unique_everseen
from PIL import Image as Picture
from sqlmodel import Session, and_, col, func, select

from tastemaker import projects
from tastemaker.config import Settings
from tastemaker.database.tables import Image, Label, Prediction, Project, Version, VersionLabel
from tastemaker.errors import NotFound
from tastemaker.files.percentages import probability
from tastemaker.pictures import contact_sheet
from tastemaker.pictures.pictures import THUMB, thumb_path

SHEETS = {"top": "Top", "threshold": "Around the threshold", "bottom": "Bottom"}
MOST_TILES = 200
WALK = 10  # predictions walked for each tile, to pass over near-duplicates


@dataclass(frozen=True)
class Tile:
    """An image of the pool on a sheet: the score (0–1) by a head that never saw it, and its label
    (0–10). `cross_validated` tells that the version's file itself has learned from it."""

    image_id: int
    name: str
    sha256: str
    has_pixels: bool
    score: float
    label: float | None
    cross_validated: bool = False
    source_group: str = ""

    def as_dict(self) -> dict[str, Any]:
        told = asdict(self)
        del told["source_group"]
        return told


def sheet_tiles(
    session: Session, project: Project, version: Version, sheet: str, n: int = 24
) -> list[Tile]:
    """The `n` highest (`top`), lowest (`bottom`), or nearest to the project's threshold from both
    sides (`threshold`), in falling order of score, of near-duplicates one; images that the version
    learned from only where there are too few others. Each costs a walk along the index only."""
    if sheet not in SHEETS:
        raise NotFound(f"There is no sheet “{sheet[:20]}”.", f"There are: {', '.join(SHEETS)}.")
    fresh = _sheet(session, project, version, sheet, n, col(Prediction.out_of_fold).is_(None))
    rest = n - len(fresh)
    seen = col(Prediction.out_of_fold).is_not(None)
    more = _sheet(session, project, version, sheet, n, seen) if rest else []
    found = fresh + _one_of_each(more, rest, fresh)
    return sorted(found, key=lambda tile: (-tile.score, tile.image_id))


def _sheet(
    session: Session, project: Project, version: Version, sheet: str, n: int, among: Any
) -> list[Tile]:
    score: Any = Prediction.honest
    cut = project.threshold
    if sheet == "top":
        return _tiles(session, project, version, score.desc(), n, among)
    if sheet == "bottom":
        return _tiles(session, project, version, score, n, among)
    above = _tiles(session, project, version, score, n, and_(among, score >= cut))
    below = _tiles(session, project, version, score.desc(), n, and_(among, score < cut))
    return _one_of_each(sorted(above + below, key=lambda tile: abs(tile.score - cut)), n)


def _one_of_each(tiles: Iterable[Tile], n: int, beside: Iterable[Tile] = ()) -> list[Tile]:
    """The first `n`, of near-duplicates one, and none of those that one is `beside`."""
    shown = {tile.source_group for tile in beside}
    others = (tile for tile in tiles if tile.source_group not in shown)
    return list(islice(unique_everseen(others, key=attrgetter("source_group")), n))


@dataclass(frozen=True)
class Ends:
    """What a version likes most, from the top down, and least, from the bottom up."""

    version: Version
    best: list[Tile]
    worst: list[Tile]


def unseen_ends(
    session: Session, project: Project, shown: Sequence[Version], n: int = 12
) -> tuple[list[Ends], bool]:
    """Both ends of what each version says of the images that none of them trained on, `n` at most
    at either, of near-duplicates one; and whether nobody has scored any of these. Scored ones are
    taken only where there are not enough others. No image is at both ends, nor one like it."""
    trained = select(VersionLabel.image_id).where(
        col(VersionLabel.version_id).in_([version.id for version in shown]),
        VersionLabel.image_id == Prediction.image_id, VersionLabel.side == "train",
    )  # fmt: skip
    labelled = select(Label.image_id).where(
        Label.project_id == project.id, Label.image_id == Prediction.image_id
    )
    unseen = ~trained.correlate(Prediction).exists()
    unscored = ~labelled.correlate(Prediction).exists()
    some = _count(session, project, shown[0], and_(unseen, unscored), 2 * n)
    new = some == 2 * n
    where = and_(unseen, unscored) if new else unseen
    some = some if new else _count(session, project, shown[0], where, 2 * n)
    score: Any = Prediction.honest
    ends = []
    for version in shown:
        best = _tiles(session, project, version, score.desc(), (some + 1) // 2, where)
        up = _tiles(session, project, version, score, some, where)
        ends.append(Ends(version, best, _one_of_each(up, some // 2, best)))
    return ends, new


def _count(session: Session, project: Project, version: Version, where: Any, most: int) -> int:
    """How many of a version's predictions are meant, of near-duplicates one, counted as far as
    `most`."""
    rows = (
        select(Image.source_group)
        .join(Prediction, col(Prediction.image_id) == Image.id)
        .where(Prediction.version_id == version.id, where)
        .where(projects.is_member(project.id, Prediction.image_id))
        .distinct()
        .limit(most)
    )
    return int(session.exec(select(func.count()).select_from(rows.subquery())).one())


def _tiles(
    session: Session, project: Project, version: Version, order: Any, n: int, where: Any
) -> list[Tile]:
    """The first `n` in an order, of near-duplicates one, among so many that walking stays cheap."""
    n = min(n, MOST_TILES)
    label = and_(col(Label.image_id) == Prediction.image_id, col(Label.project_id) == project.id)
    mine = projects.is_member(project.id, Prediction.image_id)
    columns: tuple[Any, ...] = (
        Image.id, Image.name, Image.sha256, Image.kind != "vector", Prediction.honest,
        Label.value, col(Prediction.out_of_fold).is_not(None), Image.source_group,
    )  # fmt: skip
    rows = session.execute(
        select(*columns)
        .select_from(Prediction)
        .join(Image, col(Image.id) == Prediction.image_id)
        .outerjoin(Label, label)
        .where(Prediction.version_id == version.id, where, mine)
        .order_by(order, col(Prediction.image_id))
        .limit(WALK * n)
    )
    return _one_of_each((Tile(*row) for row in rows), n)


def draw(settings: Settings, tiles: list[Tile], title: str, columns: int = 10) -> bytes:
    """A PNG of the tiles in rows of `columns`, each with its score; the thumbnails suffice."""
    told = [(_thumbnail(settings, tile), probability(tile.score)) for tile in tiles]
    return contact_sheet.draw(told, title, columns)


def _thumbnail(settings: Settings, tile: Tile) -> Picture.Image | None:
    try:
        with Picture.open(thumb_path(settings.thumbs, tile.sha256, THUMB)) as picture:
            small = picture.convert("RGB")
    except OSError:
        return None
    small.thumbnail((contact_sheet.SIDE, contact_sheet.SIDE))
    return small
