"""The model and the tokenizer that a run starts from."""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils.import_utils import is_flash_attn_2_available

from generator import hub
from trainer import attention
from trainer.config import ModelSettings, TrainSettings
from trainer.flops import ModelCost
from trainer.folder import RUN_FILE

_EXPERTS_A_TOKEN = ("num_experts_per_tok", "top_k_experts", "moe_k", "moe_topk", "moe_top_k")
"""What configurations call the number of experts that a token is sent to."""

BOS, EOS, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"


class ModelUnfit(Exception):
    """A model or tokenizer cannot be loaded or used as asked; the message is one line."""


def learn_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerBase:
    """Learn a byte-level BPE: any text has tokens, and decoding gives it back byte for byte.

    Args:
        texts: to count pairs of tokens in.
        vocabulary: number of tokens, 256 bytes and 3 special ones included; the result may be smaller.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    learner = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, learner)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD)


def load_tokenizer(path: str, revision: str = "") -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder or the hub.

    Raises:
        ModelUnfit: says which of the two was tried, and what went wrong.
    """
    if _is_missing_folder(path):  # nobody means the hub's runs/demo-1a2b3c4d, where it is asked for minutes if need be
        raise ModelUnfit(f"cannot load the tokenizer: no folder {path}")
    if why := hub.unreachable(path):
        raise ModelUnfit(f"cannot load {path}, which is no folder here: {why}")
    try:
        loaded = AutoTokenizer.from_pretrained(path, revision=revision or None)
    except Exception as error:  # the loaders raise whatever their file formats' libraries do
        raise ModelUnfit(load_failure("tokenizer", path, error)) from error
    return cast("PreTrainedTokenizerBase", loaded)


