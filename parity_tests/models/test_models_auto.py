"""By name: the table, the Auto classes, and what is common to every model."""

import json
from importlib import import_module

import pytest
import torch
import transformers

from minihf.checkpoints.files import CheckpointError
from minihf.inspection.batches import takes
from minihf.models import auto
from minihf.models.auto import ARCHITECTURES, AutoConfig, AutoModel, class_for

AUTOS = {name: cls for name, cls in vars(auto).items() if name.startswith("AutoModel")}
SIZES = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "max_position_embeddings": 19}
SIZES |= {"vocab_size": 37, "pad_token_id": 0, "embedding_size": 12, "num_key_value_heads": 3, "intermediate_size": 20}
SIZES |= {"decoder_layers": 2, "decoder_attention_heads": 2}


def config(kind: str, **changes):
    return AutoConfig.for_model(kind, **{**SIZES, **changes})


def given(model, input_ids=None, **inputs):
    """For a model of any kind; an encoder-decoder's decoder needs ids, too."""
    decoder = {"decoder_input_ids": torch.tensor([[5, 6], [7, 8]])} if takes(model, "decoder_input_ids") else {}
    return {"input_ids": input_ids, **inputs, **decoder}


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("name", AUTOS)
def test_the_reference_chooses_the_same_class(kind, name):
    theirs = getattr(transformers, name)
    if (kind, name) == ("camembert", "AutoModelForTextEncoding"):  # which its table forgets, and ours has
        assert type(AUTOS[name].from_config(config(kind))).__name__ == "CamembertModel"
        return
    try:
        expected = theirs._model_mapping[type(transformers.AutoConfig.for_model(kind))]
    except KeyError:
        with pytest.raises(ValueError, match=f"{kind} has no class for {name}; it has AutoModel") as error:
            AUTOS[name].from_config(config(kind))
        assert "DoubleHeads" not in str(error.value)  # for which there is no Auto class
        return
    expected = expected[0] if isinstance(expected, tuple) else expected
    model = AUTOS[name].from_config(config(kind))
    assert type(model).__name__ == expected.__name__
    assert type(model) is class_for(kind, AUTOS[name].task)


def test_the_table_names_every_model_class_of_each_file():
    for kind, (module, tasks) in ARCHITECTURES.items():
        home = import_module(f"minihf.models.{module}")
        here = {
            name
            for name, value in vars(home).items()
            if isinstance(value, type)
            and getattr(value, "__module__", "") == home.__name__
            and hasattr(value, "config_class")
            and not any(part in name for part in ("PreTrainedModel", "Decoder", "Pair"))  # of which classes are made
        }
        assert here == {name for task, name in tasks.items() if task != "Config"}
        assert class_for(kind, "Config").model_type == kind


def test_unknown_architectures_are_named_with_the_known(tmp_path):
    known = ", ".join(ARCHITECTURES)
    for model_type in ("llama9", "", 3, None, ["bert"]):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        for load in (AutoConfig.from_pretrained, AutoModel.from_pretrained):
            with pytest.raises(CheckpointError, match=rf"config\.json.*{known}"):
                load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=rf'config\.json names no "model_type".*{known}'):
        AutoModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", AUTOS)
def test_an_auto_class_is_no_model(name):
    with pytest.raises(TypeError, match=rf"{name}\.from_pretrained\(name\)"):
        AUTOS[name]()


def test_a_config_of_another_architecture_is_refused(tmp_path):
    """A GPT-2 folder is no BERT, whatever keys the two share."""
    AutoModel.from_config(config("gpt2")).save_pretrained(tmp_path)
    bert = class_for("bert", "Model")
    for load in (bert.from_pretrained, bert.config_class.from_pretrained):
        with pytest.raises(CheckpointError, match=r"config\.json.*gpt2.*bert"):
            load(tmp_path)


