"""The card of an exported data set: what it is, where it comes from, and the recipe that makes it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from generator.models import (
    Concepts,
    Dataset,
    DatasetItem,
    Execution,
    Instruction,
    Judgement,
    Opinion,
    Recipe,
    Response,
    Seed,
)
from generator.toml import dumps

_YAML_TYPES = {"string": "dtype: string", "int64": "dtype: int64", "list<string>": "sequence: string"}
_STAGES = ("concepts", "instructions", "responses", "executions")
_MOST_ORIGINS = 50


def dataset_card(
    session: Session,
    dataset: Dataset,
    fields: Mapping[str, str],
    *,
    items: int,
    what: str,
    size_bytes: int,
    download_bytes: int,
) -> str:
    """Write the card of a folder with the snapshot's Parquet files, in Markdown with front matter that hubs read.

    Args:
        session: a reading one.
        dataset: the snapshot.
        fields: name and Arrow type of each column.
        items: how many rows the files have.
        what: what a row is called.
        size_bytes: of the rows in memory.
        download_bytes: of the files.
    """
    selection = session.get_one(Recipe, dataset.recipe_id).parameters
    licences = _licences(session, dataset)
    spdx = sorted({licence for licence, _, _ in licences})
    front = [
        # Hubs know licences by their SPDX names in lower case, and no expressions.
        *("license:", *(f"- {name}" for name in sorted({_hub_licence(licence) for licence in spdx}))),
        *("task_categories:", "- text-generation", "tags:", "- code", "- self-alignment", "- selfalign"),
        f"pretty_name: {json.dumps(dataset.name)}",
        *("configs:", "- config_name: default", "  data_files:", "  - split: train", "    path: data/*.parquet"),
        *("dataset_info:", "  features:"),
        *(line for name, kind in fields.items() for line in (f"  - name: {name}", f"    {_YAML_TYPES[kind]}")),
        *("  splits:", "  - name: train", f"    num_bytes: {size_bytes}", f"    num_examples: {items}"),
        *(f"  download_size: {download_bytes}", f"  dataset_size: {size_bytes}"),
    ]
    parts = [
        f"# {dataset.name}",
        f"{items:,} {what} of snapshot `{dataset.name}` version {dataset.version}. A code model wrote instructions out "
        "of openly licensed functions, answered them, and wrote tests for its own answers; the answers that a sandbox "
        "saw pass them became pairs. Made with selfalign.",
        _table(
            ("", ""),
            [
                ("snapshot", f"`{dataset.id}`"),
                ("parent", f"`{dataset.parent_id}`" if dataset.parent_id else "none: it is the first"),
                ("pairs", f"{dataset.size:,}"),
                ("frozen at", f"{dataset.created_at:%Y-%m-%d %H:%M:%S} UTC"),
                ("model", _model(session, selection)),
            ],
        ),
        "## How many came through\n\n" + _funnel(session, dataset, selection),
        "## Licences of the functions that the pairs grew out of\n\n"
        + _table(("licence", "origin", "pairs"), [(spdx, origin, f"{count:,}") for spdx, origin, count in licences]),
        "## Limits\n\nThe tests were written by the model that wrote the answers: they show that an answer does what "
        "its author tested, not that it is right. Instructions and answers are in English, programs in Python.",
        "## Made again\n\n" + _recipe(session, dataset, selection),
    ]
    return "\n".join(["---", *front, "---", "", "\n\n".join(parts), ""])


def _hub_licence(spdx: str) -> str:
    if spdx == "LicenseRef-BSD":
        return "bsd"
    return "other" if " " in spdx or not spdx or spdx.startswith("LicenseRef-") else spdx.lower()


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _model(session: Session, selection: Mapping[str, Any]) -> str:
    names = {session.get_one(Recipe, selection[stage]).parameters["model"] for stage in _STAGES[:-1]}
    return ", ".join(f"`{name}`" for name in sorted(names))


def _funnel(session: Session, dataset: Dataset, selection: Mapping[str, Any]) -> str:
    """By the recipes that the selection names: all that was made under them."""
    tables: tuple[tuple[str, Any], ...] = (
        *([("judge", Opinion)] if "judge" in selection else []),
        ("concepts", Concepts),
        ("instructions", Instruction),
        ("responses", Response),
    )
    rows: list[tuple[str, str, str]] = []
    for stage, table in tables:
        mine = table.recipe_id == selection[stage]
        usable = Opinion.worth.is_(True) if table is Opinion else table.error.is_(None)
        drawn, read = session.execute(sa.select(sa.func.count(), sa.func.count(sa.case((usable, 1)))).where(mine)).one()
        rows.append((stage, f"{drawn:,}", f"{read:,}"))
    # Samples that are run with each other's tests run under the same recipe, and are no answers.
    programs = sa.select(Response.program_key).where(Response.recipe_id == selection["responses"])
    verdicts = session.execute(
        sa.select(Execution.verdict, sa.func.count())
        .where(Execution.recipe_id == selection["executions"], Execution.program_key.in_(programs))
        .group_by(Execution.verdict)
        .order_by(sa.func.count().desc(), Execution.verdict)
    ).all()
    ended = {row[0]: row[1] for row in verdicts}
    rows.append(("programs run", f"{sum(ended.values()):,}", f"{ended.get('PASSED', 0):,}"))
    rows.append(("pairs chosen", "", f"{dataset.size:,}"))
    rejected = session.execute(
        sa.select(Judgement.filter, sa.func.count())
        .where(
            Judgement.recipe_id == dataset.recipe_id, Judgement.subject_table == "responses", Judgement.kept.is_(False)
        )
        .group_by(Judgement.filter)
        .order_by(sa.func.count().desc(), Judgement.filter)
    ).all()
    told = [_table(("stage", "made", "usable"), rows)]
    if ended:
        told.append("Verdicts: " + ", ".join(f"{count:,} {verdict}" for verdict, count in ended.items()) + ".")
    if rejected:
        told.append("Rejected by: " + ", ".join(f"{name} {count:,}" for name, count in rejected) + ".")
    return "\n\n".join(told)


def _licences(session: Session, dataset: Dataset) -> list[tuple[str, str, int]]:
    found = session.execute(
        sa.select(Seed.licence, Seed.origin, sa.func.count())
        .select_from(DatasetItem)
        .join(Response, Response.id == DatasetItem.response_id)
        .join(Instruction, Instruction.id == Response.instruction_id)
        .join(Concepts, Concepts.id == Instruction.concepts_id)
        .join(Seed, Seed.id == Concepts.seed_id)
        .where(DatasetItem.dataset_id == dataset.id)
        .group_by(Seed.licence, Seed.origin)
        .order_by(sa.func.count().desc(), Seed.licence, Seed.origin)
    ).all()
    listed = [(licence, origin, count) for licence, origin, count in found]
    most, rest = listed[:_MOST_ORIGINS], listed[_MOST_ORIGINS:]
    others: dict[str, list[int]] = {}
    for licence, _, count in rest:
        others.setdefault(licence, []).append(count)
    return most + [(licence, f"{len(counts)} others", sum(counts)) for licence, counts in others.items()]


def _recipe(session: Session, dataset: Dataset, selection: Mapping[str, Any]) -> str:
    """The whole recipe, or what is known of every stage where the snapshot is of the time before recipes were kept."""
    if dataset.settings is None:
        stages = {stage: session.get_one(Recipe, selection[stage]).parameters for stage in _STAGES}
        known = json.dumps(stages | {"selection": dict(selection)}, indent=1, ensure_ascii=False)
        return (
            "This snapshot was frozen by a version that kept no recipes. What every stage was made with:\n\n"
            f"```json\n{known}\n```"
        )
    return (
        "The recipe makes the same rows under the same keys, given the same seeds; it is read out of this file:\n\n"
        "    selfalign build --recipe README.md --db sqlite:///again.db\n\n"
        f"```toml\n{dumps(dataset.settings)}```"
    )
