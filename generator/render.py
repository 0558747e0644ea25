"""Previews for people: what was asked, what was answered, what its tests said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markdown import Markdown
from rich.panel import Panel
from rich.rule import Rule
from rich.syntax import Syntax
from rich.text import Text

from sandbox_server.visible import visible_in

_EXAMPLE = "## Example"
_ROLE = "[user]\n"


def render(stories: list[dict[str, Any]], *, whole_prompts: bool = False, console: Console | None = None) -> None:
    """Print the stories that `generator.preview` tells.

    Args:
        stories: one for each seed.
        whole_prompts: with the worked examples, instead of only what was asked after them.
        console: where to; None is standard output.
    """
    console = console or Console()
    for number, story in enumerate(visible_in(stories), start=1):
        console.rule(Text(f"{number}/{len(stories)}  {story['name']}  ({story['origin']})", style="bold"))
        console.print(Panel(_python(story["code"]), title=f"seed {story['seed_id'][:12]}", title_align="left"))
        for stage in ("judge", "concepts", "instructions", "responses"):
            if stage in story:
                told = story[stage]
                asked = told["prompt"] if whole_prompts else _question(told["prompt"])
                console.print(Panel(Text(asked), title=f"{stage}: prompt", title_align="left", border_style="dim"))
                console.print(Panel(_answer(told), title=f"{stage} {told['id'][:12]}", title_align="left"))
                if pair := told.get("pair"):
                    parts = Group(Markdown(pair["instruction"]), Rule(style="dim"), Markdown(pair["response"]))
                    console.print(Panel(parts, title="trained on", title_align="left", border_style="green"))


def _answer(told: dict[str, Any]) -> RenderableType:
    parts: list[RenderableType] = [Markdown(told["text"])]
    if told["error"]:
        parts.append(Text(f"cannot be used: {told['error']}", style="bold red"))
    if told.get("worth") is False:
        parts.append(Text("not worth reading: nothing is made of this seed", style="bold red"))
    if execution := told.get("execution"):
        passed = execution["verdict"] == "PASSED"
        line = f"{execution['verdict']}  {execution['wall_time_ms']:.1f} ms"
        if execution["assertions_run"] is not None:
            line += f"  {execution['assertions_run']} assertions, {execution['assertions_failed']} failed"
        if execution["error_type"]:
            line += f"  {execution['error_type']}: {execution['error_message']}".rstrip(": ")
        parts.append(Text(line, style="bold green" if passed else "bold red"))
        parts += [Text(line) for line in _checks(told["checks"])]
    if told.get("kept") is False:
        parts.append(Text(f"rejected by {told['filter']}: {told['reason']}", style="bold red"))
    return Group(*parts)


def _checks(found: dict[str, Any]) -> Iterator[str]:
    if "stub_failed" in found:
        yield f"its tests {'fail' if found['stub_failed'] else 'pass'} on empty functions"
    if "mutants" in found:
        yield f"its tests notice {found['mutants_killed']} of {found['mutants']} faults"
    if "flaky" in found:
        yield "run again it ended otherwise" if found["flaky"] else "run again it ended alike"


def _question(prompt: str) -> str:
    """The last part of a prompt: what comes after the worked examples."""
    place = max(prompt.rfind(_EXAMPLE), prompt.rfind(_ROLE))
    return prompt[max(place, 0) :].strip()


def _python(code: str) -> Syntax:
    return Syntax(code.strip("\n"), "python", background_color="default", word_wrap=True)
