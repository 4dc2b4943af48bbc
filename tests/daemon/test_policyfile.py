"""A policy's file becomes a frozen policy with a hash over everything that it decides."""

import dataclasses
import json
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.options import names
from daemon.policyfile import canonical, load_policy, parse_policy
from policies import gates
from policies.errors import Misconfigured
from policies.model import Mode
from policies.policy import Policy

SMALL = 'mode = "auto"\n[triggers]\nvolume = 7\n[gates.safety]\n[gates.regression]\nmargin = 0.03\n'
TEMPLATE = (files("daemon") / "templates" / "policy.toml").read_text(encoding="utf-8")


def refused(text: str) -> Misconfigured:
    with pytest.raises(Misconfigured) as caught:
        parse_policy(text, "p.toml")
    assert "p.toml" in str(caught.value)
    assert caught.value.hint
    return caught.value


def test_what_the_file_leaves_out_has_its_default() -> None:
    policy = parse_policy(SMALL, "support.toml")
    assert policy.name == "support"
    assert policy.mode is Mode.AUTO
    assert policy.triggers.volume == 7
    assert policy.triggers.minimum == Policy("x").triggers.minimum
    assert policy.gates["regression"].margin == 0.03
    assert set(policy.gates) == {"safety", "regression"}, "a gate is never added behind the person's back"


def test_comments_and_order_do_not_change_the_hash_and_a_number_does() -> None:
    first = parse_policy(SMALL, "p.toml")
    again = parse_policy("# a comment\n" + SMALL.replace("volume = 7", "volume = 0x7"), "p.toml")
    other = parse_policy(SMALL.replace("volume = 7", "volume = 8"), "p.toml")
    assert first.hash == again.hash
    assert first.hash != other.hash


def test_spelling_a_default_out_does_not_change_the_hash() -> None:
    spelt = parse_policy(SMALL + "[watch]\nmargin = 0.05\n", "p.toml")
    assert spelt.hash == parse_policy(SMALL, "p.toml").hash


def test_the_canonical_text_gives_the_same_policy_again() -> None:
    policy = parse_policy(TEMPLATE, "my-bot.toml")
    again = parse_policy(canonical(policy), "the database")
    assert again == policy
    assert "hash" not in json.loads(canonical(policy))


@given(
    volume=st.integers(0, 10**9),
    margin=st.floats(0, 1),
    steps=st.lists(st.floats(0.001, 0.999), max_size=4, unique=True).map(lambda s: [*sorted(s), 1.0]),
    name=st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=20),
)
def test_every_policy_survives_the_way_through_its_canonical_text(
    volume: int, margin: float, steps: list[float], name: str
) -> None:
    gate = f"[gates.regression]\nmargin = {margin!r}\n"
    text = f"name = {json.dumps(name, ensure_ascii=False)}\n[triggers]\nvolume = {volume}\n{gate}"
    policy = parse_policy(text + f"[rollout]\nsteps = {steps}\n", "p.toml")
    assert parse_policy(canonical(policy), "again") == policy


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("mod = 'auto'", "mode"),
        ("[trigger]\nvolume = 1", "triggers"),
        ("[triggers]\nvolme = 1", "volume"),
        ("[gates.saftey]", "safety"),
        ("[gates.safety]\nlimit = {}", "limits"),
        ("[drift]\ncheap = 'pssi'", "psi"),
        ("[method]\nallowed = ['lorra']", "lora"),
        ("[method.options.echo]\nmaximun = 3", "maximum"),
        ("hash = 'f00'", "triggers"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_right_one(text: str, right: str) -> None:
    assert right in refused(text).hint


@pytest.mark.parametrize(
    "text",
    [
        "mode = 'automatic'",
        "[triggers]\nvolume = '7'",
        "[triggers]\nvolume = 1.5",
        "[triggers]\nvolume = -1",
        "[triggers]\ndrift = 1",
        "[triggers]\nschedule = 'daily'",
        "[triggers]\ntries = 0",
        "[drift]\nevidence_schedule = '61 * * * *'",
        "[drift]\nagree = 5",
        "[drift]\nagree = 0",
        "[drift]\nblocks = 0\nagree = 0",
        "[drift]\nfalse_alarms = 0.0",
        "[mixture]\nreplay = 1.5",
        "[watch]\nerror_rate = 0.0",
        "[watch]\nmargin = nan",
        "[watch]\nmargin = inf",
        "[costs]\ncurrency = 'euro'",
        "[costs]\ngpu_hour = -1.0",
        "[rollout]\nsteps = []",
        "[rollout]\nsteps = [0.5]",
        "[rollout]\nsteps = [0.5, 0.2, 1.0]",
        "[rollout]\nsteps = [0.0, 1.0]",
        "[method]\ndevice = 'tpu'",
        "gates = 3",
        "[gates]\nsafety = true",
        "mode =",
        "[]",
    ],
)
def test_a_value_that_can_not_be_meant_is_refused(text: str) -> None:
    refused(text)


@pytest.mark.parametrize(("depth", "most"), [(8, 8), (9, 8), (3, 2)])
def test_a_merge_that_a_fresh_start_always_comes_before_is_refused_and_stays_replayable(
    tmp_path: Path, depth: int, most: int
) -> None:
    path = tmp_path / "p.toml"
    text = f"[method]\nmax_depth = {most}\n[method.options.lora]\nmerge_depth = {{}}\n"
    path.write_text(text.format(depth), encoding="utf-8")
    with pytest.raises(Misconfigured, match=f"merge_depth = {depth} is never reached") as raised:
        load_policy(path)
    assert f"max_depth = {most}" in raised.value.hint
    parse_policy(text.format(depth), "the database")
    path.write_text(text.format(most - 1), encoding="utf-8")
    assert load_policy(path).method.max_depth == most


def test_a_missing_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="is not there"):
        load_policy(tmp_path / "none.toml")


def test_a_teachers_folder_starts_at_the_policys_file(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text("[method]\nteacher = 'teachers/large'\n", encoding="utf-8")
    policy = load_policy(path)
    assert policy.method.teacher == str(tmp_path / "teachers" / "large")
    assert parse_policy(canonical(policy), "the database") == policy


def test_the_template_names_every_setting_of_a_policy_and_of_every_gate() -> None:
    sections = [(f.name, f.default) for f in dataclasses.fields(Policy) if dataclasses.is_dataclass(f.default)]
    gate_options = [(name, gates.load(name).Options()) for name in gates.NAMES]
    for where, section in [*sections, *gate_options]:
        for field in dataclasses.fields(section):
            assert field.name in TEMPLATE, f"{where}.{field.name} is not explained in the template"


def test_the_template_says_the_defaults_but_where_it_says_otherwise() -> None:
    policy, default = parse_policy(TEMPLATE, "my-bot.toml"), Policy("my-bot")
    assert dataclasses.replace(policy.method, allowed=("lora", "distill"), device="gpu") == default.method
    for name in ("triggers", "drift", "mixture", "watch", "costs", "rollout", "approvals"):
        assert getattr(policy, name) == getattr(default, name)
    for name in gates.NAMES:
        assert policy.gates[name] == gates.load(name).Options()


def test_plugins_are_the_files_of_their_folder() -> None:
    assert set(gates.NAMES) == set(names("policies.gates"))
