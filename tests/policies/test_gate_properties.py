"""Whatever is lost or made worse, no verdict gets better by it; and the order of measurements says nothing."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from policies import gates
from policies.ledger import Share
from policies.model import Evidence, Measurement, Result, SetView, Verdict
from policies.stats import Table, tango
from tests.policies.worlds import OPTIONS, evidence

FEW = settings(max_examples=15, deadline=None)
LOWER_IS_BETTER = {"latency_ms", "memory_bytes", "size_bytes", "unconsented", "erased", "judge_fold", "quarantined"}


def bits(n: int, wrong: int) -> st.SearchStrategy[tuple[float, ...]]:
    """Scores of `n` items, up to `wrong` of them 0."""
    places = st.sets(st.integers(0, n - 1), max_size=wrong)
    return places.map(lambda lost: tuple(0.0 if i in lost else 1.0 for i in range(n)))


def sliced(found: Evidence) -> Evidence:
    """The same, its goldens and anchors in slices of which one is too small to show anything."""
    parts = {"goldens": 17, "retention": 13}
    named = [
        replace(m, slice=f"s{int(m.item[1:]) // parts[m.probe]}") if m.probe in parts else m for m in found.measurements
    ]
    return replace(found, measurements=tuple(named))


SCORES = st.lists(st.sampled_from((0.0, 0.25, 0.5, 1.0, 1.0, 1.0)), min_size=60, max_size=60)


@st.composite
def versions(draw: st.DrawFn, *, fractional: bool = True, judge: bool = False) -> tuple[Evidence, Evidence]:
    """(candidate, champion), anywhere between excellent and refused; with `judge` a judge scored some goldens for sure."""
    scores = draw(SCORES) if fractional and draw(st.booleans()) else draw(bits(60, 12))
    size = 30 if judge or draw(st.booleans()) else 0
    erring = st.lists(st.sampled_from((0.0,) * 9 + (0.25,)), min_size=size, max_size=size)
    candidate = evidence(
        "new",
        goldens=scores,
        harmful=draw(bits(40, 6)),
        benign=draw(bits(40, 6)),
        retention=draw(bits(40, 8)),
        logprob=tuple(draw(st.lists(st.sampled_from((-0.4, -0.6, -0.9)), min_size=40, max_size=40))),
        judge=draw(bits(30, 30)),
        latency=(draw(st.sampled_from((8.0, 14.0, 30.0))),),
        proof=(draw(st.sampled_from((0.0, 3.0))),),
        erased=(draw(st.sampled_from((0.0, 0.0, 1.0))),),
        judge_error=draw(erring),
    )
    champion = evidence(
        "old",
        goldens=draw(bits(60, 12)),
        judge=draw(bits(30, 30)),
        harmful=draw(bits(40, 6)),
        judge_error=draw(erring),
    )
    return sliced(candidate), sliced(champion)


def judged(candidate: Evidence, champion: Evidence) -> dict[str, Verdict]:
    return {v.gate: v for v in gates.judge_all(candidate, champion, champion, OPTIONS)}


def dropped(found: Evidence, row: Measurement) -> Evidence:
    return replace(found, measurements=tuple(m for m in found.measurements if m is not row))


@FEW
@given(versions(), st.integers(0, 10_000), st.booleans(), st.booleans())
def test_losing_a_measurement_never_helps(
    pair: tuple[Evidence, Evidence], place: int, of_candidate: bool, of_both: bool
) -> None:
    candidate, champion = pair
    before = judged(candidate, champion)
    source = candidate if of_candidate else champion
    row = source.measurements[place % len(source.measurements)]
    same = (row.probe, row.set, row.item)
    if of_candidate or of_both:
        candidate = replace(
            candidate, measurements=tuple(m for m in candidate.measurements if (m.probe, m.set, m.item) != same)
        )
    if not of_candidate or of_both:
        champion = replace(
            champion, measurements=tuple(m for m in champion.measurements if (m.probe, m.set, m.item) != same)
        )
    for gate, verdict in judged(candidate, champion).items():
        assert verdict.result.severity >= before[gate].result.severity, (gate, row, verdict.reason)


@FEW
@given(
    versions(judge=True),
    st.sampled_from(("goldens_judge_error", "goldens_judge_labels", "judged")),
    st.integers(0, 10_000),
    st.booleans(),
)
def test_losing_what_is_known_of_the_judge_refuses(
    pair: tuple[Evidence, Evidence], what: str, place: int, of_candidate: bool
) -> None:
    candidate, champion = pair
    source = candidate if of_candidate else champion
    known = [m for m in source.measurements if what in (m.probe, m.item)]
    less = dropped(source, known[place % len(known)])
    found = judged(less, champion) if of_candidate else judged(candidate, less)
    assert found["regression"].result is Result.FAIL


def harmed(row: Measurement) -> Measurement:
    """The same measurement, worse for its version."""
    if row.probe == "plan":
        return row
    if row.probe == "goldens_judge_error":
        return replace(row, value=min(1.0, row.value + 0.25))
    if row.item in LOWER_IS_BETTER or row.item == "near_duplicate":
        return replace(row, value=2 * row.value + 1)
    return replace(row, value=row.value - 1 if row.probe == "retention_logprob" else row.value / 4)


PLACES = st.sets(st.integers(0, 400), min_size=1, max_size=30)


@FEW
@given(versions(), st.sets(st.integers(0, 400), min_size=1, max_size=30))
def test_more_harm_never_turns_a_refusal_into_a_pass(pair: tuple[Evidence, Evidence], places: set[int]) -> None:
    candidate, champion = pair
    before = judged(candidate, champion)
    worse = tuple(harmed(m) if n in places else m for n, m in enumerate(candidate.measurements))
    for gate, verdict in judged(replace(candidate, measurements=worse), champion).items():
        if before[gate].result is Result.FAIL:
            assert verdict.result is not Result.PASS, (gate, before[gate].reason, verdict.reason)


@FEW
@given(versions(), st.randoms(use_true_random=False))
def test_the_order_of_measurements_does_not_matter(pair: tuple[Evidence, Evidence], random: object) -> None:
    shuffled = []
    for found in pair:
        measurements = list(found.measurements)
        random.shuffle(measurements)  # type: ignore[attr-defined]
        shuffled.append(replace(found, measurements=tuple(measurements)))
    assert judged(*pair) == judged(shuffled[0], shuffled[1])


@FEW
@given(versions(), st.sampled_from(gates.NAMES))
def test_leaving_a_gate_out_of_the_policy_never_helps(pair: tuple[Evidence, Evidence], name: str) -> None:
    before = judged(*pair)
    left = {key: value for key, value in OPTIONS.items() if key != name}
    for verdict in gates.judge_all(*pair, pair[1], left):
        assert verdict.result.severity >= before[verdict.gate].result.severity


@FEW
@given(versions(), PLACES)
def test_more_harm_proves_nothing(pair: tuple[Evidence, Evidence], places: set[int]) -> None:
    candidate, champion = pair
    before = judged(candidate, champion)
    worse = tuple(
        replace(m, value=0.0) if n in places and m.probe in ("goldens", "safety", "retention", "improvement") else m
        for n, m in enumerate(candidate.measurements)
    )
    for gate, verdict in judged(replace(candidate, measurements=worse), champion).items():
        if before[gate].result is not Result.PASS:
            assert verdict.result is not Result.PASS, (gate, before[gate].reason, verdict.reason)


@given(st.integers(1, 80), st.integers(0, 80), st.integers(0, 80), st.sampled_from((0.1, 0.02, 0.001)))
def test_one_more_loss_never_lifts_the_bound(both: int, won: int, lost: int, error: float) -> None:
    def low(*cells: int) -> float:
        return paired_difference_bound(*cells, error=error)

    assert low(both - 1, won, lost + 1) <= low(both, won, lost) + 1e-9
    if won:
        assert low(both, won - 1, lost) <= low(both, won, lost, 0) + 1e-9


def paired_difference_bound(both: int, won: int, lost: int, neither: int = 1, *, error: float) -> float:
    return tango(Table(both, won, lost, neither), error)[0]


SETS = (SetView("main", "goldens", 60, "1"), SetView("harm", "safety", 80, "1"), SetView("old", "anchor", 40, "1"))


def planned_without(found: Evidence, drop: Callable[[Measurement], bool]) -> Evidence:
    """Without those items, and as if they had never been planned."""
    kept = [m for m in found.measurements if not drop(m)]
    left = Counter(m.set for m in kept if m.probe in ("goldens", "safety", "retention", "improvement"))
    judged = sum(m.probe == "goldens_judge_error" for m in kept)
    plans = [
        replace(m, value=float(judged if m.item == "judged" else left[m.set])) if m.probe == "plan" else m for m in kept
    ]
    return replace(found, measurements=tuple(plans))


@FEW
@given(versions(), st.integers(0, 39), st.sampled_from(("goldens", "safety", "retention")))
def test_leaving_an_item_out_of_the_whole_evaluation_never_helps(
    pair: tuple[Evidence, Evidence], place: int, probe: str
) -> None:
    before = {v.gate: v for v in gates.judge_all(*pair, pair[1], OPTIONS, sets=SETS)}
    item = sorted(m.item for m in pair[0].measurements if m.probe == probe)[place]
    left = [planned_without(found, lambda m: m.item == item and m.probe.startswith(probe)) for found in pair]
    for verdict in gates.judge_all(left[0], left[1], left[1], OPTIONS, sets=SETS):
        assert verdict.result.severity >= before[verdict.gate].result.severity, verdict.reason


@FEW
@given(versions(), st.sampled_from((("goldens", "s0"), ("goldens", "s3"), ("safety", "benign"), ("retention", "s1"))))
def test_leaving_a_slice_out_never_helps(pair: tuple[Evidence, Evidence], part: tuple[str, str]) -> None:
    before = {v.gate: v for v in gates.judge_all(*pair, pair[1], OPTIONS, sets=SETS)}
    items = {m.item for m in pair[0].measurements if (m.probe, m.slice) == part}
    left = [planned_without(found, lambda m: m.probe.startswith(part[0]) and m.item in items) for found in pair]
    for verdict in gates.judge_all(left[0], left[1], left[1], OPTIONS, sets=SETS):
        assert verdict.result.severity >= before[verdict.gate].result.severity, verdict.reason


@FEW
@given(versions(), st.floats(0, 1), st.integers(1, 30))
def test_a_smaller_share_of_the_error_rate_never_helps(
    pair: tuple[Evidence, Evidence], share: float, number: int
) -> None:
    before = judged(*pair)
    shares = {name: Share(number, share, 0.1) for name in ("safety", "regression", "retention", "improvement")}
    for verdict in gates.judge_all(*pair, pair[1], OPTIONS, shares=shares):
        if verdict.result is Result.PASS:
            assert before[verdict.gate].result is Result.PASS, verdict.reason
