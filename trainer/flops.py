"""What a step costs in arithmetic, and how much of a GPU's peak that is."""

from __future__ import annotations

from dataclasses import dataclass

PEAK_FLOPS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H800": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Dense bf16 matrix arithmetic by name of device, floating-point operations a second; from the makers' data sheets."""


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 peak of a device, by the longest known name that its own contains; None for an unknown one."""
    known = [name for name in PEAK_FLOPS if name in device_name]
    return PEAK_FLOPS[max(known, key=len)] if known else None


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What decides how much arithmetic a token costs.

    Attributes:
        body_parameters: of the layers' matrices; the embedding table is looked up, not multiplied.
        head_parameters: of the output head, which is applied to trained positions only.
        layers: of the model.
        attention_width: heads times dimension of a head.
    """

    body_parameters: int
    head_parameters: int
    layers: int
    attention_width: int

    def training_flops(self, *, tokens: int, trained_tokens: int, squared_lengths: int) -> float:
        """Forward and backward pass, counted as in appendix B of PaLM (Chowdhery et al., 2022), causal mask included.

        Six operations for each token and parameter that meet; for attention 12 for each layer, dimension and pair of
        tokens, of which the causal mask leaves half. Recomputation for gradient checkpointing is not counted: these
        are the model's operations, not the hardware's.

        Args:
            tokens: in the step.
            trained_tokens: of them, those with a loss.
            squared_lengths: sum of the squares of the examples' lengths.
        """
        matrices = self.body_parameters * tokens + self.head_parameters * trained_tokens
        return 6.0 * matrices + 6.0 * self.layers * self.attention_width * squared_lengths


def utilisation(flops: float, seconds: float, peak: float, devices: int = 1) -> float:
    """Model FLOPs utilisation: the share of `devices` times `peak` that `flops` in `seconds` are; 1.0 is all of it."""
    return flops / (seconds * peak * devices)
