"""Versions and what speaks for or against them, as plain dicts: manifest, data card, verdicts, measurements, answers.

Owns: the queries behind `learnctl versions` and `learnctl show`. Refuses to judge and to format. Called by
`daemon.views`, `daemon.ctl`, `daemon.api` and `daemon.doctor`.
"""

from typing import Any

from sqlalchemy import and_, case, func, select
from sqlalchemy.orm import Session, aliased

from daemon.commands import resolve
from daemon.tables import Cycle, MeasurementRow, VerdictRow, VersionRow
from feedback.tables import DatasetRow
from policies.errors import Refused
from policies.model import Result

MOST = 10  # items that changed most
READS = {"regression": "goldens", "retention": "lm_eval"}  # beside what bears the gate's own name
SCORED = ("goldens", "safety", "retention", "improvement", "lm_eval")


def versions(session: Session, *, deployment: str = "", limit: int = 50) -> list[dict[str, Any]]:
    """Versions, newest first, each with every gate's last answer."""
    query = select(VersionRow).order_by(VersionRow.created.desc(), VersionRow.name).limit(limit)
    if deployment:
        query = query.where(VersionRow.deployment == deployment)
    return [_version(session, row) for row in session.scalars(query)]


def show(session: Session, *, version: str) -> dict[str, Any]:
    """All evidence about one version; `version` may be a prefix.

    Raises: Refused where no version or several fit.
    """
    row = session.get(VersionRow, resolve(session, version))
    assert row is not None
    found = _verdicts(session, row.name)
    evaluation = found[0].evaluation if found else _evaluation(session, row.name)
    cycle = session.get(Cycle, row.cycle) if row.cycle else None
    return {
        **_version(session, row),
        "manifest": row.manifest,
        "card": _card(session, row),
        "evidence": row.evidence,
        "outcome": cycle.outcome if cycle else "",
        "outcome_reason": cycle.outcome_reason if cycle else "",
        "ended": cycle.ended if cycle else None,
        "window": [cycle.window_first, cycle.window_last] if cycle else None,
        "champion": found[0].champion if found else None,
        "anchor": found[0].anchor if found else None,
        "judged": found[0].at if found else None,
        "policy_hash": found[0].policy_hash if found else str(row.manifest.get("policy_hash", "")),
        "gates": [_gate(verdict) for verdict in found],
        "measurements": _summaries(session, evaluation) if evaluation else [],
        "changed": changed(session, evaluation, row.name, found[0].champion) if found else None,
    }


def items(session: Session, *, version: str, gate: str, limit: int = 500) -> list[dict[str, Any]]:
    """Item by item what a version scored and said, and what the champion did, worst first; `gate` names the probe.

    Raises: Refused where the version isn't known or nothing was measured under that name.
    """
    name = resolve(session, version)
    found = _verdicts(session, name)
    evaluation = found[0].evaluation if found else _evaluation(session, name)
    probes = _probes(session, evaluation)
    wanted = [probe for probe in probes if _belongs(probe, gate)]
    if not wanted:
        there = f"measured were: {', '.join(probes)}" if probes else "it was never evaluated"
        raise Refused(f"{name} has no items of {gate!r}", hint=there)
    rows = session.scalars(
        select(MeasurementRow)
        .where(MeasurementRow.evaluation == evaluation, MeasurementRow.probe.in_(wanted))
        .order_by(MeasurementRow.id)
    )
    champion = found[0].champion if found else ""
    return _paired(list(rows), name, champion)[:limit]


def changed(session: Session, evaluation: str, version: str, champion: str, limit: int = MOST) -> dict[str, Any]:
    """Items that a version and its champion scored differently: how many `worse` and `better`, and the `items` that
    changed most, losses first."""
    ours, theirs = aliased(MeasurementRow), aliased(MeasurementRow)
    gain = ours.value - theirs.value
    apart = _paired_with(select(ours, theirs.value, theirs.said), ours, theirs).where(
        ours.evaluation == evaluation,
        ours.version == version,
        theirs.version == champion,
        ours.probe.in_(SCORED),
        ours.value != theirs.value,
    )
    counted = apart.with_only_columns(func.sum(case((gain < 0, 1), else_=0)), func.sum(case((gain > 0, 1), else_=0)))
    worse, better = session.execute(counted.order_by(None)).one()
    order = (func.abs(gain).desc(), gain, ours.probe.desc(), ours.set, ours.item)
    items = [
        {
            "probe": row.probe,
            "set": row.set,
            "item": row.item,
            "slice": row.slice,
            "value": row.value,
            "said": row.said,
            "champion_value": value,
            "champion_said": said,
        }
        for row, value, said in session.execute(apart.order_by(*order).limit(limit))
    ]
    return {"worse": int(worse or 0), "better": int(better or 0), "items": items}


def _paired_with(query: Any, ours: Any, theirs: Any) -> Any:
    """`query` over measurements of two versions on the same items of one evaluation."""
    same = (getattr(ours, name) == getattr(theirs, name) for name in ("evaluation", "probe", "set", "item"))
    return query.select_from(ours).join(theirs, and_(*same))


