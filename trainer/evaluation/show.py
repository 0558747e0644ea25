"""Stored evaluations as text: a table, each problem, the samples, a model index."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from trainer.evaluation.compare import Comparison, Stored
from trainer.evaluation.overlap import WORDS, OverlapReport

_DATASETS = {
    "humaneval": ("HumanEval", "openai_humaneval"),
    "humaneval+": ("HumanEval+", "evalplus/humanevalplus"),
    "mbpp": ("MBPP", "mbpp"),
    "mbpp+": ("MBPP+", "evalplus/mbppplus"),
    "cruxeval-i": ("CRUXEval-I", "cruxeval-org/cruxeval"),
    "cruxeval-o": ("CRUXEval-O", "cruxeval-org/cruxeval"),
    "ds-1000": ("DS-1000", "xlangai/DS-1000"),
    "livecodebench-generation": ("LiveCodeBench code generation", "livecodebench/code_generation_lite"),
    "livecodebench-repair": ("LiveCodeBench self repair", "livecodebench/code_generation_lite"),
    "livecodebench-tests": ("LiveCodeBench test output prediction", "livecodebench/test_generation"),
    "livecodebench-execution": ("LiveCodeBench code execution", "livecodebench/execution-v2"),
}


def rates_text(scores: Mapping[str, Any]) -> list[str]:
    """A line for each pass@k with its interval, those on the original benchmark's inputs first."""
    lines = []
    for label, part in (("base ", scores.get("base")), ("", scores)):
        if not part:
            continue
        for name in (name for name in part if name.startswith("pass@")):
            low, high = part.get("intervals", {}).get(name, (None, None))
            interval = f"   95 % interval {low:.1%} to {high:.1%}" if low is not None else ""
            lines.append(f"  {label + name:<14}{part[name]:>6.1%}{interval}")
    return lines


def problems_text(stored: Stored) -> str:
    """A line for each problem: right samples, verdicts, and what went wrong first."""
    samples = defaultdict(list)
    for sample in stored.samples:
        samples[sample.task_id].append(sample)
    width = max(map(len, samples), default=0)
    lines = [f"{stored.benchmark}: {stored.subject}", f"evaluation {stored.id}", ""]
    for task_id, drawn in samples.items():
        right = sum(sample.passed for sample in drawn)
        wrong = next((sample for sample in drawn if not sample.passed), None)
        why = f"  {wrong.verdict}: {reason(wrong.details)}" if wrong else ""
        lines.append(f"{task_id:<{width}}  {right}/{len(drawn)}{why}".rstrip(" :"))
    return "\n".join(lines)


def reason(details: Mapping[str, Any]) -> str:
    """What went wrong, in one line."""
    failure, error = details.get("first_failure"), details.get("error")
    if failure and "expected" in failure:
        text = f"{failure.get('arguments', '')} -> {failure['output']}, expected {failure['expected']}"
    elif failure:
        text = str(failure.get("assertion", ""))
    elif error:
        text = f"{error.get('type')}: {error.get('message', '')}"
    else:
        text = str(details.get("reason", ""))
    text = " ".join(text.split())
    return text if len(text) <= 140 else f"{text[:137]}..."


def samples_text(stored: Stored) -> str:
    """The samples as evalplus's JSONL."""
    return "\n".join(json.dumps({"task_id": sample.task_id, "solution": sample.code}) for sample in stored.samples)


def comparison_text(first: Stored, second: Stored, found: Comparison) -> str:
    """Both scores, the changes, and how likely they are by chance."""
    lines = [f"A  {first.id}  {first.benchmark}: {first.subject}", *rates_text(first.scores or {})]
    lines += [f"B  {second.id}  {second.benchmark}: {second.subject}", *rates_text(second.scores or {}), ""]
    for title, changes in (("better in B", found.gained), ("worse in B", found.lost)):
        lines.append(f"{title}: {len(changes)} of {found.problems} problems")
        lines += [f"  {change.task_id}  {change.first:.0%} -> {change.second:.0%}" for change in changes]
    verdict = "no more than chance explains" if found.p_value >= 0.05 else "more than chance explains"
    if found.unjudged:
        lines.append(f"left out: {found.unjudged} problems with samples that the separate judge could not judge")
    low, high = (f"{100 * end:+.1f}" for end in found.interval)
    lines.append(f"B - A: {100 * found.difference:+.1f} points of pass@1   95 % interval {low} to {high}")
    lines.append(f"exact test: p = {found.p_value:.3g}, {verdict} at 5 %")
    if found.differing:
        lines.append(f"not the same in both: {', '.join(found.differing)}")
    return "\n".join(lines)


def model_index(name: str, *found: tuple[str, Mapping[str, Any], Mapping[str, Any]]) -> str:
    """Scores as the `model-index` of a model card's front matter (YAML, in which JSON is valid).

    Args:
        name: the model's.
        found: of each finished evaluation the benchmark, the scores and the parameters.
    """
    lines = ["model-index:", f"- name: {json.dumps(name)}", "  results:"]
    for benchmark, scores, parameters in found:
        title, dataset = _DATASETS.get(benchmark, (benchmark, benchmark))
        revision = str(parameters.get("data_version") or "")
        metrics = [
            {"type": "pass@k", "name": rate, "value": round(float(scores[rate]), 4), "verified": False}
            for rate in scores
            if rate.startswith("pass@")
        ]
        lines.append(f"  - task: {json.dumps({'type': 'text-generation'})}")
        lines.append(f"    dataset: {json.dumps({'name': title, 'type': dataset, 'revision': revision})}")
        lines.append(f"    metrics: {json.dumps(metrics)}")
    return "\n".join(lines)


def overlap_text(report: OverlapReport, benchmark: str) -> str:
    """What a snapshot shares with a benchmark, the worst twenty in full."""
    pairs = len({shared.position for shared in report.shared})
    problems = len({shared.task_id for shared in report.shared})
    lines = [
        f"{report.dataset} against {benchmark}: {pairs} of {report.pairs} pairs share {WORDS} words in a row with "
        f"{problems} of {report.problems} problems"
    ]
    for shared in report.shared[:20]:
        lines.append(
            f"  position {shared.position}  {shared.task_id}  {shared.share:.0%} of the problem: {shared.example!r}"
        )
    if len(report.shared) > 20:
        lines.append(f"  and {len(report.shared) - 20} more; --json has them all")
    if report.short_problems:
        lines.append(f"  {report.short_problems} problems have fewer than {WORDS} words and cannot be found this way")
    return "\n".join(lines)
