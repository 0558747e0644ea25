"""What a model makes of attention, packing and loss, found out by trying: its name does not tell.

Every try takes a few tokens and no gradient. Attention that a model does not know, or cannot give all that it needs,
often raises nothing and computes something else; and not every model divides its loss by what it is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from trainer.attention import AttentionUnfit
from trainer.chat import Example
from trainer.config import TrainSettings
from trainer.loss import chunk_loss
from trainer.model import ModelUnfit, embedding, first_line
from trainer.packing import boundaries, flatten

_REFUSALS = (AttentionUnfit, ValueError, TypeError, LookupError, AttributeError)
"""What models raise that are asked for what they cannot do."""


def settle_attention(model: PreTrainedModel, settings: TrainSettings) -> None:
    """Make sure that attention computes what the model means, which is what its plain ("eager") one does.

    If packing is set, an example behind another one must also have the logits that it has alone. The measure of every
    difference is what the other example, seen, makes of them. Rounding in bf16 adds up with a model's depth: of that
    measure it was 0.18 between plain attention, whose scores are in bf16, and other kernels (Qwen2.5-Coder-1.5B), and
    0.02 within one kernel; a mask that was not there made 1.2 (BLOOM). Attention that fails is replaced by PyTorch's
    ("sdpa"), else by the plain one, where the settings leave the choice ("auto").

    Raises:
        ModelUnfit: no attention does, or the model lets tokens see those after them.
    """
    chosen: str = model.config._attn_implementation
    names = [chosen, *(name for name in ("sdpa", "eager") if settings.attention == "auto" and name != chosen)]
    lengths = (7, 11)
    ids = [torch.arange(n, device=model.device).mul(5 + n).remainder(len(embedding(model))) for n in lengths]
    positions = torch.cat([torch.arange(n, device=model.device) for n in lengths])
    packed = {"position_ids": positions.unsqueeze(0)} | {
        name: value.to(model.device) if isinstance(value, torch.Tensor) else value
        for name, value in boundaries(lengths).items()
    }

    def logits(tokens: torch.Tensor, **inputs: Any) -> torch.Tensor:
        found = cast("Any", model)(input_ids=tokens.unsqueeze(0), **inputs, use_cache=False).logits[0]
        return cast("torch.Tensor", found[-lengths[1] :].float())

    def trouble() -> str:
        """Of the attention that is switched on, a line; nothing where it does."""
        try:
            alone = logits(ids[1])
            if (alone - meant).norm() > allowed_of_kernels:
                return 'computes something else than it means; set [train] attention = "eager"'
        except _REFUSALS as error:
            return f"fails: {first_line(error)}"
        if settings.packing:
            try:
                apart = (logits(torch.cat(ids), **packed) - alone).norm() <= allowed
            except _REFUSALS as error:
                return f"cannot read packed examples: {first_line(error)}; set [train] packing = false"
            if not apart:
                return "lets packed examples see each other; set [train] packing = false"
        return ""

    with _evaluating(model):
        _switch(model, "eager")
        meant = logits(ids[1])
        measure = (logits(torch.cat(ids)) - meant).norm()
        exact = model.dtype == torch.float32
        allowed, allowed_of_kernels = (share * measure for share in ((1e-3, 1e-3) if exact else (0.25, 0.5)))
        if (logits(ids[1][:-3]) - meant[:-3]).norm() > allowed:
            raise ModelUnfit(
                f"{type(model).__name__} lets tokens see those that come after them, so there is nothing to learn; "
                "[train] model must be a causal language model"
            )
        told = ""
        for name in names:
            if name == chosen:  # it was accepted when the model was loaded, and may not be on this device
                model.config._attn_implementation = name
            elif not _switch(model, name):
                continue
            with on_hand(model):
                found = trouble()
            if not found:
                return
            told = f"{type(model).__name__} with {name} attention {found}"
    raise ModelUnfit(told)


def choose_loss(model: PreTrainedModel, settings: TrainSettings) -> str:
    """Put the cross-entropy in place that is asked for.

    Returns:
        Which one it is: "chunked", "plain" or "liger".

    Raises:
        ModelUnfit: it cannot be had with this model, on this machine.
    """
    wanted = settings.cross_entropy
    if wanted == "liger":
        if find_spec("liger_kernel") is None or not torch.cuda.is_available():
            raise ModelUnfit(
                '[train] cross_entropy = "liger" needs a GPU and liger-kernel (pip install liger-kernel); "chunked" '
                "needs neither"
            )
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

        if model.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
            raise ModelUnfit(
                f'[train] cross_entropy = "liger": liger-kernel has none for {model.config.model_type} models; '
                '"chunked" may do'
            )
        return wanted
    with on_hand(model):
        check_loss(model)
        chunked = wanted != "plain" and chunk_loss(model)
    if wanted == "chunked" and not chunked:
        raise ModelUnfit(
            f"{type(model).__name__} does more than a matrix product to its logits, which no chunk can know; set "
            '[train] cross_entropy = "plain"'
        )
    return "chunked" if chunked else "plain"


def check_loss(model: PreTrainedModel) -> None:
    """Make sure that a model's loss is the cross-entropy of the tokens that are trained, over the count it is given.

    Raises:
        ModelUnfit: it is something else, which would be learned without a word.
    """
    ids = torch.arange(11).mul(16).remainder(len(embedding(model)))
    example = Example(ids.tolist(), prompt_tokens=4)
    batch = {
        name: value.to(model.device) if isinstance(value, torch.Tensor) else value
        for name, value in flatten([example]).items()
    }
    count = torch.tensor(3 * example.trained_tokens, device=model.device)  # no mean over this pass
    call = cast("Any", model)
    with _evaluating(model):
        logits = call(input_ids=batch["input_ids"], use_cache=False).logits[0, example.prompt_tokens - 1 : -1]
        wanted = cross_entropy(logits.float(), batch["labels"][0], reduction="sum") / count
        try:
            found = call(**batch, num_items_in_batch=count, use_cache=False).loss
        except (*_REFUSALS, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            raise ModelUnfit(
                f"{type(model).__name__} cannot be trained here: its loss fails: {first_line(error)}"
            ) from error
    if (found - wanted).abs() > (1e-4 if model.dtype == torch.float32 else 2e-2) * wanted:
        raise ModelUnfit(
            f"{type(model).__name__} cannot be trained here: its loss is {found.item():.4f} where the cross-entropy of "
            f"the trained tokens is {wanted.item():.4f}"
        )


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, as PyTorch, CUDA and its libraries say it."""
    signs = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in signs)


@contextmanager
def on_hand(model: PreTrainedModel) -> Iterator[None]:
    """Attention that the model's device has: a model that will be sharded is on the CPU yet, which has no flash."""
    chosen = model.config._attn_implementation
    if model.device.type == "cpu" and str(chosen).startswith("flash_attention"):
        model.config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        model.config._attn_implementation = chosen


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Without dropout and gradients."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _switch(model: PreTrainedModel, attention: str) -> bool:
    """Have `model` take another attention, if it can: some know no "sdpa", some chose when they were built."""
    with suppress(ValueError):
        model.set_attn_implementation(attention)
    return bool(model.config._attn_implementation == attention)
