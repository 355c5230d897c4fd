"""Settings from the environment (`TASTEMAKER_*`) and `.env`, and where things live on disk."""

import re
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tastemaker.errors import Invalid

PACKAGE = Path(__file__).resolve().parent


def shipped(name: str) -> Path:
    """A folder that ships with the program: inside the package when installed as a wheel,
    beside it in a checkout."""
    installed = PACKAGE / name
    return installed if installed.is_dir() else PACKAGE.parents[1] / name


ENV_FILE = ".env"
DEFAULT_ENCODER = "efficientnet_lite0+stages+whole/bundled"  # of a project that names none


def _own_home() -> Path:
    return Path.home() / ".tastemaker"


class Settings(BaseSettings):
    """Every setting of the program. Each field is one environment variable; an empty one counts as
    unset."""

    model_config = SettingsConfigDict(
        env_prefix="TASTEMAKER_", env_file=ENV_FILE, env_file_encoding="utf-8-sig",
        env_ignore_empty=True, extra="ignore",
    )  # fmt: skip

    home: Path = Field(
        default_factory=lambda: _own_home(),
        description="Folder for the database, uploads, thumbnails, checkpoints and backups.",
    )
    database_url: str = Field(
        default="", description="SQLAlchemy URL; empty means SQLite in the home folder."
    )
    allowed_hosts: str = Field(
        default="",
        description="Comma-separated Host names that are answered besides the loopback names.",
    )
    admin_password: str = Field(
        default="",
        description="Password of the one account; needed to serve on a non-loopback address.",
    )
    trusted_proxies: str = Field(
        default="",
        description="Comma-separated addresses of reverse proxies whose X-Forwarded-For and "
        "X-Forwarded-Proto are believed.",
    )
    sign_in_header: str = Field(
        default="",
        description="Header in which such a proxy says who has signed in, as Remote-User; anybody "
        "else who sends it is refused.",
    )
    root_path: str = Field(
        default="",
        description="Path of another host name that the program is under, as /taste behind a "
        "reverse proxy.",
    )
    import_roots: str = Field(
        default="",
        description="Comma-separated folders of this machine out of which images may be imported; "
        "empty means any that the program may read.",
    )
    annotator: str = Field(default="me", description="Name under which scores are recorded.")
    max_upload_mb: int = Field(default=4096, ge=1, description="Largest single upload, in MB.")
    max_image_mb: int = Field(default=200, ge=1, description="Largest image file, in MB.")
    max_image_megapixels: int = Field(
        default=150, ge=1, description="Largest image, in millions of pixels."
    )
    min_free_gb: float = Field(
        default=1.0, ge=0, description="Uploads and jobs are refused below this much free disk."
    )
    max_connections: int = Field(
        default=400,
        ge=4,
        description="Open connections at once; beyond, the one that was waited for longest is "
        "closed.",
    )
    idle_seconds: float = Field(
        default=30.0,
        gt=0,
        description="Seconds that a client may stand still amid a request or an answer.",
    )
    torch_threads: int = Field(
        default=0, ge=0, description="CPU threads for the numeric code; 0 means all cores."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Form of the log: text for people, json for programs."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="The least that is logged; debug adds pictures, static files and probes.",
    )

    def __init__(self, **values: Any) -> None:
        """Raises `Invalid` where the `.env` of the current folder, perhaps of another program,
        cannot be read."""
        try:
            super().__init__(**values)
        except (OSError, UnicodeError) as error:
            reason = (getattr(error, "strerror", None) or "").lower() or "it is no text in UTF-8"
            raise Invalid(
                f"The file {ENV_FILE} in {Path.cwd()} cannot be read: {reason}.",
                "Settings are looked for in it. Mend it, or start the program in another folder.",
            ) from error

    @field_validator("root_path")
    @classmethod
    def _rooted(cls, path: str) -> str:
        """“/taste”, however its slashes were typed; empty for none."""
        bare = path.strip().strip("/")
        if bare and not re.fullmatch(r"[\w.~-]+(/[\w.~-]+)*", bare, re.ASCII):
            raise ValueError("a path is written as /taste, of letters, digits and -._~")
        if {".", ".."} & set(bare.split("/")):
            raise ValueError("a path has no dots alone")
        return f"/{bare}" if bare else ""

    @field_validator("home")
    @classmethod
    def _unset_where_blank(cls, home: Path) -> Path:
        return home if str(home).strip() else _own_home()

    @cached_property
    def root(self) -> Path:
        return self.home.expanduser().resolve()

    @cached_property
    def roots(self) -> tuple[Path, ...]:
        """The folders that may be imported from, resolved; none means anywhere."""
        named = (name.strip() for name in self.import_roots.split(","))
        return tuple(Path(name).expanduser().resolve() for name in named if name)

    def is_own(self, path: Path) -> bool:
        """Whether a resolved path is this program's own folder, or lies in it."""
        return path == self.root or self.root in path.parents

    @property
    def database(self) -> str:
        return self.database_url or self._own_database

    @property
    def _own_database(self) -> str:
        return f"sqlite:///{self.root / 'tastemaker.db'}"

    @property
    def database_in_home(self) -> bool:
        """Whether the database is the file in the home folder: what backups cover."""
        return self.database == self._own_database

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def thumbs(self) -> Path:
        return self.root / "thumbs"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def routers(self) -> Path:
        """Published routers, a folder each; made when there is one."""
        return self.root / "routers"

    @property
    def backups(self) -> Path:
        return self.root / "backups"

    @property
    def live(self) -> Path:
        """Array files of the live models, rewritten after every few scores."""
        return self.root / "live"

    @property
    def incoming(self) -> Path:
        """Uploads that wait for their import job."""
        return self.root / "incoming"

    def make_folders(self) -> None:
        """Make what is missing. A new home folder is its owner's alone: password hashes are in it,
        and pictures that nobody else may be meant to see."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (
            self.images, self.thumbs, self.checkpoints, self.backups, self.live, self.incoming,
        ):  # fmt: skip
            folder.mkdir(exist_ok=True)
