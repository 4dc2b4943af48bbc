"""Sketches of questions: sums are those of the whole, and estimates are as good as they say."""

import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback import asked
from feedback.asked import Asked
from policies.model import Questions

SEEDS = 40
BEFORE, NOW = 12_000, 5_000  # different questions: more than a sketch keeps


def sketch_of(hashes: list[int]) -> Asked:
    """As a window's: out of blocks of a hundred."""
    blocks = (hashes[start : start + 100] for start in range(0, len(hashes), 100))
    found = asked.merged(Asked(len(block), tuple(sorted(set(block)))) for block in blocks)
    assert found is not None
    return found


def compared(seed: int, share: float, before: int = BEFORE, now: int = NOW) -> Questions:
    """Two windows of random questions, of which the later one shares so many with the earlier one."""
    draw = Random(seed)
    old = [draw.getrandbits(40) for _ in range(before)]
    new = old[: round(share * now)] + [draw.getrandbits(40) for _ in range(now - round(share * now))]
    draw.shuffle(new)
    return asked.told(sketch_of(old), sketch_of(new))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_estimates_are_within_their_stated_error(share: float) -> None:
    found = [compared(seed, share) for seed in range(SEEDS)]
    # 95 % are meant; fewer than 34 of 40 have a chance of 0.003.
    assert sum(one.low - 1e-9 <= share <= one.high + 1e-9 for one in found) >= 34
    assert sum(abs(one.distinct - NOW) <= 1.96 * one.error for one in found) >= 34
    assert sum(one.known for one in found) / SEEDS == pytest.approx(share, abs=0.01)
    assert all(one.high - one.low < 0.08 for one in found)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_windows_of_few_different_questions_are_counted(share: float) -> None:
    assert compared(1, share, before=1500, now=1000) == Questions(1000, 0.0, share, share, share)


def test_a_small_window_beside_a_large_reference_is_sampled_where_the_reference_is_known() -> None:
    found = [compared(seed, 0.3, before=30_000, now=1000) for seed in range(20)]
    assert all((one.distinct, one.error) == (1000, 0.0) for one in found)
    assert sum(one.low <= 0.3 <= one.high for one in found) >= 16
    assert all(0 < one.high - one.low < 0.3 for one in found)


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 6000), st.integers(1, 5))
def test_merging_is_sketching_at_once_in_any_order(draw: Random, n: int, ways: int) -> None:
    hashes = [draw.randrange(4000) for _ in range(n)]
    parts = [sketch_of(hashes[place::ways]) for place in range(ways)]
    draw.shuffle(parts)
    assert asked.merged(parts) == Asked(n, tuple(sorted(set(hashes))[: asked.KEPT])) == sketch_of(hashes)
    assert asked.merged([*parts, None]) is None


def test_the_digits_that_decide_the_fold_take_no_part() -> None:
    assert asked.hashed("0" * 54 + "00000000ff") == asked.hashed("f" * 54 + "00000000ff") == 255


def test_what_one_side_does_not_know_is_unknown() -> None:
    some, none = Asked(2, (1, 2)), Asked(2)
    assert asked.told(some, None) == asked.told(some, none) == Questions()
    assert asked.told(None, some) == asked.told(none, some) == Questions(2)
    far = Asked(1, (asked.SPACE - 1,))  # none of its questions is in the part of the reference that is known
    assert asked.told(Asked(asked.KEPT, tuple(range(asked.KEPT))), far) == Questions(1)


def test_a_stored_sketch_comes_back() -> None:
    for one in (Asked(), Asked(3, (1, 2)), None):
        assert asked.from_json(json.loads(json.dumps(asked.to_json(one)))) == one
