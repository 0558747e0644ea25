"""One fine-tuning run, from a recipe and a snapshot to a checkpoint, its card and its row in `trainings`."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import PartialState
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.integrations.integration_utils import MLflowCallback, get_reporting_integration_callbacks

from generator.keys import key_of
from generator.models import Dataset
from generator.recipe import Recipe
from generator.store import Database, add_training, find_dataset, finish_training, open_database
from sandbox_server.settings import SettingsError
from trainer.card import write_card
from trainer.chat import Encoder, prepare_tokenizer
from trainer.config import TrainSettings
from trainer.dataset import (
    DataUnfit,
    EpochOrder,
    PairSource,
    Share,
    Steps,
    Survey,
    in_order,
    load_survey,
    planned_pairs,
    survey,
)
from trainer.folder import FolderUnwritable, RunFolder, claim
from trainer.loop import EpochEnds, StepTrainer, quiet_libraries
from trainer.model import (
    ModelUnfit,
    add_lora,
    build_model,
    check_compiler,
    check_context,
    cost_of,
    count,
    first_line,
    learn_tokenizer,
    load_tokenizer,
)
from trainer.order import Permutation
from trainer.probe import choose_loss, is_out_of_memory, settle_attention
from trainer.progress import Bar, step_note

TOKENIZER_PAIRS = 20_000
"""A new tokenizer is learned from at most so many pairs."""

Say = Callable[[str], None]


WAIT = timedelta(hours=2)
"""How long processes wait for each other; the first one surveys, at thousands of pairs a second."""


class OutOfMemory(Exception):
    """Model or step did not fit into memory; the message says what to lower."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run left behind."""

    training_id: str
    output: Path
    metrics: dict[str, Any]
    trained_now: bool
    """False if the same run had finished before."""


def train(
    recipe: Recipe,
    settings: TrainSettings,
    *,
    url: str,
    dataset: str = "",
    output: Path | None = None,
    say: Say = lambda line: None,
) -> TrainResult:
    """Train on a snapshot, or go on with the same run where it stopped.

    Args:
        recipe: names the data set.
        settings: of the run.
        url: of the database.
        dataset: ``NAME`` or ``NAME@VERSION``; empty: the newest snapshot of the recipe's data set.
        output: folder; None: one under `runs/` named after recipe and run.
        say: told what happens, a line at a time.

    Raises:
        DatabaseError, UnknownDataset, DataUnfit: of the data.
        FolderTaken, FolderUnwritable: of the output folder.
        ModelUnfit, TokenizerUnfit: of the model.
        SettingsError: a tracker that is not known, or not installed.
        OutOfMemory, Diverged: of the run; its row says failed, the same call goes on from the last checkpoint.
    """
    main = _processes().is_main_process
    if not main:
        say = _silent
    check_trackers(settings.report_to)
    database = open_database(url)
    try:
        snapshot = _snapshot(database, recipe, dataset)
        parameters = {"dataset": f"{snapshot.name}@{snapshot.version}", "train": settings.causes()}
        key = key_of("training", snapshot.id, parameters["train"])
        path = output or Path("runs") / f"{recipe.name}-{key[:8]}"
        with PartialState().main_process_first():
            folder = claim(path, key, {"dataset_id": snapshot.id, **parameters})
        say(f"{snapshot.name} v{snapshot.version}: {snapshot.size:,} pairs; checkpoint in {path}")
        with folder.held() if main else nullcontext():
            done = folder.finished_metrics
            if main:
                with database.writing() as session:
                    add_training(session, id=key, dataset_id=snapshot.id, parameters=parameters, output=str(path))
                    if done is not None:
                        finish_training(session, key, status="finished", metrics=done)
            if done is not None:
                if main:
                    with database.reading() as session:
                        write_card(session, key, path)  # it may have been scored since
                say(f"trained before, nothing to do: {summary(done)}")
                return TrainResult(key, path, done, trained_now=False)
            with _recorded(database, key, main), _told_when_unwritable(path):
                source = PairSource(url, snapshot.id, snapshot.size)
                try:
                    metrics = _run(settings, source, folder, say)
                finally:
                    source.close()
            if main:
                with database.writing() as session:
                    finish_training(session, key, status="finished", metrics=metrics)
                with database.reading() as session:
                    write_card(session, key, path)
                folder.finish({"dataset_id": snapshot.id, **parameters}, metrics)
            say(f"{summary(metrics)}; model in {path}")
            return TrainResult(key, path, metrics, trained_now=True)
    finally:
        database.close()


def summary(metrics: dict[str, Any]) -> str:
    """A run in a line."""
    speed = f", {metrics['tokens_per_second']:,.0f} tokens/s" if metrics["tokens_per_second"] else ""
    held_out = f", held-out loss {metrics['eval_loss']:.4f}" if metrics["eval_loss"] is not None else ""
    return (
        f"{metrics['steps']:,} steps, loss {metrics['first_loss']:.4f} -> {metrics['last_loss']:.4f}{held_out}{speed}"
    )


