from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Starcoder2Config,
)
from transformers.models.starcoder2 import Starcoder2ForCausalLM

from trainer import loss
from trainer.loss import chunk_loss, chunked_cross_entropy
from trainer.packing import IGNORED

pytestmark = pytest.mark.train

SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def plain(hidden: torch.Tensor, head: torch.nn.Linear, labels: torch.Tensor, count: Any) -> torch.Tensor:
    logits = head(hidden).float()
    return torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum") / count


def compared(head: torch.nn.Linear, tokens: int, chunk_elements: int, dtype: torch.dtype) -> list[list[torch.Tensor]]:
    """Loss and gradients, plain and chunked."""
    torch.manual_seed(0)
    hidden = torch.randn(tokens, head.in_features, dtype=dtype)
    labels = torch.randint(0, head.out_features, (tokens,))
    labels[::5] = IGNORED
    found = []
    for chunked in (False, True):
        given = hidden.clone().requires_grad_()
        head.zero_grad()
        count = torch.tensor(29)
        value = (
            chunked_cross_entropy(given, head, labels, count, chunk_elements)
            if chunked
            else plain(given, head, labels, count)
        )
        (3 * value).backward()
        assert given.grad is not None
        parameters = [parameter.grad.clone() for parameter in head.parameters() if parameter.grad is not None]
        found.append([value.detach(), given.grad, *parameters])
    return found


@pytest.mark.parametrize("chunk_elements", [1, 97 * 7, 97 * 36, 1 << 20], ids=["token", "seven", "all but one", "all"])
@pytest.mark.parametrize("bias", [False, True])
def test_chunks_have_the_loss_and_the_gradients_of_the_whole(bias: bool, chunk_elements: int) -> None:
    whole, chunked = compared(torch.nn.Linear(32, 97, bias=bias), 37, chunk_elements, torch.float32)
    assert len(whole) == len(chunked) == 3 + bias
    for ours, theirs in zip(chunked, whole, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_chunks_in_bf16_are_no_further_from_the_truth_than_the_whole() -> None:
    """Gradients of the head add up in fp32 over chunks; the truth is fp64's."""
    head = torch.nn.Linear(32, 97, bias=False)
    exact = compared(head.double(), 64, 1 << 20, torch.float64)[0]
    whole, chunked = compared(head.bfloat16(), 64, 97 * 5, torch.bfloat16)
    for ours, theirs, truth in zip(chunked, whole, exact, strict=True):
        error, allowed = ((found.double() - truth).norm() for found in (ours, theirs))
        assert error <= 1.2 * allowed + 1e-6


def test_only_ignored_labels_give_a_loss_and_gradients_of_zero() -> None:
    """As in the pass that counts for nothing, which evens out the processes."""
    head = torch.nn.Linear(8, 11, bias=False)
    hidden = torch.randn(3, 8, requires_grad=True)
    value = chunked_cross_entropy(hidden, head, torch.full((3,), IGNORED), torch.tensor(5))
    value.backward()
    assert value.item() == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()


def test_a_frozen_head_gets_no_gradient() -> None:
    """As under adapters."""
    head = torch.nn.Linear(8, 11, bias=False).requires_grad_(False)
    hidden = torch.randn(3, 8, requires_grad=True)
    chunked_cross_entropy(hidden, head, torch.tensor([1, 2, 3])).backward()
    assert head.weight.grad is None
    assert hidden.grad is not None


def test_the_whole_logits_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """No call of the head sees more tokens than a chunk has."""
    seen: list[int] = []
    real = loss.linear

    def linear(hidden: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(len(hidden))
        return real(hidden, *rest)

    monkeypatch.setattr(loss, "linear", linear)
    head = torch.nn.Linear(8, 11)
    chunked_cross_entropy(torch.randn(2, 10, 8), head, torch.zeros(2, 10, dtype=torch.long), None, 11 * 6)
    assert seen == [6, 6, 6, 2]


def losses_and_gradients(model: PreTrainedModel, autocast: bool = False) -> tuple[float, torch.Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(0, 97, (1, 24))
    keep = torch.arange(5, 23)
    labels = ids[:, 6:24]
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        value = model(
            input_ids=ids,
            logits_to_keep=keep,
            labels=labels,
            shift_labels=labels,
            num_items_in_batch=torch.tensor(40),
            use_cache=False,
        ).loss
    value.backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return value.item(), gradients


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["llama", "starcoder2"])
def test_a_model_learns_the_same_from_chunks(kind: str, tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "CHUNK_ELEMENTS", 97 * 4)
    model: Any = (
        LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=tied))
        if kind == "llama"
        else Starcoder2ForCausalLM(Starcoder2Config(**SHAPE, tie_word_embeddings=tied))
    )
    before = model.state_dict().keys()
    value, gradients = losses_and_gradients(model)
    assert chunk_loss(model)
    again, chunked = losses_and_gradients(model)
    assert again == pytest.approx(value, abs=1e-6)
    assert torch.allclose(chunked, gradients, atol=1e-6)
    assert model.state_dict().keys() == before


def test_autocast_computes_chunks_in_its_own_precision() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    value, gradients = losses_and_gradients(model, autocast=True)
    assert chunk_loss(model)
    again, chunked = losses_and_gradients(model, autocast=True)
    assert again == pytest.approx(value, abs=2e-3)
    assert chunked.dtype == gradients.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(chunked, gradients, dim=0) > 0.9999


@pytest.mark.parametrize(
    "model",
    [
        lambda: GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=8.0)),
        lambda: Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=16, final_logit_softcapping=30.0)),
    ],
    ids=["scaled", "capped"],
)
def test_a_model_that_does_more_to_its_logits_is_left_as_it_was(model: Any) -> None:
    """However little it is: what arrives at the loss is not what left the head."""
    found = model()
    before = losses_and_gradients(found)[0]
    assert not chunk_loss(found)
    assert type(found.get_output_embeddings()) is torch.nn.Linear
    assert losses_and_gradients(found)[0] == before