def build_model(settings: TrainSettings, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Build or load the model, with dropout, precision, attention and adapters as set.

    A new model's weights are drawn from PyTorch's generator: seed it before.

    Raises:
        ModelUnfit: the model cannot be loaded, or does not fit its tokenizer or the settings.
    """
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    implementation = attention_name(settings)
    if settings.model.kind == "new":
        config = new_config(settings.model, tokenizer, settings.max_tokens)
        config._attn_implementation = implementation
        model = cast("PreTrainedModel", cast("Any", LlamaForCausalLM(config)).to(dtype))
    else:
        model = _pretrained(settings, dtype, implementation)
    embedded = len(embedding(model))
    if len(tokenizer) > embedded:
        raise ModelUnfit(
            f"{settings.model.path}: its tokenizer has {len(tokenizer)} tokens, its model embeds {embedded}; "
            "they do not belong together"
        )
    return model


def new_config(settings: ModelSettings, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> LlamaConfig:
    """The configuration of a new Llama-type model with tied embeddings."""
    width = settings.intermediate_size or -(-8 * settings.hidden_size // 3 // 64) * 64
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads or settings.heads,
        max_position_embeddings=max(2048, max_tokens),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )


def force_dropout(config: Any, value: float) -> None:
    """Set every dropout probability of a model's configuration, whatever the architecture calls it."""
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        for name, old in list(vars(part).items()):
            if ("dropout" in name or name.endswith(("pdrop", "layerdrop"))) and type(old) in (int, float):
                setattr(part, name, value)


def context_of(config: Any) -> int:
    """Tokens that a model of this configuration reads at most, or a number that nothing reaches if it does not say."""
    text = config.get_text_config()
    return int(getattr(text, "max_position_embeddings", None) or getattr(text, "max_seq_len", None) or sys.maxsize)


def check_context(model: PreTrainedModel, longest: int) -> str:
    """Compare the longest example with what the model reads.

    Returns:
        What to tell: rotary positions go on past the end, for better or worse. Nothing if it fits.

    Raises:
        ModelUnfit: it has no positions for so many tokens.
    """
    context = context_of(model.config)
    if longest <= context:
        return ""
    told = f"the longest pair has {longest:,} tokens, and {type(model).__name__} has a context of {context:,}"
    if getattr(model.config.get_text_config(), "rope_parameters", None) is None:
        raise ModelUnfit(f"{told}; set [train] max_tokens = {context}")
    return told


def count(parameter: torch.Tensor) -> int:
    """Its numbers; bitsandbytes keeps two in a byte of its 4-bit ones."""
    return parameter.numel() * (2 if type(parameter).__name__ == "Params4bit" else 1)


def cost_of(model: PreTrainedModel, *, frozen: bool = False) -> ModelCost:
    """What decides the model's arithmetic, read from its weights and configuration.

    Args:
        model: without adapters.
        frozen: whether adapters will be trained in its place.
    """
    config = model.config.get_text_config()
    table = embedding(model)
    head = cast("torch.Tensor", model.get_output_embeddings().weight)
    tied = head is table
    total = sum(count(parameter) for parameter in model.parameters()) - _idle_parameters(model)
    layers = list(getattr(config, "per_layer_config", None) or [config])  # which differ in Gemma 4, say
    widths = [_attention_width(layer) for layer in layers]
    return ModelCost(
        body_parameters=total - table.numel() - (0 if tied else head.numel()),
        head_parameters=head.numel(),
        layers=config.num_hidden_layers,
        attention_width=sum(widths) // len(widths),
        frozen=frozen,
    )


def _idle_parameters(model: PreTrainedModel) -> int:
    """Of a mixture of experts: those of the experts that a token does not meet."""
    config = model.config.get_text_config()
    chosen = next((value for name in _EXPERTS_A_TOKEN if (value := getattr(config, name, None))), None)
    idle = 0
    for name, module in model.named_modules():
        if chosen is None or name.rpartition(".")[2] != "experts":
            continue
        parameters = list(module.parameters())
        experts = len(module) if isinstance(module, torch.nn.ModuleList) else len(parameters[0])
        size = sum(count(parameter) for parameter in parameters)
        idle += size - size * min(chosen, experts) // experts
    return idle


def _attention_width(config: Any) -> int:
    """Heads times dimension of a head; 0 of a model without attention."""
    heads: int = getattr(config, "num_attention_heads", 0)
    if values := getattr(config, "v_head_dim", None):  # latent attention (DeepSeek's), whose keys are wider
        return int(heads * (config.qk_nope_head_dim + config.qk_rope_head_dim + values) // 2)
    return heads * (getattr(config, "head_dim", None) or config.hidden_size // heads) if heads else 0


def _pretrained(settings: TrainSettings, dtype: torch.dtype, implementation: str) -> PreTrainedModel:
    path, revision = settings.model.path, settings.model.revision or None
    if settings.lora is not None and Path(path).is_dir():
        path = str(Path(path).resolve())  # the adapter remembers it, wherever it will be loaded from
    quantised = _quantisation(settings)
    try:
        config = AutoConfig.from_pretrained(path, revision=revision)
        force_dropout(config, settings.dropout)
        for part in (config, config.get_text_config()):
            if getattr(part, "output_router_logits", False):  # a loss besides, which would be added with every pass
                part.output_router_logits = False
        loaded = AutoModelForCausalLM.from_pretrained(
            path,
            revision=revision,
            config=config,
            dtype=dtype,
            attn_implementation=_attention_for(config, settings, implementation),
            **quantised,
        )
    except ModelUnfit:
        raise
    except Exception as error:
        raise ModelUnfit(load_failure("model", path, error)) from error
    return cast("PreTrainedModel", loaded)


def _attention_for(config: Any, settings: TrainSettings, wanted: str) -> str | None:
    """What to load a model with: `wanted`, or None, transformers' choice, where this kind of model cannot take it.

    Raises:
        ModelUnfit: it cannot take ours, and was to.
    """
    architecture: Any = AutoModelForCausalLM._model_mapping.get(type(config), None)
    if architecture is None or wanted not in (attention.NAME, "flash_attention_2"):
        return wanted
    ours = wanted == attention.NAME
    if architecture.is_backend_compatible() if ours else architecture._supports_flash_attn:
        return wanted
    if settings.attention == "varlen":
        raise ModelUnfit(f'{architecture.__name__} knows no [train] attention = "varlen"; set "auto"')
    return None if settings.attention == "auto" else wanted  # whose refusal says more


def _quantisation(settings: TrainSettings) -> dict[str, Any]:
    """What `from_pretrained` needs to keep the frozen weights in few bits; nothing where they stay as they are."""
    if settings.lora is None or settings.lora.base_bits == 16:
        return {}
    bits = settings.lora.base_bits
    if find_spec("bitsandbytes") is None:
        raise ModelUnfit(f"[train] lora base_bits = {bits} needs bitsandbytes: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    if bits == 8:
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    arithmetic = torch.float32 if settings.precision == "fp32" else torch.bfloat16
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=arithmetic,
        )
    }


def check_compiler() -> None:
    """Make sure that torch.compile finds what it turns a model into code with.

    Raises:
        ModelUnfit: names what is missing.
    """
    if torch.cuda.is_available() and find_spec("triton") is None:
        raise ModelUnfit("[train] compile = true needs triton on a GPU: pip install triton, or set compile = false")
    compiler = os.environ.get("CXX", "")
    if not any(shutil.which(name) for name in (compiler, "g++", "clang++", "gcc") if name):
        raise ModelUnfit(
            "[train] compile = true needs a C++ compiler, and no g++ or clang++ is on PATH: install one, name it in "
            "CXX, or set compile = false"
        )


def add_lora(model: PreTrainedModel, settings: TrainSettings) -> Any:
    """Freeze the model and give it the adapters that `settings.lora` describes.

    Raises:
        ModelUnfit: peft is missing, no module has the names asked for, or one cannot have adapters.
    """
    lora = settings.lora
    assert lora is not None
    try:
        from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    except ImportError:
        raise ModelUnfit("[train] lora needs peft: pip install 'selfalign[train]'") from None
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # a float is as good
        lora_dropout=settings.dropout,
        target_modules=list(lora.target_modules) or "all-linear",
        task_type="CAUSAL_LM",
    )
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    tied = cast("Any", head).weight is embedding(model)
    try:
        if lora.base_bits != 16:
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # ours comes later
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by names of yesterday
            warnings.filterwarnings("ignore", ".*tie_word_embeddings", UserWarning)  # ours is below
            adapted = get_peft_model(model, config)
    except ValueError as error:
        raise ModelUnfit(f"[train] lora: {first_line(error)}") from error
    if tied and (model.get_output_embeddings() is not head or model.get_input_embeddings() is not table):
        raise ModelUnfit(
            "[train] lora: embedding and output layer of this model are one matrix, and an adapter on either would be "
            "added to both once it is merged; leave them out of target_modules"
        )
    if model.get_output_embeddings() is not head and settings.cross_entropy != "plain":
        raise ModelUnfit('[train] lora: adapters on the output layer need cross_entropy = "plain"')
    return adapted


def embedding(model: PreTrainedModel) -> torch.Tensor:
    """A row for each token."""
    return cast("torch.Tensor", model.get_input_embeddings().weight)


def attention_name(settings: TrainSettings) -> str:
    """What transformers calls the attention that is asked for.

    Raises:
        ModelUnfit: it cannot be had on this machine, or in this precision.
    """
    chosen = settings.attention
    modern = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8,)
    flash = modern and is_flash_attn_2_available() and settings.precision != "fp32"
    if chosen == "auto":
        chosen = "flash_attention_2" if flash else "sdpa" if settings.compile else "varlen"
    if chosen == "flash_attention_2" and not flash:
        raise ModelUnfit(
            '[train] attention = "flash_attention_2" needs a GPU (Ampere or later), flash-attn (pip install '
            'flash-attn), and precision = "bf16" or "bf16-mixed"; "auto" takes what there is'
        )
    if chosen == "flex_attention" and not torch.cuda.is_available():
        raise ModelUnfit('[train] attention = "flex_attention" trains on a GPU only; "auto" takes what there is')
    if chosen == "varlen":
        attention.register()
        return attention.NAME
    return chosen


