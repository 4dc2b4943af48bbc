"""Lists: cycles, versions, costs, drift, dead letters, commands. They need no daemon.

Owns: the columns of these tables. Refuses to query. Called by `daemon.ctl`.
"""

from typing import Any

import typer

from daemon.clock import SystemClock
from daemon.ctl import client, render
from daemon.ctl.shared import Json, Limit, Only
from policies import words
from policies.costs import HOUR, KWH

PROMPT = 100  # letters of a prompt that are shown in a line


def cycles(context: typer.Context, deployment: Only = "", limit: Limit = 20, json: Json = False) -> None:
    """Attempts to learn, newest first, and how they ended.

    Example: learnctl cycles --deployment support-bot
    """
    rows = client.door(context).see("cycles", deployment=deployment, limit=limit)
    if json:
        return render.dump(rows)
    now = SystemClock().now()
    return render.table(
        ("cycle", "deployment", "at", "trigger", "method", "last action", "outcome", "candidate", "why"),
        [
            (
                row["cycle"],
                row["deployment"],
                render.when(row["at"], now),
                row["trigger"],
                render.METHODS.get(row["method"], row["method"]),
                row["action"],
                row["outcome"].replace("_", " "),
                row["candidate"] or "",
                row["reason"],
            )
            for row in rows
        ],
        empty="nothing was attempted yet; learnctl status says why",
    )


def versions(context: typer.Context, deployment: Only = "", limit: Limit = 50, json: Json = False) -> None:
    """Versions, newest first, with every gate's answer.

    Example: learnctl versions
    """
    rows = client.door(context).see("versions", deployment=deployment, limit=limit)
    if json:
        return render.dump(rows)
    now = SystemClock().now()
    return render.table(
        ("version", "state", "kind", "made of", "created", "parent", "gates"),
        [
            (
                row["version"],
                row["state"],
                render.kind(row),
                render.made_of(row),
                render.when(row["created"], now),
                row["parent"] or "",
                _verdicts(row["verdicts"]),
            )
            for row in rows
        ],
        empty="no version yet: learnd adopts the model when it starts",
    )


def costs(context: typer.Context, deployment: Only = "", json: Json = False) -> None:
    """What learning cost, by deployment and month (UTC): hours, energy, tokens, and money by the policy's prices.

    Blank is what nobody could measure, and no money where the policy sets no price. Energy counts all that ran meanwhile.

    Example: learnctl costs --deployment support-bot
    """
    rows = client.door(context).see("costs", deployment=deployment)
    if json:
        return render.dump(rows)
    return render.table(
        ("deployment", "month", "attempts", "promoted", "CPU hours", "GPU hours", "kWh", "tokens", "money"),
        [
            (
                row["deployment"],
                row["month"],
                words.count(row["attempts"]),
                words.count(row["promoted"]),
                render.amount(row["cpu_seconds"], HOUR),
                render.amount(row["gpu_seconds"], HOUR),
                render.amount(row["joules"], KWH),
                render.number(row["tokens"]),
                render.money(row["money"]),
            )
            for row in rows
        ],
        empty="nothing was spent yet; learnctl status says why",
    )


