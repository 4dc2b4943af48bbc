"""Configuration: one TOML file and LEARND_* of the environment -> frozen settings, or a message that says what to do.

Owns: the settings of the service, its sources and its deployments. Refuses to know what a plug-in's options mean (each
has its own `Options`) and rules with a threshold (`daemon.policyfile` reads policies). Called by both commands, once at
start; a reload reads everything anew and swaps.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from phonenumbers import SUPPORTED_REGIONS

from daemon import notify
from daemon.options import Place, build, check_finite, plugin, refuse_unknown
from daemon.policyfile import canonical, load_policy, parse_policy, usable_policy
from feedback.redact import REGIONS
from policies.errors import Misconfigured

__all__ = [
    "Deployment",
    "RecordRules",
    "Settings",
    "SourceSettings",
    "TargetSettings",
    "canonical",
    "load",
    "load_policy",
    "parse_policy",
    "read_toml",
    "usable_policy",
]

CONSENTS = ("none", "tenant", "shared")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
PREFIX = "LEARND_"
NOT_SETTINGS = ("LEARND_CONFIG",)


@dataclass(frozen=True)
class SourceSettings:
    """Where records come from: `kind` is a file of `feedback.sources`, `options` its built `Options`."""

    kind: str
    options: Any


@dataclass(frozen=True)
class TargetSettings:
    """Where versions are served: `kind` is a file of `daemon.targets`, `options` its built `Options`."""

    kind: str
    options: Any


@dataclass(frozen=True)
class RecordRules:
    """`judge_share`: part of the prompts (points of 1) that only judge, never train. `max_bytes`: of one record.

    `regions`: countries whose phone numbers are masked without a country code. `erase_sources`: sources that may ask
    for an erasure (absent: every one).
    """

    judge_share: float = 0.2
    max_bytes: int = 1024 * 1024
    regions: tuple[str, ...] = REGIONS
    erase_sources: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Deployment:
    """One named model in production. `consent_default` None: records without consent can't be used, so it gathers.

    `model`: folder of the model to adopt first. `max_new_tokens`: of an answer, when a version is evaluated.
    """

    name: str
    model: Path
    policy: Path
    consent_default: str | None
    target: TargetSettings
    system_prompt: str = ""
    max_new_tokens: int = 128


@dataclass(frozen=True)
class Settings:
    """All of `learnd.toml`. Paths are absolute, `tick_seconds` is the pause between two looks of an idle loop.

    `operators`: the Unix group whose members may give commands, beside root and the service's own user ("" for none).
    """

    path: Path
    state: Path
    database: str
    socket: Path
    tick_seconds: float
    keys: Path
    sources: tuple[SourceSettings, ...]
    deployments: Mapping[str, Deployment]
    preload_jobs: bool
    operators: str = ""
    log_level: str = "info"
    records: RecordRules = RecordRules()
    alerts: notify.Options = field(default_factory=notify.Options)


@dataclass(frozen=True)
class _Service:
    """`[service]` as it is written; "" is the default beside the state folder."""

    state: Path = Path("state")
    database: str = ""
    socket: Path | None = None
    keys: Path | None = None
    tick_seconds: float = 1.0
    preload_jobs: bool = True
    operators: str = ""
    log_level: str = "info"


@dataclass(frozen=True)
class _Deployment:
    """`[deployments.NAME]` as it is written."""

    model: Path
    policy: Path
    consent_default: str | None = None
    system_prompt: str = ""
    max_new_tokens: int = 128
    target: Mapping[str, Any] = field(default_factory=dict)


def load(path: Path | str, environment: Mapping[str, str] | None = None) -> Settings:
    """Read `learnd.toml` and the environment's LEARND_* (which win over `[service]`).

    Raises: Misconfigured naming file, key and what would be right.
    """
    path = Path(path).expanduser().absolute()
    document = read_toml(path, "learnd init DIR writes one that runs as it is")
    place = Place(str(path), base=path.parent)
    refuse_unknown(document, ("service", "records", "alerts", "sources", "deployments"), place)
    service = build(_Service, _overlaid(document.get("service", {}), environment, place), place.inside("service"))
    _check_service(service, place.inside("service"))
    records = build(RecordRules, document.get("records", {}), place.inside("records"))
    _between(records.judge_share, 0.0, 0.5, place.inside("records"), "judge_share")
    _between(records.max_bytes, 1024, 1 << 26, place.inside("records"), "max_bytes")
    for region in records.regions:
        if region not in SUPPORTED_REGIONS:
            raise Misconfigured(
                f"{place.key('records.regions')} names {region!r}", hint='two capitals, as "DE" or "US"'
            )
    return Settings(
        path=path,
        state=service.state,
        database=_database(service, path.parent),
        socket=service.socket or service.state / "control.sock",
        tick_seconds=service.tick_seconds,
        keys=service.keys or service.state / "keys",
        sources=_sources(document.get("sources", []), place),
        deployments=_deployments(document.get("deployments", {}), place),
        preload_jobs=service.preload_jobs,
        operators=service.operators,
        log_level=service.log_level,
        records=records,
        alerts=build(notify.Options, document.get("alerts", {}), place.inside("alerts")),
    )


def read_toml(path: Path, hint: str) -> dict[str, Any]:
    """The parsed file.

    Raises: Misconfigured where it can't be read or isn't TOML; `hint` says what to do where it is absent.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Misconfigured(f"{path} is not there", hint=hint) from None
    except OSError as error:
        raise Misconfigured(f"{path} can't be read: {error.strerror}", hint="check its owner and mode") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path} is not TOML: {error}", hint="correct the line it names") from error


