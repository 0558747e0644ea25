"""Tokens per second of the trainer on this machine, against TRL's SFTTrainer in the same run, and the packing fill.

    python benchmarks/train_speed.py [--quick] [--steps 5] [--batch 16] [--db URL --dataset NAME]

The same model, optimizer, precision and pairs, four ways: ours packed, ours one pair a pass, TRL with several pairs
padded in one pass, and TRL with one pair a pass. They take turns, so that a loaded machine slows all of them; per CPU
second is what a load changes least. A token counts once, padding never. Without --db the pairs are made up: code from
the standard library, cut to the lengths of a recorded build (responses of 1,100 characters on average, log-normal).
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import platform
import random
import statistics
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, TrainerCallback

from generator.store import find_dataset, iter_items, open_database
from trainer.chat import Encoder, prepare_tokenizer, prompt_of
from trainer.config import ModelSettings, TemplateSettings, TrainSettings
from trainer.loop import quiet_libraries
from trainer.model import learn_tokenizer
from trainer.packing import even_bins

MAX_TOKENS = 1280


def made_up(count: int) -> list[tuple[str, str]]:
    """Pairs with the lengths of a recorded build."""
    rng = random.Random(0)
    library = Path(sysconfig.get_paths()["stdlib"])
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(library.glob("[a-h]*.py")))

    def cut(mean: float, sigma: float) -> str:
        start = rng.randrange(len(text) - 10_000)
        return text[start : start + round(rng.lognormvariate(mean, sigma))].strip()

    return [(cut(5.6, 0.35), cut(6.98, 0.31)) for _ in range(count)]


def stored(url: str, name: str) -> list[tuple[str, str]]:
    """The pairs of a snapshot."""
    database = open_database(url)
    with database.reading() as session:
        dataset = find_dataset(session, name)
        pairs = [(i.instruction, i.response) for i in iter_items(session.connection(), dataset.id, range(dataset.size))]
    database.close()
    return pairs


class Clock(TrainerCallback):
    """Wall and CPU seconds from the end of the first step, which warms up, to the end."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start after the first step."""
        if state.global_step == 1:
            self.began = time.perf_counter(), time.process_time()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop."""
        self.wall, self.cpu = time.perf_counter() - self.began[0], time.process_time() - self.began[1]


class Bench:
    """One set of pairs and one model for all."""

    def __init__(self, pairs: list[tuple[str, str]], steps: int, batch: int, folder: Path) -> None:
        self.pairs, self.steps, self.batch, self.folder = pairs, steps, batch, folder
        self.base = folder / "base"
        tokenizer = learn_tokenizer((text for pair in pairs for text in pair), 4096)
        prepare_tokenizer(tokenizer, TemplateSettings(), source="benchmark")
        shape: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4}
        heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": True}
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape, **heads, **ids)).save_pretrained(self.base)
        tokenizer.save_pretrained(self.base)
        self.tokenizer = tokenizer
        self.encoder = Encoder(tokenizer, MAX_TOKENS, "drop")
        encoded = [(pair, example) for pair, example in zip(pairs, self.encoder(pairs), strict=True)]
        self.usable = [(pair, example) for pair, example in encoded if not isinstance(example, str)]
        self.lengths = [len(example.input_ids) for _, example in self.usable]

    def fill(self, batch: int, capacity: int) -> tuple[float, tuple[float, float]]:
        """Over steps of `batch` pairs: packing fill as `Step` defines it, share of capacity, and the most of that."""
        tokens = slots = passes = fewest = 0
        for start in range(0, len(self.lengths) - batch + 1, batch):
            lengths = self.lengths[start : start + batch]
            sizes = [sum(lengths[index] for index in items) for items in even_bins(lengths, capacity)]
            tokens, slots = tokens + sum(sizes), slots + len(sizes) * max(sizes)
            passes, fewest = passes + len(sizes), fewest + -(-sum(sizes) // capacity)
        return tokens / slots, (tokens / passes / capacity, tokens / fewest / capacity)

    def ours(self, packing: bool) -> tuple[float, float]:
        """Tokens per wall and per CPU second."""
        from trainer.dataset import Steps, in_order
        from trainer.loop import StepTrainer
        from trainer.model import build_model, cost_of
        from trainer.train import training_arguments

        settings = TrainSettings(
            model=ModelSettings(kind="pretrained", path=str(self.base)),
            seed=1,
            batch_size=self.batch,
            packing=packing,
            max_tokens=MAX_TOKENS,
            precision="fp32",
            report_to=(),
        )
        import numpy as np

        used = self.usable[: self.steps * self.batch]
        rows = np.array(
            [(n, len(example.input_ids), example.trained_tokens) for n, (_, example) in enumerate(used)], dtype=np.int32
        )
        steps = Steps(
            Memory([pair for pair, _ in used]),  # type: ignore[arg-type]  # the database is another benchmark's
            rows,
            self.encoder,
            order=in_order,
            pairs=len(used),
            batch_size=self.batch,
            capacity=MAX_TOKENS if packing else None,
        )
        model = build_model(settings, self.tokenizer)
        clock = Clock()
        trainer = StepTrainer(
            steps,
            None,
            cost=cost_of(model),
            workers=0,
            model=model,
            args=training_arguments(settings, self.steps, self.folder / "ours"),
            processing_class=self.tokenizer,
            callbacks=[clock],
        )
        return self._timed(trainer, clock)

    def theirs(self, rows_in_a_pass: int) -> tuple[float, float]:
        """Tokens per wall and per CPU second."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import datasets
            import trl

        datasets.disable_progress_bars()
        used = self.usable[: self.steps * self.batch]
        rows = [
            {"prompt": prompt_of(self.tokenizer, [{"role": "user", "content": i}]), "completion": r.strip()}
            for (i, r), _ in used
        ]
        arguments: dict[str, Any] = {"optim": "adafactor", "learning_rate": 1e-5, "max_grad_norm": 0.0}
        config = trl.SFTConfig(
            output_dir=str(self.folder / "theirs"),
            max_steps=self.steps,
            per_device_train_batch_size=rows_in_a_pass,
            gradient_accumulation_steps=self.batch // rows_in_a_pass,
            train_sampling_strategy="sequential",
            completion_only_loss=True,
            max_length=MAX_TOKENS,
            bf16=False,
            gradient_checkpointing=False,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            seed=1,
            **arguments,
        )
        clock = Clock()
        trainer = trl.SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(self.base),
            args=config,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=self.tokenizer,
            callbacks=[clock],
        )
        return self._timed(trainer, clock)

    def _timed(self, trainer: Any, clock: Clock) -> tuple[float, float]:
        from transformers import PrinterCallback

        trainer.remove_callback(PrinterCallback)
        trainer.train()
        tokens = sum(self.lengths[self.batch : self.steps * self.batch])
        del trainer
        gc.collect()
        return tokens / clock.wall, tokens / clock.cpu