def _processes() -> PartialState:
    """Meet the other processes that `accelerate launch` or torchrun started; accelerate must be told of a CPU."""
    if "WORLD_SIZE" not in os.environ:
        return PartialState()
    return PartialState(cpu=not torch.cuda.is_available(), timeout=WAIT)


def _is_sharded(device: torch.device) -> bool:
    """Whether accelerate will share the weights out (FSDP), which it decides later, and on a CPU never does."""
    return device.type != "cpu" and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def _silent(line: str) -> None:
    """What processes other than the first say."""


def _snapshot(database: Database, recipe: Recipe, wanted: str) -> Dataset:
    name, _, number = (wanted or recipe.dataset.name or recipe.name).partition("@")
    if number and not number.removeprefix("v").isdigit():
        raise DataUnfit(f"data set {wanted!r}: expected NAME or NAME@VERSION with a number, e.g. {name}@2")
    with database.reading() as session:
        found = find_dataset(session, name, int(number.removeprefix("v")) if number else None)
    if found.size == 0:
        raise DataUnfit(
            f"data set {found.name} v{found.version} is empty: no candidate was accepted; `selfalign status` says why"
        )
    return found


@contextmanager
def _recorded(database: Database, key: str, main: bool) -> Iterator[None]:
    """Write down a run that fails, whyever."""
    try:
        yield
    except BaseException as error:
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__
        if main:
            with database.writing() as session:
                finish_training(session, key, status="failed", metrics={"error": reason})
        raise


