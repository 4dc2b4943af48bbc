"""Prometheus text from the status: gauges and counters of what the tables hold.

Owns: names, labels and help of the metrics. Refuses to query (`daemon.views`, `daemon.tallies`) and to keep any state: a
scrape shows what is stored, so a restart loses nothing. Called by `daemon.api`.
"""

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from daemon.tallies import Labels, Tallies
from policies.model import Phase

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(status: dict[str, Any], tallies: Tallies | None = None) -> str:
    """The exposition text of what `views.status` told and, where given, of what `tallies.look` counted."""
    registry = CollectorRegistry()
    registry.register(_Told(status))
    if tallies is not None:
        registry.register(_Counted(tallies))
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


class _Counted(Collector):
    def __init__(self, tallies: Tallies) -> None:
        self.tallies = tallies

    def collect(self) -> Iterator[Metric]:
        told = self.tallies
        cycles = SummaryMetricFamily(
            "learnd_cycle_seconds", "Ended cycles, from start to end", labels=["deployment", "method", "outcome"]
        )
        spent = CounterMetricFamily(
            "learnd_job_seconds", "Time of jobs in ended cycles", labels=["deployment", "method", "outcome"]
        )
        for labels, (number, lasted, used) in sorted(told.cycles.items()):
            cycles.add_metric(labels, number, lasted)
            spent.add_metric(labels, used)
        running = GaugeMetricFamily(
            "learnd_cycle_running", "Open cycles with a job", labels=["deployment", "method", "step"]
        )
        verdicts = CounterMetricFamily("learnd_verdicts", "Verdicts of gates", labels=["deployment", "gate", "result"])
        decisions = CounterMetricFamily(
            "learnd_decisions", "Decisions by what came of them", labels=["deployment", "action", "outcome"]
        )
        waiting = GaugeMetricFamily("learnd_waiting", "What still has to be dealt with", labels=["what"])
        by_one: tuple[tuple[GaugeMetricFamily | CounterMetricFamily, dict[Labels, int]], ...] = (
            (running, told.running),
            (verdicts, told.verdicts),
            (decisions, told.decisions),
            (waiting, {(what,): number for what, number in told.waiting.items()}),
        )
        for family, counts in by_one:
            for labels, number in sorted(counts.items()):
                family.add_metric(labels, float(number))
        yield from (cycles, spent, running, verdicts, decisions, waiting)
        yield CounterMetricFamily("learnd_audit_entries", "Entries of the audit log", value=told.audit_entries)
        yield GaugeMetricFamily("learnd_lease_token", "The newest leader's fencing token", value=told.lease_token)