# What every model can do.


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_embeddings(kind):
    tasks = ARCHITECTURES[kind][1]
    for task in tasks.keys() & {"Model", "ForPreTraining", "ForCausalLM", "ForTokenClassification"}:
        cls = class_for(kind, task)
        model = cls(config(kind, **({"is_decoder": True} if cls.__name__ == "BertLMHeadModel" else {})))
        table = model.get_input_embeddings()
        assert table.weight.shape == (37, 12)
        assert model.base_model.get_input_embeddings() is table
        out = model.get_output_embeddings()
        if task in ("ForPreTraining", "ForCausalLM") and tasks[task] != "ElectraForPreTraining":
            assert (out.weight is table.weight) == model.config.tie_word_embeddings
        else:
            assert out is None
        ids = torch.randint(1, 37, (2, 5))
        by_ids = model.eval()(**given(model, ids))
        by_embeds = model(**given(model, inputs_embeds=table(ids)))
        torch.testing.assert_close(by_ids[0], by_embeds[0])
        new = torch.nn.Embedding(37, 12)
        model.set_input_embeddings(new)
        assert model.get_input_embeddings() is new
        if out is not None and model.config.tie_word_embeddings:
            assert model.get_output_embeddings().weight is new.weight
        assert not torch.allclose(model(**given(model, ids))[0], by_ids[0])


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_implementation_can_be_changed(kind):
    model = AutoModel.from_config(config(kind)).eval()
    ids = torch.randint(1, 37, (2, 5))
    sdpa = model(**given(model, ids)).last_hidden_state
    model.set_attn_implementation("eager")
    assert model.config.attn_implementation == "eager"
    torch.testing.assert_close(model(**given(model, ids)).last_hidden_state, sdpa)
    with pytest.raises(ValueError, match="'flash'"):
        model.set_attn_implementation("flash")


INPUTS = pytest.mark.parametrize("kind", [kind for kind in ARCHITECTURES if not config(kind).is_encoder_decoder])


@INPUTS
def test_wrong_inputs_are_told_apart(kind):
    model = AutoModel.from_config(config(kind)).eval()
    ids = torch.randint(1, 37, (2, 5))
    with pytest.raises(ValueError, match=r"input_ids has shape \(5,\), expected \(batch, tokens\).*input_ids\[None\]"):
        model(ids[0])
    with pytest.raises(ValueError, match=r"input_ids has shape \(1, 2, 5\)"):
        model(ids[None])
    for given in ({}, {"input_ids": ids, "inputs_embeds": torch.randn(2, 5, 12)}):
        with pytest.raises(ValueError, match="pass one of them"):
            model(**given)
    with pytest.raises(ValueError, match=r"inputs_embeds has shape \(5, 12\)"):
        model(inputs_embeds=torch.randn(5, 12))
    limit = model.position_limit
    if limit is not None:
        with pytest.raises(ValueError, match=rf"{limit + 1} tokens, but the model has {limit} positions"):
            model(torch.ones(1, limit + 1, dtype=torch.long))
        model(torch.ones(1, limit, dtype=torch.long))
    for mask in (torch.ones(2, 4), torch.ones(1, 5), torch.ones(2, 5, 5)):
        with pytest.raises(ValueError, match=r"attention_mask has shape .*, expected \(2, 5\)"):
            model(ids, attention_mask=mask)
    for outside in (37, 999, -1):
        with pytest.raises(IndexError, match=r"an id is outside its table \(.*37 rows.*Does the tokenizer belong"):
            model(ids.masked_fill(ids == ids[0, 0], outside))
    refusal = ValueError if takes(model, "encoder_hidden_states") else TypeError
    with pytest.raises(refusal, match="encoder_hidden_states"):
        model(ids, encoder_hidden_states=torch.randn(2, 3, 12))


@INPUTS
def test_a_ready_mask_of_a_wrong_shape_is_told(kind):
    """(B or 1, H or 1, Q or 1, K): anything else is an error that says which shape came."""
    model = AutoModel.from_config(config(kind)).eval()
    ids = torch.randint(1, 37, (2, 5))
    for shape in ((2, 1, 5, 5), (1, 1, 5, 5), (2, 3, 5, 5), (2, 1, 1, 5)):
        model(ids, attention_mask=torch.ones(shape, dtype=torch.bool))
    for shape in ((2, 1, 5, 4), (3, 1, 5, 5), (2, 1, 4, 5), (2, 2, 5, 5)):
        with pytest.raises(ValueError, match="attention_mask") as error:
            model(ids, attention_mask=torch.ones(shape, dtype=torch.bool))
        assert str(shape) in str(error.value)