def _run(settings: TrainSettings, source: PairSource, folder: RunFolder, say: Say) -> dict[str, Any]:
    state = PartialState()
    seed = settings.seed or 0
    if settings.compile:
        check_compiler()
    if state.num_processes == 1 and torch.cuda.device_count() > 1:
        say(f"one of {torch.cuda.device_count()} GPUs is used; `accelerate launch -m selfalign train ...` uses all")
    with state.main_process_first():
        tokenizer = _tokenizer(settings, source, folder)
        encoder = Encoder(tokenizer, settings.max_tokens, settings.overlong)
        found = _survey(settings, source, encoder, folder, say)
    set_seed(seed)
    with quiet_libraries(), _told_when_full(lambda: out_of_memory_advice(settings)):
        model: Any = build_model(settings, tokenizer)
        if not _is_sharded(state.device) and not getattr(model, "is_quantized", False):
            model = model.to(state.device)  # the probes run with the kernels that training will take
        if note := check_context(model, found.longest):
            say(note)
        settle_attention(model, settings)
        cost = cost_of(model, frozen=settings.lora is not None)
        cross_entropy = choose_loss(model, settings)
        parameters = sum(count(parameter) for parameter in model.parameters())
        if settings.lora is not None:
            model = add_lora(model, settings)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    attention = str(model.config._attn_implementation).removeprefix("selfalign_")
    told = f"{settings.precision}, {attention} attention, {cross_entropy} cross-entropy"
    say(f"{type(model).__name__}: {parameters:,} parameters, {trained:,} trained, {told}")

    rows = len(found.train)
    share = Share(state.process_index, state.num_processes)
    capacity = settings.capacity if settings.packing else None
    common: dict[str, Any] = {"batch_size": settings.batch_size, "capacity": capacity, "share": share}
    pairs = planned_pairs(rows, settings.epochs, settings.max_steps, settings.batch_size)
    steps = Steps(source, found.train, encoder, order=EpochOrder(rows, seed), pairs=pairs, **common)
    evaluation = None
    if len(found.evaluation):
        evaluation = Steps(source, found.evaluation, encoder, order=in_order, pairs=len(found.evaluation), **common)
    checkpoint = folder.last_checkpoint()
    if checkpoint is not None:
        say(f"going on from {checkpoint.name}")
    with quiet_libraries():
        trainer = StepTrainer(
            steps,
            evaluation,
            cost=cost,
            workers=int(state.device.type == "cuda") if settings.workers is None else settings.workers,
            model=model,
            args=training_arguments(settings, len(steps), folder.path),
            processing_class=tokenizer,
            callbacks=[
                EpochEnds(
                    rows=rows,
                    batch_size=settings.batch_size,
                    save_steps=settings.save_steps,
                    evaluates=evaluation is not None,
                )
            ],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        if state.is_main_process:
            trainer.add_callback(_Watch(len(steps)))
        if trainer.is_fsdp_enabled and settings.optimizer == "adafactor":
            raise ModelUnfit(
                '[train] optimizer = "adafactor" needs whole matrices, and FSDP cuts them up: set optimizer = "adamw"'
            )
        sharded = checkpoint is not None and any(checkpoint.glob("pytorch_model_fsdp*"))
        if checkpoint is not None and sharded != trainer.is_fsdp_enabled:
            raise ModelUnfit(
                f"{checkpoint} was written {'with' if sharded else 'without'} FSDP; go on as the run was begun, or "
                "give another --output"
            )
        with _told_when_full(lambda: out_of_memory_advice(settings, trainer.state.global_step)):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if trainer.is_fsdp_enabled:  # whatever its checkpoints are, the model is for everyone to load
            trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        trainer.save_model(str(folder.path))
        trainer.save_state()
    return {
        **_losses(trainer),
        "steps": trainer.state.global_step,
        "pairs": pairs,
        "tokens": trainer.tokens,
        "seconds": round(trainer.seconds, 3),
        "tokens_per_second": round(trainer.tokens / trainer.seconds, 1) if trainer.seconds else None,
        "packing_fill": round(trainer.tokens / trainer.slots, 4) if trainer.slots else None,
        "parameters": parameters,
        "trained_parameters": trained,
        "data": found.counts(),
        "environment": environment(settings, trainer)
        | {"attention": model.config._attn_implementation, "cross_entropy": cross_entropy},
    }


def _tokenizer(settings: TrainSettings, source: PairSource, folder: RunFolder) -> PreTrainedTokenizerBase:
    """The run's tokenizer; made or loaded once, then kept with the run."""
    kept = folder.state / "tokenizer"
    if not kept.exists():
        if settings.model.kind == "new":
            where = "the new tokenizer"
            tokenizer = learn_tokenizer(_texts(source, settings), settings.model.vocabulary)
        else:
            where = settings.model.path
            tokenizer = load_tokenizer(where, settings.model.revision)
        prepare_tokenizer(tokenizer, settings.template, source=where)
        partial = kept.with_name("tokenizer.partial")
        tokenizer.save_pretrained(partial)
        partial.replace(kept)
    return load_tokenizer(str(kept))


def _texts(source: PairSource, settings: TrainSettings) -> Iterator[str]:
    """Texts of up to `TOKENIZER_PAIRS` pairs, drawn at random, and of the template around them."""
    yield settings.template.system
    positions = Permutation(source.size, settings.seed or 0)(np.arange(min(source.size, TOKENIZER_PAIRS)))
    for start in range(0, len(positions), 500):
        for pair in source.fetch(positions[start : start + 500].tolist()):
            yield from pair


def _survey(settings: TrainSettings, source: PairSource, encoder: Encoder, folder: RunFolder, say: Say) -> Survey:
    if (folder.state / "survey.json").exists():
        return load_survey(folder.state)
    with Bar("reading pairs", source.size) as bar:
        found = survey(source, encoder, settings.evaluation_fraction, folder.state, bar.show)
    counts = found.counts()
    say(
        f"{counts['train_rows']:,} pairs to train on, {counts['evaluation_rows']:,} held out, "
        f"{counts['tokens_per_epoch']:,} tokens an epoch"
    )
    if found.truncated:
        say(f"{found.truncated:,} responses cut to max_tokens = {settings.max_tokens}")
    for line in found.refusals():
        say(f"left out: {line}")
    return found


def training_arguments(settings: TrainSettings, steps: int, output: Path) -> TrainingArguments:
    """Our settings in transformers' words. What our own layer does (accumulation, epochs, saving) is switched off.

    The recipe decides the precision, and not accelerate's configuration. Quantised models compute in bf16 beside norms
    and adapters in fp32, as QLoRA does.
    """
    checkpointing = (
        "activation_checkpointing"
        if hasattr(TrainingArguments, "activation_checkpointing")  # its name since transformers 5.2x
        else "gradient_checkpointing"
    )
    optional: dict[str, Any] = {checkpointing: True} if settings.gradient_checkpointing else {}
    quantised = settings.lora is not None and settings.lora.base_bits != 16
    gpu = PartialState().device.type == "cuda"
    mixed = settings.precision == "bf16-mixed" or (settings.precision == "bf16" and quantised)
    arguments = TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=1,
        num_train_epochs=1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        warmup_steps=min(math.ceil(settings.warmup * steps), steps - 1),  # whose rate is 0 in the first step
        optim="adafactor" if settings.optimizer == "adafactor" else "adamw_torch_fused" if gpu else "adamw_torch",
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=mixed,
        seed=settings.seed or 0,
        torch_compile=settings.compile,
        use_liger_kernel=settings.cross_entropy == "liger",
        logging_strategy="steps",
        logging_steps=settings.log_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="no",
        save_total_limit=settings.keep_checkpoints or None,
        use_cpu=PartialState().device.type == "cpu",
        report_to=trackers(settings.report_to),
        disable_tqdm=True,
        log_level="error",
        ddp_find_unused_parameters=False,
        **optional,
    )
    arguments.mixed_precision = "bf16" if mixed else "no"
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process, one GPU: nn.DataParallel would cut our one row's tensors
    return arguments


