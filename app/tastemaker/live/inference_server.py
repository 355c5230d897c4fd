"""The model process's side of the requests: what it answers from the networks in memory.

    warm      {}                                    load the project's encoder
    predict   {"staged": token} or {"image_id": n}, the predictions of versions, of routers by their
              {"versions": [id, …],                 folders, and of the live model, for a picture; a
               "routers": [name, …], "live": bool}  `blob` holds a picture's bytes; "view": true
                                                    leaves a derivative to show
    similar   {"image_id": n, "limit": 48}          the nearest images of the project, by cosine
    text      {"text": "…", "limit": 48}            the images nearest to a text

One thread claims the requests, so that whoever waits knows that somebody is there; another handles
them, one at a time and on one core. The encoder and some heads stay loaded. A picture is decoded in
a child that a bad one may kill.
"""

import functools
import logging
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine
from sqlmodel import Session

from tastemaker import embeddings, images, projects, versions
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.tables import EncoderRow, Image, Project, Version
from tastemaker.encoding.encoder_specs import no_words, parse, reads_text
from tastemaker.encoding.encoders import Encoder
from tastemaker.encoding.frame_rules import put_together
from tastemaker.encoding.similarity import cosines, highest
from tastemaker.errors import BadImage, Conflict, Invalid, NotFound, TastemakerError, Unavailable
from tastemaker.live import embedding_matrix, live_model, model_requests, preview_uploads
from tastemaker.live.embedding_matrix import EmbeddingMatrix
from tastemaker.live.loaded_models import LoadedModels, bracket, by_class
from tastemaker.live.model_requests import ModelRequest
from tastemaker.live.nearest import labelled_neighbours, ranked_by_similarity
from tastemaker.live.project_state import ProjectState
from tastemaker.pictures.decode_pool import DecodePool
from tastemaker.pictures.pictures import Limits
from tastemaker.processes.systems import be_nicer_in_this_thread

log = logging.getLogger(__name__)

QUICK, IDLE = 0.03, 0.2  # seconds between two looks for requests: soon after one, and later
SWEEP_SECONDS = 60.0
NICENESS = 1  # on top of the process's own: the live model keeps its pace
DECODE_SECONDS = 20
ALIKE = 5  # how many of the nearest images lend a picture their uncertainty
MOST_IMAGES = 100_000
MOST_VERSIONS = 20
MOST_TEXT = 500


