"""The engine with weights: a causal language model of transformers, alone or under an adapter of PEFT.

Owns: loading a version's files, from conversation to tokens and back, answers and log-probabilities of many at once.
Refuses to know how a token is chosen (`daemon.decoding`), training (`daemon.training`) and the network: files only,
safetensors only, no code from a folder. Called by `daemon.models.load` and, for `open_weights` and `open_tokenizer`, by
the training methods.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from daemon import decoding
from daemon.decoding import Decoder, batches, head_skips, left_padded
from daemon.models import Conversation, Ref
from policies.errors import Misconfigured, Refused, Transient

hf: Any = transformers  # typed in parts only
QUANTISATIONS = ("", "nf4", "int8")


@dataclass(frozen=True, slots=True)
class TransformersModel:
    """A `Model` over loaded weights, in evaluation mode."""

    model: Any
    tokenizer: Any
    context: int

    @classmethod
    def load(cls, ref: Ref, *, device: str = "cpu", quantisation: str = "") -> "TransformersModel":
        """Load a version for answering. Raises: Misconfigured, Transient."""
        tokenizer = open_tokenizer(ref)
        model = open_weights(ref, device=device, quantisation=quantisation)
        check_vocabulary(ref, tokenizer, model)
        return cls(model.eval(), tokenizer, context_of(model))

    @torch.inference_mode()
    def answer(
        self, conversations: Sequence[Conversation], *, max_new_tokens: int, sample: bool = False, seed: int = 0
    ) -> list[str]:
        """One answer a conversation, in their order; a prompt that leaves no room loses its oldest tokens."""
        room = max(1, self.context - max_new_tokens)
        prompts = [tokens[-room:] for tokens in self._prompts(conversations)]
        answers = [""] * len(prompts)
        settings = self._generation(max_new_tokens, sample)
        decoder = self._decoder(settings.eos_token_id)
        own = partial(decoder.continued, limit=max_new_tokens, sample=sample)
        work = own if decoder.fits() else partial(self._generate, settings=settings)
        cuda = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(seed)
            for rows in batches([len(tokens) + max_new_tokens for tokens in prompts]):
                made = work([prompts[row] for row in rows])
                for row, text in zip(rows, self.tokenizer.batch_decode(made, skip_special_tokens=True), strict=True):
                    answers[row] = text.strip()
        return answers

    @torch.inference_mode()
    def logprobs(self, conversations: Sequence[Conversation], completions: Sequence[str]) -> list[tuple[float, int]]:
        """(nats, tokens) of each completion and its end token; the oldest prompt tokens give way to the context.

        Raises: Refused, when a completion alone is longer than the context.
        """
        samples = []
        for prompt, completion in zip(self._prompts(conversations), completions, strict=True):
            answer = completion_tokens(self.tokenizer, completion)
            if len(answer) >= self.context:
                raise Refused(f"an answer of {len(answer)} tokens", hint=f"the context holds {self.context}")
            samples.append((prompt[-(self.context - len(answer)) :], answer))
        scores: list[tuple[float, int]] = [(0.0, 0)] * len(samples)
        for rows in batches([len(prompt) + len(answer) for prompt, answer in samples]):
            for row, score in zip(rows, self._score([samples[row] for row in rows]), strict=True):
                scores[row] = score
        return scores

    def _generation(self, max_new_tokens: int, sample: bool) -> Any:
        stored = getattr(self.model.generation_config, "eos_token_id", None)
        return hf.GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=sample,
            eos_token_id=self.tokenizer.eos_token_id if stored is None else stored,
            pad_token_id=self.tokenizer.pad_token_id,
            bos_token_id=self.tokenizer.bos_token_id,
            **({"temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {}),  # else the folder's own would count
        )

    def _prompts(self, conversations: Sequence[Conversation]) -> list[list[int]]:
        """`prompt_tokens` of many, which a tokenizer does faster at once."""
        texts = [prompt_text(self.tokenizer, conversation) for conversation in conversations]
        return list(self.tokenizer(texts, add_special_tokens=False)["input_ids"]) if texts else []

    def _decoder(self, stops: int | list[int]) -> Decoder:
        ends = frozenset([stops] if isinstance(stops, int) else stops)
        return Decoder(self.model, self.tokenizer.pad_token_id, ends)

    def _generate(self, prompts: list[list[int]], settings: Any) -> list[list[int]]:
        if decoding.virtual_tokens(self.model) and len(prompts) > 1:
            # PEFT counts padding between its virtual tokens and a row as positions: no row may have any.
            return [row for prompt in prompts for row in self._generate([prompt], settings)]
        tokens, mask = left_padded(prompts, self.tokenizer.pad_token_id, self.model.device)
        made = self.model.generate(input_ids=tokens, attention_mask=mask, generation_config=settings)
        rows: list[list[int]] = made[:, tokens.shape[1] :].tolist()
        return rows

    def _score(self, samples: list[tuple[list[int], list[int]]]) -> list[tuple[float, int]]:
        rows = [prompt + answer for prompt, answer in samples]
        longest = max(len(answer) for _, answer in samples)
        pad, shared = self.tokenizer.pad_token_id, decoding.beginning([prompt for prompt, _ in samples])
        if shared >= decoding.SHARED and self._decoder(self.tokenizer.eos_token_id).fits():
            logits, _, _ = decoding.read(self.model, rows, pad, keep=longest + 1, shared=shared)
            logits = logits[:, :-1]
        else:
            logits = answer_logits(self.model, *left_padded(rows, pad, self.model.device), longest)
        chosen = left_padded([answer for _, answer in samples], pad, self.model.device)[0].unsqueeze(-1)
        nats = torch.log_softmax(logits.float(), dim=-1).gather(-1, chosen).squeeze(-1)
        return [(float(nats[row, -len(answer) :].sum()), len(answer)) for row, (_, answer) in enumerate(samples)]


def torch_device(device: str) -> torch.device:
    """The device for cpu, gpu or any. Raises: Transient, when a GPU is asked for and none is there; Misconfigured."""
    if device == "cpu" or (device == "any" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if device not in ("gpu", "any"):
        raise Misconfigured(f"unknown device {device!r}", hint="one of cpu, gpu, any")
    if not torch.cuda.is_available():
        raise Transient("no GPU is there", hint="wait for one, or let the policy's method.device be any or cpu")
    return torch.device("cuda", torch.cuda.current_device())


def tokenizer_folder(ref: Ref) -> Path:
    """Where a version's tokenizer lies."""
    own = Path(ref.folder)
    return own if (own / "tokenizer_config.json").exists() else Path(ref.base or own)


