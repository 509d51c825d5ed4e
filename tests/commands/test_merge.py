"""`ntksel merge`: the numbers against a plain sum, the files in transformers, and what is refused or killed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import store
from ntkcli.engine.models.gguf_files import rope_factors
from ntkcli.engine.models.gguf_tokenizer import scores_of, tokenizer_kind
from ntkcli.errors import UsageError
from ntkcli.steps.training import merge as step
from ntkcli.steps.training.merge_files import with_old_names
from tests.commands.conftest import Cli
from tests.conftest import make_tokenizer, prompt_rows, save_model, write_rows

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's, of the next transformers
IDS = torch.tensor([[1, 70, 80, 90, 100, 110, 71, 81, 2, 1, 75]])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A store with a run on a float32 model, and one on the same in bfloat16."""
    from ntkcli.app import run

    folder = tmp_path_factory.mktemp("merge")
    data = write_rows(folder / "d.jsonl", prompt_rows(12))
    model = save_model(folder / "m", vocab_size=len(make_tokenizer()) + 2)
    path = model / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["ab"] = len(make_tokenizer())  # one row of the table is left without a token
    tokenizer["model"]["merges"] = [["a", "b"]]
    path.write_text(json.dumps(tokenizer))
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "temperature": 0.5}))
    shutil.copytree(model, folder / "half")
    weights = {k: v.bfloat16() for k, v in load_file(model / "model.safetensors").items()}
    from safetensors.torch import save_file

    save_file(weights, folder / "half" / "model.safetensors", metadata={"format": "pt"})
    for name, where in (("r", model), ("half", folder / "half")):
        words = [
            "finetune",
            folder / "s",
            "--model",
            where,
            "--train",
            data,
            "--epochs",
            "2",
            "--lr",
            "0.05",
            "--rank",
            "3",
        ]
        assert run([str(word) for word in [*words, "--name", name, "--quiet"]]) == 0
    return {"store": folder / "s", "m": model, "half": folder / "half", "folder": folder}


def logits(folder: Path, **how: Any) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, **how)(IDS).logits.float()


