"""A judge is asked both ways round, is itself measured, and nothing is scored by another model or by nobody."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from daemon import evaluation, models
from daemon.echo_model import Table, write
from daemon.jobs import Job
from daemon.models import Ref
from daemon.options import Place, build
from daemon.probes import Item, Probed, goldens
from daemon.probes.judge import Options, labelled
from policies import gates
from policies.errors import Misconfigured, Transient
from policies.model import Evidence, Measurement, Result, Verdict

MODEL = "judge-1@2026-01"
LABELLED = {"reference": "by card", "good": ["By card or by transfer."], "bad": ["No idea."]}
Rule = Callable[[str, str], str]


@contextmanager
def judge(rule: Rule, *, model: str = MODEL, status: int = 200) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that speaks the protocol and prefers by `rule`(A, B); its address and all that it was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({**body, "path": self.path, "key": self.headers.get("Authorization", "")})
            text = body["messages"][-1]["content"]
            a, b = (text.split(f"<{tag}>\n")[1].split(f"\n</{tag}>")[0] for tag in "AB")
            told = {"model": model, "choices": [{"message": {"role": "assistant", "content": rule(a, b)}}]}
            reply = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: Any) -> None:
            """Nothing: the test's output is the test's."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def right(a: str, b: str) -> str:
    """Prefers whatever speaks of a card."""
    good, other = ("card" in text.casefold() for text in (a, b))
    return "C" if good == other else "A" if good else "B."


def measured(folder: Path, url: str, answer: str = "Pay by card.", **more: Any) -> dict[tuple[str, str], float]:
    write(folder, Table({"how can i pay": answer}, "I don't know"))
    ref = Ref("bot@1", str(folder), engine="echo")
    items = [
        Item("s", "j", ({"role": "user", "content": "How can I pay"},), check="judge", value=LABELLED),
        Item("s", "p", ({"role": "user", "content": "How can I pay"},), check="contains", value="pay"),
    ]
    options = goldens.Options(judge=Options(url=url, model=MODEL, timeout_seconds=5.0, **more))
    found = goldens.measure(Probed(ref, models.load(ref), 64), items, options)
    return {(m.probe, m.item): m.value for m in found}


def test_an_answer_as_good_as_the_reference_scores_one_and_the_judge_is_measured_on_labelled_answers(
    tmp_path: Path,
) -> None:
    with judge(right) as (url, asked):
        found = measured(tmp_path, url)
    assert found == {
        ("goldens", "p"): 1.0, ("goldens", "j"): 1.0, ("goldens_judge_error", "j"): 0.0, ("goldens_judge_labels", "j"): 2.0
    }  # fmt: skip
    assert {(each["path"], each["model"], each["temperature"]) for each in asked} == {
        ("/v1/chat/completions", MODEL, 0)
    }
    first, second = (each["messages"][-1]["content"] for each in asked[:2])
    assert first.index("Pay by card.") < first.index("\nby card\n")
    assert second.index("\nby card\n") < second.index("Pay by card.")
    with judge(right) as (url, _):
        assert measured(tmp_path, url, "Ask my boss.")["goldens", "j"] == 0.0


@pytest.mark.parametrize(("always", "score", "error"), [("A", 0.5, 1.0), ("C", 1.0, 0.5), ("Neither", 0.0, 0.5)])
def test_a_judge_that_looks_at_places_or_says_nothing_is_found_out_by_its_own_error(
    tmp_path: Path, always: str, score: float, error: float
) -> None:
    with judge(lambda _a, _b: always) as (url, _):
        found = measured(tmp_path, url)
    assert (found["goldens", "j"], found["goldens_judge_error", "j"]) == (score, error)


def test_a_judge_that_is_away_is_waited_for_and_never_made_up_for(tmp_path: Path) -> None:
    with judge(right) as (url, _):
        pass
    with pytest.raises(Transient, match="is away"):
        measured(tmp_path, url)
    for status in (429, 500, 503):
        with judge(right, status=status) as (url, _), pytest.raises(Transient, match=str(status)):
            measured(tmp_path, url)


