"""Cross-entropy over the head's hidden states, a chunk of tokens at a time: the whole logits never exist.

Tokens times vocabulary is the largest tensor of a training step, and the plain loss keeps it in fp32 together with its
gradient. Here the head is applied to a chunk, whose loss and gradients are taken at once and whose logits are then
dropped: the same arithmetic, and no more of it, in memory that does not grow with the pass.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy, linear

from trainer.packing import IGNORED

CHUNK_ELEMENTS = 1 << 25
"""Logits at once: 128 MiB in fp32."""


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Sum over the labels' tokens. Gradients are computed with the loss and scaled when they are asked for."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        chunk: int,
        train: bool,
    ) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        needs_hidden, needs_weight, needs_bias = (train and needed for needed in ctx.needs_input_grad[:3])
        # Several chunks add up in fp32, as one matrix product does inside.
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        grad_bias = torch.zeros_like(weight[:, 0], dtype=torch.float32) if needs_bias else None
        for start in range(0, len(labels), chunk):
            rows = slice(start, start + chunk)
            logits = linear(hidden[rows], weight, bias).float()
            total += cross_entropy(logits, labels[rows], ignore_index=IGNORED, reduction="sum")
            if grad_hidden is None and grad_weight is None and grad_bias is None:
                continue
            used = labels[rows] != IGNORED
            errors = logits.softmax(dim=-1)
            del logits
            errors.scatter_add_(1, labels[rows].clamp(min=0).unsqueeze(1), -torch.ones_like(errors[:, :1]))
            errors = (errors * used.unsqueeze(1)).to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = errors @ weight
            if grad_weight is not None:
                grad_weight += errors.T @ hidden[rows]
            if grad_bias is not None:
                grad_bias += errors.sum(dim=0, dtype=torch.float32)
        ctx.gradients, ctx.dtype = (grad_hidden, grad_weight, grad_bias), weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: torch.Tensor) -> Any:
        hidden, weight, bias = ctx.gradients
        ctx.gradients = ()
        return (
            hidden.mul_(upstream[0]) if hidden is not None else None,
            weight.mul_(upstream[0]).to(ctx.dtype) if weight is not None else None,
            bias.mul_(upstream[0]).to(ctx.dtype) if bias is not None else None,
            None,
            None,
            None,
        )


def chunked_cross_entropy(
    hidden: torch.Tensor,
    head: torch.nn.Linear,
    labels: torch.Tensor,
    count: torch.Tensor | int | None = None,
    chunk_elements: int = 0,
) -> torch.Tensor:
    """What `cross_entropy(head(hidden).float(), labels)` is, up to rounding.

    Args:
        hidden: shape [..., tokens, width], what the head is applied to.
        head: the output layer.
        labels: shape [..., tokens], the token wanted at each, or `IGNORED`.
        count: what the sum is divided by; None: the labels that are not ignored.
        chunk_elements: logits that may exist at once, though one token's always do; 0: `CHUNK_ELEMENTS`.
    """
    weight: torch.Tensor = head.weight
    bias: torch.Tensor | None = head.bias
    hidden, labels = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1).to(hidden.device)
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), bias if bias is None else bias.to(dtype)
    if count is None:
        count = (labels != IGNORED).sum()
    chunk = max(1, (chunk_elements or CHUNK_ELEMENTS) // weight.shape[0])
    with torch.autocast(hidden.device.type, enabled=False):
        total = cast("Any", _ChunkedCrossEntropy).apply(hidden, weight, bias, labels, chunk, torch.is_grad_enabled())
    return cast("torch.Tensor", total / count)


class _HiddenHead(torch.nn.Linear):
    """An output layer that hands its input on: its matrix is applied by the loss."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input


def chunk_loss(model: Any) -> bool:
    """Make a causal model's `loss` a chunked one; its `logits` are hidden states from then on.

    The layer that the model calls its output embeddings is switched to hand on what it gets, and the model's loss
    function applies it. A model that does more to its logits (scales or caps them) would compute something else: one
    pass shows whether what the layer hands on reaches the loss as it is, and if not, the model is left as it was.

    Returns:
        Whether it is in place.
    """
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        return False
    given: list[torch.Tensor] = []
    arrived: list[torch.Tensor] = []

    def watch(logits: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        arrived.append(logits)
        return logits.sum()

    ids = torch.zeros((1, 2), dtype=torch.long, device=head.weight.device)
    training = model.training
    model.eval()
    hook = head.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    head.__class__, model.loss_function = _HiddenHead, watch
    with torch.no_grad():
        model(input_ids=ids, labels=ids, use_cache=False)
    hook.remove()
    model.train(training)
    if len(given) == len(arrived) == 1 and given[0] is arrived[0]:
        model.loss_function = _loss_of(head)
        return True
    head.__class__ = torch.nn.Linear
    del model._loss_function  # the setter's; the model's own comes back
    return False


def _loss_of(head: torch.nn.Linear) -> Any:
    def loss_function(
        logits: torch.Tensor,
        labels: torch.Tensor,
        vocab_size: int,
        num_items_in_batch: torch.Tensor | int | None = None,
        shift_labels: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        if shift_labels is None:
            shift_labels = torch.nn.functional.pad(labels, (0, 1), value=IGNORED)[..., 1:]
        return chunked_cross_entropy(logits, head, shift_labels, num_items_in_batch)

    # Left out of compiled graphs: the number of chunks is another in every pass.
    return cast("Any", torch.compiler).disable(loss_function)
