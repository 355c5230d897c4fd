"""The sample library: what it is made of, and what its scripted rater likes."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from tastemaker import projects
from tastemaker.pictures.pictures import decode
from tastemaker.sample import demo, paintings, samples
from tastemaker.sample.samples import (
    COUNT,
    LIGHTS,
    LONG_SIDE,
    PHOTOGRAPHS,
    installed,
    make_sample_library,
    scripted_rater,
    warmth,
)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """All of it. Smooth edges cost half of the time and are in no question asked here."""
    folder = tmp_path_factory.mktemp("samples")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paintings, "DRAWN_AT", 1)
        return folder, make_sample_library(folder)


def of_colour(red: int, green: int, blue: int) -> Image.Image:
    return Image.new("RGB", (40, 30), (red, green, blue))


def rated(picture: Image.Image, times: int = 200) -> float:
    random = np.random.default_rng(0)
    return float(np.mean([scripted_rater(picture, random) for _ in range(times)]))


def test_every_photograph_is_really_inside_the_installed_libraries():
    missing = [photo.name for photo in PHOTOGRAPHS if installed(photo.file) is None]
    assert not missing


def test_the_parts_of_a_photograph_do_not_overlap():
    for photograph in PHOTOGRAPHS:
        whole, parts = installed(photograph.file), list(samples._parts(photograph))
        assert len({part.source for part in parts}) == len(parts)
        area = sum(part.picture.width * part.picture.height for part in parts)
        assert area <= whole.width * whole.height


@pytest.mark.slow
def test_pictures_are_sound_of_moderate_size_and_all_different(library):
    folder, made = library
    contents = {sample.path.read_bytes() for sample in made}
    assert len(contents) == len(made) == len(list(folder.glob("*.jpg"))) == COUNT
    for sample in made[::17]:
        picture = decode(sample.path)
        assert min(picture.size) > 100 and max(picture.size) <= LONG_SIDE


@pytest.mark.slow
def test_names_and_sidecars_tell_source_and_light_and_never_the_score(library):
    for sample in library[1]:
        assert sample.source in sample.path.stem
        sidecar = json.loads(sample.path.with_suffix(".json").read_text())
        tags = [sample.subject, sample.medium, sample.light]
        assert sidecar == {"tags": tags, "source": sample.source}


@pytest.mark.slow
def test_a_painting_is_its_own_source_and_a_part_of_a_photograph_is_shown_a_few_times(library):
    shown = Counter(sample.source for sample in library[1])
    painted = {sample.source for sample in library[1] if sample.medium == "painting"}
    assert all(shown[source] == 1 for source in painted)
    assert max(shown.values()) <= 4 and len(shown) > 250


@pytest.mark.slow
def test_every_motif_and_every_subject_is_there_in_every_light(library):
    seen = Counter((sample.subject, sample.light) for sample in library[1])
    assert all(seen[motif, light] for motif in paintings.MOTIFS for light in LIGHTS)
    assert {photo.subject for photo in PHOTOGRAPHS} <= {subject for subject, _ in seen}


@pytest.mark.slow
def test_scores_spread_over_the_whole_scale_on_both_sides_of_the_threshold(library):
    scores = np.array([sample.score for sample in library[1]])
    assert set(scores) == set(range(11))
    assert 0.3 < (scores >= 5).mean() < 0.7


@pytest.mark.slow
def test_what_a_picture_shows_hardly_tells_its_score(library):
    """A head that knows the motif alone must not look as if it knew the taste."""
    scores = np.array([sample.score for sample in library[1]], float)
    subjects = np.array([sample.subject for sample in library[1]])
    means = {subject: scores[subjects == subject].mean() for subject in set(subjects)}
    known = np.array([means[subject] for subject in subjects])
    assert known.var() < 0.25 * scores.var()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_library_and_another_seed_another(tmp_path):
    first, again, other = (
        make_sample_library(tmp_path / name, 24, seed=seed)
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    for one, same in zip(first, again, strict=True):
        assert one.path.name == same.path.name and one.score == same.score
        assert one.path.read_bytes() == same.path.read_bytes()
    assert any(
        one.path.read_bytes() != different.path.read_bytes()
        for one, different in zip(first, other, strict=True)
    )


def test_progress_counts_up_to_the_whole(tmp_path):
    seen = []
    make_sample_library(tmp_path, 5, lambda done, total: seen.append((done, total)))
    assert seen == [(n, 5) for n in range(1, 6)]


@pytest.mark.parametrize("motif", paintings.MOTIFS)
def test_a_painting_is_the_warmer_the_warmer_its_light(motif):
    means = []
    for light in (0.05, 0.5, 0.95):
        pictures = [paintings.paint(motif, light, np.random.default_rng(seed)) for seed in range(6)]
        means.append(np.mean([warmth(picture) for picture in pictures]))
    assert means == sorted(means) and means[-1] - means[0] > 0.15


def test_the_rater_likes_warm_colours_and_dislikes_cold_ones_however_bright():
    assert rated(of_colour(240, 120, 40)) > 9 and rated(of_colour(120, 60, 10)) > 8
    assert rated(of_colour(40, 90, 220)) < 1 and rated(of_colour(10, 30, 110)) < 2
    assert rated(of_colour(130, 130, 130)) == pytest.approx(5, abs=0.3)


def test_the_rater_wavers_but_stays_on_the_scale():
    random = np.random.default_rng(1)
    scores = {scripted_rater(of_colour(140, 130, 110), random) for _ in range(100)}
    assert 2 <= len(scores) <= 6
    coldest = [scripted_rater(of_colour(0, 0, 255), random) for _ in range(100)]
    assert min(coldest) == 0 and all(isinstance(score, int) for score in coldest)


def test_with_each_of_ten_seeds_the_sample_has_enough_to_hold_out():
    for seed in range(10):
        rules = projects.LabelRules(1, seed, demo.HOLDOUT_SHARE, "median", "scores")
        held = [
            projects.on_holdout_side(rules, f"source:{plan.source}")
            for plan in samples.planned(COUNT, seed)
        ]
        assert sum(held) >= demo.HELD_OUT, seed
        assert COUNT - sum(held) > demo.FIRST_ROUND + demo.SECOND_ROUND, seed
