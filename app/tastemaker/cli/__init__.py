"""The command line. Names, options, exit codes and JSON shapes are a contract with scripts."""

import sys
from contextlib import nullcontext


def main() -> None:
    """Entry point. What it needs is imported here, not above: every process that a command starts
    imports this module again, as the main one of its parent, and most of them use nothing of it."""
    try:
        from tastemaker.processes import loading

        known = "tastemaker.cli.commands" in sys.modules  # by a program that calls this one
        with nullcontext() if known else loading():
            from tastemaker.cli.commands import run
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    run()
