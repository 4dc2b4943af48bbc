"""What the rules of trust look at and say: a record without its content, the options, a record that is held back.

Owns: these values and their units. Refuses to know a rule. Called by `policies.trust` and its parts, and by
`feedback.quarantine`, which makes the records.
"""

from dataclasses import dataclass

DAY = 86400.0
NEUTRAL = 0.2  # ratings this near to zero say nothing


@dataclass(frozen=True, slots=True)
class Options:
    """`per_day`: records of one rater within 24 hours that are believed; later ones of the burst are held.

    `new_days`: days from a rater's first record during which an account is new: it is believed half at first, wholly
    at the end. `new_per_day`: the cap of a new account within 24 hours.
    `brigade`: raters who gave the same `brigade_texts` texts to the same prompts within a day are held together; texts
    whose words overlap by `alike` (Jaccard, 0 to 1) are the same.
    `similar`: overlap of words (Jaccard, 0 to 1) from which two texts for one prompt say the same.
    `near_days`, `text_days`: days before and after a record in which others' votes and others' texts are compared with
    it; short, so that an answer that became wrong is not defended by votes of before.
    `trusted`: weight from which a rater who isn't new outvotes any number of those below.
    `contradiction_share`: a rater is held when a larger share than this of the compared records is proven to go against
    the others. `confirmed_share`: texts that share words are held when they are proven to be confirmed by others less
    often than this share of what is usual. `error_rate`: of each of these proofs, over all raters, or texts, together.
    `waits`: chance of so few confirmations at which texts with a new word wait, unheld, until there are more.
    `outvoted`: weight of the others that speak against a record, at four to one, from which it doesn't teach.
    `history`: records before a window that its raters are judged by as well (0: none).
    """

    per_day: int = 200
    new_days: float = 14.0
    new_per_day: int = 50
    brigade: int = 3
    brigade_texts: int = 5
    alike: float = 0.8
    similar: float = 0.25
    near_days: float = 2.0
    text_days: float = 14.0
    trusted: float = 0.9
    contradiction_share: float = 0.4
    confirmed_share: float = 0.5
    error_rate: float = 0.01
    waits: float = 0.1
    outvoted: float = 1.0
    history: int = 20_000


@dataclass(frozen=True, slots=True)
class RaterRecord:
    """One record as far as trust needs it: `rating` in [-1, 1] or None; hashes of prompt, of the answer and of the text
    that the rater gave instead ("" without one).

    `user` is the keyed hash of the rater, "" for anonymous ones, who are not judged as one. `at`: when it was ingested,
    `since`: when the rater's first record was (unix seconds). `words`, `pairs`: hashes of the text's words and word pairs.
    `golden`: 1 where it agrees with an accepted golden, -1 where it contradicts one, 0 where none is asked the same.
    `held`: whether it is in quarantine by now.
    """

    seq: int
    user: str
    at: float
    prompt: str = ""
    text: str = ""
    answer: str = ""
    rating: float | None = None
    words: frozenset[int] = frozenset()
    pairs: frozenset[int] = frozenset()
    golden: int = 0
    held: bool = False
    since: float = 0.0

    @property
    def vote(self) -> int:
        """What it says of the answer: 1, -1, or 0 for nothing. A text given instead is a vote against the answer."""
        if self.rating is not None and abs(self.rating) > NEUTRAL:
            return 1 if self.rating > 0 else -1
        return -1 if self.text and self.answer and self.text != self.answer else 0

    def age(self) -> float:
        """How long the rater was known when the record came, in days."""
        return max(0.0, self.at - self.since) / DAY


@dataclass(frozen=True, slots=True)
class Held:
    """A record to hold back, and why."""

    seq: int
    reason: str
