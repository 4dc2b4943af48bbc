"""What a judge model scored proves something only where the judge is known to err little."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from policies import gates
from policies.gates import regression
from policies.ledger import Share
from policies.model import Evidence, Result, Verdict
from tests.policies.worlds import OPTIONS, evidence


def found(candidate: Sequence[float], champion: Sequence[float], **options: float) -> Verdict:
    given = replace(OPTIONS["regression"], **options)
    return regression.judge(evidence("new", judge_error=candidate), evidence("old", judge_error=champion), None, given)


def test_a_judge_that_hardly_errs_is_named_with_its_error_and_the_candidate_passes() -> None:
    verdict = found((0.0,) * 30, (0.0,) * 30)
    assert verdict.result is Result.PASS
    (claim,) = (claim for claim in verdict.claims if claim.name == "judge error")
    assert claim.note == "the judge erred on 0 of 120 labelled answers; upper bound 2.5 %, limit 10 %"
    assert (claim.n, claim.limit, claim.error_rate) == (120, 0.1, 0.1)


def test_a_judge_that_errs_too_often_proves_nothing_and_the_reason_has_its_error() -> None:
    verdict = found((0.25,) * 30, (0.25,) * 30)
    assert verdict.result is Result.FAIL
    assert verdict.reason == (
        "the judge erred on 30 of 120 labelled answers; upper bound 32 %, limit 10 %: what it scored proves nothing"
    )
    assert found((0.25,) * 30, (0.25,) * 30, judge_error=0.4).result is Result.PASS


def test_too_few_labelled_answers_leave_it_open_and_say_how_many_would_do() -> None:
    verdict = found((0.0,) * 5, (0.0,) * 5)
    assert verdict.result is Result.INCONCLUSIVE
    assert verdict.reason.startswith("the judge erred on 0 of 20 labelled answers; upper bound 14 %, limit 10 %")
    assert verdict.reason.endswith("29 answers without an error would prove it")


def test_the_worse_of_two_measurements_of_the_judge_counts_and_copies_of_answers_do_not() -> None:
    for pair in (((0.0,) * 30, (0.5,) * 30), ((0.5,) * 30, (0.0,) * 30)):
        assert "erred on 60 of 120" in found(*pair).reason


def test_the_anchor_must_have_been_scored_by_such_a_judge_too() -> None:
    def against(anchor: Evidence) -> Verdict:
        new, old = (evidence(name, judge_error=(0.0,) * 30) for name in ("new", "old"))
        return regression.judge(new, old, anchor, OPTIONS["regression"])

    assert against(evidence("best", judge_error=(0.0,) * 30)).result is Result.PASS
    assert "erred on 60 of 120" in against(evidence("best", judge_error=(0.5,) * 30)).reason
    assert "other items for one version" in against(evidence("best")).reason


def test_the_bound_is_at_the_error_rate_that_the_ledger_leaves() -> None:
    pair = evidence("new", judge_error=(0.0,) * 10), evidence("old", judge_error=(0.0,) * 10)
    whole, rest = (
        {v.gate: v for v in gates.judge_all(*pair, None, OPTIONS, shares=shares)}["regression"]
        for shares in ({}, {"regression": Share(9, 0.2, 0.5)})
    )
    assert whole.result is Result.PASS
    assert rest.result is Result.INCONCLUSIVE
    assert "44 answers without an error" in rest.reason


@pytest.mark.parametrize(
    ("probe", "value", "words"),
    [
        ("goldens_judge_error", None, "29 of 30 items that a judge scored for new"),
        ("goldens_judge_labels", None, "29 of 30 items that a judge scored for new"),
        ("plan", None, "30 of 0 items that a judge scored for new"),
        ("goldens_judge_error", 1.5, "no share of labelled answers"),
        ("goldens_judge_labels", 0.0, "no share of labelled answers"),
        ("goldens_judge_labels", 2.5, "no share of labelled answers"),
        ("goldens_judge_error", float("nan"), "is no number"),
    ],
)
def test_what_is_missing_or_odd_about_the_judge_refuses(probe: str, value: float | None, words: str) -> None:
    candidate = evidence("new", judge_error=(0.0,) * 30)
    place = next(m for m in candidate.measurements if m.probe == probe and (probe != "plan" or m.item == "judged"))
    kept = [m for m in candidate.measurements if m is not place]
    rows = kept if value is None else [*kept, replace(place, value=value)]
    champion = evidence("old", judge_error=(0.0,) * 30)
    verdict = regression.judge(Evidence("new", tuple(rows)), champion, None, OPTIONS["regression"])
    assert verdict.result is Result.FAIL
    assert words in verdict.reason
