"""Attention for packed rows without a mask over the whole row: each example on its own, by PyTorch's own kernels.

The mask that transformers builds for packed rows has as many entries as the row has pairs of tokens, and rules out the
fastest kernels. Here the examples' boundaries, which travel with the batch (`cu_seq_lens_q`, as for flash attention),
go to PyTorch's variable-length kernel where GPU, PyTorch and type of number allow it. Elsewhere the row is cut at them,
and every piece is plain causal attention. Either way the work is the sum of the squares of the lengths.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any, cast

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "selfalign_varlen"
"""What transformers knows it by, as `attn_implementation`."""


_MORE = {"softcap": "caps its scores", "s_aux": "has attention sinks"}
"""What models ask of attention by these arguments, and only some kinds do."""


class AttentionUnfit(Exception):
    """A model needs another kind of attention; the message says which."""


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int = 0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of each example with itself, in transformers' form.

    Args:
        module: not used; transformers hands it over.
        query: shape [1, heads, tokens, width].
        key: shape [1, key-value heads, tokens, width].
        value: as `key`.
        attention_mask: not used: there is no padding.
        dropout: probability.
        scaling: of the scores; None: by the square root of the width.
        sliding_window: tokens that a token sees, itself included; None: all before it.
        cu_seq_lens_q: where each example begins, and where the last one ends; None: the row is one example.
        max_length_q: tokens of the longest example.
        kwargs: of other kinds of attention.

    Returns:
        Shape [1, tokens, heads, width], and None for the weights, which no one keeps.

    Raises:
        AttentionUnfit: the model's attention is more than this.
    """
    for name, meaning in _MORE.items():
        if kwargs.get(name) is not None:
            raise AttentionUnfit(f'{type(module).__name__} {meaning}; set [train] attention = "eager"')
    if torch.is_autocast_enabled(query.device.type):  # rotary positions are in fp32, and queries and keys with them
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    tokens = query.shape[2]
    if cu_seq_lens_q is None:
        cu_seq_lens_q, max_length_q = (
            torch.arange(0, tokens + 1, tokens, dtype=torch.int32, device=query.device),
            tokens,
        )
    kernel = fused_kernel() if not dropout and _suits(query) else None
    if kernel is not None:
        left = -1 if sliding_window is None or max_length_q <= sliding_window else sliding_window - 1
        mixed = kernel(
            *(states[0].transpose(0, 1).contiguous() for states in (query, key, value)),
            cu_seq_lens_q,
            cu_seq_lens_q,
            max_length_q,
            max_length_q,
            scale=scaling,
            window_size=(left, 0),  # without a window it is the plain causal kernel
            enable_gqa=key.shape[1] != query.shape[1],
        )
        return mixed.unsqueeze(0), None
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # not every kernel takes grouped heads, and the one that does for fp32 on a GPU keeps all scores
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    pieces = []
    for start, end in pairwise(cu_seq_lens_q.tolist()):
        mask = None
        if sliding_window is not None and end - start > sliding_window:
            mask = torch.ones(end - start, end - start, dtype=torch.bool, device=query.device)
            mask = mask.tril().triu(1 - sliding_window)
        pieces.append(
            scaled_dot_product_attention(
                query[:, :, start:end],
                key[:, :, start:end],
                value[:, :, start:end],
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=mask is None,
                scale=scaling,
            )
        )
    return torch.cat(pieces, dim=2).transpose(1, 2).contiguous(), None


def _suits(states: torch.Tensor) -> bool:
    """What the kernel asks of its input: FlashAttention 2's types, widths and GPUs (Ampere and later)."""
    half, width = states.dtype in (torch.bfloat16, torch.float16), states.shape[-1]
    fits = width % 8 == 0 and (width <= 192 or width == 256)  # between them, not every GPU has a backward pass
    return half and fits and states.is_cuda and torch.cuda.get_device_capability(states.device) >= (8,)


@cache
def fused_kernel() -> Callable[..., torch.Tensor] | None:
    """PyTorch's `varlen_attn`, if this PyTorch has it in the form that takes windows and grouped heads."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    taken = inspect.signature(varlen_attn).parameters
    known = {"scale", "window_size", "enable_gqa"} <= taken.keys()
    return cast("Callable[..., torch.Tensor]", varlen_attn) if known else None


def _no_mask(*_: Any, **__: Any) -> None:
    """In place of transformers' mask over the whole row."""


def register() -> None:
    """Make it known to transformers as `NAME`."""
    AttentionInterface.register(NAME, varlen_attention)
    AttentionMaskInterface.register(NAME, _no_mask)
