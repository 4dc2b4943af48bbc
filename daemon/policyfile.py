"""A policy's TOML -> `policies.policy.Policy`, strictly, with its hash.

Owns: the names and ranges a policy file may use, and the canonical text that is hashed and kept. Refuses to know what a
number is for (`policies`). Called by `daemon.config`, by a reload, and by the replay of old decisions.

The canonical text is RFC 8785 JSON of the whole policy *with its defaults*, so that a decision is judged again under
the numbers of its day even after a default has changed. `parse_policy` reads both forms: no TOML begins with a brace.
"""

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import rfc8785

from daemon.clock import cron
from daemon.options import Place, build, check_name, names, plugin, refuse_unknown
from policies.errors import Misconfigured
from policies.policy import Drift, Policy

ERROR_RATES = ("error_rate", "harm_error_rate")
SHARES = (
    "replay", "distill_replay", "anchor", "margin", "alike", "similar", "trusted", "contradiction_share",
    "confirmed_share", "judge_error",
)  # fmt: skip
DEVICES = ("gpu", "cpu", "any")


def load_policy(path: Path | str) -> Policy:
    """Read one policy file; its name is the file's stem unless it gives one.

    Raises: Misconfigured naming file, key and what would be right.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Misconfigured(f"{path} is not there", hint="learnd init DIR writes a policy to begin with") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path} can't be read: {error}", hint="check its owner, mode and encoding") from error
    policy = parse_policy(text, str(path), base=path.absolute().parent)
    _check_depths(policy, Place(str(path)))  # not of a recorded policy: an old decision stays replayable
    return policy


def usable_policy(path: Path | str) -> Policy:
    """The policy in a file, where this machine has what its probes need; to judge by a policy takes nothing of it.

    Raises: Misconfigured, as `load_policy` and for what a probe lacks.
    """
    policy = load_policy(path)
    for name, table in policy.probes.items():
        place = Place(str(path), f"probes.{name}")
        probe = plugin("daemon.probes", name, place, name)
        if hasattr(probe, "verify"):
            probe.verify(build(probe.Options, table, place))
    return policy


def probe_options(policy: Policy, name: str) -> Any:
    """The probe's `Options`: what the policy says of it, and its defaults for the rest.

    Raises: Misconfigured where this release's probe doesn't take what the policy says.
    """
    place = Place(f"policy {policy.name}", f"probes.{name}")
    return build(plugin("daemon.probes", name, place, name).Options, policy.probes.get(name, {}), place)


def parse_policy(text: str, source: str, *, base: Path | None = None) -> Policy:
    """The policy in `text` (TOML, or the canonical JSON that `canonical` writes); `source` is named in messages.

    Relative paths start at `base`, where there is one.
    Raises: Misconfigured naming `source`, key and what would be right.
    """
    document = _document(text, source)
    place = Place(source, base=base)
    refuse_unknown(document, {item.name for item in dataclasses.fields(Policy)} - {"hash"}, place)
    plain = {key: value for key, value in document.items() if key != "gates"}
    policy = build(Policy, {"name": Path(source).stem, **plain}, place)
    policy = dataclasses.replace(policy, gates=_gates(document.get("gates", {}), place.inside("gates")))
    policy = _plugged(policy, place)
    _check(policy, place)
    return dataclasses.replace(policy, hash=hashlib.sha256(canonical(policy).encode()).hexdigest())


def glance(text: str, source: str) -> Policy:
    """The policy in `text` without its gates and without looking at any plug-in: enough to say what comes next.

    Raises: Misconfigured where the text can't be read.
    """
    document = {key: value for key, value in _document(text, source).items() if key != "gates"}
    return build(Policy, {"name": Path(source).stem, **document}, Place(source))


def canonical(policy: Policy) -> str:
    """RFC 8785 JSON of the whole policy, defaults included and `hash` left out; SHA-256 of it is the policy's hash."""
    document = _plain(policy)
    document.pop("hash")
    return rfc8785.dumps(document).decode()


def _document(text: str, source: str) -> dict[str, Any]:
    try:
        document = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise Misconfigured(f"{source} can't be parsed: {error}", hint="correct the line it names") from error
    if not isinstance(document, dict):
        raise Misconfigured(f"{source} is no table", hint="learnd init DIR writes a policy to begin with")
    return document


def _gates(tables: object, place: Place) -> dict[str, Any]:
    """Options by gate name. A gate that is left out stays out here; `judge_all` refuses what it misses."""
    if not isinstance(tables, Mapping):
        raise Misconfigured(f"{place.source}: gates must be tables", hint="write each as [gates.NAME]")
    refuse_unknown(tables, names("policies.gates"), place)
    built: dict[str, Any] = {}
    for name, table in tables.items():
        module = plugin("policies.gates", name, place, name)
        built[name] = build(module.Options, table, place.inside(name))
    return built


