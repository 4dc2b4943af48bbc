"""learnd.toml and the environment become frozen settings, or a message that names file, key and what would be right."""

import dataclasses
import os
import stat
from pathlib import Path

import pytest

from daemon.config import load
from daemon.keys import load_keys, record_settings
from policies.errors import Misconfigured

WHOLE = """
[service]
state = "var"
tick_seconds = 2
preload_jobs = false

[records]
judge_share = 0.1

[[sources]]
kind = "files"
folder = "feed"

[deployments.bot]
model = "models/bot"
policy = "bot.toml"
consent_default = "tenant"

[deployments.bot.target]
kind = "files"
folder = "serving"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "learnd.toml"
    path.write_text(WHOLE, encoding="utf-8")
    return path


def refused(path: Path, environment: dict[str, str] | None = None) -> Misconfigured:
    with pytest.raises(Misconfigured) as caught:
        load(path, environment or {})
    assert caught.value.hint, "an error without a hint helps nobody"
    return caught.value


def test_relative_paths_start_at_the_file_and_not_where_somebody_stands(file: Path) -> None:
    settings = load(file, {})
    assert settings.state == file.parent / "var"
    assert settings.socket == file.parent / "var" / "control.sock"
    assert settings.keys == file.parent / "var" / "keys"
    assert settings.database == f"sqlite:///{file.parent}/var/learnd.db"
    assert settings.sources[0].options.folder == file.parent / "feed"
    bot = settings.deployments["bot"]
    assert bot.model == file.parent / "models" / "bot"
    assert bot.policy == file.parent / "bot.toml"
    assert bot.target.options.folder == file.parent / "serving"


def test_settings_can_not_be_changed(file: Path) -> None:
    settings = load(file, {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.tick_seconds = 5.0  # type: ignore[misc]


def test_the_environment_wins_over_the_file(file: Path) -> None:
    given = {"LEARND_DATABASE": "postgresql://db/learnd", "LEARND_TICK_SECONDS": "0.5", "LEARND_PRELOAD_JOBS": "true"}
    settings = load(file, given)
    assert settings.database == "postgresql://db/learnd"
    assert settings.tick_seconds == 0.5
    assert settings.preload_jobs is True


def test_an_unknown_variable_of_ours_is_refused_and_foreign_ones_are_not_looked_at(file: Path) -> None:
    error = refused(file, {"LEARND_DATABSE": "sqlite:///x"})
    assert "LEARND_DATABSE" in str(error)
    assert "LEARND_DATABASE" in error.hint
    load(file, {"PATH": "/bin", "LEARND_CONFIG": "elsewhere.toml"})


@pytest.mark.parametrize(
    ("line", "wrong", "key", "right"),
    [
        ("tick_seconds = 2", "tik_seconds = 2", "service.tik_seconds", "tick_seconds"),
        ("judge_share = 0.1", "judge_shares = 0.1", "records.judge_shares", "judge_share"),
        ('consent_default = "tenant"', 'consent = "tenant"', "deployments.bot.consent", "consent_default"),
        ('folder = "serving"', 'foldr = "serving"', "deployments.bot.target.foldr", "folder"),
        ('folder = "feed"', 'folders = "feed"', "sources[1].folders", "folder"),
        ('kind = "files"\nfolder = "feed"', 'kind = "file"', "sources[1].kind", "files"),
        ("[records]", "[record]", "record", "records"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_right_one(
    file: Path, line: str, wrong: str, key: str, right: str
) -> None:
    file.write_text(WHOLE.replace(line, wrong, 1), encoding="utf-8")
    error = refused(file)
    assert str(file) in str(error)
    assert key in str(error)
    assert right in error.hint


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("tick_seconds = 2", 'tick_seconds = "2"'),
        ("tick_seconds = 2", "tick_seconds = true"),
        ("tick_seconds = 2", "tick_seconds = nan"),
        ("tick_seconds = 2", "tick_seconds = 0"),
        ("tick_seconds = 2", "tick_seconds = 3600"),
        ("preload_jobs = false", "preload_jobs = 0"),
        ("judge_share = 0.1", "judge_share = 0.9"),
        ("judge_share = 0.1", 'regions = ["XX"]'),
        ('consent_default = "tenant"', 'consent_default = "yes"'),
        ('consent_default = "tenant"', "max_new_tokens = 0"),
        ('model = "models/bot"', "model = 3"),
        ('model = "models/bot"', ""),
        ('state = "var"', "state = 2026-01-01"),
        ('kind = "files"\nfolder = "serving"', 'folder = "serving"'),
        ("[deployments.bot]", '[deployments."a b"]'),
    ],
)
def test_a_value_that_can_not_be_meant_is_refused(file: Path, line: str, wrong: str) -> None:
    file.write_text(WHOLE.replace(line, wrong, 1), encoding="utf-8")
    refused(file)


@pytest.mark.parametrize("text", ["", "[service]\nstate = ", "\x00", "[sources]\nkind = 'files'", "deployments = 3"])
def test_a_broken_file_is_a_message_and_no_traceback(tmp_path: Path, text: str) -> None:
    path = tmp_path / "learnd.toml"
    path.write_text(text, encoding="utf-8")
    refused(path)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    assert "learnd init" in refused(tmp_path / "none.toml").hint


def test_keys_are_made_once_for_this_service_alone(tmp_path: Path) -> None:
    first, second = load_keys(tmp_path / "keys"), load_keys(tmp_path / "keys")
    assert first == second
    assert first.user != first.fold
    for path in (tmp_path / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    load_keys(tmp_path)
    (tmp_path / "fold.key").chmod(0o644)
    with pytest.raises(Misconfigured, match="can be read by others") as caught:
        load_keys(tmp_path)
    assert "chmod 600" in caught.value.hint


def test_a_cut_key_is_refused_rather_than_replaced(tmp_path: Path) -> None:
    load_keys(tmp_path)
    (tmp_path / "fold.key").write_bytes(b"short")
    with pytest.raises(Misconfigured, match="holds 5 bytes"):
        load_keys(tmp_path)


def test_systemd_credentials_win_over_the_folder(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "fold.key").write_bytes(b"f" * 32)
    assert load_keys(tmp_path / "keys", credentials).fold == b"f" * 32
    assert not (tmp_path / "keys" / "fold.key").exists()


def test_a_second_user_key_is_the_next_version_and_the_first_still_finds_its_records(file: Path) -> None:
    before = load_keys(file.parent / "var" / "keys")
    newer = file.parent / "var" / "keys" / "user-2.key"
    newer.write_bytes(os.urandom(32))
    newer.chmod(0o600)
    (file.parent / "bot.toml").write_text('[drift]\nslices = ["tenant", "language"]\n')
    rules = record_settings(load(file, {}))
    assert rules.slices["bot"] == ("tenant", "language")
    assert rules.key_version == 2
    assert rules.old_user_keys == {1: before.user}
    assert rules.fold_key == before.fold
    assert rules.judge_share == 0.1
    assert rules.deployments["bot"].consent_default == "tenant"


def test_no_key_is_shown_when_somebody_prints_them(tmp_path: Path) -> None:
    keys = load_keys(tmp_path)
    assert repr(keys.user) not in repr(keys)
