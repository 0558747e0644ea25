"""What only a GPU can show; skipped without one, and the first thing to run with one."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from generator.recipe import load_recipe
from trainer import attention
from trainer.config import train_settings
from trainer.loss import chunked_cross_entropy
from trainer.packing import IGNORED, boundaries
from trainer.train import train

pytestmark = [
    pytest.mark.train,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
DEVICE = "cuda"


@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 4, 64), (8, 2, 128)])
def test_the_kernel_computes_what_each_example_is_by_itself(
    window: int | None, heads: int, kv_heads: int, width: int
) -> None:
    """Output and gradients, in bf16, of examples from 1 to 300 tokens."""
    torch.manual_seed(0)
    lengths = (300, 1, 17, 129)
    where = {name: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for name, v in boundaries(lengths).items()}
    shapes = [(1, count, sum(lengths), width) for count in (heads, kv_heads, kv_heads)]
    states = [torch.randn(shape, device=DEVICE, dtype=torch.bfloat16, requires_grad=True) for shape in shapes]
    wanted = torch.randn(1, sum(lengths), heads, width, device=DEVICE, dtype=torch.bfloat16)

    found, _ = attention.varlen_attention(torch.nn.Module(), *states, None, sliding_window=window, **where)
    gradients = torch.autograd.grad(found, states, wanted)

    exact = [state.detach().float().requires_grad_() for state in states]
    pieces = []
    for start, end in pairwise(where["cu_seq_lens_q"].tolist()):
        place = torch.arange(end - start, device=DEVICE)
        distance = place[:, None] - place[None, :]
        mask = (distance >= 0) & (distance < (window or end))
        query, key, value = (
            state[:, :, start:end].repeat_interleave(heads // state.shape[1], dim=1) for state in exact
        )
        pieces.append(scaled_dot_product_attention(query, key, value, attn_mask=mask))
    alone = torch.cat(pieces, dim=2).transpose(1, 2)
    assert attention.fused_kernel() is not None
    assert (found - alone).norm() < 0.02 * alone.norm()
    for gradient, reference in zip(gradients, torch.autograd.grad(alone, exact, wanted.float()), strict=True):
        assert (gradient - reference).norm() < 0.02 * reference.norm()


def test_chunks_of_the_loss_are_the_whole() -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(64, 1000, bias=False, device=DEVICE, dtype=torch.bfloat16)
    hidden = torch.randn(50, 64, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    labels = torch.randint(0, 1000, (50,), device=DEVICE)
    labels[::7] = IGNORED
    found = chunked_cross_entropy(hidden, head, labels, chunk_elements=7000)
    gradients = torch.autograd.grad(found, [hidden, head.weight])
    whole = torch.nn.functional.cross_entropy(head(hidden).float(), labels, ignore_index=IGNORED)
    assert found.item() == pytest.approx(whole.item(), rel=1e-3)
    for gradient, reference in zip(gradients, torch.autograd.grad(whole, [hidden, head.weight]), strict=True):
        assert (gradient - reference).norm() < 0.02 * reference.norm()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_run_on_a_gpu_learns_what_one_on_a_cpu_does(
    url: str, recipe_file: Callable[..., Path], tmp_path: Path
) -> None:
    """In bf16 by the kernels that are there, packed and prepared by a process of its own; and says what it used."""
    found: dict[str, Any] = {}
    for name, changes in {"packed": {}, "alone": {"packing": False}, "mixed": {"precision": "bf16-mixed"}}.items():
        recipe = load_recipe(recipe_file(max_steps=5, **{"precision": "bf16", **changes}))
        settings = train_settings(recipe.train, "[train]", recipe.seed)
        result = train(recipe, settings, url=url, output=tmp_path / name)
        log = json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"]
        found[name] = [entry["loss"] for entry in log if "loss" in entry]
        assert all(entry["peak_memory_bytes"] > 0 for entry in log if "loss" in entry)
        assert result.metrics["environment"]["device"] == torch.cuda.get_device_name()
    assert found["alone"] == pytest.approx(found["packed"], rel=0.01)
    assert found["mixed"] == pytest.approx(found["packed"], rel=0.02)
