"""The floor of a score request: bare FastAPI that inserts one row and commits it to the disk.

python -m bench.bare DATABASE PORT
"""

import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

INSERT = "INSERT INTO score (image_id, value, key) VALUES (:image_id, :value, :key)"


def app_on(database: Path) -> FastAPI:
    connection = sqlite3.connect(database, check_same_thread=False, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE score (id INTEGER PRIMARY KEY, image_id, value, key UNIQUE)")
    lock = threading.Lock()
    app = FastAPI()

    @app.post("/scores")
    def score(body: dict[str, Any]) -> dict[str, Any]:
        with lock:
            connection.execute("BEGIN IMMEDIATE")
            row = connection.execute(INSERT, body).lastrowid
            connection.execute("COMMIT")
        return {"event_id": row, "saved": True}

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    return app


@contextmanager
def serving(database: Path, port: int) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", "bench.bare", str(database), str(port)])
    try:
        end = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1)
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError("the bare server did not come up") from None
                time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait(30)


if __name__ == "__main__":
    uvicorn.run(
        app_on(Path(sys.argv[1])), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning"
    )
