"""The scripts that need no page, tested by node's own runner: `tests/js`."""

import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent


def test_the_scripts_pass_the_tests_of_node() -> None:
    node = shutil.which("node")
    assert node, "node is not installed: the scripts cannot be tested. Node 18 or newer is needed."
    files = sorted((HERE / "js").glob("*.test.js"))
    assert files
    run = subprocess.run([node, "--test", *files], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
