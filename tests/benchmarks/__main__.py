"""All benchmarks: a JSON file and a picture each, and the README's table filled from the files.

Owns: the order and the table. Refuses to know what a benchmark measures. Called by `make bench` as
`python -m tests.benchmarks --out FOLDER [--quick]`.
"""

import argparse
import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import tests.benchmarks

README = Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"


def main() -> int:
    """Run each in a process of its own; 0 when all of them ran and every claim holds."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="the small version of those that have one")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    failed, rows = [], []
    for name in names():
        path = given.out / f"{name}.json"
        command = [sys.executable, "-m", f"tests.benchmarks.{name}", "--out", str(path)]
        sys.stdout.write(f"--- {name}\n")
        sys.stdout.flush()
        if subprocess.run([*command, *(["--quick"] if given.quick else [])], check=False).returncode:
            failed.append(name)
        if path.is_file():
            rows += table(json.loads(path.read_text(encoding="utf-8")))
    fill(README, rows)
    sys.stdout.write(f"failed: {', '.join(failed)}\n" if failed else "every claim holds\n")
    return 1 if failed else 0


def names() -> list[str]:
    """The benchmarks there are: the modules of this folder but the helpers."""
    found = (module.name for module in pkgutil.iter_modules(tests.benchmarks.__path__))
    return sorted(name for name in found if not name.startswith("_") and name != "common")


def table(body: dict[str, Any]) -> list[str]:
    """A line of the table for each claim of one benchmark."""
    return [
        f"| {body['benchmark']} | {c['claim']} | {c['value']:g} | {'≥' if c['least'] else '≤'} {c['limit']:g} | "
        f"{'yes' if c['holds'] else 'no'} |"
        for c in body["claims"]
    ]


def fill(readme: Path, rows: list[str]) -> None:
    """Put the rows between the README's two markers, where it has them."""
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text or not rows:
        return
    head = ["| benchmark | claim | value | limit | holds |", "|---|---|---|---|---|"]
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    readme.write_text(before + "\n".join([BEGIN, *head, *rows, END]) + after, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
