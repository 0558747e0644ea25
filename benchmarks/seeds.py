"""Seeds at size: signatures per second, and what it costs to gather, filter and compare many functions.

    python benchmarks/seeds.py [--functions 100000] [--url postgresql://...]
    python benchmarks/seeds.py --quick          5,000 functions

Functions are those of this environment's permissively licensed packages. Where they are fewer than asked for they come
again with a number in each of their lines, which makes some of them near-duplicates: more work than real ones are.
Each size is measured in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from generator.minhash import Bands
from generator.pipeline import Pipeline, declare, gather_seeds
from generator.progress import Silent
from generator.recipe import ModelSettings, Recipe, SeedSettings
from generator.seeds import gather
from generator.status import seed_summary
from generator.store import open_database

THRESHOLD = 0.5


def real_functions() -> Iterator[str]:
    """Every function with a docstring of this environment's packages."""
    for record in gather(SeedSettings(source="packages")):
        yield record.code


def many(count: int) -> Iterator[str]:
    """So many different functions."""
    known: list[str] = []
    for code in itertools.islice(real_functions(), count):
        known.append(code)
        yield code
    for number in range(count - len(known)):
        code = known[number % len(known)]
        yield "\n".join(f"{line}  # {number} {number * 7}" if line[-1:] in "):" else line for line in code.split("\n"))


def signatures(count: int) -> None:
    """Print how many functions a second get their band keys."""
    codes = list(itertools.islice(real_functions(), count))
    bands = Bands.at(THRESHOLD)
    rates = []
    for _ in range(5):
        began_s = time.process_time()
        for code in codes:
            list(bands.keys(code, "benchmark"))
        rates.append(len(codes) / (time.process_time() - began_s))
    lengths = sorted(map(len, codes))
    print(
        f"MinHash: {max(rates):,.0f} functions/s of one core (worst of 5 rounds {min(rates):,.0f}); {len(codes):,} "
        f"functions, median {lengths[len(lengths) // 2]} characters, mean {sum(lengths) // len(lengths)}"
    )


def measure(path: Path, url: str) -> None:
    """Print what it costs to gather, filter and compare the functions of a file."""
    recipe = Recipe(
        name="benchmark",
        model=ModelSettings(name="none"),
        seeds=SeedSettings(source="jsonl", path=str(path), licence="MIT", near_duplicates=THRESHOLD),
    )
    pipeline = Pipeline(recipe)
    database = open_database(url, create=True)
    declare(database, pipeline)
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    found = gather_seeds(database, pipeline, Silent())
    wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{found:,} functions: {wall_s:.1f} s, {cpu_s:.1f} s of one core, {found / cpu_s:,.0f}/s, {peak_mib:.0f} MiB")
    summary = seed_summary(database, pipeline.name)
    for row in summary["rejections"]:
        print(f"    {row['filter']:<16} {row['rejected']:>8,}")
    print(f"    {'chosen':<16} {summary['chosen']:>8,}")
    database.close()


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--functions", type=int, default=100_000)
    parser.add_argument("--quick", action="store_true", help="5,000 functions")
    parser.add_argument("--url", default="", help="an empty database; default: a SQLite file")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.file:
        measure(options.file, options.url)
        return
    count = 5_000 if options.quick else options.functions
    signatures(2_000 if options.quick else 20_000)
    with tempfile.TemporaryDirectory() as folder:
        for size in (count // 10, count):
            file = Path(folder) / f"{size}.jsonl"
            with file.open("w", encoding="utf-8") as lines:
                lines.writelines(json.dumps({"content": code}) + "\n" for code in many(size))
            url = options.url if options.url and size == count else f"sqlite:///{folder}/{size}.db"
            command = [sys.executable, __file__, "--file", str(file), "--url", url]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
