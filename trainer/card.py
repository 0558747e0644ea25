"""The model card: what the model was made from, how, and how well it does, read from the database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from generator import models
from trainer.evaluation.show import model_index

CARD_NAME = "README.md"


def write_card(session: Session, training_id: str, folder: Path) -> Path:
    """Write the card of a training into `folder`; again after an evaluation, it holds the scores.

    Args:
        session: a reading one.
        training_id: a row of `trainings`.
        folder: of the checkpoint.
    """
    path = folder / CARD_NAME
    partial = path.with_name(path.name + ".partial")
    partial.write_text(model_card(session, training_id), encoding="utf-8")
    partial.replace(path)
    return path


def model_card(session: Session, training_id: str) -> str:
    """The card's text, Markdown with the front matter that model hubs read."""
    training = session.get_one(models.Training, training_id)
    dataset = session.get_one(models.Dataset, training.dataset_id)
    parameters = session.get_one(models.Recipe, training.recipe_id).parameters
    settings = parameters["train"]
    start = settings["model"]
    base = start["path"] if start["kind"] == "pretrained" else ""
    metrics = training.metrics or {}
    name = Path(training.output).name
    library = "peft" if settings.get("lora") else "transformers"
    front = [f"library_name: {library}", "pipeline_tag: text-generation", "tags: [code, self-alignment, selfalign]"]
    if base:
        front.append(f"base_model: {json.dumps(base)}")
    evaluations = _evaluations(session, training_id)
    if evaluations:
        front.append(model_index(name, *evaluations))
    origin = f"`{base}`, fine-tuned" if base else "A small Llama-type model, trained from nothing"
    sections = [
        f"# {name}",
        f"{origin} on {dataset.size:,} pairs that a code model wrote and that passed their own tests in a sandbox. "
        "Made with selfalign.",
        _section("Use", _use(settings)),
        _section("Data", _data(session, dataset)),
        _section("Licences", _licences(session, dataset, base)),
        _section("Training", _training(metrics, settings)),
        _section("Scores", _scores(evaluations)),
        _section(
            "Limits",
            "Trained on single-turn tasks in Python, mostly; the tests that accepted the pairs were written by the "
            "model that wrote the answers. Check what it writes before you run it.",
        ),
    ]
    return "\n".join(["---", *front, "---", "", "\n\n".join(sections), ""])


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}"


def _use(settings: dict[str, Any]) -> str:
    template = "the tokenizer's chat template holds the prompt format"
    if settings["template"]["kind"] == "sections":
        template += "; an answer ends at the end-of-sequence token or at `###`"
    return (
        f'`selfalign respond FOLDER "Write a function that ..."`, or any program that loads it with transformers: '
        f"{template}. Answers are meant to be drawn greedily."
    )


def _data(session: Session, dataset: models.Dataset) -> str:
    """The funnel that leads to this snapshot, by its own rows and their parents."""
    item, response, instruction, concepts = (
        models.DatasetItem,
        models.Response,
        models.Instruction,
        models.Concepts,
    )
    chain = (
        sa.select(
            sa.func.count(sa.distinct(concepts.seed_id)),
            sa.func.count(sa.distinct(concepts.id)),
            sa.func.count(sa.distinct(instruction.id)),
            sa.func.count(sa.distinct(response.id)),
        )
        .select_from(item)
        .join(response, response.id == item.response_id)
        .join(instruction, instruction.id == response.instruction_id)
        .join(concepts, concepts.id == instruction.concepts_id)
        .where(item.dataset_id == dataset.id)
    )
    used = session.execute(chain).one()
    stored = [session.scalar(sa.select(sa.func.count()).select_from(model)) or 0 for model in _STAGES]
    rows = [
        f"| {name} | {count:,} | {kept:,} |"
        for name, count, kept in zip(("seeds", "concepts", "instructions", "responses"), stored, used, strict=True)
    ]
    verdicts = session.execute(
        sa.select(models.Execution.verdict, sa.func.count())
        .group_by(models.Execution.verdict)
        .order_by(sa.text("2 DESC"))
    ).all()
    lines = [
        f"Snapshot `{dataset.name}` version {dataset.version} (id `{dataset.id}`): {dataset.size:,} pairs.",
        "",
        "| stage | rows in the database | behind this snapshot |",
        "|---|---|---|",
        *rows,
    ]
    if verdicts:
        told = ", ".join(f"{count:,} {verdict}" for verdict, count in verdicts)
        lines += ["", f"Verdicts of the executed candidates: {told}."]
    return "\n".join(lines)


