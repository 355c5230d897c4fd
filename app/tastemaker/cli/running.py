"""Running the program: the server, the worker, the sample project, the check-up."""

from typing import Annotated

import typer

from tastemaker.cli.help import Commands
from tastemaker.cli.terminal import AsJson, database, finish_jobs, out, plain, print_json
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.errors import TastemakerError
from tastemaker.processes import loading, logs

app = Commands()


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 8000,
    worker: Annotated[bool, typer.Option(help="Also run the worker.")] = True,
) -> None:
    """Serve the web application, and run the worker beside it."""
    _serve(Settings(), host, port, with_worker=worker)


@app.command()
def worker() -> None:
    """Run the worker alone: imports, embedding, training, the live model."""
    from filelock import Timeout

    from tastemaker.worker import run_forever

    settings = Settings()
    logs.configure(settings)
    try:
        run_forever(settings)
    except Timeout:
        raise TastemakerError(
            "Another worker is running on this home folder.", "One is enough; nothing was done."
        ) from None


@app.command()
def demo(
    serve_after: Annotated[
        bool, typer.Option("--serve/--no-serve", help="Serve the application afterwards.")
    ] = True,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 8000,
    as_json: AsJson = False,
) -> None:
    """Make the sample project: pictures, a scripted rater's scores, v1.0 and v1.1."""
    from tastemaker.sample.demo import PROJECT, request_demo

    with database() as (settings, engine):
        with sessions.writing(engine) as session:
            job_id = request_demo(session, settings).id
        result = finish_jobs(settings, engine, [job_id])[0].result
    if as_json:
        print_json(result)
    else:
        out.print(f"The sample project “{PROJECT}” is ready: {result.get('versions', '')}.")
    if serve_after:
        begin = f"/projects/{result['project_id']}/results"
        _serve(settings, "127.0.0.1", port, with_worker=True, begin=begin)


def _serve(settings: Settings, host: str, port: int, *, with_worker: bool, begin: str = "") -> None:
    with loading():
        from tastemaker.cli import server

    server.serve(settings, host, port, with_worker=with_worker, begin=begin)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check the installation: exit code 0 with warnings at most, 1 with damage."""
    from tastemaker.cli.doctor import examine

    findings = examine(Settings())
    if as_json:
        print_json([{"level": f.level, "what": f.what, "hint": f.hint} for f in findings])
    else:
        marks = {"ok": "[green]ok[/green]", "warning": "[yellow]warning[/yellow]"}
        for f in findings:
            mark = marks.get(f.level, "[red]damage[/red]")
            out.print(f"{mark:>8}  {plain(f.what)} {plain(f.hint)}".rstrip())
    if any(f.level == "damage" for f in findings):
        raise typer.Exit(1)