def with_adapter(world: dict[str, Path], run: str, model: str) -> torch.Tensor:
    """By plain peft, in float32."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(world[model], dtype=torch.float32)
    with torch.no_grad():
        return PeftModel.from_pretrained(base, world["store"] / "adapters" / run)(IDS).logits


def nats(logits_BTV: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits_BTV[0, :-1], IDS[0, 1:], reduction="none")


def plain_sum(world: dict[str, Path], run: str, model: str) -> dict[str, torch.Tensor]:
    """W + s·BA of each layer in float32."""
    weights = {k: v.float() for k, v in load_file(world[model] / "model.safetensors").items()}
    adapter = world["store"] / "adapters" / run
    factors = load_file(adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    for key in [key for key in factors if "lora_A" in key]:
        name = key.removeprefix("base_model.model.").replace(".lora_A", "")
        weights[name] = weights[name] + scale * (factors[key.replace("lora_A", "lora_B")] @ factors[key])
    return weights


def test_the_merged_model_is_base_and_adapter(cli: Cli, world: dict[str, Path], tmp_path: Path) -> None:
    out, file = tmp_path / "out", tmp_path / "out.gguf"
    dry = cli("merge", world["store"], "--run", "r", "--out", out, "--gguf", file, "--json", "--dry-run")
    ran = cli("merge", world["store"], "--run", "r", "--out", out, "--gguf", file, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(dry.out)["gguf_bytes"] == file.stat().st_size
    found = json.loads(ran.out)
    assert (found["run"], found["dtype"]) == ("runs/r", "float32")
    assert found["parameters"] == sum(x.numel() for x in load_file(world["m"] / "model.safetensors").values())
    expected, bare = with_adapter(world, "r", "m"), logits(world["m"])
    assert (nats(expected) - nats(bare)).abs().max() > 0.05  # the adapter does something
    torch.testing.assert_close(nats(logits(out)), nats(expected), rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(out), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(nats(logits(tmp_path, gguf_file="out.gguf")), nats(expected), rtol=0, atol=1e-5)
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (out / name).read_bytes() == (world["m"] / name).read_bytes(), name
    assert_readable_by_transformers_4(out, world["m"])
    card = (out / "README.md").read_text()
    assert "merged in float32" in card.lower()
    assert str(world["folder"] / "d.jsonl") in card
    assert "base_model:" not in card  # a path of this machine is not a model of the Hub
    again = cli("merge", world["store"], "--run", "r", "--out", out, "--gguf", file)
    assert again.code == 0
    assert again.err.count("holds this model already") == 2


def assert_readable_by_transformers_4(out: Path, base: Path) -> None:
    """What vLLM reads of a folder, also with transformers 4: of `*.safetensors` those that an index names, if any."""
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert config["torch_dtype"] == config["dtype"]
    named = {json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] for folder in (out, base)}
    assert named == {"PreTrainedTokenizerFast", "TokenizersBackend"}  # transformers 5 alone has the second
    files = sorted(path.name for path in out.glob("*.safetensors"))
    assert files == ["model.safetensors"]
    assert not list(out.glob("*.bin"))
    assert {"tokenizer.json", "generation_config.json", "chat_template.jinja"} <= {path.name for path in out.iterdir()}


@pytest.mark.parametrize("scaling", [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 64},
])  # fmt: skip
def test_old_names_of_positions_give_the_same_configuration(tmp_path: Path, scaling: dict[str, Any]) -> None:
    from transformers import AutoConfig, LlamaConfig

    LlamaConfig(rope_parameters={**scaling, "rope_theta": 5e5}, dtype="bfloat16").save_pretrained(tmp_path / "new")
    new = json.loads((tmp_path / "new/config.json").read_text())
    assert "rope_theta" not in new
    found = with_old_names(new, {})
    assert found["rope_theta"] == 5e5
    assert found["torch_dtype"] == "bfloat16"
    assert found.get("rope_scaling") == (None if scaling == {"rope_type": "default"} else scaling)
    old = {name: value for name, value in found.items() if name not in ("rope_parameters", "dtype")}
    for name, config in (("both", found), ("old", old)):  # transformers 5 reads either as what it wrote itself
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        read = AutoConfig.from_pretrained(tmp_path / name)
        assert read.rope_parameters == {**scaling, "rope_theta": 5e5}


def test_the_base_models_own_old_names_are_kept() -> None:
    """Of positions that differ by the kind of layer, which have no old names that could be made of the new ones."""
    nested = {"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}}
    base = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "hidden_size": 8}
    assert with_old_names(nested, base) == {**nested, "rope_theta": 1e6, "rope_local_base_freq": 1e4}
    assert with_old_names(nested, {}) == nested


def test_what_the_gguf_file_says(cli: Cli, world: dict[str, Path], tmp_path: Path) -> None:
    import gguf
    from transformers import AutoTokenizer

    words = ["--dtype", "bfloat16", "--gguf", tmp_path / "x.gguf"]
    assert cli("merge", world["store"], "--run", "r", "--out", tmp_path / "x", *words).code == 0
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["tokenizer.ggml.pre"] == "gpt-2"
    assert fields["tokenizer.ggml.merges"] == ["a b"]
    assert fields["tokenizer.chat_template"] == (world["m"] / "chat_template.jinja").read_text()
    assert (fields["tokenizer.ggml.bos_token_id"], fields["tokenizer.ggml.eos_token_id"]) == (1, 2)
    assert fields["tokenizer.ggml.tokens"][-1] == f"[PAD{len(fields['tokenizer.ggml.tokens']) - 1}]"
    assert (fields["llama.attention.head_count"], fields["llama.attention.head_count_kv"]) == (4, 2)
    assert {tensor.tensor_type.name for tensor in reader.tensors} == {"BF16", "F32"}
    text = "grab the software? ab abba"
    ids = AutoTokenizer.from_pretrained(world["m"])(text)["input_ids"]
    assert AutoTokenizer.from_pretrained(tmp_path, gguf_file="x.gguf")(text)["input_ids"] == ids


@pytest.mark.parametrize(
    ("run", "model", "dtype"), [("half", "half", "auto"), ("r", "m", "bfloat16"), ("r", "m", "float16")]
)
def test_rounded_once(cli: Cli, world: dict[str, Path], tmp_path: Path, run: str, model: str, dtype: str) -> None:
    ran = cli("merge", world["store"], "--run", run, "--out", tmp_path / "out", "--dtype", dtype, "--json")
    assert ran.code == 0, ran.err
    number = torch.float16 if dtype == "float16" else torch.bfloat16
    merged = load_file(tmp_path / "out" / "model.safetensors")
    expected = plain_sum(world, run, model)
    assert merged.keys() == expected.keys()
    for name, weight in expected.items():
        assert merged[name].dtype == number
        assert torch.equal(merged[name], weight.to(number)), name
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == str(number).removeprefix("torch.")


def test_dora_is_merged_as_peft_computes_it(cli: Cli, world: dict[str, Path], tmp_path: Path) -> None:
    """Not a plain sum: the columns' norms are learnt too. Here on a bfloat16 model, which peft would round twice."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(world["half"], dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "up_proj"], use_dora=True))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(tmp_path / "dora")
    words = ["--model", world["half"], "--train", world["folder"] / "d.jsonl", "--init-adapter", tmp_path / "dora"]
    made = cli("finetune", tmp_path / "s", *words, "--epochs", "1", "--lr", "1e-3", "--name", "d")
    assert made.code == 0, made.err
    ran = cli("merge", tmp_path / "s", "--run", "d", "--out", tmp_path / "out", "--dtype", "float32")
    assert ran.code == 0, ran.err
    bare = AutoModelForCausalLM.from_pretrained(world["half"], dtype=torch.float32)
    with torch.no_grad():
        expected = PeftModel.from_pretrained(bare, tmp_path / "s/adapters/d")(IDS).logits
    torch.testing.assert_close(logits(tmp_path / "out"), expected, rtol=0, atol=1e-5)


