"""Pairs, sweeps and repeats in one likelihood with the scores: the mathematics, then from what a
person says to the live order and to a published version."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import norm, spearmanr
from sqlmodel import col, select
from threadpoolctl import threadpool_limits
from trained_world import TASTE, Trained, open_trained, trained_home, vectors

from tastemaker import projects, scores
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Image, ScoreEvent, VersionAnswer
from tastemaker.learning.answers import (
    BAND,
    Answers,
    Likelihood,
    answers_about,
    even_band,
    find_sites,
)
from tastemaker.learning.folds import TrainingSet
from tastemaker.learning.prior import Link
from tastemaker.learning.recipes import recipe_named
from tastemaker.learning.ridge import fit_ridge, half_scale, to_link
from tastemaker.learning.subspace import principal_axes
from tastemaker.learning.training import train
from tastemaker.learning.updating import ask, learn
from tastemaker.library import bulk, duplication
from tastemaker.live import model_process
from tastemaker.live.live_model import LiveModel, read_live
from tastemaker.live.project_state import ProjectState, stamp_of
from tastemaker.scores import Origin, answer_files, comparisons, score_files
from tastemaker.scores.answers import Answer, answers_at, highest_comparison
from tastemaker.scores.score_files import BadRows
from tastemaker.versions import deletion, version_report

NAN = np.nan


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the live process: a second one waits more than it computes."""
    with threadpool_limits(1):
        yield


class Taste:
    """400 pictures, what somebody scores them, and which of two they find better."""

    def __init__(self, seed: int, features: int = 60) -> None:
        rng = np.random.default_rng(seed)
        self.rng = rng
        x = rng.normal(size=(400, features)) * np.linspace(1.5, 0.2, features)
        self.x: NDArray[np.float32] = x.astype(np.float32)
        line = self.x @ rng.normal(size=features)
        self.own = line / line.std() + 0.4 * rng.normal(size=400)
        points = np.round(5 + 2 * self.own + 0.5 * rng.normal(size=400))
        self.y = np.clip(points, 0, 10) / 10
        self.groups = np.arange(400)

    def pairs(self, count: int, most: int = 300) -> Answers:
        first = self.rng.integers(0, most, count)
        second = (first + self.rng.integers(1, most, count)) % most
        noise = 0.3 * self.rng.normal(size=(2, count))
        won = self.own[first] + noise[0] > self.own[second] + noise[1]
        return self.said(first, second, won)

    def said(self, first, second, share, bound=None) -> Answers:
        bound = np.full(len(first), NAN) if bound is None else bound
        return answers_about(self.x, self.groups, first, second, share, bound)

    def sweep(self, rows: NDArray[np.intp], bound: float) -> Answers:
        none = np.full(len(rows), -1)
        return self.said(rows, none, self.y[rows] > bound, np.full(len(rows), bound))

    def order(self, n: int, answers: Answers | None, link: Link = "identity") -> float:
        """Rank correlation on the 100 pictures of which nothing was said."""
        rows = slice(0, n)
        fit = fit_ridge(
            self.x[rows], self.y[rows], self.groups[rows], link=link, answers=answers
        )  # fmt: skip
        return float(spearmanr(fit.predict(self.x[300:]), self.y[300:])[0])


# --- the posterior -------------------------------------------------------------------------------


def test_the_sites_are_close_to_the_exact_posterior() -> None:
    """Two values that are normal together, a pair about their difference, a sweep about one and an
    older score of the other: against the sum over a fine grid."""
    mean, half = np.array([0.5, 0.6]), np.array([[0.02, 0.005], [0.005, 0.03]])
    about = np.array([[1.0, -1.0], [1.0, 0.0], [0.0, 1.0]])
    said = Likelihood(
        offset=np.array([0.0, 0.55, 0.7]), share=np.array([1.0, 1.0, NAN]),
        sd=np.array([0.15, 0.1, 0.1]), band=np.zeros(3),
    )  # fmt: skip
    grid = np.linspace(-0.6, 1.7, 600)
    values = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    u = values @ about.T
    z = (u - said.offset) / said.sd
    log = norm.logcdf(z[:, 0]) + norm.logcdf(z[:, 1]) + norm.logpdf(z[:, 2], 0, 1)
    log -= np.log(said.sd[2])
    away = values - mean
    log -= 0.5 * np.einsum("ij,jk,ik->i", away, np.linalg.inv(half), away)
    log -= 0.5 * np.log(np.linalg.det(2 * np.pi * half))
    mass = np.exp(log) * (grid[1] - grid[0]) ** 2
    exact = (mass[:, None] * values).sum(0) / mass.sum()

    sites = find_sites(about @ mean, about @ half @ about.T, said)
    approximate = mean + half @ about.T @ sites.slope
    sd = np.sqrt((mass[:, None] * (values - exact) ** 2).sum(0) / mass.sum())
    assert (abs(approximate - exact) < 0.2 * sd).all()  # the mode, for the mean
    assert (abs(exact - mean) > 0.5 * sd).any()  # the answers say something
    assert sites.evidence == pytest.approx(np.log(mass.sum()), abs=0.06)


