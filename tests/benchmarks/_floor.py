"""The least work that a training step on an adapter is, and how fast a device could do it at best.

Owns: both figures. Refuses to know what is trained how. Called by `training_speed`.

A token costs 4N: 2N forward, and 2N backward to its input, since frozen weights have no gradient of their own; the output
layer counts where an answer's token is predicted, and attention by what causal attention has to read (Narayanan et al.
2021, arXiv 2104.04473, appendix). Adapters, norms and what isn't a product of matrices are left out: it is a floor.
"""

from collections.abc import Sequence
from time import perf_counter

from tests.benchmarks._training import World  # first: it sets the environment that transformers reads

# isort: split
import torch

from daemon.training.tokens import Sample

SIZES = {"cpu": (1024, torch.float32), "cuda": (8192, torch.bfloat16)}
TRIES = 8


def needed(world: World, rows: Sequence[Sample], *, pairs: bool) -> float:
    """Floating-point operations of one look at every row; `pairs`: both answers of a row are sequences."""
    sequences = [(len(one.prompt), len(one.answer)) for one in rows]
    sequences += [(len(one.prompt), len(one.rejected)) for one in rows if pairs]
    return sum(_sequence(world, prompt, answer) for prompt, answer in sequences)


def _sequence(world: World, prompt: int, answer: int) -> float:
    width, tokens = world.hidden // world.heads, prompt + answer
    attention = world.hidden * width * (2 * world.heads + 2 * world.kv_heads)
    body = world.layers * (attention + 3 * world.hidden * world.ffn)
    looked = world.layers * world.hidden * tokens**2
    return 4.0 * body * tokens + 4.0 * world.vocabulary * world.hidden * answer + 6.0 * looked


def peak(device: str) -> float:
    """Floating-point operations a second of the best of some large products of matrices, in what training computes in."""
    size, kind = SIZES[device]
    one = torch.randn(size, size, device=device).to(kind)
    seconds = []
    for _ in range(TRIES):
        begin = perf_counter()
        made = one @ one
        float(made[0, 0])  # waits for a GPU
        seconds.append(perf_counter() - begin)
    return 2.0 * size**3 / min(seconds)
