from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from trainer.chat import Example
from trainer.config import ModelSettings, TrainSettings
from trainer.flops import ModelCost
from trainer.loop import StepTrainer
from trainer.model import ModelUnfit, build_model, cost_of
from trainer.packing import flatten
from trainer.probe import check_loss, choose_loss, settle_attention
from trainer.train import training_arguments

pytestmark = pytest.mark.train

SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size",), 97),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "moe_intermediate_size"), 64),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads"), 2),
    **dict.fromkeys(("num_key_value_heads", "bos_token_id"), 1),
    **dict.fromkeys(("head_dim", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 128),
    **dict.fromkeys(("num_experts", "num_local_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "eos_token_id"), 2),
    "rotary_dim": 8,
    "sliding_window": 6,
    "pad_token_id": 0,
}
"""What the configurations of all kinds of models call their sizes."""

PACKED = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text", "phi3", "olmo2"), "chunked"),
    **dict.fromkeys(("gpt2", "gpt_bigcode", "starcoder2", "gpt_neox", "mixtral", "qwen2_moe"), "chunked"),
    **dict.fromkeys(("stablelm", "gptj"), "chunked"),  # they know nothing of ours
    **dict.fromkeys(("gemma2", "granite", "cohere2"), "plain"),
}
"""Kinds of models that read packed examples, and the loss that they get."""

ALONE = {**dict.fromkeys(("bloom", "falcon", "mpt", "gpt_oss", "mamba", "xglm"), "chunked")}
"""Kinds that only read examples by themselves."""


def saved(kind: str, folder: Path, **changes: Any) -> Path:
    """A tiny model of a kind, its weights spread so that what it reads matters."""
    known = AutoConfig.for_model(kind)
    sizes = {
        key: value for key, value in SIZES.items() if hasattr(known, key) and (kind, key) != ("falcon", "head_dim")
    }
    return saved_config(AutoConfig.for_model(kind, **sizes | changes), folder)


def saved_config(config: Any, folder: Path) -> Path:
    """`saved`, of a configuration."""
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    model.save_pretrained(folder)
    return folder


def settings(folder: Path, **changes: Any) -> TrainSettings:
    start = ModelSettings("pretrained", str(folder))
    return TrainSettings(model=start, precision="fp32", report_to=(), **changes)


def examples() -> list[Example]:
    rng = random.Random(1)
    return [
        Example([rng.randrange(3, 97) for _ in range(length)], prompt_tokens=prompt)
        for length, prompt in ((9, 3), (17, 5), (12, 2), (30, 11))
    ]


def exact(folder: Path) -> float:
    """Cross-entropy of the trained tokens by the model's own logits, each example by itself, plain attention."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for example in examples():
            ids = torch.tensor([example.input_ids])
            logits = model(input_ids=ids, use_cache=False).logits[0, example.prompt_tokens - 1 : -1].double()
            total += cross_entropy(logits, ids[0, example.prompt_tokens :], reduction="sum").item()
            count += example.trained_tokens
    return total / count


def trained(chosen: TrainSettings, folder: Path) -> tuple[float, str]:
    """The loss of one step of those examples as a run computes it, and which cross-entropy that takes."""
    model: Any = build_model(chosen, range(10))  # type: ignore[arg-type]  # its length is all that is asked for
    settle_attention(model, chosen)
    cost = cost_of(model)
    assert isinstance(cost, ModelCost)
    kind = choose_loss(model, chosen)
    arguments = training_arguments(chosen, 1, folder)
    trainer: Any = StepTrainer([], None, cost=cost, workers=0, model=model, args=arguments)  # type: ignore[arg-type]
    rows = examples()
    passes = [rows[:2], rows[2:]] if chosen.packing else [[row] for row in rows]
    count = torch.tensor(sum(row.trained_tokens for row in rows))
    return sum(trainer.compute_loss(model, flatten(row), num_items_in_batch=count).item() for row in passes), kind


@pytest.mark.parametrize("kind", [*PACKED, *ALONE])
def test_the_loss_is_the_models_own_whatever_the_model(kind: str, tmp_path: Path) -> None:
    """With the default attention and cross-entropy, windows of 6 tokens in play where a model has them."""
    folder = saved(kind, tmp_path / "model")
    expected = exact(folder)
    value, cross_entropy_used = trained(settings(folder, packing=False), tmp_path)
    assert value == pytest.approx(expected, abs=1e-4)
    assert cross_entropy_used == {**PACKED, **ALONE}[kind]
    if kind in PACKED:
        assert trained(settings(folder), tmp_path)[0] == pytest.approx(expected, abs=1e-4)
    else:
        with pytest.raises(ModelUnfit, match=r"packed examples.* set \[train\] packing = false"):
            trained(settings(folder), tmp_path)


@pytest.mark.parametrize("kind", ["bloom", "gptj", "gemma2", "gpt_oss"])
def test_ours_is_refused_where_a_model_cannot_take_it(kind: str, tmp_path: Path) -> None:
    """BLOOM would train on, without the mask that it counts on."""
    folder = saved(kind, tmp_path / "model")
    with pytest.raises(ModelUnfit, match=r'set (\[train\] attention = )?"(auto|eager)"'):
        trained(settings(folder, attention="varlen", packing=False), tmp_path)


def test_a_model_that_refuses_a_row_that_is_packed_reads_examples_alone(tmp_path: Path) -> None:
    """Its recurrent layers say that they cannot keep them apart."""
    more = {
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    }
    folder = saved("qwen3_5_text", tmp_path / "model", layer_types=["linear_attention", "full_attention"], **more)
    assert trained(settings(folder, packing=False), tmp_path)[0] == pytest.approx(exact(folder), abs=1e-4)
    with pytest.raises(ModelUnfit, match=r"keep packed sequences apart .* set \[train\] packing = false"):
        trained(settings(folder), tmp_path)


TEXT_SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim", "pad_token_id"),
    *("num_attention_heads", "num_key_value_heads", "sliding_window"),
)
SMALL = {name: SIZES[name] for name in TEXT_SIZES}


def test_a_models_layers_may_differ_in_their_heads(tmp_path: Path) -> None:
    more = {"layer_types": ["sliding_attention", "full_attention"], "hidden_size_per_layer_input": 8}
    sizes = {"global_head_dim": 32, "num_kv_shared_layers": 0, "vocab_size_per_layer_input": 97}
    folder = saved_config(AutoConfig.for_model("gemma4_text", **SMALL, **more, **sizes), tmp_path / "model")
    assert trained(settings(folder), tmp_path)[0] == pytest.approx(exact(folder), abs=1e-4)
    assert cost_of(AutoModelForCausalLM.from_pretrained(folder)).attention_width == 2 * (16 + 32) // 2


def test_a_model_with_eyes_is_trained_on_text(tmp_path: Path) -> None:
    """Its settings lie a level deeper."""
    seen = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        "gemma3", text_config=SMALL, vision_config={**seen, "image_size": 28, "patch_size": 14}, mm_tokens_per_image=4
    )
    config.text_config.attention_dropout = 0.5
    folder = saved_config(config, tmp_path / "model")
    assert trained(settings(folder), tmp_path)[0] == pytest.approx(exact(folder), abs=1e-4)


def test_a_model_that_sees_what_comes_is_refused(tmp_path: Path) -> None:
    folder = saved("bert", tmp_path / "model")
    with pytest.raises(ModelUnfit, match="must be a causal language model"):
        trained(settings(folder), tmp_path)


def test_a_router_adds_nothing_to_the_loss(tmp_path: Path) -> None:
    """A model may ask for that in its configuration; it would count once a pass, however many there are."""
    folder = saved("mixtral", tmp_path / "model", output_router_logits=True)
    assert trained(settings(folder), tmp_path)[0] == pytest.approx(exact(folder), abs=1e-4)


def test_a_loss_that_is_not_divided_by_what_it_is_told_is_refused(tmp_path: Path) -> None:
    class Mean(LlamaForCausalLM):
        def forward(self, num_items_in_batch: Any = None, **inputs: Any) -> Any:
            return super().forward(**inputs)

    with pytest.raises(ModelUnfit, match="where the cross-entropy of the trained tokens is"):
        check_loss(Mean(llama()))


@pytest.mark.parametrize("kind", ["bart", "whisper"])
def test_a_loss_of_another_kind_is_refused(kind: str, tmp_path: Path) -> None:
    """That of decoders of other models: it takes each token for its own label."""
    folder = saved(
        kind, tmp_path / "model", d_model=32, decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=64
    )
    with pytest.raises(ModelUnfit, match="its loss"):
        trained(settings(folder, packing=False), tmp_path)


def llama(**changes: Any) -> LlamaConfig:
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = LlamaConfig(**{**shape, "vocab_size": 97, "num_attention_heads": 2, **changes})
    config._attn_implementation = "sdpa"
    return config


NEW = TrainSettings(model=ModelSettings(kind="new"))


def test_a_deep_models_rounding_is_not_taken_for_packing_gone_wrong() -> None:
    """In bf16 single logits are off by a sixth of their spread here, though the examples are apart."""
    torch.manual_seed(0)
    config = llama(hidden_size=64, intermediate_size=128, num_hidden_layers=24, vocab_size=400, initializer_range=0.2)
    model: Any = LlamaForCausalLM(config)
    settle_attention(model.to(torch.bfloat16), NEW)


def test_a_model_that_waits_on_the_cpu_is_tried_without_flash_attention() -> None:
    """As one is that will be sharded over GPUs."""
    model = LlamaForCausalLM(llama())
    model.config._attn_implementation = "flash_attention_2"
    settle_attention(model, NEW)
    assert choose_loss(model, NEW) == "chunked"
    assert model.config._attn_implementation == "flash_attention_2"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_mixes_packed_examples_is_refused(dtype: torch.dtype) -> None:
    """GPT-2's positions are honoured; one whose mask is given as all ones is not kept apart."""

    class Mixing(GPT2LMHeadModel):
        def forward(self, input_ids: Any = None, position_ids: Any = None, **kwargs: Any) -> Any:
            mask = torch.ones_like(input_ids)
            return super().forward(input_ids=input_ids, attention_mask=mask, **kwargs)

    model: Any = Mixing(GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0))
    with pytest.raises(ModelUnfit, match=r"set \[train\] packing = false"):
        settle_attention(model.to(dtype), NEW)
