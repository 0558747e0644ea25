"""A small recipe over a folder of seeds, and a model that answers by rule."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

from generator.engines import Completion, CompletionRequest
from generator.prompts import stage_text

SEED = '''
def {name}(values):
    """Return the sum of all the given values plus {number}."""
    total = {number}
    for value in values:
        total += value
    return total
'''

RESPONSE = """#### Reasoning
Add {number}.

#### Implementation
```python
def add(value):
    return value + {number}
```

#### Explanation
It adds {number}.

#### Tests
```python
assert add(1) == 1 + {number}
```
"""

RECIPE = """
name = "small"

[database]
url = "{url}"

[seeds]
source = "folder"
path = "{folder}/seeds"
licence = "MIT"

[model]
name = "rule"
engine = "openai"
mode = "chat"
concurrency = 4

[concepts]
fewshots = 1

[instructions]
fewshots = 1

[responses]
fewshots = 1
samples = 3
"""


class RuleEngine:
    """A model that answers at once, always the same to the same request.

    Attributes:
        requests: all that reached it.
        before: called with each request; what it raises or waits for happens instead.
    """

    def __init__(self, before: Callable[[CompletionRequest], object] | None = None) -> None:
        self.requests: list[CompletionRequest] = []
        self.before = before
        self.closed = False

    async def complete(self, request: CompletionRequest) -> Completion:
        self.requests.append(request)
        if self.before is not None:
            self.before(request)
        await asyncio.sleep(0)
        return Completion(answer(request), "stop", 100, 20)

    async def close(self) -> None:
        self.closed = True


def stage_of(request: CompletionRequest) -> str:
    """The stage that a request is of, told by its system text."""
    system = request.prompt.messages[0].content
    return next(
        name for name in ("judge", "concepts", "instructions", "responses") if stage_text(name).system == system
    )


def answer(request: CompletionRequest) -> str:
    """A usable answer that depends on the request."""
    asked = request.prompt.messages[-1].content
    number = int(hashlib.sha256(f"{asked} {request.sampling.seed}".encode()).hexdigest()[:8], 16)
    match stage_of(request):
        case "judge":
            return "Yes: it is complete in itself."
        case "concepts":
            return f"iteration, sums, offset {number}"
        case "instructions":
            return f"Write a function `add` that returns its argument plus the number {number}."
    return RESPONSE.format(number=number)


def write_seeds(folder: Path, names: list[str]) -> None:
    """Write one file with one seed function for each name."""
    (folder / "seeds").mkdir(exist_ok=True)
    for name in names:
        number = int(hashlib.sha256(name.encode()).hexdigest()[:6], 16)
        (folder / "seeds" / f"{name}.py").write_text(SEED.format(name=name, number=number))
