"""`GET /metrics`: figures of this web process and of what it serves, for Prometheus.

Requests are counted by the process that answers them, so where several web processes run, each is
asked by itself and a query adds them up. What is in the database or on the disk is looked at when
it is asked for, and is the same in all of them.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import col, func, select, text

from tastemaker.auth.permissions import AdminUser, GuardedRoute
from tastemaker.config import Settings
from tastemaker.database.sessions import reading
from tastemaker.database.tables import Job, ScoreEvent
from tastemaker.files import free_space
from tastemaker.jobs import heartbeat

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The figures of one application."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        by_route = ("method", "route")
        self._requests = Counter(
            "tastemaker_requests", "Requests answered.", (*by_route, "status"),
            registry=self.registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "tastemaker_request_seconds", "Seconds until a request was answered.", by_route,
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self._refused = Counter(
            "tastemaker_refused_writes",
            "Writes that were not taken, by kind: what waits in a browser's outbox was one.",
            ("route", "kind"), registry=self.registry,
        )  # fmt: skip
        self.registry.register(_Looked(settings, engine))

    def answered(
        self, method: str, route: str, status: int, seconds: float, refusal: str = ""
    ) -> None:
        """Count a request by its route's template; `refusal` is the kind of a refused write."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)
        if refusal:
            self._refused.labels(route, refusal).inc()


class _Looked(Collector):
    """What is looked at whenever the figures are asked for. What cannot be seen is left out: the
    rest still tells."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings, self.engine = settings, engine

    def describe(self) -> Iterable[Metric]:
        return ()  # or registering would look already

    def collect(self) -> Iterable[Metric]:
        age = heartbeat.age(self.settings)
        if age is not None:
            about = "Seconds since a worker was seen."
            yield GaugeMetricFamily("tastemaker_worker_heartbeat_age_seconds", about, age)
        with contextlib.suppress(OSError):
            free = free_space(self.settings.root)
            yield GaugeMetricFamily("tastemaker_disk_free_bytes", "Free in the home folder.", free)
        with contextlib.suppress(SQLAlchemyError):
            yield from self._in_the_database()

    def _in_the_database(self) -> Iterable[Metric]:
        with reading(self.engine) as session:
            states = select(Job.kind, Job.state, func.count()).group_by(Job.kind, Job.state)
            known = GaugeMetricFamily(
                "tastemaker_jobs", "Jobs by kind and state.", labels=("kind", "state")
            )
            waiting = 0
            for kind, state, n in session.exec(states):
                known.add_metric((kind, state), n)
                waiting += n if state == "queued" else 0
            yield known
            yield GaugeMetricFamily("tastemaker_jobs_waiting", "Jobs not begun yet.", waiting)
            # Events only grow in number: the newest number counts them without a walk over all.
            newest = session.exec(select(func.max(col(ScoreEvent.id)))).one() or 0
            about = "Scores, undos, skips and flags written."
            yield CounterMetricFamily("tastemaker_score_events", about, newest)
            if self.engine.dialect.name == "postgresql":
                asked = session.connection().execute(
                    text("SELECT pg_database_size(current_database())")
                )
                size = float(asked.scalar_one())
            else:
                file = Path(self.engine.url.database or "")
                parts = (file, file.with_name(f"{file.name}-wal"))
                size = float(sum(part.stat().st_size for part in parts if part.exists()))
            yield GaugeMetricFamily("tastemaker_database_bytes", "Size of the database.", size)


@router.get("/metrics")
def metrics(_: AdminUser, request: Request) -> Response:
    """Figures for Prometheus, of this web process."""
    kept: Any = request.app.state.metrics
    return Response(generate_latest(kept.registry), media_type=CONTENT_TYPE_LATEST)
