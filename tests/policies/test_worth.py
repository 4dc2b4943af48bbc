"""What learning costs is weighed against what it brought before, and never guessed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import costs
from policies.actions import Train, Wait
from policies.decide import decide
from policies.method import choose
from policies.model import Experience, Snapshot, TeacherView, Usage
from policies.policy import Costs, Method, Policy
from tests.policies.worlds import POLICY, command, slot

HOUR = 3600.0
PRICES = Costs(gpu_hour=2.0, cpu_hour=0.1, kwh=0.3, worth=2.0)
LORA = Experience("lora", 5, Usage(HOUR, gpu_seconds=HOUR), gain=0.02)  # 2.00 EUR for 2 points, worth 4.00
DISTILL = Experience("distill", 2, Usage(6.2 * HOUR, gpu_seconds=6.2 * HOUR), gain=0.003)  # 12.40 EUR for 0.60
BOTH = replace(POLICY, method=Method(teacher="t"), costs=PRICES)


def tried(*experience: Experience, newer: bool = False) -> Snapshot:
    """A slot that is due, whose champion learned from the policy's teacher or, with `newer`, from an older one."""
    return slot(schedule_due=True, experience=experience, teacher=TeacherView("t", "s" if newer else "t"))


def test_money_is_the_sum_of_what_was_measured_and_has_a_price() -> None:
    used = Usage(HOUR, cpu_seconds=2 * HOUR, gpu_seconds=HOUR, joules=3.6e6)
    assert costs.money(used, PRICES) == pytest.approx(2.0 + 0.2 + 0.3)
    assert costs.money(replace(used, joules=None), PRICES) == pytest.approx(2.2)
    assert costs.money(Usage(HOUR), PRICES) is None, "nothing that has a price was measured"
    assert costs.money(used, Costs()) is None, "nothing has a price"


def test_usages_add_up_and_only_what_nobody_knew_stays_unknown() -> None:
    whole = costs.total([Usage(1.0, cpu_seconds=2.0, tokens=5), Usage(3.0, gpu_seconds=4.0, tokens=6)])
    assert whole == Usage(4.0, cpu_seconds=2.0, gpu_seconds=4.0, joules=None, tokens=11)


def test_an_average_is_of_those_that_know() -> None:
    known, other = Usage(1.0, cpu_seconds=2.0, tokens=5), Usage(3.0, cpu_seconds=4.0, gpu_seconds=4.0)
    assert costs.mean([known, other]) == Usage(2.0, cpu_seconds=3.0, gpu_seconds=4.0, joules=None, tokens=5)


def test_a_method_that_costs_more_than_it_brings_gives_way_to_the_next_one() -> None:
    choice = choose(tried(LORA, DISTILL, newer=True), BOTH)
    assert choice.method == "lora"
    assert "re-distillation would cost 12.40 EUR for an expected gain of 0.3 points, worth 0.60" in choice.reason


def test_where_nothing_is_worth_its_cost_it_waits_and_says_so() -> None:
    poor = replace(LORA, gain=0.001)
    action = decide(tried(poor, DISTILL), BOTH)
    assert isinstance(action, Wait)
    assert action.cause == "method"
    assert "a LoRA update would cost 2.00 EUR for an expected gain of 0.1 points, worth 0.20" in action.reason
    assert "re-distillation would cost 12.40 EUR" in action.reason


def test_no_re_distillation_takes_a_place_because_its_cost_is_unknown() -> None:
    choice = choose(tried(replace(LORA, gain=0.0)), BOTH)
    assert choice.method == "nothing"
    assert "what re-distillation would cost and bring is not known" in choice.reason
    rich = replace(DISTILL, gain=0.2)
    assert choose(tried(replace(LORA, gain=0.0), rich), BOTH).method == "distill", (
        "but where it is known to be worth it"
    )


@pytest.mark.parametrize(
    ("experience", "prices", "said"),
    [
        ((), PRICES, "; its cost is not weighed: no attempt of it was judged here yet"),
        (
            (replace(LORA, gain=0.0, attempts=0),),
            PRICES,
            "; its cost is not weighed: no attempt of it was judged here yet",
        ),
        (
            (replace(LORA, gain=0.0, usage=Usage(HOUR)),),
            PRICES,
            "; its cost is not weighed: nothing that has a price was measured",
        ),
        ((replace(LORA, gain=0.0),), replace(PRICES, worth=0.0), ""),
        ((replace(LORA, gain=0.0),), Costs(worth=2.0), ""),
    ],
    ids=["never tried", "no attempts", "not measured", "worth nothing", "no prices"],
)
def test_what_is_not_known_is_not_weighed_and_the_reason_says_so(
    experience: tuple[Experience, ...], prices: Costs, said: str
) -> None:
    choice = choose(tried(*experience), replace(BOTH, costs=prices))
    assert choice.method == "lora"
    assert choice.reason == choose(tried(), replace(BOTH, costs=Costs())).reason + said


