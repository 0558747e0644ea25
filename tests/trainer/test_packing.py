from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, Starcoder2Config
from transformers.models.starcoder2 import Starcoder2ForCausalLM

from trainer import attention
from trainer.chat import Example
from trainer.packing import IGNORED, best_fit_decreasing, boundaries, even_bins, evened, filled_bins, flatten, spread

pytestmark = pytest.mark.train

untimed = settings(deadline=None)  # a busy machine is no failure


@pytest.mark.parametrize("pack", [best_fit_decreasing, filled_bins])
@untimed
@given(lengths=st.lists(st.integers(1, 50), max_size=80))
def test_bins_hold_every_item_once_and_no_more_than_they_can(
    pack: Callable[[list[int], int], list[list[int]]], lengths: list[int]
) -> None:
    bins = pack(lengths, 50)
    assert sorted(index for items in bins for index in items) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in items) <= 50 for items in bins)


@pytest.mark.parametrize("pack", [best_fit_decreasing, filled_bins])
@untimed
@given(lengths=st.lists(st.integers(1, 50), max_size=80))
def test_no_two_bins_could_have_been_one(pack: Callable[[list[int], int], list[list[int]]], lengths: list[int]) -> None:
    loads = sorted(sum(lengths[index] for index in items) for items in pack(lengths, 50))
    assert len(loads) < 2 or loads[0] + loads[1] > 50


def test_a_bin_is_filled_by_what_leaves_the_least_room() -> None:
    """9 goes with 3 and 2, where best fit takes 4 and leaves a hole that nothing fills."""
    assert filled_bins([9, 4, 3, 2, 8], capacity=14) == [[0, 2, 3], [1, 4]]


def test_the_fullest_bin_that_has_room_is_taken() -> None:
    assert best_fit_decreasing([6, 5, 4, 3], capacity=10) == [[0, 2], [1, 3]]
    assert best_fit_decreasing([7, 6, 3], capacity=10) == [[0, 2], [1]]


@untimed
@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 4))
def test_even_bins_are_no_more_than_best_fit_needs(lengths: list[int], processes: int) -> None:
    """Rounded up to a multiple of the processes, never past what the items need."""
    fitted, even = best_fit_decreasing(lengths, 50), even_bins(lengths, 50, processes)
    assert sorted(index for items in even for index in items) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in items) <= 50 for items in even)
    assert len(even) <= -(-len(fitted) // processes) * processes
    assert even == even_bins(lengths, 50, processes)


@untimed
@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 20))
def test_no_item_of_the_fullest_bin_could_go_to_another_and_leave_both_smaller(lengths: list[int], count: int) -> None:
    bins = spread(lengths, count)
    loads = [sum(lengths[index] for index in items) for items in bins]
    assert sorted(index for items in bins for index in items) == list(range(len(lengths)))
    assert len(bins) == min(count, len(lengths))
    fullest = bins[loads.index(max(loads))]
    assert all(min(loads) + lengths[index] >= max(loads) for index in fullest) or loads.count(max(loads)) > 1


@untimed
@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 20))
def test_evened_bins_hold_the_same_items_and_none_more_than_the_fullest_did(lengths: list[int], count: int) -> None:
    bins = [list(range(start, len(lengths), count)) for start in range(min(count, len(lengths)))]
    even = evened(lengths, bins)
    assert sorted(index for items in even for index in items) == list(range(len(lengths)))
    assert len(even) == len(bins)
    loads = [[sum(lengths[index] for index in items) for items in some] for some in (bins, even)]
    assert max(loads[1], default=0) <= max(loads[0], default=0)
    assert even == evened(lengths, bins)


def test_bins_that_are_empty_may_stay_so_when_others_are_evened() -> None:
    """Those of many items are not divided, so that an exchange is all that is tried."""
    lengths = [50, 44, 40, 18, 21, 31, 27, 34, 2, 33, 24, 44, 42, 2]
    many = [1, 2, 3, 5, 6, 7, 9, 10, 11, 12]
    even = evened(lengths, [many, [0, 4, 8, 13], []])
    assert sorted(index for items in even for index in items) == list(range(len(lengths)))
    assert max(sum(lengths[index] for index in items) for items in even) <= sum(lengths[index] for index in many)


