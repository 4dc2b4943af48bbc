"""A policy comes into force unless it promises what its sets can't prove, or loosens what nobody gave up."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from daemon import commands, doctor, enforcing, held_policies, probes, promises, views
from daemon.config import parse_policy
from daemon.findings import ERROR, NOTE
from daemon.tables import AuditRow, CommandRow
from feedback import db
from policies.errors import Misconfigured, Refused
from policies.loosening import CHANGES
from policies.policy import Policy
from tests.daemon.test_service import World

LOOSE, STRICT, PROUD = "margin = 0.25\ncumulative", "margin = 0.15\ncumulative", "margin = 0.001\ncumulative"
PROMISE = "bot: the policy promises what its goldens can't prove: margin 0.001 with 100 items (never compared yet)"


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.import_goldens()
    return made


def write(world: World, margin: str, **others: str) -> None:
    """The world's policy with another margin of the regression gate."""
    path = world.folder / "policy.toml"
    text = path.read_text("utf-8")
    for old in (LOOSE, STRICT, PROUD, "margin = 0.2\ncumulative"):
        text = text.replace(old, margin)
    for name, value in others.items():
        text = text.replace(f"{name} = ", f"{name} = {value} # ")
    path.write_text(text, "utf-8")


def reload(world: World) -> None:
    world.service.reload()
    world.service.tick()


def reopen(world: World) -> None:
    world.service.stop()
    world.service = world.open()


def in_force(world: World) -> Policy:
    policy = db.read(world.service.engine, lambda session: views.policy_of(session, "bot"))
    assert policy is not None
    return policy


def margin(world: World) -> float:
    found: float = in_force(world).gates["regression"].margin
    return found


def entries(world: World, action: str) -> list[str]:
    rows = db.read(world.service.engine, lambda s: list(s.scalars(select(AuditRow.entry).order_by(AuditRow.index))))
    return [str(entry["reason"]) for entry in map(json.loads, rows) if entry["action"] == action]


def test_a_stricter_policy_and_one_that_only_learns_otherwise_come_into_force_at_once(world: World) -> None:
    write(world, STRICT, cooldown_hours="5.0")
    reload(world)
    assert margin(world) == 0.15
    assert in_force(world).triggers.cooldown_hours == 5.0


@pytest.mark.parametrize("look", [reload, reopen])
def test_a_looser_policy_waits_until_a_person_approves_it(world: World, look) -> None:  # type: ignore[no-untyped-def]
    write(world, LOOSE)
    look(world)
    assert margin(world) == 0.2
    (why,) = entries(world, "policy:held")
    assert why == "looser than the one in force: gates.regression.margin rises from 0.2 to 0.25"
    (slot,) = db.read(world.service.engine, lambda session: views.status(session, 0.0))["deployments"]
    waits = slot["policy_waits"]
    db.transact(
        world.service.engine,
        lambda session: commands.insert(
            session, deployment="bot", verb="approve_policy", actor="ada", role="operator", now=1.0,
            reason="small set", version=waits["hash"][:12],
        ),
    )  # fmt: skip
    world.service.tick()
    world.service.tick()
    assert margin(world) == 0.25
    assert db.read(world.service.engine, lambda session: held_policies.waiting(session, "bot")) is None
    row = db.read(world.service.engine, lambda session: session.scalars(select(CommandRow)).one())
    assert (row.outcome, row.version) == ("done", in_force(world).hash)
    assert "small set" in entries(world, "command:approve_policy")
    reopen(world)
    assert margin(world) == 0.25


def test_an_approval_names_the_policy_that_waits(world: World) -> None:
    def ask(version: str) -> None:
        db.transact(
            world.service.engine,
            lambda session: commands.insert(
                session, deployment="bot", verb="approve_policy", actor="ada", role="operator", now=1.0,
                reason="r", version=version,
            ),
        )  # fmt: skip

    with pytest.raises(Refused, match="no policy of bot waits"):
        ask("abc")
    write(world, LOOSE)
    reload(world)
    with pytest.raises(Refused, match="not the policy that waits"):
        ask("zzz")


def test_a_looser_policy_that_was_taken_back_waits_no_more(world: World) -> None:
    write(world, LOOSE)
    reload(world)
    write(world, STRICT)
    reload(world)
    assert margin(world) == 0.15
    assert db.read(world.service.engine, lambda session: held_policies.waiting(session, "bot")) is None


def test_a_reload_with_a_margin_that_the_sets_can_not_prove_keeps_the_old_policy(world: World) -> None:
    write(world, PROUD)
    reload(world)
    assert margin(world) == 0.2
    assert entries(world, "reload:refused") == [PROMISE]


def test_a_start_with_such_a_margin_is_a_mistake_in_the_configuration(world: World) -> None:
    write(world, PROUD)
    world.service.stop()
    with pytest.raises(Misconfigured) as caught:
        world.open()
    assert str(caught.value) == PROMISE
    assert caught.value.hint.startswith("100 items prove a margin of 0.064; set that, or bring about 6,800 items")