def open_tokenizer(ref: Ref) -> Any:
    """A version's tokenizer: its folder's own, else its base's.

    Raises: Misconfigured, when there is none, or it has no chat template, no end token, or no pad token of its own.
    """
    try:
        tokenizer = hf.AutoTokenizer.from_pretrained(
            tokenizer_folder(ref), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as problem:
        raise Misconfigured(f"{ref.name}: no tokenizer in its folder: {_first(problem)}", hint=_FOLDER) from problem
    if not tokenizer.chat_template:
        hint = "put a chat_template.jinja beside its tokenizer.json"
        raise Misconfigured(f"{ref.name}: its tokenizer has no chat template", hint=hint)
    if tokenizer.eos_token_id is None:
        raise Misconfigured(
            f"{ref.name}: its tokenizer has no end token", hint="set eos_token in tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        hint = "add a pad token that is no other token's: with the end token as pad, a model unlearns to stop"
        raise Misconfigured(f"{ref.name}: its tokenizer has no pad token of its own", hint=hint)
    tokenizer.padding_side = "left"
    return tokenizer


def open_weights(ref: Ref, *, device: str = "cpu", quantisation: str = "", adapter: bool = True) -> Any:
    """A version's model: float32 on a CPU, bfloat16 on a GPU; with `adapter` its adapter over its base.

    The adapter's own weights are float32 and frozen. Raises: Misconfigured, Transient.
    """
    if quantisation not in QUANTISATIONS:
        raise Misconfigured(f"unknown quantisation {quantisation!r}", hint='one of "", "nf4", "int8"')
    place = torch_device(device)
    model = _base_weights(ref, place, quantisation)
    if not (ref.base and adapter):
        return model
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, ref.folder, is_trainable=False, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError) as problem:
        hint = "an adapter fits only the exact base that it was trained on"
        raise Misconfigured(f"{ref.name}: its adapter doesn't load: {_first(problem)}", hint=hint) from problem


def _base_weights(ref: Ref, place: torch.device, quantisation: str) -> Any:
    dtype = torch.float32 if place.type == "cpu" else torch.bfloat16
    more: dict[str, Any] = {}
    if quantisation:
        more = {"quantization_config": _quantised(quantisation, dtype), "device_map": {"": str(place)}}
    try:
        model = hf.AutoModelForCausalLM.from_pretrained(
            ref.base or ref.folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            **more,
        )
    except (OSError, ValueError) as problem:
        raise Misconfigured(f"{ref.name}: its weights don't load: {_first(problem)}", hint=_FOLDER) from problem
    return model if quantisation else model.to(place)


def outline(ref: Ref) -> Any:
    """A version's base without its weights (on the meta device): its layers and its configuration.

    Raises: Misconfigured.
    """
    try:
        config = hf.AutoConfig.from_pretrained(ref.base or ref.folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            return hf.AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError) as problem:
        raise Misconfigured(f"{ref.name}: its configuration doesn't load: {_first(problem)}", hint=_FOLDER) from problem


def check_vocabulary(ref: Ref, tokenizer: Any, model: Any) -> None:
    """Raises: Misconfigured, when the tokenizer knows tokens that the model has no embedding for."""
    most, rows = max(tokenizer.get_vocab().values()), int(model.config.get_text_config().vocab_size)
    if most >= rows:
        hint = "its tokenizer is another model's: put the one that it was trained with into its folder"
        raise Misconfigured(f"{ref.name}: its tokenizer's ids reach {most}, its vocabulary holds {rows}", hint=hint)


def _quantised(quantisation: str, dtype: torch.dtype) -> Any:
    if quantisation == "int8":
        return hf.BitsAndBytesConfig(load_in_8bit=True)
    return hf.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def context_of(model: Any) -> int:
    """Positions that a model was made for, in tokens, less what a prefix or prompt takes of them."""
    return int(getattr(model.config, "max_position_embeddings", 0) or 4096) - decoding.virtual_tokens(model)


def prompt_text(tokenizer: Any, conversation: Conversation) -> str:
    """The conversation in the model's chat template, up to where its answer begins.

    Raises: Refused, when the template does not take it, or leaves its system prompt out.
    """
    from jinja2 import TemplateError

    messages = [dict(message) for message in conversation]
    try:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except (TemplateError, ValueError) as problem:
        hint = "its roles and their order must be what the template allows"
        raise Refused(f"the chat template refuses a conversation: {_first(problem)}", hint=hint) from problem
    if any(one["role"] == "system" and one["content"].strip() not in text for one in messages):
        hint = "a model would learn and answer without it: take a chat template that has a place for the system's role"
        raise Refused("the chat template drops the system prompt", hint=hint)
    return str(text)


def prompt_tokens(tokenizer: Any, conversation: Conversation) -> list[int]:
    """Token ids of `prompt_text`; the template brings the special tokens."""
    return list(tokenizer(prompt_text(tokenizer, conversation), add_special_tokens=False)["input_ids"])


def completion_tokens(tokenizer: Any, completion: str) -> list[int]:
    """Token ids of an answer and the end token."""
    return [*tokenizer(completion, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def answer_logits(model: Any, tokens: torch.Tensor, mask: torch.Tensor, longest: int) -> torch.Tensor:
    """(rows, longest, vocabulary) logits that predict the last `longest` tokens of left-padded rows.

    The head skips the prompt where the model can, which is most of its work at a large vocabulary.
    """
    more: dict[str, Any] = {"use_cache": False}
    if head_skips(model):
        more["logits_to_keep"] = longest + 1
    if decoding.virtual_tokens(model):
        cache, before = decoding.opening(model)
        cache.batch_repeat_interleave(len(tokens))
        mask = torch.cat([mask.new_ones(len(tokens), before), mask], dim=-1)
        more["past_key_values"], model = cache, decoding.unwrapped(model)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
    logits = model(input_ids=tokens, attention_mask=mask, position_ids=positions, **more).logits
    kept: torch.Tensor = logits[:, -(longest + 1) : -1]
    return kept


_FOLDER = "a model's folder holds config.json, *.safetensors, tokenizer.json and a chat template"


def _first(problem: Exception) -> str:
    """The first line of what a library said."""
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0][:300]
