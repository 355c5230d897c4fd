"""Animated files by a rule: which frames an encoder sees, what that costs, and the same vector at
every place that reads a file."""

import functools
import io
import itertools
import threading
import time
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlmodel import select

import tastemaker
from tastemaker import embeddings, projects
from tastemaker.database import sessions
from tastemaker.database.tables import Embedding, EncoderRow, Job
from tastemaker.encoding.encode_files import embed_files
from tastemaker.encoding.encoder_names import canonical, contradict
from tastemaker.encoding.encoder_specs import BUNDLED, known_encoders, parse
from tastemaker.encoding.encoders import Encoder, load
from tastemaker.encoding.preprocessing import read_fitted
from tastemaker.errors import BadImage, Invalid
from tastemaker.learning.checkpoints import save_checkpoint
from tastemaker.learning.city96 import linear_head
from tastemaker.live.inference_server import InferenceServer
from tastemaker.live.model_requests import ModelRequest
from tastemaker.pages.app import create_app
from tastemaker.pictures import frames
from tastemaker.pictures.decode_pool import DecodePool
from tastemaker.pictures.frames import FrameRule
from tastemaker.pictures.pictures import Limits, decode, decode_frames
from tests import pictures
from tests.conftest import work_on
from tests.desk import Desk
from tests.web_world import client_of

RULE_NAMES: dict[FrameRule, str] = {
    "first": BUNDLED,
    "middle": "efficientnet_lite0+middle-frame/bundled",
    "mean": "efficientnet_lite0+mean-frames/bundled",
}


def shade(number: int, count: int = 11) -> int:
    return 20 + number * 200 // count


def stills(count: int = 11, size: tuple[int, int] = (48, 32)) -> list[Image.Image]:
    """Grey pictures, each lighter than the one before, with a stripe that stays."""
    made = []
    for number in range(count):
        picture = Image.new("RGB", size, (shade(number, count),) * 3)
        picture.paste((250, 20, 20), (0, 0, 6, size[1]))
        made.append(picture)
    return made


def animation(format: str, count: int = 11, **how: Any) -> bytes:
    first, *rest = stills(count)
    return pictures.encoded(first, format, save_all=True, append_images=rest, duration=40, **how)


def seen(source: Any, rule: FrameRule, limits: Limits | None = None) -> list[int]:
    """The grey of each frame that is looked at."""
    greys = decode_frames(source, lambda picture: picture.getpixel((40, 16)), limits, rule)
    return [int(grey[1]) for grey in greys]


@cache
def encoder(rule: FrameRule) -> Encoder:
    return load(parse(RULE_NAMES[rule]), device="cpu")


def vector(encoder: Encoder, source: Any, **how: Any) -> np.ndarray:
    ((_, found),) = embed_files(encoder, [source], **how)
    return found


# --- which frames ----------------------------------------------------------------------------


@pytest.mark.parametrize("format", frames.ANIMATED)
def test_each_rule_looks_at_its_frames_in_every_format_that_has_them(format: str) -> None:
    content = animation(format)
    assert seen(content, "first") == [pytest.approx(shade(0), abs=4)]
    assert seen(content, "middle") == [pytest.approx(shade(5), abs=4)]
    expected = [shade(at) for at in (0, 2, 3, 4, 6, 7, 8, 10)]
    assert seen(content, "mean") == [pytest.approx(grey, abs=4) for grey in expected]
    assert decode(content).getpixel((40, 16))[1] == pytest.approx(shade(0), abs=4)


def test_of_few_frames_all_are_looked_at_and_of_many_the_middles_of_equal_stretches() -> None:
    assert frames.chosen(range(1), "mean") == frames.chosen(range(1), "middle") == [0]
    assert frames.chosen(range(2), "middle") == [1] and frames.chosen(range(3), "middle") == [1]
    assert frames.chosen(range(8), "mean") == list(range(8))
    assert frames.chosen(range(80), "mean") == list(range(5, 80, 10))
    assert len(set(frames.chosen(range(9), "mean"))) == 8


