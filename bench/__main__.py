"""`python -m bench [NAME …]`: run the benchmarks and keep the newest figures in RESULTS.md.

`python -m bench people FILE.npz …` and `stars` need a file, which is not part of the program.
"""

import datetime
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"
NAMES = (
    "live", "doubtful", "replay", "training", "recipes", "importing", "scoring", "keys", "pages",
    "web", "try_it", "stamps", "sample", "forecast", "promise", "artefacts", "router", "classes",
)  # fmt: skip
WITH_FILE = ("people", "stars")
WITH_OPTIONS = (  # alone, what follows the name is its own
    "live", "replay", "training", "recipes", "importing", "scoring", "keys", "web", "try_it",
    "forecast", "promise", "artefacts", "router", "classes", *WITH_FILE,
)  # fmt: skip


def machine() -> str:
    model = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"model name\s*:\s*(.*)", cpuinfo.read_text())
        model = found[1] if found else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GB, Python {platform.python_version()}"


def main() -> None:
    names, options = sys.argv[1:] or NAMES, []
    if names[0] in WITH_FILE or (names[0] in WITH_OPTIONS and names[1:2] and names[1][0] == "-"):
        names, options = names[:1], list(names[1:])
    sections = _sections()
    for name in names:
        if name not in (*NAMES, *WITH_FILE):
            sys.exit(f"There is no benchmark {name!r}: {', '.join((*NAMES, *WITH_FILE))}")
        print(f"--- {name}", flush=True)
        ran = subprocess.run(
            [sys.executable, "-m", f"bench.{name}", *options], stdout=subprocess.PIPE, text=True
        )
        if ran.returncode:
            sys.exit(f"{name} failed; its old figures were kept")
        text = ran.stdout
        print(text, flush=True)
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        ).stdout.strip()
        about = Path(__file__).with_name(f"{name}.py").read_text().split('"""')[1].splitlines()[0]
        called = " ".join(["python -m bench", name, *map(_without_folders, options)])
        sections[name] = (
            f"## {name}\n\n{about}\n\n`{called}`, {datetime.date.today()}, "
            f"{machine()}, at {commit or 'an unknown commit'}.\n\n{text}"
        )
        known = [key for key in (*NAMES, *WITH_FILE) if key in sections]
        others = [key for key in sections if key not in known]  # such as those of `make soak`
        parts = [HEAD, *(sections[key] for key in (*known, *others))]
        RESULTS.write_text("\n\n".join(part.strip() for part in parts) + "\n")


HEAD = """# Benchmark results

The newest run of each benchmark. Every one measures its peer or its physical limit beside the
program in the same run; quote the ratios, the machines are noisy. Timings never fail a test.
"""


def _without_folders(option: str) -> str:
    """An option as it was given, but for where files lie on this machine."""
    name, equals, path = option.rpartition("=")
    return name + equals + Path(path).name if "/" in path else option


def _sections() -> dict[str, str]:
    """What RESULTS.md holds already, by benchmark."""
    if not RESULTS.exists():
        return {}
    parts = re.split(r"(?m)^(?=## )", RESULTS.read_text())
    return {part.split(None, 2)[1]: part for part in parts if part.startswith("## ")}


if __name__ == "__main__":
    main()