_STAGES: tuple[type[models.Base], ...] = (models.Seed, models.Concepts, models.Instruction, models.Response)


def _licences(session: Session, dataset: models.Dataset, base: str) -> str:
    item, response, instruction, concepts, seed = (
        models.DatasetItem,
        models.Response,
        models.Instruction,
        models.Concepts,
        models.Seed,
    )
    counted = session.execute(
        sa.select(seed.licence, sa.func.count())
        .select_from(item)
        .join(response, response.id == item.response_id)
        .join(instruction, instruction.id == response.instruction_id)
        .join(concepts, concepts.id == instruction.concepts_id)
        .join(seed, seed.id == concepts.seed_id)
        .where(item.dataset_id == dataset.id)
        .group_by(seed.licence)
        .order_by(sa.text("2 DESC"), seed.licence)
    ).all()
    writers = session.execute(
        sa.select(models.Recipe.parameters)
        .where(
            models.Recipe.id.in_(
                sa.select(response.recipe_id)
                .join(item, item.response_id == response.id)
                .where(item.dataset_id == dataset.id)
                .distinct()
            )
        )
        .order_by(models.Recipe.id)
    ).scalars()
    names = sorted({name for parameters in writers if (name := _writer(parameters))})
    lines = ["What the model's licence has to respect, from the first cause to the last:", ""]
    seeds = ", ".join(f"{licence or 'unknown'} ({count:,} pairs)" for licence, count in counted) or "none stored"
    lines.append(f"1. seed functions that the pairs were inspired by: {seeds};")
    lines.append(f"2. the model that wrote the pairs: {', '.join(f'`{name}`' for name in names) or 'not stored'};")
    lines.append(f"3. the model that was trained: {f'`{base}`' if base else 'none, the weights are new'}.")
    return "\n".join(lines)


def _writer(parameters: dict[str, Any]) -> str:
    model = parameters.get("model", "")
    return str(model.get("name", "")) if isinstance(model, dict) else str(model)


def _training(metrics: dict[str, Any], settings: dict[str, Any]) -> str:
    told = [
        ("optimizer steps", "steps", "{:,}"),
        ("first loss", "first_loss", "{:.4f}"),
        ("last loss", "last_loss", "{:.4f}"),
        ("held-out loss", "eval_loss", "{:.4f}"),
        ("tokens a second", "tokens_per_second", "{:,.0f}"),
    ]
    rows = [f"| {name} | {form.format(metrics[key])} |" for name, key, form in told if metrics.get(key) is not None]
    table = "\n".join(["| | |", "|---|---|", *rows])
    return f"{table}\n\n```json\n{json.dumps(settings, indent=2, ensure_ascii=False)}\n```"


def _evaluations(session: Session, training_id: str) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Benchmark, scores and parameters of each finished evaluation of this training."""
    query = (
        sa.select(models.Evaluation.benchmark, models.Evaluation.scores, models.Recipe.parameters)
        .join(models.Recipe, models.Recipe.id == models.Evaluation.recipe_id)
        .where(models.Evaluation.training_id == training_id, models.Evaluation.scores.is_not(None))
        .order_by(models.Evaluation.benchmark, models.Evaluation.id)
    )
    return [(benchmark, scores or {}, parameters) for benchmark, scores, parameters in session.execute(query)]


def _scores(evaluations: list[tuple[str, dict[str, Any], dict[str, Any]]]) -> str:
    if not evaluations:
        return "None yet; `selfalign eval` scores a checkpoint."
    rows = [f"| {benchmark} | {_score(scores)} |" for benchmark, scores, _ in evaluations]
    return "\n".join(["| benchmark | scores |", "|---|---|", *rows])


def _score(scores: dict[str, Any]) -> str:
    plain = {key: value for key, value in scores.items() if isinstance(value, int | float)}
    return ", ".join(f"{key} {value:.4g}" for key, value in plain.items())