def disagreement(session: Session, deployment: str) -> dict[str, float]:
    """By set, the mean square of how differently candidate and champion scored in the last evaluation: of answers that
    are right or wrong, the share of items on which they disagreed.

    It decides how many items a margin takes. A candidate that a gate proved worse says nothing about how much good ones
    disagree, and is passed over. Sets that were never part of an evaluation are left out.
    """
    worse = select(VerdictRow.evaluation).where(
        VerdictRow.gate.in_(("regression", "retention")), VerdictRow.result == Result.FAIL.value
    )
    last = session.scalar(
        select(VerdictRow)
        .join(VersionRow, VersionRow.name == VerdictRow.version)
        .where(VersionRow.deployment == deployment, VerdictRow.evaluation.not_in(worse))
        .order_by(VerdictRow.id.desc())
        .limit(1)
    )
    if last is None:
        return {}
    ours, theirs = aliased(MeasurementRow), aliased(MeasurementRow)
    differs = func.avg((ours.value - theirs.value) * (ours.value - theirs.value))
    rows = session.execute(
        _paired_with(select(ours.set, differs), ours, theirs)
        .where(ours.evaluation == last.evaluation, ours.version == last.version, theirs.version == last.champion)
        .where(ours.probe.in_(("goldens", "retention", "safety")))
        .group_by(ours.set)
    )
    return {str(name): float(share) for name, share in rows}


def data_of(session: Session, row: VersionRow) -> dict[str, Any]:
    """In short what a version learned from: the dataset's hash and the counts of its card."""
    card = _card(session, row)
    return {"dataset": row.dataset or None, "records": card.get("records", {}), "signals": card.get("signals", {})}


def _version(session: Session, row: VersionRow) -> dict[str, Any]:
    return {
        "version": row.name,
        "deployment": row.deployment,
        "kind": row.kind,
        "base": row.base or None,
        "method": row.method or "adopted",
        "parent": row.parent or None,
        "state": row.state,
        "depth": row.depth,
        "cycle": row.cycle or None,
        "created": row.created,
        "data": data_of(session, row),
        "verdicts": {verdict.gate: verdict.result for verdict in _verdicts(session, row.name)},
    }


def _card(session: Session, row: VersionRow) -> dict[str, Any]:
    dataset = session.get(DatasetRow, row.dataset) if row.dataset else None
    return dataset.card if dataset else {}


def _verdicts(session: Session, version: str) -> list[VerdictRow]:
    """The verdicts of the version's last evaluation under the last policy that judged it."""
    newest = session.scalar(
        select(VerdictRow).where(VerdictRow.version == version).order_by(VerdictRow.id.desc()).limit(1)
    )
    if newest is None:
        return []
    return list(
        session.scalars(
            select(VerdictRow)
            .where(
                VerdictRow.version == version,
                VerdictRow.evaluation == newest.evaluation,
                VerdictRow.policy_hash == newest.policy_hash,
            )
            .order_by(VerdictRow.id)
        )
    )


def _gate(verdict: VerdictRow) -> dict[str, Any]:
    return {
        "gate": verdict.gate,
        "gate_version": verdict.gate_version,
        "result": verdict.result,
        "reason": verdict.reason,
        "claims": verdict.claims,
        "evaluation": verdict.evaluation,
        "at": verdict.at,
    }


def _evaluation(session: Session, version: str) -> str:
    """The last evaluation that measured a version, as a candidate or beside one."""
    query = select(MeasurementRow.evaluation).where(MeasurementRow.version == version)
    return session.scalar(query.order_by(MeasurementRow.id.desc()).limit(1)) or ""


def _probes(session: Session, evaluation: str) -> list[str]:
    query = select(MeasurementRow.probe).where(MeasurementRow.evaluation == evaluation).distinct()
    return sorted(session.scalars(query))


def _belongs(probe: str, gate: str) -> bool:
    """Whether a gate reads a probe: regression reads the goldens, retention also log-probabilities and tasks."""
    return probe in (gate, READS.get(gate)) or probe.startswith(f"{gate}_")


def _summaries(session: Session, evaluation: str) -> list[dict[str, Any]]:
    """Mean and count of every (version, probe, set, slice) of an evaluation; items by `items`."""
    columns = (MeasurementRow.version, MeasurementRow.probe, MeasurementRow.set, MeasurementRow.slice)
    rows = session.execute(
        select(*columns, func.count(), func.avg(MeasurementRow.value))
        .where(MeasurementRow.evaluation == evaluation)
        .group_by(*columns)
        .order_by(*columns)
    )
    return [
        {"version": v, "probe": probe, "set": name, "slice": part, "n": int(n), "mean": float(mean)}
        for v, probe, name, part, n, mean in rows
    ]


def _paired(rows: list[MeasurementRow], name: str, champion: str) -> list[dict[str, Any]]:
    theirs = {(row.probe, row.set, row.item): row for row in rows if row.version == champion}
    told = []
    for row in rows:
        if row.version != name:
            continue
        other = theirs.get((row.probe, row.set, row.item))
        told.append(
            {
                "probe": row.probe,
                "set": row.set,
                "item": row.item,
                "slice": row.slice,
                "value": row.value,
                "said": row.said,
                "champion_value": other.value if other else None,
                "champion_said": other.said if other else "",
            }
        )
    return sorted(told, key=lambda item: (item["value"] - (item["champion_value"] or 0.0), item["value"]))
