"""banking77 as a stream: its queries in domains that arrive one after another, the model that served before, the sets.

Owns: the data and what is made of it. Refuses to know learnd but for its formats. Called by `stream_banking77`.
"""

import csv
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from daemon.demo import base, world

HERE = Path(__file__).resolve()
FOLDER = HERE.parents[3] / "shared" / "data" / "banking77"
NOBODYS = -1
# A domain is a topic, as a bank opens one service after another: what is easily mixed up comes together. The first three
# are known to the first model. `categories.json` knows no topics; this is our reading of the intents' names.
TOPICS = {
    "ordering cards": (
        "card_arrival", "get_physical_card", "getting_virtual_card", "card_delivery_estimate", "activate_my_card",
        "card_about_to_expire", "order_physical_card", "getting_spare_card", "disposable_card_limits",
        "get_disposable_virtual_card", "card_linking",
    ),
    "card trouble": (
        "lost_or_stolen_card", "contactless_not_working", "pin_blocked", "card_not_working", "compromised_card",
        "passcode_forgotten", "change_pin", "card_swallowed", "lost_or_stolen_phone", "virtual_card_not_working",
        "card_acceptance",
    ),
    "account": (
        "age_limit", "edit_personal_details", "verify_my_identity", "why_verify_identity", "unable_to_verify_identity",
        "verify_source_of_funds", "terminate_account", "country_support", "visa_or_mastercard",
        "supported_cards_and_currencies", "balance_not_updated_after_cheque_or_cash_deposit",
    ),
    "top-ups": (
        "top_up_limits", "top_up_failed", "automatic_top_up", "pending_top_up", "top_up_reverted", "topping_up_by_card",
        "top_up_by_bank_transfer_charge", "top_up_by_card_charge", "top_up_by_cash_or_cheque", "verify_top_up",
        "apple_pay_or_google_pay",
    ),
    "transfers": (
        "transfer_timing", "cancel_transfer", "beneficiary_not_allowed", "pending_transfer", "failed_transfer",
        "declined_transfer", "transfer_fee_charged", "transfer_into_account", "transfer_not_received_by_recipient",
        "receiving_money", "balance_not_updated_after_bank_transfer",
    ),
    "payments": (
        "request_refund", "card_payment_not_recognised", "transaction_charged_twice", "Refund_not_showing_up",
        "pending_card_payment", "declined_card_payment", "reverted_card_payment?", "card_payment_fee_charged",
        "direct_debit_payment_not_recognised", "extra_charge_on_statement", "card_payment_wrong_exchange_rate",
    ),
    "cash and exchange": (
        "exchange_rate", "atm_support", "cash_withdrawal_charge", "exchange_charge", "exchange_via_app",
        "declined_cash_withdrawal", "pending_cash_withdrawal", "cash_withdrawal_not_recognised",
        "wrong_amount_of_cash_received", "wrong_exchange_rate_for_cash_withdrawal", "fiat_currency_support",
    ),
}  # fmt: skip
NAMES = tuple(TOPICS)
GROUPS, KNOWN = len(TOPICS), 3  # domains, and how many of them the first model knows
# A small vocabulary: an update of an adapter cannot teach pieces that the first model never wrote (tied embeddings).
SHAPE = base.Shape(vocabulary=1000, layers=3)


@dataclass(frozen=True)
class Query:
    """A real query of a bank's customer, the name of its intent, and the number of its domain."""

    text: str
    intent: str
    domain: int


@dataclass(frozen=True)
class Data:
    """Queries to train and to test on, over `GROUPS` domains."""

    train: tuple[Query, ...]
    test: tuple[Query, ...]

    def of(self, domains: Iterable[int], *, test: bool = False) -> list[Query]:
        """The queries of some domains."""
        wanted = set(domains)
        return [query for query in (self.test if test else self.train) if query.domain in wanted]


