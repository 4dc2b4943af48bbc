"""Adding one thing is adding one file: whatever lies in these folders keeps its folder's contract."""

import ast
import dataclasses
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent

# Shared parts beside the plug-ins; everything else in the folder is one.
SHARED = {
    "daemon.training": {"examples"},
    "daemon.probes": {"checks"},
}
CONTRACTS = {
    "feedback.drift": ("measure", ("reference", "current", "options")),
    "daemon.training": ("train", ("job",)),
    "daemon.probes": ("measure", ("version", "items", "options")),
    "policies.gates": ("judge", ("candidate", "champion", "anchor", "options")),
}
TARGET_METHODS = ("load", "route", "serving", "answer", "unload")


def offers(path: Path, function: str) -> bool:
    """Told by reading: importing what trains would import torch before any test begins."""
    return any(isinstance(node, ast.FunctionDef) and node.name == function for node in ast.parse(path.read_text()).body)


def plugins(folder: str) -> list[str]:
    names = sorted(path.stem for path in (ROOT / folder.replace(".", "/")).glob("*.py") if path.stem != "__init__")
    return [f"{folder}.{name}" for name in names if name not in SHARED.get(folder, set())]


def cases(*folders: str) -> list[Any]:
    """Folder and module of each plug-in; importing one imports no torch (what it calls may)."""
    found = [(folder, name) for folder in folders for name in plugins(folder)]
    return [
        pytest.param(folder, name, id=name)
        for folder, name in found
        if offers(ROOT / f"{name.replace('.', '/')}.py", CONTRACTS[folder][0])
    ]


@pytest.mark.parametrize(("folder", "name"), cases(*CONTRACTS))
def test_a_plugin_keeps_the_contract_of_its_folder(folder: str, name: str) -> None:
    module = importlib.import_module(name)
    function, parameters = CONTRACTS[folder]
    assert tuple(inspect.signature(getattr(module, function)).parameters) == parameters
    options = module.Options
    assert dataclasses.is_dataclass(options), f"{name}.Options is no dataclass"
    assert options.__dataclass_params__.frozen, f"{name}.Options can be changed"
    for field in dataclasses.fields(options):
        assert f"`{field.name}`" in (options.__doc__ or ""), f"{name}.Options.{field.name} is not explained"
    assert importlib.import_module(folder).load(name.rsplit(".", 1)[1]) is module


@pytest.mark.parametrize("folder", CONTRACTS)
def test_every_folder_has_plugins(folder: str) -> None:
    assert cases(folder)


@pytest.mark.parametrize(("folder", "name"), cases("policies.gates"))
def test_gates_carry_a_version(folder: str, name: str) -> None:
    version = importlib.import_module(name).VERSION
    assert isinstance(version, int), folder
    assert version >= 1


@pytest.mark.parametrize("name", plugins("daemon.targets"))
def test_a_target_offers_the_five_calls(name: str) -> None:
    module = importlib.import_module(name)
    assert dataclasses.is_dataclass(module.Options)
    assert isinstance(module.SPLITS, bool)
    for method in TARGET_METHODS:
        assert callable(getattr(module.Target, method))


def test_an_objective_offers_its_formula_and_its_task_under_a_listed_name() -> None:
    from daemon.training.objectives import OBJECTIVES

    folder = ROOT / "daemon/training/objectives"
    found = {path.stem for path in folder.glob("*.py") if offers(path, "task")}
    assert found == set(OBJECTIVES)
    for name in OBJECTIVES:
        path = folder / f"{name}.py"
        assert offers(path, "loss")
        task = next(
            node
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.FunctionDef) and node.name == "task"
        )
        assert [one.arg for one in task.args.args] == ["samples", "setting"]
