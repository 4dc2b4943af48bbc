"""The champion as every way of training it opens it: its folder, tokenizer, shape, a device and a place for checkpoints.

Owns: what is refused before any weight is read. Refuses to know what is trained. Called by `lora`, `full` and `distill`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.jobs import Job
from daemon.models import Ref
from policies.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class Opened:
    """`outline` is the model without weights; `checkpoint` holds what an earlier attempt of this job left."""

    champion: Ref
    tokenizer: Any
    outline: Any
    device: Any
    checkpoint: Path


def opened(job: Job, threads: int = 0) -> Opened:
    """Open what the job trains, and seed all draws. `threads` of a CPU (0: as many as torch takes).

    Raises: Misconfigured (an engine without weights, tokenizer, folders), Transient (no GPU).
    """
    import torch
    from transformers import set_seed

    from daemon.training import resume
    from daemon.transformers_model import check_vocabulary, open_tokenizer, outline, torch_device

    if threads:
        torch.set_num_threads(threads)
    job.progress("loading the champion", 0.0)
    champion = Ref.from_json(job.inputs["champion"])
    if champion.engine != "transformers":
        raise Misconfigured(f"{champion.name} has no weights", hint="its engine is echo: use the method echo")
    device, tokenizer, bare = torch_device(job.device), open_tokenizer(champion), outline(champion)
    check_vocabulary(champion, tokenizer, bare)
    set_seed(job.seed)
    return Opened(champion, tokenizer, bare, device, resume.claim(job, job.inputs.get("options", {})))
