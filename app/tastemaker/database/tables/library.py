"""Images, where they lie, what is said about them, and their vectors."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    UniqueConstraint,
    text,
)
from sqlmodel import Field, SQLModel

from tastemaker.database.tables.base import cascade, json_column, now


class Image(SQLModel, table=True):
    """A picture, identified by the SHA-256 of its bytes; or a bare vector under the hash of its
    values (`kind='vector'`), which has no pixels to show.

    `source_group` names what must never be split between training and hold-out: a photograph and
    its crops, degradations and near-duplicates share one.
    """

    __table_args__ = (
        CheckConstraint("kind IN ('file', 'upload', 'vector')", name="kind"),
        CheckConstraint("length(sha256) = 64", name="sha256"),
        Index("ix_image_group", "source_group"),
        Index("ix_image_name", "name", "id"),
        *(
            Index(f"ix_image_phash{i}", text(f"((phash >> {16 * i}) & 65535)"))
            for i in range(4)
        ),
    )  # fmt: skip

    id: int = Field(default=None, primary_key=True)
    sha256: str = Field(unique=True)
    kind: str
    name: str = Field(description="Name to show: the first file name it was found under.")
    format: str = ""
    width: int = 0
    height: int = 0
    bytes: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    phash: int | None = Field(default=None, sa_column=Column(BigInteger))
    source_group: str
    added_at: datetime = Field(default_factory=now)
    taken_at: str | None = Field(
        default=None,
        description="What the camera's clock showed, in ISO 8601, with the offset from UTC where "
        "one is stated; empty where the file states no time, None where nobody asked it yet.",
    )


class ImagePath(SQLModel, table=True):
    """A place on this machine where an image's bytes were found. Every path is kept."""

    __tablename__ = "image_path"
    __table_args__ = (
        CheckConstraint("state IN ('present', 'missing', 'changed')", name="state"),
        Index("ix_image_path_image", "image_id"),
    )

    id: int = Field(default=None, primary_key=True)
    path: str = Field(unique=True)
    image_id: int = cascade("image.id", nullable=False)
    size: int = Field(sa_column=Column(BigInteger, nullable=False))
    mtime_ns: int = Field(sa_column=Column(BigInteger, nullable=False))
    state: str = "present"


class ImageName(SQLModel, table=True):
    """Another name under which an image was sent: `Image.name` is the first one's. What lies on
    this machine has its names in its paths."""

    __tablename__ = "image_name"
    __table_args__ = (Index("ix_image_name_other", "name", "image_id"),)

    image_id: int = cascade("image.id", primary_key=True)
    name: str = Field(primary_key=True)


class Tag(SQLModel, table=True):
    """A word about an image: from its folder, from a text file beside it, or given by hand."""

    __tablename__ = "image_tag"
    __table_args__ = (Index("ix_image_tag_tag", "tag", "image_id"),)

    image_id: int = cascade("image.id", primary_key=True)
    tag: str = Field(primary_key=True)


class Collection(SQLModel, table=True):
    """A named set of images, made by one import."""

    id: int = Field(default=None, primary_key=True)
    name: str = Field(unique=True)
    created_at: datetime = Field(default_factory=now)


class CollectionImage(SQLModel, table=True):
    __tablename__ = "collection_image"
    __table_args__ = (Index("ix_collection_image_image", "image_id"),)

    collection_id: int = cascade("collection.id", primary_key=True)
    image_id: int = cascade("image.id", primary_key=True)


class SyntheticImage(SQLModel, table=True):
    """An image that an import made by damaging another (`pictures.damage`). It trains, and never
    measures a version; `source_id` is the clean one, `damage` its kind and parameters."""

    __tablename__ = "synthetic_image"
    __table_args__ = (Index("ix_synthetic_image_source", "source_id"),)

    image_id: int = cascade("image.id", primary_key=True)
    source_id: int = cascade("image.id", nullable=False)
    damage: dict[str, Any] = json_column()


class SkippedFile(SQLModel, table=True):
    """A file that an import could not use, and why."""

    __tablename__ = "set_aside"
    __table_args__ = (UniqueConstraint("path"),)

    id: int = Field(default=None, primary_key=True)
    path: str
    reason: str
    job_id: int | None = Field(
        default=None, sa_column=Column(ForeignKey("job.id", ondelete="SET NULL"))
    )
    at: datetime = Field(default_factory=now)


class EncoderRow(SQLModel, table=True):
    """One encoder fingerprint. `declared` means: vectors came from outside and their maker named
    the encoder; no image can be embedded under it."""

    __tablename__ = "encoder"
    __table_args__ = (CheckConstraint("dim > 0", name="dim"),)

    id: int = Field(default=None, primary_key=True)
    fingerprint: str = Field(unique=True)
    name: str
    dim: int
    declared: bool = False
    details: dict[str, Any] = json_column()


class Embedding(SQLModel, table=True):
    """float16 vector of one image under one encoder, not L2-normalised, little-endian."""

    image_id: int = cascade("image.id", primary_key=True)
    encoder_id: int = Field(foreign_key="encoder.id", primary_key=True)
    vector: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
