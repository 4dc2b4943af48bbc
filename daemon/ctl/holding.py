"""`learnctl quarantine`: what is held back and why, and letting it go, for teaching or for good.

Owns: how these read, and asking for a reason. Refuses to change anything itself (`daemon.holding` does, behind the
socket). Called by `daemon.ctl`. Listing needs no daemon.
"""

from typing import Annotated, Any

import typer

from daemon.clock import SystemClock
from daemon.ctl import client, render
from daemon.ctl.acting import Name, Reason, asked
from daemon.ctl.shared import Json, Limit, Only

Hold = Annotated[str, typer.Option("--hold", help="Records held together, as `list` names them (a beginning will do).")]
Rater = Annotated[str, typer.Option("--rater", help="One rater's, by the beginning of the hash that `list` shows.")]
Seqs = Annotated[list[int] | None, typer.Option("--seq", min=1, help="One record by its number; may be repeated.")]
All = Annotated[bool, typer.Option("--all", help="Everything that is held in this deployment.")]
Records = Annotated[bool, typer.Option("--records", help="Record by record, not by reason.")]


def quarantine_list(
    context: typer.Context,
    *,
    deployment: Only = "",
    hold: Hold = "",
    records: Records = False,
    limit: Limit = 100,
    json: Json = False,
) -> None:
    """What is held back now, and why.

    Example: learnctl quarantine list --hold 3f9c
    """
    rows = client.door(context).see("quarantine", deployment=deployment, hold=hold, records=records, limit=limit)
    if json:
        return render.dump(rows)
    if records or hold:
        names: tuple[str, ...] = ("seq", "id", "deployment", "user_hash", "at", "hold", "reason")
        heads: tuple[str, ...] = ("record", "id", "deployment", "rater", "held", "hold", "why")
    else:
        names = ("hold", "deployment", "records", "raters", "at", "reason")
        heads = ("hold", "deployment", "records", "raters", "held", "why")
    now = SystemClock().now()
    lines = [[render.when(row[name], now) if name == "at" else row[name] for name in names] for row in rows]
    render.table(heads, lines, empty="nothing is held back")
    if rows:
        render.say(f"let go: learnctl quarantine release {rows[0]['deployment']} --hold {rows[0]['hold']} --reason …")
    return None


def quarantine_release(
    context: typer.Context,
    deployment: Name,
    *,
    hold: Hold = "",
    rater: Rater = "",
    seq: Seqs = None,
    all_: All = False,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Let held records teach again.

    They come back as the old records they are, and no rule holds them a second time.

    Example: learnctl quarantine release support-bot --hold 3f9c --reason "a class of ours, they may"
    """
    _end(
        context,
        "release",
        deployment,
        hold=hold,
        rater=rater,
        seqs=seq or [],
        everything=all_,
        reason=reason,
        json=json,
    )


def quarantine_drop(
    context: typer.Context,
    deployment: Name,
    *,
    hold: Hold = "",
    rater: Rater = "",
    seq: Seqs = None,
    all_: All = False,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Never let held records teach.

    They stay stored, and are listed no more.

    Example: learnctl quarantine drop support-bot --hold 3f9c --reason "spam for a coin"
    """
    _end(context, "drop", deployment, hold=hold, rater=rater, seqs=seq or [], everything=all_, reason=reason, json=json)


def _end(context: typer.Context, verb: str, name: str, *, reason: str, json: bool, **which: Any) -> None:
    door = client.door(context)
    if not any(which.values()):
        raise typer.BadParameter("name the records: --hold, --rater, --seq, or --all", param_hint="--hold")
    reason = reason if reason.strip() else asked(verb, name)
    row = door.ask("POST", "/quarantine", json={"deployment": name, "verb": verb, "reason": reason, **which})
    if json:
        return render.dump(row)
    return render.say(
        f"{row['verb']} {row['deployment']}: {row['answer']}; it is command {row['id']} of {row['actor']}"
    )