def test_another_model_than_the_pinned_one_judges_nothing(tmp_path: Path) -> None:
    with judge(right, model="judge-2") as (url, _), pytest.raises(Misconfigured, match="judge-2 answered"):
        measured(tmp_path, url)
    with judge(right, status=401) as (url, _), pytest.raises(Misconfigured, match="401"):
        measured(tmp_path, url)
    with pytest.raises(ValueError, match="both"):
        Options(url="http://127.0.0.1:1/v1")


def test_the_key_comes_from_the_environment_and_an_item_without_a_judge_is_a_misconfiguration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "s3cret")
    with judge(right) as (url, asked):
        measured(tmp_path, url, key_variable="JUDGE_KEY")
    assert {each["key"] for each in asked} == {"Bearer s3cret"}
    item = Item("s", "j", ({"role": "user", "content": "x"},), check="judge", value=LABELLED)
    ref = Ref("bot@1", str(tmp_path), engine="echo")
    with pytest.raises(Misconfigured, match="asks for a judge"):
        goldens.measure(Probed(ref, models.load(ref), 64), [item], goldens.Options())


def test_a_policy_sets_the_judge_in_a_table_of_its_own() -> None:
    table = {"judge": {"url": "http://judge:8000/v1", "model": MODEL}}
    made = build(goldens.Options, table, Place("policy", "probes.goldens"))
    assert made.judge == Options("http://judge:8000/v1", MODEL)


def test_labelled_answers_count_once_however_often_they_were_written() -> None:
    assert labelled({"good": ["a", "a"], "bad": ["b"]}) == [("a", 1.0), ("b", 0.0)]


def compared(folder: Path, url: str, *, lost: str = "") -> Verdict:
    """The regression gate's verdict on two equal versions that a judge scored on 40 items, `lost` measured of neither."""
    write(folder, Table({}, "Pay by card."))
    item = {"messages": [{"role": "user", "content": "How can I pay"}], "check": {"kind": "judge", "value": LABELLED}}
    path = folder / "shop.jsonl"
    path.write_text("".join(json.dumps({"id": f"g{n}", **item}) + "\n" for n in range(40)), "utf-8")
    inputs = {
        "versions": {
            role: Ref(name, str(folder), engine="echo").to_json()
            for role, name in (("candidate", "bot@2"), ("champion", "bot@1"))
        },
        "sets": [{"name": "shop", "role": "goldens", "path": str(path)}],
        "options": {"goldens": {"judge": {"url": url, "model": MODEL, "timeout_seconds": 5.0}}},
    }
    evaluation.run(Job("k", "evaluate", inputs, 7, 0.0, folder))
    rows = [json.loads(line) for line in (folder / "measurements.jsonl").read_text("utf-8").splitlines()]
    read = [Measurement(**{key: row[key] for key in Measurement.__slots__}) for row in rows if row["probe"] != lost]
    new, old = (Evidence(name, tuple(m for m in read if m.version == name)) for name in ("bot@2", "bot@1"))
    policy = {"regression": gates.load("regression").Options(margin=0.1)}
    (mine,) = (each for each in gates.judge_all(new, old, None, policy) if each.gate == "regression")
    return mine


@pytest.mark.slow
def test_the_gate_reads_how_often_the_judge_erred(tmp_path: Path) -> None:
    with judge(right) as (url, _):
        good = compared(tmp_path, url)
        unknown = compared(tmp_path, url, lost="goldens_judge_error")
    assert good.result is Result.PASS, good.reason
    assert "erred on 0 of 80 labelled answers" in next(claim.note for claim in good.claims if "judge" in claim.name)
    assert unknown.result is Result.FAIL
    assert "0 of 40 items that a judge scored" in unknown.reason
    with judge(lambda _a, _b: "C") as (url, _):
        lenient = compared(tmp_path, url)
    assert lenient.result is Result.FAIL
    assert lenient.reason.startswith("the judge erred on 40 of 80 labelled answers; upper bound 60 %, limit 10 %")
