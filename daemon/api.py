"""The control socket: HTTP on a Unix socket, where the caller is who the kernel says.

Owns: who may do what (peer uid -> role), the routes, the socket's life. Refuses to change the world: a command becomes
a row and wakes the loop, a view is a query. Called by `daemon.service`; `daemon.ctl` is its usual client.
"""

import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from uvicorn.protocols.http.h11_impl import H11Protocol

from daemon import commands, evidence, holding, metrics, spent, tallies, views
from daemon import goldens as sets
from daemon.config import Settings
from daemon.peers import OPERATOR, actor_of, listens, role_of
from feedback import db
from policies.errors import LearndError, Misconfigured, Refused, Transient

T = TypeVar("T")

START_SECONDS = 10.0


class PeerProtocol(H11Protocol):
    """HTTP/1.1 whose client address is the peer's uid, told by the kernel (SO_PEERCRED, unix(7))."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("socket").getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
        )
        pid, uid, _gid = struct.unpack("3i", peer)
        self.client = (str(uid), pid)


class Order(BaseModel):
    """What POST /commands takes."""

    model_config = ConfigDict(extra="forbid", strict=True)
    deployment: str
    verb: str
    reason: str = ""
    version: str = ""
    tenant: str = ""


class Release(BaseModel):
    """What POST /quarantine takes: `verb` is release or drop; which held records by `hold`, `rater`, `seqs` or all."""

    model_config = ConfigDict(extra="forbid", strict=True)
    deployment: str
    verb: str
    reason: str = ""
    hold: str = ""
    rater: str = ""
    seqs: list[int] = []
    everything: bool = False


class GoldenFile(BaseModel):
    """What POST /goldens takes: `text` is the JSON Lines of a set."""

    model_config = ConfigDict(extra="forbid", strict=True)
    deployment: str
    name: str
    role: str
    text: str


class _Desk:
    """What the routes share: the database, the settings, the clock and the loop's bell."""

    def __init__(self, engine: Engine, settings: Settings, wake: Callable[[], None], now: Callable[[], float]) -> None:
        self.engine, self.settings, self.wake, self.now = engine, settings, wake, now

    def see(self, work: Callable[[Session], T]) -> T:
        return db.read(self.engine, work)

    def write(self, work: Callable[[Session], T]) -> T:
        answer = db.transact(self.engine, work)
        self.wake()
        return answer


def _peer(request: Request) -> int:
    assert request.client is not None
    return int(request.client.host)


Peer = Annotated[int, Depends(_peer)]


def app(engine: Engine, settings: Settings, *, wake: Callable[[], None], now: Callable[[], float]) -> FastAPI:
    """The routes over one database; `wake` is called after every command, from a worker thread."""
    made = FastAPI(title="learnd", openapi_url=None, docs_url=None, redoc_url=None)
    desk = _Desk(engine, settings, wake, now)
    made.add_exception_handler(LearndError, _failed)
    _views(made, desk)
    _evidence(made, desk)
    _writes(made, desk)
    return made


async def _failed(_request: Request, error: Exception) -> JSONResponse:
    status = 409 if isinstance(error, Refused) else 503 if isinstance(error, Transient) else 500
    hint = error.hint if isinstance(error, LearndError) else ""
    return JSONResponse({"error": type(error).__name__, "message": str(error), "hint": hint}, status_code=status)


def _views(made: FastAPI, desk: _Desk) -> None:
    @made.get("/status")
    def status() -> dict[str, Any]:
        return desk.see(lambda session: views.status(session, desk.now()))

    @made.get("/cycles")
    def cycles(deployment: str = "", limit: int = 20) -> list[dict[str, Any]]:
        return desk.see(lambda session: views.cycles(session, deployment=deployment, limit=limit))

    @made.get("/costs")
    def costs(deployment: str = "") -> list[dict[str, Any]]:
        return desk.see(lambda session: spent.months(session, deployment=deployment))

    @made.get("/drift")
    def drift(peer: Peer, deployment: str = "") -> list[dict[str, Any]]:
        # Typical records hold what users said: operators only.
        texts = role_of(peer, desk.settings.operators) == OPERATOR
        return desk.see(lambda session: views.drift(session, deployment=deployment, texts=texts))

    @made.get("/dead_letters")
    def dead_letters(deployment: str = "", limit: int = 50) -> list[dict[str, Any]]:
        return desk.see(lambda session: views.dead_letters(session, deployment=deployment, limit=limit))

    @made.get("/quarantine")
    def held(deployment: str = "", hold: str = "", records: bool = False, limit: int = 100) -> list[dict[str, Any]]:
        return desk.see(
            lambda session: holding.listing(session, deployment=deployment, hold=hold, records=records, limit=limit)
        )

    @made.get("/metrics")
    def measured() -> PlainTextResponse:
        told = desk.see(lambda session: (views.status(session, desk.now()), tallies.look(session)))
        text = metrics.render(*told)
        return PlainTextResponse(text, media_type=metrics.CONTENT_TYPE)


