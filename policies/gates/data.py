"""Data: nothing that must not be learned from lies anywhere in the candidate's ancestry.

Owns: which counts must be zero. Knows nothing of records. Called by `policies.gates.judge_all`. Reads probe `data`, set
`ancestry`, of the candidate only: counts over every training file of the version and of its ancestors.
"""

from dataclasses import dataclass

from policies.evidence import failed, numbers, verdict
from policies.model import Claim, Evidence, Result, Verdict
from policies.words import count

VERSION = 1
LOOSER = {"records": "lower"}

FORBIDDEN = {
    "erased": "erased",
    "judge_fold": "of the judge fold",
    "near_duplicate": "nearly the same as a golden or judge item",
    "quarantined": "quarantined",
    "unconsented": "without consent",
}


@dataclass(frozen=True, slots=True)
class Options:
    """`records`: fewest records in the ancestry; a version that came from outside (item `external` is 1) needs none."""

    records: int = 1


def judge(candidate: Evidence, champion: Evidence, anchor: Evidence | None, options: Options) -> Verdict:  # noqa: ARG001
    """Pass when every forbidden count is there and zero, and the ancestry has records at all."""
    found, problem = numbers(candidate, "data", "ancestry")
    missing = [item for item in (*FORBIDDEN, "records") if item not in found]
    if problem or missing:
        return failed("data", VERSION, problem or f"not counted: {', '.join(missing)}")
    claims = []
    records = int(found["records"])
    needed = 0 if found.get("external") == 1 else max(1, options.records)
    if found["records"] < needed:
        note, result = f"{count(records, 'record')} in the ancestry, at least {count(needed)} asked", Result.FAIL
    else:
        note, result = f"{count(records, 'record')} in the ancestry, none forbidden", Result.PASS
    claims.append(Claim("records", result, records, found["records"], limit=float(needed), note=note))
    for item, words in FORBIDDEN.items():
        value = found[item]
        result = Result.PASS if value == 0 else Result.FAIL
        note = f"{value:,g} records {words} in the ancestry"
        claims.append(Claim(item, result, records, value, limit=0.0, note=note))
    return verdict("data", VERSION, claims)
