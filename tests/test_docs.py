"""The README is true to the letter: what exists is in it, and what is in it exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from policies import lifecycle

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent


def help_of(*command: str) -> str:
    done = subprocess.run(
        [BIN / command[0], *command[1:], "--help"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def commands_of(tool: str, *above: str) -> list[tuple[str, ...]]:
    """Every command below `tool`, as its help lists them."""
    found: list[tuple[str, ...]] = []
    inside = False
    for line in help_of(tool, *above).splitlines():
        if "Commands" in line:
            inside = True
            continue
        match = re.match(r"^[│|\s]{1,4}([a-z][a-z-]+)\s{2,}", line)
        if inside and match:
            found.append((*above, match.group(1)))
    return found


def test_the_lifecycle_diagram_is_the_table() -> None:
    assert lifecycle.diagram() in README, "run: python -c 'from policies.lifecycle import diagram; print(diagram())'"


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["learnd", "learnctl"])
def test_every_command_is_in_the_readme(tool: str) -> None:
    listed = commands_of(tool)
    assert listed, f"{tool} --help lists no commands"
    for command in listed:
        assert f"{tool} {' '.join(command)}" in README, f"{tool} {' '.join(command)} is not in the README"


def test_every_make_target_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for name in re.findall(r"`?make ([a-z]+)`?", README):
        assert name in targets, f"make {name}"
    for name in targets:
        assert f"make {name}" in README, f"make {name} is not in the README"


@pytest.mark.slow
def test_every_command_in_the_readme_exists() -> None:
    known = {tool: {" ".join(c) for c in commands_of(tool)} for tool in ("learnd", "learnctl")}
    for tool, name in re.findall(r"^\$ (learnd|learnctl)(?: --config \S+)? ([a-z-]+)", README, re.MULTILINE):
        assert name in known[tool], f"{tool} {name}"
