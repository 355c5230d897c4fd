"""Which unlabelled images teach most: pure arrays in, row numbers and reason codes out.

A model that learns only from what it finds best, or only from what it finds doubtful, distorts its
own training set. A batch therefore mixes images drawn at random, more often the more a label of
each would gain at the threshold, and a control drawn uniformly, which alone measures the model
without bias, and, where asked for, images unlike anything labelled (diverse). The caller decides
what may be picked, by boolean masks over the library; nothing outside `candidates` is ever picked
by a rule that looks at the model.

Scores, labels, thresholds and standard deviations are in score units, 0–1. Everything is
deterministic given its seed.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from tastemaker.learning.distances import distance_blocks

Reason = Literal["diverse", "teaching", "control", "suspected_fp", "suspected_fn", "cold_start"]
Side = Literal["fp", "fn"]
Array = NDArray[Any]
Rows = NDArray[np.intp]

# Distances to 3,000 labels for each of 100,000 images cost over a second; a random tenth holds as
# many different images, and costs 0.1 s.
DIVERSITY_SAMPLE = 10_000
ASKED = 2500  # candidates whose gain is worked out, drawn at random where there are more
DOUBTFUL_SAMPLE = 250  # images, of those in most doubt, that stand for all that a label can gain
FIRST_LABELS = 25  # drawn at random, so that rates can be told from sixty labels on
SHARPNESS = 4.0  # how strongly a draw prefers what gains more


@dataclass(frozen=True)
class Mix:
    """Shares of a batch; they need not add up to 1.

    The replay chose them (docs/decisions/0010). Most are drawn by what a label of each would gain
    at the threshold. One in five is control: it measures the versions. Diverse images (LCMD) have
    no share of their own; they stand in where too few images are left to draw from.
    """

    diverse: float = 0.0
    threshold: float = 0.8
    control: float = 0.2

    @classmethod
    def after(cls, labels: int, from_prior: bool = False) -> "Mix":
        """The shares once there are so many labels. The first ones are control: they teach as much
        as any, and measure the first version (docs/decisions/0026, 0037). A model that starts from
        priors knows what to ask before, and picks four in ten."""
        if labels >= FIRST_LABELS:
            return cls()
        return cls(0.0, 0.4, 0.6) if from_prior else cls(0.0, 0.0, 1.0)

    def counts(self, total: int) -> dict[Reason, int]:
        """`total` images in these shares, by largest remainder."""
        shares = np.array([self.diverse, self.threshold, self.control], float)
        if shares.min() < 0 or not shares.sum() > 0:
            raise ValueError(f"shares must be positive: {self}")
        exact = total * shares / shares.sum()
        counts = np.floor(exact).astype(int)
        counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
        diverse, teaching, control = counts.tolist()
        return {"diverse": diverse, "teaching": teaching, "control": control}


@dataclass(frozen=True)
class Pick:
    """One image of a batch: its row in the library and why it is shown."""

    row: int
    reason: Reason


@dataclass(frozen=True)
class Suspects:
    """Unlabelled images that are probably on the other side of the threshold, likeliest first.

    `probability` (m,) that the label is on the other side; `neighbour` (m,) is the library row of
    the nearest labelled image, and `closeness` how near it is: 1 for an exact twin, 0.14 at the
    usual distance between neighbours, 0 for a stranger.
    """

    rows: Rows
    probability: Array
    neighbour: Rows
    closeness: Array


def mixed(
    features: Array,
    candidates: Array,
    control: Array,
    count: int,
    *,
    labelled: Array,
    scores: Array | None,
    sd: Array | None,
    penalty: float | None = None,
    threshold: float = 0.5,
    mix: Mix | None = None,
    sharpness: float = SHARPNESS,
    seed: int = 0,
) -> list[Pick]:
    """A batch of up to `count` different images, in an order that tells nothing.

    `features` (N, k) as in `posterior.Projection`; `candidates` and `control` (N,) are boolean
    masks and may overlap; `labelled` are the rows that have a label; `scores`, `sd` (N,) and
    `penalty` come from the live model, None while there is none: then a cold start stands in for
    all but the control. A model without a label starts from priors, and draws near the threshold.
    Teaching images are drawn with p ∝ gain^sharpness (see `gains`).
    Where control or teaching run short, diverse images make up for it, and control for those.
    """
    quota = (mix or Mix()).counts(count)
    # The control has its own stream: it is the same draw whatever the model says.
    control_rng, teaching_rng, diverse_rng, order_rng = np.random.default_rng(seed).spawn(4)
    free = np.array(candidates, bool)
    picks: list[Pick] = []

    def take(rows: Rows, reason: Reason) -> None:
        picks.extend(Pick(int(row), reason) for row in rows)
        free[rows] = False

    shuffled = control_rng.permutation(np.flatnonzero(control))
    take(shuffled[: quota["control"]], "control")

    if scores is None or sd is None or penalty is None:
        take(cold_start(features, free, count - len(picks), diverse_rng), "cold_start")
    elif len(labelled) == 0:
        left = count - len(picks)
        take(near_threshold(scores, sd, free, left, threshold, teaching_rng), "teaching")
    else:

        def known() -> Rows:  # what is labelled, or will be when it has been shown
            return np.concatenate([labelled, [pick.row for pick in picks]]).astype(np.intp)

        if quota["teaching"]:
            rows = _sample(np.flatnonzero(free), ASKED, teaching_rng)
            gain = gains(
                features, known(), scores, sd, rows, teaching_rng,
                penalty=penalty, threshold=threshold,
            )  # fmt: skip
            keys = sharpness * np.log(gain) + teaching_rng.gumbel(size=len(rows))
            take(rows[np.argsort(-keys, kind="stable")[: quota["teaching"]]], "teaching")
        take(diverse(features, known(), free, count - len(picks), diverse_rng), "diverse")

    if len(picks) < count:
        taken = {pick.row for pick in picks}
        more = [row for row in shuffled if row not in taken]
        take(np.array(more[: count - len(picks)], np.intp), "control")
    return [picks[i] for i in order_rng.permutation(len(picks))]


def gains(
    features: Array,
    labelled: Rows,
    scores: Array,
    sd: Array,
    rows: Rows,
    rng: np.random.Generator,
    *,
    penalty: float,
    threshold: float,
) -> Array:
    """What a label of each of `rows` would gain at the threshold: (m,), > 0, in score units.

    An image on the wrong side of the threshold costs its distance from it. A ridge of this penalty
    on the labelled rows has the posterior covariance S = (ZᵀZ + λ)⁻¹ in units of the noise σ (see
    `posterior.posterior_sd`), so a label at x moves the prediction f of x' by a normal amount of
    standard deviation s = σ |xᵀSx'| ÷ √(1 + xᵀSx). What that is expected to save is s·ψ(|f − t|/s)
    with ψ(u) = φ(u) − u·Φ(−u): the knowledge gradient (Frazier, Powell & Dayanik 2008), averaged
    here over images in doubt. A stranger gains little, for it speaks for no one else; nor does the
    twin of a labelled image, nor one that resembles only what is certain.
    """
    centre = features[labelled].mean(0)
    known = (features[labelled] - centre).astype(np.float64)
    precision = known.T @ known
    precision[np.diag_indices_from(precision)] += penalty
    covariance = np.linalg.inv(precision).astype(np.float32)

    distance = np.abs(scores - threshold).astype(np.float32)
    in_doubt = np.argsort(distance / sd, kind="stable")[: -(-len(scores) // 2)]
    others = _sample(in_doubt, DOUBTFUL_SAMPLE, rng)
    noise = np.float32(np.sqrt(np.mean(np.square(sd, dtype=np.float64))))

    x = features[rows] - centre
    seen = x @ covariance
    own = np.einsum("ij,ij->i", seen, x)
    moved = np.abs(seen @ (features[others] - centre).T)
    moved *= (noise / np.sqrt(1 + own))[:, None]
    np.maximum(moved, np.float32(1e-9), out=moved)
    away = np.minimum(distance[others] / moved, np.float32(8))
    saved = moved * (np.exp(-(away**2) / 2) * np.float32(0.3989423) - away * ndtr(-away))
    gained: Array = np.maximum(saved.mean(1), 1e-30)
    return gained


def near_threshold(
    scores: Array,
    sd: Array,
    candidates: Array,
    count: int,
    threshold: float,
    rng: np.random.Generator,
    *,
    width: float = 0.15,
    floor: float = 0.01,
) -> Rows:
    """Up to `count` candidates drawn without replacement, p ∝ exp(−z²/2·width²) + floor
    with z = (score − threshold)/sd.

    Adding Gumbel noise to the log weights and keeping the top is the same as drawing one after
    another (Efraimidis & Spirakis 2006; Kool et al. 2019).
    """
    rows = np.flatnonzero(candidates)
    if count <= 0 or len(rows) == 0:
        return rows[:0]
    z = (scores[rows] - threshold) / sd[rows]
    far = np.log(floor) if floor > 0 else -np.inf
    keys = np.logaddexp(-(z**2) / (2 * width**2), far) + rng.gumbel(size=len(rows))
    return rows[np.argsort(-keys, kind="stable")[:count]]


def diverse(
    features: Array,
    centres: Array,
    candidates: Array,
    count: int,
    rng: np.random.Generator,
    *,
    sample: int = DIVERSITY_SAMPLE,
) -> Rows:
    """Up to `count` candidates by largest-cluster maximum distance (LCMD; Holzmüller et al. 2023).

    Every candidate belongs to its nearest centre (row numbers of labelled and picked images). The
    next pick is the farthest member of the cluster with the largest sum of squared distances, and
    becomes a centre itself. Looks at a random `sample` of the candidates.
    """
    if count <= 0:
        return np.empty(0, np.intp)
    rows = _sample(np.flatnonzero(candidates), sample, rng)
    count = min(count, len(rows))
    if count == 0:
        return rows
    if len(centres) == 0:
        return cold_start(features, candidates, count, rng, sample=sample)
    points = np.asarray(features[rows], np.float32)
    nearest, distance = _nearest(points, np.asarray(features[centres], np.float32))
    sums = np.bincount(nearest, distance, minlength=len(centres) + count)
    squares = np.square(points).sum(1)
    left = np.ones(len(rows), bool)

    picked = np.empty(count, np.intp)
    for i in range(count):
        members = np.flatnonzero((nearest == np.argmax(sums)) & left)
        if len(members) == 0:  # only copies of centres are left
            members = np.flatnonzero(left)
        farthest = members[np.argmax(distance[members])]
        picked[i], left[farthest] = farthest, False

        to_new = np.maximum(squares + squares[farthest] - 2 * (points @ points[farthest]), 0)
        moved = to_new < distance
        nearest[moved], distance[moved] = len(centres) + i, to_new[moved]
        distance[farthest] = 0.0
        sums = np.bincount(nearest, distance, minlength=len(sums))
    return rows[picked]


def cold_start(
    features: Array,
    candidates: Array,
    count: int,
    rng: np.random.Generator,
    *,
    sample: int = DIVERSITY_SAMPLE,
) -> Rows:
    """Up to `count` candidates to begin with, when nothing is labelled: the most central image of
    each k-means cluster, largest cluster first. Looks at a random `sample` of the candidates."""
    rows = _sample(np.flatnonzero(candidates), sample, rng)
    count = min(count, len(rows))
    if count <= 0:
        return np.empty(0, np.intp)
    points = np.asarray(features[rows], np.float32)
    middles = points[rng.choice(len(points), count, replace=False)]
    for _ in range(8):  # the clusters need only be sensible, not converged
        nearest, distance = _nearest(points, middles)
        sizes = np.bincount(nearest, minlength=count)
        sums = np.zeros((count, points.shape[1]), np.float32)
        np.add.at(sums, nearest, points)
        filled = sizes > 0
        middles[filled] = sums[filled] / sizes[filled, None]

    nearest, distance = _nearest(points, middles)
    by_distance = np.argsort(distance, kind="stable")
    clusters, first = np.unique(nearest[by_distance], return_index=True)
    medoids = by_distance[first]
    medoids = medoids[np.argsort(-np.bincount(nearest)[clusters], kind="stable")]
    others = rng.permutation(np.setdiff1d(np.arange(len(rows)), medoids))  # for empty clusters
    chosen: Rows = rows[np.concatenate([medoids, others])[:count]]
    return chosen


def suspected(
    side: Side,
    features: Array,
    scores: Array,
    sd: Array,
    candidates: Array,
    *,
    labelled: Array,
    labels: Array,
    threshold: float = 0.5,
    limit: int = 200,
) -> Suspects:
    """Unlabelled false positives ("fp": predicted pass) or negatives ("fn") that the evidence
    points to, likeliest first, at most `limit`.

    The prediction f ± sd of an image is corrected by its nearest labelled image, whose label y'
    the same fit misses by y' − f': at closeness c = exp(−2 (d/m)²), with d its distance and m the
    median distance between labelled neighbours, the label is expected at f + c (y' − f'), give or
    take sd √(1 − c²/2). So an image predicted at 78 % beside a twin scored 2 is suspected, and a
    merely doubtful image less so.
    """
    predicted_pass = scores >= threshold
    rows = np.flatnonzero(candidates & (predicted_pass if side == "fp" else ~predicted_pass))
    labelled, labels = np.asarray(labelled, np.intp), np.asarray(labels, np.float64)
    if len(rows) == 0 or len(labelled) == 0:
        none = np.empty(0)
        return Suspects(rows[:0], none, rows[:0], none)

    known = np.asarray(features[labelled], np.float32)
    nearest, distance = _nearest(np.asarray(features[rows], np.float32), known)
    closeness = np.exp(-2 * distance / _usual_square(known))
    surprise = labels[nearest] - scores[labelled[nearest]]
    expected = scores[rows] + closeness * surprise
    z = (expected - threshold) / (sd[rows] * np.sqrt(1 - closeness**2 / 2))
    probability = ndtr(-z if side == "fp" else z)
    best = np.argsort(-probability, kind="stable")[:limit]
    return Suspects(
        rows=rows[best],
        probability=probability[best],
        neighbour=labelled[nearest[best]],
        closeness=closeness[best],
    )


def disagreements(
    side: Side,
    out_of_group: Array,
    labels: Array,
    uncertainty: Array | float,
    *,
    threshold: float = 0.5,
) -> Rows:
    """Positions among the labelled images that the model gets wrong, worst first.

    False positive: label < threshold ≤ prediction; false negative: prediction < threshold ≤ label;
    ranked by |prediction − label| / uncertainty. The predictions must never have seen the label.
    """
    passed, truth = out_of_group >= threshold, labels >= threshold
    wrong = np.flatnonzero(passed & ~truth if side == "fp" else ~passed & truth)
    size = (np.abs(out_of_group - labels) / uncertainty)[wrong]
    return wrong[np.argsort(-size, kind="stable")]


def _sample(rows: Rows, count: int, rng: np.random.Generator) -> Rows:
    return rows if len(rows) <= count else np.sort(rng.choice(rows, count, replace=False))


def _nearest(points: Array, centres: Array) -> tuple[Rows, Array]:
    """Index of the nearest centre and the squared distance to it, per point."""
    nearest, distance = np.empty(len(points), np.intp), np.empty(len(points), np.float32)
    for rows, block in distance_blocks(points, centres):
        nearest[rows] = block.argmin(1)
        # Anew for the winner: the expanded square cancels badly for twins.
        distance[rows] = np.square(points[rows] - centres[nearest[rows]]).sum(1)
    return nearest, distance


def _usual_square(known: Array) -> float:
    """Squared median distance from a labelled image to its nearest labelled neighbour."""
    if len(known) < 2:
        return 1.0
    nearest = np.square(known).sum(1)
    for rows, block in distance_blocks(known, known):
        np.fill_diagonal(block[:, rows], np.inf)  # not its own neighbour
        nearest[rows] += block.min(1)
    return max(float(np.median(nearest)), 1e-12)
