"""Configs: the reference's fields and defaults, its files both ways, labels in every combination, clear errors."""

import copy
import dataclasses
import json
import pickle

import pytest
import torch
import transformers

from minihf.checkpoints.files import CheckpointError
from minihf.models.auto import AutoConfig
from minihf.models.bert import BertConfig
from minihf.models.gpt2 import GPT2Config

PAIRS = [(BertConfig, transformers.BertConfig), (GPT2Config, transformers.GPT2Config)]
BOTH = pytest.mark.parametrize("ours, theirs", PAIRS, ids=["bert", "gpt2"])
CLASSES = pytest.mark.parametrize("cls", [BertConfig, GPT2Config])

# Where the two differ on purpose.
NOT_OURS = {
    "transformers_version",  # written by the reference alone
    "chunk_size_feed_forward",  # changes memory, never a number; kept where a file has it
}
NOT_THEIRS = {
    "output_attentions",  # a property there
    "attn_implementation",  # likewise
    "classifier_dropout",  # of GPT-2: read there where a file has it
    "tie_word_embeddings",  # in every config here
}

# A value for each field that is not its default.
OTHER = {
    "bert": {
        "vocab_size": 41, "hidden_size": 15, "num_hidden_layers": 3, "num_attention_heads": 5, "intermediate_size": 22,
        "hidden_act": "silu", "hidden_dropout_prob": 0.25, "attention_probs_dropout_prob": 0,
        "max_position_embeddings": 33, "type_vocab_size": 3, "initializer_range": 0.5, "layer_norm_eps": 1e-6,
        "classifier_dropout": 0.75, "pad_token_id": 7, "bos_token_id": 8, "eos_token_id": [9, 10], "is_decoder": True,
        "add_cross_attention": True, "use_cache": False, "tie_word_embeddings": False, "problem_type": "regression",
        "output_hidden_states": True, "output_attentions": True, "architectures": ["BertModel"], "dtype": "bfloat16",
        "is_encoder_decoder": False, "return_dict": True, "id2label": {0: "no", 1: "yes", 2: "what"},
        "label2id": {"no": 0, "yes": 1, "what": 2},
    },
    "gpt2": {
        "vocab_size": 41, "n_positions": 33, "n_embd": 15, "n_layer": 3, "n_head": 5, "n_inner": 22,
        "activation_function": "relu", "resid_pdrop": 0.25, "embd_pdrop": 0, "attn_pdrop": 0.75,
        "layer_norm_epsilon": 1e-6, "initializer_range": 0.5, "scale_attn_weights": False,
        "scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True, "summary_type": "mean",
        "summary_use_proj": False, "summary_activation": "tanh", "summary_proj_to_labels": False,
        "summary_first_dropout": 0.5, "classifier_dropout": 0.375, "add_cross_attention": True, "use_cache": False,
        "bos_token_id": 7, "eos_token_id": [8, 9], "pad_token_id": 10, "tie_word_embeddings": False,
        "problem_type": "regression", "output_hidden_states": True, "output_attentions": True,
        "architectures": ["GPT2Model"], "dtype": "bfloat16", "is_encoder_decoder": False, "return_dict": True,
        "id2label": {0: "no", 1: "yes", 2: "what"}, "label2id": {"no": 0, "yes": 1, "what": 2},
    },
}


def plain(value):
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value


def write(folder, **values):
    (folder / "config.json").write_text(json.dumps(values))
    return folder


# Fields and files.


@BOTH
def test_every_default_is_the_references(ours, theirs):
    a, b = ours(), theirs()
    here, there = ({field.name for field in dataclasses.fields(config)} for config in (a, b))
    assert there - here <= NOT_OURS
    assert here - there <= NOT_THEIRS
    different = {n: (getattr(a, n), getattr(b, n)) for n in here & there if getattr(a, n) != getattr(b, n)}
    assert different == {}
    assert (a.output_attentions, a.num_labels) == (b.output_attentions, b.num_labels)
    assert a.model_type == b.model_type


