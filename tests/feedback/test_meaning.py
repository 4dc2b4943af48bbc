"""A drift of meaning is found where it is, by the stated error, within weekdays, and named by its records."""

from itertools import pairwise

import numpy as np
import pytest

from feedback.drift.meaning import Options, measure, shown
from feedback.samples import Vector
from feedback.windows import Window

OPTIONS = Options(error_rate=0.01)
SIZE = 24


def side(draw: np.random.Generator, n: int, *, first: int = 0, share: float = 0.0, days: str = "0") -> list[Vector]:
    """`n` vectors; of `share` of them three numbers lie elsewhere. On weekends all of them do, elsewhere still."""
    values = draw.normal(size=(n, SIZE))
    moved = draw.random(n) < share
    values[moved, :3] += 2.0
    told = [days[number % len(days)] for number in range(n)]
    values[[day in "56" for day in told], 10:13] -= 2.5
    return [Vector(first + number + 1, day, row) for number, (day, row) in enumerate(zip(told, values, strict=True))]


def window(vectors: list[Vector], blocks: int = 0) -> Window:
    first, last = vectors[0].seq - 1, vectors[-1].seq
    cuts = [first + (last - first) * number // blocks for number in range(blocks + 1)] if blocks else []
    parts = tuple(Window(low, high, 0, {}) for low, high in pairwise(cuts))
    return Window(first, last, len(vectors), {}, blocks=parts, vectors=vectors)


def test_a_share_of_other_questions_is_found_and_its_records_are_named() -> None:
    draw = np.random.default_rng(1)
    now = side(draw, 400, first=1000, share=0.4)
    report = measure(window(side(draw, 400)), window(now, 4), OPTIONS)
    assert (report.judged, report.drifted, report.kind) == (True, True, "inputs")
    column = report.columns[0]
    assert (column.column, column.since) == ("meaning", 1001)
    assert column.value > OPTIONS.shift
    named = {vector.seq: vector.values[:3].mean() for vector in now}
    assert np.mean([named[seq] for seq in column.typical[:10]]) > 1.5


@pytest.mark.parametrize("size", [100, 400])
@pytest.mark.slow
def test_nothing_that_changed_alarms_no_more_often_than_stated(size: int) -> None:
    draw = np.random.default_rng(2)
    # No shift is too small, no block must agree: the p-value alone has to hold the rate.
    options = Options(shift=-9.0, error_rate=0.05, agree=1)
    alarms = [measure(window(side(draw, size)), window(side(draw, size)), options).drifted for _ in range(200)]
    assert sum(alarms) <= 19  # 10 expected; more than 19 in 1 of 300 such tests


def test_a_weekend_is_compared_with_weekends() -> None:
    draw = np.random.default_rng(3)
    week, weekend = side(draw, 700, days="0123456"), side(draw, 300, days="56")
    assert not measure(window(week), window(weekend), OPTIONS).drifted
    assert measure(window(side(draw, 700, days="01234")), window(weekend), OPTIONS).drifted
    assert measure(window(week), window(side(draw, 300, days="56", share=0.5)), OPTIONS).drifted


def test_one_odd_block_is_no_drift() -> None:
    draw = np.random.default_rng(4)
    now = [*side(draw, 300, first=1000), *side(draw, 100, first=1300, share=1.0)]
    report = measure(window(side(draw, 400)), window(now, 4), OPTIONS)
    assert not report.drifted
    assert report.columns[0].note.endswith("large in 1 of 4 blocks")


def test_too_few_questions_are_not_judged() -> None:
    draw = np.random.default_rng(5)
    for sizes in ((99, 400), (400, 99)):
        report = measure(window(side(draw, sizes[0])), window(side(draw, sizes[1], share=1.0)), OPTIONS)
        assert (report.judged, report.drifted) == (False, False)
        assert "99" in report.reason


def test_the_evidence_gets_the_rows_that_the_direction_does_not_know() -> None:
    draw = np.random.default_rng(6)
    before, now = shown(window(side(draw, 400)), window(side(draw, 300, share=0.4)))
    assert (len(before.sample), len(now.sample)) == (200, 150)
    gap = np.mean([row["meaning"] for row in now.sample]) - np.mean([row["meaning"] for row in before.sample])
    assert gap > 0.5 * np.std([row["meaning"] for row in before.sample])
    assert before.columns["meaning"].numeric
    plain = Window(0, 9, 9, {})
    assert shown(plain, plain) == (plain, plain)
