"""`learnctl status` and `learnctl show`: every line answers a question somebody has, the last one is the way on.

Owns: how these two read. Refuses to query. Called by `daemon.ctl`.
"""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from daemon.clock import SystemClock
from daemon.ctl import client, render
from daemon.ctl.shared import Json
from policies import words
from policies.costs import HOUR, KWH

LABEL = 10
WORST = 3
LONGEST = 60  # characters of an answer in a line
LEDGER = "ledger"


def status(context: typer.Context, json: Json = False) -> None:
    """Where every deployment stands, why, and what comes next.

    Example: learnctl status
    """
    told = client.door(context).see("status")
    if json:
        render.dump(told)
        return
    now = SystemClock().now()
    service = told["service"]
    if service["running"]:
        render.say(f"learnd runs since {render.when(service['since'], now)} (pid {service['pid']})")
    elif service["silent"]:
        render.say(f"learnd (pid {service['pid']}) has written nothing since {render.when(service['beat'], now)}")
        render.say("is a disk full, is the database away? learnctl doctor")
    else:
        last = f"; it last spoke {render.when(service['beat'], now)}" if service.get("beat") else ""
        render.say(f"learnd is not running{last}")
    for slot in told["deployments"]:
        render.say()
        for line in _slot(slot, now):
            render.say(line)
    if lost := told["unassigned"].get("dead_letters"):
        render.say(f"\n{words.count(lost, 'dead letter')} of no known deployment: learnctl dead-letters")
    render.say()
    render.say(_way_on(told))


def show(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="A version, or the beginning of one: support-bot@b1d3, or b1d3.")],
    items: Annotated[str, typer.Option("--items", metavar="GATE", help="Item by item: scores and what was said.")] = "",
    json: Json = False,
) -> None:
    """What speaks for and against a version, gate by gate.

    Example: learnctl show support-bot@b1d3 --items safety
    """
    door = client.door(context)
    if items:
        rows = door.see("items", version=version, gate=items)
        return render.dump(rows) if json else _items(rows)
    told = door.see("show", version=version)
    if json:
        return render.dump(told)
    for line in _version(told, SystemClock().now()):
        render.say(line)
    return None


def _slot(slot: dict[str, Any], now: float) -> Iterator[str]:
    name = slot["name"] + (f"/{slot['tenant']}" if slot["tenant"] else "")
    yield f"{name:<22} {slot['phase'].replace('_', ' '):<10} {_since(slot, now)}".rstrip()
    champion = slot["champion_is"] or {}
    if slot["champion"]:
        yield _line("champion", f"{slot['champion']}   {_came(champion, slot, now)}")
    if slot["predecessor"] and slot["predecessor"] != slot["champion"]:
        yield _line("before", f"{slot['predecessor']}   ready to come back: learnctl rollback {slot['name']}")
    if slot["candidate"]:
        yield _line("candidate", slot["candidate"])
    yield _line("feedback", " · ".join(_feedback(slot["feedback"])))
    yield _line("drift", _drift(slot["drift"], now))
    if slot["policy_waits"]:
        waits = slot["policy_waits"]
        yield _line("policy", f"a looser one waits ({'; '.join(waits['why'])}):")
        yield _line("", f"learnctl approve {slot['name']} --policy {waits['hash'][:12]} --reason …")
    if slot["paused_by"]:
        yield _line("paused", f"by {slot['paused_by']}: learnctl resume {slot['name']}")
    yield _line("why", slot["reason"] or "it has not been looked at yet")
    if slot["next"]:
        yield _line("next", " · ".join(f"{item['what']} {render.when(item['at'], now)}" for item in slot["next"]))


def _since(slot: dict[str, Any], now: float) -> str:
    spent = words.duration(now - slot["phase_since"])
    watch = slot["watch"]
    return f"{spent} of at least {words.duration(watch['minimum_hours'] * 3600)}" if watch else f"for {spent}"


def _came(champion: dict[str, Any], slot: dict[str, Any], now: float) -> str:
    made = render.made_of(champion)
    if not champion.get("by"):
        return made if champion.get("method") == "adopted" else f"{made}, serving since {_at(slot, champion, now)}"
    mode = f" ({slot['mode']})" if champion["by"] == "policy" and slot["mode"] else ""
    return f"{made}, promoted {_at(slot, champion, now)} by {champion['by']}{mode}"


def _at(_slot: dict[str, Any], champion: dict[str, Any], now: float) -> str:
    return render.when(champion.get("promoted"), now)