@BOTH
def test_every_field_has_another_value_above(ours, theirs):
    """So that the round trips below leave none out."""
    changed = OTHER[ours.model_type]
    assert {field.name for field in dataclasses.fields(ours)} == set(changed)
    alike = {n for n, v in changed.items() if v == getattr(ours(), n)}
    assert alike == {"is_encoder_decoder", "return_dict"}


@BOTH
def test_saved_by_us_read_by_the_reference(ours, theirs, tmp_path):
    config = ours(**OTHER[ours.model_type])
    config.save_pretrained(tmp_path)
    read = transformers.AutoConfig.from_pretrained(tmp_path)
    assert type(read) is theirs
    assert {n: plain(getattr(read, n)) for n in OTHER[ours.model_type]} == OTHER[ours.model_type]


@BOTH
def test_saved_by_the_reference_read_by_us(ours, theirs, tmp_path):
    theirs(**OTHER[ours.model_type]).save_pretrained(tmp_path)
    read = AutoConfig.from_pretrained(tmp_path)
    assert type(read) is ours
    assert {n: getattr(read, n) for n in OTHER[ours.model_type]} == OTHER[ours.model_type]
    assert ours.from_pretrained(tmp_path) == read


@BOTH
def test_defaults_go_both_ways(ours, theirs, tmp_path):
    ours().save_pretrained(tmp_path)
    assert transformers.AutoConfig.from_pretrained(tmp_path).to_diff_dict() | {"transformers_version": None} == (
        theirs().to_diff_dict() | {"transformers_version": None}
    )
    theirs().save_pretrained(tmp_path)
    assert ours.from_pretrained(tmp_path) == ours()


@CLASSES
@pytest.mark.parametrize("name", ["bos_token_id", "eos_token_id", "pad_token_id"])
def test_a_none_is_a_value_and_survives_a_round_trip(cls, name, tmp_path):
    """GPT-2's end token is 50256 by default: a toy model without one must not get it back from its own file."""
    cls(**{name: None}).save_pretrained(tmp_path)
    assert getattr(cls.from_pretrained(tmp_path), name) is None
    assert getattr(transformers.AutoConfig.from_pretrained(tmp_path), name) is None


@CLASSES
def test_unknown_keys_are_kept_and_written_back(cls, tmp_path):
    extra = {"task_specific_params": {"a": [1, None]}, "note": "x", "zero": 0, "false": False, "hidden_dropout": 0.3}
    config = cls.from_pretrained(write(tmp_path, model_type=cls.model_type, **extra))
    assert {name: getattr(config, name) for name in extra} == extra
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert {name: saved[name] for name in extra} == extra


def test_other_names_of_fields(tmp_path):
    """Read and written under either name; saved under the field's own."""
    other = {"hidden_size": 24, "max_position_embeddings": 9, "num_attention_heads": 4, "num_hidden_layers": 5}
    names = GPT2Config.attribute_map
    assert names == transformers.GPT2Config.attribute_map
    for values in (other, {names[n]: v for n, v in other.items()}):
        config = GPT2Config(**values)
        assert {n: getattr(config, n) for n in other} == other == {n: getattr(config, names[n]) for n in other}
        assert not set(config.to_dict()) & set(names)
    config.hidden_size = 48
    assert config.n_embd == 48 == config.to_dict()["n_embd"]
    with pytest.raises(ValueError, match="n_embd"):
        GPT2Config(hidden_size=0)
    write(tmp_path, model_type="gpt2", hidden_size=24, n_head=4)
    assert GPT2Config.from_pretrained(tmp_path).n_embd == 24
    assert AutoConfig.from_pretrained(tmp_path, n_embd=36).hidden_size == 36
    assert AutoConfig.from_pretrained(tmp_path, hidden_size=36).n_embd == 36
    write(tmp_path, model_type="gpt2", n_embd=24, n_head=4)
    assert AutoConfig.from_pretrained(tmp_path, hidden_size=36).n_embd == 36
    with pytest.raises(AttributeError, match="BertConfig has no 'n_embd'"):
        _ = BertConfig().n_embd


