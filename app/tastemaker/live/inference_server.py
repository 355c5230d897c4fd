"""What the resident model process answers (the asking side is `questions`).

    warm      {}                                    load the project's encoder
    predict   {"staged": token} or {"image_id": n}, what versions, and the live model, say of a
              {"versions": [id, …], "live": bool}   picture; a `blob` holds a picture's bytes;
                                                    "view": true leaves a derivative to look at
    similar   {"image_id": n, "limit": 48}          the nearest images of the project, by cosine
    text      {"text": "…", "limit": 48}            the images nearest to a text

One thread takes the questions up, so that their askers know that somebody is there; another works
through them, one at a time and on one core. The encoder and some heads stay loaded. A picture is
decoded in a child that a bad one may kill.
"""

import contextlib
import functools
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from sqlalchemy import Engine
from sqlmodel import Session, col, select

from tastemaker import embeddings, images, projects, versions
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.tables import EncoderRow, Image, Prediction, Project, Version
from tastemaker.encoding.encoders import no_words, reads_text
from tastemaker.encoding.similarity import cosines, highest
from tastemaker.errors import BadImage, Conflict, Invalid, NotFound, TastemakerError, Unavailable
from tastemaker.learning.checkpoints import load_checkpoint
from tastemaker.learning.ridge import Ridge
from tastemaker.live import live_model, model_requests, preview_uploads
from tastemaker.live.kept import Kept
from tastemaker.live.model_requests import ModelRequest
from tastemaker.live.nearest import labelled_neighbours, ranked_by_similarity
from tastemaker.pictures.decode_pool import DecodePool
from tastemaker.pictures.pictures import Limits

log = logging.getLogger(__name__)

QUICK, IDLE = 0.03, 0.2  # seconds between two looks for questions: soon after one, and later
SWEEP_SECONDS = 60.0
NICENESS = 1  # on top of the process's own: the live model keeps its pace
ENCODERS, HEADS = 1, 8  # how many stay loaded
DECODE_SECONDS = 20
ALIKE = 5  # how many of the nearest images lend a picture their uncertainty
MOST_IMAGES = 100_000
MOST_VERSIONS = 20
MOST_TEXT = 500


class Library(Protocol):
    """A project's vectors in memory, rows ascending by image id."""

    @property
    def ids(self) -> np.ndarray: ...

    @property
    def x(self) -> np.ndarray: ...


class Watched(Protocol):
    """What the live model knows of a project; both are empty before its first refit."""

    @property
    def library(self) -> Library | None: ...

    @property
    def ridge(self) -> Ridge | None: ...


class Vectors(NamedTuple):
    ids: np.ndarray
    x: np.ndarray


