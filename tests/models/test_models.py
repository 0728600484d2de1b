"""Packed rows: the same logits as the samples apart, on every backend and family that says it can."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import save_file

from axolotl_core import lookup
from axolotl_core.artifacts.stats import StatCache
from axolotl_core.attention.choose import KINDS, why_not
from axolotl_core.attention.laid import block_mask
from axolotl_core.errors import ModelError, ParamsError
from axolotl_core.models import self_test as self_test_module
from axolotl_core.models.family import FAMILIES
from axolotl_core.models.forward import ForwardSpec, forward
from axolotl_core.models.load import grow_embeddings, load_model, need_of
from axolotl_core.models.packing import packing_support
from axolotl_core.models.pin import left_out, open_pinned, pin_model
from axolotl_core.models.self_test import TOLERANCE, _probe, self_test, small_model, splits
from axolotl_core.models.weights import INDEX, SINGLE
from axolotl_core.params.machine import Machine
from axolotl_core.params.model import Model
from axolotl_core.sources import outside
from tests.attention import families

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPES = {
    "llama": SMALL | {"intermediate_size": 48},
    "mistral": SMALL | {"intermediate_size": 48, "num_key_value_heads": 2, "sliding_window": 4, "head_dim": 8},
    "qwen2": SMALL | {"intermediate_size": 48, "num_key_value_heads": 2},
    "gpt_neox": SMALL | {"intermediate_size": 48},
    "phi": SMALL | {"intermediate_size": 48},
    "phi3": SMALL | {"intermediate_size": 48, "pad_token_id": 0},
    "stablelm": SMALL | {"intermediate_size": 48, "num_key_value_heads": 4},
    "gpt2": {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "gptj": {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
    "falcon": SMALL | {"alibi": False, "new_decoder_architecture": False},
    "mpt": {"vocab_size": 64, "d_model": 32, "n_layers": 2, "n_heads": 4},
    "nemotron": SMALL | {"intermediate_size": 48, "num_key_value_heads": 2},
    "phimoe": SMALL | {"intermediate_size": 48, "num_key_value_heads": 2, "num_local_experts": 4},
    "gpt_oss": SMALL | families.FAMILIES["gpt_oss"] | {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8},
}


def random_model(family: str, attention: str):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **SHAPES[family])
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    for parameter in model.parameters():  # weights large enough that a leak would show
        parameter.data.normal_(0, 0.2)
    model.config.use_cache = False
    return model.eval()


def test_every_family_with_a_file_has_a_shape_here():
    assert set(lookup.names(FAMILIES)) <= SHAPES.keys()


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa", "varlen"])
@pytest.mark.parametrize("family", sorted(SHAPES))
def test_packed_logits_equal_those_of_the_samples_apart(family: str, attention: str):
    config = transformers.AutoConfig.for_model(family, **SHAPES[family])
    need = need_of(config, torch.device("cpu"), torch.float32, packed=True)
    if why_not(attention, need) is not None:
        assert family in ("gptj", "mpt", "falcon", "stablelm", "gpt_oss", "nemotron"), (
            "what passes arguments on to its attention has every kind of a CPU"
        )
        return
    model = random_model(family, attention)
    how = ForwardSpec(packing_support(model.config).method)
    assert splits(model, how), "every family of ours has a plain output layer"
    lengths = (7, 12, 5)
    samples = [torch.randint(64, (1, n)) for n in lengths]
    positions = [torch.arange(n)[None] for n in lengths]
    packed = forward(model, torch.cat(samples, 1), torch.cat(positions, 1), how)
    apart = torch.cat([forward(model, *pair, how) for pair in zip(samples, positions, strict=True)], 1)
    assert float((packed - apart).abs().max()) < 1e-4
    self_test(model, how)


def test_the_self_test_finds_a_leak():
    model = random_model("mpt", "eager")  # MPT has no position_ids, so positions alone do not keep samples apart
    with pytest.raises(
        ModelError,
        match=r"packed samples see each other in MptForCausalLM with eager attention: logits differ .*; set packing.sample_packing: false",
    ):
        self_test(model, ForwardSpec())


def test_falcon_with_alibi_says_that_it_cannot_be_packed():
    assert (
        packing_support(SimpleNamespace(model_type="falcon", alibi=True)).reason
        == "falcon with ALiBi (falcon-rw) lets packed samples see each other"
    )


def test_logits_are_made_where_they_are_asked_for():
    model = random_model("llama", "sdpa")
    ids, positions = torch.randint(64, (2, 9)), torch.arange(9).expand(2, 9)
    keep = torch.tensor([1, 4, 8])
    assert torch.allclose(
        forward(model, ids, positions, ForwardSpec(), keep), forward(model, ids, positions, ForwardSpec())[:, keep], atol=1e-6
    )


def test_the_block_mask_opens_a_sample_to_itself_and_the_past():
    mask = block_mask(torch.tensor([[0, 1, 0, 1]]), torch.float32)[0, 0] == 0
    assert mask.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def test_attention_that_does_not_exist_is_told():
    with pytest.raises(ParamsError, match="no attention backend is called 'spda'; did you mean 'sdpa'"):
        lookup.find(KINDS, "spda", "attention backend")


def test_new_embedding_rows_are_the_same_each_time(model_folder: Path):
    rows = []
    for _ in range(2):
        torch.rand(3)  # whatever was drawn before
        model = load_model(model_folder, Machine(device="cpu"), vocabulary=520, packed=False).model
        rows.append(model.get_input_embeddings().weight[512:].clone())
    assert rows[0].shape == (8, 32)
    assert torch.equal(*rows)


def test_embeddings_never_shrink(model_folder: Path):
    model = load_model(model_folder, Machine(device="cpu"), vocabulary=10, packed=False).model
    grow_embeddings(model, 10)
    assert model.get_input_embeddings().num_embeddings == 512


def test_a_model_that_is_no_language_model_is_told(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ModelError, match="got a model of type 'vit', wanted one that transformers runs as a causal language model"):
        load_model(tmp_path, Machine(device="cpu"), vocabulary=1, packed=False)


def test_packing_a_family_that_cannot_be_packed_is_told(tmp_path: Path):
    config = transformers.FalconConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, alibi=True)
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"falcon with ALiBi .*; set packing.sample_packing: false"):
        load_model(tmp_path, Machine(device="cpu"), vocabulary=1, packed=True)


def pinned(place: str, root: Path, out: Path) -> dict:
    return pin(Model(base_model=place), root, out)


def pin(model: Model, root: Path, out: Path) -> dict:
    """As the stage does it, with the digests that the key is made of."""
    out.mkdir(exist_ok=True)
    stats = StatCache(root / "stat.json")
    section = SimpleNamespace(model=model)
    return pin_model(model, root, out, token=False, stats=stats, wanted=outside.digests(outside.model(section, None, root), stats))


def opened(tmp_path: Path) -> Path:
    """The folder that from_pretrained is given."""
    folder = tmp_path / "opened"
    shutil.rmtree(folder, ignore_errors=True)
    return open_pinned(tmp_path / "base", tmp_path, StatCache(tmp_path / "stat.json"), folder).folder


def test_a_folder_is_pinned_without_copying_its_weights(tmp_path: Path, model_folder: Path):
    shutil.copytree(model_folder, tmp_path / "model")
    facts = pinned("./model", tmp_path, tmp_path / "base")
    assert facts["family"] == "llama"
    assert facts["parameters"] == sum(
        p.numel() for p in load_model(model_folder, Machine(device="cpu"), vocabulary=1, packed=False).model.parameters()
    )
    assert not list((tmp_path / "base").glob("*.safetensors"))
    assert (opened(tmp_path) / "model.safetensors").samefile(tmp_path / "model" / "model.safetensors")


def test_weights_that_changed_since_they_were_pinned_are_refused(tmp_path: Path, model_folder: Path):
    shutil.copytree(model_folder, tmp_path / "model")
    pinned("./model", tmp_path, tmp_path / "base")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(
        ModelError, match=r"model.safetensors: the base model has changed since it was fetched; run `axolotl stage fetch-model`"
    ):
        opened(tmp_path)
    weights.unlink()
    with pytest.raises(ModelError, match=r"model.safetensors: the base model is gone since it was fetched"):
        opened(tmp_path)


def test_a_checkpoint_without_safetensors_is_converted_once(tmp_path: Path, model_folder: Path):
    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder)
    (tmp_path / "old").mkdir()
    model.config.save_pretrained(tmp_path / "old")
    torch.save(model.state_dict(), tmp_path / "old" / "pytorch_model.bin")
    assert pinned("./old", tmp_path, tmp_path / "base")["kind"] == "stored"
    assert opened(tmp_path) == tmp_path / "base"
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("notes.gguf", "notes.gguf: got a file that is not GGUF, wanted a .gguf file, a folder or a hub repository"),
        ("short.gguf", "short.gguf: cannot be read as a model"),
        ("hollow", "hollow/model.safetensors: cannot be read as safetensors"),
        ("empty", "empty: holds no config.json, so it is not a model that transformers can read"),
        ("nobody/nothing", "nobody/nothing: the hub cannot be reached .*; fetch on a machine with a network"),
    ],
)
def test_a_base_model_that_is_none_is_told(tmp_path: Path, name: str, told: str):
    (tmp_path / "notes.gguf").write_text("hello")
    (tmp_path / "short.gguf").write_bytes(b"GGUF\3\0\0\0")
    (tmp_path / "empty").mkdir()
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "hollow" / "model.safetensors").write_bytes(b"12345678")
    with pytest.raises(ModelError, match=told):
        pinned(name, tmp_path, tmp_path / "base")


def test_a_class_that_the_model_is_not_is_told(tmp_path: Path, model_folder: Path):
    for kind in ("AutoModelForCausalLM", "LlamaForCausalLM", "GPT2LMHeadModel", "MixFormerSequentialForCausalLM"):
        (tmp_path / kind).mkdir()
        pin(Model(base_model=str(model_folder), model_type=kind), tmp_path, tmp_path / kind)
    with pytest.raises(ModelError, match=r"model.model_type is BertModel, but .* holds LlamaForCausalLM; remove it"):
        pin(Model(base_model=str(model_folder), model_type="BertModel"), tmp_path, tmp_path / "bert")


def test_the_noise_of_eight_bits_is_no_leak(tmp_path: Path):
    """LLM.int8 multiplies columns with an outlier apart, and which these are depends on all tokens of the batch."""
    model = random_model("llama", "sdpa")
    for layer in model.model.layers:
        layer.input_layernorm.weight.data.fill_(2.5)  # so that some columns pass the threshold of 6 and some do not
        layer.post_attention_layernorm.weight.data.fill_(2.5)
    model.save_pretrained(tmp_path)
    settings = {"vocabulary": 64, "packed": True, "dtype": torch.float32}
    model = load_model(tmp_path, Machine(device="cpu"), **settings, quantise=Model(base_model="x", load_in_8bit=True)).model
    first, _, second = _probe(model)
    with torch.no_grad():
        alone = forward(model, *second, ForwardSpec())
        packed = forward(model, *(torch.cat(pair, 1) for pair in zip(first, second, strict=True)), ForwardSpec())[:, -5:]
    assert float((packed - alone).abs().max() / alone.abs().max()) > TOLERANCE[torch.float32], "it would look like a leak"
    self_test(model, ForwardSpec())


def test_a_leak_is_found_before_the_weights_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = transformers.AutoConfig.for_model("bloom", vocab_size=64, hidden_size=32, n_layer=2, n_head=4)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(ModelError, match="packed samples see each other in BloomForCausalLM"):
        load_model(tmp_path, Machine(device="cpu"), vocabulary=64, packed=True)


@pytest.mark.parametrize(("heads", "keys", "found"), [(32, 8, (4, 1)), (32, 32, (2, 2)), (24, 2, None), (5, 1, None)])
def test_a_wide_model_is_tried_with_fewer_heads(monkeypatch: pytest.MonkeyPatch, heads: int, keys: int, found: tuple[int, int] | None):
    """As many to a key, and of the same size; None where they cannot be halved so far."""
    monkeypatch.setattr(self_test_module, "MOST_PARAMETERS", 200_000)
    config = transformers.LlamaConfig(hidden_size=32 * heads, num_attention_heads=heads, num_key_value_heads=keys)
    small = small_model(config, "eager", torch.device("cpu"))
    if found is None:
        assert small is None
    else:
        assert (small.config.num_attention_heads, small.config.num_key_value_heads) == found
        assert small.config.hidden_size // small.config.num_attention_heads == 32
        assert small(torch.tensor([[1, 2, 3]])).logits.isfinite().all()


def test_a_small_model_of_text_and_images_is_small_in_each_part():
    config = transformers.Gemma3Config(vision_config={"num_hidden_layers": 20})
    small = small_model(config, "eager", torch.device("cpu"))
    assert small.config.vision_config.num_hidden_layers == 1
    assert small.config.text_config.vocab_size == 128
    assert set(small.config.text_config.layer_types) == {"sliding_attention", "full_attention"}
    assert config.vision_config.num_hidden_layers == 20


def test_a_small_model_keeps_every_kind_of_layer():
    config = transformers.AutoConfig.for_model("gemma3_text", num_hidden_layers=26)
    small = small_model(config, "eager", torch.device("cpu"))
    assert set(small.config.layer_types) == {"sliding_attention", "full_attention"}
    assert config.num_hidden_layers == 26


def a_base(folder: Path, extra: dict[str, str]) -> Path:
    """A random llama in two shards with its index, and further safetensors: name → name of the tensor in it."""
    model = random_model("llama", "sdpa")
    model.save_pretrained(folder, max_shard_size="30KB")
    for name, tensor in extra.items():
        save_file({tensor: torch.zeros(64, 32)}, folder / name)
    return folder


def test_files_that_the_index_does_not_name_are_no_part_of_the_model(tmp_path: Path):
    plain, beside = a_base(tmp_path / "plain", {}), a_base(tmp_path / "beside", {"consolidated.safetensors": "tok_embeddings.weight"})
    facts = []
    for folder in (plain, beside):
        (tmp_path / f"pin-{folder.name}").mkdir()
        found = pin(Model(base_model=str(folder)), tmp_path, tmp_path / f"pin-{folder.name}")
        facts.append(found)
        written = json.loads((tmp_path / f"pin-{folder.name}" / "pin.json").read_text())
        assert "consolidated.safetensors" not in [entry["file"] for entry in written["files"]]
    assert facts[1] == facts[0], "the artifact is that of the model alone"
    assert [left_out(Model(base_model=str(folder)), tmp_path) for folder in (plain, beside)] == [[], ["consolidated.safetensors"]]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / INDEX).unlink(), f"but neither {SINGLE} nor {INDEX}, which say what the model is"),
        (lambda folder: (folder / INDEX).write_text("[]"), f"{INDEX}: is not an index of weights, wanted JSON with a mapping weight_map"),
        (lambda folder: sorted(folder.glob("*.safetensors"))[0].unlink(), f"{INDEX}: names .*, which is not in the folder"),
        (
            lambda folder: shutil.copyfile(*[sorted(folder.glob("*.safetensors"))[i] for i in (0, 1)]),
            "is in .*safetensors and in .*safetensors, so it is not clear which is the model's; remove one of the files",
        ),
    ],
)
def test_weights_that_are_not_clear_are_refused(tmp_path: Path, break_it, message: str):
    folder = a_base(tmp_path / "base", {})
    break_it(folder)
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match=message):
        pin(Model(base_model=str(folder)), tmp_path, tmp_path / "out")
