"""Draw how fast real people's taste is learned: `python -m docs.learning_curves`.

The figures are in learning-curves.json: rank correlations that `tastemaker replay FILE.npz --learn
--labels 5,10,20,40,80,150 --prior none|others --recipe ridge --json` gave on ratings which are no
part of the program. A test holds the drawing against them.
"""

import json
from html import escape
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).with_name("learning-curves.json")
DRAWING = FIGURES.with_suffix(".svg")
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BELOW = 460, 280, 48, 40, 236, 48
STYLE = (
    "text{fill:#444}.axis{stroke:#ddd}.ground{fill:#fff}.plain{stroke:#767676;fill:#767676}"
    ".composite{stroke:#0072b2;fill:#0072b2}polyline{fill:none!important;stroke-width:2}"
    ".others polyline{stroke-dasharray:6 4}.reach{opacity:.45}.name{stroke:none}"
    ".plain text{fill:#666}.composite text{fill:#0072b2}"
    "@media(prefers-color-scheme:dark){text{fill:#bbb}.axis{stroke:#3a3a3a}.ground{fill:#181818}"
    ".plain{stroke:#999;fill:#999}.composite{stroke:#4aa3dc;fill:#4aa3dc}"
    ".plain text{fill:#aaa}.composite text{fill:#4aa3dc}}"
)
NAMES = {
    ("plain", "none"): "plain encoder",
    ("plain", "others"): "plain, from others' head",
    ("composite", "none"): "composite encoder",
    ("composite", "others"): "composite, from others' head",
}


def drawn(figures: dict[str, Any]) -> str:
    """The SVG: rank correlation over labels, evenly spaced, with the 95 % interval over people."""
    labels = figures["labels"]
    top = 0.05 + max(max(curve["high"]) for curve in figures["curves"])

    def x(at: int) -> float:
        return LEFT + WIDTH * (at + 0.3) / (len(labels) - 0.4)

    def y(value: float) -> float:
        return TOP + HEIGHT * (1 - value / top)

    parts = []
    for tenth in range(int(10 * top) + 1):
        parts.append(
            f'<path class="axis" d="M{LEFT} {y(tenth / 10):.1f}h{WIDTH}"/>'
            f'<text x="{LEFT - 8}" y="{y(tenth / 10) + 4:.1f}" text-anchor="end">'
            f"{tenth / 10:g}</text>"
        )
    parts += [
        f'<text x="{x(at):.1f}" y="{TOP + HEIGHT + 20}" text-anchor="middle">{count}</text>'
        for at, count in enumerate(labels)
    ]
    ends = sorted(figures["curves"], key=lambda curve: -curve["srocc"][-1])
    lowest = 0.0
    for place, curve in enumerate(ends):
        shift = 3 * (place - 1.5)  # intervals side by side
        values = list(zip(curve["srocc"], curve["low"], curve["high"], strict=True))
        line = " ".join(f"{x(at) + shift:.1f},{y(v):.1f}" for at, (v, _, _) in enumerate(values))
        reach = "".join(
            f"M{x(at) + shift:.1f} {y(low):.1f}V{y(high):.1f}"
            for at, (_, low, high) in enumerate(values)
        )
        lowest = max(y(values[-1][0]) + 4, lowest + 18)
        name = NAMES[curve["encoder"], curve["prior"]]
        parts.append(
            f'<g class="{curve["encoder"]} {curve["prior"]}"><path class="reach" d="{reach}"/>'
            f'<polyline points="{line}"/>'
            f'<text class="name" x="{LEFT + WIDTH + 12}" y="{lowest:.1f}">{escape(name)}</text></g>'
        )
    title = "; ".join(
        f"{curve['encoder']}, prior {curve['prior']}: {curve['srocc'][0]:.2f} at {labels[0]} to "
        f"{curve['srocc'][-1]:.2f} at {labels[-1]} labels"
        for curve in figures["curves"]
    )
    width, height = LEFT + WIDTH + RIGHT, TOP + HEIGHT + BELOW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" font-family="system-ui, sans-serif" font-size="13">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
        f'<rect class="ground" width="{width}" height="{height}"/>'
        f'<text x="{LEFT}" y="20" font-weight="600">Rank correlation with the person\'s own scores '
        f"of other images</text>{''.join(parts)}"
        f'<text x="{LEFT + WIDTH / 2}" y="{TOP + HEIGHT + 42}" text-anchor="middle">labels, drawn '
        "at random</text></svg>\n"
    )


def main() -> None:
    DRAWING.write_text(drawn(json.loads(FIGURES.read_text())), encoding="utf-8")


if __name__ == "__main__":
    main()