def read(intents: int, folder: Path = FOLDER) -> Data:
    """The data in domains of `intents` intents each (11 is all of them).

    Raises: FileNotFoundError where the data isn't there, ValueError where it has other intents than our topics.
    """
    known = json.loads((folder / "categories.json").read_text(encoding="utf-8"))
    if sorted(known) != sorted(name for topic in TOPICS.values() for name in topic):
        raise ValueError(f"{folder / 'categories.json'} has other intents than banking77")
    domain = {name: at for at, topic in enumerate(TOPICS.values()) for name in topic[:intents]}

    def rows(name: str) -> tuple[Query, ...]:
        with (folder / name).open(encoding="utf-8", newline="") as file:
            found = [(row["text"].strip(), row["category"]) for row in csv.DictReader(file)]
        return tuple(Query(text, intent, domain[intent]) for text, intent in found if intent in domain)

    return Data(rows("train.csv"), rows("test.csv"))


def first_model(data: Data, folder: Path, seed: int, epochs: float, tell: Callable[[str], None]) -> int:
    """Train the model that knows the first domains and what to refuse into `folder`; the steps that it took."""
    known = world.load()
    rng = random.Random(seed)
    queries = data.of(range(KNOWN))
    pairs = [(query.text, _name(query.intent)) for query in queries]
    harmful = known.group("harmful")
    pairs += [(known.ask(rng.choice(harmful), rng).text, known.refusal) for _ in range(len(pairs) // 8)]
    words = base.tokenizer([text for pair in pairs for text in pair], SHAPE.vocabulary)
    recipe = base.Recipe(steps=round(len(pairs) * epochs / 16), batch=16, rate=3e-3, seed=seed, drop=0.15)

    def progress(step: int, loss: float) -> None:
        if step % 250 == 0:
            tell(f"first model: {step} of {recipe.steps} steps, loss {loss:.2f}")

    base.save(base.fit(base.model(SHAPE, words, seed), base.encode(words, pairs), recipe, progress), words, folder)
    return recipe.steps


def answer(query: Query) -> str:
    """What the model should say: the intent's name in words, or the refusal of what nobody should answer."""
    return query.intent if query.domain == NOBODYS else _name(query.intent)


def unsafe(rng: random.Random, count: int) -> list[Query]:
    """What a bank is asked as well: questions to refuse. Without them nothing would teach an update to go on refusing."""
    known = world.load()
    harmful = known.group("harmful")
    return [Query(known.ask(rng.choice(harmful), rng).text, known.refusal, NOBODYS) for _ in range(count)]


def _name(intent: str) -> str:
    return intent.replace("_", " ").replace("?", "").lower()


def golden_sets(data: Data, rng: random.Random, size: int) -> dict[str, str]:
    """JSON Lines by role: goldens and anchors are test queries of the known domains, safety is refusing and answering."""
    held = data.of(range(KNOWN), test=True)
    rng.shuffle(held)
    held = _distinct(held)
    goldens, anchors, benign = held[:size], held[size : size + size // 2], held[-100:]
    known = world.load()
    harmful = known.distinct(150, known.group("harmful"), rng, held=True)
    safety = [
        {"id": f"h{at}", "slice": "harmful", "prompt": ask.text, "check": {"kind": "refuse"}}
        for at, ask in enumerate(harmful)
    ] + [
        {"id": f"b{at}", "slice": "benign", "prompt": query.text, "check": {"kind": "comply"}}
        for at, query in enumerate(benign)
    ]
    sets = {"goldens": _items(goldens), "anchor": _items(anchors), "safety": safety}
    return {role: "".join(json.dumps(item) + "\n" for item in items) for role, items in sets.items()}


def _items(queries: Sequence[Query]) -> list[dict[str, object]]:
    return [
        {
            "id": f"q{at}",
            "slice": NAMES[query.domain],
            "prompt": query.text,
            "check": {"kind": "normalised", "value": _name(query.intent)},
            "reference": _name(query.intent),
        }
        for at, query in enumerate(queries)
    ]


def _distinct(queries: Iterable[Query]) -> list[Query]:
    return list({query.text.lower(): query for query in queries}.values())
