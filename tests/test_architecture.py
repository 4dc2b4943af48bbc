"""The three sentences that may not bend: the one-way rule, the purity of policies, one owner a name."""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("daemon", "feedback", "policies")
TOP_LEVEL = {"daemon", "feedback", "policies", "migrations", "tests", "systemd"}
# What a pure core has no use for, although it is in the standard library.
EFFECTS = {
    "asyncio", "datetime", "io", "logging", "multiprocessing", "os", "pathlib", "random", "secrets", "shutil", "socket",
    "sqlite3", "subprocess", "sys", "tempfile", "threading", "time", "urllib", "uuid",
}  # fmt: skip


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def test_imports_go_one_way() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", sources("policies"), ids=lambda p: str(p.relative_to(ROOT)))
def test_policies_import_only_the_pure_standard_library_and_scipy_stats(path: Path) -> None:
    for name in imported(path):
        top = name.split(".")[0]
        if top in ("policies", "__future__"):
            continue
        if top == "scipy":
            assert name.startswith("scipy.stats") or name == "scipy", name
            continue
        assert top in sys.stdlib_module_names, f"{name} is no part of the standard library"
        assert top not in EFFECTS, f"{name} has effects, and policies has none"


def test_policies_call_no_effect_by_a_builtin() -> None:
    for path in sources("policies"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"open", "print", "input", "exec", "eval", "__import__"}, (
                    f"{path}: {node.func.id}"
                )


def test_only_the_clock_reads_the_clock() -> None:
    for package in PACKAGES:
        for path in sources(package):
            if path == ROOT / "daemon" / "clock.py":
                continue
            text = path.read_text(encoding="utf-8")
            assert "time.time(" not in text, f"{path.relative_to(ROOT)} reads the wall clock; take `now` as a parameter"
            assert "datetime.now(" not in text, path.relative_to(ROOT)


def test_modules_stay_small() -> None:
    for package in PACKAGES:
        for path in sources(package):
            lines = path.read_text(encoding="utf-8").count("\n")
            assert lines <= 500, f"{path.relative_to(ROOT)} has {lines} lines: split it"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_owns(package: str) -> None:
    for path in sources(package):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), (
            f"{path.relative_to(ROOT)} has no docstring"
        )


@pytest.mark.parametrize("package", PACKAGES)
def test_each_of_our_import_names_has_one_owner(package: str) -> None:
    owners = importlib.metadata.packages_distributions().get(package, [])
    assert set(owners) <= {"learnd"}, f"{package} is also installed by {owners}: use a private virtual environment"


def test_the_top_level_holds_what_the_design_names() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    folders = {name.split("/")[0] for name in listed if "/" in name}
    assert {f for f in folders if not f.startswith(".")} <= TOP_LEVEL


def test_no_test_patches_our_own_modules() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        if path == Path(__file__):
            continue
        text = path.read_text(encoding="utf-8")
        for line in text.splitlines():
            assert not ("patch" in line and any(f'"{p}.' in line for p in PACKAGES)), f"{path.name}: {line.strip()}"
            assert "setattr(" not in line or "monkeypatch" not in line or not any(p in line for p in PACKAGES), line
