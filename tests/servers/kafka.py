"""Apache Kafka, one KRaft node, from its jars: no container, no ZooKeeper.

`with kafka() as broker:` gives a running broker; `broker.bootstrap`, `broker.topic(…)`, `broker.stop()`, `broker.start()`.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from tests.servers import MissingError, folder, free_port, running, wait_until

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "kafka"

PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs={folder}/data
num.partitions=1
auto.create.topics.enable=false
delete.topic.enable=true
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.retention.check.interval.ms=500
log.segment.delete.delay.ms=0
message.max.bytes=20000000
replica.fetch.max.bytes=20000000
"""


class Broker:
    """One broker: it may be stopped and started again on the same port, with what it has stored."""

    def __init__(self, path: Path) -> None:
        self._folder = path
        self._port = free_port()
        self._stack = contextlib.ExitStack()
        self.bootstrap = f"127.0.0.1:{self._port}"
        self._jars = jars()
        (path / "server.properties").write_text(
            PROPERTIES.format(port=self._port, controller=free_port(), folder=path), encoding="utf-8"
        )
        uuid = self._tool("random-uuid").strip().splitlines()[-1]
        self._tool("format", "-t", uuid, "-c", f"{path}/server.properties", "--standalone")

    def start(self) -> None:
        """Start, and wait until it answers."""
        log = self._folder / "broker.log"
        command = [*self._java("-Xmx512m"), "kafka.Kafka", f"{self._folder}/server.properties"]
        process = self._stack.enter_context(running(command, log, stop=signal.SIGKILL))
        wait_until(self._answers, process, log)

    def stop(self) -> None:
        """Kill it (-9): as a power cut would."""
        self._stack.close()

    def topic(self, name: str, *, partitions: int = 1, **config: str) -> str:
        """Make a topic; returns its name."""
        with contextlib.closing(KafkaAdminClient(bootstrap_servers=self.bootstrap)) as admin:
            admin.create_topics([NewTopic(name, partitions, 1, topic_configs=config)])
        return name

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def _java(self, *options: str) -> list[str]:
        return ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", *options, "-cp", f"{self._jars}/*"]

    def _tool(self, *arguments: str) -> str:
        command = [*self._java("-Xmx128m"), "kafka.tools.StorageTool", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=self._folder).stdout


@contextlib.contextmanager
def kafka() -> Iterator[Broker]:
    """A running broker; everything of it is gone afterwards. Raises: MissingError."""
    with folder("learnd-kafka-") as path:
        broker = Broker(path)
        broker.start()
        try:
            yield broker
        finally:
            broker.stop()


def jars() -> Path:
    """The folder of the broker's jars, fetched once into the repository's ignored cache. Raises: MissingError."""
    if shutil.which("java") is None:
        raise MissingError("Kafka's tests need Java 17. On Debian, as root: apt-get install default-jre-headless")
    lib = CACHE / "lib-4.1.0"
    if lib.is_dir():
        return lib
    if shutil.which("mvn") is None:
        raise MissingError("Kafka's jars are fetched with Maven. On Debian, as root: apt-get install maven")
    CACHE.mkdir(parents=True, exist_ok=True)
    with folder("learnd-jars-") as path:
        shutil.copy(HERE / "pom.xml", path)
        fetched = subprocess.run(
            ["mvn", "-B", "-q", "dependency:copy-dependencies", f"-DoutputDirectory={path}/lib"],
            cwd=path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if fetched.returncode:
            raise MissingError(f"Maven could not fetch Kafka's jars: has it a repository?\n{fetched.stdout[-2000:]}")
        half = CACHE / f"lib-{os.getpid()}"
        shutil.copytree(path / "lib", half)
        with contextlib.suppress(OSError):  # another run was faster: its copy is as good
            half.rename(lib)
        shutil.rmtree(half, ignore_errors=True)
    return lib