def load_failure(what: str, path: str, error: Exception) -> str:
    """Say what could not be loaded, where it was looked for, and why."""
    folder = Path(path)
    if folder.is_dir():
        tried = f"folder {path}"
        if (folder / RUN_FILE).exists() and not (folder / "tokenizer_config.json").exists():
            return (
                f"cannot load the {what} of {tried}: its run has not finished; `selfalign train` again goes on with it"
            )
        if what == "tokenizer" and not any(folder.glob("tokenizer*")):
            return f"cannot load the {what} of {tried}: no tokenizer.json or tokenizer_config.json is in it"
        with suppress(OSError, ValueError, KeyError):
            base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
            tried += f", which is an adapter of {base}"
    elif _is_missing_folder(path):
        return f"cannot load the {what}: no folder {path}"
    else:
        tried = f"{path}, which is no folder here, from the hub"
    return f"cannot load the {what} of {tried}: {first_line(error)}"


def _is_missing_folder(path: str) -> bool:
    """Whether a folder is meant that is not there: the name begins like one, or lies in a folder that is there."""
    folder = Path(path)
    inside = len(folder.parts) > 1 and folder.parent.is_dir()
    return not folder.is_dir() and (inside or path.startswith((".", "/", "~")))


def first_line(error: Exception) -> str:
    """The first line of an error's message: libraries write essays."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
