"""The ledger: whatever a file holds, each of its tensors and each parameter of the model is accounted for, once."""

import random
from pathlib import Path

import pytest
import torch

from minihf.checkpoints.files import CheckpointError
from minihf.checkpoints.format import TensorInfo
from minihf.checkpoints.ledger import Ledger, match, modern
from minihf.models import bert, gpt2

SIZES = {"hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 7}
BERT = bert.BertConfig(vocab_size=11, intermediate_size=5, **SIZES)
GPT2 = gpt2.GPT2Config(vocab_size=11, **SIZES)
BERT_CLASSES = [
    bert.BertModel, bert.BertForPreTraining, bert.BertForMaskedLM, bert.BertLMHeadModel,
    bert.BertForNextSentencePrediction, bert.BertForSequenceClassification, bert.BertForMultipleChoice,
    bert.BertForTokenClassification, bert.BertForQuestionAnswering,
]
GPT2_CLASSES = [
    gpt2.GPT2Model, gpt2.GPT2LMHeadModel, gpt2.GPT2DoubleHeadsModel, gpt2.GPT2ForSequenceClassification,
    gpt2.GPT2ForTokenClassification, gpt2.GPT2ForQuestionAnswering,
]
CLASSES = BERT_CLASSES + GPT2_CLASSES
STALE = {
    "bert": ["bert.embeddings.position_ids", "embeddings.position_ids", "bert.embeddings.token_type_ids"],
    "transformer": [
        "transformer.h.0.attn.bias", "h.0.attn.bias", "h.0.attn.masked_bias", "transformer.h.0.crossattention.bias",
        "h.0.crossattention.masked_bias",
    ],
}


def model_of(cls):
    with torch.device("meta"):
        return cls(BERT if cls in BERT_CLASSES else GPT2)


MODELS = {cls: model_of(cls) for cls in CLASSES}


def info(shape, dtype=torch.float32):
    return TensorInfo(Path("model.safetensors"), dtype, tuple(shape))


def file_of(cls, tied=False):
    """What a file saved from a model of this class holds."""
    gone = () if tied else cls.tied
    return {k: info(t.shape) for k, t in MODELS[cls].state_dict().items() if k not in gone}


def shapes(cls):
    return {name: p.shape for name, p in MODELS[cls].named_parameters(remove_duplicate=False)}


def matched(file, cls, tied=True):
    return match(
        file,
        shapes(cls),
        prefix=cls.base_model_prefix,
        is_base=MODELS[cls].base_model is MODELS[cls],
        heads=cls.heads,
        tied=cls.tied if tied else {},
    )


def check_account(ledger: Ledger, file, model) -> None:
    """The promise of `Ledger`'s docstring, in full."""
    mismatched = [key for key, _, _ in ledger.mismatched]
    of_file = [*ledger.loaded.values(), *ledger.other_head, *ledger.stale, *ledger.unexpected]
    of_file += [key for key, _ in ledger.wrong_dtype]
    assert len(of_file) == len(set(of_file))
    assert set(of_file) <= set(file)
    assert len(of_file) + len(mismatched) == len(file)
    of_model = [*ledger.loaded, *ledger.tied, *ledger.new, *mismatched, *ledger.missing]
    assert len(of_model) == len(set(of_model))
    assert set(of_model) <= set(model)
    assert len(of_model) + len(ledger.wrong_dtype) == len(model)
    for name, key in ledger.loaded.items():
        assert tuple(model[name]) == file[key].shape
        assert file[key].dtype.is_floating_point


@pytest.mark.parametrize("cls", CLASSES)
def test_its_own_file_fits_whole(cls):
    for tied in (False, True):
        file = file_of(cls, tied)
        ledger = matched(file, cls)
        check_account(ledger, file, shapes(cls))
        assert ledger.loaded == {key: key for key in file}
        assert set(ledger.tied) == (set() if tied else set(cls.tied))
        assert ledger.new == ledger.missing == ledger.mismatched == ledger.unexpected == ledger.other_head == []
        ledger.check("here", strict=True, ignore_mismatched_sizes=False)


@pytest.mark.parametrize(
    "theirs, ours", [(a, b) for kind in (BERT_CLASSES, GPT2_CLASSES) for a in kind for b in kind if a is not b]
)
def test_any_heads_file_fits_any_other_head(theirs, ours):
    """The base is loaded whole, the other head is named, the own one is new: never an error."""
    file = file_of(theirs)
    ledger = matched(file, ours)
    check_account(ledger, file, shapes(ours))
    ledger.check("here", strict=True, ignore_mismatched_sizes=True)
    assert ledger.missing == ledger.unexpected == ledger.stale == []
    prefix = ours.base_model_prefix + "."
    base = {name.removeprefix(prefix) for name in shapes(BERT_CLASSES[0] if ours in BERT_CLASSES else GPT2_CLASSES[0])}
    here = {name.removeprefix(prefix) for name in shapes(ours)}
    held = {key.removeprefix(prefix) for key in file}
    assert {name.removeprefix(prefix) for name in ledger.loaded} >= base & here & held
    for name in ledger.new:
        assert name.removeprefix(prefix).split(".")[0] in ours.heads


@pytest.mark.parametrize("cls", CLASSES)
def test_a_file_of_the_base_with_and_without_its_prefix(cls):
    base = BERT_CLASSES[0] if cls in BERT_CLASSES else GPT2_CLASSES[0]
    plain = file_of(base)
    for file in (plain, {f"{cls.base_model_prefix}.{key}": t for key, t in plain.items()}):
        ledger = matched(file, cls)
        check_account(ledger, file, shapes(cls))
        assert ledger.unexpected == ledger.missing == []
        assert len(ledger.loaded) == len(file) - ("pooler" in str(ledger.other_head)) * 2


@pytest.mark.parametrize("cls", CLASSES)
def test_stale_buffers_of_old_files_are_let_go(cls):
    stale = {key: info((1, 7), torch.int64) for key in STALE[cls.base_model_prefix]}
    stale |= {key: info((1, 1, 7, 7), torch.uint8) for key in stale if "attn" in key or "attention" in key}
    file = file_of(cls) | stale
    ledger = matched(file, cls)
    check_account(ledger, file, shapes(cls))
    assert set(ledger.stale) == set(stale)
    assert ledger.unexpected == []


def test_gamma_and_beta_are_weight_and_bias():
    assert modern("bert.embeddings.LayerNorm.gamma") == "bert.embeddings.LayerNorm.weight"
    assert modern("bert.embeddings.LayerNorm.beta") == "bert.embeddings.LayerNorm.bias"
    for key in ("gamma.weight", "bert.gammax", "alphabeta", "x.beta.y"):
        assert modern(key) == key
    for cls in BERT_CLASSES:
        names = {key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
                 for key, t in file_of(cls).items()}
        assert sum("gamma" in key for key in names) >= 3
        ledger = matched(names, cls)
        check_account(ledger, names, shapes(cls))
        assert len(ledger.loaded) == len(names)


@pytest.mark.parametrize("cls", [c for c in CLASSES if c.tied])
def test_tied_parameters(cls):
    both = file_of(cls, tied=True)
    for target, source in cls.tied.items():
        # once, under either name
        for gone in (target, source):
            file = {key: t for key, t in both.items() if key != gone}
            ledger = matched(file, cls)
            check_account(ledger, file, shapes(cls))
            assert ledger.tied == {gone: source if gone == target else target}
        # under neither: the source is absent, and the other is the same
        file = {key: t for key, t in both.items() if key not in (target, source)}
        ledger = matched(file, cls)
        check_account(ledger, file, shapes(cls))
        assert ledger.tied == {target: source}
        assert source in ledger.missing + ledger.new
        # not tied by the config: each is a parameter of its own
        file = {key: t for key, t in both.items() if key != target}
        ledger = matched(file, cls, tied=False)
        assert ledger.tied == {}
        assert target in ledger.new


def damaged(file, rng: random.Random, prefix: str):
    """A file with a few things wrong in it."""
    file = dict(file)
    for _ in range(rng.randint(0, 6)):
        key = rng.choice(sorted(file) or ["nothing.left"])
        t = file.get(key, info((2,)))
        match rng.randrange(9):
            case 0:
                file.pop(key, None)
            case 1:
                file[key + rng.choice([".x", "s", ".weight"])] = file.pop(key, t)
            case 2:
                file[key] = info((*t.shape, 2))
            case 3:
                file[rng.choice(["junk", "junk.weight", "classifier.junk", f"{prefix}.junk", ".", f"{prefix}."])] = t
            case 4:
                file[key] = info(t.shape, rng.choice([torch.int64, torch.bool, torch.uint8]))
            case 5:
                file[key.replace("weight", "gamma").replace("bias", "beta")] = t
            case 6:
                file[key.removeprefix(prefix + ".")] = t
            case 7:
                file[f"{prefix}.{key}"] = info((*t.shape, 3)) if rng.random() < 0.5 else t
            case 8:
                file = {k.removeprefix(prefix + "."): v for k, v in file.items()}
    items = list(file.items())
    if rng.random() < 0.5:
        rng.shuffle(items)
    return dict(items)


@pytest.mark.parametrize("theirs", CLASSES)
def test_damaged_files_are_accounted_for(theirs):
    """A hundred and fifty of them for each class: also in an order of their own, with a key under two names."""
    rng = random.Random(theirs.__name__)
    for trial in range(150):
        ours = rng.choice([theirs, theirs, *(BERT_CLASSES if theirs in BERT_CLASSES else GPT2_CLASSES)])
        file = damaged(file_of(theirs, tied=rng.random() < 0.5), rng, theirs.base_model_prefix)
        ledger = matched(file, ours, tied=rng.random() < 0.8)
        try:
            check_account(ledger, file, shapes(ours))
        except AssertionError as error:
            raise AssertionError(f"trial {trial}, {ours.__name__}: {file}") from error


def test_one_error_lists_everything_wrong():
    cls = bert.BertForMaskedLM
    file = file_of(cls)
    file["bert.embeddings.word_embeddings.weight"] = info((12, 6))
    file["bert.embeddings.LayerNorm.weight"] = info((6,), torch.int64)
    del file["bert.encoder.layer.0.output.dense.bias"]
    file["bert.encoder.layer.7.output.dense.bias"] = info((6,))
    ledger = matched(file, cls)
    lines = {
        "shape": "bert.embeddings.word_embeddings.weight: shape (12, 6) in the file, (11, 6) in the model",
        "dtype": "bert.embeddings.LayerNorm.weight: is torch.int64 in the file",
        "missing": "bert.encoder.layer.0.output.dense.bias: missing from the file",
        "unknown": "bert.encoder.layer.7.output.dense.bias: in the file, unknown to the model",
    }

    def told(**how):
        with pytest.raises(CheckpointError, match=r"^the/folder does not fit the model") as error:
            ledger.check("the/folder", **how)
        text = str(error.value)
        assert text.count("LayerNorm.weight") <= 1  # it is there: of a wrong dtype, and not missing too
        return {name for name, line in lines.items() if line in text}, text

    which, text = told(strict=True, ignore_mismatched_sizes=False)
    assert which == set(lines)
    assert "ignore_mismatched_sizes=True" in text
    assert "strict=False" in text
    assert told(strict=False, ignore_mismatched_sizes=False)[0] == {"shape", "dtype"}
    assert told(strict=True, ignore_mismatched_sizes=True)[0] == {"dtype", "missing", "unknown"}
    which, text = told(strict=False, ignore_mismatched_sizes=True)
    assert which == {"dtype"}
    assert "strict=False" not in text  # advice that would not help


def test_a_parameter_is_not_loaded_and_mismatched_at_once():
    """The same parameter under two names, of which one has another shape."""
    file = {"bert.pooler.dense.bias": info((5,)), "pooler.dense.bias": info((6,))} | file_of(bert.BertModel)
    for order in (1, -1):
        turned = dict(list(file.items())[::order])
        check_account(matched(turned, bert.BertModel), turned, shapes(bert.BertModel))


def test_as_dict_has_the_references_keys():
    file = file_of(bert.BertForPreTraining) | {"junk": info((1,))}
    told = matched(file, bert.BertForSequenceClassification).as_dict()
    assert told["missing_keys"] == {"classifier.weight", "classifier.bias"}
    assert "junk" not in told["missing_keys"]
    assert {"cls.seq_relationship.weight"} < told["unexpected_keys"]
    assert told["mismatched_keys"] == set()
    assert told["error_msgs"] == []
