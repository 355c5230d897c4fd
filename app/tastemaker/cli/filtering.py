"""`tastemaker score`: a version as a filter over files and embeddings."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from more_itertools import side_effect

from tastemaker.cli.terminal import (
    AsJson,
    counted,
    database,
    err,
    out,
    plain,
    print_json,
    progress_bar,
    were,
)
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.errors import Invalid, NotFound

app = typer.Typer()


@app.command()
def score(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="Folder, picture, or embeddings: .npy, .parquet.")
    ],
    model: Annotated[str, typer.Option(help="FILE.safetensors or PROJECT@v1.3 (or @active).")],
    low: Annotated[float, typer.Option("--min", help="Lowest percentage.")] = 0.0,
    high: Annotated[float, typer.Option("--max", help="Highest percentage.")] = 100.0,
    copy: Annotated[Path | None, typer.Option(help="Copy what passes into this folder.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folder structure.")] = False,
    top: Annotated[int | None, typer.Option(help="Only the N best, best first.")] = None,
    to: Annotated[Path | None, typer.Option("--out", help=".parquet, .csv or .jsonl.")] = None,
    encoder: Annotated[str | None, typer.Option(help="If the file does not name it.")] = None,
    precision: Annotated[
        str, typer.Option(help="fp32, or fast (bf16 where the processor has it, 2e-3 off).")
    ] = "fp32",
    as_json: AsJson = False,
) -> None:
    """Score pictures or embeddings, and filter by the result."""
    if precision not in ("fp32", "fast"):
        raise typer.BadParameter("fp32 or fast", param_hint="--precision")

    import torch

    from tastemaker.encoding.embedding_files import EMBEDDING_SUFFIXES
    from tastemaker.files import require_writable
    from tastemaker.filtering import score_tables, sources
    from tastemaker.filtering.scorer import Precision, Scorer
    from tastemaker.pictures.pictures import Limits

    if copy is not None and source.suffix.lower() in EMBEDDING_SUFFIXES:
        raise typer.BadParameter("embeddings are no pictures to copy", param_hint="--copy")
    score_tables.check_limits(low, high, top)
    if to is not None:
        score_tables.check_ending(to)
        if to.resolve() == source.resolve():
            raise Invalid("--out names the source itself.", "Choose another name.")
        require_writable(to)
    if copy is not None:
        sources.check_target(source, copy)
    settings = Settings()
    if settings.torch_threads:
        torch.set_num_threads(settings.torch_threads)
    file, limits = _model_path(settings, model), Limits.of(settings)
    scorer = Scorer(file, encoder=encoder, precision=cast(Precision, precision), limits=limits)
    tables: list[Any] = []
    written = 0
    with progress_bar() as bar, _skipped_files() as skip:
        task = bar.add_task("Scoring", total=None)
        rows = sources.score_source(
            source,
            scorer,
            on_error=skip,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
        rows = score_tables.within(rows, low, high)
        if top is not None:
            rows = iter([score_tables.best(rows, top)])
        if to is not None:  # as they come; all are held in memory only where they are wanted after
            if copy is not None or as_json:
                rows = side_effect(tables.append, rows)
            written = score_tables.write(to, rows, scorer.about)
            rows = iter(tables)
        ranked = score_tables.best(rows)
    if copy is not None:
        paths = ranked["path"].to_pylist()
        with _skipped_files() as skip:
            copied, there = sources.copy_pictures(paths, source, copy, keep=keep, on_error=skip)
        already = f"; {there:,} {were(there)} there already" if there else ""
        err.print(f"{counted(copied, 'picture')} copied into {plain(str(copy))}{already}.")
    if as_json:
        print_json(score_tables.as_dicts(ranked))
    elif to is None:
        for row in score_tables.as_dicts(ranked):
            print(f"{row['percent']:6.2f} %  {row['path']}")
    else:
        out.print(f"{counted(written, 'row')} written to {plain(str(to))}.")


@contextmanager
def _skipped_files(most: int = 100) -> Iterator[Callable[[str, str], None]]:
    """Report on stderr what could not be used, each as it comes; beyond `most`, how many more."""
    count = 0

    def skip(path: str, reason: str) -> None:
        nonlocal count
        count += 1
        if count <= most:
            err.print(f"skipped {plain(path)}: {plain(reason)}")

    try:
        yield skip
    finally:
        if count > most:
            err.print(f"and {count - most} more skipped")


def _model_path(settings: Settings, model: str) -> Path:
    """The file of `FILE.safetensors` or `PROJECT@VERSION`."""
    from tastemaker.files import is_file

    if is_file(Path(model)):
        return Path(model)
    if "@" not in model:
        raise NotFound(f"There is no file {model}.", "Name a .safetensors file or PROJECT@v1.0.")
    from tastemaker import projects, versions

    name, number = model.rsplit("@", 1)
    with database() as (_, engine), sessions.reading(engine) as session:
        version = versions.by_number(session, projects.by_name(session, name), number)
        return versions.verify(settings, version)
