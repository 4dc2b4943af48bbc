"""What questions mean is compared in a job by a local encoder: it finds what lengths, languages and topics don't show."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from daemon import drifting, encoding, schema, views
from daemon.jobs import Job, JobSpec
from daemon.tables import DriftRow, Slot
from feedback import db
from policies.errors import Misconfigured
from policies.model import JobView
from tests import tiny
from tests.daemon.test_looking import DAY, OLD, RULE, Place

pytestmark = pytest.mark.torch

# The longest word, the length and the language are the same, so that no column tells one from the other.
ANIMALS, SHOPS = ("dog", "bird", "spider", "legs"), ("red", "blue", "colour", "grass")
ASKED = "what is the capitalisation of {one}"  # no number: a growing one is a drift to an encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BERT of two layers, built from a configuration, with random weights, and its tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder")
    tiny.build(folder)  # its tokenizer is what is wanted
    config = BertConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        BertModel(config).save_pretrained(folder)
    return str(folder)


@dataclass
class AtOnce:
    """Jobs that are done as soon as they are started."""

    folder_: Path
    specs: list[JobSpec] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)

    def find(self, key: str) -> JobView:
        return JobView(key, "meaning", "done" if key in self.results else "absent")

    def start(self, spec: JobSpec) -> None:
        self.specs.append(spec)
        folder = self.folder_ / str(len(self.specs))
        folder.mkdir()
        inputs = json.loads(json.dumps(dict(spec.inputs)))
        self.results[spec.key] = drifting.run(Job(spec.key, spec.kind, inputs, spec.seed, 0.0, folder))

    def result(self, key: str) -> dict[str, Any]:
        return dict(self.results[key])

    def folder(self, key: str) -> Path:
        return self.folder_ / key


@pytest.fixture
def place(tmp_path: Path, encoder: str) -> Iterator[Place]:
    """A week of questions about animals, and a reference of them."""
    engine = db.connect(f"sqlite:///{tmp_path}/learnd.db")
    schema.migrate(engine)
    with Session(engine) as session, session.begin():
        session.add(Slot(id=1, deployment="bot", phase="idle", phase_since=0.0, champion=OLD, anchor=OLD))
    made = Place(engine, replace(RULE, encoder=encoder), jobs=AtOnce(tmp_path))
    made.say(99, text=ASKED.replace("{one}", "dog..."))  # sequence numbers begin at 1
    for _ in range(7):
        ask(made, ANIMALS)
    made.promote(OLD)
    yield made
    engine.dispose()


def ask(place: Place, words: tuple[str, ...]) -> None:
    """A day of two hundred questions about these words, padded to the same length."""
    for number, word in enumerate(words):
        place.say(200 // len(words), text=ASKED.replace("{one}", word.ljust(6, ".")))
        place.now -= DAY if number + 1 < len(words) else 0


def looked(place: Place) -> DriftRow:
    """The newest cheap row, after as many looks as its jobs need."""
    for _ in range(4):
        place.look()
    with Session(place.engine) as session:
        row = session.scalar(select(DriftRow).where(DriftRow.detector == "psi").order_by(DriftRow.id.desc()).limit(1))
    assert row is not None
    return row


def test_a_drift_that_no_column_shows_alarms_by_its_meaning_with_records_that_show_it(place: Place) -> None:
    for _ in range(5):
        ask(place, ANIMALS)
        assert not looked(place).drifted
    for _ in range(5):
        ask(place, SHOPS)
        row = looked(place)
    assert [column["column"] for column in row.report["columns"] if column["drifted"]] == ["meaning"]
    assert row.report["kind"] == "inputs"
    assert row.report["reason"].startswith("inputs drifted in meaning (witness ")
    report = next(one for one in db.read(place.engine, views.drift) if one["detector"] == "psi")
    assert len({record["prompt"] for record in report["typical"]}) == len(report["typical"]) >= 2
    assert all(any(word in record["prompt"] for word in SHOPS) for record in report["typical"])
    assert {spec.kind for spec in place.jobs.specs} == {"meaning"}
    spent = sum(spec.inputs["options"]["error_rate"] for spec in place.jobs.specs)
    assert spent == pytest.approx(place.rule.false_alarms / 2 * 10 / 30, rel=0.2)  # its half of ten days' share


def test_the_encoder_is_asked_once_a_block_and_never_twice_about_the_same(place: Place) -> None:
    for _ in range(6):
        ask(place, ANIMALS)
        looked(place)
    keys = [spec.key for spec in place.jobs.specs]
    assert len(keys) == len(set(keys)) == 4  # three blocks are needed first


def test_an_encoder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="there is no encoder in"):
        encoding.encode(str(tmp_path / "nowhere"), ["a"])


def test_a_vector_does_not_depend_on_what_is_read_with_it(encoder: str) -> None:
    texts = ["what is the sky", "grass", "how many legs has a spider and how many has a dog", "the sky is blue"]
    together = encoding.encode(encoder, texts)
    alone = np.concatenate([encoding.encode(encoder, [text]) for text in texts])
    assert np.allclose(together, alone, atol=1e-5)
    assert np.allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-6)


@pytest.mark.slow
def test_evidently_confirms_it_on_questions_that_the_direction_does_not_know(place: Place, tmp_path: Path) -> None:
    place.rule = replace(place.rule, evidence="columns")
    place.jobs.folder_ = tmp_path
    for _ in range(4):
        ask(place, SHOPS)
        looked(place)
    with Session(place.engine) as session:
        row = session.scalar(select(DriftRow).where(DriftRow.detector == "columns").order_by(DriftRow.id.desc()))
    assert row is not None
    assert [column["column"] for column in row.report["columns"] if column["drifted"]] == ["meaning"]
    assert any(name.endswith("inputs.html") for name in row.report["files"])
