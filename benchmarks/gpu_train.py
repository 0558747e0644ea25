"""Tokens per second and model FLOPs utilisation of full fine-tuning on one GPU, in one command.

    python benchmarks/gpu_train.py [--model 0.6b] [--tokens 8192] [--passes 4] [--steps 12] [--lengths full|pipeline]

The model is built from a configuration, with weights drawn at random, so that nothing is downloaded: `0.6b` is a Llama
with the widths of Qwen3-0.6B. A step is `--passes` forward passes of `--tokens` tokens: of one example each (`full`),
or of packed pairs with the lengths of a recorded build (`pipeline`). It runs through the trainer's own layers: packing,
attention, cross-entropy in chunks, `transformers.Trainer`. The first two steps warm up and count for nothing.

Without a GPU it runs on the CPU, where it shows that it runs: `--quick` takes a model of 0.5 million parameters.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from train_speed import Memory, made_up  # beside this file
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, set_seed

from trainer.attention import fused_kernel
from trainer.chat import Encoder, prepare_tokenizer
from trainer.config import ModelSettings, TemplateSettings, TrainSettings
from trainer.dataset import Steps, in_order
from trainer.flops import peak_flops
from trainer.loop import StepTrainer, quiet_libraries
from trainer.model import attention_name, cost_of, learn_tokenizer
from trainer.probe import choose_loss, settle_attention
from trainer.train import training_arguments

SHAPES: dict[str, dict[str, int]] = {
    "0.6b": {
        "vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
    },
    "tiny": {
        "vocab_size": 4096, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    },
}  # fmt: skip
WARM_UP = 2


def make_pairs(lengths: str, tokens: int, count: int) -> list[tuple[str, str]]:
    """As many pairs as asked for: of a recorded build's lengths, or long enough to be cut to `tokens`."""
    pairs = made_up(count)
    if lengths == "pipeline":
        return pairs
    text = "\n\n".join(response for _, response in pairs)
    long = text * (12 * tokens // len(text) + 1)
    return [
        (f"{index} {instruction}", long[index : index + 12 * tokens]) for index, (instruction, _) in enumerate(pairs)
    ]


def main() -> None:
    """Print the figures with their conditions, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(SHAPES), default="0.6b")
    parser.add_argument("--tokens", type=int, default=8192, help="of a forward pass")
    parser.add_argument("--passes", type=int, default=4, help="of a step")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--lengths", choices=("full", "pipeline"), default="full")
    parser.add_argument("--optimizer", choices=("adamw", "adafactor"), default="adamw")
    parser.add_argument(
        "--attention", choices=("auto", "varlen", "sdpa", "flash_attention_2"), default="auto", help="as in a recipe"
    )
    parser.add_argument("--cross-entropy", choices=("auto", "plain", "chunked", "liger"), default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument(
        "--quick", action="store_true", help="a tiny model, 512 tokens, 4 steps: under a minute on a CPU"
    )
    options = parser.parse_args()
    if options.quick:
        options.model, options.tokens, options.passes, options.steps = "tiny", 512, 2, 4
    settings = TrainSettings(
        model=ModelSettings(kind="pretrained", path=options.model),
        seed=1,
        max_tokens=options.tokens,
        overlong="truncate",
        optimizer=options.optimizer,
        attention=options.attention,
        cross_entropy=options.cross_entropy,
        compile=options.compile,
        gradient_checkpointing=options.gradient_checkpointing,
        report_to=(),
    )
    with tempfile.TemporaryDirectory() as folder, quiet_libraries():
        log, facts = train(settings, options, folder)
    measured = [entry for entry in log if "tokens_per_second" in entry][WARM_UP:]
    figures = {
        name: statistics.median(entry[name] for entry in measured if name in entry)
        for name in ("tokens_per_second", "packing_fill", "mfu")
        if any(name in entry for entry in measured)
    }
    peaks = [entry["peak_memory_bytes"] for entry in measured if "peak_memory_bytes" in entry]
    print(json.dumps({**figures, "peak_memory_bytes": max(peaks, default=None), **facts, **vars(options)}, indent=2))


def train(
    settings: TrainSettings, options: argparse.Namespace, folder: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run the steps; returns their logs, and what they ran on."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pairs_a_step = options.passes if options.lengths == "full" else options.passes * options.tokens // 420
    pairs = make_pairs(options.lengths, options.tokens, pairs_a_step * options.steps)
    tokenizer = learn_tokenizer((text for pair in pairs[:50] for text in pair), 4096)
    prepare_tokenizer(tokenizer, TemplateSettings(), source="benchmark")
    encoder = Encoder(tokenizer, options.tokens, "truncate")
    examples = [example for example in encoder(pairs) if not isinstance(example, str)]
    rows = np.array([(n, len(e.input_ids), e.trained_tokens) for n, e in enumerate(examples)], dtype=np.int32)
    steps = Steps(
        Memory(pairs),  # type: ignore[arg-type]  # the database is another benchmark's
        rows,
        encoder,
        order=in_order,
        pairs=len(rows),
        batch_size=pairs_a_step,
        capacity=options.tokens,
    )
    set_seed(1)
    config = LlamaConfig(**SHAPES[options.model], max_position_embeddings=options.tokens, tie_word_embeddings=True)
    config._attn_implementation = attention_name(settings)
    with device:
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    settle_attention(model, settings)
    facts = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "attention_used": model.config._attn_implementation,
        "pytorch_varlen_kernel": fused_kernel() is not None and device.type == "cuda",
        "cross_entropy_used": choose_loss(model, settings),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "cpu",
        "bf16_peak_flops": peak_flops(torch.cuda.get_device_name()) if device.type == "cuda" else None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    arguments = training_arguments(settings, options.steps, Path(folder))
    trainer = StepTrainer(
        steps, None, cost=cost_of(model), workers=2, model=model, args=arguments, processing_class=tokenizer
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer.state.log_history, facts


if __name__ == "__main__":
    main()