def drift(context: typer.Context, deployment: Only = "", json: Json = False) -> None:
    """The last drift reports: which columns, since when, and a few records of the new kind.

    A column of one tenant or another slice alone is named by it, as topic[tenant=acme]; of slices those that drifted.
    Prompts are shown as they are stored, redacted. Evidently's own report is a file, which is named.

    Example: learnctl drift --json
    """
    reports = client.door(context).see("drift", deployment=deployment)
    if json:
        return render.dump(reports)
    now = SystemClock().now()
    for report in reports:
        render.say(
            f"{report['deployment']} by {report['detector']}, {render.when(report['at'], now)}: {report['reason']}"
        )
        render.table(
            ("  column", "statistic", "value", "threshold", "drifted", "since", "reference", "current", "note"),
            [
                (
                    f"  {column['column']}",
                    column["statistic"],
                    render.number(column["value"]),
                    render.number(column["threshold"]),
                    "drifted" if column["drifted"] else "",
                    render.when(column["since_at"], now) if column.get("since_at") else "",
                    words.count(column["reference_n"]),
                    words.count(column["current_n"]),
                    column.get("note", ""),
                )
                for column in report.get("columns", [])
            ],
            empty="  no column was compared",
        )
        if report.get("questions"):
            render.say(f"  questions: {_questions(report['questions'])}")
        if report.get("slices"):
            render.say(f"  one by one: {', '.join(report['slices'])}")
        for record in report.get("typical", []):
            render.say(f"  {_typical(record, now)}")
        if report["report"]:
            render.say(f"  report: {report['report']}")
    if not reports:
        render.say("nobody has looked yet; learnctl status says why")
    return None


def dead_letters(context: typer.Context, deployment: Only = "", limit: Limit = 50, json: Json = False) -> None:
    """Records that were refused, newest first, and why.

    Example: learnctl dead-letters --limit 10
    """
    rows = client.door(context).see("dead_letters", deployment=deployment, limit=limit)
    if json:
        return render.dump(rows)
    now = SystemClock().now()
    return render.table(
        ("at", "reason", "field", "what would be right", "source", "partition", "offset"),
        [
            (
                render.when(row["at"], now),
                row["reason"],
                row["field"],
                row["message"],
                row["source"],
                row["partition"],
                row["offset"],
            )
            for row in rows
        ],
        empty="no record was refused",
    )


def commands(context: typer.Context, deployment: Only = "", limit: Limit = 50, json: Json = False) -> None:
    """What persons asked for, and what became of it.

    Example: learnctl commands
    """
    rows = client.door(context).see("commands", deployment=deployment, limit=limit)
    if json:
        return render.dump(rows)
    now = SystemClock().now()
    return render.table(
        ("command", "at", "who", "deployment", "asked for", "version", "reason", "outcome"),
        [
            (
                row["id"],
                render.when(row["at"], now),
                row["actor"],
                row["deployment"],
                row["verb"],
                row["version"],
                row["reason"],
                f"{row['outcome'] or 'open'} {row['answer']}".strip(),
            )
            for row in rows
        ],
        empty="nobody asked for anything yet",
    )


def _questions(told: dict[str, Any]) -> str:
    """How many different questions there were and how many of them the reference had, in words."""
    if told["distinct"] is None:
        return "unknown, they were not kept for all of these records"
    many = f"{'about ' if told['error'] else ''}{words.count(told['distinct'])} different ones"
    if told["known"] is None:
        return f"{many}; unknown how many of them the reference had"
    sure = f" [{100 * told['low']:.0f}, {100 * told['high']:.0f}]" if told["low"] < told["high"] else ""
    return f"{many}, {words.percent(told['known'])}{sure} of them known to the reference"


def _typical(record: dict[str, Any], now: float) -> str:
    """A record of the new kind in one line, with what of it is new."""
    prompt = " ".join(record["prompt"].split())
    short = prompt if len(prompt) <= PROMPT else f"{prompt[: PROMPT - 1]}…"
    what = ", ".join(f"{name} {render.number(value)}" for name, value in record["columns"].items())
    kind = "typical now" if record["kind"] == "inputs" else "rated badly"
    kind += f" in {record.get('slice') or record.get('column')}" if record.get("slice") or record.get("column") else ""
    told = f"{kind}: {record['id']}, {render.when(record['ingested'], now)}: {short!r}"
    return f"{told} ({what})" if what else told


def _verdicts(found: dict[str, str]) -> str:
    """`all 7 pass`, or those that don't."""
    against = [f"{gate} {result}" for gate, result in found.items() if result != "pass"]
    return ", ".join(against) or (f"all {len(found)} pass" if found else "")