def test_two_bins_are_divided_anew_where_no_single_exchange_helps() -> None:
    """10 + 4 + 4 and 4 + 9 + 7: one item moved, or one changed for another, leaves one of them with 20 or more."""
    assert evened([10, 4, 4, 4, 9, 7], [[0, 1, 2], [3, 4, 5]]) == [[0, 4], [1, 2, 3, 5]]


def test_even_bins_share_out_what_one_bin_would_leave() -> None:
    assert best_fit_decreasing([5, 5, 4, 4], capacity=14) == [[0, 1, 2], [3]]
    assert even_bins([5, 5, 4, 4], capacity=14) == [[0, 2], [1, 3]]


def test_a_bin_is_saved_where_large_items_first_leave_no_small_ones() -> None:
    assert len(best_fit_decreasing([6, 5, 4, 4, 3, 2], capacity=12)) == 3
    assert even_bins([6, 5, 4, 4, 3, 2], capacity=12) == [[0, 3, 5], [1, 2, 4]]


def test_steps_of_the_pipelines_lengths_are_filled_to_more_than_97_percent() -> None:
    """Log-normal, 409 tokens on average, as in the recorded build; 64 pairs a step, 1280 tokens a pass."""
    rng = random.Random(0)
    tokens = slots = 0
    for _ in range(20):
        lengths = [min(1280, round(rng.lognormvariate(5.98, 0.26))) for _ in range(64)]
        sizes = [sum(lengths[index] for index in items) for items in even_bins(lengths, 1280)]
        tokens, slots = tokens + sum(sizes), slots + len(sizes) * max(sizes)
    assert tokens / slots > 0.97


def test_an_item_longer_than_a_bin_is_refused() -> None:
    with pytest.raises(ValueError, match="item 1 has length 11, expected 1 to 10"):
        best_fit_decreasing([3, 11], capacity=10)


def test_a_row_holds_the_examples_and_where_each_begins() -> None:
    batch = flatten([Example([1, 2, 3, 4], prompt_tokens=2), Example([5, 6, 7], prompt_tokens=1)])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, 7]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    assert batch["logits_to_keep"].tolist() == [1, 2, 4, 5]
    assert batch["shift_labels"].tolist() == [[3, 4, 6, 7]]
    assert batch["cu_seq_lens_q"].tolist() == [0, 4, 7]
    assert "cu_seq_lens_q" not in flatten([Example([1, 2], prompt_tokens=1)])


def make_examples(count: int, vocabulary: int = 97) -> list[Example]:
    rng = random.Random(1)
    return [
        Example([rng.randrange(vocabulary) for _ in range(rng.randint(4, 30))], prompt_tokens=rng.randint(1, 3))
        for _ in range(count)
    ]


def models() -> dict[str, Any]:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return {
        "llama": LlamaForCausalLM(LlamaConfig(**shape, intermediate_size=64, num_key_value_heads=1)),
        "starcoder2": Starcoder2ForCausalLM(
            Starcoder2Config(**shape, intermediate_size=64, num_key_value_heads=1, sliding_window=16, bos_token_id=0)
        ),
    }


@pytest.mark.parametrize("implementation", ["sdpa", "eager", attention.NAME])
@pytest.mark.parametrize("name", ["llama", "starcoder2"])
def test_logits_of_packed_and_padded_examples_agree(name: str, implementation: str) -> None:
    """No token sees another example, whether sliding windows are in play or not."""
    model = models()[name].eval()
    examples = make_examples(6)
    longest = max(len(example.input_ids) for example in examples)
    padded = torch.tensor([example.input_ids + [0] * (longest - len(example.input_ids)) for example in examples])
    mask = torch.tensor([[int(i < len(example.input_ids)) for i in range(longest)] for example in examples])
    packed = flatten(examples)
    with torch.no_grad():
        alone = model(input_ids=padded, attention_mask=mask, use_cache=False).logits
        attention.register()
        model.set_attn_implementation(implementation)
        inputs = {
            key: value for key, value in packed.items() if key not in ("logits_to_keep", "labels", "shift_labels")
        }
        together = model(**inputs, use_cache=False).logits[0]
    apart = torch.cat([alone[i, : len(example.input_ids)] for i, example in enumerate(examples)])
    assert torch.allclose(together, apart, atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "starcoder2"])
