"""What a version records of its training: the recipe, the loss curve, and what was measured.

Errors (`mae`, differences of errors, `bias`) are in points of 0-10; scores, shares and rates are in
0-1. Every measured number is an `Estimate`, which carries its interval and its n. Versions of
earlier releases lack some numbers: those fields are unset and come out of `as_json` as little as
they went in.

`as_json` is the form that programs rely on: an estimate `mae` is written there as `mae`, `mae_low`,
`mae_high` and `mae_n`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

if TYPE_CHECKING:
    from tastemaker.learning.answers import Answers

Verdict = Literal["better", "worse", "no difference shown"]
MeasuredOn = Literal["holdout", "random_sample", "out_of_fold", "all_labels"]

ENOUGH_HELD_OUT = 50  # hold-out labels from which on they give the numbers in front
ENOUGH_DRAWN = 20  # labels of the random sample, from which on it is worth more than all labels
ENOUGH_FOR_RATES = 30  # labels below which an error is told, and no rate, correlation or curve
ENOUGH_FOR_ONE_RATE = 10  # images that a rate is a share of, at least


class LossCurve(TypedDict, total=False):
    """Columns over the steps of the training; None where nothing was measured at a step."""

    step: list[float]
    train: list[float | None]
    validation: list[float | None]
    lr: list[float | None]


class StoredRecipe(TypedDict, total=False):
    """What was trained and how (see `recipes.Recipe`), and why; or the file that was imported."""

    name: str
    samples: int
    passes: int
    batch: int
    lr: float
    learning_rate: float  # of earlier releases
    weight_decay: float
    beta2: float
    noise: float
    subnetworks: int
    ema: float
    early_stop: bool
    folds: int | None
    loss: str
    seed: int
    choice: dict[str, Any]
    file: str
    layout: str
    source_sha256: str
    outputs: int
    labels: list[str]


class Value(BaseModel):
    """A part of the record. Immutable; equal where its numbers are."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    def as_json(self) -> dict[str, Any]:
        """The fields that are set."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Estimate(Value):
    """A number with its 95 % interval; `n` is what it was measured on.

    `value` is None where there is nothing to measure (an empty set, a rate over no images), and
    `low`, `high` are None where there are too few groups to say how sure it is.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int

    @property
    def finding(self) -> Estimate:
        """A rate as it may stand: a share of at least ten images; else its n alone."""
        return self if self.n >= ENOUGH_FOR_ONE_RATE else NOTHING.model_copy(update={"n": self.n})

    def flat(self, name: str, n: bool = True) -> dict[str, Any]:
        """{name, name_low, name_high, name_n}."""
        columns = {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}
        return columns | {f"{name}_n": self.n} if n else columns


NOTHING = Estimate(value=None, low=None, high=None, n=0)


# --- on a set of labels --------------------------------------------------------------------------


class BracketErrors(Value):
    """The images labelled in [`low`, `high`), the last bracket with its end; `bias` is the mean of
    prediction − label in points, None without an image."""

    low: float = Field(alias="from")
    high: float = Field(alias="to")
    mae: Estimate
    bias: float | None


class BracketBias(Value):
    """As `BracketErrors`, without an interval; `mae` is None without an image as well."""

    low: float = Field(alias="from")
    high: float = Field(alias="to")
    n: int
    mae: float | None
    bias: float | None


class CalibrationPoint(Value):
    """Mean prediction and mean label of the `n` images predicted in [`low`, `high`); None without
    an image."""

    low: float = Field(alias="from")
    high: float = Field(alias="to")
    predicted: float | None
    labelled: float | None
    n: int


class LabelMetrics(Value):
    """Everything measured on one set of `n` labels in `groups` groups.

    The n of a rate is its denominator. `coverage` is the share of labels within the version's own
    50, 80 and 95 % intervals. The histograms count the scores nearest to 0, 1, … 10 points.
    """

    n: int = 0
    groups: int = 0
    threshold: float | None = None
    mae: Estimate = NOTHING
    spearman: Estimate = NOTHING
    auc: Estimate = NOTHING
    fp_rate: Estimate = NOTHING
    fn_rate: Estimate = NOTHING
    error_at_threshold: Estimate = NOTHING
    brackets: tuple[BracketErrors, ...] = ()
    calibration_curve: tuple[CalibrationPoint, ...] = ()
    labelled_histogram: tuple[int, ...] = ()
    predicted_histogram: tuple[int, ...] = ()
    coverage: dict[str, float | None] = {}

    @property
    def findings(self) -> LabelMetrics:
        """What may stand as a finding. Over fewer than 30 labels that is the error with its
        interval; a rate is a share of at least 10 images. The others keep their n alone."""
        thin = self.n < ENOUGH_FOR_RATES
        withheld: dict[str, Any] = {}
        for name in ("spearman", "auc", "fp_rate", "fn_rate", "error_at_threshold"):
            known: Estimate = getattr(self, name)
            if name in self.model_fields_set and (thin or known.n < ENOUGH_FOR_ONE_RATE):
                withheld[name] = Estimate(value=None, low=None, high=None, n=known.n)
        if thin:
            withheld |= {"brackets": (), "calibration_curve": (), "coverage": {}}
        return self.model_copy(update=withheld)

    def as_json(self) -> dict[str, Any]:
        written: dict[str, Any] = {}
        for name, value in super().as_json().items():
            known = getattr(self, name)
            written |= known.flat(name) if isinstance(known, Estimate) else {name: value}
        return written


