"""The unit is one that systemd 252 takes, hardened, and fits what learnd says and needs."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from daemon.config import load

FOLDER = Path(__file__).resolve().parents[2] / "systemd"
ANALYZE = shutil.which("systemd-analyze")
SYSUSERS = shutil.which("systemd-sysusers")
MOST_EXPOSED = 20  # tenths of systemd's exposure level: 0 is sealed, 100 is open


class _Repeated(dict[str, str]):
    """systemd lets a key be given again; the values are kept one a line."""

    def __setitem__(self, key: str, value: str) -> None:
        if isinstance(value, list) and key in self:
            value = [*self[key], *value]
        super().__setitem__(key, value)


@pytest.fixture
def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False, dict_type=_Repeated, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(FOLDER / "learnd.service")
    return parser


def test_the_unit_can_be_parsed_and_has_its_three_sections(unit: configparser.ConfigParser) -> None:
    assert unit.sections() == ["Unit", "Service", "Install"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Type", "notify"),
        ("ExecReload", "/bin/kill -HUP $MAINPID"),
        ("KillMode", "mixed"),
        ("RestartPreventExitStatus", "78"),
        ("UMask", "0077"),
        ("StateDirectory", "learnd"),
        ("RuntimeDirectory", "learnd"),
        ("OOMPolicy", "continue"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("User", "learnd"),
        ("LimitCORE", "0"),
    ],
)
def test_the_unit_says_what_learnd_relies_on(unit: configparser.ConfigParser, key: str, value: str) -> None:
    assert unit["Service"][key] == value


def test_the_unit_leaves_out_what_would_break_learnd(unit: configparser.ConfigParser) -> None:
    # Peers would all be nobody; torch compiles; the boot's id tells whether a lease's holder is gone; GPUs vanish.
    service = unit["Service"]
    for key in ("PrivateUsers", "MemoryDenyWriteExecute", "ProcSubset", "PrivateDevices", "PrivateNetwork"):
        assert key not in service, key
    assert int(service["WatchdogSec"]) > 0
    assert {"AF_UNIX", "AF_INET", "AF_INET6"} == set(service["RestrictAddressFamilies"].split())


def test_no_library_calls_home_from_the_service(unit: configparser.ConfigParser) -> None:
    for name in ("HF_HUB_OFFLINE=1", "HF_HUB_DISABLE_TELEMETRY=1", "DO_NOT_TRACK=1"):
        assert name in unit["Service"]["Environment"]


def test_the_example_configuration_can_be_loaded_and_fits_the_unit(unit: configparser.ConfigParser) -> None:
    settings = load(FOLDER / "learnd.toml", {})
    assert settings.state == Path("/var/lib") / unit["Service"]["StateDirectory"]
    assert settings.socket.parent == Path("/run") / unit["Service"]["RuntimeDirectory"]
    assert f"g {settings.operators} " in (FOLDER / "learnd.sysusers.conf").read_text()
    for deployment in settings.deployments.values():
        assert deployment.target.options.folder.is_relative_to(settings.state)
    feeds = [source.options.folder for source in settings.sources if source.kind == "files"]
    assert all(f" {folder} " in (FOLDER / "learnd.tmpfiles.conf").read_text() for folder in feeds)


def test_the_commented_lines_of_the_example_can_be_loaded_too(tmp_path: Path) -> None:
    text = (FOLDER / "learnd.toml").read_text()
    path = tmp_path / "learnd.toml"
    path.write_text(re.sub(r"(?m)^# (\[\[|[a-z]+ = )", r"\1", text))
    settings = load(path, {})
    assert [source.kind for source in settings.sources] == ["files", "kafka"]
    assert settings.database.startswith("postgresql:")


def test_every_tmpfiles_line_makes_a_folder_and_ages_nothing_out() -> None:
    lines = [line.split() for line in (FOLDER / "learnd.tmpfiles.conf").read_text().splitlines()]
    for kind, path, mode, _user, _group, age in (line for line in lines if line and not line[0].startswith("#")):
        assert kind == "d"
        assert path.startswith(("/etc/learnd", "/var/lib/learnd", "/var/spool/learnd"))
        assert re.fullmatch(r"[0-7]{4}", mode)
        assert mode[-1] == "0"
        assert age == "-"


def test_every_sysusers_line_is_a_user_or_a_group() -> None:
    lines = [line for line in (FOLDER / "learnd.sysusers.conf").read_text().splitlines() if not line.startswith("#")]
    assert [line.split()[:2] for line in lines] == [["g", "learnd-operators"], ["u", "learnd"]]


# What follows asks systemd itself where it is installed; nothing is ever booted or changed by it.
if ANALYZE:

    @pytest.fixture
    def copied(tmp_path: Path) -> Path:
        """The unit with a program that is there, since `verify` looks for it."""
        text = (FOLDER / "learnd.service").read_text()
        path = tmp_path / "learnd.service"
        path.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", text))
        return path

    def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(ANALYZE), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def test_systemd_takes_the_unit_without_a_word(copied: Path) -> None:
        done = analyze("verify", "--man=no", "--recursive-errors=no", str(copied))
        assert "learnd" not in done.stderr
        assert done.returncode == 0, done.stderr

    def test_systemd_finds_the_unit_hardened(copied: Path) -> None:
        done = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", str(copied))
        assert done.returncode == 0, done.stdout + done.stderr

    def test_a_directive_that_systemd_does_not_know_would_be_seen(copied: Path) -> None:
        copied.write_text(copied.read_text().replace("KillMode=mixed", "KillMood=mixed\nType=notify-me"))
        assert "KillMood" in analyze("verify", "--man=no", "--recursive-errors=no", str(copied)).stderr


if SYSUSERS:

    def test_systemd_would_make_the_user_and_the_group(tmp_path: Path) -> None:
        (tmp_path / "etc").mkdir()
        for name in ("passwd", "group"):
            (tmp_path / "etc" / name).touch()
        command = [str(SYSUSERS), "--dry-run", f"--root={tmp_path}", "--replace=/usr/lib/sysusers.d/learnd.conf", "-"]
        text = (FOLDER / "learnd.sysusers.conf").read_text()
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        for made in ("learnd-operators", "learnd"):
            assert f"'{made}'" in done.stdout + done.stderr