@CLASSES
def test_copies_are_equal_and_apart(cls):
    config = cls(**OTHER[cls.model_type], note="kept", attn_implementation="eager")
    for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)), cls.from_dict(config.to_dict())):
        assert other.to_dict() == config.to_dict()
        other.id2label[0] = "changed"
        assert config.id2label[0] == "no"


@CLASSES
def test_no_two_configs_share_a_default(cls):
    one, two = cls(), cls()
    one.id2label[0] = "changed"
    assert two.id2label[0] == "LABEL_0"


# dtype and attn_implementation.


@CLASSES
def test_dtype_by_either_name_and_in_every_form(cls, tmp_path):
    for value in (torch.float16, "float16", "torch.float16"):
        assert cls(dtype=value).dtype == cls(torch_dtype=value).dtype == "float16"
    assert cls(torch_dtype=None).dtype is None
    assert cls(torch_dtype=None, dtype="bfloat16").dtype == "bfloat16"
    assert "torch_dtype" not in cls(torch_dtype="float16").to_dict()


@BOTH
def test_of_two_names_of_dtype_the_modern_one_wins(ours, theirs):
    assert plain(theirs(dtype="float16", torch_dtype="float32").dtype) == "float16"
    assert ours(dtype="float16", torch_dtype="float32").dtype == "float16"


@CLASSES
def test_the_implementation_is_not_the_checkpoints_business(cls, tmp_path):
    assert cls().attn_implementation == "sdpa"
    config = cls(attn_implementation="eager")
    config.save_pretrained(tmp_path)
    assert "eager" not in (tmp_path / "config.json").read_text()
    assert AutoConfig.from_pretrained(tmp_path).attn_implementation == "sdpa"
    assert AutoConfig.from_pretrained(tmp_path, attn_implementation="eager").attn_implementation == "eager"
    for make in (lambda: cls(attn_implementation="flash"), lambda: setattr(config, "attn_implementation", "flash")):
        with pytest.raises(ValueError, match=r"attn_implementation='flash'.*sdpa, eager"):
            make()
    assert config.attn_implementation == "eager"


# Labels.