def test_a_folder_is_replaced_only_if_asked(cli: Cli, world: dict[str, Path], tmp_path: Path) -> None:
    words = ["merge", world["store"], "--run", "r", "--out"]
    other = tmp_path / "other"
    shutil.copytree(world["half"], other)
    ran = cli(*words, other)
    assert ran.code == 2
    assert "--force to replace the model in it" in ran.error_line
    assert not (other / step.RECORD).exists()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    for more in ([], ["--force"]):
        assert "holds other things than a model" in cli(*words, tmp_path / "notes", *more).error_line
    assert cli(*words, other, "--force").code == 0
    assert (other / step.RECORD).exists()
    for place, reason in (
        (world["m"], "is the input"),
        (world["store"], "is in it"),
        (world["folder"], "is in it"),
        (world["store"] / "adapters" / "x", "inside the store"),
        (tmp_path / "no" / "x", "there is no folder"),
    ):
        ran = cli(*words, place, "--force")
        assert ran.code == 2
        assert reason in ran.error_line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "other"]


def test_killed_in_the_middle(
    cli: Cli, world: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing at the place; what a SIGKILL leaves beside it goes with the next merge."""
    out = tmp_path / "out"
    save = step._save

    def killed(model: Any, work: Path) -> None:
        save(model, work)
        assert work.name.startswith(".out.merging-")
        raise KeyboardInterrupt

    monkeypatch.setattr(step, "_save", killed)
    words = ["merge", world["store"], "--run", "r", "--out", out]
    assert cli(*words).code == 130
    assert not list(tmp_path.iterdir())
    (tmp_path / ".out.merging-99999999-0123abcd").mkdir()
    alive = tmp_path / ".out.merging-1-0123abcd"
    alive.mkdir()
    monkeypatch.setattr(step, "_save", save)
    assert cli(*words).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [alive.name, "out"]


def test_refused(cli: Cli, world: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["merge", world["store"], "--out", tmp_path / "out"]
    assert cli(*words, "--run", "nothing").code == 10
    ran = cli(*words, "--run", "r", "--model", world["half"])
    assert ran.code == 12
    assert "was trained on a base model" in ran.error_line
    ran = cli(*words, "--run", "r", "--gguf", tmp_path / "out" / "x.gguf")
    assert "is inside of --out" in ran.error_line
    dry = cli(*words, "--run", "r", "--dry-run")
    assert dry.code == 0
    assert "weights in float32" in dry.out
    monkeypatch.setattr(store, "free_bytes", lambda _: 1000)
    ran = cli(*words, "--run", "r")
    assert ran.code == 1
    assert "Make room" in ran.error_line
    assert not list(tmp_path.iterdir())


def test_another_architecture_has_no_gguf(cli: Cli, world: dict[str, Path], tmp_path: Path) -> None:
    model = tmp_path / "m"
    shutil.copytree(world["m"], model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "architectures": ["CohereForCausalLM"]}))
    ran = cli(
        "merge", world["store"], "--run", "r", "--model", model, "--out", tmp_path / "o", "--gguf", tmp_path / "x"
    )
    assert ran.code == 2
    assert "is CohereForCausalLM, expected LlamaForCausalLM or MistralForCausalLM" in ran.error_line
    assert "convert_hf_to_gguf.py" in ran.error_line
    assert not (tmp_path / "o").exists()


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


def bpe(*steps: dict[str, Any], **model: Any) -> dict[str, Any]:
    pre = steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": list(steps)}
    return {"model": {"type": "BPE", **model}, "pre_tokenizer": pre, "normalizer": None}


def test_how_tokenizers_are_called() -> None:
    digits = {"type": "Digits", "individual_digits": True}
    split = {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False}
    plain = {**BYTES, "use_regex": False}
    for tokenizer, name in (
        (bpe(BYTES), "gpt-2"),
        (bpe(digits, BYTES), "smollm"),
        (bpe(split, plain, ignore_merges=True), "llama-bpe"),
        (bpe({**split, "pattern": {"Regex": LLAMA3.replace("{1,3}", "")}}, plain), "qwen2"),
    ):
        assert tokenizer_kind(tokenizer, label="m") == name
    for tokenizer, reason in (
        (bpe({**BYTES, "add_prefix_space": True}), "no name here"),
        (bpe({**split, "pattern": {"Regex": r"\w+"}}, plain), "no name here"),
        (bpe(split, plain), "treats merges in another way"),
        (bpe({"type": "Metaspace"}, byte_fallback=True, vocab={}), "not like Llama 2's"),
        ({"model": {"type": "Unigram"}}, "a Unigram tokenizer"),
    ):
        with pytest.raises(UsageError, match=reason):
            tokenizer_kind(tokenizer, label="m")


SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def sentencepiece() -> dict[str, Any]:
    """A tokenizer like Llama 2's: all pairs of every token, in the order of the tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    pieces = [f"{SPACE}t", "he", f"{SPACE}the", "in", "er", f"{SPACE}a", "ing", "the", f"{SPACE}{SPACE}"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *pieces, SPACE, *"abcdefghinorst"]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = [
        (piece[:i], piece[i:])
        for piece in pieces
        for i in range(1, len(piece))
        if piece[:i] in vocab and piece[i:] in vocab
    ]
    model = models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    made = Tokenizer(model)
    made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    made.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    found: dict[str, Any] = json.loads(made.to_str())
    return found


