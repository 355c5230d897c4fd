"""What so many images cost, in hours, disk and money: `python -m docs.scale_model` writes the
tables of scale.md; with `--core-price`, `--gpu-price` or `--tb-price` it prints them at these.

Speeds are of one core, or one GPU: ours are measured (bench/RESULTS.md), those of a GPU published.
"""

import argparse
import math
from dataclasses import dataclass, replace
from pathlib import Path

PAGE = Path(__file__).with_name("scale.md")
BEGIN, END = "<!-- tables: python -m docs.scale_model -->\n", "<!-- end of the tables -->"
SIZES = {"10 K": 10_000, "1 M": 10**6, "100 M": 10**8, "5 B": 5 * 10**9}


@dataclass(frozen=True)
class Prices:
    """Dollars for an hour of one core, for one of an A100, and for a month of a terabyte."""

    core: float = 0.05
    gpu: float = 2.5
    terabyte: float = 25.0


@dataclass(frozen=True)
class Machine:
    """One, or many together: cores, A100s, and gigabytes that are read in a second."""

    cores: int
    gpus: int
    reads: float

    def __str__(self) -> str:
        gpus = f"{self.gpus} A100" + "s" * (self.gpus != 1)
        return f"{self.cores} cores, {gpus} where GPUs are named, {self.reads:g} GB/s of reading"


@dataclass(frozen=True)
class Way:
    """How images come to a score: processor seconds and GPU seconds of each, its vector's numbers,
    and the bytes that are read of it."""

    name: str
    core_seconds: float
    gpu_seconds: float
    dim: int
    bytes_read: int

    def costs(self, images: int, prices: Prices, machine: Machine) -> "Cost":
        """The machine is paid for as long as its slowest part takes; GPUs only where they serve."""
        core_hours = images * self.core_seconds / 3600
        gpu_hours = images * self.gpu_seconds / 3600
        gpus = machine.gpus if self.gpu_seconds else 0
        read, vectors = images * self.bytes_read, 2 * self.dim * images
        reading = read / (1e9 * machine.reads) / 3600
        hours = max(core_hours / machine.cores, gpu_hours / max(gpus, 1), reading)
        return Cost(
            core_hours, gpu_hours, hours, read, vectors,
            dollars=hours * (machine.cores * prices.core + gpus * prices.gpu),
            dollars_a_month=vectors / 1e12 * prices.terabyte,
        )  # fmt: skip


@dataclass(frozen=True)
class Cost:
    core_hours: float
    gpu_hours: float
    hours: float  # by the clock, of the machine named
    bytes_read: float
    bytes_kept: float  # float16 vectors
    dollars: float  # once
    dollars_a_month: float  # of keeping the vectors


DECODE = 0.0065  # seconds of a core for a photograph: bench scoring
PICTURE = 40_000  # bytes of one of 384 pixels, as LAION's sets hold them
HEAD = 2 / 87_533  # seconds of a core for a score: bench scoring, fast, with AMX
HEAD_PLAIN = 2 / 7_795  # the same on a core without it
BUNDLED = 0.0607  # decoding, efficientnet_lite0/bundled and the head: bench scoring, the folder
A100_LARGE, A100_BASE = 1 / 312, 1 / 2500  # ViT-L/14 and ViT-B/32: clip-retrieval's figures

WAYS = (
    Way("pictures, bundled encoder, no GPU", BUNDLED, 0.0, 1280, PICTURE),
    Way("pictures, ViT-B/32 on A100s", DECODE + HEAD, A100_BASE, 512, PICTURE),
    Way("pictures, ViT-L/14 on A100s", DECODE + HEAD, A100_LARGE, 768, PICTURE),
    Way("embeddings that are there, AMX", HEAD, 0.0, 768, 2 * 768),
    Way("embeddings that are there, no AMX", HEAD_PLAIN, 0.0, 768, 2 * 768),
)
MACHINES = {  # what one would take for so many
    "10 K": Machine(2, 1, 0.5),
    "1 M": Machine(8, 1, 0.5),
    "100 M": Machine(96, 8, 1),
    "5 B": Machine(768, 64, 8),
}


def tables(prices: Prices) -> str:
    text = ""
    for size, images in SIZES.items():
        machine = MACHINES[size]
        text += (
            f"\n**{size} images**, on {machine}\n\n"
            "| way | hours | core hours | GPU hours | read | vectors | once | a month |\n"
            "|---|--:|--:|--:|--:|--:|--:|--:|\n"
        )
        for way in WAYS:
            cost = way.costs(images, prices, machine)
            hours = _short(cost.hours), _short(cost.core_hours), _short(cost.gpu_hours)
            if not way.gpu_seconds:
                hours = *hours[:2], "–"
            size_of = _bytes(cost.bytes_read), _bytes(cost.bytes_kept)
            money = f"${_short(cost.dollars)}", f"${_short(cost.dollars_a_month)}"
            text += f"| {' | '.join((way.name, *hours, *size_of, *money))} |\n"
    return f"{text}\n"


def _short(value: float) -> str:
    """Two digits: more are not known."""
    if value < 0.01:
        return "< 0.01"
    if value >= 100:
        return f"{round(value, 1 - math.floor(math.log10(value))):,.0f}"
    return f"{value:.2g}"


def _bytes(value: float) -> str:
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if value >= size:
            return f"{_short(value / size)} {unit}"
    return f"{_short(value / 1e6)} MB"


def with_tables(page: str, text: str) -> str:
    before, rest = page.split(BEGIN)
    return before + BEGIN + text + END + rest.split(END)[1]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    for name in ("core", "gpu", "terabyte"):
        flag = "--tb-price" if name == "terabyte" else f"--{name}-price"
        asked.add_argument(flag, dest=name, type=float)
    given = {name: value for name, value in vars(asked.parse_args()).items() if value is not None}
    if given:
        print(tables(replace(Prices(), **given)))
    else:
        PAGE.write_text(with_tables(PAGE.read_text(), tables(Prices())))


if __name__ == "__main__":
    main()
