"""The watch after a promotion, looked at after every vote: how often a good version is sent back, how soon a bad one is.

Simulated votes of two versions, against concurrent traffic (one vote of each at a time) and against a fixed baseline of
2,000 votes, at 85 % good ratings. "No regression": no loss at all, and a loss of exactly the margin, which still counts
as equal. Delays: votes of the new version until it is rolled back, under a margin of zero at losses of 2, 5 and 10
points, and under the default margin at 10; the limit is three times what a test of fixed size needs for 95 % power.
Beside it a two-proportion z-test at the same error, repeated naively after every vote from the fiftieth on.

Every vote of every run is looked at by the same formula computed on arrays (the constrained likelihood has a closed form,
Miettinen & Nurminen 1985); at each rollback, at the vote before it, and at votes drawn at random, `policies.watch.judge`
itself is asked, and must say the same.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import betaln, xlogy
from scipy.stats import norm

from policies.model import Votes, WatchView
from policies.policy import WatchRule
from policies.watch import judge
from tests.benchmarks.common import Claim, picture, told, write

RATE, BASELINE, FIRST, CHECKS, LONGEST, SEED = 0.85, 2000, 50, 400, 3, 5
NEAR = 1e-4  # nats; `judge` finds its bounds by halving, so that nearer to the edge it may speak one vote later
Numbers = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Scene:
    """`loss` and `margin` in points of 1; `controlled`: against concurrent traffic, else a fixed baseline."""

    name: str
    loss: float
    margin: float
    controlled: bool
    null: bool
    votes: int = 20_000


SCENES = (
    Scene("concurrent, no loss", 0.0, 0.0, controlled=True, null=True),
    Scene("concurrent, a loss of the margin", 0.05, 0.05, controlled=True, null=True),
    Scene("baseline, no loss", 0.0, 0.0, controlled=False, null=True),
    Scene("baseline, a loss of the margin", 0.05, 0.05, controlled=False, null=True),
    Scene("concurrent, default margin, no loss", 0.0, 0.05, controlled=True, null=True),
    Scene("2 points", 0.02, 0.0, controlled=True, null=False, votes=60_000),
    Scene("5 points", 0.05, 0.0, controlled=True, null=False),
    Scene("10 points", 0.10, 0.0, controlled=True, null=False),
    Scene("10 points, margin of 5", 0.10, 0.05, controlled=True, null=False),
)


def main() -> int:
    """Run it; 0 when every claim holds."""
    parser = argparse.ArgumentParser(prog="watch", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="100 runs, a quarter of the votes")
    given = parser.parse_args()
    runs, part = (100, 4) if given.quick else (500, 1)
    began, rows = time.monotonic(), []
    for number, scene in enumerate(SCENES):
        rows.append(_scene(scene, runs, scene.votes // part, np.random.default_rng([SEED, number])))
        sys.stdout.write(f"{scene.name}: {_said(rows[-1])}\n")
        sys.stdout.flush()
    found = {scene.name: row for scene, row in zip(SCENES, rows, strict=True)}
    false = max(row["rolled_back"] for scene, row in zip(SCENES, rows, strict=True) if scene.null)
    claims = [
        Claim("false_rollbacks", false, WatchRule().error_rate, least=False),
        Claim("looks_that_judge_contradicts", sum(row["contradicted"] for row in rows), 0, least=False),
        *(
            Claim(f"median_votes_at_{points}_points", found[f"{points} points"]["median"], LONGEST * n, least=False)
            for points, n in ((points, fixed(points / 100)) for points in (2, 5, 10))
        ),
    ]
    shown = {
        name: {key: None if value == np.inf else value for key, value in row.items() if key != "at"}
        for name, row in found.items()
    }
    raw = {"runs": runs, "rate": RATE, "scenes": shown, "seconds": round(time.monotonic() - began, 1)}
    write(given.out, name="watch", seeds=[SEED], raw=raw, claims=claims)
    picture(given.out, lambda axes: _draw(axes, found))
    sys.stdout.write(told(claims) + "\n")
    return 0 if all(claim.holds for claim in claims) else 1


def fixed(loss: float) -> int:
    """Votes of each version that a test of fixed size needs to find that loss, at the same error, with 95 % power."""
    z = norm.ppf(1 - WatchRule().error_rate) + norm.ppf(0.95)
    worse = RATE - loss
    return int(np.ceil(z * z * (RATE * (1 - RATE) + worse * (1 - worse)) / loss**2))


def _said(row: dict[str, Any]) -> str:
    delay = f", median after {row['median']:,.0f} votes" if row["median"] < np.inf else ""
    return f"rolled back {row['rolled_back']:.1%}{delay}; repeated z-test {row['naive']:.1%}"


def _scene(scene: Scene, runs: int, votes: int, draw: np.random.Generator) -> dict[str, Any]:
    """All runs of one scene: the share that was rolled back, when, and the naive test's share."""
    at, naive, contradicted = [], [], 0
    rule = WatchRule(margin=scene.margin)
    n = np.arange(1, votes + 1, dtype=float)
    for _ in range(runs):
        good = np.cumsum(draw.random(votes) < RATE - scene.loss).astype(float)
        if scene.controlled:
            before, total = np.cumsum(draw.random(votes) < RATE).astype(float), n
        else:
            before, total = np.full(votes, float(draw.binomial(BASELINE, RATE))), np.full(votes, float(BASELINE))
        below = good / n - before / total < -scene.margin
        beyond = log_evidence(good, n, before, total, -scene.margin) - np.log(1 / rule.error_rate)
        enough = below & (beyond >= NEAR)
        first = int(np.argmax(enough)) if enough.any() else None
        at.append(None if first is None else first + 1)
        naive.append(_first(_z(good, n, before, total, scene.margin) >= norm.ppf(1 - rule.error_rate)))
        asked = [(first, True), (first - 1, False)] if first else []
        if len(at) <= CHECKS // 4:
            asked += [(int(vote), bool(enough[vote])) for vote in draw.integers(0, votes, 4)]
        for vote, says in asked:
            if abs(beyond[vote]) < NEAR:
                continue
            view = WatchView(0.0, _votes("new", good, n, vote), _votes("old", before, total, vote), scene.controlled)
            contradicted += (judge(view, rule, 60.0).state == "regressed") != says
    found = [each for each in at if each is not None]
    return {
        "of": runs,
        "rolled_back": len(found) / runs,
        "median": float(np.median([each or np.inf for each in at])),
        "ninth_of_ten": float(np.quantile(found, 0.9)) if len(found) > 0.9 * runs else None,
        "naive": sum(each is not None for each in naive) / runs,
        "contradicted": contradicted,
        "at": {"rule": found, "naive": [each for each in naive if each is not None]},
    }


