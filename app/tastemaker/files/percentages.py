"""How a share in 0–1 is written in per cent. Only what is all or none is told as 100 or 0 %: what
would be rounded to that says “> 99 %” or “< 1 %”."""


def percent(share: float | None, digits: int = 0) -> str:
    """A share: “78 %”, “> 99 %” of 0.996, with digits after the point “99.6 %”; “–” of None."""
    if share is None:
        return "–"
    text, step = f"{100 * share:.{digits}f}", 10.0**-digits
    if share < 1 and float(text) >= 100:
        return f"> {100 - step:.{digits}f} %"
    if share > 0 and float(text) <= 0:
        return f"< {step:.{digits}f} %"
    return f"{text} %"


def probability(share: float | None) -> str:
    """What is only estimated, as how sure a model is: never all or none, though a float that is
    near enough to 1 may be 1."""
    if share is None:
        return "–"
    return percent(min(max(share, 1e-9), 1 - 1e-9))


def percent_range(low: float, high: float) -> str:
    """An interval of a share: “80–93 %”. An end that is not at 0 or 1 is not rounded inwards to
    it: 0.996 to 0.999 is “99–100 %”."""
    first, last = f"{100 * low:.0f}", f"{100 * high:.0f}"
    first = "99" if first == "100" and low < 1 else first
    last = "1" if last == "0" and high > 0 else last
    return f"{first}–{last} %"


def percent_in_three(share: float | None) -> str:
    """A share in three digits: “31.7 %”, “99.5 %”, “> 99.9 %”; “–” of None."""
    if share is None:
        return "–"
    text = f"{100 * share:.3g}"
    return percent(share, 1) if share < 1 and float(text) >= 100 else f"{text} %"
