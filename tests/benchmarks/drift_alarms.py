"""Drift alarms: how often they are false, which drifts they find, and after how many records.

A product with weekly seasons (other topics, devices, speeds and ratings on weekends) is looked at by the daemon's own
look (`daemon.looking`) on a real database, once a day, under the policy's defaults. A month without a change must
not alarm more often than the policy states; then questions, ratings or both drift: at once, over three weeks, or every
other week. Delays are counted in records from the first that drifted. Beside it, for comparison only: the same months
where weekdays are not kept apart, and where the proof alone decides (no least effect, no agreement of blocks), which
shows that the stated rate holds by itself.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from daemon import baselines, looking, schema
from daemon.tables import DriftRow, Slot
from feedback import db, sketch
from policies.policy import Drift
from tests.benchmarks import common
from tests.benchmarks._weeks import BLOCKS, DAY, TENANTS, Shift, Weeks

SEED = 7
POLICY = Drift(evidence="", evidence_schedule="")
PROOF_ALONE = replace(
    POLICY, agree=1, options={"psi": {"psi": -9.0, "association": -1.0, "mean": -1.0, "rating": -9.0}}
)
BEFORE, MONTH, ONSET = 14, 30, 2  # days
SHARE, LOSS = 0.3, 0.12  # of new questions, and of good ratings, where a drift is complete
TENANT_SHARE, TENANT_LOSS = 0.4, 0.25  # the same where it is one tenant's alone
SIZES = {"full": (200, 4), "quick": (8, 1)}  # stationary months, runs of each drift

SHAPES: dict[str, Callable[[int], float]] = {
    "sudden": lambda day: float(day >= ONSET),
    "gradual": lambda day: max(0.0, min(1.5, (day - ONSET + 1) / 14)),
    "recurring": lambda day: float(day >= ONSET and (day - ONSET) // 7 % 2 == 0),
}
KINDS = {"inputs": (SHARE, 0.0), "outcomes": (0.0, LOSS), "both": (SHARE, LOSS)}
ONE = (1, 3, 6)  # tenants that drift alone, by number


@dataclass
class Month:
    """One month as it was looked at: the days and record counts at which an alarm began, and how many looks there were.

    `tenant`: who drifts alone (-1: everybody). `named`: after how many records an alarm first named each slice, "" for all.
    """

    shape: str = ""
    kind: str = ""
    tenant: int = -1
    named: dict[str, int] = field(default_factory=dict)
    alarms: list[int] = field(default_factory=list)
    records: list[int] = field(default_factory=list)
    looks: int = 0

    def delay(self) -> int | None:
        """Records between the onset and the first alarm after it."""
        before = sum(BLOCKS[day % 7] for day in range(ONSET)) * sketch.BLOCK
        return next((n - before for day, n in zip(self.alarms, self.records, strict=True) if day >= ONSET), None)


class Place:
    """A database with one deployment after the other in it, and the daemon's look at each."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self.engine, self.block, self.day, self.runs = engine, 0, 0, 0
        self.weeks, self.blind = Weeks(seed), Weeks(seed + 1, weekdays=False)

    def month(self, policy: Drift, shape: str = "", kind: str = "", *, blind: bool = False, tenant: int = -1) -> Month:
        """Two weeks of reference, which goes on growing, then a month that is looked at as it goes."""
        self.runs += 1
        name, version, weeks = f"p{self.runs}", f"p{self.runs}@1", self.blind if blind else self.weeks
        slot = Slot(deployment=name, phase="idle", phase_since=0.0, champion=version, anchor=version)
        with Session(self.engine) as session, session.begin():
            session.add(slot)
            for _ in range(BEFORE):
                self._pass(session, weeks, name, version, Shift())
            session.flush()
            baselines.freeze_outcomes(session, slot, version, self.day * DAY)
            baselines.freeze_inputs(session, slot, version, policy.current, policy, self.day * DAY)
            number = slot.id
        return self._watched(number, (name, version, weeks), policy, Month(shape, kind, tenant))

    def _watched(self, slot: int, of: tuple[str, str, Weeks], policy: Drift, told: Month) -> Month:
        seen, drifted, start = 0, False, self.block
        name, version, weeks = of
        for day in range(MONTH):
            now = self.day * DAY
            with Session(self.engine) as session, session.begin():
                self._pass(session, weeks, name, version, _shift(told, day))
            context: Any = SimpleNamespace(
                engine=self.engine,
                clock=SimpleNamespace(now=lambda at=now: at + DAY),
                policy=SimpleNamespace(drift=policy),
            )
            looking.look(context, slot)
            with Session(self.engine) as session:
                row = session.scalars(
                    select(DriftRow).where(DriftRow.slot == slot, DriftRow.id > seen).order_by(DriftRow.id.desc())
                ).first()
            if row is None:
                continue
            seen, told.looks = row.id, told.looks + 1
            if row.drifted and not drifted:
                told.alarms.append(day)
                told.records.append((self.block - start) * sketch.BLOCK)
            drifted = row.drifted
            for column in row.report["columns"]:
                if column["drifted"]:
                    told.named.setdefault(column["slice"], (self.block - start) * sketch.BLOCK)
        return told

    def _pass(self, session: Session, weeks: Weeks, name: str, version: str, shift: Shift) -> None:
        # Days go on from run to run, so that times rise with the sequence; 44 days a run would shift the weekday.
        if self.day % 7 and self.runs != getattr(self, "aligned", 0):
            self.day += 7 - self.day % 7
        self.aligned = self.runs
        self.block += weeks.day(session, name, version, self.block, self.day, shift)
        self.day += 1