def _overlaid(table: object, environment: Mapping[str, str] | None, place: Place) -> object:
    """`[service]` with LEARND_STATE, LEARND_DATABASE, … over it; an unknown LEARND_* is refused like an unknown key."""
    found = {k: v for k, v in (os.environ if environment is None else environment).items() if k.startswith(PREFIX)}
    wanted = {k: v for k, v in found.items() if k not in NOT_SETTINGS and not k.startswith("LEARND_TEST_")}
    if not wanted or not isinstance(table, Mapping):
        return table
    types = {PREFIX + item.name.upper(): item for item in fields(_Service)}
    refuse_unknown(wanted, types, Place("the environment"))
    overlay = {types[name].name: _from_text(types[name].type, text) for name, text in wanted.items()}
    check_finite(overlay, place, "service")
    return {**table, **overlay}


def _from_text(kind: object, text: str) -> object:
    if kind is bool:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(text.lower(), text)
    if kind is float:
        try:
            return float(text)
        except ValueError:
            return text  # refused where the setting is built, with its name
    return text


def _check_service(service: _Service, place: Place) -> None:
    _between(service.tick_seconds, 0.01, 30.0, place, "tick_seconds")
    if service.log_level not in ("debug", "info", "warning", "error"):
        raise Misconfigured(
            f"{place.key('log_level')} = {service.log_level!r} is not known", hint="debug, info, warning or error"
        )


def _between(value: float, low: float, high: float, place: Place, name: str) -> None:
    if not low <= value <= high:
        raise Misconfigured(f"{place.key(name)} = {value} is out of range", hint=f"write {low:g} to {high:g}")


def _database(service: _Service, base: Path) -> str:
    """The URL; a relative file of `sqlite:///` starts at the configuration's folder like every other path."""
    if not service.database:
        return f"sqlite:///{service.state / 'learnd.db'}"
    prefix = "sqlite:///"
    if service.database.startswith(prefix) and ":memory:" not in service.database:
        return prefix + str(base / service.database.removeprefix(prefix))
    return service.database


def _sources(found: object, place: Place) -> tuple[SourceSettings, ...]:
    if not isinstance(found, list):
        raise Misconfigured(f"{place.source}: sources must be a list", hint="write each as [[sources]]")
    built = []
    for number, table in enumerate(found, 1):
        kind, options = _plugged("feedback.sources", table, place.inside(f"sources[{number}]"))
        built.append(SourceSettings(kind, options))
    return tuple(built)


def _deployments(found: object, place: Place) -> dict[str, Deployment]:
    place = place.inside("deployments")
    if not isinstance(found, Mapping) or not found:
        raise Misconfigured(f"{place.source} names no deployment", hint="write at least one [deployments.NAME]")
    return {name: _deployment(name, table, place.inside(name)) for name, table in found.items()}


def _deployment(name: str, table: object, place: Place) -> Deployment:
    if not NAME.fullmatch(name):
        raise Misconfigured(
            f"{place.source}: deployment {name!r} has a name that makes no file name",
            hint="begin with a letter or digit, go on with letters, digits, - _ and .",
        )
    written = build(_Deployment, table, place)
    if written.consent_default not in (None, *CONSENTS):
        raise Misconfigured(
            f"{place.key('consent_default')} = {written.consent_default!r} is not known",
            hint=f"write one of {', '.join(CONSENTS)}",
        )
    _between(written.max_new_tokens, 1, 32768, place, "max_new_tokens")
    kind, options = _plugged("daemon.targets", written.target, place.inside("target"))
    return Deployment(
        name=name,
        model=written.model,
        policy=written.policy,
        consent_default=written.consent_default,
        target=TargetSettings(kind, options),
        system_prompt=written.system_prompt,
        max_new_tokens=written.max_new_tokens,
    )


def _plugged(package: str, table: object, place: Place) -> tuple[str, Any]:
    """(kind, built Options) of a table that names its plug-in by `kind`."""
    if not isinstance(table, Mapping) or not isinstance(table.get("kind"), str):
        raise Misconfigured(f"{place.key('kind')} is missing", hint='say which, for example kind = "files"')
    module = plugin(package, table["kind"], place)
    return table["kind"], build(module.Options, {k: v for k, v in table.items() if k != "kind"}, place)