# --- against others ------------------------------------------------------------------------------


class Comparison(Value):
    """Mean error of one head minus that of another on the same images, in points."""

    difference: Estimate
    verdict: Verdict

    def as_dict(self) -> dict[str, Any]:
        """{value, low, high, n, verdict}, as in the recipe's choice and in comparisons."""
        return self.difference.as_json() | {"verdict": self.verdict}

    def as_json(self) -> dict[str, Any]:
        """{difference, low, high, n, verdict, …}"""
        rest = super().as_json() | {"difference": self.difference.value}
        return rest | {name: getattr(self.difference, name) for name in ("low", "high", "n")}


class PairedMetric(Value):
    """A metric of a newer and an older head on the same images, `difference` being new − old; None
    where it is undefined."""

    new: float | None
    old: float | None
    difference: Estimate
    verdict: Verdict


class VersusVersion(Comparison):
    """Against the version that was active when this one was trained."""

    version: str = ""


class VersusConstant(Comparison):
    """Against always giving the median of the training labels."""

    on: MeasuredOn


class VersusConstantOutOfFold(Comparison):
    """The same, out-of-fold; `mae` is the error of the constant."""

    mae: float


# --- of a project --------------------------------------------------------------------------------


class NoiseFloor(Value):
    """How far a person is from themselves: `sigma` of one score, and the error that a perfect model
    would still show; both from `n` pairs of scores of the same image."""

    sigma: Estimate
    mae: Estimate

    def as_json(self) -> dict[str, Any]:
        columns = self.sigma.flat("sigma", n=False) | self.mae.flat("mae", n=False)
        return columns | {"n": self.sigma.n}


class LearningPoint(Value):
    """The error on the hold-out after the first so many labels."""

    labels: int
    mae: Estimate


class LabelsSaved(Value):
    """How many more labels drawn at random would have been needed, or `why` nobody knows."""

    value: int | None = None
    low: int | None = None
    high: int | None = None
    why: str = ""


class MeasuredSize(Value):
    """The error of linear heads on so many labels, on images drawn at random that they never
    saw."""

    labels: int
    mae: float


class Gain(Value):
    """By how many points the error falls with so many labels more; the truth lies from `low` to
    `high` with 80 % probability."""

    more: int
    value: float
    low: float
    high: float


class Forecast(Value):
    """What more labels than these would bring a linear head, from what it errs on fewer, measured
    on `drawn` images of the random sample; or `why` it is not forecast: “from 40 …”."""

    labels: int = 0
    drawn: int = 0
    error: float | None = None  # after so many labels, by the law
    measured: tuple[MeasuredSize, ...] = ()
    gains: tuple[Gain, ...] = ()
    why: str = ""


class LearningCurve(Value):
    """`noise_floor` is the error of a perfect model, None where it was not measured; versions of
    earlier releases have no `forecast`."""

    points: tuple[LearningPoint, ...] = ()
    noise_floor: float | None = None
    labels_saved: LabelsSaved | None = None
    forecast: Forecast | None = None

    def as_json(self) -> dict[str, Any]:
        """One list for each of labels, mae, mae_low and mae_high."""
        columns = {
            "labels": [point.labels for point in self.points],
            "mae": [point.mae.value for point in self.points],
            "mae_low": [point.mae.low for point in self.points],
            "mae_high": [point.mae.high for point in self.points],
        }
        return {name: v for name, v in super().as_json().items() if name != "points"} | columns


class SliceSize(Value):
    """One slice of `images`, and which shares it is. `what` says what makes an image part of it."""

    id: int
    name: str
    kind: str
    images: int
    library_share: float
    training: int
    training_share: float
    under_represented: bool
    what: str = ""


