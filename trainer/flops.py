"""What a step costs in arithmetic, and how much of a GPU's peak that is."""

from __future__ import annotations

import re
from dataclasses import dataclass

PEAK_FLOPS = {
    "B200": 2250e12,
    "GB200": 2500e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H200 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H800": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "A40": 150e12,
    "A30": 165e12,
    "A10": 125e12,
    "A10G": 70e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 6000 Ada Generation": 364e12,
    "RTX A6000": 155e12,
    "RTX 5090": 209e12,
    "RTX 4090": 165e12,
    "RTX 4090 D": 147e12,
    "RTX 3090": 71e12,
    "MI300X": 1307e12,
}
"""Dense bf16 matrix arithmetic (no sparsity, sums in fp32) by name of device, floating-point operations a second; from
the makers' data sheets."""


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 peak of a device, by the longest known name among its own's words.

    Returns:
        None for a device that is not known, for a part of one (MIG), and for a laptop's, which has a desktop's name.
    """
    if re.search(r"\b(MIG|Laptop)\b", device_name):
        return None
    known = [name for name in PEAK_FLOPS if re.search(rf"\b{name}\b", device_name)]
    return PEAK_FLOPS[max(known, key=len)] if known else None


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What decides how much arithmetic a token costs.

    Attributes:
        body_parameters: of the layers' matrices that a token meets: the embedding table is looked up, not multiplied,
            and of a mixture of experts those count that a token is sent to.
        head_parameters: of the output head, which is applied to trained positions only.
        layers: of the model.
        attention_width: heads times dimension of a head.
        frozen: whether the matrices are not trained, only adapters beside them.
    """

    body_parameters: int
    head_parameters: int
    layers: int
    attention_width: int
    frozen: bool = False

    def training_flops(self, *, tokens: int, trained_tokens: int, squared_lengths: int) -> float:
        """Forward and backward pass, counted as in appendix B of PaLM (Chowdhery et al., 2022), causal mask included.

        Six operations for each token and parameter that meet, or four where the parameters are frozen, which need no
        gradient of their own (the adapters' share is left out); for attention 12 for each layer, dimension and pair of
        tokens, of which the causal mask leaves half. Recomputation for gradient checkpointing is not counted: these
        are the model's operations, not the hardware's.

        Args:
            tokens: in the step.
            trained_tokens: of them, those with a loss.
            squared_lengths: sum of the squares of the examples' lengths.
        """
        matrices = self.body_parameters * tokens + self.head_parameters * trained_tokens
        return (4.0 if self.frozen else 6.0) * matrices + 6.0 * self.layers * self.attention_width * squared_lengths


def utilisation(flops: float, seconds: float, peak: float, devices: int = 1) -> float:
    """Model FLOPs utilisation: the share of `devices` times `peak` that `flops` in `seconds` are; 1.0 is all of it."""
    return flops / (seconds * peak * devices)