def start(settings: Settings, engine: Engine, states: Mapping[int, ProjectState]) -> None:
    """Answer requests in the background of this process until it ends. Called from its main
    thread: a termination signal must end it in order, so that the decoding children end too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    model_requests.requeue_claimed(engine)
    claimed: queue.Queue[ModelRequest] = queue.Queue()
    server = InferenceServer(settings, engine, states)
    for work in (functools.partial(_claim, settings, engine, claimed),
                 functools.partial(server.run, claimed)):  # fmt: skip
        threading.Thread(target=work, daemon=True).start()


def _claim(settings: Settings, engine: Engine, claimed: "queue.Queue[ModelRequest]") -> None:
    pause, swept = IDLE, time.monotonic()
    while True:
        try:
            new = model_requests.claim(engine)
            for request in new:
                claimed.put(request)
            pause = QUICK if new else min(IDLE, pause * 1.1)
            if time.monotonic() - swept > SWEEP_SECONDS:
                swept = time.monotonic()
                with sessions.writing(engine) as session:
                    model_requests.sweep(session)
                preview_uploads.sweep(settings)
        except Exception:  # a busy database, say: the request is still there at the next look
            log.exception("requests could not be claimed")
            pause = IDLE
        threading.Event().wait(pause)


class InferenceServer:
    """Answers one request after the other. What is loaded here belongs to its one thread."""

    def __init__(
        self, settings: Settings, engine: Engine, states: Mapping[int, ProjectState] | None = None
    ) -> None:
        self.settings, self.engine = settings, engine
        self.states: Mapping[int, ProjectState] = {} if states is None else states  # filled later
        self._encoders: dict[str, Encoder] = {}  # one at most
        self._models = LoadedModels(settings)
        self._pool: DecodePool | None = None
        self._kinds: dict[str, Callable[[ModelRequest], dict[str, Any]]] = {
            "warm": self.warm, "predict": self.predict, "similar": self.similar, "text": self.text,
        }  # fmt: skip

    def run(self, claimed: "queue.Queue[ModelRequest]") -> None:
        be_nicer_in_this_thread(NICENESS)
        while True:
            request = claimed.get()
            try:
                self.handle(request)
            except Exception:
                log.exception("request %s could not be handled", request.id)

    def handle(self, request: ModelRequest) -> None:
        """Resolve or reject a request; nothing if nobody waits any more."""
        with sessions.reading(self.engine) as session:
            if not model_requests.is_open(session, request.id):
                return
        try:
            model_requests.resolve(self.engine, request.id, self.answer(request))
        except TastemakerError as error:
            model_requests.reject(self.engine, request.id, error)
        except Exception as error:
            log.exception("a request of the kind “%s” failed", request.kind)
            unavailable = Unavailable(
                f"The model could not answer ({type(error).__name__}).",
                "The worker's log says more; try again.",
            )
            model_requests.reject(self.engine, request.id, unavailable)

    def answer(self, request: ModelRequest) -> dict[str, Any]:
        """The answer as JSON. Raises `TastemakerError`."""
        if request.kind not in self._kinds:
            raise Invalid(f"“{request.kind[:40]}” is not a question the model knows.")
        return self._kinds[request.kind](request)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    # --- the kinds -----------------------------------------------------------------------------

    def warm(self, request: ModelRequest) -> dict[str, Any]:
        with sessions.reading(self.engine) as session:
            project, row = self._pinned(session, request)
        encoder = self._encoder(project, row)
        self._decode_pool()
        return {"encoder": encoder.spec.name}

    def predict(self, request: ModelRequest) -> dict[str, Any]:
        """What each model says (see `loaded_models`); the nearest images that have a label, with
        it; facts about the picture."""
        with sessions.reading(self.engine) as session:
            project, row = self._pinned(session, request)
            chosen, routers = self._chosen(session, project, request)
        vector, facts = self._vector_of(request, project, row)
        with sessions.reading(self.engine) as session:
            matrix = self._matrix(session, project)
            closeness = cosines(matrix.x, vector)
            nearest = matrix.ids[highest(closeness, ALIKE)].tolist()
            predictions = [
                self._models.by_version(
                    session, project, version, vector, nearest, facts["image_id"]
                )
                for version in chosen
            ]
            predictions += [
                self._models.by_router(project, row, folder, vector) for folder in routers
            ]
            if request.payload.get("live"):
                predictions.append(self._by_live_model(session, project, vector, nearest))
            neighbours = labelled_neighbours(session, project, matrix.ids, closeness)
        return {"picture": facts, "said": predictions, "neighbours": neighbours}

    def similar(self, request: ModelRequest) -> dict[str, Any]:
        image_id = request.integer("image_id")
        with sessions.reading(self.engine) as session:
            project, _ = self._pinned(session, request)
            matrix = self._matrix(session, project)
        row = matrix.row_of(image_id)
        if row is None:
            raise NotFound(
                "This image is not embedded yet, so nothing is known to be like it.",
                "Wait for the embedding job.",
            )
        closeness = cosines(matrix.x, np.asarray(matrix.x[row], np.float32))
        closeness[row] = -np.inf  # not its own neighbour
        return ranked_by_similarity(
            matrix.ids, closeness, request.integer("limit", 48, MOST_IMAGES)
        )

    def text(self, request: ModelRequest) -> dict[str, Any]:
        text = " ".join(str(request.payload.get("text", "")).split())
        if not 1 <= len(text) <= MOST_TEXT:
            raise Invalid(f"A search text has 1 to {MOST_TEXT} characters.")
        with sessions.reading(self.engine) as session:
            project, row = self._pinned(session, request)
            if not reads_text(project.encoder):  # before loading it in vain
                raise no_words(project.encoder)
            matrix = self._matrix(session, project)
        vector = self._encoder(project, row).encode_text(text)
        return ranked_by_similarity(
            matrix.ids, cosines(matrix.x, vector), request.integer("limit", 48, MOST_IMAGES)
        )

    # --- what they need ------------------------------------------------------------------------

    def _pinned(self, session: Session, request: ModelRequest) -> tuple[Project, EncoderRow]:
        """The project and the encoder its vectors are of."""
        project = projects.get(session, request.project_id)
        row = session.get(EncoderRow, project.encoder_id) if project.encoder_id else None
        if row is None:
            raise Conflict(
                f"No image of “{project.name}” is embedded yet.",
                "Add images, and wait for the embedding job.",
            )
        return project, row

    def _chosen(
        self, session: Session, project: Project, request: ModelRequest
    ) -> tuple[list[Version], list[str]]:
        """The versions, and the folders of the routers."""
        ids, routers = (request.payload.get(name) or [] for name in ("versions", "routers"))
        if not isinstance(ids, list) or not isinstance(routers, list):
            raise Invalid("“versions” and “routers” are lists.")
        if len(ids) + len(routers) > MOST_VERSIONS:
            raise Invalid(f"At most {MOST_VERSIONS} models are asked at once.", "Choose fewer.")
        chosen = [versions.get(session, int(version_id)) for version_id in ids]
        for version in chosen:
            if version.project_id != project.id:
                raise NotFound(f"“{project.name}” has no such version.", "Choose one of its own.")
        if not chosen and not routers and not request.payload.get("live"):
            raise Invalid("No version was chosen.", "Choose at least one.")
        return chosen, [str(folder) for folder in routers]

    def _encoder(self, project: Project, row: EncoderRow) -> Encoder:
        if row.declared:
            raise Conflict(
                f"The vectors of “{project.name}” came from outside; no picture or text can be "
                "embedded among them.",
                "Use a project that embeds its own images.",
            )
        if project.encoder not in self._encoders:
            self._encoders.clear()  # before loading: two need not fit in memory
            self._encoders[project.encoder] = _load_encoder(project.encoder)
        encoder = self._encoders[project.encoder]
        if encoder.fingerprint != row.fingerprint:
            raise Conflict(
                f"The weights of {project.encoder} on this machine are not those that "
                f"“{project.name}” was embedded with; their vectors never mix.",
                "Restore the weights it began with.",
            )
        return encoder

    def _decode_pool(self) -> DecodePool:
        if self._pool is None:
            limits = Limits.of(self.settings)
            self._pool = DecodePool(1, limits, cpu_seconds=DECODE_SECONDS)
        return self._pool

    def _vector_of(
        self, request: ModelRequest, project: Project, row: EncoderRow
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """The picture's vector (D,) float32, rounded as stored ones are, and facts about it."""
        view: Path | None = None
        source: Path | bytes
        if "image_id" in request.payload:
            with sessions.reading(self.engine) as session:
                image = images.get(session, request.integer("image_id"))
                _, stored = embeddings.matrix(session, row.id, [image.id])
                if len(stored):
                    return stored[0].astype(np.float32), _facts(image)
                source = images.source_path(session, self.settings, image)
        elif request.blob is not None:
            source = request.blob
        else:
            token = str(request.payload.get("staged", ""))
            source = preview_uploads.file_path(self.settings, token)
            if request.payload.get("view"):
                view = preview_uploads.view_path(self.settings, token)
        encoder = self._encoder(project, row)
        upload = self._inspect(source, encoder, view)
        vector = put_together(encoder.encode(upload.pixels)).astype("<f2").astype(np.float32)
        if not np.isfinite(vector).all():
            raise BadImage("The encoder gives no usable vector for this picture.")
        with sessions.reading(self.engine) as session:
            known = images.by_sha256(session, upload.sha256)
        facts = {
            "image_id": known.id if known else None, "name": known.name if known else "",
            "format": upload.format, "width": upload.width, "height": upload.height,
            "sha256": upload.sha256,
        }  # fmt: skip
        return vector, facts

    def _inspect(
        self, source: Path | bytes, encoder: Encoder, view: Path | None
    ) -> preview_uploads.PreviewUpload:
        task = functools.partial(
            preview_uploads.inspect_upload, views=encoder.views, frames=encoder.frames,
            limits=Limits.of(self.settings), view=view,
        )  # fmt: skip
        ((_, outcome),) = self._decode_pool().map(task, [source])
        if isinstance(outcome, BadImage):
            raise outcome
        return outcome

    def _matrix(self, session: Session, project: Project) -> EmbeddingMatrix:
        """The images in memory; read from the database until the first refit has."""
        state = self.states.get(project.id)
        if state is not None and state.matrix is not None and state.follows(project):
            return state.matrix
        return embedding_matrix.load(session, project)

    def _by_live_model(
        self,
        session: Session,
        project: Project,
        vector: NDArray[np.float32],
        nearest: list[int],
    ) -> dict[str, Any]:
        state = self.states.get(project.id)
        live = live_model.read_live(self.settings, project.id)
        # The images first: a refit gives the fit up before it changes to another encoder's images.
        ridge, kinds = None, None
        if state is not None and state.follows(project):
            ridge, kinds = state.ridge, state.kinds
        if ridge is None and kinds is None and live is not None and live.fit.predicts:
            raise Unavailable("The live model is being fitted anew.", "Try again in a moment.")
        told: dict[str, Any] = {
            "by": "live model", "version_id": None, "active": False, "score": None, "bracket": "",
            "uncertainty": None, "out_of_fold": None,
        }  # fmt: skip
        if kinds is not None:
            said = kinds.probabilities(vector)
            return told | by_class(session, project, kinds.record, said)
        if ridge is None:
            raise Conflict("There is no live model yet.", f"It comes with {_first(project)}.")
        score = float(ridge.predict(vector[None])[0])
        known = [live.of(image_id) for image_id in nearest] if live else []
        spread = [prediction[1] for prediction in known if prediction]
        return told | {
            "score": score,
            "bracket": bracket(project, score),
            "uncertainty": float(np.mean(spread)) if spread else None,
        }


# --- small matters -----------------------------------------------------------------------------


def _first(project: Project) -> str:
    """The labels with which a live model comes."""
    if project.labelling == "scores":
        return "the first two different scores"
    if project.labelling == "classes":
        return "the first labels of two classes"
    return "the first two images that differ in a tag"


def _load_encoder(name: str) -> Encoder:
    import torch  # seconds of work, so only when first needed

    from tastemaker.encoding.encoders import load

    torch.set_num_threads(1)
    return load(parse(name))


def _facts(image: Image) -> dict[str, Any]:
    return {
        "image_id": image.id, "name": image.name, "format": image.format, "width": image.width,
        "height": image.height, "sha256": image.sha256,
    }  # fmt: skip
