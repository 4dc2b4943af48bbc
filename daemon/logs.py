"""Logging: structlog, one JSON object a line on standard error; readable lines where a person watches.

Owns: the form of a line. Called once by `daemon.main`; `learnctl` only speaks up where something is wrong.
"""

import logging
import sys
from collections.abc import Callable
from typing import Any, TextIO

import structlog
from structlog.typing import Processor

from policies.errors import LearndError

LIBRARIES = ("apscheduler", "kafka", "alembic", "uvicorn", "httpx", "sqlalchemy.engine")


def configure(level: str = "info", *, tty: bool | None = None) -> None:
    """Send everything, the libraries' warnings too, through one formatter. `tty`: None looks at standard error."""
    watched = sys.stderr.isatty() if tty is None else tty
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer() if watched else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = _ToStandardError()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)


def quiet() -> Callable[[], None]:
    """Only warnings, as readable lines on standard error: standard output is the answer. Returns how to undo it."""
    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
    return lambda: structlog.configure(**before)


class Waiting:
    """Tells what is waited for once, again when the cause changes, and when it is over: a night without a database is
    a few lines.
    """

    def __init__(self, logger: Any, event: str) -> None:
        self._logger, self._event, self._cause = logger, event, ""

    def told(self, error: LearndError | None) -> None:
        """Note how an attempt ended: with this error, or with none."""
        cause = str(error) if error is not None else ""
        if cause and cause != self._cause:
            self._logger.warning(self._event, error=cause, hint=error.hint if error is not None else "")
        elif self._cause and not cause:
            self._logger.info(f"{self._event}: over")
        self._cause = cause


class _ToStandardError(logging.StreamHandler[TextIO]):
    """A handler that looks up standard error for each line, so that a redirection is followed."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr
