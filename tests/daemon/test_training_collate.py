"""What an SFT batch looks like: answers at the right edge, and which tokens of a prompt may be hidden."""

import pytest

pytestmark = [pytest.mark.torch, pytest.mark.slow]

PAD, MARK = 0, 1
ROWS = [
    {"input_ids": [MARK, *range(10, 110), MARK, 7, 8], "answer": 2, "weight": 1.0},
    {"input_ids": [MARK, *range(10, 30), MARK, 9], "answer": 1, "weight": 0.5},
]


def test_answers_end_at_the_right_edge_and_nothing_is_hidden_unless_asked() -> None:
    from daemon.training.stages import IGNORED, Collate

    batch = Collate(PAD)(ROWS)
    assert batch["labels"][:, -2:].tolist() == [[7, 8], [IGNORED, 9]]
    assert batch["attention_mask"].sum(-1).tolist() == [104, 23]
    assert batch["longest"] == 2


def test_a_share_of_the_prompt_is_hidden_anew_but_neither_answers_nor_the_templates_own_tokens() -> None:
    import torch

    from daemon.training.stages import IGNORED, Collate

    torch.manual_seed(0)
    collate = Collate(PAD, drop=0.3, kept=(PAD, MARK))
    first, second = collate(ROWS), collate(ROWS)
    hidden = (first["attention_mask"] == 0) & (first["input_ids"] != PAD)
    assert 20 < hidden[0].sum() < 40
    assert not torch.equal(first["attention_mask"], second["attention_mask"])
    assert not hidden[first["input_ids"] == MARK].any()
    assert not hidden[first["labels"] != IGNORED].any()
    assert torch.equal(first["input_ids"], Collate(PAD)(ROWS)["input_ids"])


def test_the_packed_engine_leaves_out_the_same_share_and_never_the_whole_prompt() -> None:
    import torch

    from daemon.training.packed import thinned

    torch.manual_seed(0)
    prompt = [MARK, *range(10, 110), MARK]
    first, second = (thinned(prompt, share=0.3, kept=frozenset({MARK})) for _ in range(2))
    assert 60 < len(first) < 82
    assert first != second
    assert first[0] == first[-1] == MARK
    assert [token for token in prompt if token in first] == first
    assert thinned([10, 11], share=1.0, kept=frozenset()) == [11]