def _feedback(told: dict[str, Any]) -> Iterator[str]:
    yield f"{words.count(told['stored'])} stored"
    yield f"{words.count(told['today'])} today"
    for name, noun in (("duplicates", "duplicates"), ("conflicts", "conflicts"), ("dead_letters", "dead letters")):
        if told.get(name):
            yield f"{words.count(told[name])} {noun}"
    if told["quarantined"]:
        why = f" ({told['quarantined_for']})" if told.get("quarantined_for") else ""
        yield f"{words.count(told['quarantined'])} in quarantine{why}"


def _drift(told: dict[str, Any] | None, now: float) -> str:
    if told is None:
        return "not looked yet"
    look = f"(last look {words.duration(now - told['at'])} ago)"
    if not told["judged"]:
        return f"{told['reason']} {look}"
    since = f"since {render.when(told['since'], now)}"
    return f"{told['reason']}, {since} {look}" if told["drifted"] else f"none {since} {look}"


def _line(label: str, text: str) -> str:
    return f"  {label:<{LABEL}}{text}"


def _way_on(told: dict[str, Any]) -> str:
    """The one thing that most likely comes next, of all slots."""
    slots = told["deployments"]
    for slot in slots:
        if slot["phase"] == "approving" and slot["candidate"]:
            return f"decide: learnctl show {slot['candidate']}, then learnctl approve {slot['name']} --reason …"
    if not slots:
        return "nothing has been adopted yet: learnd run --config FILE, then learnctl doctor"
    for slot in slots:
        if slot["phase"] == "gathering":
            lacks_sets = "goldens import" in slot["reason"]
            return f"bring what it lacks: learnctl {'goldens' if lacks_sets else 'feedback'} import --help"
    for slot in slots:
        last = slot["last_cycle"]
        if last and last["outcome"] in ("refused", "inconclusive") and last["candidate"]:
            return f"why it was refused: learnctl show {last['candidate']}"
    return "more: learnctl cycles · learnctl versions · learnctl drift · learnctl audit verify"


def _version(told: dict[str, Any], now: float) -> Iterator[str]:
    yield f"{told['version']}   {_headline(told, now)}"
    yield f"  made of  {render.made_of(told)}{_trained_on(told)}"
    if told["parent"]:
        yield f"  parent   {told['parent']}"
    if cost := _cost((told["evidence"] or {}).get("cost")):
        yield f"  cost     {cost}"
    for head, key in (("begun", "started"), ("size", "sized")):
        if said := (told["evidence"] or {}).get(key):
            yield f"  {head:<8} {said}"
    if not told["gates"]:
        yield "  no gate has judged it" + ("" if told["method"] != "adopted" else ": it served before learnd came")
    for gate in told["gates"]:
        drawn = _drawn(_deciding(gate["claims"]))
        yield f"  {gate['gate']:<12} {gate['result']:<13} {gate['reason']}" + (f"   {drawn}" if drawn else "")
        yield from _claims(gate)
    if any(_bounded(claim) for gate in told["gates"] for claim in gate["claims"]):
        yield "  ├ ● ┤ the interval and its estimate · ┃ the limit · ┊ zero"
    if told["changed"]:
        yield from _changed(told["changed"])
    if told["measurements"]:
        yield f"what it said: learnctl show {told['version']} --items {_worth_reading(told)}"
    else:
        yield f"all of it: learnctl show {told['version']} --json"


def _worth_reading(told: dict[str, Any]) -> str:
    """The gate whose items tell most: one that didn't pass, else one that holds answers."""
    probes = {row["probe"] for row in told["measurements"]} | {"regression"}
    against = [gate["gate"] for gate in told["gates"] if gate["result"] != "pass" and gate["gate"] in probes]
    holding = [name for name in ("improvement", "safety") if name in probes]
    return str([*against, *holding, *sorted(probes)][0])


def _headline(told: dict[str, Any], now: float) -> str:
    refused = [gate["gate"] for gate in told["gates"] if gate["result"] == "fail"]
    at = render.when(told["judged"] or told["created"], now)
    if refused:
        return f"refused by {', '.join(refused)}, {at}"
    if told["outcome"]:
        reason = f": {told['outcome_reason']}" if told["outcome_reason"] else ""
        return f"{told['state']}, {told['outcome'].replace('_', ' ')} {render.when(told['ended'], now)}{reason}"
    return f"{told['state']} since {at}"


