"""The pages about other programs: every command in them is run, in the order in which it stands."""

import io
import re
import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tastemaker import projects, scores
from tastemaker.database.sessions import writing
from tastemaker.encoding.encoder_specs import BUNDLED
from tastemaker.importing import imports, stars
from tastemaker.learning.checkpoints import save_checkpoint
from tastemaker.learning.city96 import linear_head
from tastemaker.publishing import sidecars
from tests import pictures
from tests.command_line import Run
from tests.desk import Desk
from tests.pictures import encoded
from tests.test_stars import rated

DOCS = Path(__file__).parent.parent / "docs"


def commands(page: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture
def photos(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs_here: None) -> Path:
    """`~/Pictures` of a project “Photos”: four photographs with stars beside them, two scored."""
    for module in (stars, sidecars):
        monkeypatch.setattr(module, "DecodePool", imports.DecodePool)
    desk.folder = tmp_path / "Pictures"
    contents = [encoded(pictures.scene(seed=number), "JPEG") for number in range(4)]
    for number, content in enumerate(contents):
        desk.put(f"{number}.jpg", content)
        desk.put(f"{number}.jpg.xmp", rated(number + 1))
    desk.put("0.txt", "a street in the rain")
    rows = "".join(f"Pictures/{number}.jpg,{number + 1}\n" for number in range(4))
    (tmp_path / "ratings.csv").write_text(f"file,stars\n{rows}")
    desk.bring_in()
    with writing(desk.engine) as session:
        project = projects.get(session, desk.project.id)
        project.name = "Photos"
        session.add(project)
        person = projects.annotator(session, "me")
        for content, value in zip(contents, (6, 9, 1), strict=False):
            scores.record(session, project, desk.image(content).id, person, "set", value)
    desk.engine.dispose()
    monkeypatch.setenv("HOME", str(tmp_path))
    return desk.folder


@pytest.mark.parametrize("document", ["lightroom-digikam.md", "kohya-onetrainer.md"])
def test_every_command_of_a_page_does_what_it_says(document: str, photos: Path, run: Run) -> None:
    told: dict[str, Any] = {}
    for line in commands(document):
        words = shlex.split(line)
        if words[0] == "tastemaker":
            answer = ["--yes"] if "--undo" in words else []  # to what it asks at a terminal
            told[line] = run(*words[1:], *answer)
            assert told[line].code == 0, (line, told[line].err)
        elif shutil.which(words[0]):
            subprocess.run(line, shell=True, check=True, cwd=photos)
    home = photos.parent
    if document.startswith("lightroom"):
        assert "4 with marks, 4 with a score" in told["tastemaker scores stars Photos"].out
        assert "4 hints recorded" in told["tastemaker scores stars Photos --record"].out
        assert "4 taken back" in told["tastemaker scores stars Photos --undo"].out
        preview, hints = (told[line].out for line in told if "ratings.csv" in line)
        assert "Row 2: Pictures/1.jpg – 2 → 4" in preview and "Nothing was recorded" in preview
        assert "4 hints recorded, 0 were there already" in hints
        assert "3 sidecars written" in told["tastemaker write-back Photos --write"].out
    else:
        assert (home / "train/4_Photos/1.jpg").is_file()
        text = (home / "train/1_Photos/0.txt").read_text()
        assert text == "score_6_up, score_5_up, score_4_up, a street in the rain"
        assert (home / "train-other/3_Photos/1.jpg").is_symlink()
        assert {path.name for path in (home / "by-score").iterdir()} == {"06", "09", "01"}
        assert (home / "scores.parquet").is_file() and (home / "scores.csv").is_file()


def test_every_command_of_the_page_about_clip_retrieval_does_what_it_says(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder as clip-retrieval writes it, with a head for it; shards of img2dataset with one on
    the bundled encoder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    x = np.random.default_rng(5).normal(size=(30, 24)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    for number, rows in enumerate((slice(0, 20), slice(20, 30))):
        for part in ("img_emb", "metadata"):
            (tmp_path / "laion" / part).mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / f"laion/img_emb/img_emb_{number}.npy", x[rows].astype(np.float16))
        urls = [f"https://example.org/{n}.jpg" for n in range(30)[rows]]
        place = tmp_path / f"laion/metadata/metadata_{number}.parquet"
        pq.write_table(pa.table({"image_path": urls, "url": urls}), place)
    about = {"encoder": "ViT-S/clip", "embedding": "L2-normalised", "threshold": "0.5"}
    head = linear_head(x[3], 0.0, 0 * x[3], 1 + 0 * x[3])
    save_checkpoint(tmp_path / "Anime-v1.0.safetensors", head, about)
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards/00000.tar", "w") as tar:
        for number in range(2):
            content = encoded(pictures.scene(seed=number), "JPEG")
            entry = tarfile.TarInfo(f"{number:09d}.jpg")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    features = np.ones(1280, np.float32) / 1280
    bundled = linear_head(features, 0.0, 0 * features, 1 + 0 * features)
    save_checkpoint(tmp_path / "Pictures-v1.0.safetensors", bundled, {"encoder": BUNDLED})

    told = []
    for line in commands("clip-retrieval.md"):
        told.append(run(*shlex.split(line)[1:]))
        assert told[-1].code == 0, (line, told[-1].err)
    assert "https://example.org/3.jpg" in told[0].out, "the one that the head looks for"
    best = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    assert len(best) == 30 and best[0]["url"] == "https://example.org/3.jpg"
    passing = pq.read_table(tmp_path / "passing.parquet").to_pylist()
    assert 0 < len(passing) < 30 and all(row["aesthetic_score"] >= 0.5 for row in passing)
    assert (tmp_path / "scores").is_dir() and not (tmp_path / "good.csv").exists()
    assert pq.read_table(tmp_path / "shards.parquet").num_rows == 2
