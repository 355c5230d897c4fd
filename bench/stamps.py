"""A run on real files from elsewhere: Debian's `tuxpaint-stamps-default` (about 800 PNGs).

    python -m bench stamps [FOLDER]

Imports and embeds them, scores them by subject folder, trains, and asks `tastemaker score` for a
file, all through the command line, with the seconds each step took.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DEFAULT = "/usr/share/tuxpaint/stamps"

# A pretended taste: how much its bearer likes each subject (0–10), and how surely.
TASTE = {
    "animals": 8, "plants": 7, "food": 6, "space": 9, "seasonal": 5, "people": 7, "household": 3,
    "hobbies": 4, "vehicles": 5, "symbols": 1, "naturalforces": 8, "clothes": 2, "medical": 1,
    "military": 2, "sports": 4, "town": 5, "photos": 8, "cartoon": 4,
}  # fmt: skip


def main(words: list[str] | None = None) -> str:
    folder = Path((words or [DEFAULT])[0])
    if not folder.is_dir():
        return f"{folder} is not there: apt-get install tuxpaint-stamps-default"
    with tempfile.TemporaryDirectory() as home:
        lines = ["| step | answer | seconds |", "|---|---|---|"]

        def step(name: str, *given: str) -> str:
            began = time.perf_counter()
            answer = subprocess.run(
                [sys.executable, "-m", "tastemaker.cli", *given],
                env=os.environ | {"TASTEMAKER_HOME": home},
                capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
            shown = next((line for line in answer.splitlines() if line.strip()), "")
            lines.append(f"| {name} | {shown.strip()[:160]} | {time.perf_counter() - began:.1f} |")
            return answer

        step("make a project", "project", "create", "Stamps")
        step("import and embed", "import", str(folder), "-p", "Stamps")
        scores = Path(home) / "scores.csv"
        files = sorted(p for p in folder.rglob("*.png"))
        draw = random.Random(0)
        rows = ["path,score"]
        for path in draw.sample(files, min(500, len(files))):
            liked = TASTE.get(path.relative_to(folder).parts[0], 5)
            rows.append(f"{path.resolve()},{min(10, max(0, round(draw.gauss(liked, 1.2))))}")
        scores.write_text("\n".join(rows) + "\n")
        step("500 scores by subject", "scores", "import", str(scores), "-p", "Stamps")
        step("train v1.0", "train", "-p", "Stamps")
        listed = json.loads(step("list", "versions", "list", "-p", "Stamps", "--json"))
        lines.pop()
        step("score one file", "score", str(files[0]), "--model", "Stamps@active")
        step("score the folder", "score", str(folder), "--model", "Stamps@active", "--top", "1")
        version = listed[0]
        rho = version["metrics"]["holdout"]["spearman"]
        lines.append(
            f"\nv1.0 ({version['recipe']['name']}, {version['images']} labels): hold-out MAE "
            f"{version['mae']:.2f} points, Spearman {rho:.2f}, "
            f"n = {version['metrics']['holdout']['n']}."
        )
        return "\n".join(lines)


if __name__ == "__main__":
    print(main(sys.argv[1:] or None))
