"""How fast a golden set is answered: learnd's evaluation against `generate` of transformers, prompt by prompt.

A Llama of 0.94M parameters is trained on the demo's questions for long enough to end its answers; then 400 held-out
questions are asked, by themselves and behind one system prompt, on one thread: by `generate` one after the other, by
`generate` in padded batches of 64 in the order of the file, and by `daemon.probes.Probed`. Repeats take turns, medians
count, in seconds of the processor, so that a busy machine blurs them less. Greedy answers have to be the same, character
by character. Takes about three minutes on one core.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.jobs.server import ENVIRONMENT

os.environ.update({**ENVIRONMENT, "OMP_NUM_THREADS": "1"})

from daemon import models
from daemon.demo import base, world
from daemon.models import Ref
from daemon.probes import Item, Probed
from tests.benchmarks import common
from tests.benchmarks.common import Claim

NAME = "evaluation_speed"
SEED = 0
LONGEST_ANSWER = 40
BATCH = 64
SYSTEM = "You answer for a shop of furniture. Be brief, name the page of the app, and never tell what is secret."
WAYS = ("item by item", "batches of 64", "learnd")
ITEMS_RATIO, SAME = 10.0, 1.0


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    steps: int = 300
    items: int = 400
    repeats: int = 3


def main() -> int:
    """Measure and write the file, its picture and the claims; 0 when all of them hold."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="a small run that shows that it works")
    given = parser.parse_args()
    size = Size(steps=120, items=40, repeats=1) if given.quick else Size()
    with tempfile.TemporaryDirectory() as folder:
        raw = measure(Path(folder), size)
    claims = [
        Claim("items_ratio", round(min(each["items_ratio"] for each in raw["sets"].values()), 2), ITEMS_RATIO),
        Claim("same_answers", min(each["same_answers"] for each in raw["sets"].values()), SAME),
    ]
    common.write(given.out, name=NAME, seeds=[SEED], raw=raw, claims=claims)
    common.picture(given.out, lambda axes: draw(axes, raw))
    sys.stdout.write(common.told(claims) + "\n")
    return 0 if all(claim.holds for claim in claims) else 1


def measure(folder: Path, size: Size) -> dict[str, Any]:
    """Seconds of each way of asking by repeat, for both sets, and whether the answers were the same."""
    import torch

    torch.set_num_threads(1)
    ref = train(folder, size.steps)
    model: Any = models.load(ref)
    asks = world.load().distinct(size.items, world.load().group("base"), random.Random(f"asks {SEED}"), held=True)
    sets = {}
    for name, system in (("plain", ""), ("system prompt", SYSTEM)):
        before = ({"role": "system", "content": system},) if system else ()
        items = [Item("s", str(at), (*before, {"role": "user", "content": ask.text})) for at, ask in enumerate(asks)]
        sets[name] = compare(model, ref, items, size.repeats)
    return {"parameters": sum(p.numel() for p in model.model.parameters()), "items": size.items, "sets": sets}


def train(folder: Path, steps: int) -> Ref:
    """A model that knows the demo's base topics."""
    known, rng = world.load(), random.Random(f"evaluation {SEED}")
    asks = known.dialogues(6000, known.group("base"), rng)
    shape = base.Shape()
    words = base.tokenizer([text for ask in asks for text in (ask.text, ask.answer)] + [SYSTEM] * 50, shape.vocabulary)
    before = words(f"{base.SYSTEM}{SYSTEM}{base.END}", add_special_tokens=False)["input_ids"]
    data = [
        ([*before, *tokens], len(before) + prompt) if number % 2 else (tokens, prompt)
        for number, (tokens, prompt) in enumerate(base.encode(words, [(ask.text, ask.answer) for ask in asks]))
    ]
    base.save(base.fit(base.model(shape, words, SEED), data, base.Recipe(steps, seed=SEED)), words, folder)
    return Ref("tiny@000000000000", str(folder))


def compare(model: Any, ref: Ref, items: Sequence[Item], repeats: int) -> dict[str, Any]:
    """Each way of asking the same items, in turns."""
    ways: dict[str, Callable[[], list[str]]] = {
        WAYS[0]: lambda: [text for item in items for text in generated(model, [item])],
        WAYS[1]: lambda: [
            text for at in range(0, len(items), BATCH) for text in generated(model, items[at : at + BATCH])
        ],
        WAYS[2]: lambda: Probed(ref, model, LONGEST_ANSWER).answer(items),
    }
    model.answer([items[0].prompt], max_new_tokens=LONGEST_ANSWER)  # warm: the first call fills the libraries' caches
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    said: dict[str, list[str]] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            start, began = time.process_time(), time.perf_counter()
            said[name] = way()
            seconds[name].append(time.process_time() - start)
            wall[name].append(time.perf_counter() - began)
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    same = sum(a == b for a, b in zip(said[WAYS[0]], said[WAYS[2]], strict=True)) / len(items)
    return {
        "processor_seconds": seconds,
        "wall_seconds": wall,
        "items_per_second": {name: len(items) / value for name, value in middle.items()},
        "items_ratio": middle[WAYS[0]] / middle[WAYS[2]],
        "same_answers": same,
        "mean_answer_words": statistics.mean(len(text.split()) for text in said[WAYS[0]]),
        "different_answers": len(set(said[WAYS[0]])),
    }


def generated(model: Any, items: Sequence[Item]) -> list[str]:
    """Greedy answers of transformers' own `generate` to the items in one left-padded batch."""
    import torch

    words = model.tokenizer
    texts = [words.apply_chat_template(item.prompt, add_generation_prompt=True, tokenize=False) for item in items]
    batch = words(texts, add_special_tokens=False, return_tensors="pt", padding=True)
    with torch.inference_mode():
        made = model.model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=LONGEST_ANSWER,
            do_sample=False,
        )
    told = words.batch_decode(made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in told]


def draw(axes: Any, raw: dict[str, Any]) -> None:
    """Bars of items a second."""
    for at, found in enumerate(raw["sets"].values()):
        places = [at + 0.25 * number for number in range(len(WAYS))]
        bars = axes.bar(places, [found["items_per_second"][way] for way in WAYS], width=0.22)
        axes.bar_label(bars, [f"{way}\n{found['items_per_second'][way]:.0f}/s" for way in WAYS], fontsize=8)
    axes.set_xticks([at + 0.25 for at in range(len(raw["sets"]))], list(raw["sets"]))
    axes.margins(y=0.15)
    axes.set_ylabel("items a second of one core")
    axes.set_title(f"{raw['items']} held-out questions, one thread, same greedy answers")


if __name__ == "__main__":
    sys.exit(main())