@pytest.mark.parametrize("rule", RULE_NAMES)
@pytest.mark.parametrize("format", [*frames.ANIMATED, "JPEG", "TIFF", "HEIF", "BMP"])
def test_a_still_picture_is_seen_alike_by_every_rule(format: str, rule: FrameRule) -> None:
    content = pictures.encoded(pictures.scene(), format)
    (found,) = decode_frames(content, np.asarray, None, rule)
    assert (found == np.asarray(decode(content))).all()


def test_an_animated_file_with_one_frame_is_a_still_picture() -> None:
    for format in frames.ANIMATED:
        content = pictures.encoded(stills(1)[0], format, save_all=True)
        assert seen(content, "mean") == seen(content, "middle") == seen(content, "first")


def test_pages_are_no_frames() -> None:
    first, *rest = stills(4)
    for format in ("TIFF", "HEIF", "MPO"):
        content = pictures.encoded(first, format, save_all=True, append_images=rest)
        assert seen(content, "mean") == seen(content, "first")


def test_the_picture_for_programs_that_cannot_play_a_png_is_no_frame_of_it() -> None:
    content = animation("PNG", 6, default_image=True)
    assert seen(content, "first") == [shade(0, 6)], "as it was ever seen"
    assert seen(content, "mean") == [shade(at, 6) for at in range(1, 6)]


def test_see_through_frames_lie_on_white_and_turned_ones_are_upright() -> None:
    clear = [Image.new("RGBA", (48, 32), (0, 0, 0, 0)) for _ in range(2)]
    clear[1].paste((10, 200, 10, 255), (0, 0, 24, 32))
    content = pictures.encoded(
        clear[0], "PNG", save_all=True, append_images=clear[1:], default_image=False
    )
    assert seen(content, "mean") == [255, 255]
    exif = Image.Exif()
    exif[pictures.EXIF_ORIENTATION] = 6
    turned = animation("WEBP", 3, exif=exif.tobytes())
    sizes = decode_frames(turned, lambda picture: picture.size, None, "mean")
    assert sizes == [(32, 48)] * 3


def test_a_frame_that_reaches_beyond_its_canvas_is_seen_as_large_as_it_is() -> None:
    content = bytearray(animation("GIF", 3))
    content[6:10] = (24).to_bytes(2, "little") + (16).to_bytes(2, "little")  # a smaller canvas
    sizes = decode_frames(bytes(content), lambda picture: picture.size, None, "mean")
    assert sizes[-1] == (48, 32)
    assert vector(encoder("mean"), bytes(content)).shape == (1280,)
    with pytest.raises(BadImage, match="million pixels"):
        decode_frames(bytes(content), np.asarray, Limits(pixels=1000), "mean")


# --- bad input -------------------------------------------------------------------------------


def cut(content: bytes, share: float) -> bytes:
    return content[: int(len(content) * share)]


@pytest.mark.parametrize("format", ["GIF", "PNG"])
def test_an_animation_that_is_cut_short_counts_as_far_as_it_is_whole(format: str) -> None:
    whole = animation(format, 20)
    short = cut(whole, 0.6)
    greys = seen(short, "mean")
    assert len(greys) == 8 and max(greys) < shade(14, 20)
    (middle,) = seen(short, "middle")
    assert shade(4, 20) < middle < shade(14, 20)
    assert greys == seen(short, "mean"), "the same each time"


@pytest.mark.parametrize("format", frames.ANIMATED)
def test_whatever_is_cut_away_leaves_a_picture_or_a_sentence(format: str) -> None:
    whole = animation(format, 5)
    for share in np.linspace(0.02, 0.99, 25):
        for rule in ("middle", "mean"):
            try:
                assert 1 <= len(seen(cut(whole, share), rule)) <= 8
            except BadImage as error:
                assert error.message.endswith(".")