def trackers(names: tuple[str, ...]) -> list[str]:
    """Names for `report_to`, "auto" resolved."""
    found = ["tensorboard"] if find_spec("tensorboard") or find_spec("tensorboardX") else []
    return [name for given in names for name in (found if given == "auto" else [given])]


def check_trackers(names: tuple[str, ...]) -> None:
    """Make sure that whoever is reported to can be.

    Raises:
        SettingsError: says which are known, or what must be installed.
    """
    MLflowCallback._auto_end_run = False  # looked at when one that could not be made is thrown away
    try:
        for callback in get_reporting_integration_callbacks(trackers(names)):
            callback()
    except (ValueError, RuntimeError, ImportError) as error:
        raise SettingsError(f"[train] report_to: {first_line(error)}") from None


@contextmanager
def _told_when_full(advice: Callable[[], str]) -> Iterator[None]:
    """Turn what PyTorch, CUDA and its libraries raise when memory runs out into `OutOfMemory`."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise OutOfMemory(advice()) from None
        raise


@contextmanager
def _told_when_unwritable(path: Path) -> Iterator[None]:
    """Turn what the system, safetensors and PyTorch raise when a file cannot be written into `FolderUnwritable`."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = first_line(error)
        if isinstance(error, OSError):
            unwritable = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)
            reason = error.strerror or reason
        else:
            unwritable = any(sign in reason for sign in ("I/O error", "inline_container", "PytorchStreamWriter"))
        if not unwritable:
            raise
        free_mib = shutil.disk_usage(path).free / 2**20
        raise FolderUnwritable(
            f"{path} cannot be written: {reason} ({free_mib:,.0f} MiB are free there); make room, or set [train] "
            "keep_checkpoints = 1: the same command goes on from the last whole checkpoint"
        ) from error


def out_of_memory_advice(settings: TrainSettings, step: int | None = None) -> str:
    """What to lower, the cheapest first.

    Args:
        settings: of the run.
        step: how many are done; None: the model itself did not fit.
    """
    if step is None:
        advice = [] if settings.precision == "bf16" else ['precision = "bf16"']
        if settings.model.kind == "pretrained" and (settings.lora is None or settings.lora.base_bits > 4):
            advice.append("lora = { base_bits = 4 }")
        advice.append("a smaller model, or share it out over GPUs (accelerate launch with FSDP)")
        return f"out of memory while the model was loaded; in [train] try, in this order: {'; '.join(advice)}"
    advice = []
    if settings.packing and settings.capacity > settings.max_tokens:
        advice.append(f"pack_tokens = {settings.max_tokens}")
    if settings.cross_entropy == "plain":
        advice.append('cross_entropy = "chunked"')
    if not settings.gradient_checkpointing:
        advice.append("gradient_checkpointing = true")
    if settings.precision != "bf16":
        advice.append('precision = "bf16"')
    if settings.optimizer != "adafactor":
        advice.append('optimizer = "adafactor"')
    if settings.lora is None:
        advice.append("lora = { rank = 16 }")
    elif settings.lora.base_bits == 16:
        advice.append("lora base_bits = 4")
    advice.append(f"max_tokens below {settings.max_tokens}")
    return f"out of memory in step {step + 1}; in [train] try, in this order: {'; '.join(advice)}"


def environment(settings: TrainSettings, trainer: Trainer) -> dict[str, Any]:
    """Where and with what a run was carried out; it explains last digits, not results."""
    names = [f.name for f in dataclasses.fields(settings) if f.metadata.get("operational")]
    values = dataclasses.asdict(settings)
    cuda = trainer.args.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else f"cpu, {torch.get_num_threads()} threads",
        "processes": trainer.args.world_size,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "accelerate")},
        **{name: list(value) if isinstance(value := values[name], tuple) else value for name in names},
    }


def _losses(trainer: Trainer) -> dict[str, Any]:
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    held_out = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    return {
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "eval_loss": held_out[-1] if held_out else None,
    }


class _Watch(TrainerCallback):
    """Shows the run."""

    def __init__(self, steps: int) -> None:
        self._bar = Bar("step", steps)
        self._held_out: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar."""
        self._bar.__enter__()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Move it."""
        if "eval_loss" in logs:
            self._held_out = {"eval_loss": logs["eval_loss"]}
        if "loss" in logs:
            self._bar.show(state.global_step, step_note({**logs, **self._held_out}))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close it."""
        self._bar.__exit__(None, None, None)
