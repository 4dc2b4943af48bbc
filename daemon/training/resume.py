"""What of an earlier attempt may be continued.

Owns: the fingerprint of a run, and which checkpoint folders are whole. Refuses to know what is in them. Called by the
training methods.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from daemon.jobs import Job, read_json, write_json

FINGERPRINT = "fingerprint.json"


def claim(job: Job, options: Mapping[str, Any]) -> Path:
    """The job's checkpoint folder, emptied unless it was left by a run on the same data, options, models and seed."""
    fingerprint = {
        "dataset": hashlib.sha256(Path(job.inputs["dataset"]).read_bytes()).hexdigest(),
        "options": dict(options),
        "champion": job.inputs["champion"],
        "teacher": job.inputs.get("teacher"),
        "depth": job.inputs.get("depth", 0),
        "step": job.inputs.get("step", ""),
        "seed": job.seed,
        "device": job.device,
    }
    fingerprint = json.loads(json.dumps(fingerprint))
    folder = job.checkpoint
    folder.mkdir(parents=True, exist_ok=True)
    if read_json(folder / FINGERPRINT) != fingerprint:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_json(folder / FINGERPRINT, fingerprint)
    return folder


def newest(folder: Path) -> Path | None:
    """The newest whole `checkpoint-N` of a transformers Trainer in `folder`; those cut off by a kill are removed.

    trainer_state.json is the last file that the Trainer writes.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for path in found:
        if read_json_whole(path / "trainer_state.json"):
            return path
        shutil.rmtree(path)
    return None


def read_json_whole(path: Path) -> bool:
    """Whether a JSON file is there and was written to its end."""
    try:
        json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return True
