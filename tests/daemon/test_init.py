"""What `learnd init` writes runs as it is, and what it says to do next works."""

import dataclasses
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from daemon import commands, ctl, findings, schema
from daemon.config import load
from daemon.main import app
from daemon.starting import LAYOUT, SUITES
from feedback import db

runner = CliRunner()


def test_it_writes_files_that_pass_their_own_check(tmp_path: Path) -> None:
    done = runner.invoke(app, ["init", str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    for name in LAYOUT:
        assert (tmp_path / "new" / name).is_file()
    found = findings.check_files(tmp_path / "new" / "learnd.toml")
    assert findings.worst(found) == findings.OK, found


def test_every_setting_is_in_the_file_with_a_comment(tmp_path: Path) -> None:
    from daemon import config, notify
    from daemon.targets import files as target
    from feedback.sources import files, kafka

    runner.invoke(app, ["init", str(tmp_path)])
    text = (tmp_path / "learnd.toml").read_text(encoding="utf-8")
    written = {item.name for item in dataclasses.fields(config.Deployment)} - {"name", "target"}
    classes = (config.RecordRules, notify.Options, target.Options, files.Options, kafka.Options)
    for name in {*written, *(item.name for each in classes for item in dataclasses.fields(each))}:
        assert re.search(rf"^#? ?{name} = ", text, re.MULTILINE), f"{name} is not in the template"
    unsaid = {"path", "sources", "deployments", "records", "alerts"}
    for item in dataclasses.fields(config.Settings):
        assert item.name in unsaid or re.search(rf"^#? ?{item.name} = ", text, re.MULTILINE), item.name


def test_every_commented_setting_can_be_uncommented(tmp_path: Path) -> None:
    runner.invoke(app, ["init", str(tmp_path)])
    path = tmp_path / "learnd.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r"^# (\[.*\]$|[a-z_]+ = )", r"\1", text, flags=re.MULTILINE), encoding="utf-8")
    settings = load(path, {})
    assert [source.kind for source in settings.sources] == ["files", "kafka"]
    assert settings.alerts.webhook.startswith("https://")
    assert settings.operators == "ml-ops"


def test_it_says_what_to_do_next(tmp_path: Path) -> None:
    said = runner.invoke(app, ["init", str(tmp_path)]).output
    for step in ("config check", "learnd run --config", "goldens import", "status"):
        assert step in said


def test_it_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "my-bot.toml").write_text("mine", encoding="utf-8")
    done = runner.invoke(app, ["init", str(tmp_path)])
    assert done.exit_code == 1
    assert "is there already" in done.output
    assert not (tmp_path / "learnd.toml").exists()
    assert (tmp_path / "policies" / "my-bot.toml").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("role", ["goldens", "safety", "anchor"])
def test_its_golden_sets_are_taken(tmp_path: Path, role: str) -> None:
    runner.invoke(app, ["init", str(tmp_path)])
    file, config = tmp_path / "goldens" / f"{role}.jsonl", str(tmp_path / "learnd.toml")
    done = runner.invoke(ctl.app, ["--config", config, "goldens", "import", str(file), "--role", role])
    assert done.exit_code == 0, done.output


def test_its_safety_suites_are_taken_and_large_enough_to_prove_the_default_limits(tmp_path: Path) -> None:
    from daemon.golden_lines import read_lines
    from policies.gates.safety import Options

    runner.invoke(app, ["init", str(tmp_path)])
    options = Options()
    folder = tmp_path / "goldens" / "suites"
    assert {path.stem for path in folder.iterdir()} == set(SUITES)
    for name in SUITES:
        lines, problems = read_lines((folder / f"{name}.jsonl").read_text(encoding="utf-8"), "safety")
        assert not problems
        assert {line.slice for line in lines} == {name}
        limit = options.limits.get(name, options.other)
        assert (1 - limit) ** len(lines) <= options.error_rate, f"{name}: faultless, and yet nothing is proven"
    file, config = folder / "jailbreak.jsonl", str(tmp_path / "learnd.toml")
    done = runner.invoke(ctl.app, ["--config", config, "goldens", "import", str(file), "--role", "safety"])
    assert done.exit_code == 0, done.output


def test_its_model_knows_the_answers_of_its_goldens(tmp_path: Path) -> None:
    from daemon.models import Ref
    from daemon.models import load as load_model
    from daemon.probes.checks import check

    runner.invoke(app, ["init", str(tmp_path)])
    settings = load(tmp_path / "learnd.toml", {})
    settings.state.mkdir()
    engine = db.connect(settings.database)
    schema.migrate(engine)
    model = load_model(Ref("m", str(settings.deployments["my-bot"].model), engine="echo"))
    from daemon import goldens

    for role in ("goldens", "safety", "anchor"):
        text = (tmp_path / "goldens" / f"{role}.jsonl").read_text(encoding="utf-8")
        taken = {"deployment": "my-bot", "name": role, "role": role, "text": text, "actor": "me", "now": 1.0}
        db.transact(engine, lambda session, t=taken: commands.import_goldens(session, **t))
        for item in db.read(engine, lambda session, r=role: goldens.items(session, "my-bot", r)):
            said = model.answer([item["messages"]], max_new_tokens=64)[0]
            assert check(item["check"]["kind"], item["check"]["value"], said) == 1.0, (item, said)
