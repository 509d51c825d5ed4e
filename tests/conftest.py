"""Tiny random models with a real tokenizer, made on the spot; and data files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: a second thread only waits, most of all on a busy machine

settings.register_profile("ntksel", deadline=None)  # a busy machine is slow, which is not a failure
settings.load_profile("ntksel")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a background job of a shell: the commands we start inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = "the of and licence notice software may copy this grant use without warranty yes no maybe red blue"
WORDS = TEXT.split()


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterable[None]:
    """Digests and converted models go to a cache of the test run's own."""
    old = os.environ.get("NTKSEL_CACHE")
    os.environ["NTKSEL_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if old is None:
        del os.environ["NTKSEL_CACHE"]
    else:
        os.environ["NTKSEL_CACHE"] = old


def make_tokenizer() -> Any:
    """A byte-level tokenizer with ChatML's special tokens and template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab = {token: i for i, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=special,
    )
    fast.chat_template = CHATML
    return fast


def save_model(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """A tiny random Llama with the tokenizer beside it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": True,
    }
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**{**settings, **changes}))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama."""
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def other_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another tiny Llama of the same shape."""
    return save_model(tmp_path_factory.mktemp("model") / "other", seed=1)


Writer = Callable[..., Path]


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Writer:
    """Writes rows (objects, or text for a broken line) as a JSON Lines file."""

    def write(name: str, rows: Iterable[Any]) -> Path:
        return write_rows(tmp_path / name, rows)

    return write


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """Rows (objects, or text for a broken line) as a JSON Lines file."""
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def prompt_rows(n: int, *, seed: int = 0, source: str = "") -> list[dict[str, Any]]:
    """Rows of prompt and completion, of many lengths; the same for the same seed."""
    import random

    draw = random.Random(seed)
    rows = []
    for i in range(n):
        prompt = " ".join(draw.choices(WORDS, k=draw.randint(1, 9)))
        row: dict[str, Any] = {"id": f"{seed}-{i}", "prompt": f"{prompt}?", "completion": draw.choice(WORDS)}
        rows.append({**row, "source": source} if source else row)
    return rows


def choice_rows(n: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of prompt, choices and answer."""
    import random

    draw = random.Random(seed)
    choices = ["red", "blue", "red and blue"]
    return [
        {
            "id": f"c{seed}-{i}",
            "prompt": " ".join(draw.choices(WORDS, k=draw.randint(1, 7))) + "?",
            "choices": choices,
            "answer": draw.randrange(3),
        }
        for i in range(n)
    ]


def text_rows(n: int, *, seed: int = 0, words: int = 30) -> list[dict[str, Any]]:
    """Plain texts of one to `words` words."""
    import random

    draw = random.Random(seed)
    return [
        {"id": f"t{seed}-{i}", "text": " ".join(draw.choices(WORDS, k=draw.randint(1, words))) + "."} for i in range(n)
    ]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip(
            "no file system can be mounted here; the injected one of tests/store/test_full_disk.py stands for it"
        )
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
