"""Old weights go, but never what serves, what could serve again, what either stands on, or what somebody names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from daemon.audit import log
from daemon.registry import Registry
from daemon.retention import DAY, Artifact, Rule, choose, clear, sweep
from daemon.tables import AuditRow, CommandRow, Cycle, Slot, VersionRow
from feedback.db import connect, read, transact
from tests import fresh

RULE = Rule(rejected_days=10, candidate_days=10, retired_days=20, teacher_days=20, newest=1)
NOW = 100 * DAY


def old(name: str, state: str = "rejected", *, days: float = 50, ancestors: tuple[str, ...] = ()) -> Artifact:
    return Artifact(name, "bot", state, NOW - days * DAY, ancestors)


def ended(*artifacts: Artifact, named: tuple[str, ...] = (), rule: Rule = RULE) -> list[str]:
    return [each.name for each in choose(artifacts, named, NOW, rule)]


def test_each_state_has_its_own_time() -> None:
    found = [
        old(f"{state}{days}", state, days=days) for state in ("rejected", "retired", "teacher") for days in (9, 11, 21)
    ]
    assert ended(*found) == ["rejected21", "retired21", "teacher21", "rejected11"]


@pytest.mark.parametrize("state", ["champion", "adopted", "unheard of"])
def test_what_serves_was_adopted_or_is_unknown_stays(state: str) -> None:
    assert ended(old("a", state, days=10_000)) == []


def test_what_is_named_stays_with_all_its_ancestors() -> None:
    chain = [old("a", ancestors=("b", "c")), old("b", ancestors=("d",)), old("c"), old("d"), old("e", ancestors=("a",))]
    assert ended(*chain, named=("a",)) == ["e"]
    assert ended(*chain) == ["a", "b", "c", "d", "e"]


def test_an_ancestor_of_what_is_young_stays() -> None:
    assert ended(old("base"), old("young", days=1, ancestors=("base",))) == []


def test_the_newest_retired_versions_of_each_deployment_stay() -> None:
    found = [old(f"r{days}", "retired", days=days) for days in (30, 40, 50)]
    other = Artifact("other", "other", "retired", 0.0)
    assert ended(*found, other) == ["r50", "r40"]


def test_zero_days_keep_for_good() -> None:
    assert ended(old("a", days=10_000), rule=Rule(rejected_days=0)) == []


NAMES = st.sampled_from("abcdefgh")


@given(
    st.lists(st.tuples(NAMES, st.sampled_from(["rejected", "retired", "champion"]), st.floats(0, 99), st.sets(NAMES))),
    st.sets(NAMES),
)
def test_nothing_that_stays_or_is_named_loses_an_ancestor(drawn: Any, named: set[str]) -> None:
    known = {name: old(name, state, days=days, ancestors=tuple(up)) for name, state, days, up in drawn}
    gone = {each.name for each in choose(known.values(), named, NOW, RULE)}
    assert gone.isdisjoint(named)
    for name in set(known) - gone:
        assert gone.isdisjoint(known[name].ancestors)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = connect(f"sqlite:///{tmp_path}/learnd.db")
    fresh.migrate(made)
    yield made
    made.dispose()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def publish(
    engine: Engine, registry: Registry, tmp_path: Path, seed: int, state: str, parents: tuple[str, ...] = ()
) -> str:
    folder = tmp_path / f"model{seed}"
    folder.mkdir(exist_ok=True)
    (folder / "answers.json").write_text("{}")
    said = {"deployment": "bot", "kind": "base", "engine": "echo", "seed": seed, "parents": list(parents)}
    name = registry.publish(folder, said)
    row = VersionRow(
        name=name, deployment="bot", kind="base", base="", state=state, manifest=registry.manifest(name), created=0.0
    )
    transact(engine, lambda session: session.add(row))
    return name


def test_a_sweep_spares_what_slots_cycles_and_commands_name(engine: Engine, registry: Registry, tmp_path: Path) -> None:
    names = [publish(engine, registry, tmp_path, seed, "rejected") for seed in range(8)]
    champion, predecessor, anchor, candidate, teacher, wanted, parent, last = names
    child = publish(engine, registry, tmp_path, 9, "champion", (parent,))

    def work(session: Session) -> None:
        session.add(
            Slot(
                deployment="bot", phase="idle", phase_since=0.0, champion=champion, predecessor=predecessor,
                anchor=anchor, reason="",
            )
        )  # fmt: skip
        session.add(
            Cycle(
                slot=1, trigger="", reason="", method="", step="", window_first=0, window_last=1, seed=1,
                policy_hash="", started=1.0, candidate=candidate, teacher=teacher,
            )
        )  # fmt: skip
        session.add(
            CommandRow(
                deployment="bot", verb="promote", version=wanted, actor="ann", role="operator", reason="", at=1.0
            )
        )

    transact(engine, work)
    assert [each.name for each in sweep(engine, registry, NOW)] == [last]
    assert sorted(registry.names()) == sorted([*names[:-1], child])


def test_the_row_and_the_log_outlive_the_files(engine: Engine, registry: Registry, tmp_path: Path) -> None:
    name = publish(engine, registry, tmp_path, 1, "rejected")
    (ending,) = sweep(engine, registry, NOW)
    assert ending.reason == "rejected for more than 30 days, and nothing names it"
    row = read(engine, lambda session: session.get_one(VersionRow, name))
    assert row.deleted == NOW
    assert row.manifest["seed"] == 1
    assert sweep(engine, registry, NOW) == ()
    assert read(engine, lambda session: len(session.scalars(select(AuditRow)).all())) == 1
    assert read(engine, log.verify).ok


def test_an_interrupted_removal_is_finished_by_the_next_sweep(
    engine: Engine, registry: Registry, tmp_path: Path
) -> None:
    name = publish(engine, registry, tmp_path, 1, "rejected")

    def marked(session: Session) -> None:
        session.get_one(VersionRow, name).deleted = NOW - 1

    transact(engine, marked)
    assert sweep(engine, registry, NOW) == ()
    assert registry.names() == []


def test_a_version_that_is_made_anew_and_named_keeps_its_files(
    engine: Engine, registry: Registry, tmp_path: Path
) -> None:
    name = publish(engine, registry, tmp_path, 1, "rejected")
    sweep(engine, registry, NOW)
    registry.publish(tmp_path / "model1", {"deployment": "bot", "kind": "base", "engine": "echo", "seed": 1})
    assert registry.exists(name)
    slot = Slot(deployment="bot", phase="idle", phase_since=0.0, champion=name, reason="")
    transact(engine, lambda session: session.add(slot))
    sweep(engine, registry, NOW)
    assert registry.exists(name)


def test_no_copy_of_weights_outlives_the_cycle_that_made_them(engine: Engine, tmp_path: Path) -> None:
    def cycle(slot: int, ended: float | None) -> Cycle:
        return Cycle(
            slot=slot, trigger="", reason="", method="", step="", window_first=0, window_last=1, seed=1, policy_hash="",
            started=1.0, ended=ended,
        )  # fmt: skip

    def work(session: Session) -> None:
        for tenant in ("", "acme"):
            session.add(Slot(deployment="bot", tenant=tenant, phase="idle", phase_since=0.0, reason=""))
        session.flush()
        session.add_all([cycle(1, NOW), cycle(1, None), cycle(2, NOW)])

    transact(engine, work)
    keys = ("bot.c1.teacher", "bot.c1.candidate", "bot.c1.candidate.eval", "bot.c2.candidate", "bot.acme.c3.candidate")
    for key in keys:
        for name in ("output", "checkpoint/merged"):
            (tmp_path / key / name).mkdir(parents=True)
            (tmp_path / key / name / "model.safetensors").write_bytes(b"weights")
        (tmp_path / key / "result.json").write_text("{}")
    gone = ("bot.c1.teacher", "bot.c1.candidate", "bot.acme.c3.candidate")
    assert clear(engine, tmp_path) == gone
    for key in keys:
        left = ["result.json"] if key in gone else ["checkpoint", "output", "result.json"]
        assert sorted(path.name for path in (tmp_path / key).iterdir()) == left
    assert clear(engine, tmp_path) == ()