def _shift(month: Month, day: int) -> Shift:
    """How far that day of the month is from what was."""
    strength = SHAPES[month.shape](day) if month.shape else 0.0
    if month.tenant >= 0:
        share, loss = (bool(amount) for amount in KINDS[month.kind])
        return Shift(strength * share * TENANT_SHARE, strength * loss * TENANT_LOSS, month.tenant)
    inputs, outcomes = KINDS.get(month.kind, (0.0, 0.0))
    return Shift(strength * inputs, strength * outcomes)


def main() -> int:
    """Run it, write the JSON and the picture, and say which claims hold; 0 when all do."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.drift_alarms", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="fewer months")
    given = parser.parse_args()
    months, runs = SIZES["quick" if given.quick else "full"]
    with tempfile.TemporaryDirectory() as folder:
        engine = db.connect(f"sqlite:///{folder}/learnd.db")
        schema.migrate(engine)
        place = Place(engine, SEED)
        calm = [place.month(POLICY) for _ in range(months)]
        proof = [place.month(PROOF_ALONE) for _ in range(months // 5)]
        blind = [place.month(POLICY, blind=True) for _ in range(max(2, months // 20))]
        drifts = [place.month(POLICY, shape, kind) for shape in SHAPES for kind in KINDS for _ in range(runs)]
        single = [place.month(POLICY, "sudden", kind, tenant=one) for one in ONE for kind in KINDS for _ in range(runs)]
        engine.dispose()
    claims = _claims(calm, drifts, single)
    raw = {
        "policy": asdict(POLICY), "months": months, "looks_a_month": sum(m.looks for m in calm) / months,
        "false_alarms_a_month": _rate(calm), "by_proof_alone_a_month": _rate(proof),
        "without_weekdays_a_month": _rate(blind), "drifts": _drifts(drifts), "tenants": _tenants(single),
    }  # fmt: skip
    common.write(given.out, name="drift_alarms", seeds=[SEED], raw=raw, claims=claims)
    common.picture(given.out, lambda axes: _draw(axes, drifts))
    sys.stdout.write(f"{common.told(claims)}\n{_table(raw)}\n")
    return 0 if all(claim.holds for claim in claims) else 1


def _rate(months: list[Month]) -> float:
    """False alarms a month of thirty days."""
    return sum(len(month.alarms) for month in months) / len(months)


def _found(month: Month) -> float:
    """Whether the drift was found; of a recurring one the share of its returns (days 0-6 and 14-20) that were."""
    if month.shape != "recurring":
        return float(month.delay() is not None)
    # A drifted week is still in the window for some days after its end.
    starts = [ONSET + 14 * number for number in range((MONTH - ONSET) // 14)]
    return sum(any(start <= day < start + 10 for day in month.alarms) for start in starts) / len(starts)


def _drifts(drifts: list[Month]) -> dict[str, dict[str, Any]]:
    told = {}
    for shape in SHAPES:
        for kind in KINDS:
            mine = [month for month in drifts if (month.shape, month.kind) == (shape, kind)]
            delays = [delay for delay in (month.delay() for month in mine) if delay is not None]
            told[f"{shape} {kind}"] = {
                "detected": sum(map(_found, mine)) / len(mine),
                "delay_records": median(delays) if delays else None,
                "delays": delays,
            }
    return told


def _tenants(single: list[Month]) -> dict[str, dict[str, Any]]:
    """By tenant and kind: how often it was named, the delay, how often all together or another tenant was named too."""
    told = {}
    for one in ONE:
        for kind in KINDS:
            mine = [month for month in single if (month.tenant, month.kind) == (one, kind)]
            before = sum(BLOCKS[day % 7] for day in range(ONSET)) * sketch.BLOCK
            delays = [month.named[f"tenant=t{one}"] - before for month in mine if f"tenant=t{one}" in month.named]
            told[f"{TENANTS[one]:.0%} {kind}"] = {
                "detected": sum(map(_named, mine)) / len(mine),
                "delay_records": median(delays) if delays else None,
                "whole_too": sum("" in month.named for month in mine) / len(mine),
                "others_too": sum(bool(set(month.named) - {"", f"tenant=t{one}"}) for month in mine) / len(mine),
            }
    return told


def _named(month: Month) -> float:
    """Whether the tenant that drifted was named, and not before it did."""
    before = sum(BLOCKS[day % 7] for day in range(ONSET)) * sketch.BLOCK
    return float(month.named.get(f"tenant=t{month.tenant}", -1) > before)


def _claims(calm: list[Month], drifts: list[Month], single: list[Month]) -> list[common.Claim]:
    claims = [common.Claim("false_alarms_a_month", _rate(calm), POLICY.false_alarms, least=False)]
    for shape, least in (("sudden", 0.95), ("gradual", 0.95), ("recurring", 0.9)):
        mine = [month for month in drifts if month.shape == shape]
        claims.append(common.Claim(f"detected_{shape}", sum(map(_found, mine)) / len(mine), least))
    return [*claims, common.Claim("detected_tenant", sum(map(_named, single)) / len(single), 0.95)]


def _table(raw: dict[str, Any]) -> str:
    lines = [f"{raw['months']} months, {raw['looks_a_month']:.1f} looks each; false alarms a month: "]
    lines[0] += f"{raw['false_alarms_a_month']:g}, by proof alone {raw['by_proof_alone_a_month']:g}, "
    lines[0] += f"without weekdays {raw['without_weekdays_a_month']:g}"
    lines += [
        f"{name:20} {one['detected']:.0%} after {one['delay_records']} records" for name, one in raw["drifts"].items()
    ]
    lines += [
        f"tenant of {name:14} {one['detected']:.0%} after {one['delay_records']} records "
        f"(all together in {one['whole_too']:.0%}, another tenant in {one['others_too']:.0%})"
        for name, one in raw["tenants"].items()
    ]
    return "\n".join(lines)


def _draw(axes: Any, drifts: list[Month]) -> None:
    names = [f"{shape}\n{kind}" for shape in SHAPES for kind in KINDS]
    told = list(_drifts(drifts).values())
    axes.boxplot([one["delays"] or [0] for one in told], tick_labels=names)
    for place, one in enumerate(told, start=1):
        axes.annotate(f"{one['detected']:.0%}", (place, 0), ha="center", va="bottom")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("records from the onset to the alarm")
    axes.set_title("Drift found (share of runs below), and how soon")


if __name__ == "__main__":
    sys.exit(main())
