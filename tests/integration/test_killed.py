"""learnd is killed with -9, again and again, wherever it stands; the next start goes on, and the end is the same."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from daemon.audit import log as audit
from daemon.audit.replay import replay
from daemon.policyfile import parse_policy
from daemon.tables import Cycle, Slot, VersionRow
from feedback import db, store
from tests.daemon.test_service import World

BIN = Path(sys.executable).parent
KILLS = 8


def run(world: World, *more: str) -> subprocess.Popen[bytes]:
    command = [BIN / "learnd", "run", "--config", world.folder / "learnd.toml", *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_service_killed_at_any_moment_ends_where_an_undisturbed_one_ends(tmp_path: Path) -> None:
    world = World(tmp_path, now=time.time())
    world.import_goldens()
    world.corrections(80)
    adopted = world.slot().champion
    world.service.stop()
    draw = random.Random(11)
    for _ in range(KILLS):
        process = run(world)
        time.sleep(draw.uniform(1.5, 6.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
    last = run(world, "--until-idle")
    _, errors = last.communicate(timeout=200)
    assert last.returncode == 0, errors.decode()
    engine = db.connect(world.settings.database)
    slot, cycles, versions = db.read(
        engine,
        lambda s: (
            s.scalars(select(Slot)).one(),
            list(s.scalars(select(Cycle))),
            list(s.scalars(select(VersionRow.name))),
        ),
    )
    assert slot.phase == "watching", (slot.reason, [cycle.outcome_reason for cycle in cycles])
    assert slot.champion != adopted
    assert (len(cycles), len(versions)) == (1, 2), "one cycle, one candidate: nothing was done twice"
    assert world.serves() == slot.champion
    assert json.loads((tmp_path / "serving" / "route.json").read_text())["shares"] == {slot.champion: 1.0}
    assert db.read(engine, lambda s: store.counters(s, "bot"))["stored"] == 80
    assert db.read(engine, audit.verify).ok
    again = replay(engine, parse_policy)
    assert again.same == again.decisions > 0
    engine.dispose()
