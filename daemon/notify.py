"""Alerts: what a person must hear of, into the log, and by a command or webhook of their choice.

Owns: delivery, that the same alert isn't repeated all night, and that an undelivered one is tried again. Refuses to
decide what is alarming, and to reach the network unless a person configured it. Called by `daemon.service`.
"""

import json
import subprocess
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass

import structlog

logger = structlog.get_logger()

KEPT = 100


@dataclass(frozen=True, slots=True)
class Alert:
    """`kind` is a stable word (gap, rollback_failed, unproven, audit_broken, gpu_absent, …); no text of users."""

    kind: str
    deployment: str
    message: str
    hint: str = ""
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Options:
    """`command`: a program and its arguments, given the alert as JSON on its standard input. `webhook`: a URL to POST
    it to. `quiet_hours` before the same alert is told again. `timeout_seconds` for one delivery.
    """

    command: tuple[str, ...] = ()
    webhook: str = ""
    quiet_hours: float = 6.0
    timeout_seconds: float = 10.0


class Notifier:
    """Takes alerts at once and delivers them when asked to, so that no tick waits for somebody's mail server."""

    def __init__(self, options: Options = Options()) -> None:
        self._options = options
        self._waiting: deque[Alert] = deque(maxlen=KEPT)
        self._told: dict[tuple[str, str, str], float] = {}

    def alert(self, alert: Alert) -> bool:
        """Log the alert and put it in line; false when the same one was told within the quiet hours."""
        key = (alert.kind, alert.deployment, alert.message)
        quiet = self._options.quiet_hours * 3600.0
        self._told = {known: at for known, at in self._told.items() if alert.at - at < quiet}
        if key in self._told:
            return False
        self._told[key] = alert.at
        logger.error("alert", **{name: value for name, value in asdict(alert).items() if name != "at"})
        if self._options.command or self._options.webhook:
            if len(self._waiting) == KEPT:
                logger.error("an alert is given up undelivered", kind=self._waiting[0].kind)
            self._waiting.append(alert)
        return True

    def deliver(self) -> int:
        """Send what waits, in order, and return how many are left; stops at the first that can't be sent now."""
        while self._waiting:
            body = json.dumps(asdict(self._waiting[0]), ensure_ascii=False)
            problem = self._first_problem((self._run, self._post), body)
            if problem:
                logger.warning("alerts wait", left=len(self._waiting), problem=problem)
                break
            self._waiting.popleft()
        return len(self._waiting)

    def _first_problem(self, ways: tuple[Callable[[str], str], ...], body: str) -> str:
        return next((problem for way in ways if (problem := way(body))), "")

    def _run(self, body: str) -> str:
        """Why the command failed ("" when it didn't, or there is none)."""
        if not self._options.command:
            return ""
        try:
            done = subprocess.run(
                self._options.command,
                input=body.encode(),
                capture_output=True,
                timeout=self._options.timeout_seconds,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        return "" if done.returncode == 0 else f"{self._options.command[0]} ended with {done.returncode}"

    def _post(self, body: str) -> str:
        """Why the webhook failed ("" when it didn't, or there is none)."""
        if not self._options.webhook:
            return ""
        import httpx

        try:
            answer = httpx.post(
                self._options.webhook,
                content=body.encode(),
                headers={"content-type": "application/json"},
                timeout=self._options.timeout_seconds,
            )
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        return "" if answer.is_success else f"the webhook answered {answer.status_code}"
