import json
from collections import Counter

import numpy as np
import pytest

from tastemaker.pictures.pictures import decode
from tastemaker.sample.samples import (
    APPEAL,
    HARM,
    LONG_SIDE,
    PHOTOGRAPHS,
    PLAN,
    Facts,
    make_sample_library,
    scripted_rater,
)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    return folder, make_sample_library(folder, len(PLAN) * len(PHOTOGRAPHS))


def rated(subject: str, treatment: str, degree: float, times: int = 200) -> float:
    rng = np.random.default_rng(0)
    return float(np.mean([scripted_rater(Facts(subject, treatment, degree), rng)
                          for _ in range(times)]))  # fmt: skip


@pytest.mark.slow
def test_every_photograph_is_really_inside_the_installed_libraries(library):
    _, samples = library
    assert {sample.source for sample in samples} == {photo.name for photo in PHOTOGRAPHS}
    assert set(Counter(sample.source for sample in samples).values()) == {len(PLAN)}


@pytest.mark.slow(2)
def test_pictures_are_sound_of_moderate_size_and_all_different(library):
    folder, samples = library
    contents = {sample.path.read_bytes() for sample in samples}
    assert len(contents) == len(samples) == len(list(folder.glob("*.jpg")))
    for sample in samples[::17]:
        picture = decode(sample.path)
        assert min(picture.size) > 150 and max(picture.size) <= LONG_SIDE


def test_names_and_sidecars_tell_source_and_treatment_and_never_the_score(library):
    _, samples = library
    for sample in samples:
        assert sample.path.name.startswith(f"{sample.source}-{sample.treatment}-")
        sidecar = json.loads(sample.path.with_suffix(".json").read_text())
        assert sidecar == {"tags": [sample.subject, sample.treatment], "source": sample.source}


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


def test_scores_spread_over_the_whole_scale_on_both_sides_of_the_threshold(library):
    scores = np.array([sample.score for sample in library[1]])
    assert set(scores) == set(range(11))
    assert 0.3 < (scores >= 5).mean() < 0.7


@pytest.mark.parametrize("treatment", [name for name in HARM if name != "original"])
@pytest.mark.parametrize("subject", ["animal", "thing"])
def test_the_rater_dislikes_a_treatment_more_the_stronger_it_is(treatment, subject):
    means = [rated(subject, treatment, degree) for degree in (0, 0.25, 0.5, 0.75, 1)]
    assert means == sorted(means, reverse=True)
    assert means[0] - means[-1] > 2


def test_the_rater_likes_animals_and_space_better_than_documents():
    assert min(rated("animal", "original", 0), rated("space", "original", 0)) > 8
    assert rated("document", "original", 0) < 3
    assert set(APPEAL) == {photo.subject for photo in PHOTOGRAPHS}


def test_the_rater_wavers_but_stays_on_the_scale():
    rng = np.random.default_rng(1)
    scores = {scripted_rater(Facts("thing", "blur", 0.3), rng) for _ in range(100)}
    assert 2 <= len(scores) <= 5
    worst = [scripted_rater(Facts("document", "blur", 1.0), rng) for _ in range(100)]
    assert min(worst) == 0 and all(isinstance(score, int) for score in worst)


def test_a_strong_treatment_is_visible_in_the_pixels(library):
    """Blur takes the fine detail away, noise adds it: measured as the mean step between
    neighbouring pixels, within one photograph."""
    detail = {}
    for sample in library[1]:
        if sample.source == "chelsea":
            pixels = np.asarray(decode(sample.path).convert("L"), float)
            detail[sample.treatment, sample.degree] = np.abs(np.diff(pixels, axis=1)).mean()
    originals = [value for (kind, _), value in detail.items() if kind == "original"]
    assert max(v for (kind, d), v in detail.items() if kind == "blur" and d > 0.2) < min(originals)
    assert min(v for (kind, d), v in detail.items() if kind == "noise" and d > 0.2) > max(originals)
