"""What a new policy would let through that the one in force doesn't: every gate that it drops or loosens, in sentences.

Owns: the comparison of two policies' gates. Refuses to know what an option is for: each gate's `LOOSER` says which change
of it lets more through. Called by `daemon.enforcing`, before a policy comes into force.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from policies import gates


def loosened(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """One sentence for each way in which the gates of `new` (options by name) are looser than those of `old`.

    A gate that is gone is named too, although `judge_all` refuses what it misses: it could come back looser.
    """
    found: list[str] = []
    for name in gates.NAMES:
        before, after = old.get(name), new.get(name)
        if before is None:
            continue
        if after is None:
            found.append(f"[gates.{name}] is gone")
        else:
            found += _gate(f"gates.{name}", gates.load(name).LOOSER, before, after)
    return tuple(found)


def _gate(name: str, looser: Mapping[str, str], before: Any, after: Any) -> Iterator[str]:
    for option, change in looser.items():
        was, now = getattr(before, option), getattr(after, option)
        key = f"{name}.{option}"
        if change == "off":
            if was and not now:
                yield f"{name} is switched off"
        elif change == "fewer":
            gone = [str(each) for each in was if each not in now]
            if gone:
                yield f"{key} leaves out {', '.join(gone)}"
        elif isinstance(was, Mapping):
            for part in sorted({*was, *now}):
                yield from _number(f"{key}.{part}", change, was.get(part, before.other), now.get(part, after.other))
        else:
            yield from _number(key, change, was, now)


def _number(key: str, change: str, was: float, now: float) -> Iterator[str]:
    if change == "higher or none":
        was, now = was or math.inf, now or math.inf
    if now > was and change != "lower":
        yield f"{key} rises from {was:g} to {now:g}" if math.isfinite(now) else f"{key} has no limit, it was {was:g}"
    if now < was and change == "lower":
        yield f"{key} falls from {was:g} to {now:g}"
