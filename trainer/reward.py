"""A reward for reinforcement learning: 1 where a completion passes its tests in a sandbox, 0 where it does not.

    with sandbox_reward("127.0.0.1:50061") as reward:
        GRPOTrainer(model=..., reward_funcs=reward, train_dataset=...).train()   # a data set with a column `tests`

The signature is the one of TRL's reward functions; nothing of TRL, transformers or torch is imported. Trouble of the
sandbox is None: it must never teach a model that right programs are wrong. TRL leaves that out of the step since its
pull request 5902 (June 2026; 1.16 has it); before, it took a completion for 0 that no reward function gave a number.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from generator.codeblocks import python_blocks
from sandbox_server.blocking import BlockingSandbox
from sandbox_server.client import ClientConfig, connect_blocking
from sandbox_server.errors import InvalidJob, SandboxError, Unsupported
from sandbox_server.jobs import Job, Judge, LimitsRequest, Verdict

Completion = str | Sequence[Mapping[str, Any]]

_log = logging.getLogger(__name__)


class SandboxReward:
    """The function that `sandbox_reward` gives.

    Args:
        sandbox: where programs run.
        judge: SEPARATE keeps the tests where the program cannot reach them: models find what only looks right when they
            are rewarded for it.
        limits: of each run.
        in_flight: runs at once.
    """

    __name__ = "sandbox"  # what TRL calls it in its logs

    def __init__(
        self,
        sandbox: BlockingSandbox,
        *,
        judge: Judge = Judge.SEPARATE,
        limits: LimitsRequest | None = None,
        in_flight: int = 64,
    ) -> None:
        offered = sandbox.info().judges
        if judge not in offered:
            raise Unsupported(f"judge: {judge} is not offered by {sandbox.address}; it offers {', '.join(offered)}")
        self._sandbox = sandbox
        self._judge = judge
        self._limits = limits or LimitsRequest()
        self._in_flight = in_flight

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Completion], tests: Sequence[str], **columns: Any
    ) -> list[float | None]:
        """Reward completions.

        Args:
            prompts: not looked at.
            completions: texts, or lists of chat messages of which the last is the answer; the program is their Python
                blocks, or all of it where there is no block.
            tests: the data set's column: the tests of each.
            columns: the data set's other columns; not looked at.

        Returns:
            For each 1.0 where its tests passed, 0.0 where they did not (or the separate judge could not judge what the
            program answered), None where the sandbox had trouble.

        Raises:
            InvalidJob: the tests or limits are such that no completion could be rewarded.
        """
        rows = list(zip(completions, tests, strict=True))
        with ThreadPoolExecutor(self._in_flight, thread_name_prefix="reward") as pool:
            return list(pool.map(lambda row: self._reward(*row), rows))

    def _reward(self, completion: Completion, tests: str) -> float | None:
        if not tests.strip():
            raise InvalidJob("tests", "a row of the data set has none; nothing can be rewarded by them")
        code = program_of(completion)
        if not code.strip():
            return 0.0
        try:
            outcome = self._sandbox.run(Job(code=code, tests=tests, judge=self._judge, limits=self._limits))
        except InvalidJob as error:
            if error.field in ("code", "request"):  # too large, say: the completion's own
                return 0.0
            raise
        except Unsupported as error:
            _log.info("not judged, no reward: %s", error)
            return 0.0
        except SandboxError as error:
            _log.warning("no reward for a completion, neither good nor bad: %s", error)
            return None
        return float(outcome.verdict == Verdict.PASSED)


@contextlib.contextmanager
def sandbox_reward(
    address: str = "embedded",
    *,
    judge: Judge = Judge.SEPARATE,
    limits: LimitsRequest | None = None,
    config: ClientConfig | None = None,
    in_flight: int = 64,
) -> Iterator[SandboxReward]:
    """Reach a sandbox and reward with it as long as the block runs.

    Args:
        address: as for `sandbox_server.client.connect`.
        judge: see `SandboxReward`.
        limits: of each run; None takes the server's.
        config: how to call; how long to try again, above all.
        in_flight: runs at once.

    Raises:
        Unavailable: nothing serves there.
        Unsupported: the server does not offer this judge.
    """
    with connect_blocking(address, config) as sandbox:
        yield SandboxReward(sandbox, judge=judge, limits=limits, in_flight=in_flight)


def program_of(completion: Completion) -> str:
    """The program in a completion: its Python blocks, or all of it where there is none."""
    text = completion if isinstance(completion, str) else str(completion[-1]["content"]) if completion else ""
    blocks = python_blocks(text)
    return "\n\n".join(block.code for block in blocks) if blocks else text
