from __future__ import annotations

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

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
        ("Some accelerator", None),
    ],
)
def test_a_devices_peak_is_known_by_the_longest_name_in_its_own(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak


def test_the_arithmetic_of_a_step_is_counted_as_in_palm() -> None:
    """By hand: 6 x (1000 x 10 + 100 x 5) for the matrices, 6 x 2 x 8 x 50 for attention under a causal mask."""
    cost = ModelCost(body_parameters=1000, head_parameters=100, layers=2, attention_width=8)
    assert cost.training_flops(tokens=10, trained_tokens=5, squared_lengths=50) == 6 * 10_500 + 6 * 2 * 8 * 50


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