def test_the_reason_of_what_is_worth_its_cost_says_both() -> None:
    action = decide(tried(LORA), BOTH)
    assert isinstance(action, Train)
    assert action.reason.endswith(
        "; expected to cost 2.00 EUR for an expected gain of 2.0 points, worth 4.00 (by its last 5 attempts)"
    )


def test_full_fine_tuning_that_is_too_dear_gives_way_to_a_lora_update_and_never_untried_the_other_way() -> None:
    poor = replace(LORA, gain=0.0)
    first = replace(BOTH, method=Method(allowed=("full", "lora")))
    assert choose(tried(replace(poor, method="full")), first).method == "lora"
    second = replace(BOTH, method=Method(allowed=("lora", "full")))
    turned_down = choose(tried(poor), second)
    assert turned_down.method == "nothing"
    assert "what full fine-tuning would cost and bring is not known" in turned_down.reason
    assert choose(tried(poor, replace(LORA, method="full")), second).method == "full"


@pytest.mark.parametrize("newer", [False, True])
@pytest.mark.parametrize("allowed", [("lora",), ("distill",), ("lora", "distill"), ("full", "lora"), ("echo",), ()])
def test_without_prices_whatever_was_tried_changes_no_decision(allowed: tuple[str, ...], newer: bool) -> None:
    policy = replace(POLICY, method=Method(allowed=allowed, teacher="t"))
    assert policy.costs == Costs(), "the default"
    poor = tuple(Experience(name, 5, Usage(1e6, 1e6, 1e6, 1e9), 0.0) for name in ("lora", "full", "distill", "echo"))
    assert decide(tried(*poor, newer=newer), policy) == decide(tried(newer=newer), policy)
    assert choose(tried(*poor, newer=newer), policy) == choose(tried(newer=newer), policy, weigh=False)


def test_a_persons_command_is_not_weighed() -> None:
    asked = replace(tried(replace(LORA, gain=0.0)), commands=(command("train"),))
    action = decide(asked, BOTH)
    assert isinstance(action, Train)
    assert action.method == "lora"


amounts = st.none() | st.floats(0, 1e7)
usages = st.builds(Usage, st.floats(0, 1e6), amounts, amounts, amounts)
experiences = st.tuples(
    *(st.builds(Experience, st.just(name), st.integers(0, 5), usages, st.floats(0, 1)) for name in ("lora", "distill"))
)
prices_ = st.builds(Costs, st.floats(0, 100), st.floats(0, 10), st.floats(0, 10), st.floats(0, 1000))


@given(experiences, prices_, st.sampled_from(("gpu_hour", "cpu_hour", "kwh")), st.floats(0, 100))
def test_a_higher_price_never_makes_a_method_worth_its_cost(
    experience: tuple[Experience, ...], prices: Costs, name: str, more: float
) -> None:
    dearer = replace(prices, **{name: getattr(prices, name) + more})
    for method in ("lora", "distill"):
        if costs.weigh(method, experience, prices).dear:
            assert costs.weigh(method, experience, dearer).dear


@given(experiences, prices_, st.sampled_from(("gpu_hour", "cpu_hour", "kwh")), st.floats(0, 100), st.booleans())
def test_a_higher_price_never_makes_a_method_chosen_but_in_place_of_one_that_it_made_too_dear(
    experience: tuple[Experience, ...], prices: Costs, name: str, more: float, newer: bool
) -> None:
    def chosen(policy: Policy) -> str:
        return choose(tried(*experience, newer=newer), policy).method

    dearer = replace(prices, **{name: getattr(prices, name) + more})
    before, after = chosen(replace(BOTH, costs=prices)), chosen(replace(BOTH, costs=dearer))
    for method in ("lora", "distill"):
        alone = replace(BOTH, method=Method(allowed=(method,), teacher="t"))
        if chosen(replace(alone, costs=dearer)) == method:
            assert chosen(replace(alone, costs=prices)) == method
    if after not in (before, "nothing"):
        assert costs.weigh(before, experience, dearer).dear
        assert not costs.weigh(after, experience, prices).dear
