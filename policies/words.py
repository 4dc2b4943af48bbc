"""How numbers read in a reason: counts, shares, points and durations, the same on every screen and in the audit log.

Owns: rounding and units. Refuses to know time zones (the core speaks of durations, never of dates). Called by every
rule that gives a reason.
"""


def count(value: int, noun: str = "") -> str:
    """`1,204` or, with a noun, `1 item` / `1,204 items`."""
    text = f"{value:,}"
    return text if not noun else f"{text} {noun}" if value == 1 else f"{text} {noun}s"


def percent(share: float) -> str:
    """A share of 1 as a percentage with one decimal below 10 %: `8.6 %`, `92 %`."""
    value = 100 * share
    text = f"{value:.1f}" if abs(value) < 10 else f"{value:.0f}"
    return f"{text.removesuffix('.0')} %"


def points(difference: float) -> str:
    """A signed difference of two shares in points of 100: `+1.2`, `-0.4`."""
    return f"{100 * difference:+.1f}"


def interval(estimate: float, low: float, high: float) -> str:
    """`+1.2 points [-0.4, +2.8]`."""
    return f"{points(estimate)} points [{points(low)}, {points(high)}]"


def duration(seconds: float) -> str:
    """The two largest units: `3 d 4 h`, `3 h 10 min`, `2 min`, `45 s`; never negative."""
    if not seconds < 1e12:
        return "forever"
    left = max(0, round(seconds))
    if left < 60:
        return f"{left} s"
    minutes = round(left / 60)
    days, hours, rest = minutes // 1440, minutes % 1440 // 60, minutes % 60
    if days:
        return f"{days} d {hours} h" if hours else f"{days} d"
    if hours:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    return f"{rest} min"


def listed(parts: tuple[str, ...] | list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def about(n: int) -> str:
    """A count that is only an estimate, rounded up to two digits: 8,659 is `8,700`."""
    unit = 10 ** max(0, len(str(abs(n))) - 2)
    return f"{-(-n // unit) * unit:,}"
