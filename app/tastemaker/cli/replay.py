"""`tastemaker replay`: which way of asking needs the fewest labels."""

import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from tastemaker.cli.help import Commands
from tastemaker.cli.options import either, path_option, percent_option
from tastemaker.cli.terminal import (
    AsJson,
    database,
    err,
    print_json,
    progress_bar,
)
from tastemaker.database import sessions
from tastemaker.errors import Invalid
from tastemaker.files.addresses import local_path
from tastemaker.files.json_text import json_text

app = Commands()

Run = TypeVar("Run")  # how it went, of one thing that is replayed

SEVERAL = ("labels", "prior", "recipe")  # options of the curves of several people alone
ONE = ("strategies", "budget", "threshold", "project", "batch", "start", "svg")  # of the other


@app.command()
def replay(
    context: typer.Context,
    typed: Annotated[
        list[str],
        typer.Argument(
            metavar="[PROJECT] COLLECTION|FILE",
            help="A collection, or an .npz with embeddings (N, D), scores (N,) in 0–10 "
            "(−1: no label) and, if there are any, groups (N,).",
        ),
    ],
    strategies: Annotated[
        str,
        typer.Option(
            help="Separated by commas: mixed, random, highest, threshold-greedy, threshold, "
            "variance, diverse, or shares of diverse/threshold/control such as 20/60/20."
        ),
    ] = "mixed,random,highest,threshold-greedy",
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Repetitions.")] = 10,
    budget: Annotated[int, typer.Option(min=1, help="Labels to spend in each.")] = 600,
    threshold: Annotated[
        float | None,
        percent_option(
            "--threshold", "Passes from so many percent on; default: the project's, or 50."
        ),
    ] = None,
    project: Annotated[
        str | None,
        typer.Option(
            "--project",
            "-p",
            metavar="PROJECT",
            help="Whose scores a collection is replayed with, if the project is not first.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Labels between two refits.")] = 25,
    start: Annotated[int, typer.Option(min=2, help="Labels drawn at random to begin with.")] = 50,
    to: Annotated[Path | None, path_option("--out", about="Write the JSON into this file.")] = None,
    svg: Annotated[
        Path | None, path_option("--svg", about="Draw the curves into this file.")
    ] = None,
    learn: Annotated[
        bool,
        typer.Option(
            "--learn",
            help="Learning curves of several people instead: scores (P, N) in the file, and if "
            "there are any test_scores (P, N) to judge against and the group (P,) of each person.",
        ),
    ] = False,
    labels: Annotated[
        str, typer.Option(metavar="N,N,…", help="With --learn: after so many labels.")
    ] = "10,20,40",
    prior: Annotated[
        str,
        typer.Option(
            metavar="others|none|FILE",
            help="With --learn: the head to start from, of the others of the same group, or a "
            ".safetensors file.",
        ),
    ] = "none",
    recipe: Annotated[
        str, typer.Option(metavar="RECIPE", help="With --learn: how to train.")
    ] = "ridge",
    as_json: AsJson = False,
) -> None:
    """Hide the known labels, ask for them again in several ways, and compare what is learned."""
    from tastemaker.files import require_apart, require_writable
    from tastemaker.replay import labelled_sets
    from tastemaker.replay import runs as replaying
    from tastemaker.replay.chart import chart
    from tastemaker.replay.report import report, table

    for path in (to, svg):
        if path is not None:
            require_writable(path)
    *first, source = typed
    require_apart([("--out", to), ("--svg", svg)], [local_path(source)])
    refuse(context, SEVERAL if not learn else ONE, "without" if not learn else "with")
    if learn:
        if first:
            raise typer.BadParameter("a file brings its own scores", param_hint="--learn")
        return learning_curves(local_path(source), labels, prior, recipe, seeds, to, as_json)
    if len(first) > 1:
        raise typer.BadParameter(f"“{first[1]}” is too many: PROJECT COLLECTION, or FILE.")
    project = either(first[0] if first else None, project)
    about: dict[str, Any] = {}
    if local_path(source).is_file() or source.endswith(".npz"):
        if project is not None:
            raise typer.BadParameter("a file brings its own scores", param_hint="--project")
        data = labelled_sets.read_file(local_path(source))
    else:
        with database() as (_, engine), sessions.reading(engine) as session:
            from tastemaker import projects

            whose = projects.by_name(session, project) if project is not None else None
            data, image_ids, whose = labelled_sets.read_collection(session, source, whose)
            threshold = 100 * whose.threshold if threshold is None else threshold
            about = {"project": whose.name, "image_ids": image_ids}
    plan = replaying.planned(
        data,
        replaying.Plan(
            strategies=tuple(dict.fromkeys(s.strip() for s in strategies.split(",") if s.strip())),
            seeds=seeds,
            budget=budget,
            threshold=(50.0 if threshold is None else threshold) / 100,
            batch=batch,
            start=start,
        ),
    )
    if plan.budget < budget:
        err.print(f"There are labels for {plan.budget} only, besides those that test.")
    runs, stopped = gathered(replaying.replay(data, plan))
    if stopped:
        plan, runs = replaying.finished(plan, runs)
    if stopped and not runs:
        err.print("Stopped before the first seed was finished: there is nothing to tell.")
        raise typer.Exit(130)
    result = report(data, plan, runs) | about
    if as_json:
        print_json(result)
    else:
        print(table(result))
    if to is not None:
        write_json(to, result)
    if svg is not None:
        from tastemaker.files import write_atomic

        write_atomic(svg, chart(result).encode())
    if stopped:
        err.print(f"Stopped. This is of the {plan.seeds} of {seeds} seeds that were finished.")
        raise typer.Exit(130)
    return None