def _check(policy: Policy, place: Place) -> None:
    """Ranges and names that a type doesn't say.

    Raises: Misconfigured.
    """
    for item in dataclasses.fields(policy):
        section = getattr(policy, item.name)
        if dataclasses.is_dataclass(section):
            _check_numbers(section, place.inside(item.name))
    for name, options in policy.gates.items():
        _check_numbers(options, place.inside(f"gates.{name}"))
    if policy.ledger.candidates < 1:
        raise Misconfigured(f"{place.key('ledger.candidates')} = {policy.ledger.candidates:g}", hint="write 1 or more")
    currency = policy.costs.currency
    if not (len(currency) == 3 and currency.isascii() and currency.isalpha() and currency.isupper()):
        raise Misconfigured(f"{place.key('costs.currency')} = {currency!r}", hint='three capital letters, as "EUR"')
    _check_cron(policy.triggers.schedule, place.inside("triggers"), "schedule")
    _check_cron(policy.drift.evidence_schedule, place.inside("drift"), "evidence_schedule")
    _check_drift(policy.drift, place.inside("drift"))
    steps = policy.rollout.steps
    if not steps or steps[-1] != 1.0 or list(steps) != sorted(set(steps)) or steps[0] <= 0:
        raise Misconfigured(
            f"{place.key('rollout.steps')} = {list(steps)}",
            hint="shares of traffic that rise and end with 1, as [0.1, 1]",
        )
    if policy.method.device not in DEVICES:
        raise Misconfigured(
            f"{place.key('method.device')} = {policy.method.device!r}", hint=f"one of {', '.join(DEVICES)}"
        )
    if policy.rollout.attempts < 1 or policy.triggers.tries < 1:
        raise Misconfigured(f"{place.source}: rollout.attempts and triggers.tries begin at 1", hint="write 1 or more")


def _check_depths(policy: Policy, place: Place) -> None:
    """Whether an adapter is ever merged by a method that says when: at `max_depth` it begins afresh.

    Raises: Misconfigured.
    """
    for name, options in policy.method.options.items():
        depth = options.get("merge_depth", 0)
        if depth >= policy.method.max_depth:
            key = place.inside(f"method.options.{name}").key("merge_depth")
            hint = f"a fresh start comes first, at max_depth = {policy.method.max_depth}: write less than that"
            raise Misconfigured(f"{key} = {depth} is never reached", hint=hint)


def _check_drift(drift: Drift, place: Place) -> None:
    if not 1 <= drift.agree <= drift.blocks:
        raise Misconfigured(
            f"{place.key('agree')} = {drift.agree} of {drift.blocks} blocks", hint="write 1 or more, at most blocks"
        )
    if drift.false_alarms <= 0:
        raise Misconfigured(
            f"{place.key('false_alarms')} = {drift.false_alarms}", hint="a month, more than 0: 0.1 is one in ten months"
        )


def _check_numbers(section: Any, place: Place) -> None:
    for item in dataclasses.fields(section):
        value = getattr(section, item.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if value < 0:
            raise Misconfigured(f"{place.key(item.name)} = {value} is negative", hint="write 0 or more")
        if item.name in SHARES and value > 1:
            raise Misconfigured(f"{place.key(item.name)} = {value}", hint="points of 1: 0.05 is five percent")
        if item.name in ERROR_RATES and not 0 < value <= 0.5:
            raise Misconfigured(f"{place.key(item.name)} = {value}", hint="between 0 and 0.5: 0.05 is five percent")


def _check_cron(line: str, place: Place, name: str) -> None:
    """By the parser that will compute the fire times: two of them differ on what 1 is of a week."""
    if not line:
        return
    try:
        cron(line)
    except Misconfigured as error:
        raise Misconfigured(f"{place.key(name)} = {line!r} is no cron line", hint=error.hint) from error


def _plugged(policy: Policy, place: Place) -> Policy:
    """The policy with its plug-ins' tables as their `Options` read them: checked, with absolute paths.

    Raises: Misconfigured where a detector, method or probe isn't there or wouldn't take its table.
    """
    drift, method = policy.drift, policy.method
    for key, name in (("cheap", drift.cheap), ("evidence", drift.evidence)):
        if name:
            check_name("feedback.drift", name, place.inside("drift"), key)
    for name in method.allowed:
        check_name("daemon.training", name, place.inside("method"), "allowed")
    teacher = method.teacher
    if place.base is not None and teacher not in ("", "self"):
        teacher = str(place.base / Path(teacher).expanduser())
    if place.base is not None and drift.encoder:
        drift = dataclasses.replace(drift, encoder=str(place.base / Path(drift.encoder).expanduser()))
    drift = dataclasses.replace(drift, options=_tables("feedback.drift", drift.options, place.inside("drift.options")))
    options = _tables("daemon.training", method.options, place.inside("method.options"))
    method = dataclasses.replace(method, options=options, teacher=teacher)
    probes = _tables("daemon.probes", policy.probes, place.inside("probes"))
    return dataclasses.replace(policy, drift=drift, method=method, probes=probes)


def _tables(package: str, tables: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """The tables with their own keys only: what a person left out stays the plug-in's to fill."""
    read = {
        name: _plain(build(plugin(package, name, place, name).Options, table, place.inside(name)))
        for name, table in tables.items()
    }
    return {name: {key: read[name][key] for key in table} for name, table in tables.items()}


def _plain(value: Any) -> Any:
    """Dataclasses, tuples and enums as JSON has them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value