NAMES = {0: "a", 1: "b", 2: "c"}
BACK = {"a": 0, "b": 1, "c": 2}
LABELS = [
    {},
    {"num_labels": 1},
    {"num_labels": 2},
    {"num_labels": 5},
    {"id2label": NAMES, "label2id": BACK},
    {"id2label": NAMES, "label2id": BACK, "num_labels": 3},
    {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": BACK},
    {"id2label": {0: "x", 1: "x"}, "label2id": {"x": 1}},
]


@BOTH
@pytest.mark.parametrize("given", LABELS, ids=str)
def test_labels_are_the_references(ours, theirs, given):
    a, b = ours(**copy.deepcopy(given)), theirs(**copy.deepcopy(given))
    assert (a.num_labels, a.id2label) == (b.num_labels, b.id2label)
    if "label2id" not in given or len(given["label2id"]) == len(given["id2label"]):
        assert a.label2id == b.label2id


@BOTH
@pytest.mark.parametrize("in_file", LABELS[:6], ids=str)
@pytest.mark.parametrize("change", [{}, *LABELS[1:3], {"num_labels": 3}, LABELS[4]], ids=str)
def test_labels_changed_while_loading_are_the_references(ours, theirs, in_file, change, tmp_path):
    """As many labels as the file names keep their names; another number makes new ones."""
    theirs(**copy.deepcopy(in_file)).save_pretrained(tmp_path)
    a = ours.from_pretrained(tmp_path, **copy.deepcopy(change))
    b = theirs.from_pretrained(tmp_path, **copy.deepcopy(change))
    assert (a.num_labels, a.id2label, a.label2id) == (b.num_labels, b.id2label, b.label2id)


@CLASSES
def test_one_of_the_two_maps_is_enough(cls, tmp_path):
    assert cls(id2label=NAMES).label2id == BACK
    assert cls(label2id=BACK).id2label == NAMES
    assert cls(label2id=BACK, num_labels=3).id2label == NAMES
    cls(num_labels=2).save_pretrained(tmp_path)
    assert cls.from_pretrained(tmp_path, id2label=NAMES).label2id == BACK
    assert cls.from_pretrained(tmp_path, label2id=BACK).id2label == NAMES


@CLASSES
def test_labels_survive_a_save(cls, tmp_path):
    named, plain_names = {"no": 0, "yes": 1}, {0: "LABEL_0", 1: "LABEL_1"}
    more = [{"label2id": named}, {"id2label": {0: "LABEL_0", 1: "x"}}, {"id2label": plain_names, "label2id": named}]
    for given in (*LABELS, *more):
        config = cls(**copy.deepcopy(given))
        config.save_pretrained(tmp_path)
        again = cls.from_pretrained(tmp_path)
        assert (again.id2label, again.label2id) == (config.id2label, config.label2id)
        assert transformers.AutoConfig.from_pretrained(tmp_path).id2label == config.id2label


@BOTH
def test_setting_the_number_renames_only_where_it_changes(ours, theirs):
    for number in (3, 4):
        a, b = ours(id2label=dict(NAMES), label2id=dict(BACK)), theirs(id2label=dict(NAMES), label2id=dict(BACK))
        a.num_labels = b.num_labels = number
        assert (a.num_labels, a.id2label, a.label2id) == (b.num_labels, b.id2label, b.label2id)


@CLASSES
@pytest.mark.parametrize(
    "given",
    [
        {"num_labels": 4, "id2label": NAMES},
        {"num_labels": 0},
        {"num_labels": -1},
        {"num_labels": "3"},
        {"num_labels": 2.0},
        {"num_labels": True},
        {"num_labels": 2**40},
        {"id2label": {}},
        {"id2label": ["a", "b"]},
        {"id2label": "ab"},
        {"id2label": {"zero": "a"}},
        {"label2id": ["a", "b"]},
        {"label2id": {"a": "zero"}},
        {"label2id": {"a": None}},
    ],
    ids=str,
)
@pytest.mark.timeout(20)
def test_labels_that_make_no_head(cls, given, tmp_path):
    """A ValueError that names what is wrong, and through a file one that names the file too."""
    named = "num_labels|id2label|label2id"
    with pytest.raises(ValueError, match=named):
        cls(**copy.deepcopy(given))
    with pytest.raises(CheckpointError, match=rf"config\.json.*({named})"):
        cls.from_pretrained(write(tmp_path, model_type=cls.model_type, **given))


# Values that make no model.

BAD = {
    "bert": [
        *[(n, v) for n in ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size",
                           "max_position_embeddings", "type_vocab_size")
          for v in (0, -1, 2**40, "12", 12.0, None, [12], True)],
        *[("num_hidden_layers", v) for v in (-1, 10**9, "2", None)],
        ("num_attention_heads", 5),
        ("num_attention_heads", 10**30),
        *[(n, v) for n in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
          for v in (-0.1, 1.5, float("nan"), "0.1")],
        *[("hidden_act", v) for v in ("swiglu", None, 3, ["gelu"])],
        ("position_embedding_type", "relative_key"),
        ("position_embedding_type", "relative_key_query"),
        *[("layer_norm_eps", v) for v in (-1e-5, float("nan"), float("inf"), "1e-12", None)],
        *[("initializer_range", v) for v in (-0.02, float("nan"), float("inf"), "0.02")],
        *[("pad_token_id", v) for v in (30522, -30523, 10**12, "0", 1.5)],
        *[("tie_word_embeddings", v) for v in ("yes", 1)],
        *[("is_decoder", v) for v in ("true", 0)],
        ("add_cross_attention", True),
        ("eos_token_id", "</s>"),
        ("problem_type", "ranking"),
        ("problem_type", 3),
        *[("dtype", v) for v in ("banana", "int8", 5, "nn", ["float32"])],
        ("architectures", "BertModel"),
        ("output_hidden_states", "yes"),
        ("attn_implementation", "flash_attention_2"),
    ],
    "gpt2": [
        *[(n, v) for n in ("vocab_size", "n_positions", "n_embd", "n_head", "n_inner")
          for v in (0, -1, 2**40, "12", 12.0)],
        *[("n_layer", v) for v in (-1, 10**9, "2", None)],
        ("n_head", 5),
        *[(n, v) for n in ("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout")
          for v in (-1, 2, None, "0")],
        *[("activation_function", v) for v in ("swiglu", None, {})],
        *[("summary_type", v) for v in ("attn", "median", None)],
        ("summary_activation", "swiglu"),
        *[("layer_norm_epsilon", v) for v in (-1e-5, float("nan"), "0")],
        *[("initializer_range", v) for v in (-0.02, float("nan"))],
        *[("scale_attn_weights", v) for v in (1, "no", None)],
    ],
}