def test_a_count_of_frames_that_lies_is_not_believed() -> None:
    content = bytearray(animation("PNG", 3))
    at = content.index(b"acTL") + 4
    content[at : at + 4] = (2**31 - 1).to_bytes(4, "big")
    check = zlib.crc32(content[at - 4 : at + 8])
    content[at + 8 : at + 12] = check.to_bytes(4, "big")
    started = time.process_time()
    assert seen(bytes(content), "mean") == [shade(at, 3) for at in range(3)]
    assert time.process_time() - started < 1


def ten_thousand() -> bytes:
    """The last nine tenths are blue."""
    content = pictures.animated()
    start = content.index(b"\x21\xf9", content.index(b"\x21\xf9") + 1)
    red = content[content.index(b"\x21\xf9") : start]
    return content[: content.index(b"\x21\xf9")] + red * 1000 + content[start:-1] * 9000 + b";"


def test_of_ten_thousand_frames_no_more_than_a_thousand_are_looked_at() -> None:
    content = ten_thousand()
    with Image.open(io.BytesIO(content)) as opened:
        assert opened.n_frames == 10_000
        assert frames.looked_at(opened) == range(1000)
    started = time.process_time()
    colours = decode_frames(content, lambda picture: picture.getpixel((12, 8)), None, "mean")
    assert colours == [(254, 0, 0)] * 8 or colours == [(255, 0, 0)] * 8
    assert time.process_time() - started < 5


def test_of_large_frames_fewer_are_looked_at_and_one_always(monkeypatch: Any) -> None:
    monkeypatch.setattr(frames, "MOST_PIXELS", 48 * 32 * 4 + 5)
    assert seen(animation("GIF", 11), "mean") == [shade(at) for at in range(4)]
    monkeypatch.setattr(frames, "MOST_PIXELS", 1)
    assert seen(animation("GIF", 11), "mean") == [shade(0)]


@pytest.mark.slow
def test_an_animation_over_its_time_costs_only_itself() -> None:
    """A child that decodes has seconds of the processor; a file that takes more is set aside."""
    noisy = np.random.default_rng(0).integers(0, 16, (10, 700, 700), np.uint8)
    first, *rest = [Image.fromarray(plane) for plane in noisy]
    ten = pictures.encoded(first, "GIF", save_all=True, append_images=rest)
    frames_from = ten.index(b"\x2c\x00\x00\x00\x00")  # where the first of them begins
    heavy = ten[:frames_from] + 50 * ten[frames_from:-1] + b";"  # four seconds of a processor
    files = [(0, heavy), (1, animation("GIF"))]
    with DecodePool(1, cpu_seconds=1) as pool:
        task = functools.partial(
            read_fitted, views=encoder("mean").views, limits=None, frames="mean"
        )
        outcomes = {item[0]: found for item, found in pool.map(task, files)}
    assert isinstance(outcomes[0], BadImage) and "time" in outcomes[0].message
    assert outcomes[1].shape[0] == 8


# --- names, fingerprints, vectors ------------------------------------------------------------


def test_the_rule_is_part_of_the_name_and_of_the_fingerprint() -> None:
    assert parse(BUNDLED).frames == "first"
    assert len({encoder(rule).fingerprint for rule in RULE_NAMES}) == 3
    assert "frames" not in encoder("first").describe(), "what was embedded stays good"
    assert encoder("mean").describe()["frames"] == "mean"
    spec = parse("efficientnet_lite0+mean-frames+whole+stages/bundled")
    assert spec.name == "efficientnet_lite0+stages+whole+mean-frames/bundled"
    assert (spec.frames, spec.dim) == ("mean", 4128)
    tiled = parse("ViT-B-32-quickgelu+middle-frame+tiles/openai")
    assert tiled.name == "ViT-B-32-quickgelu+tiles+middle-frame/openai"
    assert (tiled.tiling, tiled.frames) == ("tiles", "middle")
    assert canonical("efficientnet_lite0+mean-frames+stages/bundled").endswith(
        "+mean-frames/bundled"
    )
    assert contradict(RULE_NAMES["mean"], BUNDLED)
    offered = {parse(known.name).frames for known in known_encoders()}
    assert offered == set(RULE_NAMES)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("efficientnet_lite0+mean-frames+middle-frame/bundled", "two rules for animated files"),
        ("efficientnet_lite0+last-frame/bundled", "no block"),
        ("efficientnet_lite0/bundled+mean-frames", "before it"),
        (
            "efficientnet_lite0+mean-frames/bundled+ViT-B-32-quickgelu/openai",
            "different rules for animated files",
        ),
    ],
)
def test_a_name_with_a_rule_that_makes_no_sense_gets_a_sentence(name: str, sentence: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse(name)
    assert sentence in str(caught.value)


def test_encoders_side_by_side_share_the_rule() -> None:
    both = parse("ViT-B-32-quickgelu+mean-frames/openai+efficientnet_lite0+mean-frames/bundled")
    assert both.frames == "mean" and [part.frames for part in both.parts] == ["mean", "mean"]
    assert both.name.startswith("efficientnet_lite0+mean-frames/bundled+")


def test_the_vector_is_the_mean_of_those_of_the_frames_and_a_still_s_is_the_same_to_the_bit(
    tmp_path: Path,
) -> None:
    content = animation("GIF")
    alone = [vector(encoder("first"), picture) for picture in stills()]
    chosen = [alone[at] for at in frames.chosen(range(11), "mean")]
    assert np.allclose(vector(encoder("mean"), content), np.mean(chosen, axis=0), atol=2e-2)
    assert np.allclose(vector(encoder("middle"), content), alone[5], atol=2e-2)
    assert not np.allclose(vector(encoder("first"), content), alone[5], atol=2e-2)
    still = pictures.write(tmp_path / "still.png", pictures.encoded(pictures.scene()))
    first = vector(encoder("first"), still)
    assert (vector(encoder("mean"), still) == first).all()
    assert (vector(encoder("middle"), still) == first).all()


@pytest.mark.slow
def test_animations_among_stills_keep_to_their_own_vectors_in_whatever_batch(
    tmp_path: Path,
) -> None:
    paths = []
    for number in range(9):
        content = (
            animation("GIF", 3 + number)
            if number % 3 == 1
            else pictures.encoded(pictures.scene(seed=number))
        )
        paths.append(pictures.write(tmp_path / f"{number}.gif", content))
    alone = [vector(encoder("mean"), path) for path in paths]
    for how in ({"batch": 4, "lanes": 2}, {"batch": 3, "guarded": True, "lanes": 1}):
        found = dict(embed_files(encoder("mean"), paths, **how))
        assert np.allclose([found[at] for at in range(9)], alone, atol=1e-3), how


def test_a_picture_that_pillow_opened_counts_as_its_file_unless_it_was_sought() -> None:
    content = animation("GIF")
    with Image.open(io.BytesIO(content)) as opened:
        assert seen(opened, "mean") == seen(content, "mean")
        assert opened.tell() == 0, "it is left as it was"
        opened.seek(9)
        assert seen(opened, "mean") == [shade(9)]
        assert opened.tell() == 9


def test_a_picture_that_pillow_opened_is_left_at_its_first_frame_whatever_happens() -> None:
    """Else the next look would take the frame at which the last one failed."""
    content = animation("GIF")
    with Image.open(io.BytesIO(content)) as opened:
        uses = [1, 2]
        with pytest.raises(BadImage):
            decode_frames(opened, lambda picture: uses.pop(), None, "mean")
        assert opened.tell() == 0
        assert seen(opened, "mean") == seen(content, "mean")


class Door:
    """A lock that tells when a second one comes to it."""

    def __init__(self) -> None:
        self.lock, self.comers = threading.Lock(), itertools.count(1)
        self.second = threading.Event()

    def __enter__(self) -> None:
        if next(self.comers) == 2:
            self.second.set()
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def test_two_threads_that_look_at_one_opened_picture_see_the_same(monkeypatch: Any) -> None:
    """The second comes while the first stands at a later frame, which nobody sought."""
    door, content = Door(), animation("GIF")
    monkeypatch.setattr("tastemaker.pictures.pictures._opened_lock", door)
    with Image.open(io.BytesIO(content)) as opened, ThreadPoolExecutor(1) as other:
        beside: list[Future[list[int]]] = []

        def use(picture: Image.Image) -> None:
            if opened.tell() and not beside:
                beside.append(other.submit(seen, opened, "mean"))
                assert door.second.wait(timeout=20)

        decode_frames(opened, use, None, "mean")
        assert beside[0].result(timeout=20) == seen(content, "mean")


# --- one vector wherever the file is read ----------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "words"),
    [("first", "first frame counts"), ("middle", "middle frame"), ("mean", "eight")],
)
def test_the_page_that_adds_says_what_is_seen_of_an_animation(
    desk: Desk, rule: FrameRule, words: str
) -> None:
    with sessions.writing(desk.engine) as session:
        project = projects.create(session, "Moving", encoder=RULE_NAMES[rule])
    page = client_of(create_app(desk.settings)).get(f"/projects/{project.id}/add")
    assert f"Of an animation the {'encoder sees ' * (rule != 'first')}" in page.text
    assert words in page.text


