"""A target serves what it was told last by the newest leader, and answers from what is really there."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon import targets
from daemon.echo_model import Table, write
from daemon.models import Ref
from daemon.targets import Serving, files
from daemon.testing import FakeClock, FakeSource, FakeTarget
from feedback.sources import Position
from policies.errors import Corrupt, Misconfigured, Refused, Transient

ASK = [[{"role": "user", "content": "hello"}]]


@pytest.fixture
def ref(tmp_path: Path) -> Callable[..., Ref]:
    def make(name: str, answer: str, base: Ref | None = None) -> Ref:
        folder = tmp_path / "registry" / name
        write(folder, Table({"hello": answer}))
        return Ref(name, str(folder), base.folder if base else "", "echo")

    return make


@pytest.fixture
def target(tmp_path: Path) -> files.Target:
    return files.Target(files.Options(folder=tmp_path / "served"))


def test_a_routed_version_is_served_and_answers(target: files.Target, ref: Callable[..., Ref]) -> None:
    assert target.serving() == Serving({}, 0)
    target.load(ref("bot@1", "one"))
    target.route({"bot@1": 1.0}, 3)
    assert target.serving() == Serving({"bot@1": 1.0}, 3)
    answers = target.answer(ASK, "bot@1")
    assert answers.texts == ("one",)
    assert answers.logprobs[0] < 0


def test_an_adapter_comes_with_its_base_and_needs_no_registry(
    target: files.Target, ref: Callable[..., Ref], tmp_path: Path
) -> None:
    base = ref("bot@b", "from the base")
    write(tmp_path / "registry" / "bot@a", Table({"bye": "from the adapter"}))
    target.load(Ref("bot@a", str(tmp_path / "registry" / "bot@a"), base.folder, "echo"))
    target.route({"bot@a": 1.0}, 1)
    (tmp_path / "registry").rename(tmp_path / "gone")
    assert target.answer([*ASK, [{"role": "user", "content": "bye"}]], "bot@a").texts == (
        "from the base",
        "from the adapter",
    )
    assert json.loads((tmp_path / "served" / "current" / "learnd.json").read_text())["base"] == "../bot@b"


def test_an_older_token_is_refused_and_changes_nothing(target: files.Target, ref: Callable[..., Ref]) -> None:
    for name in ("bot@1", "bot@2"):
        target.load(ref(name, name))
    target.route({"bot@1": 1.0}, 7)
    with pytest.raises(Refused, match="older"):
        target.route({"bot@2": 1.0}, 6)
    assert target.serving() == Serving({"bot@1": 1.0}, 7)
    target.route({"bot@2": 1.0}, 7)
    assert target.serving().shares == {"bot@2": 1.0}


def test_a_crash_between_token_and_switch_fences_the_old_leader_and_serves_the_old_version(
    target: files.Target, ref: Callable[..., Ref], tmp_path: Path
) -> None:
    for name in ("bot@1", "bot@2"):
        target.load(ref(name, name))
    target.route({"bot@1": 1.0}, 1)
    (tmp_path / "served" / "route.json").write_text(
        json.dumps({"shares": {"bot@2": 1.0}, "token": 2, "history": ["bot@1", "bot@2"]})
    )
    assert target.serving() == Serving({"bot@1": 1.0}, 2)
    with pytest.raises(Refused):
        target.route({"bot@1": 1.0}, 1)
    target.route({"bot@2": 1.0}, 2)
    assert target.answer(ASK, "bot@2").texts == ("bot@2",)


@pytest.mark.parametrize("shares", [{"bot@1": 0.5, "bot@2": 0.5}, {}, {"bot@1": 0.5}, {"bot@1": 1.5}])
def test_shares_that_one_link_cannot_serve_are_refused(
    target: files.Target, ref: Callable[..., Ref], shares: dict[str, float]
) -> None:
    target.load(ref("bot@1", "one"))
    target.load(ref("bot@2", "two"))
    with pytest.raises(Misconfigured) as refused:
        target.route(shares, 1)
    assert refused.value.hint
    assert target.serving() == Serving({}, 0)


def test_what_is_not_loaded_is_not_routed_to_and_what_is_not_served_is_not_asked(
    target: files.Target, ref: Callable[..., Ref]
) -> None:
    with pytest.raises(Refused, match="not loaded"):
        target.route({"bot@1": 1.0}, 1)
    target.load(ref("bot@1", "one"))
    with pytest.raises(Refused, match="nothing is served"):
        target.answer(ASK, "bot@1")
    with pytest.raises(Refused, match="files"):
        target.load(Ref("bot@2", "/nowhere/at/all", engine="echo"))
    with pytest.raises(Refused, match="folder"):
        target.load(Ref("../bot", "x", engine="echo"))


def test_every_call_may_be_repeated(target: files.Target, ref: Callable[..., Ref]) -> None:
    first = ref("bot@1", "one")
    for _ in range(2):
        target.load(first)
        target.route({"bot@1": 1.0}, 1)
        target.unload("bot@never")
    assert target.answer(ASK, "bot@1").texts == ("one",)


def test_a_half_copied_version_of_a_killed_daemon_is_not_taken_for_one(
    target: files.Target, ref: Callable[..., Ref]
) -> None:
    (target.versions / ".draft-bot@1").mkdir(parents=True)
    (target.versions / ".draft-bot@1" / "answers.json").write_text("{")
    with pytest.raises(Refused):
        target.route({"bot@1": 1.0}, 1)
    target.load(ref("bot@1", "one"))
    target.route({"bot@1": 1.0}, 1)
    assert target.answer(ASK, "bot@1").texts == ("one",)


def test_only_what_was_served_lately_and_its_bases_are_kept(target: files.Target, ref: Callable[..., Ref]) -> None:
    base = ref("bot@b", "base")
    for number in range(5):
        target.load(ref(f"bot@{number}", "x", base if number == 3 else None))
        target.route({f"bot@{number}": 1.0}, number + 1)
    kept = sorted(path.name for path in target.versions.iterdir())
    assert kept == ["bot@2", "bot@3", "bot@4", "bot@b"]


def test_a_base_that_served_goes_with_the_last_adapter_on_it(target: files.Target, ref: Callable[..., Ref]) -> None:
    base = ref("bot@b", "base")
    adapter = ref("bot@1", "x", base)
    for ref_ in (base, adapter, *(ref(f"bot@{number}", "merged") for number in (2, 3, 4))):
        target.load(ref_)
        target.route({ref_.name: 1.0}, 1)
    assert sorted(path.name for path in target.versions.iterdir()) == ["bot@2", "bot@3", "bot@4"]


def test_neither_the_served_version_nor_a_base_in_use_is_unloaded(
    target: files.Target, ref: Callable[..., Ref]
) -> None:
    base = ref("bot@b", "base")
    target.load(ref("bot@1", "one", base))
    target.route({"bot@1": 1.0}, 1)
    for name in ("bot@1", "bot@b"):
        with pytest.raises(Refused):
            target.unload(name)
    target.load(ref("bot@2", "two"))
    target.unload("bot@2")
    assert not (target.versions / "bot@2").exists()


def test_a_route_file_that_somebody_edited_is_corrupt(target: files.Target, ref: Callable[..., Ref]) -> None:
    target.load(ref("bot@1", "one"))
    target.route({"bot@1": 1.0}, 1)
    (target.folder / "route.json").write_text("[]")
    with pytest.raises(Corrupt):
        target.serving()


def test_leaders_that_route_at_once_leave_the_newest_ones_version(
    target: files.Target, ref: Callable[..., Ref]
) -> None:
    names = [f"bot@{number}" for number in range(3)]
    for name in names:
        target.load(ref(name, name))
    refusals: list[Refused] = []

    def lead(number: int) -> None:
        for _ in range(20):
            try:
                files.Target(target.options).route({names[number]: 1.0}, number + 1)
            except Refused as error:
                refusals.append(error)

    threads = [threading.Thread(target=lead, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.serving() == Serving({"bot@2": 1.0}, 3)


def test_a_target_is_connected_by_plain_values(tmp_path: Path) -> None:
    assert targets.connect("files", {"folder": str(tmp_path)}).serving() == Serving({}, 0)
    with pytest.raises(Misconfigured, match="foldr"):
        targets.connect("files", {"foldr": str(tmp_path)})
    with pytest.raises(Misconfigured, match="no target"):
        targets.load("carrier-pigeon")
    with pytest.raises(ValueError, match="keep"):
        files.Options(folder=tmp_path, keep=1)


def test_a_fake_target_fails_as_often_as_it_was_told(tmp_path: Path, ref: Callable[..., Ref]) -> None:
    fake = FakeTarget(tmp_path / "fake")
    fake.load(ref("bot@1", "one"))
    fake.fail(2, "route")
    for _ in range(2):
        with pytest.raises(Transient):
            fake.route({"bot@1": 1.0}, 1)
    fake.route({"bot@1": 1.0}, 1)
    assert fake.serving() == Serving({"bot@1": 1.0}, 1)
    assert [call for call, _ in fake.calls] == ["load", "route", "route", "route", "serving"]


def test_a_fake_target_splits_only_when_it_can(tmp_path: Path, ref: Callable[..., Ref]) -> None:
    for splits in (True, False):
        fake = FakeTarget(tmp_path / str(splits), splits=splits)
        for name in ("bot@1", "bot@2"):
            fake.load(ref(name, name))
        shares = {"bot@2": 0.25, "bot@1": 0.75}
        if splits:
            fake.route(shares, 4)
            assert fake.serving() == Serving(shares, 4)
        else:
            with pytest.raises(Misconfigured):
                fake.route(shares, 4)


def test_a_fake_target_misserves_until_it_is_told_otherwise(tmp_path: Path, ref: Callable[..., Ref]) -> None:
    fake = FakeTarget(tmp_path / "fake")
    for name in ("bot@1", "bot@2"):
        fake.load(ref(name, name))
    fake.misserve("bot@1")
    fake.route({"bot@2": 1.0}, 1)
    assert fake.serving().shares == {"bot@2": 1.0}
    assert fake.answer(ASK, "bot@2").texts == ("bot@1",)
    fake.misserve("")
    fake.load(ref("bot@2", "bot@2"))
    fake.route({"bot@2": 1.0}, 2)
    assert fake.answer(ASK, "bot@2").texts == ("bot@2",)


def test_a_fake_target_hangs_until_it_is_released(tmp_path: Path) -> None:
    fake = FakeTarget(tmp_path / "fake")
    fake.hang()
    seen: list[Serving] = []
    waiting = threading.Thread(target=lambda: seen.append(fake.serving()))
    waiting.start()
    assert seen == []
    fake.release()
    waiting.join(10.0)
    assert seen == [Serving({}, 0)]


def test_a_fake_clock_moves_when_it_is_moved() -> None:
    clock = FakeClock(100.0)
    assert clock.advance(5.0) == clock.now() == 105.0
    assert clock.wait(threading.Event(), 10.0) is False
    assert clock.now() == 115.0


def test_a_fake_source_gives_in_order_pauses_fails_and_remembers() -> None:
    source = FakeSource([b"a", b"b"])
    source.put(b"c")
    assert [(raw.value, raw.offset, raw.next) for raw in source.poll(2, 0.0)] == [(b"a", 0, 1), (b"b", 1, 2)]
    source.pause()
    assert source.poll(9, 0.0) == []
    source.resume()
    source.fail(1)
    with pytest.raises(Transient):
        source.poll(9, 0.0)
    assert [raw.value for raw in source.poll(9, 0.0)] == [b"c"]
    place = Position("fake", "feedback", "fake", 0, 3, 0)
    source.committed([place])
    source.put(b"d")
    source.fenced([place])
    assert (source.positions, source.lost, source.poll(9, 0.0)) == ([place], [place], [])
    source.close()
    assert source.closed
