"""The demo's stage: its folder, its simulated clock, the real service on it, and what stands between weeks.

Owns: laying out the folder, making the first model, delivering the teacher, letting weeks pass. Refuses to know the
story (`daemon.demo.script`) and never touches learnd's tables but through what any operator has: the feed, the policy's
file, imported sets. Called by `daemon.demo.script`.
"""

import hashlib
import json
import os
import random
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from time import perf_counter
from typing import Any

from daemon import commands, models
from daemon.clock import SystemClock
from daemon.config import load
from daemon.demo import users, vendor, world
from daemon.jobs import JobSpec
from daemon.models import Ref
from daemon.service import Service
from daemon.testing import FakeClock
from feedback import db
from policies.errors import Refused, Transient

NAME = "shop-assistant"
VENDOR = "demo.vendor"
TOLD_SECONDS = 5.0
POLL_SECONDS, POLL_MOVES = 0.1, 30.0  # a job's tenth of a second is half a minute of the little world
WEEKS = 7.4  # of the story, so that it ends about now
LONGEST_ANSWER = 40
EXAM = 40

Tell = Callable[[str], None]


class Stage:
    """One run of the demo in `folder`; `tell` shows a line of progress."""

    def __init__(self, folder: Path, seed: int, tell: Tell) -> None:
        self.folder, self.seed, self.tell = folder, seed, tell
        self.world = world.load()
        self.users = users.Users(self.world, NAME, seed)
        self.clock = FakeClock(SystemClock().now() - WEEKS * users.WEEK)
        self.read = 0
        self._served: tuple[str, models.Model] | None = None
        self._layout()
        self.service = Service(load(folder / "learnd.toml"), clock=self.clock)

    def _layout(self) -> None:
        _clear(self.folder)
        (self.folder / "state").mkdir(parents=True, mode=0o700)
        for name in ("feed", "policies", "goldens", "vendor", "state/keys"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "learnd.toml").write_text(_template("learnd.toml"), encoding="utf-8")
        self.write_policy("")
        # Keys of a real service are drawn; these follow the seed, so that a seed folds its prompts alike every time.
        for key in ("user-1.key", "fold.key"):
            path = self.folder / "state" / "keys" / key
            path.write_bytes(hashlib.sha256(f"demo {key} {self.seed}".encode()).digest())
            path.chmod(0o600)

    def write_policy(self, teacher: str) -> None:
        """What an operator edits: the policy's file, with the teacher's folder in it."""
        text = _template("policy.toml").replace("@TEACHER@", teacher)
        (self.folder / "policies" / f"{NAME}.toml").write_text(text, encoding="utf-8")

    def open(self) -> None:
        """Make the first model, adopt it, import the golden sets, and let the vendor begin with the next teacher."""
        model = self.folder / "models" / NAME
        steps = vendor.FIRST.steps

        def progress(step: int, loss: float) -> None:
            if step % 100 == 0:
                self.tell(f"first model: {step} of {steps} steps, loss {loss:.2f}")

        # Importing Evidently takes ten seconds: let it happen on the second core meanwhile.
        self.service.jobs.start(JobSpec("demo.warm", "drift", "daemon.demo.vendor:warm"))
        vendor.first(model, self.seed, progress)
        self.service.start()
        for role, text in world.golden_sets(self.world, random.Random(f"goldens {self.seed}")).items():
            (self.folder / "goldens" / f"{role}.jsonl").write_text(text, encoding="utf-8")
            self._import(role, text)
        inputs = {"base": str(model), "folder": str(self.folder / "vendor" / "teacher-2")}
        self.service.jobs.start(
            JobSpec(VENDOR, "train", "daemon.demo.vendor:teacher", inputs, seed=self.seed, device="cpu")
        )

    def _import(self, role: str, text: str) -> None:
        report = db.transact(
            self.service.engine,
            lambda session: commands.import_goldens(
                session, deployment=NAME, name=role, role=role, text=text, actor="demo", now=self.clock.now()
            ),
        )
        if not report["stored"]:
            raise Refused(f"the {role} set was not accepted: {report['refused'][:3]}", hint="report this defect")

    def deliver(self) -> None:
        """Wait for the vendor's teacher, name it in the policy, and have the service reload it."""
        while (job := self.service.jobs.find(VENDOR)).state == "running":
            self.tell(f"waiting for the vendor: {job.progress}")
            SystemClock().wait(threading.Event(), 2.0)
        if job.state != "done":
            raise Transient(f"the vendor's teacher failed: {job.error}", hint="run the demo again")
        self.write_policy("../vendor/teacher-2")
        self.service.reload()

    def week(self, traffic: users.Traffic) -> users.Week:
        """Let a week pass: users meet what is served, their feedback lands in the feed, the service takes it in."""
        version, model = self.served()
        self.clock.advance(users.WEEK)

        def answer(texts: Sequence[str]) -> list[str]:
            return model.answer([_asked(text) for text in texts], max_new_tokens=LONGEST_ANSWER)

        told = self.users.week(traffic, answer, version, self.clock.now())
        path = self.folder / "feed" / f"week-{int(self.clock.now())}.jsonl"
        path.write_bytes(b"".join(line + b"\n" for line in told.lines))
        while taken := self.service.ingest_once(0.0):
            self.read += taken
        return told

    def work(self, show: Callable[[], str]) -> None:
        """Tick until there is nothing left to do; `show` says where it stands."""
        idle, said, told = 0, "", 0.0
        while idle < 2:
            idle = 0 if self.service.tick() else idle + 1
            line, now = show(), perf_counter()
            # Another phase is told at once, its progress every few seconds.
            if line.partition(":")[0] != said or (idle == 0 and now > told + TOLD_SECONDS):
                self.tell(line)
                said, told = line.partition(":")[0], now
            SystemClock().wait(threading.Event(), POLL_SECONDS)
            self.clock.advance(POLL_MOVES)

    def served(self) -> tuple[str, models.Model]:
        """The version that the target's `current` leads to, loaded from there as a server would."""
        ref = current(self.folder / "serving" / NAME)
        if self._served is None or self._served[0] != ref.name:
            self._served = (ref.name, models.load(ref))
        return self._served

    def exam(self, model: models.Model) -> dict[str, float]:
        """Share of right answers to fresh questions, 40 of each sort, in phrasings that nobody trained on."""
        rng = random.Random(f"exam {self.seed}")
        scores = {}
        for name, group in (("base", "base"), ("new", "new"), ("later", "later"), ("refuses", "harmful")):
            asks = self.world.distinct(EXAM, self.world.group(group), rng, held=True)
            said = model.answer([_asked(ask.text) for ask in asks], max_new_tokens=LONGEST_ANSWER)
            scores[name] = sum(ask.right(text) for ask, text in zip(asks, said, strict=True)) / EXAM
        return scores

    def candidate(self, name: str) -> models.Model:
        """A version out of the registry, for an exam of what was refused."""
        return models.load(self.service.registry.ref(name))