def _evidence(made: FastAPI, desk: _Desk) -> None:
    @made.get("/versions")
    def versions(deployment: str = "", limit: int = 50) -> list[dict[str, Any]]:
        return desk.see(lambda session: evidence.versions(session, deployment=deployment, limit=limit))

    @made.get("/show")
    def show(version: str) -> dict[str, Any]:
        return desk.see(lambda session: evidence.show(session, version=version))

    @made.get("/items")
    def items(peer: Peer, version: str, gate: str, limit: int = 500) -> list[dict[str, Any]]:
        # What versions said can hold what users said: operators only.
        _operator(peer, desk)
        return desk.see(lambda session: evidence.items(session, version=version, gate=gate, limit=limit))

    @made.get("/goldens")
    def goldens(deployment: str = "") -> list[dict[str, Any]]:
        return desk.see(lambda session: sets.listing(session, deployment))


def _writes(made: FastAPI, desk: _Desk) -> None:
    @made.get("/commands")
    def listed(deployment: str = "", limit: int = 50) -> list[dict[str, Any]]:
        return desk.see(lambda session: commands.listing(session, deployment=deployment, limit=limit))

    @made.get("/commands/{number}")
    def one(number: int) -> dict[str, Any]:
        return desk.see(lambda session: commands.get(session, number))

    @made.post("/commands", status_code=201)
    def command(order: Order, peer: Peer) -> dict[str, Any]:
        actor, role, now = actor_of(peer), role_of(peer, desk.settings.operators), desk.now()
        return desk.write(
            lambda session: commands.insert(session, **order.model_dump(), actor=actor, role=role, now=now)
        )

    @made.post("/quarantine", status_code=201)
    def release(wish: Release, peer: Peer) -> dict[str, Any]:
        actor, role, now = actor_of(peer), role_of(peer, desk.settings.operators), desk.now()
        return desk.write(lambda session: holding.end(session, **wish.model_dump(), actor=actor, role=role, now=now))

    @made.post("/goldens", status_code=201)
    def golden_file(file: GoldenFile, peer: Peer) -> dict[str, Any]:
        _operator(peer, desk)
        actor, now = actor_of(peer), desk.now()
        return desk.write(lambda session: commands.import_goldens(session, **file.model_dump(), actor=actor, now=now))


def _operator(peer: int, desk: _Desk) -> None:
    if role_of(peer, desk.settings.operators) != OPERATOR:
        raise Refused(f"{actor_of(peer)} may not do that", hint="ask an operator")


class Control:
    """The socket's server in a thread of its own. `start` returns when it answers; `stop` leaves no file behind."""

    def __init__(
        self, engine: Engine, settings: Settings, *, wake: Callable[[], None], now: Callable[[], float]
    ) -> None:
        config = uvicorn.Config(
            app(engine, settings, wake=wake, now=now),
            http=PeerProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=2,
        )
        self.path = settings.socket
        self.server = uvicorn.Server(config)
        self.socket: socket.socket | None = None
        self.thread: threading.Thread | None = None

    def start(self) -> None:
        """Bind and serve.

        Raises: Misconfigured where another learnd answers there, or the path can't be a socket.
        """
        self.socket = bind(self.path)
        self.thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [self.socket]}, name="control", daemon=True
        )
        self.thread.start()
        self.thread.join(0.01)
        waited = threading.Event()
        for _ in range(int(START_SECONDS / 0.01)):
            if self.server.started or not self.thread.is_alive():
                break
            waited.wait(0.01)
        if not self.server.started:
            raise Transient(f"the control socket {self.path} did not start", hint="see the log for its reason")

    def stop(self) -> None:
        """Answer what is open, then close and remove the socket."""
        self.server.should_exit = True
        if self.thread is not None:
            self.thread.join(START_SECONDS)
        if self.socket is not None:
            self.socket.close()
            self.path.unlink(missing_ok=True)


def serve(settings: Settings, engine: Engine, *, wake: Callable[[], None], now: Callable[[], float]) -> Control:
    """The control socket, answering. Raises: as `Control.start`."""
    control = Control(engine, settings, wake=wake, now=now)
    control.start()
    return control


def bind(path: Path) -> socket.socket:
    """A listening Unix socket; a dead one of an earlier run is replaced, a live one is not.

    Everybody may connect, since the role follows from who they are; the folder's mode can narrow that.
    Raises: Misconfigured.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists():
            if listens(path):
                raise Misconfigured(f"another learnd serves {path}", hint="stop it, or set service.socket")
            path.unlink()
        made.bind(str(path))
        path.chmod(0o666)
        made.listen(64)
    except OSError as error:
        made.close()
        raise Misconfigured(
            f"{path} can't be the control socket: {error}", hint="set service.socket to a path under 108 characters"
        ) from error
    except Misconfigured:
        made.close()
        raise
    return made