def test_a_promise_that_was_in_force_before_goes_on_and_is_a_finding(tmp_path: Path) -> None:
    world = World(tmp_path)
    write(world, PROUD)
    reload(world)
    world.import_goldens()  # too few, but the slot was not gathering yet when the policy came
    assert db.read(world.service.engine, lambda session: promises.broken(session, "bot", in_force(world)))
    write(world, PROUD, cooldown_hours="5.0")
    reopen(world)
    assert in_force(world).triggers.cooldown_hours == 5.0
    found = [f for f in doctor.check_promises(world.settings) if "margin 0.001" in f.message]
    assert [finding.level for finding in found] == [NOTE]
    path = world.folder / "policy.toml"
    path.write_text(path.read_text("utf-8").replace("[gates.retention]", "flips = 0.05\n[gates.retention]"), "utf-8")
    reload(world)
    assert in_force(world).gates["regression"].flips == 0.05, "a stricter gate with the same old promise"


def test_config_check_says_what_would_not_come_into_force(world: World) -> None:
    write(world, PROUD)
    errors = [finding.message for finding in doctor.check_promises(world.settings) if finding.level == ERROR]
    assert errors == [PROMISE]
    write(world, LOOSE)
    (note,) = doctor.check_promises(world.settings)
    assert note.level == NOTE
    assert "gates.regression.margin rises from 0.2 to 0.25" in note.message
    assert note.hint.startswith("the old one stays until somebody says: learnctl approve bot --policy ")


def decided(rules: Mapping[str, Any], options: Any) -> None:
    """Every option has a change that loosens it, or none that does."""
    assert set(rules) == {field.name for field in dataclasses.fields(options)}
    for name, change in rules.items():
        if isinstance(change, Mapping):
            decided(change, getattr(options, name))
        else:
            assert change in CHANGES


@pytest.mark.parametrize("name", probes.NAMES)
def test_every_option_of_a_probe_says_which_change_of_it_loosens(name: str) -> None:
    module = probes.load(name)
    decided(module.LOOSER, module.Options())


TASKS = 'folder = "/tasks"\ntasks = ["arc", "say"]'
JUDGE = '[probes.goldens.judge]\nurl = "http://judge:8000/v1"\nmodel = "judge-1"'


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("[probes.safety]\nsamples = 4", "", "probes.safety.samples falls from 4 to 0"),
        ("", "[probes.safety]\nrefusals = ['nope']", "probes.safety.refusals changes from nothing to nope"),
        ("", "[probes.safety]\nseed = 5", "probes.safety.seed changes from 0 to 5"),
        (f"[probes.lm_eval]\n{TASKS}", "", "probes.lm_eval.tasks leaves out arc, say"),
        (f"[probes.lm_eval]\n{TASKS}", f"[probes.lm_eval]\n{TASKS}\nlimit = 9", "probes.lm_eval.limit falls from all"),
        (
            f"[probes.lm_eval]\n{TASKS}",
            f"[probes.lm_eval]\n{TASKS.replace('/tasks', '/easy')}",
            "probes.lm_eval.folder changes from /tasks to /easy",
        ),
        (JUDGE, JUDGE.replace("judge-1", "judge-2"), "probes.goldens.judge.model changes from judge-1 to judge-2"),
        ("", "[probes.improvement]\nscore = 'overlap'", "probes.improvement.score changes from match to overlap"),
        ("", "[probes.budget]\nitems = 2", "probes.budget.items falls from 8 to 2"),
        ("", "[probes.budget]\nrepeats = 9", "probes.budget.repeats rises from 2 to 9"),
    ],
)
def test_what_is_measured_less_or_otherwise_is_named(before: str, after: str, said: str) -> None:
    found = enforcing.looser(parse_policy(before, "bot"), parse_policy(after, "bot"))
    assert any(sentence.startswith(said) for sentence in found), found


@pytest.mark.parametrize("more", [f"[probes.lm_eval]\n{TASKS}", JUDGE, "[probes.safety]\nsamples = 4"])
def test_what_is_measured_besides_is_no_looser(more: str) -> None:
    assert enforcing.looser(parse_policy("", "bot"), parse_policy(more, "bot")) == ()
    assert enforcing.looser(None, parse_policy("", "bot")) == ()


def test_a_policy_that_measures_less_waits_and_the_check_says_so(world: World) -> None:
    path = world.folder / "policy.toml"
    text = path.read_text("utf-8")
    path.write_text(f"{text}\n[probes.safety]\nsamples = 4\n", "utf-8")
    reload(world)
    assert in_force(world).probes["safety"] == {"samples": 4}, "a stricter one comes into force at once"
    path.write_text(text, "utf-8")
    (note,) = doctor.check_promises(world.settings)
    assert note.message == "bot: looser than the policy in force: probes.safety.samples falls from 4 to 0"
    reload(world)
    assert in_force(world).probes["safety"] == {"samples": 4}
    (why,) = entries(world, "policy:held")
    assert why == "looser than the one in force: probes.safety.samples falls from 4 to 0"