def test_a_sentencepiece_tokenizer(cli: Cli, world: dict[str, Path], tmp_path: Path) -> None:
    """Written with scores that merge as its ranks do: read back by transformers, texts have the same tokens."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    said = sentencepiece()
    assert tokenizer_kind(said, label="m") == "sentencepiece"
    model = save_model(tmp_path / "m", vocab_size=len(said["model"]["vocab"]))
    (tmp_path / "t.json").write_text(json.dumps(said))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    own = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "t.json"), **special)
    own.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    own.save_pretrained(model)
    data = world["folder"] / "d.jsonl"
    ran = cli(
        "finetune", tmp_path / "s", "--model", model, "--train", data, "--epochs", "1", "--rank", "1", "--name", "r"
    )
    assert ran.code == 0, ran.err
    ran = cli("merge", tmp_path / "s", "--run", "r", "--out", tmp_path / "o", "--gguf", tmp_path / "x.gguf")
    assert ran.code == 0, ran.err
    read = AutoTokenizer.from_pretrained(tmp_path, gguf_file="x.gguf")
    for text in ("the string ring", "in the  other \n tin", "a Grüß, thethe"):
        assert read(text, add_special_tokens=False)["input_ids"] == own(text)["input_ids"], text
    torch.testing.assert_close(logits(tmp_path, gguf_file="x.gguf"), logits(tmp_path / "o"), rtol=0, atol=1e-5)


def test_merges_that_are_no_sentencepieces() -> None:
    """A pair that makes a token and is not among the merges; a token's merges apart from each other."""
    model = sentencepiece()["model"]
    assert scores_of(model) is not None
    less = [merge for merge in model["merges"] if merge != ["t", "he"]]
    assert scores_of({**model, "merges": less}) is None
    both = [["a", "bc"], ["x", "y"], ["ab", "c"]]
    vocab = dict.fromkeys(["a", "b", "c", "x", "y", "ab", "bc", "abc", "xy"])
    assert scores_of({"vocab": vocab, "merges": [*both, ["a", "b"], ["b", "c"]]}) is None


def test_llama_31s_positions_are_transformers() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = LlamaConfig(
        hidden_size=512, num_attention_heads=4, max_position_embeddings=131072, rope_parameters=scaling
    )
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 500000.0 ** -(np.arange(0, 128, 2) / 128)
    found = rope_factors(config.to_dict())
    assert found is not None
    np.testing.assert_allclose(found, plain / scaled.numpy(), rtol=1e-5)
    assert found.max() == pytest.approx(8)
    assert rope_factors(LlamaConfig().to_dict()) is None
