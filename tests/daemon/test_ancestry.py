"""The data probe looks at what the records of the whole ancestry are today, not at what they were when they were used."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from daemon import ancestry, goldens
from daemon.tables import VersionRow
from feedback.db import Base, connect
from feedback.tables import DatasetRow, Held, Record
from policies.errors import Corrupt

KINDS = {"unconsented", "erased", "quarantined", "judge_fold", "near_duplicate", "records"}


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    engine = connect(f"sqlite:///{tmp_path}/learnd.db")
    Base.metadata.create_all(engine)
    with Session(engine) as made:
        yield made
    engine.dispose()


def record(seq: int, **more: Any) -> Record:
    given = {
        "deployment": "bot",
        "id": f"r{seq}",
        "kind": "feedback",
        "time": 1.0,
        "ingested": 1.0,
        "fold": "train",
        "usable": "correction",
        "consent": "shared",
        "content_hash": "",
        "commitment": "",
        "features": {},
        "body": {"messages": [{"role": "user", "content": f"a question of its own about thing number {seq * 7919}"}]},
        "source": "t",
        **more,
    }
    return Record(seq=seq, **given)


def dataset(name: str, *seqs: int) -> DatasetRow:
    return DatasetRow(hash=name, deployment="bot", created=1.0, card={}, seqs=list(seqs))


def version(name: str, *, parent: str = "", data: str = "", **manifest: Any) -> VersionRow:
    return VersionRow(
        name=name,
        deployment="bot",
        kind="adapter",
        base=manifest.get("base", ""),
        parent=parent,
        state="candidate",
        dataset=data,
        manifest=manifest,
        created=1.0,
    )


def found(session: Session, name: str = "v2", tenant: str = "") -> dict[str, float]:
    session.flush()
    rows = ancestry.measurements(session, deployment="bot", tenant=tenant, version=name)
    assert {(row.probe, row.set, row.version) for row in rows} == {("data", "ancestry", name)}
    assert {row.item for row in rows} == {*KINDS, "external"}
    return {row.item: row.value for row in rows if row.value}


def test_a_clean_ancestry_counts_each_record_once(session: Session) -> None:
    session.add_all([record(seq) for seq in (1, 2, 3)])
    session.add_all([dataset("d1", 1, 2), dataset("d2", 2, 3)])
    session.add_all([version("v0"), version("v1", parent="v0", data="d1"), version("v2", parent="v1", data="d2")])
    assert found(session) == {"records": 3}


def test_what_became_of_a_grandparents_records_since_counts_against_the_candidate(session: Session) -> None:
    goldens.import_file(
        session,
        deployment="bot",
        name="shop",
        role="goldens",
        text='{"id": "a", "prompt": "how do i return my green lamp", "reference": "so"}',
        actor="ann",
        now=1.0,
    )
    near = {"messages": [{"role": "user", "content": "How do I return my green lamp?"}]}
    session.add_all(
        [
            record(1, consent="none"),
            record(2, state="erased", body={}),
            record(3, state="quarantined"),
            record(4, fold="judge"),
            record(5, body=near),
            record(6),
            record(7),
            record(8),
        ]
    )
    session.add_all(
        [
            Held(seq=6, deployment="bot", reason="brigade", at=1.0, ended=None),
            Held(seq=7, deployment="bot", reason="brigade", at=1.0, ended=2.0, ending="dropped"),
            Held(seq=8, deployment="bot", reason="brigade", at=1.0, ended=2.0, ending="released"),
        ]
    )
    session.add_all([dataset("d1", *range(1, 10)), dataset("d2", 8)])
    session.add_all([version("v0"), version("v1", parent="v0", data="d1"), version("v2", parent="v1", data="d2")])
    assert found(session) == {
        "unconsented": 1,
        "erased": 2,  # one was erased, and one isn't stored any more
        "quarantined": 3,
        "judge_fold": 1,
        "near_duplicate": 1,
        "records": 9,
    }


def test_the_base_may_not_learn_from_a_tenants_record_that_its_own_slot_may_learn_from(session: Session) -> None:
    session.add_all([record(1, tenant="acme", consent="tenant"), record(2, consent="tenant")])
    session.add_all([dataset("d1", 1, 2), version("v2", data="d1")])
    assert found(session) == {"unconsented": 1, "records": 2}
    assert found(session, tenant="acme") == {"records": 2}
    assert found(session, tenant="rival") == {"unconsented": 1, "records": 2}


def test_teachers_bases_and_all_parents_belong_to_the_ancestry(session: Session) -> None:
    session.add_all([record(seq) for seq in range(1, 5)])
    session.add_all([dataset(f"d{seq}", seq) for seq in range(1, 5)])
    session.add_all([version("t", data="d1"), version("b", data="d2"), version("p", data="d3")])
    session.add(version("v2", data="d4", teacher="t", base="b", parents=["p"]))
    assert ancestry.datasets(session, "v2") == ("d1", "d2", "d3", "d4")
    assert found(session) == {"records": 4}


def test_a_lineage_with_a_hole_is_no_lineage(session: Session) -> None:
    session.add(version("v1", parent="gone"))
    with pytest.raises(Corrupt, match="gone"):
        found(session, "v1")
    session.add(version("v3", data="lost"))
    with pytest.raises(Corrupt, match="lost"):
        found(session, "v3")
