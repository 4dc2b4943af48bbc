"""Replay is drawn from all of history and all slices alike, and one more record moves no other."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as some

from feedback.replay import Old, in_turn, order, shuffled

HISTORY = [Old(seq, "cards" if seq % 10 else "loans") for seq in range(1, 1001)]


def test_a_rare_slice_has_its_turn_as_often_as_a_common_one_while_it_lasts() -> None:
    drawn = order(HISTORY, 7)[:100]
    slices = {one.seq: one.slice for one in HISTORY}
    assert Counter(slices[seq] for seq in drawn) == {"cards": 50, "loans": 50}
    assert Counter((seq - 1) // 100 for seq in drawn) == dict.fromkeys(range(10), 10)


@given(some.lists(some.tuples(some.integers(1, 10_000), some.sampled_from("abc")), unique_by=lambda one: one[0]))
def test_every_record_is_drawn_once_and_the_seed_decides(pairs: list[tuple[int, str]]) -> None:
    history = [Old(seq, name) for seq, name in pairs]
    assert sorted(order(history, 1)) == sorted(seq for seq, _ in pairs)
    assert order(history, 1) == order(history[::-1], 1)


def test_one_more_record_leaves_the_order_of_the_others_and_another_seed_does_not() -> None:
    some_seqs = list(range(100))
    assert [seq for seq in shuffled([*some_seqs, 500], 3) if seq != 500] == shuffled(some_seqs, 3)
    assert order(HISTORY, 4) != order(HISTORY, 3)


def test_turns_go_on_when_a_part_is_empty() -> None:
    assert list(in_turn([iter([1, 2, 3]), iter([]), iter([4])])) == [1, 4, 2, 3]