def test_the_variable_length_kernel_is_called_by_its_contract(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel needs a GPU; one of PyTorch's signature, by its documentation, stands in: packed equals unpacked."""
    calls: list[int] = []

    def kernel(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seq_q: torch.Tensor, cu_seq_k: torch.Tensor,
        max_q: int, max_k: int, *, scale: float, window_size: tuple[int, int], enable_gqa: bool,
    ) -> torch.Tensor:  # fmt: skip
        """Shapes [tokens, heads, width]; a window of (left, 0) shows each token `left` before it, -1 all."""
        left, right = window_size
        assert (right, cu_seq_q.dtype, query.is_contiguous()) == (0, torch.int32, True)
        assert max_q == max_k == int(cu_seq_q.diff().max())
        calls.append(len(query))
        groups = query.shape[1] // key.shape[1]
        assert enable_gqa == (groups > 1)
        row = torch.repeat_interleave(torch.arange(len(cu_seq_q) - 1), cu_seq_q.diff())
        place = torch.arange(len(query))
        distance = place[:, None] - place[None, :]
        seen = (row[:, None] == row[None, :]) & (distance >= 0) & ((distance <= left) | (left < 0))
        scores = torch.einsum("qhd,khd->hqk", query, key.repeat_interleave(groups, dim=1)) * scale
        weights = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
        return torch.einsum("hqk,khd->qhd", weights, value.repeat_interleave(groups, dim=1))

    model = models()[name].eval()
    examples = make_examples(6)
    attention.register()
    model.set_attn_implementation(attention.NAME)
    with torch.no_grad():
        alone = torch.cat([model(torch.tensor([e.input_ids]), use_cache=False).logits[0] for e in examples])
        monkeypatch.setattr(attention, "fused_kernel", lambda: kernel)
        monkeypatch.setattr(attention, "_suits", lambda states: True)
        rest = ("logits_to_keep", "labels", "shift_labels")
        packed = {key: value for key, value in flatten(examples).items() if key not in rest}
        together = model(**packed, use_cache=False).logits[0]
    assert calls == [len(alone)] * 2
    assert torch.allclose(together, alone, atol=1e-5)


def test_mixed_precision_reaches_the_kernel_in_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotary positions make fp32 queries of bf16 ones, and the kernel takes none."""
    seen: list[torch.dtype] = []

    def kernel(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        seen.extend(states.dtype for states in (query, key, value))
        return query

    monkeypatch.setattr(attention, "fused_kernel", lambda: kernel)
    monkeypatch.setattr(attention, "_suits", lambda states: states.dtype == torch.bfloat16)
    model = models()["llama"]
    attention.register()
    model.set_attn_implementation(attention.NAME)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(input_ids=torch.arange(7)[None], **boundaries([3, 4]), use_cache=False)
    assert seen == [torch.bfloat16] * 6


@pytest.mark.parametrize("more", ["softcap", "s_aux"])
def test_attention_that_does_more_than_ours_is_refused(more: str) -> None:
    """A model whose scores are capped would be another model without that."""
    states = torch.zeros(1, 2, 3, 8)
    with pytest.raises(attention.AttentionUnfit, match=r'set \[train\] attention = "eager"'):
        attention.varlen_attention(torch.nn.Module(), states, states, states, None, **{more: 30.0})


def test_this_pytorchs_kernel_is_known() -> None:
    """A release that changes its arguments is noticed here, not on a GPU."""
    assert attention.fused_kernel() is not None or torch.__version__ < "2.10"


@pytest.mark.parametrize("name", ["llama", "starcoder2"])
def test_the_loss_is_that_of_labels_over_the_whole_row(name: str) -> None:
    """Leaving out logits that have no label changes neither the loss nor a gradient."""
    model = models()[name]
    examples = make_examples(5)
    packed = flatten(examples)
    rows = [[IGNORED] * e.prompt_tokens + e.input_ids[e.prompt_tokens :] for e in examples]
    labels = torch.tensor([[token for row in rows for token in row]])
    count = torch.tensor(packed["shift_labels"].numel())
    losses, gradients = [], []
    for batch in (packed, {k: packed[k] for k in ("input_ids", "position_ids")} | {"labels": labels}):
        model.zero_grad()
        loss = model(**batch, use_cache=False, num_items_in_batch=count).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-6)
