"""`learnd init`: files to begin with, which run as they are.

Owns: which files, and that none that is there is overwritten. Refuses to know what the settings mean: the comments of
`daemon/templates` say it, and `daemon/probes/suites` holds the safety suites. Called by `daemon.main`.
"""

import json
from importlib.resources import files
from pathlib import Path
from shlex import quote

from policies.errors import Refused

DEPLOYMENT = "my-bot"
SUITES = ("harmful", "benign", "jailbreak", "pii", "exposure", "sycophancy")
LAYOUT = {
    "learnd.toml": "templates/learnd.toml",
    f"policies/{DEPLOYMENT}.toml": "templates/policy.toml",
    "goldens/goldens.jsonl": "templates/goldens.jsonl",
    "goldens/safety.jsonl": "templates/safety.jsonl",
    "goldens/anchor.jsonl": "templates/anchor.jsonl",
    **{f"goldens/suites/{name}.jsonl": f"probes/suites/{name}.jsonl" for name in SUITES},
    f"models/{DEPLOYMENT}/answers.json": "templates/answers.json",
}


def write(folder: Path) -> list[Path]:
    """Write the files and return their paths.

    Raises: Refused where one of them is there already (nothing is written then), OSError where the folder can't be.
    """
    there = [folder / name for name in LAYOUT if (folder / name).exists()]
    if there:
        raise Refused(f"{there[0]} is there already", hint="name another folder; learnd init overwrites nothing")
    written = []
    for name, source in LAYOUT.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files("daemon").joinpath(source).read_text(encoding="utf-8"), encoding="utf-8")
        written.append(path)
    (folder / "feed").mkdir(exist_ok=True)
    return written


def next_steps(folder: Path) -> str:
    """What to type next, in order."""
    config = folder / "learnd.toml"
    ctl = f"learnctl --config {quote(str(config))}"
    imports = "\n".join(
        f"  {ctl} goldens import {quote(str(folder / 'goldens' / f'{role}.jsonl'))} --role {role}"
        for role in ("goldens", "safety", "anchor")
    )
    record = json.dumps(
        {
            "id": "1",
            "time": "2026-01-31T12:00:00Z",
            "deployment": DEPLOYMENT,
            "prompt": "when do you open?",
            "response": "No idea.",
            "correction": "At nine.",
        }
    )
    return f"""
next:
  {ctl} config check
  learnd run --config {quote(str(config))}
then, in another terminal:
{imports}
  {ctl} status
bring feedback, one JSON object a line:
  echo '{record}' >> {quote(str(folder / "feed" / "today.jsonl"))}
your own model: put its folder into [deployments.{DEPLOYMENT}] of {config}"""
