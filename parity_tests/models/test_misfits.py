"""What is said of a batch that does not fit: what came, what was expected, and of which argument."""

import pytest
import torch

import minihf

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40, "vocab_size": 96}
IDS = torch.arange(14).view(2, 7)
LONG = torch.zeros(2, 5, dtype=torch.long)
OF_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
HEADS = {
    "BertForSequenceClassification": SIZES,
    "GPT2LMHeadModel": {"n_embd": 32, "n_head": 2, "n_layer": 1, "vocab_size": 96},
    "T5ForConditionalGeneration": {**OF_T5, "vocab_size": 96},
    "BertForQuestionAnswering": SIZES,
}
BERT, GPT2, T5, SPANS = HEADS


def make(name):
    cls = getattr(minihf, name)
    return cls(cls.config_class(**HEADS[name])).eval()


WRONG = [
    (BERT, {"labels": [0, 1]}, TypeError, "labels is a list, expected a tensor"),
    (BERT, {"input_ids": [[1, 2]]}, TypeError, "input_ids is a list, expected a tensor.*return_tensors='pt'"),
    (BERT, {"token_type_ids": LONG}, ValueError, r"token_type_ids has shape \(2, 5\), expected \(2, 7\)"),
    (BERT, {"token_type_ids": torch.zeros(2, 7)}, ValueError, "token_type_ids is torch.float32, expected int64"),
    (BERT, {"token_type_ids": torch.zeros(3, 7).long()}, ValueError, r"token_type_ids has shape \(3, 7\)"),
    (BERT, {"position_ids": torch.arange(5)[None]}, ValueError, r"position_ids has shape \(1, 5\), expected \(2, 7\)"),
    (GPT2, {"token_type_ids": LONG}, ValueError, r"token_type_ids has shape \(2, 5\), expected \(2, 7\)"),
    (GPT2, {"labels": IDS.tolist()}, TypeError, "labels is a list"),
    (T5, {"labels": LONG[:1].expand(3, 5)}, ValueError, r"labels has shape \(3, 5\), for a batch of 2 texts"),
    (T5, {"decoder_input_ids": LONG[:1].expand(3, 5)}, ValueError, "decoder_input_ids has shape .* 2 texts"),
    (SPANS, {"start_positions": torch.arange(3), "end_positions": torch.arange(3)}, ValueError, "one for each text"),
]


@pytest.mark.parametrize("name, batch, kind, words", WRONG, ids=lambda x: "+".join(x) if isinstance(x, dict) else "")
def test_the_argument_is_named(name, batch, kind, words):
    with pytest.raises(kind, match=words):
        make(name)(**{"input_ids": IDS, **batch})


@pytest.mark.parametrize("name", HEADS)
def test_embeddings_of_another_width(name):
    with pytest.raises(ValueError, match=r"inputs_embeds has shape \(2, 7, 16\), expected 32 channels"):
        make(name)(inputs_embeds=torch.randn(2, 7, 16), **({"labels": IDS} if name == T5 else {}))


def test_what_fits_in_another_shape_is_taken():
    model = make(BERT)
    expected = model(IDS, position_ids=torch.arange(7).expand(2, 7)).logits
    for positions in (torch.arange(7), torch.arange(7)[None]):
        assert torch.equal(model(IDS, position_ids=positions).logits, expected)


@pytest.mark.parametrize("kind", [RuntimeError, TypeError, AttributeError, IndexError])
def test_an_error_of_somebody_elses_stays_what_it_is(kind):
    model = make(BERT)

    def fail(module, args):
        raise kind("mine")

    model.classifier.register_forward_pre_hook(fail)
    with pytest.raises(kind, match=r"^mine$") as caught:
        model(IDS)
    assert caught.value.__cause__ is None
