"""Fixtures of the generator's tests. What uses a database runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from generator.recipe import Recipe, load_recipe
from generator.store import Database, open_database
from tests import postgres
from tests.generator.rules import RECIPE, write_seeds

SQLITE_ONLY = pytest.mark.parametrize("url", ["sqlite"], indirect=True)
"""For tests of what only SQLite does."""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a database can be made, or is, without rows."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/small.db"
    server: postgres.Server = request.getfixturevalue("postgres_server")
    return server.migrated()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a database can be made, and has no table yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new.db"
    server: postgres.Server = request.getfixturevalue("postgres_server")
    return server.empty()


@pytest.fixture
def small(tmp_path: Path, url: str) -> Recipe:
    """A recipe over five seeds, with three responses to each instruction."""
    write_seeds(tmp_path, ["add_all", "collect", "gather", "measure", "total"])
    path = tmp_path / "small.toml"
    path.write_text(RECIPE.format(folder=tmp_path, url=url))
    return load_recipe(path)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """A database with every table and no row."""
    database = open_database(url, create=True)
    yield database
    database.close()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 with a byte-level tokenizer and a chat template, made on the spot; vLLM wants heads of 32."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("tiny")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        eos_token_id=fast.eos_token_id,
        bos_token_id=None,
    )
    transformers.Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder
