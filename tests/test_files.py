import functools
import io
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from tastemaker import files
from tastemaker.errors import BadImage, Conflict, StorageFull
from tastemaker.pictures import decode_pool
from tastemaker.pictures.colours import on_checkerboard
from tastemaker.pictures.decode_pool import DecodePool
from tastemaker.pictures.perceptual import hamming, perceptual_hash
from tastemaker.pictures.pictures import (
    THUMB,
    VIEW,
    Examined,
    Limits,
    decode,
    ingest,
    thumb_path,
)
from tests import pictures


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


# ---- bytes on disk


@given(st.binary(max_size=3000))
def test_what_is_written_is_what_is_read(content):
    import hashlib
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deep" / "file"
        files.write_atomic(path, content)
        assert path.read_bytes() == content
        assert files.sha256_of(path) == hashlib.sha256(content).hexdigest()
        assert list(path.parent.iterdir()) == [path]


def test_a_failing_writer_leaves_the_old_file_and_no_litter(tmp_path):
    path = pictures.write(tmp_path / "kept", b"old")

    def fail_half_way(file):
        file.write(b"new, but only ha")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        files.write_atomic(path, fail_half_way)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_named_as_such(tmp_path):
    def no_space(file):
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageFull, match="disk is full"):
        files.write_atomic(tmp_path / "big", no_space)
    assert list(tmp_path.iterdir()) == []


def test_publishing_never_overwrites(tmp_path):
    first = pictures.write(tmp_path / "a.part", b"first")
    second = pictures.write(tmp_path / "b.part", b"second")
    final = tmp_path / "v1.0.safetensors"
    files.publish_exclusive(first, final)
    with pytest.raises(Conflict, match=r"v1\.0\.safetensors exists already"):
        files.publish_exclusive(second, final)
    assert final.read_bytes() == b"first"
    assert not first.exists() and second.exists()


def test_free_space_is_asked_of_the_disk_even_for_a_folder_to_come(tmp_path):
    there = files.free_space(tmp_path / "not" / "yet")
    assert there > 0
    files.require_free_space(tmp_path, 0)
    with pytest.raises(StorageFull, match="are free"):
        files.require_free_space(tmp_path, 1e6)


def test_content_is_stored_by_its_hash():
    assert files.content_path(Path("r"), "abcdef", ".jpg") == Path("r/ab/cdef.jpg")
    assert thumb_path(Path("r"), "abcdef", THUMB) != thumb_path(Path("r"), "abcdef", VIEW)


# ---- decoding what is odd


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_all_orientations_come_out_upright(orientation, format):
    picture = decode(pictures.turned(orientation, format))
    assert picture.size == (96, 64)
    apart = np.abs(pixels(picture) - pixels(pictures.scene()))
    assert apart.mean() < (6 if format == "WEBP" else 2)


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    row = pixels(decode(pictures.sixteen_bit_grey()))[0, :, 0]
    assert np.abs(row - np.linspace(0, 255, 64)).max() <= 1


def test_grey_in_the_mode_i_has_the_bits_that_its_values_have():
    ramp = np.arange(256, dtype=np.int32)[None].repeat(4, axis=0)
    shallow = Image.fromarray(ramp)
    assert shallow.mode == "I"
    assert np.array_equal(pixels(decode(shallow))[0, :, 0], ramp[0])
    deep = pixels(decode(Image.fromarray(ramp * 257)))[0, :, 0]
    assert np.array_equal(deep, ramp[0])
    wild = pixels(decode(Image.fromarray(np.array([[-5, 0, 65535, 10**6]], np.int32))))[0, :, 0]
    assert wild.tolist() == [0, 0, 255, 255]
    dark = Image.fromarray(np.full((4, 4), 200, np.uint16))  # says itself that it has sixteen
    assert pixels(decode(pictures.encoded(dark))).max() == 1


def test_grey_times_its_opacity_is_flattened_like_any_other():
    grey = Image.new("LA", (4, 4), (100, 128))
    expected = pixels(decode(grey))
    assert np.abs(pixels(decode(grey.convert("La"))) - expected).max() <= 2


@pytest.mark.parametrize("make", [pictures.half_transparent, pictures.transparent_palette])
def test_transparency_is_flattened_on_white_whatever_hides_beneath(make):
    picture = decode(make())
    assert picture.mode == "RGB"
    assert picture.getpixel((5, 10)) == (255, 0, 0)
    assert picture.getpixel((35, 10)) == (255, 255, 255)


@pytest.mark.parametrize("make", [pictures.half_transparent, pictures.transparent_palette])
def test_people_see_transparent_parts_on_a_checkerboard_and_encoders_on_white(make, tmp_path):
    path = pictures.write(tmp_path / "half.png", make())
    found = ingest(path, tmp_path / "thumbs")
    white = pictures.write(tmp_path / "white.png", pictures.encoded(decode(path)))
    assert ingest(white, tmp_path / "other").phash == found.phash, "near-duplicates stay so"
    for size in (VIEW, THUMB):
        with Image.open(thumb_path(tmp_path / "thumbs", found.sha256, size)) as shown:
            left, right = pixels(shown)[:, 2:18], pixels(shown)[:, 24:]
        assert (left[..., 0] > 200).all() and (left[..., 1] < 60).all(), "red stays red"
        assert right.max() > 245 and right.min() < 225, "squares of two greys"


def test_an_opaque_picture_with_an_alpha_channel_is_shown_as_it_is():
    scene = pictures.scene().convert("RGBA")
    assert decode(scene, see_through=True).mode == "RGB"
    assert on_checkerboard(decode(scene)) == decode(scene)


def test_cmyk_becomes_the_colour_it_prints():
    red, green, blue = decode(pictures.cmyk()).getpixel((16, 16))
    assert red < 60 and green > 120 and blue > 180


@pytest.mark.parametrize("format", ["GIF", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(format):
    red, green, blue = decode(pictures.animated(format)).getpixel((12, 8))
    assert red > 240 and green < 15 and blue < 15


def test_a_phones_double_jpeg_is_a_jpeg(tmp_path):
    examined = ingest(
        pictures.write(tmp_path / "phone.jpg", pictures.phone_jpeg()), tmp_path / "thumbs"
    )
    assert (examined.format, examined.width, examined.height) == ("JPEG", 96, 64)


@pytest.mark.parametrize("make", [pictures.broken_profile, pictures.swapped_profile])
def test_a_colour_profile_that_makes_no_sense_is_ignored(make):
    assert np.array_equal(pixels(decode(make())), pixels(pictures.scene()))


def test_a_colour_profile_is_honoured_and_srgb_is_left_exactly_alone():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = decode(pictures.encoded(pictures.scene(), icc_profile=srgb))
    assert np.array_equal(pixels(plain), pixels(pictures.scene()))

    dim_red = Image.new("RGB", (8, 8), (128, 10, 10))
    wide = decode(pictures.encoded(dim_red, icc_profile=wide_gamut_profile())).getpixel((4, 4))
    assert wide[0] > 128 + 5  # the same numbers mean a stronger red in a wider space


def wide_gamut_profile() -> bytes:
    """An sRGB profile whose red primary is moved outwards (and whose name is changed)."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    entries = int.from_bytes(profile[128:132], "big")
    for entry in range(entries):
        at = 132 + 12 * entry
        tag = bytes(profile[at : at + 4])
        offset = int.from_bytes(profile[at + 4 : at + 8], "big")
        size = int.from_bytes(profile[at + 8 : at + 12], "big")
        if tag == b"rXYZ":
            for place, value in enumerate((0.60, 0.28, 0.0)):
                number = round(value * 65536).to_bytes(4, "big")
                profile[offset + 8 + 4 * place : offset + 12 + 4 * place] = number
        if tag == b"desc":
            text = profile[offset : offset + size]
            profile[offset : offset + size] = text.replace(
                b"\0s\0R\0G\0B", b"\0W\0i\0d\0e"
            ).replace(b"sRGB", b"Wide")
    return bytes(profile)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_becomes_rgb(mode):
    picture = decode(pictures.encoded(pictures.scene().convert(mode)))
    assert picture.mode == "RGB" and picture.size == (96, 64)


@pytest.mark.parametrize(
    ("where", "first"),
    [*itertools.product(["tEXt", "zTXt", "iTXt"], [True, False]), ("iCCP", True)],
)
def test_a_picture_with_megabytes_of_text_or_profile_opens(where, first):
    picture = decode(pictures.with_large_text(where, first))
    assert np.array_equal(np.asarray(picture), np.asarray(pictures.scene()))


def test_a_profile_of_two_megabytes_is_kept_and_a_turned_picture_with_a_large_text_stays_upright():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = pictures.encoded(pictures.scene(), icc_profile=lab + bytes(2_000_000))
    assert np.array_equal(np.asarray(decode(content)), np.asarray(pictures.scene()))
    turned = pictures.turned(6, "PNG")
    text = pictures.png_chunk(b"zTXt", b"w\0\0" + zlib.compress(b"x" * 20_000_000))
    at = turned.index(b"IDAT") - 4
    assert decode(turned[:at] + text + turned[at:]).size == pictures.scene().size


# ---- decoding what is bad


@pytest.mark.parametrize("name", pictures.NOT_PICTURES)
def test_what_is_no_picture_gets_one_clear_sentence(name, tmp_path):
    path = pictures.write(tmp_path / name, pictures.NOT_PICTURES[name]())
    expected = {
        "empty": "is empty", "text": "is not a picture", "svg": "is not a picture",
        "cut": "is cut short", "bomb": "more than the 150 million pixels",
    }  # fmt: skip
    with pytest.raises(BadImage, match=expected[path.stem]):
        decode(path)
    with pytest.raises(BadImage, match=expected[path.stem]):
        ingest(path, tmp_path / "thumbs")
    assert not (tmp_path / "thumbs").exists()


def test_a_bomb_is_refused_from_its_header_without_decoding(tmp_path):
    import tracemalloc

    content = pictures.png_bomb()
    tracemalloc.start()
    with pytest.raises(BadImage):
        decode(content)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_the_limits_are_those_given():
    content = pictures.encoded(pictures.scene(100, 100))
    assert decode(content, Limits(pixels=10_000)).size == (100, 100)
    with pytest.raises(BadImage, match="million pixels"):
        decode(content, Limits(pixels=9_999))
    with pytest.raises(BadImage, match="MB allowed"):
        decode(content, Limits(bytes=len(content) - 1))


def test_paths_that_are_no_files_are_bad_images_too(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "missing.png", tmp_path, tmp_path / "pipe.png"):
        with pytest.raises(BadImage):
            decode(path)


@given(st.integers(0, 400), st.integers(0, 255), st.sampled_from(["JPEG", "PNG", "WEBP", "GIF"]))
def test_a_changed_byte_gives_a_picture_or_a_sentence_and_nothing_else(position, value, format):
    content = bytearray(pictures.encoded(pictures.scene(40, 30), format))
    content[position % len(content)] = value
    try:
        assert decode(bytes(content)).mode == "RGB"
    except BadImage as error:
        assert error.message.endswith(".")


# ---- thumbnails and facts


def maimed(seed):
    """One of the odd pictures with pieces cut out, doubled, exchanged or filled with noise."""
    random = np.random.default_rng(seed)
    makers = [
        pictures.cmyk, pictures.sixteen_bit_grey, pictures.half_transparent, pictures.animated,
        pictures.transparent_palette, pictures.phone_jpeg, pictures.with_gps,
        pictures.swapped_profile, lambda: pictures.animated("WEBP"),
        lambda: pictures.encoded(pictures.scene(), "JPEG", progressive=True),
    ]  # fmt: skip
    content = bytearray(makers[seed % len(makers)]())
    for _ in range(random.integers(1, 5)):
        start = int(random.integers(len(content)))
        stop = start + int(random.integers(1, 64))
        piece = bytes(content[start:stop])
        content[start:stop] = [b"", piece * 2, piece[::-1], random.bytes(len(piece)), b"\xff" * 4][
            random.integers(5)
        ]
    return bytes(content)


def test_maimed_pictures_give_a_picture_or_a_sentence_and_nothing_else():
    outcomes = {"picture": 0, "sentence": 0}
    for seed in range(300):
        try:
            assert decode(maimed(seed)).mode == "RGB"
            outcomes["picture"] += 1
        except BadImage as error:
            assert error.message.endswith("."), seed
            outcomes["sentence"] += 1
    assert min(outcomes.values()) > 50


def test_ingesting_says_what_the_picture_is_and_leaves_two_clean_thumbnails(tmp_path):
    path = pictures.write(tmp_path / "gps.jpg", pictures.with_gps())
    examined = ingest(path, tmp_path / "thumbs")
    assert examined.sha256 == files.sha256_of(path)
    assert (examined.bytes, examined.format) == (path.stat().st_size, "JPEG")
    assert b"SecretCameraMaker" in path.read_bytes()
    for size in (THUMB, VIEW):
        content = thumb_path(tmp_path / "thumbs", examined.sha256, size).read_bytes()
        assert b"SecretCameraMaker" not in content
        assert b"EXIF" not in content and b"ICCP" not in content
        with Image.open(io.BytesIO(content)) as thumb:
            assert thumb.format == "WEBP" and thumb.size == (96, 64)  # never enlarged


@pytest.mark.slow
def test_a_large_turned_photograph_keeps_its_true_size_and_shape(tmp_path):
    exif = Image.Exif()
    exif[pictures.EXIF_ORIENTATION] = 6
    large = pictures.scene(3001, 1999).transpose(Image.Transpose.ROTATE_90)
    path = pictures.write(tmp_path / "a.jpg", pictures.encoded(large, "JPEG", exif=exif))
    examined = ingest(path, tmp_path)
    assert (examined.width, examined.height) == (3001, 1999)
    for size in (THUMB, VIEW):
        with Image.open(thumb_path(tmp_path, examined.sha256, size)) as thumb:
            assert max(thumb.size) == size
            assert abs(thumb.width / thumb.height - 3001 / 1999) < 0.01
            apart = pixels(thumb.convert("RGB")) - pixels(
                pictures.scene(3001, 1999).resize(thumb.size)
            )
            assert np.abs(apart).mean() < 5


def test_a_panorama_has_no_side_of_zero_pixels(tmp_path):
    path = pictures.write(tmp_path / "a.png", pictures.encoded(Image.new("RGB", (4000, 2))))
    examined = ingest(path, tmp_path)
    with Image.open(thumb_path(tmp_path, examined.sha256, THUMB)) as thumb:
        assert thumb.size == (320, 1)


def test_the_perceptual_hash_is_that_of_imagehash():
    import imagehash
    from skimage import data

    noise = [
        np.random.default_rng(seed).integers(0, 255, (60, 80, 3)).astype(np.uint8)
        for seed in range(5)
    ]
    for pixels in (*noise, data.astronaut(), data.coffee(), data.chelsea(), data.camera()):
        picture = Image.fromarray(pixels).convert("RGB")
        ours = perceptual_hash(picture) & (2**64 - 1)
        assert f"{ours:016x}" == str(imagehash.phash(picture))


def test_near_duplicates_have_near_hashes_and_others_do_not():
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 255, (2, 6, 8, 3)).astype(np.uint8)
    one, other = (Image.fromarray(c).resize((320, 240), Image.Resampling.BICUBIC) for c in coarse)
    again = decode(pictures.encoded(one.resize((200, 150)), "JPEG", quality=30))
    assert hamming(perceptual_hash(one), perceptual_hash(again)) <= 6
    assert hamming(perceptual_hash(one), perceptual_hash(other)) > 16
    assert -(2**63) <= perceptual_hash(one) < 2**63


# ---- the pool


def obey(order: str) -> str:
    """A task for the children of the tests below."""
    if order == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if order == "eat":
        bytearray(4 * 2**30)
    if order == "spin":
        while True:
            pass
    if order == "bug":
        raise ZeroDivisionError
    if order == "interrupt":
        asking = multiprocessing.parent_process()
        assert asking is not None
        os.kill(asking.pid, signal.SIGUSR1)
    return order


@pytest.fixture(scope="module")
def pool():
    with DecodePool(2, Limits(pixels=1_000_000)) as running:
        yield running


def test_a_child_that_dies_costs_only_its_own_file(pool):
    orders = ["a", "die", "b", "c", "die", "d"]
    outcomes = list(pool.map(obey, orders))
    assert sorted(order for order, _ in outcomes) == sorted(orders)
    for order, outcome in outcomes:
        if order == "die":
            assert isinstance(outcome, BadImage) and "skipped" in outcome.message
        else:
            assert outcome == order


def test_a_file_that_wants_more_memory_than_allowed_is_set_aside(pool):
    [(_, outcome)] = pool.map(obey, ["eat"])
    assert isinstance(outcome, BadImage) and "memory" in outcome.message


def test_a_child_that_died_while_idle_costs_no_file():
    with DecodePool(1) as one:
        child = one._idle[0]
        child.hand(os.abort)
        child._begun[0].join()
        assert list(one.map(obey, ["a", "b"])) == [("a", "a"), ("b", "b")]


def test_an_answer_that_nobody_waited_for_is_not_taken_for_the_next_one():
    def interrupted(*_):
        raise KeyboardInterrupt

    usual = signal.signal(signal.SIGUSR1, interrupted)
    try:
        with DecodePool(1) as one:
            with pytest.raises(KeyboardInterrupt):
                list(one.map(obey, ["interrupt"]))
            assert list(one.map(obey, ["a", "b"])) == [("a", "a"), ("b", "b")]
    finally:
        signal.signal(signal.SIGUSR1, usual)


@pytest.mark.slow
def test_a_file_that_never_ends_is_set_aside():
    with DecodePool(1, cpu_seconds=1) as impatient:
        (_, outcome), (_, after) = impatient.map(obey, ["spin", "next"])
    assert isinstance(outcome, BadImage) and "time" in outcome.message
    assert after == "next"


@pytest.mark.parametrize(("cores", "at_once"), [(None, 2), (1, 2), (2, 2), (8, 4), (64, 8)])
def test_half_of_the_cores_decode(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, at_once: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert decode_pool.side_by_side() == at_once


def test_children_hold_what_reads_a_picture_and_nothing_else():
    asking = """
from tastemaker.pictures.decode_pool import DecodePool
with DecodePool(1) as pool:
    [(_, loaded)] = pool.map(eval, ["set(__import__('sys').modules)"])
print(*sorted({"PIL", "torch", "sqlalchemy", "scipy"} & loaded))
"""
    told = subprocess.run(
        [sys.executable, "-c", asking], capture_output=True, text=True, check=True, timeout=60
    )
    assert told.stdout.split() == ["PIL"]


def test_one_bad_picture_among_good_ones_stops_nothing(pool, tmp_path):
    good = [pictures.write(tmp_path / f"{n}.png", pictures.encoded(pictures.scene(seed=n)))
            for n in range(8)]  # fmt: skip
    bad = pictures.write(tmp_path / "bad.jpg", pictures.truncated())
    outcomes = dict(pool.map(functools.partial(ingest, thumbs_root=tmp_path / "t"), [*good, bad]))
    assert isinstance(outcomes.pop(bad), BadImage)
    assert set(outcomes) == set(good)
    assert all(isinstance(found, Examined) for found in outcomes.values())


def test_items_are_drawn_only_as_they_can_be_worked_on(pool):
    drawn = []
    endless = (drawn.append(number) or str(number) for number in range(10**9))
    outcomes = pool.map(obey, endless)
    for _ in range(3):
        next(outcomes)
    outcomes.close()
    assert len(drawn) <= 3 + 2
    assert [outcome for _, outcome in pool.map(obey, ["still works"])] == ["still works"]


def test_a_bug_in_the_task_is_not_hidden(pool):
    with pytest.raises(ZeroDivisionError):
        list(pool.map(obey, ["bug"]))


ORPHANAGE = """
import os, sys, time
from tastemaker.pictures.colours import on_checkerboard
from tastemaker.pictures.decode_pool import DecodePool
from tastemaker.pictures.perceptual import hamming, perceptual_hash

def report(_):
    return os.getpid()

if __name__ == "__main__":
    pool = DecodePool(2)
    for _, child in pool.map(report, range(2)):
        print(child, flush=True)
    time.sleep(600)
"""


def test_children_end_when_their_parent_is_killed(tmp_path):
    script = pictures.write(tmp_path / "orphanage.py", ORPHANAGE.encode())
    here = Path(__file__).parent.parent
    told = tmp_path / "told"
    with told.open("w") as errors:
        parent = subprocess.Popen(
            [sys.executable, script], stdout=subprocess.PIPE, stderr=errors, text=True, cwd=here,
            env={**os.environ, "PYTHONPATH": str(here)},
        )  # fmt: skip
    children = {int(parent.stdout.readline()) for _ in range(2)}
    watched = [os.pidfd_open(child) for child in children]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    import select

    poller = select.poll()
    for handle in watched:
        poller.register(handle, select.POLLIN)  # readable once the process has ended
    ended = set()
    while len(ended) < len(watched) and (events := poller.poll(10_000)):
        for handle, _ in events:
            ended.add(handle)
            poller.unregister(handle)
    assert ended == set(watched)
    assert told.read_text() == ""  # a child whose parent is gone has nobody to complain to


def test_decoding_is_safe_in_threads():
    content = pictures.turned(6)
    expected = pixels(decode(content))
    wrong = []

    def check():
        for _ in range(20):
            if not np.array_equal(pixels(decode(content)), expected):
                wrong.append(1)

    threads = [threading.Thread(target=check) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