@pytest.mark.slow
def test_import_scoring_and_try_it_give_one_vector_for_one_file(desk: Desk, tmp_path: Path) -> None:
    content = animation("WEBP")
    path = desk.put("moving.webp", content)
    with sessions.writing(desk.engine) as session:
        project = projects.create(session, "Moving", encoder=RULE_NAMES["mean"])
    desk.bring_in(project=project)
    (job,) = [j for j in desk.all(Job) if j.kind == "embed" and j.state == "queued"]
    embeddings.run(work_on(desk.settings, desk.engine, job.id))
    (row,) = desk.all(EncoderRow, EncoderRow.name == RULE_NAMES["mean"])
    assert row.fingerprint == encoder("mean").fingerprint
    with sessions.reading(desk.engine) as session:
        stored = session.exec(select(Embedding).where(Embedding.encoder_id == row.id)).one()
    kept = np.frombuffer(stored.vector, "<f2").astype(np.float32)
    expected = vector(encoder("mean"), content)
    assert np.allclose(kept, expected, atol=2e-2)
    server = InferenceServer(desk.settings, desk.engine)
    try:
        request = ModelRequest(1, "try", project.id, {}, content)
        tried, _ = server._vector_of(request, project, row)
    finally:
        server._decode_pool().close()
    assert np.allclose(tried, kept, atol=2e-2)
    head = head_of_one_number(tmp_path / "moving.safetensors", encoder("mean"), expected)
    scorer = tastemaker.load(head)
    with Image.open(path) as opened:
        by_file, by_picture = scorer.score([path, opened])
    assert by_file == pytest.approx(by_picture, abs=1e-4)
    assert by_file == pytest.approx(0.5, abs=0.02), "the head knows this vector"
    assert abs(float(scorer.score(stills()[0])) - 0.5) > 0.05, "the first frame is another"


def head_of_one_number(path: Path, encoder: Encoder, known: np.ndarray) -> Path:
    """A head that gives one half to the vector it knows and falls with the first frame's."""
    weights = vector(encoder, stills()[0]) - known
    weights *= 4 / float(weights @ weights)
    none, one = np.zeros(encoder.dim, np.float32), np.ones(encoder.dim, np.float32)
    save_checkpoint(
        path,
        linear_head(weights.astype(np.float64), -float(weights @ known), none, one),
        {
            "encoder": encoder.name, "encoder_fingerprint": encoder.fingerprint,
            "embedding": "not L2-normalised", "project": "Moving", "version": "v0.0",
        },
    )  # fmt: skip
    return path