@pytest.mark.parametrize(
    "cls, name, value",
    [(cls, name, value) for cls, _ in PAIRS for name, value in BAD[cls.model_type]],
    ids=lambda x: str(getattr(x, "__name__", x)),
)
@pytest.mark.timeout(20)
def test_a_value_that_makes_no_model_is_named(cls, name, value, tmp_path):
    """At the constructor a ValueError that names the field; through a file one that names the file too."""
    with pytest.raises(ValueError, match=name) as raised:
        cls(**{name: value})
    assert len(str(raised.value)) < 1000
    write(tmp_path, model_type=cls.model_type, **{name: value})
    for read in (cls.from_pretrained, AutoConfig.from_pretrained):
        with pytest.raises(CheckpointError, match=rf"config\.json.*{name}"):
            read(tmp_path)


def test_all_wrong_types_are_told_at_once():
    with pytest.raises(ValueError, match=r"hidden_size='a'.*use_cache=3") as error:
        BertConfig(hidden_size="a", use_cache=3, vocab_size=7)
    assert "vocab_size" not in str(error.value)


def test_values_that_are_unusual_and_right():
    BertConfig(num_hidden_layers=0, layer_norm_eps=0, hidden_dropout_prob=0, attention_probs_dropout_prob=1)
    BertConfig(position_embedding_type="absolute", type_vocab_size=1, initializer_range=0)
    BertConfig(pad_token_id=30521, problem_type="regression", dtype="float64")
    GPT2Config(n_layer=0, n_inner=1, summary_activation="tanh", eos_token_id=[1, 2], pad_token_id=None)


@CLASSES
@pytest.mark.parametrize("key", ["to_dict", "check", "save_pretrained", "from_dict", "require_sizes"])
def test_a_key_that_is_the_name_of_a_method_is_refused(cls, key, tmp_path):
    """It would stand where the method was: a surprise in a later save."""
    write(tmp_path, model_type=cls.model_type, **{key: 3})
    with pytest.raises(CheckpointError, match=rf"config\.json.*{key}"):
        cls.from_pretrained(tmp_path)


@CLASSES
@pytest.mark.parametrize(
    "key, value",
    [
        ("_attn_implementation", "flash_attention_2"),  # a surprise in the first forward
        ("_name_or_path", "bert-base-uncased"),
        ("_check_types", 3),
        ("__dict__", {"vocab_size": 7}),
        ("__class__", "GPT2Config"),
    ],
)
def test_a_private_key_of_a_file_changes_nothing(cls, key, value, tmp_path):
    """Older releases wrote some, about their own workings; the reference does not write them back either."""
    write(tmp_path, model_type=cls.model_type, **{key: value})
    config = cls.from_pretrained(tmp_path)
    assert config == cls()
    assert config.attn_implementation == "sdpa"
    assert config.to_dict() == cls().to_dict()


def test_auto_config_for_model():
    config = AutoConfig.for_model("gpt2", hidden_size=24, n_head=4)
    assert type(config) is GPT2Config
    assert config.n_embd == 24
    with pytest.raises(ValueError, match=r"'llama9'.*bert.*gpt2"):
        AutoConfig.for_model("llama9")
