"""Loading and saving: every class both ways with the reference, files of every kind, nothing left to chance."""

import copy
import json
import logging
import pickle
import random
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from minihf.checkpoints.experts import in_published_names
from minihf.checkpoints.files import CheckpointError
from minihf.models import auto, bert, gpt2
from minihf.models.auto import (
    ARCHITECTURES,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)

SIZES = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "max_position_embeddings": 19}
SIZES |= {"vocab_size": 37, "bos_token_id": 1, "eos_token_id": 2, "decoder_layers": 2, "decoder_attention_heads": 2}
CONFIGS = {
    "bert": lambda **changes: bert.BertConfig(**{**SIZES, "intermediate_size": 20, **changes}),
    "gpt2": lambda **changes: gpt2.GPT2Config(**{**SIZES, **changes}),
}
OTHER_SIZES = {"num_key_value_heads": 3, "intermediate_size": 20}  # where the defaults do not fit
for kind in ARCHITECTURES.keys() - CONFIGS.keys():
    sizes = {"pad_token_id": 0, **SIZES, **(OTHER_SIZES if kind in ("mistral", "mixtral") else {})}
    CONFIGS[kind] = lambda kind=kind, sizes=sizes, **changes: AutoConfig.for_model(kind, **{**sizes, **changes})
CLASSES = {
    name: getattr(import_module(f"minihf.models.{module}"), name)
    for module, tasks in ARCHITECTURES.values()
    for task, name in tasks.items()
    if task != "Config"
}
EVERY = pytest.mark.parametrize("name", CLASSES)
BASES = {kind: tasks["Model"] for kind, (_, tasks) in ARCHITECTURES.items()}


def family(name: str) -> str:
    return CLASSES[name].config_class.model_type


def fresh(name: str, **changes):
    return CLASSES[name](CONFIGS[family(name)](**changes)).eval()


@torch.no_grad()
def randomised(model):
    for parameter in model.parameters():
        parameter.normal_(std=0.3)
    return model


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """The folder of a randomised model of a class, saved once: to read, not to write."""
    folders = {}

    def folder(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            randomised(fresh(name)).save_pretrained(folders[name])
        return folders[name]

    return folder


@pytest.fixture
def rewritten(saved, tmp_path):
    """A folder like `saved(name)`, with other tensors."""

    def folder(name: str, change) -> Path:
        (tmp_path / "config.json").write_text((saved(name) / "config.json").read_text())
        held = load_file(saved(name) / "model.safetensors")
        save_file(change(held), tmp_path / "model.safetensors", {"format": "pt"})
        return tmp_path

    return folder


@pytest.fixture
def warned(caplog):
    """What loading has warned of."""
    caplog.set_level(logging.WARNING, logger="minihf")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "minihf.models.loading"]


