"""What a new policy would let through that the one in force doesn't: every option that loosens, in sentences.

Owns: the comparison of options, and of two policies' gates. Refuses to know what an option is for: each gate's and each
probe's `LOOSER` says which change of it lets more through. Called by `daemon.enforcing`, before a policy comes into force.

| change         | lets more through where the option                                         |
|----------------|----------------------------------------------------------------------------|
| higher         | rises (a mapping: in any part)                                             |
| higher or none | rises, or is 0, which is no limit                                          |
| lower          | falls                                                                      |
| lower or all   | falls, or is no longer 0, which is all                                     |
| fewer          | leaves something out                                                       |
| off            | is switched off                                                            |
| changed        | changes at all: nobody can tell what another value lets through            |
| replaced       | changes, but for a first value where there was none                        |
| never          | does whatever it likes                                                     |
| a mapping      | is a table of its own, with such a change for each of its options          |
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from policies import gates

CHANGES = ("higher", "higher or none", "lower", "lower or all", "fewer", "off", "changed", "replaced", "never")


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
            found += compared(f"gates.{name}", gates.load(name).LOOSER, before, after)
    return tuple(found)


def compared(name: str, looser: Mapping[str, Any], before: Any, after: Any) -> Iterator[str]:
    """One sentence for each option of the table `name` that lets more through in `after` than in `before`.

    `looser`: by option the change that does, see above; what isn't in it is never looked at.
    """
    for option, change in looser.items():
        was, now = getattr(before, option), getattr(after, option)
        key = f"{name}.{option}"
        if isinstance(change, Mapping):
            yield from compared(key, change, was, now)
        elif change == "off":
            if was and not now:
                yield f"{name} is switched off"
        elif change == "fewer":
            gone = [str(each) for each in was if each not in now]
            if gone:
                yield f"{key} leaves out {', '.join(gone)}"
        elif change in ("changed", "replaced"):
            if _unlike(was, now) and (was or change == "changed"):
                yield f"{key} changes from {_said(was)} to {_said(now)}"
        elif isinstance(was, Mapping):
            for part in sorted({*was, *now}):
                yield from _number(f"{key}.{part}", change, was.get(part, before.other), now.get(part, after.other))
        elif change != "never":
            yield from _number(key, change, was, now)


def _number(key: str, change: str, was: float, now: float) -> Iterator[str]:
    if change.endswith((" or none", " or all")):
        was, now = was or math.inf, now or math.inf
    falls = change.startswith("lower")
    if now > was and not falls:
        yield f"{key} rises from {was:g} to {now:g}" if math.isfinite(now) else f"{key} has no limit, it was {was:g}"
    if now < was and falls:
        yield f"{key} falls from {was:g} to {now:g}" if math.isfinite(was) else f"{key} falls from all to {now:g}"


def _unlike(was: Any, now: Any) -> bool:
    """Whether two values differ; the order of a list says nothing."""
    return set(was) != set(now) if isinstance(was, tuple) else bool(was != now)


def _said(value: Any) -> str:
    """A value as a person would write it: `nothing`, `false`, `no way, never`, `arc = acc_norm`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        value = [f"{key} = {value[key]}" for key in sorted(value)]
    if isinstance(value, tuple | list):
        value = ", ".join(str(each) for each in value)
    return "nothing" if value is None or value == "" else str(value)