class Memory:
    """Pairs in memory, as TRL has them."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self.pairs = pairs

    def fetch(self, positions: list[int]) -> list[tuple[str, str]]:
        """Instruction and response at each position."""
        return [self.pairs[position] for position in positions]


def main() -> None:
    """Print the figures with their conditions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16, help="pairs in an optimizer step")
    parser.add_argument("--padded", type=int, default=8, help="pairs in a padded pass of TRL's")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one round of 3 steps of 8 pairs: under a minute")
    parser.add_argument("--db", default="", help="take the pairs from this database")
    parser.add_argument("--dataset", default="demo", help="snapshot in --db")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.steps, options.batch = 1, 3, 8
    if importlib.util.find_spec("trl") is None:
        parser.error("needs trl: pip install 'selfalign[dev]'")
    pairs = stored(options.db, options.dataset) if options.db else made_up(320 if options.quick else 2000)
    with tempfile.TemporaryDirectory() as folder, quiet_libraries():
        bench = Bench(pairs, options.steps, options.batch, Path(folder))
        lengths = sorted(bench.lengths)
        print(f"{len(lengths):,} pairs: {statistics.mean(lengths):.0f} tokens on average, longest {lengths[-1]}")
        for capacity in (MAX_TOKENS, 2048, 4096, 8192):
            fill, (used, most) = bench.fill(64, capacity)
            print(
                f"packing fill, steps of 64 pairs, pack_tokens = {capacity}: {fill:.1%}, of capacity {used:.1%}", end=""
            )
            print(f" where any packing of 64 pairs reaches {most:.1%} at most")
        ways: dict[str, Callable[[], tuple[float, float]]] = {
            "ours, packed": lambda: bench.ours(packing=True),
            "ours, a pair a pass": lambda: bench.ours(packing=False),
            f"TRL, {options.padded} pairs padded": lambda: bench.theirs(options.padded),
            "TRL, a pair a pass": lambda: bench.theirs(1),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, way in ways.items():
                found[name].append(way())
        medians = {
            name: [statistics.median(rate[i] for rate in rates) for i in (0, 1)] for name, rates in found.items()
        }
        for name, (wall, cpu) in medians.items():
            print(f"{name:<22} {wall:>8,.0f} tokens/s {cpu:>8,.0f} per CPU second")
        packed, single, padded, alone = medians.values()
        for what, ours, theirs in (
            ("ours packed / TRL padded", packed, padded),
            ("ours packed / TRL a pair a pass", packed, alone),
            ("ours / TRL, a pair a pass both", single, alone),
        ):
            print(f"{what:<32} {ours[0] / theirs[0]:>5.2f} by the clock, {ours[1] / theirs[1]:>5.2f} by CPU time")
    print(
        f"Llama of 4 layers x 256, vocabulary {len(bench.tokenizer):,}, fp32, Adafactor; "
        f"{torch.get_num_threads()} threads, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}; torch {torch.__version__}, {platform.machine()}"
    )


if __name__ == "__main__":
    main()
