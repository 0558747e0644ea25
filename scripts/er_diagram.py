"""Draw the tables into docs/sql.md, between the two marks; run after changing generator/models.py. A test compares.

python scripts/er_diagram.py
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Column, Table

from generator.models import Base

DOCUMENT = Path(__file__).parents[1] / "docs" / "sql.md"
BEGIN, END = "<!-- tables: drawn by scripts/er_diagram.py -->", "<!-- end of tables -->"


def diagram() -> str:
    """Every table with its columns and foreign keys, in Mermaid's words."""
    lines = ["```mermaid", "erDiagram"]
    tables = sorted(Base.metadata.tables.values(), key=lambda table: table.name)
    for table in tables:
        for key in sorted(table.foreign_keys, key=lambda key: key.parent.name):
            lines.append(f"    {key.column.table.name} ||--o{{ {table.name} : {key.parent.name}")
    for table in tables:
        lines += [f"    {table.name} {{", *(f"        {_column(table, column)}" for column in table.columns), "    }"]
    return "\n".join([*lines, "```"])


def renewed(document: str) -> str:
    """The document with the diagram of now."""
    before, rest = document.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{diagram()}\n{END}{after}"


def _column(table: Table, column: Column[object]) -> str:
    marks = [mark for mark, holds in (("PK", column.primary_key), ("FK", bool(column.foreign_keys))) if holds]
    kind = type(column.type).__name__.lower()
    return f"{kind} {column.name} {', '.join(marks)}".rstrip()


if __name__ == "__main__":
    DOCUMENT.write_text(renewed(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
