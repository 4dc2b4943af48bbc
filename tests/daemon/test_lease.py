"""One daemon leads, by the database's clock, and whoever comes after it carries a higher token."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from daemon.lease import Leadership, is_gone, process_name
from daemon.tables import Lease
from feedback.db import connect, transact
from policies.errors import Transient
from tests import fresh


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    url = f"sqlite:///{tmp_path}/learnd.db" if request.param == "sqlite" else request.getfixturevalue("postgres")
    made = connect(url)
    fresh.migrate(made)
    yield made
    made.dispose()


class Hand:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def runs_out(engine: Engine) -> None:
    """What the database's clock does while a leader is silent."""

    def work(session: Session) -> None:
        session.get_one(Lease, "learnd").until = 1.0

    transact(engine, work)


def test_the_first_daemon_leads_and_the_second_stands_by(engine: Engine) -> None:
    first, second = Leadership(engine, holder="a"), Leadership(engine, holder="b")
    assert first.try_acquire()
    assert not second.try_acquire()
    assert first.token() == 1
    assert first.current() == ("a", 1)
    with pytest.raises(Transient, match="does not hold"):
        second.token()


def test_of_many_daemons_that_start_at_once_one_leads(engine: Engine) -> None:
    daemons = [Leadership(engine, holder=str(number)) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(Leadership.try_acquire, daemons)) == 1


def test_the_token_rises_with_every_holder_and_only_then(engine: Engine) -> None:
    first, second = Leadership(engine, holder="a"), Leadership(engine, holder="b")
    tokens = []
    for leader in (first, second, first):
        assert leader.try_acquire()
        assert leader.try_acquire()
        tokens.append(leader.token())
        leader.release()
    assert tokens == [1, 2, 3]


def test_a_silent_leader_is_followed_and_fenced(engine: Engine) -> None:
    clock = Hand()
    first, second = Leadership(engine, holder="a", now=clock, seconds=30.0), Leadership(engine, holder="b")
    assert first.try_acquire()
    runs_out(engine)
    assert second.try_acquire()
    assert second.token() == 2
    clock.time = 30.0
    with pytest.raises(Transient, match="does not hold"):
        first.token()
    with pytest.raises(Transient, match="another learnd leads now: b"):
        first.renew()
    second.release()
    first.renew()
    assert first.token() == 3


def test_a_leader_gives_up_by_itself_before_anybody_can_follow(engine: Engine) -> None:
    clock = Hand()
    leader = Leadership(engine, holder="a", now=clock, seconds=30.0)
    assert leader.try_acquire()
    clock.time = 29.9
    assert leader.token() == 1
    clock.time = 30.0
    with pytest.raises(Transient):
        leader.token()
    leader.renew()
    assert leader.token() == 1


def test_renewing_writes_only_when_a_third_has_gone_by(engine: Engine) -> None:
    clock = Hand()
    leader = Leadership(engine, holder="a", now=clock, seconds=30.0)
    assert leader.try_acquire()
    runs_out(engine)
    clock.time = 9.0
    leader.renew()
    assert Leadership(engine, holder="b").try_acquire()
    clock.time = 11.0
    with pytest.raises(Transient, match="another learnd leads"):
        leader.renew()


def test_a_clock_that_was_set_back_keeps_no_lease_alive(engine: Engine) -> None:
    clock = Hand()
    leader = Leadership(engine, holder="a", now=clock, seconds=30.0)
    assert leader.try_acquire()
    clock.time = -1000.0
    runs_out(engine)
    assert Leadership(engine, holder="b").try_acquire()
    with pytest.raises(Transient, match="another learnd leads"):
        leader.renew()


def test_a_standby_takes_over_when_the_leader_goes(engine: Engine) -> None:
    first, second = Leadership(engine, holder="a"), Leadership(engine, holder="b")
    assert first.acquire()
    waiting = threading.Thread(target=second.acquire, kwargs={"poll_seconds": 0.02})
    waiting.start()
    first.release()
    waiting.join(timeout=10)
    assert second.token() == 2


def test_a_standby_can_be_stopped(engine: Engine) -> None:
    assert Leadership(engine, holder="a").acquire()
    stop = threading.Event()
    stop.set()
    assert not Leadership(engine, holder="b").acquire(stop)


def test_giving_back_what_another_one_holds_changes_nothing(engine: Engine) -> None:
    first, second = Leadership(engine, holder="a"), Leadership(engine, holder="b")
    assert first.try_acquire()
    runs_out(engine)
    assert second.try_acquire()
    first.release()
    assert first.current() == ("b", 2)


def test_a_killed_leader_of_this_machine_is_not_waited_for(engine: Engine) -> None:
    code = "from daemon.lease import process_name; print(process_name())"
    dead = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert is_gone(dead)
    assert Leadership(engine, holder=dead).try_acquire()
    following = Leadership(engine)
    assert following.try_acquire()
    assert following.token() == 2


def test_only_a_process_known_to_have_ended_is_gone() -> None:
    alive = process_name()
    host, boot, space, pid, started, _ = alive.split("/")
    assert not is_gone(alive)
    assert is_gone(f"{host}/{boot}/{space}/{pid}/{int(started) - 1}/0")
    for elsewhere in ("", "a", f"other/{boot}/{space}/1/0/0", f"{host}/other/{space}/1/0/0", f"{host}/{boot}/1/1/0/0"):
        assert not is_gone(elsewhere)
