"""The drift job: two windows out of the database, a detector over them, its report and files as evidence.

Owns: the job's inputs and result, and how the reports of several kinds become one. Refuses to compute a statistic
(`feedback.drift`), to write to the database, and to decide when to look (`daemon.looking`). `run` is called in a child
process by `daemon.jobs`; `merge` by `daemon.looking` too.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from daemon import codec, encoding, schema
from daemon.jobs import Job
from feedback import db, drift, windows
from feedback.samples import Vector
from feedback.windows import Window
from policies.errors import Refused
from policies.model import DriftColumn, DriftReport

SAMPLE = 10_000
QUESTIONS = 500  # of each side that the encoder reads


def run(job: Job) -> dict[str, Any]:
    """Measure every kind of `kinds` and each of `slices`, and merge; the result is as `codec.drift_to_json` writes it.

    Inputs: `database`, `deployment`, `version` (whose answers the outcomes are of), `detector`, `options` (of the
    detector), `reference` and `current`, each a window [first, last] or one for each kind (of a reference also what
    `windows.aggregates` froze, for a detector that needs no rows), `kinds`, `slices` (`kind`, `slice`, `reference` and
    `current` of each, none by default), `encoder` (a folder, "" by default: then what questions mean is compared too),
    `blocks` (of the current window), and `minimum` (values below which a column isn't judged, 0 by default). Leaves
    report.json and the detector's own files, those of a slice in a folder of their own.
    Raises: Misconfigured, Refused, Transient as the database and the detector do.
    """
    inputs = job.inputs
    detector = drift.load(inputs["detector"])
    options = options_of(detector, inputs["options"])
    engine = db.connect(inputs["database"])
    wanted = [(kind, "", inputs["reference"], inputs["current"]) for kind in inputs["kinds"]]
    wanted += [(one["kind"], one["slice"], one["reference"], one["current"]) for one in inputs.get("slices", ())]
    reports: dict[str, DriftReport] = {}
    try:
        schema.check(engine)
        for done, (kind, slice, *sides) in enumerate(wanted):
            job.progress(f"comparing {kind} {slice}".strip(), done / len(wanted))
            reference, current = (
                _read(engine, partial(_window, job=job, kind=kind, given=given, slice=slice), job) for given in sides
            )
            folder = job.folder / f"slice{done}" if slice else job.folder
            reports[f"{kind} {slice}"] = named(
                detector.report(reference, current, options, folder)
                if hasattr(detector, "report")
                else detector.measure(reference, current, options),
                slice,
            )
    finally:
        engine.dispose()
    path = job.folder / "report.json"
    merged = merge(reports, minimum=int(inputs.get("minimum", 0)))
    merged = replace(merged, files=(str(path), *merged.files))
    result = codec.drift_to_json(merged)
    path.write_bytes(codec.canonical(result))
    return result


def named(report: DriftReport, slice: str) -> DriftReport:
    """A report on windows of a slice, with the slice in its columns' names and in its reason; of all, as it is."""
    if not slice or any(column.slice for column in report.columns):  # or the detector has named it
        return report
    columns = tuple(replace(c, column=f"{c.column}[{slice}]", slice=slice) for c in report.columns)
    slices = (slice,) if report.judged else ()
    return replace(report, columns=columns, reason=f"{slice}: {report.reason}", slices=slices)


def merge(reports: Mapping[str, DriftReport], *, minimum: int = 0, at: float = 0.0) -> DriftReport:
    """Reports of several kinds and slices by the same detector as one: what drifted in any has drifted, `kind` says where.

    A column with fewer than `minimum` values on a side isn't judged. `current` begins where the first report's does, and
    `questions` are its.
    Raises: Refused without any report.
    """
    if not reports:
        raise Refused("no report to merge", hint="ask for at least one kind: inputs or outcomes")
    held = {kind: _held(report, minimum) for kind, report in reports.items()}
    drifted = [report for report in held.values() if report.drifted]
    kinds = sorted({report.kind for report in drifted})
    judged = [report for report in held.values() if report.judged]
    told = drifted or judged or list(held.values())
    first = next(iter(held.values()))
    return DriftReport(
        detector=first.detector,
        judged=bool(judged),
        drifted=bool(drifted),
        kind="both" if len(kinds) > 1 else "".join(kinds),
        reason="; ".join(report.reason for report in told),
        columns=tuple(column for report in held.values() for column in report.columns),
        reference=first.reference,
        current=(first.current[0], max(report.current[1] for report in held.values())),
        at=at,
        files=tuple(name for report in held.values() for name in report.files),
        slices=tuple(sorted({name for report in held.values() for name in report.slices})),
        questions=first.questions,
    )


def _held(report: DriftReport, minimum: int) -> DriftReport:
    """The report with what is below the policy's minimum taken back."""
    columns = tuple(_enough(column, minimum) for column in report.columns)
    judged = report.judged and any(min(column.reference_n, column.current_n) >= minimum for column in columns)
    drifted = any(column.drifted for column in columns)
    most = max((min(column.reference_n, column.current_n) for column in columns), default=0)
    reason = report.reason
    if report.judged and not judged:
        reason = f"too few to judge: {most} values on one side, the policy asks for {minimum}"
    elif report.drifted and not drifted:
        reason = f"drifted only in columns with fewer than {minimum} values"
    kind = report.kind if drifted else ""
    return replace(report, columns=columns, judged=judged, drifted=drifted, kind=kind, reason=reason)


def _enough(column: DriftColumn, minimum: int) -> DriftColumn:
    fewest = min(column.reference_n, column.current_n)
    if not column.drifted or fewest >= minimum:
        return column
    return replace(
        column, drifted=False, note=f"not judged: {fewest} values on one side, the policy asks for {minimum}"
    )


def _window(session: Session, job: Job, kind: str, given: Any, slice: str) -> Window:
    """One side: what a baseline froze, or the rows of a span (by kind, where it has several)."""
    one = given.get(kind, given) if isinstance(given, Mapping) else given
    if isinstance(one, Mapping):
        return windows.thaw(one)
    first, last = one
    return windows.window(
        session,
        job.inputs["deployment"],
        kind,
        first,
        last,
        version=job.inputs.get("version", ""),
        sample=SAMPLE,
        seed=job.seed,
        most=windows.ENOUGH,
        sliced=bool(slice),
        slice=slice,
    )


def _read(engine: Engine, find: Callable[[Session], Window], job: Job) -> Window:
    """One side with its questions as the encoder reads them, where there is one to ask."""
    window = db.read(engine, find)
    encoder = job.inputs.get("encoder", "")
    if not encoder or window.kind != "inputs" or window.slice:
        return window
    where = job.inputs["deployment"], window.first, window.last, QUESTIONS, job.seed
    asked = db.read(engine, lambda session: windows.questions(session, *where))
    blocks = tuple(Window(first, last, 0, {}) for first, last in job.inputs.get("blocks", ()))
    read = encoding.encode(encoder, [question.text for question in asked])
    vectors = tuple(Vector(one.seq, one.day, values) for one, values in zip(asked, read, strict=True))
    return replace(window, vectors=vectors, blocks=blocks)


def options_of(detector: ModuleType, given: Mapping[str, Any]) -> Any:
    """A detector's `Options` from plain values, the way a policy or a job's inputs hold them."""
    return detector.Options(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    )