def _votes(name: str, good: Numbers, n: Numbers, vote: int) -> Votes:
    return Votes(name, int(n[vote]), int(good[vote]))


def _first(hits: Any) -> int | None:
    """The first vote from which on the naive test would have spoken, not before it has fifty."""
    hits = hits[FIRST:]
    return FIRST + 1 + int(np.argmax(hits)) if hits.any() else None


def _z(good: Numbers, n: Numbers, before: Numbers, total: Numbers, margin: float) -> Numbers:
    """How many standard errors the loss is beyond the margin."""
    one, other = good / n, before / total
    spread = np.sqrt(one * (1 - one) / n + other * (1 - other) / total)
    return np.asarray((other - one - margin) / np.maximum(spread, 1e-9))


def log_evidence(good: Numbers, n: Numbers, before: Numbers, total: Numbers, difference: float) -> Numbers:
    """`policies.stats.log_evidence` on arrays: its maximum over rates with that difference in closed form."""
    second = constrained(good, n, before, total, difference)
    first = np.clip(second + difference, 0.0, 1.0)
    seen = xlogy(good, first) + xlogy(n - good, 1 - first)
    seen += xlogy(before, second) + xlogy(total - before, 1 - second)
    mixture = betaln(good + 0.5, n - good + 0.5) + betaln(before + 0.5, total - before + 0.5) - 2 * np.log(np.pi)
    return np.asarray(mixture - seen)


def constrained(good: Numbers, n: Numbers, before: Numbers, total: Numbers, difference: float) -> Numbers:
    """The likeliest second rate when the first is `difference` above it.

    A root of a cubic: Miettinen & Nurminen 1985, Statistics in Medicine 4:213, appendix I.
    """
    l3 = n + total
    l2 = (n + 2 * total) * difference - l3 - good - before
    l1 = (total * difference - l3 - 2 * before) * difference + good + before
    l0 = before * difference * (1 - difference)
    q = l2**3 / (3 * l3) ** 3 - l1 * l2 / (6 * l3**2) + l0 / (2 * l3)
    p = np.sign(np.where(q == 0, 1.0, q)) * np.sqrt(np.maximum(l2**2 / (3 * l3) ** 2 - l1 / (3 * l3), 0.0))
    angle = (np.pi + np.arccos(np.clip(q / np.where(p == 0, 1.0, p) ** 3, -1.0, 1.0))) / 3
    return np.clip(2 * p * np.cos(angle) - l2 / (3 * l3), max(0.0, -difference), min(1.0, 1 - difference))


def _draw(axes: Any, found: dict[str, Any]) -> None:
    for name, row in found.items():
        times = np.sort(np.array(row["at"]["rule"], dtype=float))
        style = "-" if "points" in name else "--"
        axes.step(times, 100 * np.arange(1, len(times) + 1) / row["of"], style, where="post", label=name)
    times = np.sort(np.array(found["concurrent, no loss"]["at"]["naive"], dtype=float))
    share = 100 * np.arange(1, len(times) + 1) / found["concurrent, no loss"]["of"]
    axes.step(times, share, ":", color="black", where="post", label="repeated z-test, no loss")
    axes.axhline(5, color="red", linewidth=0.8, label="stated error, 5 %")
    axes.set(xscale="log", xlim=(10, 60_000), ylim=(0, 100), xlabel="votes of the new version", ylabel="rolled back, %")
    axes.set_title("Looked at after every vote")
    axes.legend(fontsize=7)


if __name__ == "__main__":
    sys.exit(main())