@pytest.fixture
def unset_is_nan():
    """torch.empty gives NaN, so that memory that nobody set cannot pass for zeros."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


def same(ours, theirs) -> None:
    """Bit for bit, key for key."""
    a, b = ours.state_dict(), theirs.state_dict()
    assert set(a) == set(b) - computed(ours)
    assert [key for key in a if a[key].dtype != b[key].dtype or not torch.equal(a[key], b[key])] == []


def check_whole(model) -> None:
    assert not model.training
    assert not any(module.training for module in model.modules())
    for name, p in model.named_parameters():
        assert p.device.type == "cpu", name
        assert p.requires_grad, name
        assert p.is_leaf, name
        assert p.isfinite().all(), name
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if model.config.tie_word_embeddings:
        for target, source in model.tied.items():
            assert (parameters[target] is parameters[source]) == (target not in model.untied)


# Both ways, every class.


def computed(model) -> set[str]:
    """Tables that each side makes for itself; Marian's positions, which some of the reference's classes save."""
    return {name for name, _ in model.named_buffers()} - model.state_dict().keys()


@EVERY
def test_saved_by_us_the_reference_loads_strictly(name, saved):
    theirs, info = getattr(transformers, name).from_pretrained(saved(name), output_loading_info=True)
    ours = CLASSES[name].from_pretrained(saved(name))
    assert not any({*keys} - computed(ours) for keys in info.values()), info
    check_whole(ours)
    same(ours, theirs)
    assert theirs.config.architectures == [name]


@EVERY
def test_saved_by_the_reference_we_load_strictly(name, saved, tmp_path, warned):
    theirs = getattr(transformers, name).from_pretrained(saved(name))
    theirs.save_pretrained(tmp_path)
    ours, info = CLASSES[name].from_pretrained(tmp_path, output_loading_info=True)
    told = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs", "new", "missing", "other_head")
    assert not any(info[key] for key in told), info
    assert {*info["stale"]} <= computed(ours)
    tied = CLASSES[name].tied if ours.config.tie_word_embeddings else {}
    assert {tied.get(key, key) for key in info["tied"]} == set(tied.values())  # either of two may be in the file
    assert warned() == []
    check_whole(ours)
    same(ours, theirs)


@EVERY
def test_what_is_loaded_is_saved_again_byte_for_byte(name, saved, tmp_path):
    CLASSES[name].from_pretrained(saved(name)).save_pretrained(tmp_path)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / file).read_bytes() == (saved(name) / file).read_bytes()


@EVERY
def test_a_tied_parameter_is_written_once(name, saved):
    held = load_file(saved(name) / "model.safetensors")
    model = fresh(name)
    twice = set(model.tied if model.config.tie_word_embeddings else ())
    assert set(held) == set(in_published_names(model.state_dict())) - twice
    buffers = sum(held[name].numel() for name, _ in model.named_buffers() if name in held)
    assert sum(t.numel() for t in held.values()) == model.num_parameters() + buffers


@pytest.mark.parametrize("name", [name for name in CLASSES if CLASSES[name].tied])
def test_names_of_a_tied_parameter_share_no_memory_in_a_state_dict(name, tmp_path):
    """So that any writer of safetensors takes it."""
    model = fresh(name)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    model.config.save_pretrained(tmp_path)
    again = CLASSES[name].from_pretrained(tmp_path)
    for one in (model, again):
        themselves = one.state_dict(keep_vars=True)
        assert all(themselves[key] is x for key, x in one.named_parameters(remove_duplicate=False))
    assert len([*again.parameters()]) == len([*model.parameters()])


def test_every_auto_class_loads_its_class(saved):
    tasks = {k.removeprefix("AutoModel") or "Model": v for k, v in vars(auto).items() if k.startswith("AutoModel")}
    assert len(tasks) == 11
    for kind, (_, classes) in ARCHITECTURES.items():
        for task, cls in tasks.items():
            if task in classes:
                model = cls.from_pretrained(saved(BASES[kind]))
                assert type(model).__name__ == classes[task] == type(cls.from_config(model.config)).__name__


# One head's file in another's class.


@pytest.mark.parametrize(
    "theirs", ["BertModel", "BertForPreTraining", "BertForQuestionAnswering", "GPT2Model", "GPT2DoubleHeadsModel"]
)
def test_a_file_in_another_class(theirs, saved, warned, unset_is_nan):
    """The base is the file's; what the file lacks is new, and one warning names exactly that: the reference's keys."""
    held = load_file(saved(theirs) / "model.safetensors")
    for name in (n for n in CLASSES if family(n) == family(theirs) and n != theirs):
        before = len(warned())
        ours, info = CLASSES[name].from_pretrained(saved(theirs), output_loading_info=True)
        reference = getattr(transformers, name).from_pretrained(saved(theirs), output_loading_info=True)[1]
        assert info["missing_keys"] == set(reference["missing_keys"]) - set(info["tied"]), name
        assert info["unexpected_keys"] == set(reference["unexpected_keys"]), name
        check_whole(ours)
        state, prefix = ours.state_dict(), CLASSES[name].base_model_prefix + "."
        for key, tensor in held.items():
            mine = next((k for k in (key, prefix + key, key.removeprefix(prefix)) if k in state), None)
            if mine is not None:
                assert torch.equal(state[mine], tensor), (name, mine)
            else:
                assert key in info["unexpected_keys"]
        told = warned()[before:]
        assert len(told) == bool(info["missing_keys"])
        if told:
            listed = told[0].split("newly initialised: ")[1].removesuffix(". Train the model before you use it.")
            assert set(listed.split(", ")) == info["missing_keys"]
            assert name in told[0]
            assert str(saved(theirs)) in told[0]


@pytest.mark.parametrize(
    "name", ["BertForPreTraining", "BertForTokenClassification", "GPT2DoubleHeadsModel", "GPT2LMHeadModel"]
)
def test_missing_parameters_start_as_a_fresh_models_do(name, tmp_path, unset_is_nan):
    """All but one are missing: each gets the spread, the zeros and the ones of a model made anew."""
    sizes = {"hidden_size": 48, "vocab_size": 211, "max_position_embeddings": 64, "initializer_range": 0.5}
    new = fresh(name, **sizes)
    state = new.state_dict()
    kept = next(key for key in state if key.endswith(("position_embeddings.weight", "wpe.weight")))
    new.config.save_pretrained(tmp_path)
    save_file({kept: state[kept]}, tmp_path / "model.safetensors")
    loaded = CLASSES[name].from_pretrained(tmp_path, strict=False)
    check_whole(loaded)
    for key, value in loaded.state_dict().items():
        expected = state[key]
        if expected.std() == 0 or expected.numel() == 1:
            assert torch.equal(value, expected), key
        else:
            assert abs(value.std() / expected.std() - 1) < 8 / value.numel() ** 0.5, key
            assert torch.equal((value == 0).all(-1), (expected == 0).all(-1)), key  # the padding's row
    assert torch.equal(loaded.state_dict()[kept], state[kept])


@pytest.mark.parametrize("name", ["BertForMaskedLM", "GPT2LMHeadModel"])
def test_one_missing_parameter_changes_no_other(name, rewritten, saved, unset_is_nan):
    held = load_file(saved(name) / "model.safetensors")
    for gone in sorted(held)[::4]:
        folder = rewritten(name, lambda tensors, gone=gone: {k: t for k, t in tensors.items() if k != gone})
        loaded = CLASSES[name].from_pretrained(folder, strict=False)
        check_whole(loaded)
        state = loaded.state_dict()
        for key, tensor in held.items():
            if key != gone:
                assert torch.equal(state[key], tensor), (gone, key)
        if gone.split(".")[0] not in CLASSES[name].heads:
            with pytest.raises(CheckpointError, match=f"{gone}: missing"):
                CLASSES[name].from_pretrained(folder)


# Old and odd files.


def test_old_names_of_norms(rewritten, saved):
    """gamma and beta are read, and written back with modern names."""

    def old(tensors):
        names = ("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")
        for modern, former in names:
            tensors = {key.replace(modern, former): t for key, t in tensors.items()}
        return tensors

    folder = rewritten("BertForMaskedLM", old)
    assert sum("gamma" in key for key in load_file(folder / "model.safetensors")) == 6
    model = CLASSES["BertForMaskedLM"].from_pretrained(folder)
    same(model, CLASSES["BertForMaskedLM"].from_pretrained(saved("BertForMaskedLM")))
    model.save_pretrained(folder)
    assert not any("gamma" in key or "beta" in key for key in load_file(folder / "model.safetensors"))


def test_stale_buffers(rewritten, warned):
    old = {"bert.embeddings.position_ids": torch.arange(19)[None]}
    folder = rewritten("BertForMaskedLM", lambda t: t | old)
    _, info = CLASSES["BertForMaskedLM"].from_pretrained(folder, output_loading_info=True)
    assert info["stale"] == [*old]
    for prefix in ("transformer.", ""):
        old = {f"{prefix}h.{i}.attn.bias": torch.ones(1, 1, 19, 19).tril().bool() for i in (0, 1)}
        old |= {f"{prefix}h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in (0, 1)}
        folder = rewritten(
            "GPT2LMHeadModel", lambda t, p=prefix, o=old: {k.replace("transformer.", p): x for k, x in t.items()} | o
        )
        _, info = CLASSES["GPT2LMHeadModel"].from_pretrained(folder, output_loading_info=True)
        assert set(info["stale"]) == set(old)
        assert info["missing_keys"] == info["unexpected_keys"] == set()
    assert warned() == []


# Ties.

TIED = [
    ("GPT2LMHeadModel", "lm_head.weight", "transformer.wte.weight"),
    ("BertForMaskedLM", "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
]
TIES = pytest.mark.parametrize("name, target, source", TIED)


@TIES
def test_both_names_in_the_file_and_equal(name, target, source, rewritten, warned):
    folder = rewritten(name, lambda t: t | {target: t[source].clone()})
    model = CLASSES[name].from_pretrained(folder)
    check_whole(model)
    assert model.untied == set()
    assert model.get_parameter(target) is model.get_parameter(source)
    assert warned() == []


@TIES
def test_both_names_in_the_file_and_different(name, target, source, rewritten, warned, tmp_path):
    """The file means what it says: they stay two, are saved as two, and the reference reads the same."""
    other = torch.randn(37, 12)
    folder = rewritten(name, lambda t: t | {target: other})
    model = CLASSES[name].from_pretrained(folder)
    check_whole(model)
    assert model.untied == {target}
    assert torch.equal(model.get_parameter(target), other)
    assert not torch.equal(model.get_parameter(source), other)
    assert len(warned()) == 1
    assert target in warned()[0]
    assert source in warned()[0]
    model.save_pretrained(tmp_path / "again")
    same(CLASSES[name].from_pretrained(tmp_path / "again"), model)
    same(model, getattr(transformers, name).from_pretrained(tmp_path / "again"))
    copied = copy.deepcopy(model)
    copied.tie_weights()
    assert torch.equal(copied.get_parameter(target), other)


@TIES
def test_only_the_targets_name_in_the_file(name, target, source, rewritten, saved):
    folder = rewritten(name, lambda tensors: {target if k == source else k: t for k, t in tensors.items()})
    model = CLASSES[name].from_pretrained(folder)
    check_whole(model)
    same(model, CLASSES[name].from_pretrained(saved(name)))


@TIES
def test_untied_by_the_config(name, target, source, tmp_path, warned):
    model = randomised(fresh(name, tie_word_embeddings=False))
    assert model.get_parameter(target) is not model.get_parameter(source)
    model.save_pretrained(tmp_path)
    again = CLASSES[name].from_pretrained(tmp_path)
    check_whole(again)
    same(again, model)
    same(again, getattr(transformers, name).from_pretrained(tmp_path))
    assert again.get_parameter(target) is not again.get_parameter(source)
    assert warned() == []


@TIES
def test_untied_while_loading(name, target, source, saved, warned, unset_is_nan):
    """The file has no numbers for the output layer then: it is new, and named."""
    model = CLASSES[name].from_pretrained(saved(name), tie_word_embeddings=False)
    check_whole(model)
    assert model.get_parameter(target) is not model.get_parameter(source)
    assert not torch.equal(model.get_parameter(target), model.get_parameter(source))
    assert len(warned()) == 1
    assert target in warned()[0]


# Config and dtype while loading.


@pytest.mark.parametrize(
    "name", ["BertForSequenceClassification", "BertForTokenClassification", "GPT2ForSequenceClassification"]
)
def test_another_number_of_labels(name, saved, unset_is_nan):
    cls, base = CLASSES[name], saved(BASES[family(name)])
    names = {0: "a", 1: "b", 2: "c"}
    for change in ({"num_labels": 3}, {"id2label": names}, {"label2id": {v: k for k, v in names.items()}}):
        model = cls.from_pretrained(base, **change)
        head = model.score if family(name) == "gpt2" and "Sequence" in name else model.classifier
        assert head.out_features == model.config.num_labels == 3
        assert model.config.id2label == (names if "num_labels" not in change else {i: f"LABEL_{i}" for i in range(3)})
        check_whole(model)
    key = "score.weight" if family(name) == "gpt2" else "classifier.weight"
    with pytest.raises(CheckpointError, match=rf"{key}: shape \(2, 12\) in the file, \(3, 12\) in the model") as error:
        cls.from_pretrained(saved(name), num_labels=3)
    assert "ignore_mismatched_sizes=True" in str(error.value)
    model, info = cls.from_pretrained(saved(name), num_labels=3, ignore_mismatched_sizes=True, output_loading_info=True)
    check_whole(model)
    assert (key, (2, 12), (3, 12)) in info["mismatched_keys"]
    assert 0.005 < model.get_parameter(key).std() < 0.06  # new, as a fresh model's


def test_any_field_of_the_config(saved):
    model = AutoModel.from_pretrained(saved("BertModel"), hidden_dropout_prob=0.5, hidden_act="relu")
    assert model.embeddings.dropout.p == 0.5
    assert model.config.hidden_act == "relu"
    model = AutoModel.from_pretrained(saved("GPT2Model"), attn_pdrop=0.25, attn_implementation="eager")
    assert model.h[0].attn.attn_dropout.p == 0.25
    assert model.config.attn_implementation == "eager"
    with pytest.raises(CheckpointError, match="hidden_size"):
        AutoModel.from_pretrained(saved("BertModel"), hidden_size=13)
    with pytest.raises(CheckpointError, match=r"position_embeddings\.weight: shape"):
        AutoModel.from_pretrained(saved("BertModel"), max_position_embeddings=20)


@pytest.mark.parametrize(
    "wrong, near",
    [
        ("num_label", "num_labels"),
        ("dtyp", "dtype"),
        ("hiden_dropout_prob", "hidden_dropout_prob"),
        ("ignore_mismatched_size", "ignore_mismatched_sizes"),
        ("attention_implementation", "attn_implementation"),
        ("out_loading_info", "output_loading_info"),
        ("sub_folder", "subfolder"),
        ("local_file_only", "local_files_only"),
        ("zzz", None),
    ],
)
def test_an_unknown_keyword(wrong, near, saved):
    for cls in (CLASSES["BertForSequenceClassification"], AutoModelForSequenceClassification):
        with pytest.raises(TypeError, match=rf"{wrong!r}") as error:
            cls.from_pretrained(saved("BertModel"), **{wrong: 3})
        assert (f"did you mean {near!r}?" in str(error.value)) if near else "did you mean" not in str(error.value)


def test_a_given_config_is_used_and_not_changed(saved):
    """Neither by what this model is loaded with, nor by what happens to it later."""
    config = CONFIGS["bert"](num_labels=5, hidden_act="relu")
    before = copy.deepcopy(config.to_dict())
    eager = AutoModelForSequenceClassification.from_pretrained(
        saved("BertModel"), config=config, attn_implementation="eager", dtype="bfloat16"
    )
    assert eager.config.num_labels == 5
    assert eager.config.attn_implementation == "eager"
    assert config.to_dict() == before
    assert config.attn_implementation == "sdpa"
    other = AutoModel.from_pretrained(saved("BertModel"), config=config)
    assert other.config.attn_implementation == "sdpa"
    with pytest.raises(TypeError, match="num_labels"):
        AutoModel.from_pretrained(saved("BertModel"), config=config, num_labels=3)
    with pytest.raises(TypeError, match=r"BertConfig.*GPT2Config"):
        CLASSES["BertModel"].from_pretrained(saved("BertModel"), config=CONFIGS["gpt2"]())


@pytest.mark.parametrize("in_config", [None, "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("in_file", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtype(in_config, in_file, rewritten):
    """auto: the config's, else that of the file's first tensor. In any case as the reference."""
    folder = rewritten("GPT2Model", lambda tensors: {k: t.to(in_file) for k, t in tensors.items()})
    config = json.loads((folder / "config.json").read_text()) | {"dtype": in_config}
    if in_config is None:
        del config["dtype"]
    (folder / "config.json").write_text(json.dumps(config))
    exact = load_file(folder / "model.safetensors")
    cls = CLASSES["GPT2Model"]
    for how in (
        {},
        {"dtype": "auto"},
        {"dtype": None},
        {"dtype": torch.bfloat16},
        {"dtype": "float16"},
        {"dtype": "torch.float32"},
        {"torch_dtype": "float64"},
        {"torch_dtype": "float16", "low_cpu_mem_usage": True},
    ):
        model = cls.from_pretrained(folder, **how)
        expected = how.get("dtype", how.get("torch_dtype", "auto"))
        if expected == "auto":
            expected = in_config or in_file
            same(model, transformers.GPT2Model.from_pretrained(folder))
        expected = {None: torch.float32}.get(expected, expected)
        expected = getattr(torch, expected.removeprefix("torch.")) if isinstance(expected, str) else expected
        assert {p.dtype for p in model.parameters()} == {expected}
        assert model.dtype == expected
        assert model.config.dtype == str(expected).removeprefix("torch.")
        check_whole(model)
        for key, tensor in model.state_dict().items():
            assert torch.equal(tensor, exact[key].to(expected))


@pytest.mark.parametrize("dtype", ["banana", "int8", torch.int64, 5, "nn"])
def test_a_dtype_that_is_none(dtype, saved):
    with pytest.raises(ValueError, match=r"dtype=.*expected"):
        AutoModel.from_pretrained(saved("BertModel"), dtype=dtype)


def test_new_parameters_have_the_dtype_of_the_others(saved):
    model = AutoModelForSequenceClassification.from_pretrained(saved("BertModel"), dtype="bfloat16")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    check_whole(model)


def test_where_to_load_to(saved):
    for device in (None, "cpu", torch.device("cpu"), "auto"):
        assert AutoModel.from_pretrained(saved("BertModel"), device_map=device).device.type in ("cpu", "cuda")
    with pytest.raises(ValueError, match="device_map"):
        AutoModel.from_pretrained(saved("BertModel"), device_map={"": "cpu"})
    for refused in ({"trust_remote_code": True}, {"use_safetensors": False}):
        with pytest.raises(ValueError, match=next(iter(refused))):
            AutoModel.from_pretrained(saved("BertModel"), **refused)


# Files that do not fit.


def is_head(cls, key: str) -> bool:
    return key.removeprefix(cls.base_model_prefix + ".").split(".")[0] in cls.heads


def test_damaged_files_load_whole_or_not_at_all(saved, tmp_path, unset_is_nan):
    """Whatever is dropped, renamed, reshaped or added: the ledger accounts for it, and one error lists all of it."""
    rng = random.Random(3)
    for trial in range(40):
        name = rng.choice([*CLASSES])
        held = load_file(saved(name) / "model.safetensors")
        dropped, renamed, reshaped = (set(rng.sample(sorted(held), rng.randint(0, 2))) for _ in range(3))
        renamed -= dropped
        reshaped -= dropped | renamed
        tensors = {k: torch.zeros(3, 2) if k in reshaped else t for k, t in held.items() if k not in dropped | renamed}
        tensors |= {f"{k}_": held[k] for k in renamed} | {f"junk.{i}": torch.ones(2) for i in range(rng.randint(0, 2))}
        folder = tmp_path / str(trial)
        folder.mkdir()
        (folder / "config.json").write_text((saved(name) / "config.json").read_text())
        save_file(tensors, folder / "model.safetensors")

        cls = CLASSES[name]
        model, info = cls.from_pretrained(folder, strict=False, ignore_mismatched_sizes=True, output_loading_info=True)
        check_whole(model)
        mismatched = [key for key, _, _ in info["mismatched"]]
        of_file = [*info["loaded"].values(), *info["other_head"], *info["stale"], *info["unexpected"], *mismatched]
        assert sorted(of_file) == sorted(tensors)
        every = in_published_names(model.state_dict())
        assert sorted([*info["loaded"], *info["tied"], *info["new"], *info["missing"], *mismatched]) == sorted(every)
        assert set(mismatched) == reshaped
        for key, where in info["loaded"].items():
            assert torch.equal(every[key], tensors[where])

        base = {key for key in {*held, *tensors} if not is_head(cls, key)}
        lines = {f"{key}: shape (3, 2) in the file" for key in reshaped}
        lines |= {f"{key}: missing" for key in base & (dropped | renamed)}
        lines |= {f"{key}: in the file, unknown" for key in base - set(held)}
        if lines:
            with pytest.raises(CheckpointError) as error:
                cls.from_pretrained(folder)
            assert {line for line in lines if line not in str(error.value)} == set()
            assert str(folder) in str(error.value)
            assert str(error.value).count("\n  ") == len(lines)
        else:
            check_whole(cls.from_pretrained(folder))


def test_not_strict_loads_what_fits(rewritten, saved, warned):
    junk = {"junk": torch.ones(1)}
    folder = rewritten("BertModel", lambda tensors: {k: t for k, t in tensors.items() if "layer.1" not in k} | junk)
    with pytest.raises(CheckpointError, match="strict=False loads what fits"):
        AutoModel.from_pretrained(folder)
    model, info = AutoModel.from_pretrained(folder, strict=False, output_loading_info=True)
    check_whole(model)
    assert info["unexpected_keys"] == {"junk"}
    assert all("layer.1" in key for key in info["missing_keys"])
    assert len(info["missing_keys"]) == 16
    assert len(warned()) == 1
    assert all(key in warned()[0] for key in info["missing_keys"])


# Saving.


@pytest.mark.parametrize("name", ["BertForPreTraining", "GPT2LMHeadModel"])
def test_shards(name, saved, tmp_path):
    model = CLASSES[name].from_pretrained(saved(name))
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(shards) > 3
    assert not (tmp_path / "model.safetensors").exists()
    same(CLASSES[name].from_pretrained(tmp_path), model)
    theirs, info = getattr(transformers, name).from_pretrained(tmp_path, output_loading_info=True)
    same(model, theirs)
    assert not any(info.values())
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(model.tensors_to_save())
    # fewer shards, then one file: nothing of the earlier saves is left
    model.save_pretrained(tmp_path, max_shard_size=8000)
    fewer = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert 1 < len(fewer) < len(shards)
    same(CLASSES[name].from_pretrained(tmp_path), model)
    model.save_pretrained(tmp_path)
    left = {path.name for path in tmp_path.iterdir()} - {"generation_config.json"}
    assert left == {"config.json", "model.safetensors"}
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    assert not (tmp_path / "model.safetensors").exists()
    same(CLASSES[name].from_pretrained(tmp_path), model)


def test_shards_of_the_reference(saved, tmp_path):
    theirs = transformers.BertForPreTraining.from_pretrained(saved("BertForPreTraining"))
    theirs.save_pretrained(tmp_path, max_shard_size="4KB")
    assert len([*tmp_path.glob("*.safetensors")]) > 3
    same(CLASSES["BertForPreTraining"].from_pretrained(tmp_path), theirs)


@pytest.mark.parametrize("shard", ["50GB", "4KB"])
def test_save_over_the_folder_it_was_loaded_from(shard, saved, tmp_path):
    """Parameters are mapped from the very file that is replaced, and other models from it stay what they are."""
    cls = CLASSES["GPT2LMHeadModel"]
    cls.from_pretrained(saved("GPT2LMHeadModel")).save_pretrained(tmp_path, max_shard_size=shard)
    model, other = cls.from_pretrained(tmp_path), cls.from_pretrained(tmp_path)
    before = {k: t.clone() for k, t in other.state_dict().items()}
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight.add_(1)
    changed = {k: t.clone() for k, t in model.state_dict().items()}
    for size in (shard, "4KB", "50GB"):
        model.save_pretrained(tmp_path, max_shard_size=size)
        again = cls.from_pretrained(tmp_path).state_dict()
        assert all(torch.equal(again[k], t) for k, t in changed.items())
    assert all(torch.equal(other.state_dict()[k], t) for k, t in before.items())


def test_training_never_writes_to_the_file(saved):
    folder = saved("BertForSequenceClassification")
    before = (folder / "model.safetensors").read_bytes()
    model = AutoModelForSequenceClassification.from_pretrained(folder).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.randint(1, 37, (2, 5)), labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    assert (folder / "model.safetensors").read_bytes() == before
    assert not torch.equal(model.classifier.weight, load_file(folder / "model.safetensors")["classifier.weight"])


def test_copies_of_a_loaded_model(saved):
    model = CLASSES["GPT2LMHeadModel"].from_pretrained(saved("GPT2LMHeadModel"))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        same(other, model)
        check_whole(other)
        with torch.no_grad():
            other.transformer.wte.weight.zero_()
        assert model.transformer.wte.weight.abs().sum() > 0


def test_what_save_refuses(saved, tmp_path):
    model = AutoModel.from_pretrained(saved("BertModel"))
    with pytest.raises(ValueError, match="safetensors only"):
        model.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(ValueError, match="'many'"):
        model.save_pretrained(tmp_path, max_shard_size="many")
    assert not [*tmp_path.glob("*.safetensors")]
    model.save_pretrained(tmp_path / "a" / "b")
    same(AutoModel.from_pretrained(tmp_path / "a", subfolder="b"), model)
    same(AutoModel.from_pretrained(str(tmp_path / "a" / "b")), model)


def test_the_generation_config_goes_with_the_model(saved, tmp_path):
    """Loaded with a checkpoint, it is saved with it: a fine-tuned model must not forget its end tokens."""
    folder = tmp_path / "theirs"
    theirs = transformers.GPT2LMHeadModel.from_pretrained(saved("GPT2LMHeadModel"))
    settings = {"eos_token_id": [5, 6], "pad_token_id": 0, "do_sample": True, "top_k": 7, "temperature": 0.5}
    theirs.generation_config = transformers.GenerationConfig(**settings)
    theirs.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.generation_config.eos_token_id == [5, 6]
    model.save_pretrained(tmp_path / "ours")
    read = transformers.GenerationConfig.from_pretrained(tmp_path / "ours")
    assert {name: getattr(read, name) for name in settings} == settings
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert again.generation_config.to_dict() == model.generation_config.to_dict()


@pytest.mark.parametrize("of_config", [None, "bfloat16"])
@pytest.mark.parametrize("how", [{}, {"dtype": "float16"}, {"torch_dtype": torch.float16}, {"dtype": None}])
def test_from_config_makes_the_dtype_that_the_reference_makes(of_config, how):
    """auto, as it is unsaid: the config's. The constructor alone is float32, whatever the config says."""
    sizes = {"vocab_size": 11, "n_embd": 4, "n_layer": 1, "n_head": 2, "n_positions": 5, "dtype": of_config}
    theirs = transformers.AutoModel.from_config(transformers.GPT2Config(**sizes), **how)
    config = CONFIGS["gpt2"](**sizes)
    assert AutoModel.from_config(config, **how).dtype == theirs.dtype
    assert config.dtype == of_config
    assert CLASSES["GPT2Model"](config).dtype == torch.float32


