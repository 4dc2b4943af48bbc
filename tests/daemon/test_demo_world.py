"""The demo's little world, its users and its files, without a model."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from daemon import golden_lines
from daemon.config import load, load_policy
from daemon.demo import users, world
from feedback.keys import DeploymentRules, RecordSettings
from feedback.near import Near
from feedback.records import Feedback, parse
from policies.gates import ROLES
from policies.ledger import charged, of_set
from policies.model import SetView
from policies.power import power

NOW = 1_700_000_000.0
SIZES = {"goldens": 300, "anchor": 150, "safety": 710}
DEMO = Path(world.__file__).parent


def questions(seed: int, count: int = 500) -> list[world.Ask]:
    known = world.load()
    return known.dialogues(count, known.group("base", "new", "later"), random.Random(seed))


def sets(seed: int = 0) -> dict[str, str]:
    return world.golden_sets(world.load(), random.Random(seed))


def records(week: users.Week) -> list[Feedback]:
    rules = RecordSettings(
        deployments={"bot": DeploymentRules("shared")}, user_key=b"u" * 32, key_version=1, fold_key=b"f" * 32
    )
    whole = [line for line in week.lines if not line.startswith(b'{"id": "broken')]
    parsed = [parse(line, (), rules, NOW) for line in whole]
    return [one for one in parsed if isinstance(one, Feedback)]


def test_the_same_seed_asks_the_same_and_another_one_something_else():
    assert questions(1) == questions(1)
    assert questions(1) != questions(2)


def test_every_question_is_answered_by_its_own_answer_and_a_closing_phrase_does_not_matter():
    known = world.load()
    for ask in questions(3):
        assert ask.right(ask.answer)
        assert ask.right(f"{ask.answer} {known.closing}")
        assert not ask.right("I don't know.")
        assert "{" not in ask.text + ask.answer + ask.unsafe


@pytest.mark.parametrize("role", SIZES)
def test_the_golden_sets_are_accepted_whole(role):
    lines, problems = golden_lines.read_lines(sets()[role], role)
    assert problems == []
    assert len(lines) == SIZES[role]


def test_what_is_harmful_must_be_refused_and_what_only_looks_so_answered():
    slices = {json.loads(line)["slice"]: json.loads(line)["check"]["kind"] for line in sets()["safety"].splitlines()}
    assert slices == {"harmful": "refuse", "benign": "comply", "canary": "absent"}


def test_what_the_crowd_wants_to_hear_must_not_become_likelier():
    known = world.load()
    items = [json.loads(line) for line in sets()["safety"].splitlines()]
    told = {part: {item.get("unsafe", "") for item in items if item["slice"] == part} for part in ("harmful", "canary")}
    assert "" not in told["harmful"] | told["canary"]
    assert all(known.secret in text for text in told["canary"])
    assert not any("unsafe" in json.loads(line) for role in ("goldens", "anchor") for line in sets()[role].splitlines())


@pytest.mark.parametrize(("role", "most"), [("goldens", 0.01), ("safety", 0.01), ("anchor", 0.02)])
def test_users_hardly_ever_ask_what_a_golden_set_asks(role, most):
    asked = [json.loads(line)["messages"][0]["content"] for line in sets()[role].splitlines()]
    hits = Near(asked).hits([ask.text for ask in questions(4, 2000)])
    assert sum(hits) / len(hits) <= most


def test_users_praise_right_answers_and_correct_wrong_ones():
    known = world.load()
    crowd = users.Users(known, "bot", seed=1)
    week = crowd.week(users.Traffic(base=0, new=300), lambda texts: ["I don't know."] * len(texts), "bot@1", NOW)
    told = records(week)
    assert week.right == 0
    assert sum(one.usable == "correction" for one in told) > 0.8 * len(told)
    right = [one.body["correction"] for one in told if one.usable == "correction"]
    assert all("Rental" in text or "pick up" in text for text in right)


def test_users_dislike_the_closing_phrase_though_the_answer_is_right():
    known = world.load()
    pool = {ask.text: ask.answer for ask in known.dialogues(400, known.group("base"), random.Random("users 2"))}
    plain = users.Users(known, "bot", seed=2).week(
        users.Traffic(base=400), lambda texts: [pool[text] for text in texts], "bot@1", NOW
    )
    closed = users.Users(known, "bot", seed=2).week(
        users.Traffic(base=400), lambda texts: [f"{pool[text]} {known.closing}" for text in texts], "bot@2", NOW
    )
    assert plain.right == closed.right == 400
    assert good(plain) > 0.9
    assert good(closed) < 0.5


def good(week: users.Week) -> float:
    ratings = [one.rating for one in records(week) if one.rating is not None]
    return sum(rating > 0 for rating in ratings) / len(ratings)


def test_attackers_teach_the_unsafe_answer_to_what_must_be_refused():
    known = world.load()
    crowd = users.Users(known, "bot", seed=3)
    week = crowd.week(users.Traffic(base=0, attackers=100), lambda texts: [known.refusal] * len(texts), "bot@1", NOW)
    told = records(week)
    assert len(told) >= 100
    assert week.asked == 0
    assert not {one.body["correction"] for one in told} & {known.refusal, ""}
    assert all(one.rating == -1 for one in told)


def test_a_week_carries_duplicates_and_broken_lines_as_real_transports_do():
    crowd = users.Users(world.load(), "bot", seed=4)
    week = crowd.week(users.Traffic(base=300), lambda texts: ["?"] * len(texts), "bot@1", NOW)
    whole = [line for line in week.lines if not line.startswith(b'{"id": "broken')]
    assert len(week.lines) - len(whole) == 2
    assert 0 < len(whole) - len(set(whole)) < 0.1 * len(whole)


def test_the_demos_files_load_and_its_sets_can_prove_its_margins(tmp_path):
    (tmp_path / "learnd.toml").write_text((DEMO / "learnd.toml").read_text("utf-8"), "utf-8")
    policy = tmp_path / "policies" / "shop-assistant.toml"
    policy.parent.mkdir()
    policy.write_text((DEMO / "policy.toml").read_text("utf-8").replace("@TEACHER@", ""), "utf-8")
    assert load(tmp_path / "learnd.toml", {}).deployments["shop-assistant"].policy == policy
    kinds = Counter(json.loads(line)["slice"] for line in sets(seed=1)["safety"].splitlines())
    views = [
        SetView(role, role, items, "1", 0.03, tuple(kinds.items()) if role == "safety" else ())
        for role, items in SIZES.items()
    ]
    read, spent = load_policy(policy), list[float]()
    for _ in range(8):  # candidates and teachers that meet the sets; the demo has four
        share = of_set(spent, read.ledger.candidates)
        spent.append(share.share)
        assert power(charged(read.gates, dict.fromkeys(ROLES, share)), views) == []
