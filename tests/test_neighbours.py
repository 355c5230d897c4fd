"""The pages about other programs: every command in them is run, in the order in which it stands."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tastemaker import projects, scores
from tastemaker.database.sessions import writing
from tastemaker.importing import imports, stars
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
            told[line] = run(*words[1:])
            assert told[line].code == 0, (line, told[line].err)
        elif shutil.which(words[0]):
            subprocess.run(line, shell=True, check=True, cwd=photos)
    home = photos.parent
    if document.startswith("lightroom"):
        assert "4 with marks, 4 with a score" in told["tastemaker scores stars Photos"].out
        assert "4 hints recorded" in told["tastemaker scores stars Photos --record"].out
        assert "4 taken back" in told["tastemaker scores stars Photos --undo"].out
        assert "3 sidecars written" in told["tastemaker write-back Photos --write"].out
    else:
        assert (home / "train/4_Photos/1.jpg").is_file()
        text = (home / "train/1_Photos/0.txt").read_text()
        assert text == "score_6_up, score_5_up, score_4_up, a street in the rain"
        assert (home / "train-other/3_Photos/1.jpg").is_symlink()
        assert {path.name for path in (home / "by-score").iterdir()} == {"06", "09", "01"}
        assert (home / "scores.parquet").is_file() and (home / "scores.csv").is_file()