def current(serving: Path) -> Ref:
    """What a server that watches the files target's folder should serve now."""
    folder = (serving / "current").resolve()
    card = json.loads((folder / "learnd.json").read_text(encoding="utf-8"))
    base = str((folder / card["base"]).resolve()) if card["base"] else ""
    return Ref(card["name"], str(folder), base, card["engine"])


def _asked(text: str) -> list[Mapping[str, str]]:
    return [{"role": "user", "content": text}]


def _clear(folder: Path) -> None:
    """Make room where an earlier demo lies; anything else is nobody's to delete.

    Raises: Refused.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return
    config = folder / "learnd.toml"
    if not config.is_file() or config.read_text(encoding="utf-8") != _template("learnd.toml"):
        raise Refused(f"{folder} is not empty, and no demo's", hint="name a folder that is not there yet")
    shutil.rmtree(folder)


def _template(name: str) -> str:
    return (files("daemon.demo") / name).read_text(encoding="utf-8")


def quiet() -> None:
    """Keep the demo's screen to the demo: libraries' bars and warnings away, one thread for what is so small."""
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}  # for the jobs too
    import torch
    import transformers

    quietly: Any = transformers.logging
    quietly.set_verbosity_error()
    quietly.disable_progress_bar()

    torch.set_num_threads(1)
