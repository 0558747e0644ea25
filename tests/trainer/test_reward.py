"""Rewards, from real sandboxes and in a real step of GRPO."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from sandbox_server.blocking import BlockingSandbox
from sandbox_server.client import ClientConfig
from sandbox_server.errors import Broken, InvalidJob, Overloaded, Unavailable, Unsupported
from sandbox_server.jobs import Job, Judge, LimitsRequest, Outcome, Verdict
from tests.fakes import INFO
from trainer.reward import SandboxReward, program_of, sandbox_reward

RIGHT = "```python\ndef double(x):\n    return 2 * x\n```"
TESTS = "assert double(2) == 4\nassert double(-1) == -2"


class Answers:
    """A sandbox whose answers are set; what TRL must never see are its troubles."""

    address = "fake"

    def __init__(self, answer: Outcome | Exception) -> None:
        self.answer = answer
        self.jobs: list[Job] = []

    def info(self) -> Any:
        return INFO

    def run(self, job: Job) -> Outcome:
        self.jobs.append(job)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def reward_of(answer: Outcome | Exception) -> float | None:
    sandbox = cast(BlockingSandbox, Answers(answer))
    return SandboxReward(sandbox, judge=Judge.SAME_INTERPRETER)([""], [RIGHT], [TESTS])[0]


def test_a_program_is_the_python_blocks_or_the_whole_text() -> None:
    assert program_of("x = 1") == "x = 1"
    assert program_of("Text\n```python\na = 1\n```\n```sh\nls\n```\n```py\nb = 2\n```") == "a = 1\n\nb = 2"
    assert program_of([{"role": "assistant", "content": "```python\nc = 3\n```"}]) == "c = 3"
    assert program_of([]) == ""


@pytest.mark.parametrize("trouble", [Overloaded("full"), Unavailable("away"), Broken("bug")])
def test_trouble_of_the_sandbox_is_none_and_never_zero(trouble: Exception) -> None:
    assert reward_of(trouble) is None


def test_only_passed_is_rewarded() -> None:
    rewards = {verdict: reward_of(Outcome(verdict)) for verdict in Verdict}

    assert rewards.pop(Verdict.PASSED) == 1.0
    assert set(rewards.values()) == {0.0}


def test_what_is_the_completions_own_fault_earns_nothing() -> None:
    assert reward_of(Unsupported("judge: SEPARATE cannot judge these tests: a dict's subclass")) == 0.0
    assert reward_of(InvalidJob("code", "too large")) == 0.0


def test_what_is_wrong_for_every_completion_is_raised() -> None:
    with pytest.raises(InvalidJob):
        reward_of(InvalidJob("limits.wall_time_ms", "above the maximum"))
    with pytest.raises(InvalidJob, match="tests"):
        SandboxReward(cast(BlockingSandbox, Answers(Broken("x"))), judge=Judge.SAME_INTERPRETER)([""], [RIGHT], [" "])
    with pytest.raises(Unsupported, match="not offered"):
        SandboxReward(cast(BlockingSandbox, Answers(Broken("x"))), judge=Judge.SEPARATE)


@pytest.fixture(scope="module")
def reward() -> Iterator[SandboxReward]:
    limits = LimitsRequest(wall_time_ms=3000)
    with sandbox_reward(limits=limits, config=ClientConfig(retry_for_s=60)) as reward:
        yield reward


@pytest.mark.nsjail
def test_real_programs_are_rewarded_for_what_they_do(reward: SandboxReward) -> None:
    forged = "class Yes:\n    def __eq__(self, other): return True\ndef double(x): return Yes()"
    completions = [RIGHT, "def double(x): return x", "import sys; sys.exit(0)", "def (", "", forged, "no code at all"]

    rewards = reward([""] * 7, completions, [TESTS] * 7, other=[1] * 7)

    assert rewards == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.nsjail
@pytest.mark.train
@pytest.mark.filterwarnings("ignore")  # TRL's and transformers' of each other
def test_grpo_takes_a_step_with_it(reward: SandboxReward, tmp_path: Path) -> None:
    """A tiny new model's texts pass no test: the mean reward is 0, and the loss is a number."""
    datasets = pytest.importorskip("datasets")
    trl = pytest.importorskip("trl")
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1, **{chr(code): number for number, code in enumerate(range(32, 127), 2)}}
    plain = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    plain.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    rows = datasets.Dataset.from_dict({"prompt": ["Double."] * 4, "tests": [TESTS] * 4})
    settings = trl.GRPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=8,
        max_steps=1,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = trl.GRPOTrainer(
        model=LlamaForCausalLM(config),
        reward_funcs=reward,
        args=settings,
        train_dataset=rows,
        processing_class=tokenizer,
    )

    trainer.train()

    logged = trainer.state.log_history[0]
    assert logged["rewards/sandbox/mean"] == 0.0
    assert logged["loss"] == logged["loss"]
