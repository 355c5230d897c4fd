"""A server of this program, as a Python program sees it.

    with tastemaker.Client("http://127.0.0.1:8000", token="tmk_…") as client:
        anime = client.project("Anime")
        for card in anime.queue(10):
            anime.score(card["image_id"], 7)
        version = anime.train(note="from a notebook")
        anime.predictions().to_pandas()

Thin over the HTTP API: what comes back is the JSON of the server, tables are `pyarrow.Table`, and
what the server refuses raises the `TastemakerError` of its own sentence. A token is made on the
page People, or left out on a server without a password.
"""

import contextlib
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import unquote

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

from tastemaker.errors import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    NotSignedIn,
    StorageFull,
    TastemakerError,
    TooLarge,
    TooManyAttempts,
    Unavailable,
    Unexpected,
)
from tastemaker.files import is_bare_name, write_atomic

LOCAL = "http://127.0.0.1:8000"
KINDS: dict[int, type[TastemakerError]] = {
    kind.status: kind
    for kind in (
        NotSignedIn, Forbidden, NotFound, Conflict, TooLarge, Invalid, TooManyAttempts, Unexpected,
        Unavailable, StorageFull,
    )
}  # fmt: skip
ENDED = ("done", "failed", "cancelled")
Form = Literal["city96", "config", "laion", "comfyui", "html", "onnx", "hub"]
Json = dict[str, Any]