def _trained_on(told: dict[str, Any]) -> str:
    if not told["window"] or told["method"] == "adopted":
        return ""
    first, last = told["window"]
    records = told["data"].get("records", {})
    mixed = [f"{words.count(n)} {name}" for name, n in records.items() if n]
    return f" · window {words.count(first + 1)}-{words.count(last)}" + (f" ({', '.join(mixed)})" if mixed else "")


def _cost(cost: dict[str, Any] | None) -> str:
    """What its training, evaluation and proof took, as far as anybody could measure it."""
    if cost is None:
        return ""
    units = (("cpu_seconds", HOUR, "CPU h"), ("gpu_seconds", HOUR, "GPU h"), ("joules", KWH, "kWh"))
    parts = [f"{render.amount(cost[name], unit)} {word}" for name, unit, word in units if cost[name]]
    parts += [words.count(cost["tokens"], "token")] if cost["tokens"] else []
    parts += [render.money(cost["money"])] if cost["money"] else []
    return " · ".join(parts) + (f"   on {words.listed(cost['devices'])}" if cost["devices"] else "")


def _bounded(claim: dict[str, Any]) -> bool:
    return claim.get("low") is not None and claim.get("high") is not None


def _deciding(claims: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The worst claim that has an interval: the one that decided."""
    order = {"fail": 0, "inconclusive": 1, "pass": 2}
    return min((c for c in claims if _bounded(c)), key=lambda c: order.get(c["result"], 3), default=None)


def _drawn(claim: dict[str, Any] | None) -> str:
    """The claim's interval against its limit as a line of text, and how many items it took."""
    if claim is None:
        return ""
    line = render.interval(claim["low"], claim["high"], claim["estimate"], claim["limit"])
    return f"{line:<{render.GLYPHS}}  {words.count(claim['n'], 'item')}" if line else ""


def _claims(gate: dict[str, Any]) -> Iterator[str]:
    """What else a gate claimed: every interval, the worst few of the rest that didn't pass, and what it spent."""
    decided, said = _deciding(gate["claims"]), gate["reason"]
    rest = [claim for claim in gate["claims"] if claim is not decided and claim["name"] != LEDGER]
    for claim in (claim for claim in rest if _bounded(claim)):
        yield f"    {claim['name']}: {claim['result']}, {claim.get('note') or _numbers(claim)}   {_drawn(claim)}"
    against = [
        c for c in rest if c["result"] != "pass" and not _bounded(c) and not (c.get("note") and c["note"] in said)
    ]
    for claim in against[:WORST]:
        yield f"    {claim['name']}: {claim['result']}, " + (claim.get("note") or _numbers(claim))
    if len(against) > WORST:
        yield f"    and {len(against) - WORST} more: --json has them"
    for claim in gate["claims"]:
        if claim["name"] == LEDGER:
            yield f"    {claim['note']}"


def _numbers(claim: dict[str, Any]) -> str:
    bounds = f" [{render.number(claim['low'])}, {render.number(claim['high'])}]" if _bounded(claim) else ""
    limit = f", limit {render.number(claim['limit'])}" if claim["limit"] is not None else ""
    return f"{render.number(claim['estimate'])}{bounds}{limit}, n {claim['n']}"


def _changed(told: dict[str, Any]) -> Iterator[str]:
    """The items that changed most against the champion, with both answers."""
    worse, better = told["worse"], told["better"]
    if not worse + better:
        yield "  no item was scored otherwise than the champion's"
        return
    yield f"  {words.count(worse + better, 'item')} scored otherwise than the champion's, {worse} worse; the most changed:"
    for item in told["items"]:
        scores = f"{render.number(item['champion_value'])} → {render.number(item['value'])}"
        where = f"{item['probe']} {item['item']}" + (f" ({item['slice']})" if item["slice"] else "")
        yield f"    {where:<34} {scores:<9} {_short(item['champion_said'])} → {_short(item['said'])}"


def _short(said: str) -> str:
    text = " ".join(said.split())
    return f'"{text[: LONGEST - 1]}…"' if len(text) > LONGEST else f'"{text}"'


def _items(rows: list[dict[str, Any]]) -> None:
    render.table(
        ("item", "slice", "score", "champion", "it said", "the champion said"),
        [
            (
                row["item"],
                row["slice"],
                render.number(row["value"]),
                render.number(row["champion_value"]),
                row["said"],
                row["champion_said"] if row["champion_said"] != row["said"] else "the same",
            )
            for row in rows
        ],
        empty="nothing was measured item by item",
    )
