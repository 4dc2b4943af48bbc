"""`learnctl audit` and `backtest`: proof that nobody edited the log, a copy for others, the past judged again.

Owns: how the answers read. Refuses to prove anything itself (`daemon.audit`). Called by `daemon.ctl`.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from daemon.cli import REFUSED
from daemon.clock import SystemClock
from daemon.ctl import client, render
from daemon.ctl.shared import Json, Limit, Only, the_deployment
from daemon.policyfile import load_policy, parse_policy
from policies import words


def verify(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="An exported log; else the database.")] = None,
    json: Json = False,
) -> None:
    """Recompute every entry and root of the audit log.

    Exit 1 where one doesn't hold. A file needs no configuration and no learnd.

    Example: learnctl audit verify audit.jsonl
    """
    from daemon.audit import log

    found = log.verify_file(file) if file else client.door(context).read(log.verify)
    if json:
        told = {"ok": True, "entries": found.entries, "head": found.head}
        render.dump(told if found.ok else {**asdict(found)})
    elif found.ok:
        render.say(f"{words.count(found.entries)} entries hold, head {found.head}")
        if file is None:
            render.say("keep a copy elsewhere: learnctl audit export FILE")
    else:
        render.say(f"the log does not hold: {found.error}")
        render.say(f"{words.count(found.entries)} entries before it do; compare with your newest export")
    if not found.ok:
        raise typer.Exit(REFUSED)


def export(
    context: typer.Context, file: Annotated[Path, typer.Argument(help="Where to write it.")], json: Json = False
) -> None:
    """Write the log as JSON Lines that anybody can verify.

    The form is RFC 9162 and RFC 8785, so twenty lines of another language will do.

    Example: learnctl audit export audit.jsonl
    """
    from daemon.audit import log

    door = client.door(context)
    done = door.read(lambda session: log.export(session, file))
    if json:
        return render.dump({"file": str(file), "entries": done.entries, "head": done.head})
    render.say(f"{file}: {words.count(done.entries)} entries, head {done.head}")
    return render.say(f"anywhere: learnctl audit verify {file}")


def replay(context: typer.Context, json: Json = False) -> None:
    """Judge every past decision again from its inputs.

    Exit 1 where one comes out different, or can't be judged again.

    Example: learnctl audit replay
    """
    from daemon.audit.replay import replay as judge_again

    told = asdict(judge_again(client.door(context).engine, parse_policy))
    if json:
        render.dump(told)
    else:
        render.say(f"{words.count(told['decisions'], 'decision')}: {words.count(told['same'])} the same")
        render.say(f"{words.count(told['verdicts'], 'verdict')}: {words.count(told['verdicts_same'])} the same")
        for name in ("different", "unreplayable"):
            for row in told[name]:
                render.say(f"  {name}: {row['what']} {row['id']} was {row['was']}, now {row['now']}")
    if told["different"] or told["unreplayable"]:
        raise typer.Exit(REFUSED)


def backtest(
    context: typer.Context,
    policy: Annotated[Path, typer.Option("--policy", "-p", help="The policy file to try on the past.")],
    *,
    deployment: Only = "",
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """What another policy would have decided.

    Every stored decision is made again where the slot stood, every stored verdict judged again from its measurements.
    It changes nothing, and does not guess what would have followed.

    Example: learnctl backtest --policy stricter.toml
    """
    from daemon.audit.backtest import backtest as decide_again

    door = client.door(context)
    told = decide_again(door.engine, load_policy(policy), the_deployment(door.settings, deployment))
    if json:
        return render.dump(asdict(told))
    render.say(f"{words.count(told.decisions)} decisions: {words.count(told.same)} would have been the same")
    render.say(f"{words.count(told.verdicts)} verdicts: {words.count(told.verdicts_same)} would have been the same")
    for was, instead, n in told.moves:
        render.say(f"  {words.count(n)} times {instead} instead of {was}")
    now = SystemClock().now()
    rows = [*told.changes, *told.unreplayable][-limit:]
    lines = [
        (render.when(c.at, now), f"{c.what} {c.id}", c.subject, c.was, c.now or "can't be told", c.why) for c in rows
    ]
    render.table(("at", "what", "of", "was", "would be", "why"), lines, empty="nothing would have been different")
    return None
