"""How full the passes of training steps are, on the lengths of the completions that the repository carries.

    python benchmarks/packing_fill.py [--batch 64] [--steps 100]

Pairs are drawn from the recorded instructions and responses, with repetition, and their tokens are the recording
model's. Printed for each size of pass: the fill that the trainer reports (tokens of a step / its passes x the largest),
tokens / capacity of its passes, the most of that which any packing could reach (as many passes as the tokens need if
they could be cut anywhere), and what best fit decreasing makes of it. Arithmetic: the same on every machine.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
import statistics
import time
from pathlib import Path

from trainer.packing import best_fit_decreasing, even_bins

RECORDING = Path(__file__).resolve().parents[1] / "generator" / "recordings" / "qwen2.5-coder-1.5b-instruct.jsonl.xz"
TEMPLATE_TOKENS = 40  # of the sentence and the headings around a pair
LONGEST = 1280


def recorded() -> tuple[list[int], list[int]]:
    """Tokens of the recorded instructions and responses that ended by themselves."""
    with lzma.open(RECORDING, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][1:]
    whole = [row for row in rows if row["finish_reason"] == "stop"]
    responses = [row["completion_tokens"] for row in whole if row["text"].startswith("#### Reasoning")]
    # Concepts are the shorter ones of the rest.
    others = [row for row in whole if not row["text"].startswith("#### Reasoning") and len(row["text"]) > 120]
    return [row["completion_tokens"] for row in others], responses


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64, help="pairs in a step")
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    instructions, responses = recorded()
    rng = random.Random(0)
    lengths = [
        min(LONGEST, rng.choice(instructions) + rng.choice(responses) + TEMPLATE_TOKENS)
        for _ in range(options.batch * options.steps)
    ]
    print(
        f"{len(responses)} responses, {len(instructions)} instructions; pairs of {statistics.mean(lengths):.0f} tokens"
    )
    for capacity in (1280, 2048, 4096, 8192):
        tokens = slots = passes = fewest = fitted = 0
        began = time.process_time()
        for start in range(0, len(lengths), options.batch):
            step = lengths[start : start + options.batch]
            sizes = [sum(step[index] for index in items) for items in even_bins(step, capacity)]
            tokens, slots = tokens + sum(sizes), slots + len(sizes) * max(sizes)
            passes, fewest = passes + len(sizes), fewest + -(-sum(sizes) // capacity)
        spent = (time.process_time() - began) / options.steps
        for start in range(0, len(lengths), options.batch):
            fitted += len(best_fit_decreasing(lengths[start : start + options.batch], capacity))
        shares = (tokens / slots, *(tokens / count / capacity for count in (passes, fewest, fitted)))
        fill, used, most, plain = (f"{share:.1%}" for share in shares)
        print(
            f"pack_tokens = {capacity}: fill {fill}; of capacity {used}, at most {most}, best fit decreasing {plain}; "
            f"{1000 * spent:.1f} ms a step"
        )


if __name__ == "__main__":
    main()