def gathered(runs: Iterable[tuple[int, int, Run]]) -> tuple[list[Run], bool]:
    """The results of a replay as they come (done, total, result), and whether Ctrl-C ended it."""
    found: list[Run] = []
    with progress_bar() as bar:
        task = bar.add_task("Replaying", total=None)
        try:
            for done, total, run in runs:
                found.append(run)
                bar.update(task, completed=done, total=total)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the report is written whole
            return found, True
    return found, False


def refuse(context: typer.Context, names: tuple[str, ...], how: str) -> None:
    """Refuse options that would be passed over."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"means nothing {how} --learn", param_hint=f"--{name}")


def learning_curves(
    file: Path, labels: str, prior: str, recipe: str, seeds: int, to: Path | None, as_json: bool
) -> None:
    """`replay --learn`: how much of their taste several people taught after so many labels."""
    from tastemaker.learning.recipes import recipe_named
    from tastemaker.replay import labelled_sets
    from tastemaker.replay import people as replaying

    recipe_named(recipe)
    try:
        counts = tuple(sorted({int(count) for count in labels.split(",") if count.strip()}))
    except ValueError:
        raise typer.BadParameter("numbers such as 10,20,40", param_hint="--labels") from None
    data = labelled_sets.read_people(file)
    start: replaying.Prior | str = prior
    if prior not in ("none", "others"):
        start, off = replaying.prior_of_file(local_path(prior), data.x)
        if off >= 0.005:
            err.print(f"The prior is followed by a line, {off:.2f} points from it on average.")
    plan = replaying.Curves(counts, start, recipe, seeds)
    people_done, stopped = gathered(replaying.curves(data, plan))
    if stopped:
        plan = replaying.finished(data, plan, people_done)
    if stopped and not plan.seeds:
        err.print("Stopped before the first seed was finished: there is nothing to tell.")
        raise typer.Exit(130)
    runs = [run for one in people_done for run in one if run.seed < plan.seeds]
    if not runs:
        raise Invalid(
            "Nobody has scores enough: ten images to test, and outside those as many as --labels.",
            "Ask for fewer labels.",
        )
    result = replaying.report(data, plan, runs)
    if as_json:
        print_json(result)
    else:
        print(replaying.table(result))
    if to is not None:
        write_json(to, result)
    if stopped:
        err.print(f"Stopped. This is of the {plan.seeds} of {seeds} seeds that were finished.")
        raise typer.Exit(130)


def write_json(path: Path, result: dict[str, Any]) -> None:
    from tastemaker.files import write_atomic

    write_atomic(path, (json_text(result) + "\n").encode())
