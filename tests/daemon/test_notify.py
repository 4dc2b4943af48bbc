"""A person hears of what is alarming, once, and again if it could not be delivered."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from daemon.notify import Alert, Notifier, Options

ALERT = Alert("gap", "bot", "10 records were gone", "raise the topic's retention", at=1000.0)


def writer(path: Path) -> tuple[str, ...]:
    return (sys.executable, "-c", f"import sys; open({str(path)!r}, 'a').write(sys.stdin.read() + chr(10))")


def test_a_command_gets_the_alert_as_json(tmp_path: Path) -> None:
    notifier = Notifier(Options(command=writer(tmp_path / "told")))
    assert notifier.alert(ALERT)
    assert notifier.deliver() == 0
    assert json.loads((tmp_path / "told").read_text())["message"] == "10 records were gone"


def test_the_same_alert_is_told_again_only_after_the_quiet_hours(tmp_path: Path) -> None:
    notifier = Notifier(Options(command=writer(tmp_path / "told"), quiet_hours=1.0))
    told = [notifier.alert(Alert("gap", "bot", "x", at=at)) for at in (0.0, 1800.0, 3599.0, 3600.0)]
    assert told == [True, False, False, True]
    assert notifier.alert(Alert("gap", "other", "x", at=3600.0))


def test_what_could_not_be_delivered_waits_in_order(tmp_path: Path) -> None:
    ok = tmp_path / "ok"
    script = f"import sys, pathlib; sys.exit(0 if pathlib.Path({str(ok)!r}).exists() else 3)"
    notifier = Notifier(Options(command=(sys.executable, "-c", script)))
    for number in range(3):
        notifier.alert(Alert("gap", "bot", str(number)))
    assert notifier.deliver() == 3
    ok.touch()
    assert notifier.deliver() == 0


def test_a_command_that_is_not_there_or_hangs_stops_nothing() -> None:
    for command in (("/nowhere/at/all",), (sys.executable, "-c", "import time; time.sleep(60)")):
        notifier = Notifier(Options(command=command, timeout_seconds=0.2))
        notifier.alert(ALERT)
        assert notifier.deliver() == 1


def test_without_a_command_or_webhook_an_alert_is_a_line_of_the_log() -> None:
    notifier = Notifier()
    assert notifier.alert(ALERT)
    assert notifier.deliver() == 0


def test_a_webhook_gets_the_alert_and_is_asked_again_after_an_error() -> None:
    answers, bodies = [503, 200], []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(answers.pop(0))
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        notifier = Notifier(Options(webhook=f"http://127.0.0.1:{server.server_port}/"))
        notifier.alert(ALERT)
        assert [notifier.deliver(), notifier.deliver()] == [1, 0]
        server.shutdown()
        thread.join()
    assert [json.loads(body)["kind"] for body in bodies] == ["gap", "gap"]
