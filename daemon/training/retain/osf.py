"""Leaving the dominant directions alone: an update moves a layer only outside of what its weight does most.

Owns: which directions are kept, and taking an update's part in them away. Refuses to know losses and optimisers. Called
by `packed` before every step and after the last. After OSF (Nayak et al. 2025, Sculpting subspaces, arXiv 2504.07097),
which trains full weights; here, of an adapter's factors, A moves only where the first right singular vectors of
the champion's weight don't point, and B only where the left ones don't. What the weight does between them stays what it
was: U' (W_new - W) V = 0. Projecting weights and not gradients keeps that under Adam, too.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from policies.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class Kept:
    """A trained matrix, where it began, and orthonormal columns that its rows (`right`) or columns must not move along."""

    weight: torch.Tensor
    start: torch.Tensor
    basis: torch.Tensor
    right: bool

    def back(self) -> None:
        """Take the part of the movement along the basis away, in place."""
        moved = self.weight - self.start
        along = moved @ self.basis @ self.basis.T if self.right else self.basis @ (self.basis.T @ moved)
        self.weight.sub_(along)


@torch.no_grad()
def keeper(model: Any, share: float) -> Callable[[], None]:
    """What puts the model back to where its dominant directions, that share of each layer's, are what they are now.

    Raises: Misconfigured, where an adapted weight is quantised: it has no singular vectors to speak of.
    """
    kept = [part for layer in _adapted(model) for part in _parts(layer, share)]

    @torch.no_grad()
    def back() -> None:
        for part in kept:
            part.back()

    return back


def _adapted(model: Any) -> Iterator[Any]:
    return (layer for layer in model.modules() if "default" in getattr(layer, "lora_A", ()))


def _parts(layer: Any, share: float) -> Sequence[Kept]:
    base = layer.get_base_layer().weight
    if not base.is_floating_point():
        raise Misconfigured("sft_osf on a quantised base", hint='set quantisation = "", or sft_osf = 0')
    left, values, right = torch.linalg.svd((base + layer.get_delta_weight("default")).float(), full_matrices=False)
    count = round(share * len(values))
    first, second = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return (
        Kept(first, first.detach().clone(), right[:count].T.contiguous(), right=True),
        Kept(second, second.detach().clone(), left[:, :count].contiguous(), right=False),
    )