def test_from_config(unset_is_nan):
    for name in CLASSES:
        model = CLASSES[name].from_config(CONFIGS[family(name)](), dtype=torch.bfloat16)
        assert model.dtype == torch.bfloat16
        assert all(p.isfinite().all() for p in model.parameters())
    with pytest.raises(TypeError, match=r"BertConfig.*GPT2Config"):
        CLASSES["BertModel"](CONFIGS["gpt2"]())
    with pytest.raises(TypeError, match="from_pretrained"):
        AutoModel()


# Memory.

MEASURE = """
import sys
from minihf.models.auto import AutoModel, AutoModelForCausalLM
def private():
    lines = dict(line.split(":") for line in open("/proc/self/smaps_rollup").read().splitlines()[1:])
    return sum(int(lines[name].split()[0]) for name in ("Private_Clean", "Private_Dirty", "Private_Hugetlb"))
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
small, large = sys.argv[1:]
AutoModel.from_pretrained(small)  # what the first load of any model brings along
before, high = private(), peak()
model = AutoModelForCausalLM.from_pretrained(large)
print(private() - before, peak() - high)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="counts memory as Linux does")
def test_loading_maps_the_file(saved, tmp_path):
    """Of some 100 MB, less than 15 % is copied, at the peak and after."""
    config = CONFIGS["gpt2"](vocab_size=40_000, hidden_size=576, num_attention_heads=8)
    CLASSES["GPT2LMHeadModel"](config).save_pretrained(tmp_path)
    size = (tmp_path / "model.safetensors").stat().st_size / 1024
    assert size > 95_000
    command = [sys.executable, "-c", MEASURE, str(saved("GPT2Model")), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    grown, peak = map(int, run.stdout.split())
    assert grown < 0.15 * size
    assert peak < 0.15 * size
