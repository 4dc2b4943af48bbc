"""What texts mean, as vectors: a local sentence encoder's mean-pooled last hidden state.

Owns: reading an encoder's folder and running it. Refuses the network, code that comes with weights, and to compare or
to keep vectors (`feedback.drift.meaning`): they are made anew from the records that are still there, so that an erasure
needs no further place. Called by `daemon.drifting` in a child process only.

A text's vector is the mean of its tokens' last hidden states, of length 1 (Reimers & Gurevych 2019, "Sentence-BERT",
EMNLP).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from policies.errors import Misconfigured

BATCH = 32
TOKENS = 256  # of a text that are read


def encode(folder: str, texts: Sequence[str]) -> NDArray[np.float64]:
    """Vectors of length 1, (texts, dimensions), by the encoder that lies in `folder` as `save_pretrained` wrote it.

    Raises: Misconfigured where there is none, or one that can't be read.
    """
    if not (Path(folder) / "config.json").is_file():
        raise Misconfigured(f"there is no encoder in {folder}", hint="[drift] encoder names a folder with config.json")
    import torch
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).float().eval()
    except (OSError, ValueError, KeyError) as error:
        raise Misconfigured(
            f"{folder} is no encoder: {error}", hint="weights as safetensors, and a tokenizer"
        ) from error
    if tokenizer.pad_token is None:
        raise Misconfigured(f"the tokenizer in {folder} has no pad token", hint="texts are read several at once")
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))  # alike in length, so that little is padding
    found: list[NDArray[np.float64] | None] = [None] * len(texts)
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        read = tokenizer(
            [texts[at] for at in places], padding=True, truncation=True, max_length=TOKENS, return_tensors="pt"
        )
        mask = read["attention_mask"]
        with torch.inference_mode():
            states = model(input_ids=read["input_ids"], attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        means = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
        for at, vector in zip(places, torch.nn.functional.normalize(means, dim=1).double().numpy(), strict=True):
            found[at] = vector
    return np.array(found)