def test_an_error_that_is_not_about_ids_is_left_alone():
    """Any IndexError passes through `__call__`; only the embeddings' own is explained."""
    model = AutoModel.from_config(config("bert")).eval()
    layer = model.encoder["layer"][0]
    layer.forward = lambda *args: ()[3]
    with pytest.raises(IndexError, match="tuple index out of range") as error:
        model(torch.ones(1, 3, dtype=torch.long))
    assert "tokenizer" not in str(error.value)


def test_choices_need_three_dimensions():
    for cls in (class_for("bert", "ForMultipleChoice"), class_for("gpt2", "ForDoubleHeads")):
        model = cls(config(cls.config_class.model_type)).eval()
        with pytest.raises(ValueError, match=r"input_ids \(batch, choices, tokens\), got \(2, 5\)"):
            model(torch.ones(2, 5, dtype=torch.long))
        with pytest.raises(ValueError, match="got None"):
            model()
        with pytest.raises(ValueError, match=r"inputs_embeds \(batch, choices, tokens, channels\), got \(2, 5, 12\)"):
            model(inputs_embeds=torch.ones(2, 5, 12))


def test_a_batch_without_a_pad_token_has_no_ends():
    model = class_for("gpt2", "ForSequenceClassification")(config("gpt2", pad_token_id=None)).eval()
    assert model(torch.ones(1, 5, dtype=torch.long)).logits.shape == (1, 2)
    with pytest.raises(ValueError, match=r"pad_token_id = tokenizer\.pad_token_id"):
        model(torch.ones(2, 5, dtype=torch.long))


@INPUTS
def test_padding_on_either_side_changes_nothing(kind):
    """A batch equals its rows one by one; with a mask alone, without position ids."""
    model = AutoModel.from_config(config(kind, initializer_range=0.3)).eval().double()
    rows = [torch.randint(1, 37, (n,)) for n in (3, 7, 5)]
    sides = ["right", "left"] if kind == "gpt2" else ["right"]  # BERT's positions count padding, as the reference's do
    for side in sides:
        ids, mask = torch.zeros(3, 7, dtype=torch.long), torch.zeros(3, 7, dtype=torch.long)
        places = [slice(0, len(r)) if side == "right" else slice(7 - len(r), 7) for r in rows]
        for i, (row, place) in enumerate(zip(rows, places, strict=True)):
            ids[i, place], mask[i, place] = row, 1
        batch = model(ids, attention_mask=mask).last_hidden_state
        for i, (row, place) in enumerate(zip(rows, places, strict=True)):
            alone = model(row[None]).last_hidden_state[0]
            torch.testing.assert_close(batch[i, place], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_text_is_classified_by_its_last_real_token(side):
    """Known by the pad token's id, as in the reference; also where a pad token stands inside the text."""
    model = class_for("gpt2", "ForSequenceClassification")(config("gpt2", initializer_range=0.3)).eval().double()
    rows = [[5, 6, 7], [8, 0, 9, 10], [11, 12, 13, 14, 15, 16]]
    pads = [[0] * (6 - len(row)) for row in rows]
    ids = torch.tensor([row + pad if side == "right" else pad + row for row, pad in zip(rows, pads, strict=True)])
    mask = torch.tensor([[1] * len(r) + [0] * len(p) for r, p in zip(rows, pads, strict=True)])
    batch = model(ids, attention_mask=mask if side == "right" else mask.flip(1)).logits
    for row, logits in zip(rows, batch, strict=True):
        torch.testing.assert_close(logits, model(torch.tensor([row])).logits[0], rtol=0, atol=1e-10)
    theirs = transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**SIZES)).eval().double()
    theirs.load_state_dict(model.state_dict())
    given = {"attention_mask": mask if side == "right" else mask.flip(1)}
    places = (given["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    torch.testing.assert_close(batch, theirs(ids, position_ids=places, **given).logits, rtol=0, atol=1e-10)