class SliceMetrics(SliceSize):
    """What a version makes of it. `labelled` is the n of `mae`; a rate over nothing has no
    value."""

    mean: float | None
    pass_rate: float | None
    labelled: int
    mae: Estimate
    fp_rate: Estimate
    fn_rate: Estimate

    def as_json(self) -> dict[str, Any]:
        return super().as_json() | self.mae.flat("mae", n=False) | {
            "fp_rate": self.fp_rate.value, "fp_n": self.fp_rate.n,
            "fn_rate": self.fn_rate.value, "fn_n": self.fn_rate.n,
        }  # fmt: skip


class ExpectationCheck(Value):
    """An expectation held against a version: `value` is what the slice scores over `images`. `met`
    is None where no image tells; that blocks nothing. A measure of one class names it: `of`."""

    id: int
    slice_id: int
    slice: str
    measure: str
    bound: str
    limit: float
    blocks: bool
    value: float | None
    images: int
    met: bool | None
    of: str = ""
    low: float | None = None
    high: float | None = None


class AnswersUsed(Value):
    """How many answers besides the scores a version learned from (see `answers.Answers`)."""

    pairs: int = 0
    sweeps: int = 0
    skips: int = 0
    repeats: int = 0

    @classmethod
    def of(cls, answers: Answers) -> AnswersUsed:
        return cls(
            pairs=int(answers.is_pair.sum()),
            sweeps=int(answers.is_sweep.sum()),
            skips=int(answers.is_skip.sum()),
            repeats=int(answers.is_repeat.sum()),
        )


# --- all of it -----------------------------------------------------------------------------------


class VersionMetrics(Value):
    """Everything measured of a version when it was published.

    `noise` is the standard deviation of its error. `random_sample` is the hold-out together with
    the labels drawn at random that train, each predicted by a head that never saw it.
    `baseline_mae` is the error of always giving the median, on what the version is `measured_on`.
    `all_labels` is there for imported heads alone, which saw none of them. `percentiles`:
    percentile → score of its predictions, whose histogram has 20 bars.
    """

    images: int = 0
    kind: str = ""
    aside: int | None = None
    groups: int | None = None
    folds: int | None = None
    noise: float | None = None
    holdout: LabelMetrics = LabelMetrics()
    random_sample: LabelMetrics = LabelMetrics()
    out_of_fold: LabelMetrics = LabelMetrics()
    all_labels: LabelMetrics = LabelMetrics()
    baseline_mae: float | None = None
    versus_baseline: VersusConstant | None = None
    out_of_fold_baseline: VersusConstantOutOfFold | None = None
    calibration: dict[str, Any] | None = None
    noise_floor: NoiseFloor | None = None
    learning_curve: LearningCurve | None = None
    label_histogram: tuple[int, ...] = ()
    prediction_histogram: tuple[int, ...] = ()
    percentiles: dict[str, float] = {}
    predicted: int = 0
    answers: AnswersUsed | None = None
    versus_parent: VersusVersion | None = None
    slices: tuple[SliceMetrics, ...] = ()
    expectations: tuple[ExpectationCheck, ...] = ()

    @property
    def measured_on(self) -> MeasuredOn | None:
        """What the numbers in front rest on: the most honest evidence there is.

        The hold-out from 50 labels on. Until then the random sample from 20 labels on: the hold-out
        and the labels drawn at random that train, each predicted by a head that never saw it. Else
        whatever has most labels, drawn or picked. None where nothing measures anything.
        """
        if self.holdout.n >= ENOUGH_HELD_OUT:
            return "holdout"
        if self.random_sample.n >= ENOUGH_DRAWN:
            return "random_sample"
        kept: tuple[MeasuredOn, ...] = ("out_of_fold", "all_labels", "random_sample", "holdout")
        known = [name for name in kept if self._on(name).mae.value is not None]
        return max(known, key=lambda name: self._on(name).n, default=None)

    @property
    def measured(self) -> LabelMetrics:
        """The numbers in front: the findings on what it is `measured_on`; empty without any."""
        on = self.measured_on
        return self._on(on).findings if on else LabelMetrics()

    def _on(self, name: MeasuredOn) -> LabelMetrics:
        labels: LabelMetrics = getattr(self, name)
        return labels

    def as_json(self) -> dict[str, Any]:
        return {name: _json(getattr(self, name)) for name in super().as_json()}


def _json(value: Any) -> Any:
    if isinstance(value, Value):
        return value.as_json()
    if isinstance(value, tuple):
        return [_json(entry) for entry in value]
    return value
