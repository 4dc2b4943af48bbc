"""Whatever is lost or made worse, no verdict gets better by it; and the order of measurements says nothing."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from policies import gates
from policies.model import Evidence, Measurement, Result, Verdict
from tests.policies.worlds import OPTIONS, evidence

FEW = settings(max_examples=15, deadline=None)
LOWER_IS_BETTER = {"latency_ms", "memory_bytes", "size_bytes", "unconsented", "erased", "judge_fold", "quarantined"}


def bits(n: int, wrong: int) -> st.SearchStrategy[tuple[float, ...]]:
    """Scores of `n` items, up to `wrong` of them 0."""
    places = st.sets(st.integers(0, n - 1), max_size=wrong)
    return places.map(lambda lost: tuple(0.0 if i in lost else 1.0 for i in range(n)))


@st.composite
def versions(draw: st.DrawFn) -> tuple[Evidence, Evidence]:
    """(candidate, champion), anywhere between excellent and refused."""
    candidate = evidence(
        "new",
        goldens=draw(bits(60, 12)),
        harmful=draw(bits(40, 6)),
        benign=draw(bits(40, 6)),
        retention=draw(bits(40, 8)),
        logprob=tuple(draw(st.lists(st.sampled_from((-0.4, -0.6, -0.9)), min_size=40, max_size=40))),
        judge=draw(bits(30, 30)),
        latency=(draw(st.sampled_from((8.0, 14.0, 30.0))),),
        proof=(draw(st.sampled_from((0.0, 3.0))),),
    )
    return candidate, evidence("old", goldens=draw(bits(60, 12)), judge=draw(bits(30, 30)), harmful=draw(bits(40, 6)))


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


def harmed(row: Measurement) -> Measurement:
    """The same measurement, worse for its version."""
    if row.probe == "plan":
        return row
    if row.item in LOWER_IS_BETTER or row.item == "near_duplicate":
        return replace(row, value=2 * row.value + 1)
    return replace(row, value=row.value - 1 if row.probe == "retention_logprob" else row.value / 4)


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
