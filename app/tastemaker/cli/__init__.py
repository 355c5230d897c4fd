"""The command line. Names, options, exit codes and JSON shapes are a contract with scripts."""


def main() -> None:
    """Entry point. What it needs is imported here, not above: every process that a command starts
    imports this module again, as the main one of its parent, and most of them use nothing of it."""
    try:
        from tastemaker.processes import freeze_garbage_collection, pause_garbage_collection

        pause_garbage_collection()
        from tastemaker.cli.commands import run

        freeze_garbage_collection()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    run()
