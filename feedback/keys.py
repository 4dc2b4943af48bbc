"""What ingest must know besides the message: deployments, limits, and the keys of its hashes.

Owns: the settings of record v1 and every keyed hash made under them. Refuses to know the schema. Called by
`feedback.records`, `feedback.refusals`, and by `daemon.config`, which fills the settings.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from feedback.redact import REGIONS, Redactor


@dataclass(frozen=True, slots=True)
class DeploymentRules:
    """What ingest must know of a deployment. Without a default, a record that names no consent is only measured.

    `slices`: columns whose values are sketched one by one, so that a drift of one of them alone can be seen.
    """

    consent_default: str | None = None
    slices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RecordSettings:
    """Keys and limits. `fold_key` never changes (folds are for good); `user_key` may, with its version.

    `old_user_keys` find the records of an erased user that were stored under earlier keys. `regions`: countries whose
    phone numbers are recognised without a country code. `erase_sources`: topics that may erase (None: every one).
    """

    deployments: Mapping[str, DeploymentRules]
    user_key: bytes = field(repr=False)
    key_version: int
    fold_key: bytes = field(repr=False)
    judge_share: float = 0.2
    max_bytes: int = 1 << 20
    old_user_keys: Mapping[int, bytes] = field(default_factory=dict, repr=False)
    regions: tuple[str, ...] = REGIONS
    erase_sources: frozenset[str] | None = None

    @property
    def slices(self) -> Mapping[str, tuple[str, ...]]:
        """Each deployment's columns whose values are sketched one by one."""
        return {name: rules.slices for name, rules in self.deployments.items()}


def keyed(key: bytes, purpose: str, text: str) -> str:
    """HMAC-SHA256 (RFC 2104) in hex; `purpose` keeps hashes of different things apart."""
    return hmac.digest(key, f"{purpose}\0{text}".encode(), "sha256").hex()


def user_hash(user: str, key: bytes) -> str:
    """The keyed hash that stands for a user, in hex."""
    return keyed(key, "user", user)


def label(text: str, redactor: Redactor, settings: RecordSettings) -> str:
    """An identifier without personal data in it, still different for different ones."""
    masked = redactor.identifier(text)
    return text if masked == text else f"{masked}#{keyed(settings.fold_key, 'label', text)[:16]}"