class Client:
    """A connection to a server. To be closed, or used in a `with`."""

    def __init__(
        self,
        url: str = LOCAL,
        *,
        token: str = "",
        seconds: float = 60.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`url` is the address that a browser would open, with the path below which the server is
        hosted, if there is one. `seconds` is how long an answer is waited for. `transport` replaces
        the network, as httpx has it: to speak to an application in the same process."""
        self.url = url.rstrip("/")
        authorization = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(
            base_url=f"{_checked(self.url)}/", timeout=seconds, transport=transport,
            headers={"X-Requested-With": "tastemaker.Client"} | authorization,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def __repr__(self) -> str:
        return f"<Client of {self.url}>"

    # --- any address ---------------------------------------------------------------------------

    def call(self, method: str, path: str, **how: Any) -> Any:
        """What an address below /api/v1 answers: its JSON, or None where it has none. `how` is what
        `httpx.Client.request` takes: `params`, `json`, `files`. Raises `TastemakerError`."""
        answer = self._asked(method, path, **how)
        try:
            return answer.json() if answer.content else None
        except ValueError as error:  # a page of what stands between
            raise _strange(answer, Unexpected) from error

    def _asked(self, method: str, path: str, **how: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, f"api/v1/{path.lstrip('/')}", **how)
        except httpx.TimeoutException as error:
            raise Unavailable(
                f"{self.url} did not answer in time.",
                "Try again; what it saved meanwhile is safe. Client(seconds=…) waits longer.",
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(
                f"{self.url} cannot be reached: {error}.",
                "See that the server runs (tastemaker serve) and that the address is right.",
            ) from error
        if answer.is_success:
            return answer
        raise _refused(answer)

    def _table(self, path: str) -> pa.Table:
        answer = self._asked("GET", path, params={"format": "parquet"})
        try:
            return pq.read_table(io.BytesIO(answer.content))
        except pa.ArrowException as error:
            raise _strange(answer, Unexpected) from error

    def _saved(self, path: str, to: Path, **params: str) -> Path:
        """What an address gives, written to a file; into a folder under the name it comes with."""
        answer = self._asked("GET", path, params=params)
        if to.is_dir():
            disposition = answer.headers.get("content-disposition", "")
            plain = disposition.partition('filename="')[2].partition('"')[0]
            whole = unquote(disposition.partition("filename*=UTF-8''")[2].partition(";")[0])
            name = whole or plain
            to = to / (name if is_bare_name(name) else "file")
        write_atomic(to, answer.content)
        return to

    # --- projects and jobs -----------------------------------------------------------------------

    def projects(self) -> list[Json]:
        """Every project in short: `id`, `name`, `kind`, `encoder` and more."""
        return list(self.call("GET", "projects"))

    def project(self, name: str | int) -> "RemoteProject":
        """A project by its name or id. Raises `NotFound`."""
        found = self.projects()
        for known in found:
            if name in (known["id"], known["name"]):
                return RemoteProject(self, known["id"], known["name"])
        names = ", ".join(known["name"] for known in found) or "none"
        raise NotFound(f"There is no project “{name}” on {self.url}.", f"There are: {names}.")

    def create_project(self, name: str, **how: Any) -> "RemoteProject":
        """A new project; `how` may hold `encoder`, `threshold`, `start_from`."""
        made = self.call("POST", "projects", json={"name": name, **how})
        return RemoteProject(self, made["id"], made["name"])

    def jobs(self) -> list[Json]:
        """Unfinished jobs first, then the newest finished ones."""
        return list(self.call("GET", "jobs"))

    def wait(self, job: Json | int, *, seconds: float = 3600.0, every: float = 0.5) -> Json:
        """The job once it is done. Raises `TastemakerError` with its reason where it failed or was
        cancelled, `Unavailable` where it is not done after so many `seconds`; it goes on then."""
        job_id = job if isinstance(job, int) else int(job["id"])
        until = time.monotonic() + seconds
        while True:
            known: Json = self.call("GET", f"jobs/{job_id}")
            if known["state"] in ENDED or time.monotonic() > until:
                break
            time.sleep(every)
        if known["state"] == "done":
            return known
        if known["state"] not in ENDED:
            raise Unavailable(
                f"Job {job_id} is not done after {seconds:g} seconds.", "It goes on; wait again."
            )
        reason = known.get("error") or f"Job {job_id} was cancelled."
        raise TastemakerError(reason, known.get("remedy", ""))


class RemoteProject:
    """A project on a server."""

    def __init__(self, client: Client, id: int, name: str) -> None:
        self.client, self.id, self.name = client, id, name

    def __repr__(self) -> str:
        return f"<project {self.name} of {self.client.url}>"

    def call(self, method: str, path: str, **how: Any) -> Any:
        """What an address below /api/v1/projects/ID answers."""
        return self.client.call(method, f"projects/{self.id}/{path}", **how)

    # --- images ----------------------------------------------------------------------------------

    def import_folder(self, folder: str | Path, collection: str = "", *, wait: bool = True) -> Json:
        """Import a folder of the server's machine; the answer is the job."""
        body = {"folder": str(folder), "collection": collection}
        return self._job(self.call("POST", "imports", json=body), wait)

    def upload(
        self, files: Sequence[str | Path], collection: str = "", *, wait: bool = True
    ) -> Json:
        """Send pictures, or zips of pictures; the answer is the job of their import."""
        with contextlib.ExitStack() as opened:
            sent = [
                ("files", (Path(path).name, opened.enter_context(Path(path).open("rb"))))
                for path in files
            ]
            fields = {"collection": collection} if collection else {}
            job = self.call("POST", "uploads", files=sent, data=fields)
        return self._job(job, wait)

    def images(self, **filter: Any) -> Iterator[Json]:
        """Every image that a filter means, page after page: `tag`, `scored`, `predicted_from`,
        `sort` and all else that the library's address takes."""
        after: Any = None
        while True:
            more = {"after": after} if after else {}
            page = self.call("GET", "library", params={"n": 200, **filter, **more})
            yield from page["images"]
            after = page["next"]
            if not after:
                return

    # --- scores ----------------------------------------------------------------------------------

    def queue(self, n: int = 4, queue: str = "mixed") -> list[Json]:
        """The next images to score, each with `image_id`, `offer` and the reason why."""
        return list(self.call("GET", "queue", params={"n": n, "queue": queue}))

    def score(self, image: int | Json, value: int, **how: Any) -> Json:
        """Record a score of 0–10. `image` is an id, or a card of the queue: then the score counts
        as one from that queue. It is on the server's disk when this returns."""
        return self._said(image, {"value": value, **how})

    def skip(self, image: int | Json, **how: Any) -> Json:
        return self._said(image, {"kind": "skip", **how})

    def flag(self, image: int | Json, note: str = "", **how: Any) -> Json:
        return self._said(image, {"kind": "flag", "note": note, **how})

    def undo(self) -> Json:
        """Take back the newest score, skip or flag of this person."""
        return dict(self.call("POST", "undo", json={}))

    def _said(self, image: int | Json, body: Json) -> Json:
        if isinstance(image, Mapping):
            card = {"image_id": image["image_id"], "offer": image.get("offer") or ""}
            body = {**card, **body}
        else:
            body = {"image_id": image, **body}
        return dict(self.call("POST", "scores", json=body))

    def labels(self) -> pa.Table:
        """Every score that stands: sha256, path, score, annotator, scored_at."""
        return self.client._table(f"projects/{self.id}/labels")

    def send_labels(self, file: str | Path, **fields: str) -> Json:
        """Record the scores of a table (.csv, .jsonl, .parquet). `fields` may hold `scale`,
        `image_column`, `score_column`, and `as_hints="true"` for another program's ratings."""
        path = Path(file)
        with path.open("rb") as opened:
            sent = {"file": (path.name, opened)}
            return dict(self.call("POST", "labels", files=sent, data=fields))

    # --- versions --------------------------------------------------------------------------------

    def train(self, note: str = "", *, wait: bool = True, **how: Any) -> Json:
        """Train on the scores as they stand; the answer is the version, or its job where that is
        not waited for."""
        job = self._job(self.call("POST", "train", json={"note": note, **how}), wait)
        return self.version(job["result"]["version"]) if wait else job

    def versions(self) -> list[Json]:
        """The versions, newest first, with what was measured of them."""
        return list(self.call("GET", "versions"))

    def version(self, number: str = "active") -> Json:
        """A version by its number, or the active one. Raises `NotFound`."""
        for known in self.versions():
            if known["version"] == number or (number == "active" and known["active"]):
                return known
        raise NotFound(f"“{self.name}” has no version {number}.", "See `versions()`.")

    def predictions(self, number: str = "active") -> pa.Table:
        """What a version says of every image: sha256, path, aesthetic_score, out_of_fold,
        uncertainty, model_sha256."""
        return self.client._table(f"versions/{self.version(number)['id']}/predictions")

    def predict(self, picture: str | Path, *versions: str) -> Json:
        """What versions say of a picture, the active one unless others are named. Nothing of it is
        kept on the server."""
        path = Path(picture)
        asked = {f"version-{number}": "on" for number in versions}
        with path.open("rb") as opened:
            sent = {"picture": (path.name, opened)}
            return dict(self.call("POST", "predict", files=sent, data=asked))

    def download(self, to: str | Path, number: str = "active", format: Form = "city96") -> Path:
        """A version's file, or one of the forms that run without this program, written to a file or
        into a folder; the answer is where."""
        path = f"versions/{self.version(number)['id']}/export"
        return self.client._saved(path, Path(to), format=format)

    def _job(self, job: Json, wait: bool) -> Json:
        return self.client.wait(job) if wait else job


def _checked(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
        if parsed.scheme in ("http", "https") and parsed.host:
            return parsed
    except (httpx.InvalidURL, UnicodeError):
        pass
    raise Invalid(f"“{url}” is no address of a server.", f"Write it as a browser does: {LOCAL}.")


def _refused(answer: httpx.Response) -> TastemakerError:
    """The error that the server tells, as the kind it is there."""
    kind = KINDS.get(answer.status_code, TastemakerError)
    try:
        told = answer.json()
        error = kind(str(told["error"]), str(told.get("hint", "")), code=str(told.get("code", "")))
    except (ValueError, KeyError, TypeError):
        error = _strange(answer, kind)
    error.status = answer.status_code
    return error


def _strange(answer: httpx.Response, kind: type[TastemakerError]) -> TastemakerError:
    return kind(
        f"{answer.url} answered {answer.status_code} {answer.reason_phrase}, and not as "
        "Tastemaker does.",
        "See that the address is right, and what stands between.",
    )