def test_what_can_be_answered_has_probability_one_and_slopes_are_slopes() -> None:
    u = np.linspace(-3, 3, 61)

    def logs(share: float, at: NDArray[np.float64] = u) -> tuple[NDArray[np.float64], ...]:
        one = np.ones(len(u))
        return Likelihood(0.2 * one, share * one, 0.7 * one, BAND * one).at(at)

    total = sum(np.exp(logs(share)[0]) for share in (0.0, 0.5, 1.0))
    assert total == pytest.approx(np.ones(61))
    for share in (0.0, 0.5, 1.0):
        above, below = (logs(share, u + step)[0] for step in (1e-4, -1e-4))
        value, slope, fall = logs(share)
        assert slope == pytest.approx((above - below) / 2e-4, abs=1e-6)
        assert fall == pytest.approx((2 * value - above - below) / 1e-8, abs=1e-4)
        assert (fall > 0).all()
    far = Likelihood(*(np.array([v] * 2) for v in (0.0, 0.5, 1.0, BAND))).at(np.array([-40, 40]))
    assert all(np.isfinite(part).all() for part in far)


@pytest.mark.parametrize("shape", [(30, 6), (12, 40)], ids=["primal", "dual"])
def test_the_weights_are_the_mode_of_the_whole_likelihood(shape: tuple[int, int]) -> None:
    n, features = shape
    taste = Taste(1, features)
    first, second = np.array([0, 50, 60, 61, 3]), np.array([51, 1, -1, -1, -1])
    answers = taste.said(
        first, second, np.array([1.0, 0.5, 1.0, 0.0, NAN]), np.array([NAN, NAN, 0.6, 0.4, 0.7])
    )
    x, y = taste.x[:n], taste.y[:n]
    mean, scale = x.mean(0), half_scale(x)
    rows, penalty, noise = (x - mean) / scale, 0.5, 0.2
    z, eigenvalues, to_weights = principal_axes(rows)
    start = to_weights(z.T @ (y - y.mean()) / (eigenvalues + penalty))
    asked = ask(answers, answers.bound, rows, z, eigenvalues, mean, scale)
    learned = learn(
        asked, z, eigenvalues, taste.groups[:n], to_weights=to_weights, weights=start,
        level=float(y.mean()), penalty=penalty, noise=noise,
        residuals=y - rows @ start - y.mean(),
    )  # fmt: skip

    u, level = asked.u.astype(np.float64), asked.level
    ratio = np.where(level == 0, learned.ratios[0] * np.sqrt(2), learned.ratios[1])
    ratio[4] = learned.ratios[3]
    offset, band = np.nan_to_num(answers.bound), even_band(answers) * (level == 0)
    likelihood = Likelihood(offset, answers.share, ratio * noise, band)

    def cost(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights, bias = parameters[:-1], parameters[-1]
        missed = y - rows @ weights - bias
        value, slope, _ = likelihood.at(u @ weights + bias * level)
        total = (missed @ missed + penalty * weights @ weights) / (2 * noise**2) - value.sum()
        down = (penalty * weights - rows.T @ missed) / noise**2 - u.T @ slope
        return total, np.append(down, -missed.sum() / noise**2 - slope @ level)

    best = minimize(cost, np.zeros(features + 1), jac=True, options={"gtol": 1e-7}).x
    assert np.append(learned.weights, learned.level) == pytest.approx(best, abs=2e-3)
    assert abs(best[:-1] - start).max() > 0.02


def test_a_label_is_judged_by_a_fit_that_saw_neither_it_nor_an_answer_about_it() -> None:
    taste = Taste(2)
    taste.groups = np.arange(400) // 2  # two pictures of each source
    answers, n = taste.pairs(150, most=60), 60
    settled: dict[str, Any] = {"link": "identity", "penalties": [0.5]}
    whole = fit_ridge(taste.x[:n], taste.y[:n], taste.groups[:n], answers=answers, **settled)
    apart = []
    for group in range(6):
        inside = taste.groups[:n] == group
        rest = answers.only(~answers.touching(np.array([group])))
        without = fit_ridge(
            taste.x[:n][~inside], taste.y[:n][~inside], taste.groups[:n][~inside], answers=rest,
            scale=whole.scale, **settled,
        )  # fmt: skip
        apart.append(whole.out_of_group[inside] - without.predict(taste.x[:n][inside]))
    assert np.abs(apart).max() < 0.03  # the noise of a refit is not quite the same
    alone = fit_ridge(taste.x[:n], taste.y[:n], taste.groups[:n], **settled)
    assert np.abs(whole.out_of_group - alone.out_of_group).max() > 0.1


# --- what it brings ------------------------------------------------------------------------------


@pytest.mark.parametrize("link", get_args(Link))
def test_pairs_and_sweeps_teach(link: Link) -> None:
    tastes = [Taste(seed) for seed in range(6)]
    alone = np.mean([taste.order(10, None, link) for taste in tastes])
    pairs = np.mean([taste.order(10, taste.pairs(80), link) for taste in tastes])
    swept = np.mean([taste.order(10, taste.sweep(np.arange(10, 90), 0.55), link)
                     for taste in tastes])  # fmt: skip
    assert alone < 0.45
    assert pairs > alone + 0.15 and swept > alone + 0.15


def test_scores_that_are_all_the_same_teach_with_pairs() -> None:
    taste = Taste(3)
    taste.y[:5] = 0.7
    assert taste.order(5, taste.pairs(100)) > 0.4


def test_an_older_score_of_the_same_picture_moves_it_half_the_way_at_most() -> None:
    taste = Taste(4)
    n, row = 40, np.array([5])
    again = taste.said(row, np.array([-1]), np.array([NAN]), np.array([taste.y[5] - 0.4]))
    settled: dict[str, Any] = {"link": "identity", "penalties": [0.5]}
    fits = [fit_ridge(taste.x[:n], taste.y[:n], answers=a, **settled) for a in (None, again)]
    before, after = (float(fit.predict(taste.x[row])[0]) for fit in fits)
    assert before - 0.2 < after < before - 0.01


def test_without_answers_not_a_bit_changes() -> None:
    taste = Taste(5)
    none = taste.pairs(3).only(np.zeros(3, bool))
    fits = [fit_ridge(taste.x[:50], taste.y[:50], answers=a) for a in (None, none)]
    assert (fits[0].weights == fits[1].weights).all() and fits[0].bias == fits[1].bias
    assert (fits[0].out_of_group == fits[1].out_of_group).all()


# --- contradictions ------------------------------------------------------------------------------


def test_contradictory_pairs_are_noise_that_is_learned() -> None:
    """A circle, a pair answered both ways, a pair of the same picture, and all of them many times:
    nothing breaks, and an answer counts for less than where they agree."""
    taste = Taste(6)
    best = np.argsort(-taste.own[:60])
    a, b, c, d = best[[0, 20, 40, 50]].tolist()
    circle = [(a, b), (b, c), (c, a), (d, a), (a, d), (b, b)] * 8
    agree = [(a, b), (b, c), (a, c), (a, d), (a, d), (b, d)] * 8
    fits = []
    for pairs in (circle, agree):
        first, second = np.array(pairs).T
        said = taste.said(first, second, np.ones(len(first)))
        fits.append(fit_ridge(taste.x[:60], taste.y[:60], link="identity", answers=said))
    assert all(np.isfinite(fit.predict(taste.x)).all() for fit in fits)
    assert np.mean(fits[0].answer_weights) < 0.5 * np.mean(fits[1].answer_weights)
    alone = fit_ridge(taste.x[:60], taste.y[:60], link="identity")
    circled, clean = (
        spearmanr(f.predict(taste.x[300:]), taste.y[300:])[0] for f in (fits[0], alone)
    )
    assert circled > clean - 0.03


# --- in a training -------------------------------------------------------------------------------


def data_of(taste: Taste, n: int, answers: Answers | None) -> TrainingSet:
    holdout = np.zeros(n, bool)
    holdout[::5] = True
    return TrainingSet(
        image_ids=np.arange(n), x=taste.x[:n], y=taste.y[:n].astype(np.float32),
        groups=taste.groups[:n], holdout=holdout, answers=answers,
    )  # fmt: skip


def same(one: dict[str, NDArray[np.float32]], other: dict[str, NDArray[np.float32]]) -> bool:
    return all((one[name] == other[name]).all() for name in one)


def test_no_pair_with_a_held_out_picture_or_its_twin_trains() -> None:
    taste = Taste(7)
    taste.x[200] = taste.x[5]  # without a label, the picture of a held-out one
    first, second = np.array([5, 1, 200, 10]), np.array([6, 10, 7, -1])
    held = taste.said(first, second, np.ones(4), np.array([NAN, NAN, NAN, 0.5]))
    whole = taste.said(
        [*first, 2, 210], [*second, 3, 211], np.ones(6), [NAN, NAN, NAN, 0.5, NAN, NAN]
    )
    free = taste.said([2, 210], [3, 211], np.ones(2))
    ridge = recipe_named("ridge")
    without, with_held, everything, kept = (
        train(data_of(taste, 40, answers), ridge) for answers in (None, held, whole, free)
    )
    assert same(without.tensors, with_held.tensors) and with_held.metrics.answers is None
    assert same(kept.tensors, everything.tensors)
    assert everything.metrics.answers is not None and everything.metrics.answers.pairs == 2
    assert not same(without.tensors, kept.tensors)


def test_a_fold_is_judged_by_a_member_that_saw_no_answer_about_it() -> None:
    taste = Taste(8)
    data = data_of(taste, 60, taste.pairs(120, most=120))
    ridge = recipe_named("ridge")
    trained = train(data, ridge)
    k = int(trained.split.fold.max())
    assert trained.split.answers is not None and data.answers is not None
    inside = trained.split.fold == k
    about = data.answers.touching(data.groups[inside])
    turned = replace(
        data.answers, share=np.where(about, 1 - data.answers.share, data.answers.share)
    )
    other = train(replace(data, answers=turned), ridge)
    strangers = taste.x[300:]
    assert (trained.members[k](strangers) == other.members[k](strangers)).all()
    assert not (trained.members[0](strangers) == other.members[0](strangers)).all()
    # A picture that only pairs speak of has a fold too: whoever scores it later is not flattered.
    unlabelled = np.unique(data.answers.groups[data.answers.groups >= 60])
    assert len(unlabelled) and set(unlabelled.tolist()) <= trained.fold_of_group.keys()


def test_a_picture_that_only_pairs_speak_of_is_judged_with_its_labelled_twin() -> None:
    taste = Taste(11)
    taste.x[200], taste.x[201] = taste.x[7], taste.x[5]  # pictures 0, 5, … are held out
    said = taste.said([200, 201, 210], [8, 9, 11], np.ones(3))
    trained = train(data_of(taste, 40, said), recipe_named("ridge"))
    assert trained.fold_of_group[200] == trained.split.fold[7] >= 0
    assert 210 in trained.fold_of_group and 201 not in trained.fold_of_group


def test_a_training_learns_from_pairs_and_says_from_how_many() -> None:
    taste = Taste(9)
    data = data_of(taste, 20, taste.pairs(150))
    errors = []
    for answers in (None, data.answers):
        trained = train(replace(data, answers=answers), recipe_named("auto"))
        said = trained.predict(taste.x[300:], np.full(100, -1))[0]
        errors.append(spearmanr(said, taste.y[300:])[0])
    assert errors[1] > errors[0] + 0.1
    used = trained.metrics.answers
    assert used is not None and used.sweeps == used.repeats == 0 < used.pairs < 150
    assert trained.metrics.as_json()["answers"]["pairs"] == used.pairs


def test_the_bound_of_a_sweep_is_in_units_of_the_link() -> None:
    """The same sweep through either link: what is at least 8 is predicted higher than before."""
    taste = Taste(10)
    low = np.argsort(taste.y[40:200])[:30] + 40
    none = np.full(30, -1)
    above = taste.said(low, none, np.ones(30), np.full(30, 0.75))
    for link in get_args(Link):
        fits = [fit_ridge(taste.x[:40], taste.y[:40], link=link, answers=a) for a in (None, above)]
        before, after = (fit.predict(taste.x[low]).mean() for fit in fits)
        assert after > before + 0.05
        assert to_link(np.array([0.75]), link)[0] > to_link(np.array([0.5]), link)[0]


# --- what was said, as the database holds it -----------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Trained]:
    made = open_trained(trained_home(tmp_path / "home"))
    yield made
    made.engine.dispose()


def test_what_stands_is_an_answer_and_what_was_taken_back_or_out_is_none(home: Trained) -> None:
    strangers = home.add(2, "Skipped", "pool", seed=3)
    with writing(home.engine) as session:
        project, me = home.project(session), projects.annotator(session, "me")

        def say(image_id: int, kind: str, value: int, origin: Origin = Origin.QUEUE) -> None:
            scores.record(session, project, image_id, me, kind, value, origin=origin)

        comparisons.record(session, project, me, 1, 2, "second")
        before = highest_comparison(session, project), scores.highest_event(session, project)
        comparisons.record(session, project, me, 3, 4, "first")
        comparisons.undo(session, project, me)
        comparisons.record(session, project, me, 5, 6, "equal")
        comparisons.record(session, project, me, 7, 8, "first")
        bulk.remove(session, project, [7])
        say(11, "at_least", 5)
        say(11, "below", 9)
        say(12, "at_least", 5)
        say(12, "set", 3)  # which says more
        say(13, "below", 4)
        scores.undo(session, project, me)
        first, second = strangers
        for image_id, kinds in ((first, ("skip", "skip")), (second, ("skip", "set"))):
            for kind in kinds:
                value = 4 if kind == "set" else None
                scores.record(session, project, image_id, me, kind, value)
        said = answers_at(session, project)
        assert said == [
            Answer(1, 2, 0.0), Answer(5, 6, 0.5),
            Answer(11, None, 1.0, 0.45), Answer(11, None, 0.0, 0.85),
            Answer(first, None, 0.5, project.threshold),
        ]  # fmt: skip
        assert answers_at(session, project, before[1], before[0]) == [Answer(1, 2, 0.0)]


def test_a_blind_second_score_keeps_the_first_as_a_measurement_and_a_correction_does_not(
    home: Trained,
) -> None:
    with writing(home.engine) as session:
        project, me = home.project(session), projects.annotator(session, "me")
        for image_id, value, origin in (
            (21, 7, Origin.QUEUE), (21, 5, Origin.RE_ASK), (21, 6, Origin.RE_ASK),
            (22, 7, Origin.QUEUE), (22, 5, Origin.RE_ASK), (22, 2, Origin.REVIEW),
            (23, 7, Origin.REVIEW), (23, 5, Origin.RE_ASK),
        ):  # fmt: skip
            scores.record(session, project, image_id, me, "set", value, origin=origin)
        repeats = {21: [0.7, 0.5], 22: [], 23: []}
        for image_id, bounds in repeats.items():
            found = [a.bound for a in answers_at(session, project) if a.first_id == image_id]
            assert found == bounds


def test_the_newest_answers_are_the_newest_of_every_kind(home: Trained) -> None:
    with writing(home.engine) as session:
        project, me = home.project(session), projects.annotator(session, "me")
        sweeps = [
            scores.record(session, project, image_id, me, "at_least", 5, at=at)
            for image_id, at in ((31, at_hour(2)), (30, at_hour(4)))
        ]
        assert all(sweep.fresh for sweep in sweeps)
        for image_id, hour in ((1, 1), (3, 5), (5, 3)):
            pair = comparisons.record(session, project, me, image_id, image_id + 1, "first")
            pair.at = at_hour(hour)
        scores.record(session, project, 20, me, "set", 7, origin=Origin.QUEUE, at=at_hour(6))
        scores.record(session, project, 20, me, "set", 5, origin=Origin.RE_ASK, at=at_hour(7))
        order = [answer.first_id for answer in answers_at(session, project)]
    assert order == [1, 31, 5, 30, 3, 20]


def test_an_answer_of_nobody_in_particular_is_kept_and_teaches_nothing(home: Trained) -> None:
    file = home.settings.root / "answers.csv"
    with reading(home.engine) as session:
        one, two = session.exec(select(Image.sha256).where(col(Image.id).in_((30, 31)))).all()
    row = "better,{one},{two},,{by}\nat_least,{one},,5,{by}\n"
    head = "said,sha256,other_sha256,bound,annotator\n"
    for by, nameless, teach in (("", 2, 0), ("ann", 0, 2)):
        file.write_text(head + row.format(one=one, two=two, by=by))
        told = answer_files.import_answers(home.engine, "Anime", file)
        assert (told.recorded, told.nameless) == (2, nameless)
        with reading(home.engine) as session:
            assert len(answers_at(session, home.project(session))) == teach


def at_hour(hour: int) -> datetime:
    return datetime(2026, 5, 1, hour, tzinfo=UTC)


def pairs_of(ids: list[int], count: int) -> Iterator[dict[str, Any]]:
    """Pairs of images as the API takes them, by the taste of the trained world."""
    rng, x = np.random.default_rng(0), dict(zip(range(1, 81), vectors(80, 1), strict=True))
    for _ in range(count):
        first, second = rng.choice(ids, 2, replace=False).tolist()
        better = "first" if (x[first] - x[second]) @ TASTE > 0 else "second"
        yield {"first_id": first, "second_id": second, "verdict": better}


def live_of(home: Trained) -> LiveModel:
    model_process.refit(home.settings, home.engine, home.project_id)
    live = read_live(home.settings, home.project_id)
    assert live is not None
    return live


def test_pairs_change_the_live_order_and_taking_them_back_restores_it(home: Trained) -> None:
    strangers = home.add(60, "More", "pool", seed=2)
    before = live_of(home)
    with reading(home.engine) as session:
        known = ProjectState(stamp=stamp_of(session, home.project(session)))
    for body in pairs_of(list(range(1, 81)), 60):
        answer = home.world.client.post(f"/api/v1{home.world.at}/comparisons", json=body)
        assert answer.status_code == 200
    with reading(home.engine) as session:
        assert known.is_due(stamp_of(session, home.project(session))), "the process sees it"
    after = live_of(home)
    assert 0 < after.fit.answers < 60, "not those with an image of the hold-out side"
    order, moved = (
        np.array([live.rows["score"][np.isin(live.ids, strangers)]]).ravel()
        for live in (before, after)
    )
    truth = vectors(60, 2) @ TASTE
    assert spearmanr(moved, truth)[0] > spearmanr(order, truth)[0]
    with writing(home.engine) as session:
        for _ in range(60):
            comparisons.undo(session, home.project(session), projects.annotator(session, "me"))
    again = live_of(home)
    assert (again.rows == before.rows).all() and again.fit.answers == 0


def test_a_version_keeps_the_answers_it_learned_from_and_names_them(home: Trained) -> None:
    with writing(home.engine) as session:
        me = projects.annotator(session, "me")
        for body in pairs_of(list(range(1, 81)), 40):
            comparisons.record(session, home.project(session), me, **body)
        scores.record(session, home.project(session), 3, me, "at_least", 1)
    version = home.train()
    with reading(home.engine) as session:
        frozen = session.exec(
            select(VersionAnswer).where(VersionAnswer.version_id == version.id)
        ).all()
        said = answers_at(session, home.project(session))
    assert [(row.first_id, row.second_id, row.share, row.bound) for row in frozen] == said
    used = version.metrics.answers
    assert used is not None and 20 < used.pairs < 40 and used.sweeps == 1
    sentence = version_report.recipe_sentence(version)
    assert f"learned from {used.pairs} pairs and 1 image of a sweep." in sentence
    assert "learned from" not in version_report.recipe_sentence(home.version("v1.0"))
    home.train()  # is the active one, so that this can go
    with writing(home.engine) as session:
        from tastemaker import versions

        versions.activate(session, versions.by_number(session, home.project(session), "v1.0"), "")
    deletion.delete_version(home.settings, home.engine, version.id)
    with reading(home.engine) as session:
        left = select(VersionAnswer).where(VersionAnswer.version_id == version.id)
        assert session.exec(left).first() is None


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_pairs_and_sweeps_come_back_as_they_were_exported(home: Trained, ending: str) -> None:
    with writing(home.engine) as session:
        project, me = home.project(session), projects.annotator(session, "me")
        for verdict in ("first", "second", "equal"):
            comparisons.record(session, project, me, 1, 2, verdict)
        scores.record(session, project, 3, me, "at_least", 5)
        scores.record(session, project, 4, me, "below", 8)
        name = project.name
        duplication.duplicate_project(session, project, "Copy")
        projects.create(session, "Empty")
    file = home.settings.root / f"answers{ending}"
    rows = answer_files.export_answers(home.engine, name)
    score_files.write_scores(rows, file, answer_files.COLUMNS)
    assert [row["said"] for row in rows] == ["better", "better", "even", "at_least", "below"]
    assert answer_files.export_answers(home.engine, "Copy") == rows
    again = answer_files.import_answers(home.engine, "Copy", file)
    assert (again.recorded, again.unchanged) == (0, 5)
    with writing(home.engine) as session:
        copy, me = projects.by_name(session, "Copy"), projects.annotator(session, "me")
        for _ in range(3):
            comparisons.undo(session, copy, me)
        scores.undo(session, copy, me)
    assert answer_files.import_answers(home.engine, "Copy", file).recorded == 4
    assert answer_files.export_answers(home.engine, "Copy") == rows
    with pytest.raises(BadRows, match="5 of the 5 rows") as refused:
        answer_files.import_answers(home.engine, "Empty", file)
    assert len(refused.value.bad) == 5
    assert "not in this project" in str(refused.value)
    assert answer_files.export_answers(home.engine, "Empty") == []


def test_what_is_there_already_is_not_written_again_and_switches_nothing_off(home: Trained) -> None:
    """An image was scored, swept, scored again and swept again; files come back at any time."""
    early, late, scored = (
        home.settings.root / f"{name}.csv" for name in ("early", "late", "scored")
    )
    image = 1

    def said() -> list[tuple[str, int | None]]:
        with reading(home.engine) as session:
            events = scores.standing_events().where(ScoreEvent.image_id == image)
            return [(e.kind, e.value) for e in session.exec(events.order_by(ScoreEvent.id))]

    def says(kind: str, value: int) -> None:
        with writing(home.engine) as session:
            me = projects.annotator(session, "me")
            scores.record(session, home.project(session), image, me, kind, value)

    with reading(home.engine) as session:
        name = home.project(session).name
    says("set", 6)
    says("at_least", 5)
    score_files.write_scores(
        answer_files.export_answers(home.engine, name), early, answer_files.COLUMNS
    )
    says("set", 7)
    assert answer_files.export_answers(home.engine, name) == [], "the score says more"
    says("at_least", 6)
    says("below", 9)
    rows = answer_files.export_answers(home.engine, name)
    assert [(row["said"], row["bound"]) for row in rows] == [("at_least", 6), ("below", 9)]
    score_files.write_scores(rows, late, answer_files.COLUMNS)
    score_files.write_scores(score_files.export_scores(home.engine, name), scored)
    before = said()
    for file, many in ((early, 1), (late, 2)):
        told = answer_files.import_answers(home.engine, name, file)
        assert (told.recorded, told.unchanged) == (0, many)
    assert score_files.import_scores(home.engine, name, scored).recorded == 0
    assert said() == before
    says("set", 3)
    assert score_files.import_scores(home.engine, name, scored).recorded == 0, "it is the same 7"
    scored.write_text(f"sha256,score,annotator\n{rows[0]['sha256']},7,me\n")
    assert score_files.import_scores(home.engine, name, scored).recorded == 1, "a 7 of today"


def test_a_file_with_a_bad_answer_changes_nothing_and_every_bad_row_is_named(
    home: Trained,
) -> None:
    file = home.settings.root / "answers.csv"
    with reading(home.engine) as session:
        one, two = session.exec(select(Image.sha256).where(col(Image.id) <= 2)).all()
    file.write_text(
        f"said,sha256,other_sha256,bound\nbetter,{one},{two},\nbetter,{one},{one},\n"
        f"liked,{one},,\nat_least,{one},,0\nbelow,{one},,11\neven,{one},,\n"
    )
    with pytest.raises(BadRows) as caught:
        answer_files.import_answers(home.engine, "Anime", file)
    assert len(caught.value.bad) == 5
    assert "--skip-bad-rows" not in str(caught.value), "all or nothing"
    assert answer_files.export_answers(home.engine, "Anime") == []
