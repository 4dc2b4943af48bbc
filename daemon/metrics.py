"""Prometheus text from the status: gauges and counters of what the tables hold.

Owns: names, labels and help of the metrics. Refuses to query (`daemon.views`) and to keep any state: a scrape shows
what is stored, so a restart loses nothing. Called by `daemon.api`.
"""

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from policies.model import Phase

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(status: dict[str, Any]) -> str:
    """The exposition text of what `views.status` told."""
    registry = CollectorRegistry()
    registry.register(_Told(status))
    return generate_latest(registry).decode()


class _Told(Collector):
    def __init__(self, status: dict[str, Any]) -> None:
        self.status = status

    def collect(self) -> Iterator[Metric]:
        service, slots = self.status["service"], self.status["deployments"]
        up = GaugeMetricFamily("learnd_up", "1 while the loop beats")
        up.add_metric([], float(service["running"]))
        yield up
        phase = GaugeMetricFamily(
            "learnd_phase", "1 at the phase a slot stands in", labels=["deployment", "tenant", "phase"]
        )
        since = GaugeMetricFamily(
            "learnd_phase_since_seconds", "Unix time at which the phase began", labels=["deployment", "tenant"]
        )
        records = CounterMetricFamily(
            "learnd_records", "Records by what became of them", labels=["deployment", "outcome"]
        )
        held = GaugeMetricFamily("learnd_quarantined", "Records that are held back now", labels=["deployment"])
        drifted = GaugeMetricFamily(
            "learnd_drifted", "1 when the last look found drift", labels=["deployment", "tenant"]
        )
        for slot in slots:
            where = [slot["name"], slot["tenant"]]
            for each in Phase:
                phase.add_metric([*where, each.value], float(each.value == slot["phase"]))
            since.add_metric(where, slot["phase_since"])
            drifted.add_metric(where, float(bool(slot["drift"] and slot["drift"]["drifted"])))
        for name, feedback in self._feedback():
            for outcome in ("stored", "duplicates", "dead_letters", "conflicts"):
                records.add_metric([name, outcome], feedback[outcome])
            held.add_metric([name], feedback.get("quarantined", 0))
        yield from (phase, since, drifted, records, held)

    def _feedback(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Once a deployment, however many tenants' slots it has, and what belongs to none."""
        told = {slot["name"]: slot["feedback"] for slot in self.status["deployments"]}
        yield from sorted(told.items())
        yield "", self.status["unassigned"]
