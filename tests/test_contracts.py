"""Adding one thing is adding one file: whatever lies in these folders keeps its folder's contract."""

import dataclasses
import importlib
import inspect
import pkgutil
from types import ModuleType

import pytest

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


def offers(module: ModuleType, function: str) -> bool:
    return hasattr(module, function)


def plugins(folder: str) -> list[ModuleType]:
    package = importlib.import_module(folder)
    names = [info.name for info in pkgutil.iter_modules(package.__path__) if not info.ispkg]
    return [importlib.import_module(f"{folder}.{n}") for n in names if n not in SHARED.get(folder, set())]


CASES = [(folder, module) for folder in CONTRACTS for module in plugins(folder) if offers(module, CONTRACTS[folder][0])]


@pytest.mark.parametrize(("folder", "module"), CASES, ids=[m.__name__ for _, m in CASES])
def test_a_plugin_keeps_the_contract_of_its_folder(folder: str, module: ModuleType) -> None:
    function, parameters = CONTRACTS[folder]
    assert tuple(inspect.signature(getattr(module, function)).parameters) == parameters
    options = module.Options
    assert dataclasses.is_dataclass(options), f"{module.__name__}.Options is no dataclass"
    assert options.__dataclass_params__.frozen, f"{module.__name__}.Options can be changed"


@pytest.mark.parametrize(("folder", "module"), CASES, ids=[m.__name__ for _, m in CASES])
def test_every_option_is_explained_in_its_docstring(folder: str, module: ModuleType) -> None:
    for field in dataclasses.fields(module.Options):
        assert f"`{field.name}`" in (module.Options.__doc__ or ""), f"{module.__name__}.Options.{field.name}"


@pytest.mark.parametrize("folder", CONTRACTS)
def test_every_folder_loads_its_plugins_by_their_file_name(folder: str) -> None:
    package = importlib.import_module(folder)
    for _, module in (case for case in CASES if case[0] == folder):
        assert package.load(module.__name__.rsplit(".", 1)[1]) is module


def test_gates_carry_a_version() -> None:
    for _, module in (case for case in CASES if case[0] == "policies.gates"):
        assert isinstance(module.VERSION, int)
        assert module.VERSION >= 1


@pytest.mark.parametrize("module", plugins("daemon.targets"), ids=lambda m: m.__name__)
def test_a_target_offers_the_five_calls(module: ModuleType) -> None:
    assert dataclasses.is_dataclass(module.Options)
    assert isinstance(module.SPLITS, bool)
    for name in TARGET_METHODS:
        assert callable(getattr(module.Target, name))