def start(settings: Settings, engine: Engine, watched: Mapping[int, Watched]) -> None:
    """Answer questions in the background of this process until it ends. Called from its main
    thread: the pool of decoding children must be put away when it is told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    model_requests.requeue_claimed(engine)
    taken: queue.Queue[ModelRequest] = queue.Queue()
    answering = InferenceServer(settings, engine, watched)
    for work in (functools.partial(_take, settings, engine, taken),
                 functools.partial(answering.run, taken)):  # fmt: skip
        threading.Thread(target=work, daemon=True).start()


def _take(settings: Settings, engine: Engine, taken: "queue.Queue[ModelRequest]") -> None:
    pause, swept = IDLE, time.monotonic()
    while True:
        try:
            found = model_requests.claim(engine)
            for question in found:
                taken.put(question)
            pause = QUICK if found else min(IDLE, pause * 1.1)
            if time.monotonic() - swept > SWEEP_SECONDS:
                swept = time.monotonic()
                with sessions.writing(engine) as session:
                    model_requests.sweep(session)
                preview_uploads.sweep(settings)
        except Exception:  # a busy database, say: the question is still there at the next look
            log.exception("questions could not be taken up")
            pause = IDLE
        threading.Event().wait(pause)


class InferenceServer:
    """Answers one question after the other. What is loaded here belongs to its one thread."""

    def __init__(
        self, settings: Settings, engine: Engine, watched: Mapping[int, Watched] | None = None
    ) -> None:
        self.settings, self.engine = settings, engine
        self.watched: Mapping[int, Watched] = {} if watched is None else watched  # filled later
        self._encoders: Kept[Any] = Kept(ENCODERS)
        self._heads: Kept[Any] = Kept(HEADS)
        self._pool: DecodePool | None = None
        self._kinds: dict[str, Callable[[ModelRequest], dict[str, Any]]] = {
            "warm": self.warm, "predict": self.predict, "similar": self.similar, "text": self.text,
        }  # fmt: skip

    def run(self, taken: "queue.Queue[ModelRequest]") -> None:
        with contextlib.suppress(AttributeError, OSError):  # of this thread only, on Linux
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.nice(0) + NICENESS)
        while True:
            question = taken.get()
            try:
                self.settle(question)
            except Exception:
                log.exception("question %s could not be settled", question.id)

    def settle(self, question: ModelRequest) -> None:
        """Answer a question, or say why there is no answer; nothing if nobody waits any more."""
        with sessions.reading(self.engine) as session:
            if not model_requests.is_open(session, question.id):
                return
        try:
            model_requests.resolve(self.engine, question.id, self.say(question))
        except TastemakerError as error:
            model_requests.reject(self.engine, question.id, error)
        except Exception as error:
            log.exception("a question about %s failed", question.kind)
            sorry = Unavailable(
                f"The model could not answer ({type(error).__name__}).",
                "The worker's log says more; try again.",
            )
            model_requests.reject(self.engine, question.id, sorry)

    def say(self, question: ModelRequest) -> dict[str, Any]:
        """The answer. Raises `TastemakerError`."""
        if question.kind not in self._kinds:
            raise Invalid(f"“{question.kind[:40]}” is not a question the model knows.")
        return self._kinds[question.kind](question)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    # --- the kinds -----------------------------------------------------------------------------

    def warm(self, question: ModelRequest) -> dict[str, Any]:
        with sessions.reading(self.engine) as session:
            project, row = self._pinned(session, question)
        encoder = self._encoder(project, row)
        self._children()
        return {"encoder": encoder.spec.name}

    def predict(self, question: ModelRequest) -> dict[str, Any]:
        """Scores in [0, 1], each with its uncertainty where one is known; the nearest images that
        have a label, with it; facts about the picture."""
        with sessions.reading(self.engine) as session:
            project, row = self._pinned(session, question)
            chosen = self._chosen(session, project, question)
        vector, facts = self._vector_of(question, project, row)
        with sessions.reading(self.engine) as session:
            library = self._library(session, project)
            closeness = cosines(library.x, vector)
            nearest = library.ids[highest(closeness, ALIKE)].tolist()
            said = [
                self._by_version(session, project, version, vector, nearest, facts["image_id"])
                for version in chosen
            ]
            if question.payload.get("live"):
                said.append(self._by_live_model(project, vector, nearest))
            neighbours = labelled_neighbours(session, project, library.ids, closeness)
        return {"picture": facts, "said": said, "neighbours": neighbours}

    def similar(self, question: ModelRequest) -> dict[str, Any]:
        image_id = question.integer("image_id")
        with sessions.reading(self.engine) as session:
            project, _ = self._pinned(session, question)
            library = self._library(session, project)
        at = int(np.searchsorted(library.ids, image_id))
        if at >= len(library.ids) or int(library.ids[at]) != image_id:
            raise NotFound(
                "This image is not embedded yet, so nothing is known to be like it.",
                "Wait for the embedding job.",
            )
        closeness = cosines(library.x, np.asarray(library.x[at], np.float32))
        closeness[at] = -np.inf  # of course it is like itself
        return ranked_by_similarity(
            library.ids, closeness, question.integer("limit", 48, MOST_IMAGES)
        )

    def text(self, question: ModelRequest) -> dict[str, Any]:
        wanted = " ".join(str(question.payload.get("text", "")).split())
        if not 1 <= len(wanted) <= MOST_TEXT:
            raise Invalid(f"A search text has 1 to {MOST_TEXT} characters.")
        with sessions.reading(self.engine) as session:
            project, row = self._pinned(session, question)
            if not reads_text(project.encoder):  # before loading it in vain
                raise no_words(project.encoder)
            library = self._library(session, project)
        vector = self._encoder(project, row).encode_text(wanted)
        return ranked_by_similarity(
            library.ids, cosines(library.x, vector), question.integer("limit", 48, MOST_IMAGES)
        )

    # --- what they need ------------------------------------------------------------------------

    def _pinned(self, session: Session, question: ModelRequest) -> tuple[Project, EncoderRow]:
        """The project and the encoder its vectors are of."""
        project = projects.get(session, question.project_id)
        row = session.get(EncoderRow, project.encoder_id) if project.encoder_id else None
        if row is None:
            raise Conflict(
                f"No image of “{project.name}” is embedded yet.",
                "Add images, and wait for the embedding job.",
            )
        return project, row

    def _chosen(self, session: Session, project: Project, question: ModelRequest) -> list[Version]:
        ids = question.payload.get("versions") or []
        if not isinstance(ids, list) or len(ids) > MOST_VERSIONS:
            raise Invalid(f"“versions” is a list of at most {MOST_VERSIONS} version ids.")
        chosen = [versions.get(session, int(version_id)) for version_id in ids]
        for version in chosen:
            if version.project_id != project.id:
                raise NotFound(f"“{project.name}” has no such version.", "Choose one of its own.")
        if not chosen and not question.payload.get("live"):
            raise Invalid("No version was chosen.", "Choose at least one.")
        return chosen

    def _encoder(self, project: Project, row: EncoderRow) -> Any:
        if row.declared:
            raise Conflict(
                f"The vectors of “{project.name}” came from outside; no picture or text can be "
                "embedded among them.",
                "Use a project that embeds its own images.",
            )

        def load() -> Any:
            import torch

            from tastemaker.encoding.encoders import load, parse

            torch.set_num_threads(1)
            return load(parse(project.encoder))

        encoder = self._encoders.get(project.encoder, load)
        if encoder.fingerprint != row.fingerprint:
            raise Conflict(
                f"The weights of {project.encoder} on this machine are not those that "
                f"“{project.name}” was embedded with; their vectors never mix.",
                "Restore the weights it began with.",
            )
        return encoder

    def _children(self) -> DecodePool:
        if self._pool is None:
            limits = Limits.of(self.settings)
            self._pool = DecodePool(1, limits, cpu_seconds=DECODE_SECONDS)
        return self._pool

    def _vector_of(
        self, question: ModelRequest, project: Project, row: EncoderRow
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The picture's vector (D,) float32, rounded as stored ones are, and facts about it."""
        view: Path | None = None
        source: Path | bytes
        if "image_id" in question.payload:
            with sessions.reading(self.engine) as session:
                image = images.get(session, question.integer("image_id"))
                _, stored = embeddings.matrix(session, row.id, [image.id])
                if len(stored):
                    return stored[0].astype(np.float32), _facts(image)
                source = images.source_path(session, self.settings, image)
        elif question.blob is not None:
            source = question.blob
        else:
            token = str(question.payload.get("staged", ""))
            source = preview_uploads.file_path(self.settings, token)
            if question.payload.get("view"):
                view = preview_uploads.view_path(self.settings, token)
        encoder = self._encoder(project, row)
        seen = self._look(source, encoder.preprocessing, view)
        vector = encoder.encode(seen.pixels[None])[0].astype("<f2").astype(np.float32)
        if not np.isfinite(vector).all():
            raise BadImage("The encoder gives no usable vector for this picture.")
        with sessions.reading(self.engine) as session:
            known = images.by_sha256(session, seen.sha256)
        facts = {
            "image_id": known.id if known else None, "name": known.name if known else "",
            "format": seen.format, "width": seen.width, "height": seen.height,
            "sha256": seen.sha256,
        }  # fmt: skip
        return vector, facts

    def _look(
        self, source: Path | bytes, how: Any, view: Path | None
    ) -> preview_uploads.PreviewUpload:
        task = functools.partial(
            preview_uploads.inspect_upload, how=how, limits=Limits.of(self.settings), view=view
        )  # fmt: skip
        outcomes = [outcome for _, outcome in self._children().map(task, [source])]
        if isinstance(outcomes[0], BadImage):
            raise outcomes[0]
        return outcomes[0]

    def _library(self, session: Session, project: Project) -> Library:
        """The vectors in memory; read from the database while the live model has not yet."""
        watched = self.watched.get(project.id)
        if watched is not None and watched.library is not None:
            return watched.library
        ids, x = embeddings.project_matrix(session, project)
        return Vectors(ids, x.astype(np.float32))

    def _by_version(
        self,
        session: Session,
        project: Project,
        version: Version,
        vector: np.ndarray,
        nearest: list[int],
        image_id: int | None,
    ) -> dict[str, Any]:
        if version.encoder_id != project.encoder_id:
            raise Conflict(
                f"{version.number} was trained on another encoder than “{project.name}” uses now.",
                "Choose another version.",
            )
        score = float(self._head(version)(vector[None])[0])
        own = session.get(Prediction, (version.id, image_id)) if image_id else None
        spread = session.exec(
            select(Prediction.uncertainty).where(
                Prediction.version_id == version.id, col(Prediction.image_id).in_(nearest)
            )
        ).all()
        return {
            "by": version.number, "version_id": version.id, "active": version.active,
            "score": score, "bracket": bracket(project, score),
            "uncertainty": float(np.mean(spread)) if spread else None,
            "out_of_fold": own.out_of_fold if own else None,
        }  # fmt: skip

    def _head(self, version: Version) -> Any:
        def load() -> Any:
            from tastemaker.learning.heads import Head, as_score

            scorer = Head(load_checkpoint(versions.verify(self.settings, version)))
            return lambda x: as_score(scorer(x))

        return self._heads.get(version.sha256, load)

    def _by_live_model(
        self, project: Project, vector: np.ndarray, nearest: list[int]
    ) -> dict[str, Any]:
        watched = self.watched.get(project.id)
        live = live_model.read_live(self.settings, project.id)
        if watched is None or watched.ridge is None:
            if live is not None and live.facts.get("penalty") is not None:
                raise Unavailable("The live model is being fitted anew.", "Try again in a moment.")
            raise Conflict(
                "There is no live model yet.", "It comes with the first two different scores."
            )
        score = float(watched.ridge.predict(vector[None])[0])
        spread = [said[1] for near in nearest if live and (said := live.of(near))]
        return {
            "by": "live model", "version_id": None, "active": False, "score": score,
            "bracket": bracket(project, score),
            "uncertainty": float(np.mean(spread)) if spread else None, "out_of_fold": None,
        }  # fmt: skip


# --- small matters -----------------------------------------------------------------------------


def bracket(project: Project, score: float) -> str:
    """Name of the bracket that a score in [0, 1] falls into; empty below the lowest."""
    names = [str(name) for low, name in project.brackets if score >= float(low)]
    return names[-1] if names else ""


def _facts(image: Image) -> dict[str, Any]:
    return {
        "image_id": image.id, "name": image.name, "format": image.format, "width": image.width,
        "height": image.height, "sha256": image.sha256,
    }  # fmt: skip
