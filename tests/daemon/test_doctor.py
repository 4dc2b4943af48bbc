"""The doctor finds what is wrong, says what to do, and breaks on nothing."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from daemon import ctl, doctor, findings
from daemon.config import Settings
from daemon.findings import ERROR, NOTE, OK, Finding
from daemon.keys import load_keys
from tests.stories import begin, tell


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return begin(tmp_path)


def of(found: list[Finding], check: str) -> list[Finding]:
    return [finding for finding in found if finding.check == check]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_new_folder_has_nothing_wrong(settings: Settings) -> None:
    found = doctor.examine(settings.path)
    assert findings.worst(found) != ERROR, [finding for finding in found if finding.level == ERROR]
    for check in (
        "configuration",
        "policy",
        "model",
        "python",
        "libraries",
        "disk",
        "gpu",
        "database",
        "keys",
        "socket",
    ):
        assert of(found, check), check


def test_every_finding_that_is_not_fine_says_what_to_do(settings: Settings) -> None:
    assert all(finding.hint for finding in doctor.examine(settings.path) if finding.level != OK)


def test_a_migrated_database_is_seen_and_its_sets_are_weighed(tmp_path: Path) -> None:
    settings, engine = tell(tmp_path)
    engine.dispose()
    found = doctor.examine(settings.path)
    assert of(found, "database")[0].level == OK
    assert {finding.level for finding in of(found, "power")} == {NOTE}


def test_a_password_is_never_shown(settings: Settings) -> None:
    edit(settings.path, 'state = "state"', 'state = "state"\ndatabase = "postgresql://me:hunter2@127.0.0.1:1/x"')
    found = doctor.examine(settings.path)
    assert of(found, "database")[0].level == ERROR
    assert not any("hunter2" in finding.message + finding.hint for finding in found)


def test_a_key_that_others_read_is_an_error(settings: Settings) -> None:
    load_keys(settings.keys)
    (settings.keys / "fold.key").chmod(0o640)
    assert of(doctor.examine(settings.path), "keys")[0].level == ERROR


@pytest.mark.parametrize("name", ["model.bin", "code.py"])
def test_a_pickle_or_code_in_the_model_is_an_error(settings: Settings, name: str) -> None:
    (settings.deployments["my-bot"].model / name).write_bytes(b"\x80\x04.")
    assert of(findings.check_files(settings.path), "model")[0].level == ERROR


def write_model(folder: Path, *, pad: str) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "answers.json").unlink()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\0\0")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    tokens = {"eos_token": "</s>", **({"pad_token": {"content": pad}} if pad else {})}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens), encoding="utf-8")


@pytest.mark.parametrize(("pad", "level"), [("<pad>", OK), ("</s>", ERROR), ("", ERROR)])
def test_a_pad_token_of_its_own_is_demanded(settings: Settings, pad: str, level: str) -> None:
    write_model(settings.deployments["my-bot"].model, pad=pad)
    assert of(findings.check_files(settings.path), "model")[0].level == level


def test_a_model_without_a_tokenizer_is_an_error(settings: Settings) -> None:
    folder = settings.deployments["my-bot"].model
    write_model(folder, pad="<pad>")
    (folder / "tokenizer_config.json").unlink()
    assert "no tokenizer" in of(findings.check_files(settings.path), "model")[0].message


def test_a_missing_model_folder_is_an_error(settings: Settings) -> None:
    edit(settings.path, 'model = "models/my-bot"', 'model = "models/none"')
    assert of(findings.check_files(settings.path), "model")[0].level == ERROR


def test_a_gate_that_is_left_out_is_an_error_and_one_switched_off_a_note(settings: Settings) -> None:
    policy = settings.deployments["my-bot"].policy
    edit(policy, "[gates.proof]\nminimum = 1", "")
    edit(policy, "flips = 0.1                 # largest share of items that were right and are wrong now\nenabled = true",
         "enabled = false")  # fmt: skip
    told = {finding.level: finding.message for finding in of(findings.check_files(settings.path), "policy")}
    assert "no [gates.proof]" in told[ERROR]
    assert "regression is switched off" in told[NOTE]


def test_a_task_that_no_gate_requires_is_noted_with_what_to_write(settings: Settings) -> None:
    policy = settings.deployments["my-bot"].policy
    tasks = policy.parent / "tasks"
    tasks.mkdir()
    for name in ("arc", "say", "sum"):
        (tasks / f"{name}.yaml").write_text(f"task: {name}", "utf-8")
    edit(policy, "[gates.safety]", '[probes.lm_eval]\nfolder = "tasks"\ntasks = ["arc", "say", "sum"]\n[gates.safety]')
    edit(policy, "required = [] ", 'required = ["say"] ')

    def notes() -> list[Finding]:
        return [finding for finding in of(findings.check_files(settings.path), "policy") if finding.level == NOTE]

    (note,) = notes()
    assert note.message == "my-bot: a task that can't be measured would not refuse: arc, sum"
    assert note.hint == 'write required = ["say", "arc", "sum"] into [gates.retention]'
    told = CliRunner().invoke(ctl.app, ["--config", str(settings.path), "doctor"]).stdout
    assert note.message in told
    assert note.hint in told
    edit(policy, 'required = ["say"] ', 'required = ["say", "arc", "sum"] ')
    assert not notes()


def test_a_policy_that_waits_for_a_gpu_where_there_is_none_is_an_error(settings: Settings) -> None:
    edit(settings.deployments["my-bot"].policy, 'device = "any"', 'device = "gpu"')
    level = OK if Path("/dev/nvidiactl").exists() else ERROR
    assert of(doctor.examine(settings.path), "gpu")[0].level == level


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_kafka_that_takes_no_connection_is_an_error_and_one_that_does_is_not(
    settings: Settings, listener: int
) -> None:
    text = settings.path.read_text(encoding="utf-8").replace('kind = "files"\nfolder = "feed"', "{source}")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = closed.getsockname()[1]
    for port, level in ((listener, OK), (dead, ERROR)):
        source = f'kind = "kafka"\nservers = ["127.0.0.1:{port}"]\ntopics = ["feedback"]'
        settings.path.write_text(text.replace("{source}", source), encoding="utf-8")
        assert of(doctor.examine(settings.path), "source kafka")[0].level == level


def test_it_ends_with_1_where_something_is_wrong_and_lists_it(settings: Settings) -> None:
    edit(settings.path, 'model = "models/my-bot"', 'model = "models/none"')
    done = CliRunner().invoke(ctl.app, ["--config", str(settings.path), "doctor"])
    assert done.exit_code == 1
    assert "ERROR  model" in done.stdout
    assert "hint:" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 to correct"


def test_a_margin_that_the_goldens_can_not_prove_is_told_with_the_one_they_could(settings: Settings) -> None:
    config, goldens = str(settings.path), settings.path.parent / "goldens" / "goldens.jsonl"
    CliRunner().invoke(ctl.app, ["--config", config, "goldens", "import", str(goldens)])
    told = [finding for finding in of(doctor.examine(settings.path), "power") if "margin" in finding.message]
    assert "margin 0.02 with 8 items" in told[0].message
    assert "8 items prove a margin of" in told[0].hint


def test_a_missing_set_is_told_with_how_to_bring_it(tmp_path: Path) -> None:
    settings, engine = tell(tmp_path)
    engine.dispose()
    hints = [finding.hint for finding in of(doctor.examine(settings.path), "power")]
    assert len(hints) == 3
    assert all("goldens import" in hint for hint in hints)


def test_a_state_folder_that_others_can_enter_is_noted(settings: Settings) -> None:
    settings.state.mkdir(mode=0o755)
    assert "chmod 700" in of(doctor.examine(settings.path), "state")[0].hint
