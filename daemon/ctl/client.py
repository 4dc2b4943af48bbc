"""Where learnctl reads and writes: the database for reading, the control socket for everything that changes something.

Owns: which of the two is asked, and what it means that one is away. Refuses to know what a view holds (`daemon.views`)
and to format. Called by the modules of `daemon.ctl`.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from sqlalchemy import Engine, make_url
from sqlalchemy.orm import Session

from daemon import commands, evidence, schema, spent, views
from daemon.clock import SystemClock
from daemon.config import Settings, load
from daemon.ctl.shared import config_of
from daemon.peers import actor_of, listens
from feedback import db
from policies.errors import Corrupt, LearndError, Misconfigured, Refused, Transient

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

CONFIG = "LEARND_CONFIG"
PLACES = (Path("learnd.toml"), Path("/etc/learnd/learnd.toml"))
SECONDS = 30.0


def _goldens(session: Session, *, deployment: str = "") -> list[dict[str, Any]]:
    from daemon import goldens

    return goldens.listing(session, deployment)


def _quarantine(session: Session, **which: Any) -> list[dict[str, Any]]:
    from daemon import holding

    return holding.listing(session, **which)


def _status(session: Session) -> dict[str, Any]:
    return views.status(session, SystemClock().now())


VIEWS: dict[str, Callable[..., Any]] = {
    "status": _status,
    "cycles": views.cycles,
    "drift": views.drift,
    "dead_letters": views.dead_letters,
    "costs": spent.months,
    "versions": evidence.versions,
    "show": evidence.show,
    "items": evidence.items,
    "commands": commands.listing,
    "goldens": _goldens,
    "quarantine": _quarantine,
}


@dataclass
class Door:
    """One configuration, as a reader and as a writer."""

    settings: Settings

    @cached_property
    def engine(self) -> Engine:
        """The database.

        Raises: Transient where it is not there yet, Misconfigured where its schema isn't ours.
        """
        url = make_url(self.settings.database)
        if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).is_file():
            raise Transient(
                f"there is no database yet at {url.database}",
                hint=f"learnd run --config {self.settings.path} makes it when it starts",
            )
        engine = db.connect(self.settings.database)
        schema.check(engine)
        return engine

    @cached_property
    def prepared(self) -> Engine:
        """The database, made and brought up to date where it isn't: what is written without a daemon needs no first start.

        Raises: Misconfigured, Transient.
        """
        state = self.settings.state
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        if state.stat().st_uid != os.geteuid():
            raise Misconfigured(
                f"{state} belongs to {actor_of(state.stat().st_uid)}, and its service could not read what you make there",
                hint="start the daemon and try again, or run this as that user (sudo -u)",
            )
        engine = db.connect(self.settings.database)
        schema.migrate(engine)
        return engine

    def close(self) -> None:
        """Let the database go."""
        for engine in {id(each): each for name, each in vars(self).items() if name in ("engine", "prepared")}.values():
            engine.dispose()

    def read(self, work: Callable[[Session], T]) -> T:
        """Run a query. Raises: Transient, Misconfigured as `engine`."""
        return db.read(self.engine, work)

    def see(self, view: str, **parameters: Any) -> Any:
        """A view by its name, from the database; through the socket where the database isn't ours to open.

        Raises: Transient where neither can be asked; what the view raises.
        """
        if self._closed_to_me() and self.answers():
            return self.ask("GET", f"/{view}", params=parameters)
        return self.read(lambda session: VIEWS[view](session, **parameters))

    def answers(self) -> bool:
        """Whether a daemon listens at the socket."""
        return listens(self.settings.socket)

    def ask(self, method: str, path: str, **request: Any) -> Any:
        """A request over the control socket; its JSON.

        Raises: Transient where the daemon is down, else the error that it answered with.
        """
        away = Transient(
            f"the daemon is not running: nothing answers at {self.settings.socket}",
            hint=f"systemctl start learnd, or learnd run --config {self.settings.path}",
        )
        if not self.answers():
            raise away
        import httpx

        transport = httpx.HTTPTransport(uds=str(self.settings.socket))
        try:
            with httpx.Client(transport=transport, base_url="http://learnd", timeout=SECONDS) as client:
                answer = client.request(method, path, **request)
        except httpx.TransportError as error:
            raise away from error
        if answer.is_success:
            return answer.json()
        raise _error(answer)

    def _closed_to_me(self) -> bool:
        """Whether the database is a file that this user can't open; reading WAL needs its folder to be writable."""
        url = make_url(self.settings.database)
        if url.get_backend_name() != "sqlite" or not url.database:
            return False
        folder = Path(url.database).parent
        return folder.exists() and not os.access(folder, os.R_OK | os.W_OK | os.X_OK)


def find(config: Path | None) -> Path:
    """The configuration: what is named, else LEARND_CONFIG, ./learnd.toml, /etc/learnd/learnd.toml.

    Raises: Misconfigured where there is none.
    """
    named = config or (Path(os.environ[CONFIG]) if os.environ.get(CONFIG) else None)
    if named is not None:
        return named
    for place in PLACES:
        if place.is_file():
            return place
    raise Misconfigured(
        "no configuration is named", hint=f"learnctl --config FILE, or set {CONFIG}; learnd init DIR writes one"
    )


def door(context: typer.Context) -> Door:
    """The door to the configuration that is meant, closed when the command ends. Raises: Misconfigured."""
    made = Door(load(find(config_of(context))))
    context.call_on_close(made.close)
    return made


def _error(answer: "httpx.Response") -> LearndError:
    kinds: dict[str, type[LearndError]] = {k.__name__: k for k in (Refused, Transient, Misconfigured, Corrupt)}
    try:
        told = answer.json()
        return kinds[told["error"]](told["message"], hint=told.get("hint", ""))
    except (ValueError, KeyError, TypeError):
        return Transient(
            f"the daemon answered {answer.status_code}: {answer.text[:200]}",
            hint="does learnctl belong to the learnd that runs?",
        )
