"""Evidently's report finds what drifted, stays quiet where chance explains it, and leaves its files."""

import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from feedback.drift.columns import Options, measure, report
from feedback.windows import Window
from tests.feedback.support import sketched

pytestmark = pytest.mark.slow  # importing Evidently
OPTIONS = Options()
TOPICS = [f"t{number:02d}" for number in range(32)]


def window(rows: list[dict[str, Any]], kind: str = "inputs") -> Window:
    return replace(sketched(rows, kind), sample=rows)


def rows(draw: random.Random, n: int, **shift: Callable[[], Any]) -> list[dict[str, Any]]:
    made = []
    for number in range(n):
        row = {
            "latency": draw.lognormvariate(0, 1),
            "topic": draw.choice(TOPICS),
            "language": "en",
            "response_length": n,
        }
        row |= {name: value() for name, value in shift.items()}
        if number % 5 == 0:
            del row["language"]  # a column need not be in every row
        made.append(row)
    return made


def test_what_drifted_is_named_and_the_report_lies_in_the_folder(tmp_path: Path) -> None:
    draw = random.Random(1)
    current = window(rows(draw, 400, topic=lambda: draw.choice(TOPICS[:12]), latency=lambda: draw.lognormvariate(1, 1)))
    found = report(window(rows(draw, 600)), current, OPTIONS, tmp_path)
    assert (found.judged, found.drifted, found.kind, found.detector) == (True, True, "inputs", "columns")
    assert {column.column for column in found.columns if column.drifted} == {"latency", "topic"}
    assert {column.column for column in found.columns} == {"latency", "topic", "language"}
    page, data = (Path(name) for name in found.files)
    assert "<html" in page.read_text()[:300].lower()
    assert len(json.loads(data.read_text())["tests"]) == 3
    assert os.environ["DO_NOT_TRACK"] == "1"


@pytest.mark.parametrize("size", [60, 600])
def test_two_samples_of_one_distribution_seldom_drift(size: int) -> None:
    alarms = 0
    for seed in range(20):
        draw = random.Random(seed)
        found = measure(window(rows(draw, size)), window(rows(draw, size)), OPTIONS)
        assert (found.judged, found.files) == (True, ())
        alarms += found.drifted
    assert alarms <= 4  # 0.7 are expected of the smaller size: 7 of 200 were measured


def test_nothing_is_judged_below_the_minimum_or_against_another_kind_of_record(tmp_path: Path) -> None:
    draw = random.Random(3)
    many, few = window(rows(draw, 400)), window(rows(draw, 40))
    for one, other in ((many, few), (few, many), (many, replace(many, records="exposure")), (many, window([]))):
        found = report(one, other, OPTIONS, tmp_path)
        assert (found.judged, found.drifted, found.files) == (False, False, ())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("good", "drifted"), [(0.6, True), (0.9, False), (0.99, False)])
def test_only_a_loss_of_good_ratings_drifts(good: float, drifted: bool) -> None:
    draw = random.Random(4)

    def ratings(share: float) -> Window:
        return window([{"rating": 1.0 if draw.random() < share else -1.0} for _ in range(400)], "outcomes")

    found = measure(ratings(0.9), ratings(good), OPTIONS)
    assert (found.drifted, found.kind) == (drifted, "outcomes" if drifted else "")
