"""The recipe's `[train]` table. Defaults are those that the released StarCoder2-15B-Instruct was trained with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sandbox_server.settings import parse

OPERATIONAL = {"operational": True}
"""Marks settings that change how a run is carried out, not what is learned: they are no part of a run's key."""

SYSTEM_SENTENCE = "You are a careful programming assistant: answer the instruction with correct, complete code."


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The model to start from: a checkpoint, or a new Llama-type one with a tokenizer learned from the pairs."""

    kind: Literal["pretrained", "new"]
    """pretrained: a checkpoint; new: weights drawn at random, a tokenizer learned from the pairs."""
    path: str = ""
    """pretrained: a local folder or a hub name."""
    revision: str = ""
    """pretrained: branch, tag or commit on the hub; empty: its default."""
    vocabulary: int = 4096
    """new: size of the byte-level BPE, special tokens included; fewer when the pairs hold no more merges."""
    hidden_size: int = 256
    """new: width of the model."""
    layers: int = 4
    """new: transformer blocks."""
    heads: int = 4
    """new: attention heads."""
    kv_heads: int = 0
    """new: key and value heads; 0 means as many as `heads`."""
    intermediate_size: int = 0
    """new: width of the feed-forward layer; 0 means 8/3 of `hidden_size`, rounded up to 64."""

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if self.kind == "pretrained" and not self.path:
            raise ValueError('model kind "pretrained" needs a path: a folder or a hub name')
        if self.kind == "new" and (self.path or self.revision):
            raise ValueError('model kind "new" takes no path and no revision; use kind = "pretrained"')
        if min(self.hidden_size, self.layers, self.heads) < 1:
            raise ValueError("hidden_size, layers and heads must be at least 1")
        if self.hidden_size % (2 * self.heads):
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of 2 x heads ({2 * self.heads})")
        if self.kv_heads < 0 or (self.kv_heads and self.heads % self.kv_heads):
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        if self.vocabulary < 300:
            raise ValueError(
                f"vocabulary must be at least 300 (256 bytes and the special tokens), got {self.vocabulary}"
            )


@dataclass(frozen=True, slots=True)
class TemplateSettings:
    """How a pair becomes text."""

    kind: Literal["sections", "tokenizer"] = "sections"
    """sections: `### Instruction` and `### Response`, the original's; tokenizer: the tokenizer's own chat template."""
    system: str = SYSTEM_SENTENCE
    """sections: the sentence that opens every prompt."""


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Low-rank adapters instead of all weights (Hu et al., 2021), through peft."""

    rank: int = 16
    """Of the adapters' matrices."""
    alpha: float = 32.0
    """The adapters' output is scaled by alpha / rank."""
    target_modules: tuple[str, ...] = ()
    """Names of modules; empty: every linear layer but the head."""
    base_bits: Literal[4, 8, 16] = 16
    """4: the frozen weights are kept as NF4 (QLoRA, Dettmers et al., 2023), 8: as LLM.int8(), through bitsandbytes."""

    def __post_init__(self) -> None:
        """Refuse an adapter without a dimension."""
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Everything that a fine-tuning run depends on besides its dataset."""

    model: ModelSettings
    template: TemplateSettings = TemplateSettings()
    seed: int | None = None
    """Absent: the recipe's seed."""
    epochs: float = 4.0
    """Passes over the snapshot; a fraction ends within one."""
    max_steps: int = 0
    """Stop after so many optimizer steps; 0: when the epochs are over."""
    batch_size: int = 64
    """Pairs in one optimizer step, over all devices; packed or not."""
    max_tokens: int = 1280
    """Longest example, prompt, response and EOS together."""
    overlong: Literal["drop", "truncate"] = "drop"
    """A longer example is left out, or its response is cut and EOS kept; both are counted."""
    packing: bool = True
    """Several examples in one forward pass, which do not see each other."""
    pack_tokens: int = 0
    """Tokens in one forward pass when packing; 0: `max_tokens`."""
    learning_rate: float = 1e-5
    """Highest, after the warm-up."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises."""
    optimizer: Literal["adafactor", "adamw"] = "adafactor"
    """Adafactor keeps row and column statistics instead of two numbers a weight."""
    weight_decay: float = 0.0
    """Decoupled from the gradient."""
    max_grad_norm: float = 0.0
    """Gradients are clipped to this norm; 0: never."""
    precision: Literal["bf16", "bf16-mixed", "fp32"] = "bf16"
    """bf16: weights and arithmetic; bf16-mixed: arithmetic only, weights in fp32."""
    dropout: float = 0.0
    """Forced into the model's config: a base model's own 0.1 costs points."""
    evaluation_fraction: float = 0.0
    """Share of instructions that is held out, chosen by their hash."""
    lora: LoraSettings | None = None
    """The table `[train.lora]`, even an empty one, trains adapters; without it all weights are trained."""
    gradient_checkpointing: bool = field(default=False, metadata=OPERATIONAL)
    """Recompute activations in the backward pass instead of keeping them: less memory, more time."""
    compile: bool = field(default=False, metadata=OPERATIONAL)
    """`torch.compile`: wants a C++ compiler, and triton on a GPU."""
    cross_entropy: Literal["auto", "chunked", "plain", "liger"] = field(default="auto", metadata=OPERATIONAL)
    """chunked: ours, see `trainer.loss`; liger: liger-kernel's fused one, on a GPU; auto: chunked where it can be."""
    attention: Literal["auto", "varlen", "sdpa", "eager", "flash_attention_2", "flex_attention"] = field(
        default="auto", metadata=OPERATIONAL
    )
    """varlen: ours, see `trainer.attention`; auto: the first that computes what the model means, of flash attention,
    varlen (not where `compile` is set), sdpa and eager."""
    save_steps: int = field(default=0, metadata=OPERATIONAL)
    """Optimizer steps between checkpoints; 0: one at the end of each epoch."""
    keep_checkpoints: int = field(default=2, metadata=OPERATIONAL)
    """Older checkpoints are deleted; 0 keeps all."""
    log_steps: int = field(default=1, metadata=OPERATIONAL)
    """Optimizer steps between records of loss and speed."""
    workers: int | None = field(default=None, metadata=OPERATIONAL)
    """Processes that prepare steps ahead; 0: the training process does. Absent: 1 for each GPU, else 0."""
    report_to: tuple[str, ...] = field(default=("auto",), metadata=OPERATIONAL)
    """Trackers that transformers knows by name; auto: TensorBoard where it is installed; empty: none."""

    def __post_init__(self) -> None:
        """Refuse what no run can do."""
        for name in ("batch_size", "log_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in (
            "max_steps",
            "pack_tokens",
            "save_steps",
            "keep_checkpoints",
            "workers",
            "weight_decay",
            "max_grad_norm",
        ):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("epochs", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("warmup", "dropout", "evaluation_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 up to but not including 1, got {getattr(self, name)}")
        if self.max_tokens < 8:
            raise ValueError(f"max_tokens must be at least 8, got {self.max_tokens}")
        if self.lora and self.lora.base_bits != 16 and self.model.kind == "new":
            raise ValueError('lora base_bits below 16 quantises a trained model; model kind "new" has none')
        if self.pack_tokens and self.pack_tokens < self.max_tokens:
            raise ValueError(f"pack_tokens {self.pack_tokens} must hold an example of max_tokens {self.max_tokens}")

    @property
    def capacity(self) -> int:
        """Tokens that one forward pass may hold when packing."""
        return self.pack_tokens or self.max_tokens

    def causes(self) -> dict[str, Any]:
        """The settings that change what is learned, JSON-able."""
        values = dataclasses.asdict(self)
        return {f.name: values[f.name] for f in dataclasses.fields(self) if not f.metadata.get("operational")}


def train_settings(table: Mapping[str, Any], where: str, seed: int) -> TrainSettings:
    """Read the `[train]` table.

    Args:
        table: the recipe's `train`.
        where: how messages name it, e.g. ``"demo.toml [train]"``.
        seed: the recipe's, for a table without its own.

    Raises:
        SettingsError: names the key, the place and what was expected.
    """
    settings = parse(TrainSettings, table, where)
    return settings if settings.seed is not None else dataclasses.replace(settings, seed=seed)
