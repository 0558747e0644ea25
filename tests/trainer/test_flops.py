from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from trainer.flops import ModelCost, peak_flops, utilisation
from trainer.model import cost_of


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GeForce RTX 4090 D", 147e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("NVIDIA RTX A1000", None),
        ("Some accelerator", None),
    ],
)
def test_a_devices_peak_is_known_by_the_longest_name_in_its_own(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak


def test_the_arithmetic_of_a_step_is_counted_as_in_palm() -> None:
    """By hand: 6 x (1000 x 10 + 100 x 5) for the matrices, 6 x 2 x 8 x 50 for attention under a causal mask."""
    cost = ModelCost(body_parameters=1000, head_parameters=100, layers=2, attention_width=8)
    assert cost.training_flops(tokens=10, trained_tokens=5, squared_lengths=50) == 6 * 10_500 + 6 * 2 * 8 * 50


def test_frozen_matrices_need_no_gradient_of_their_own() -> None:
    cost = ModelCost(body_parameters=1000, head_parameters=100, layers=2, attention_width=8, frozen=True)
    assert cost.training_flops(tokens=10, trained_tokens=5, squared_lengths=50) == 4 * 10_500 + 6 * 2 * 8 * 50


def test_utilisation_is_a_share_of_the_peak_of_all_devices() -> None:
    assert utilisation(flops=989e12, seconds=2.0, peak=989e12, devices=1) == 0.5
    assert utilisation(flops=989e12, seconds=2.0, peak=989e12, devices=2) == 0.25


@pytest.mark.train
@pytest.mark.parametrize("tied", [True, False])
def test_a_models_cost_is_read_from_its_matrices(tied: bool) -> None:
    """The embedding table is looked up, not multiplied; the head is multiplied, tied or not."""
    config = LlamaConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    cost = cost_of(LlamaForCausalLM(config))
    layer = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64 + 2 * 32  # attention, feed-forward, two norms
    assert cost == ModelCost(body_parameters=2 * layer + 32, head_parameters=3200, layers=2, attention_width=32)


SIZES = {
    "vocab_size": 500,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
}


@pytest.mark.train
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
        ("mixtral", {"num_local_experts": 8, "num_experts_per_tok": 2}),
        ("qwen3_moe", {**EXPERTS, "num_experts": 8, "head_dim": 16, "decoder_sparse_step": 2}),
        ("deepseek_v3", {**EXPERTS, **LATENT, "n_routed_experts": 8, "n_group": 1, "topk_group": 1}),
    ],
)
def test_a_steps_arithmetic_is_what_pytorch_counts(kind: str, changes: dict[str, Any]) -> None:
    """Forward and backward; eager attention computes the half that the causal mask hides as well."""
    config = AutoConfig.for_model(kind, **{**SIZES, **changes}, attn_implementation="eager")
    config._experts_implementation = "eager"  # the counter knows no grouped products
    model = AutoModelForCausalLM.from_config(config)
    ids = torch.arange(256).unsqueeze(0)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    cost = cost_of(model)
    flops = cost.training_flops(tokens=256, trained_tokens=256, squared_lengths=2 * 256**2)
    assert flops == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.train
def test_a_gpu_steps_log_has_its_utilisation_and_its_own_peak_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU its counters stand in: 989e12 operations in 2 s on one H100 are half of what it can do."""
    from trainer.loop import StepTrainer

    resets: list[int] = []
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: 5 << 30)
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", lambda: resets.append(1))
    cost = ModelCost(body_parameters=989 * 10**6, head_parameters=0, layers=1, attention_width=1)
    step = {"tokens": 10**6 // 6, "trained_tokens": 0, "squared_lengths": 0}
    trainer = SimpleNamespace(args=SimpleNamespace(device=SimpleNamespace(type="cuda"), world_size=1), cost=cost)

    found = StepTrainer._device_metrics(trainer, SimpleNamespace(steps=[step], seconds=2.0))  # type: ignore[arg-type]

    assert found == {"peak_memory_bytes": 5 << 30, "mfu": pytest.approx(0.5, abs=1e-5)}
    assert resets == [1]
