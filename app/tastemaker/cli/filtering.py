"""`tastemaker score`: a version as a filter over files and embeddings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from more_itertools import side_effect

from tastemaker.cli.help import Commands
from tastemaker.cli.models import model_path, promises
from tastemaker.cli.options import no_number, path_option, percent_option, source_argument
from tastemaker.cli.placing import (
    ALREADY,
    check_kind,
    check_target,
    chosen_way,
    place,
    planned,
)
from tastemaker.cli.sending import out_option, sent_to_its_address
from tastemaker.cli.terminal import (
    AsJson,
    counted,
    err,
    out,
    plain,
    print_json,
    progress_bar,
    skipped_files,
    were,
)
from tastemaker.config import Settings
from tastemaker.errors import Invalid, TastemakerError

if TYPE_CHECKING:  # help does not wait for what scoring needs
    from tastemaker.files.placing import Placement
    from tastemaker.filtering.panel import Panel
    from tastemaker.filtering.parts import Engine, Terms
    from tastemaker.filtering.remote_sources import RemoteSource
    from tastemaker.filtering.score_tables import Top

app = Commands()


def top_of(typed: str) -> "Top":
    from tastemaker.filtering.score_tables import parse_top

    try:
        return parse_top(typed)
    except ValueError as error:
        raise no_number(typed, "100, or 10%") from error


@app.command()
@sent_to_its_address
def score(
    source: Annotated[
        Any,
        source_argument(
            "SRC",
            "Folder or picture; @list.txt, or - for standard input, with a path on each line; tar "
            "shards or a zip, one, a folder of them, or a pattern like 'shards/*.tar'; embeddings: "
            ".npy, .npz, .parquet, one, a folder of them, or a pattern, also as clip-retrieval "
            "(img_emb, metadata) or --embeddings-out made them. Archives and embeddings also at an "
            "address: s3://…, https://….",
        ),
    ],
    model: Annotated[
        list[str],
        typer.Option(
            help="FILE.safetensors or PROJECT@v1.3 (or @active); the folder of a router, or "
            "router:NAME. Several of one encoder score in one pass, a column each; the first one "
            "filters."
        ),
    ],
    low: Annotated[float, percent_option("--min", "Lowest percentage that passes, 0–100.")] = 0.0,
    high: Annotated[
        float, percent_option("--max", "Highest percentage that passes, 0–100.")
    ] = 100.0,
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="NAME[=MIN]",
            help="Of a head of classes: only images of this class, or with at least MIN % of it. "
            "Can be given several times.",
        ),
    ] = None,
    own: Annotated[
        bool, typer.Option("--pass", help="What the version itself lets pass, by its threshold.")
    ] = False,
    top: Annotated[
        Any,
        typer.Option(
            parser=top_of,
            metavar="N|N%",
            help="Only the N best of what passes, best first; with a percent sign, as many as N % "
            "of all that were scored.",
        ),
    ] = None,
    sort: Annotated[
        bool, typer.Option("--sort", help="Best first also in --out; all rows are held in memory.")
    ] = False,
    copy: Annotated[
        Path | None,
        path_option("--copy", about="Copy what passes into this folder.", metavar="FOLDER"),
    ] = None,
    symlink: Annotated[
        Path | None,
        path_option("--symlink", about="Link to what passes in this folder.", metavar="FOLDER"),
    ] = None,
    move: Annotated[
        Path | None,
        path_option("--move", about="Move what passes into this folder.", metavar="FOLDER"),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folder structure.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing; tell what would be written.")
    ] = False,
    to: Annotated[
        Any,
        out_option(),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            help="Columns more in --out, for other programs: laion (aesthetic, 0–10), prediction "
            "(0–10), webdataset (__url__, __key__).",
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        path_option("--sheet", about="A contact sheet of the best 100, or --top, as .png."),
    ] = None,
    embeddings_out: Annotated[
        Path | None,
        path_option(
            "--embeddings-out",
            about="Keep the embeddings of the pictures here: the next run, by whatever head of the "
            "encoder, reads them, and the folder is a SRC itself.",
            metavar="FOLDER",
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="local, or ray: the parts of --out on all machines of a cluster.")
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(help="HOST:6379 of a running cluster; default: Ray on this machine."),
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="If the file does not name it.")] = None,
    precision: Annotated[
        str, typer.Option(help="fp32, or fast (bf16 where the processor has it, 2e-3 off).")
    ] = "fp32",
    device: Annotated[
        str | None,
        typer.Option(help="Where pictures are encoded: cpu, cuda:1, mps; default: a GPU if any."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, max=4096, help="Pictures encoded at once; default: as measured."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score pictures or embeddings, and filter by the result.

    A picture that cannot be used is named and skipped. Where an archive or a folder could not be
    read whole, all other rows are written, and the exit code is 1."""
    if precision not in ("fp32", "fast"):
        raise typer.BadParameter("fp32 or fast", param_hint="--precision")
    if own and (low, high) != (0.0, 100.0):
        raise typer.BadParameter("the version's own threshold, or --min and --max, not both",
                                 param_hint="--pass")  # fmt: skip
    way, into = chosen_way(copy, symlink, move)

    from tastemaker.encoding.embedding_folders import EmbeddingFolder
    from tastemaker.files import require_writable, write_atomic
    from tastemaker.filtering import losses, parts, score_sheets, score_tables, sources
    from tastemaker.filtering.columns import Columns
    from tastemaker.filtering.file_lists import is_list
    from tastemaker.filtering.panel import Panel
    from tastemaker.filtering.places import check_places
    from tastemaker.filtering.remote_sources import RemoteSource, open_source
    from tastemaker.filtering.router import load_model
    from tastemaker.filtering.scorer import Precision
    from tastemaker.pictures.pictures import Limits
    from tastemaker.processes import ready_to_compute

    path = source if isinstance(source, Path) else None  # None: it lies on another machine
    if path is not None:
        check_kind(path, way, into, embeddings_out, keep=keep)
    elif into is not None or sheet is not None:
        raise typer.BadParameter(
            "what lies at an address stays there: --out writes which pass",
            param_hint=f"--{way}" if into is not None else "--sheet",
        )
    score_tables.check_limits(low, high)
    in_parts = to is not None and to.suffix.lower() not in score_tables.FORMS
    in_parts = in_parts and to is not None and (not to.suffix or to.is_dir())
    if in_parts and (top is not None or sort or into is not None or as_json or dry_run):
        raise typer.BadParameter(
            "a folder of parts takes --min, --max, --pass and --class only", param_hint="--out"
        )
    if engine not in ("local", "ray"):
        raise typer.BadParameter("local or ray", param_hint="--engine")
    if ray_address is not None and engine != "ray":
        raise typer.BadParameter("it is for --engine ray", param_hint="--ray-address")
    if engine == "ray" and not in_parts:
        raise typer.BadParameter(
            "a cluster writes a folder of parts: --out FOLDER", param_hint="--engine"
        )
    more = Columns(tuple(columns or ()))
    check_places(
        path, table=None if in_parts else to, sheet=sheet,
        owned={"--out": to if in_parts else None, "--embeddings-out": embeddings_out},
        filled={f"--{way}": into},
    )  # fmt: skip
    if sheet is not None:
        if sheet.suffix.lower() != ".png":
            raise Invalid(f"{sheet.name} has no known ending.", "A contact sheet is a .png.")
        require_writable(sheet)
    if to is not None and not in_parts:
        score_tables.check_ending(to)
        require_writable(to)
    if into is not None and path is not None:
        check_target(path, into)
    settings = Settings()
    given = path if path is not None else open_source(source, settings.min_free_gb)
    if isinstance(given, RemoteSource) and given.of_embeddings and embeddings_out is not None:
        raise typer.BadParameter(ALREADY, param_hint="--embeddings-out")
    ready_to_compute(settings.torch_threads)
    limits, scorers = Limits.of(settings).anywhere(), []
    for named in model:
        scorers.append(load_model(
            model_path(settings, named), encoder=encoder, limits=limits, device=device,
            precision=cast(Precision, precision), batch=batch_size,
        ))  # fmt: skip
        scorers[-1].promises = scorers[-1].promises or promises(named)
    panel = Panel(scorers)
    first = panel.first
    if first.classes is None and kinds:
        raise Invalid(f"{first.name} scores; it tells no classes apart.", "Leave out --class.")
    if first.classes is not None:
        if own:
            raise Invalid(
                f"{first.name} tells classes apart; it has no threshold.",
                f"Name what passes: --class {first.labels[0]}, or --class {first.labels[0]}=70.",
            )
        first.classes = first.classes.choose(kinds or ())
        more.check_classes()
    if own:
        low = 100 * first.threshold
    keeping = None
    if embeddings_out is not None and not dry_run:
        made_by = panel.load_encoder()
        keeping = EmbeddingFolder(
            embeddings_out, made_by.spec.name, made_by.fingerprint, made_by.dim,
            str(given if path is None or is_list(path) else path.absolute()),
        )  # fmt: skip
    faults: list[Exception] = []  # told last: the scores are there, whatever comes of the rest

    def draw_sheet(ranked: Any) -> None:
        if sheet is None or path is None or dry_run:
            return
        if not len(ranked):
            err.print("Nothing passes, so no contact sheet is drawn.")
            return
        title = f"{first.name}: the best of {plain(str(path))}"
        try:
            drawn, empty = score_sheets.draw(ranked, path, limits, title)
            if empty == len(ranked):
                err.print("None of the pictures was found, so no contact sheet is drawn.")
                return
            write_atomic(sheet, drawn)
        except Exception as error:
            err.print(f"The scores are there; the contact sheet {plain(str(sheet))} is not.")
            faults.append(error)
        else:
            best = "one is" if len(ranked) == 1 else f"{len(ranked):,} are"
            lack = f"; {empty:,} frames are empty: their pictures were not found" if empty else ""
            if empty == 1:
                lack = "; 1 frame is empty: its picture was not found"
            err.print(f"The best {best} drawn in {plain(str(sheet))}{lack}.")

    if to is not None and in_parts:
        terms = parts.Terms(to, low, high, more, keeping, ", ".join(sorted(kinds or [])))
        unread = _score_in_parts(
            given, panel, terms, precision, ray_address, on_ray=engine == "ray"
        )
        if sheet is not None:
            draw_sheet(parts.best_of(to, score_sheets.USUAL))
        _raise_first(faults + unread)
        return
    tables: list[Any] = []
    missing = losses.Missing()
    scored = written = 0
    shown = score_tables.Ranking(score_sheets.MOST if top is not None else score_sheets.USUAL)

    def count(rows: Any) -> None:
        nonlocal scored
        scored += len(rows)

    with progress_bar() as bar, skipped_files() as skip:
        told = losses.ErrorCount(skip)
        task = bar.add_task("Scoring", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        def tell(line: str) -> None:
            err.print(plain(line))

        if keeping is not None or path is None:
            every = parts.parts_of(given, panel, told, tell)
            rows = parts.stream(every, panel, keeping, told, tell, progress, missing)
        else:
            rows = sources.score_source(path, panel, on_error=told, progress=progress, tell=tell)
        rows = score_tables.within(side_effect(count, rows), low, high, chosen=bool(kinds))
        rows = more.added(rows)
        if top is not None:
            best = score_tables.best(rows, top.rows)
            rows = iter([best.slice(0, top.of(scored))])
        elif sort:
            rows = iter([score_tables.best(rows)])
        if sheet is not None:
            rows = side_effect(shown.add, rows)
        if to is not None and not dry_run:
            # as they come; all are held in memory only where they are wanted after
            if into is not None or as_json:
                rows = side_effect(tables.append, rows)
            written = score_tables.write(to, rows, panel.about)
            rows = iter(tables)
        ranked = score_tables.best(rows)
    passing = max(written, len(ranked))
    limits_told = f" ({low:g}–{high:g} %)" if (low, high) != (0.0, 100.0) else ""
    err.print(f"{passing:,} of {scored:,} pass{limits_told}{_skipped(told.skipped)}.")
    draw_sheet(shown.best())
    if missing.count:
        faults.append(missing.in_words())
    unread = [told.in_words()] if told.incomplete else []
    plan: list[Placement] = []
    if into is not None and path is not None:
        plan = planned(ranked["path"].to_pylist(), path, into, keep=keep)
        try:
            place(plan, way, into, dry_run)
        except TastemakerError as error:
            faults.append(error)
    if dry_run:
        err.print("Nothing was written.")
    targets = {item.path: str(item.target) if item.due else None for item in plan}
    if as_json:
        facts = score_tables.as_dicts(ranked)
        print_json([row | {"target": targets.get(row["path"])} for row in facts]
                   if dry_run else facts)  # fmt: skip
    elif to is None or dry_run:
        for row in score_tables.as_dicts(ranked):
            goes = targets.get(row["path"]) if dry_run else None
            kind = f"  {row['class'] or '–'}" if first.classes is not None else ""
            print(f"{row['percent']:6.2f} %{kind}  {row['path']}{f'  → {goes}' if goes else ''}")
        if to is not None:
            err.print(f"{passing:,} rows would be written to {plain(str(to))}.")
    else:
        out.print(f"{counted(written, 'row')} written to {plain(str(to))}.")
    _raise_first(faults + unread)


def _skipped(count: int, when: str = "") -> str:
    return f"; {count:,} {were(count)} skipped{when}" if count else ""


def _raise_first(faults: list[Exception]) -> None:
    """Raise the first of what went wrong beside the scores, and tell of the others."""
    for fault in faults[1:]:
        err.print(plain(str(fault)))
    if faults:
        raise faults[0]


def _score_in_parts(
    source: "Path | RemoteSource", panel: "Panel", terms: "Terms", precision: str,
    address: str | None, *, on_ray: bool,
) -> list[Exception]:  # fmt: skip
    """What could not be read whole; raises where files were not to be had at all."""
    from tastemaker.filtering.losses import ErrorCount, Missing
    from tastemaker.filtering.parts import Here, parts_of, write_parts

    with progress_bar() as bar, skipped_files() as skip:
        told = ErrorCount(skip)
        task = bar.add_task("Scoring", total=None)

        def tell(line: str) -> None:
            err.print(plain(line))

        engine: Engine = Here(panel, told, tell)
        if on_ray:
            from tastemaker.filtering.ray_engine import OnRay

            engine = OnRay(panel, told, tell, address)
        written = write_parts(
            parts_of(source, panel, told, tell), terms, engine, panel.about,
            lambda done, total: bar.update(task, completed=done, total=total),
            **panel.run, precision=precision,
        )  # fmt: skip
    rows = sum(part.rows for part in written.parts)
    scored = sum(part.scored for part in written.parts)
    skipped = _skipped(told.skipped, " in this run" if written.kept else "")
    err.print(f"{rows:,} of {scored:,} pass{skipped}.")
    already = f"; {counted(written.kept, 'part')} {were(written.kept)} there already"
    out.print(
        f"{counted(rows, 'row')} in {counted(len(written.parts), 'part')} in "
        f"{plain(str(terms.out))}{already if written.kept else ''}."
    )
    if written.missing:
        raise Missing(written.missing).in_words()
    return [told.in_words()] if told.incomplete else []
