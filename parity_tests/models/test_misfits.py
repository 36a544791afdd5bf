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


FINE = [
    {},
    {"position_ids": torch.arange(7)},
    {"labels": torch.tensor([[0], [1]])},
    {"input_ids": IDS[:1], "labels": torch.tensor(1)},
    {"inputs_embeds": torch.randn(2, 7, 32), "input_ids": None},
]


@pytest.mark.parametrize("batch", FINE, ids=lambda batch: "+".join(batch))
@pytest.mark.parametrize("kind", [RuntimeError, TypeError, AttributeError, IndexError, torch.OutOfMemoryError])
def test_an_error_of_somebody_elses_stays_what_it_is(kind, batch):
    model = make(BERT)

    def fail(module, args):
        raise kind("mine")

    model.classifier.register_forward_pre_hook(fail)
    with pytest.raises(kind, match=r"^mine$") as caught:
        model(**{"input_ids": IDS, **batch})
    assert caught.value.__cause__ is None


def test_flat_labels_and_positions_between_two_do_not_explain_what_else_fails():
    llama = minihf.LlamaForCausalLM(minihf.LlamaConfig(**SIZES))

    def fail(module, args):
        raise RuntimeError("The size of tensor a (7) must match the size of tensor b (5)")

    for batch in ({"labels": IDS.flatten()}, {"position_ids": torch.arange(7.0)[None] / 2}):
        llama(IDS, **batch)
        handle = llama.model.norm.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="tensor a"):
            llama(IDS, **batch)
        handle.remove()


def test_an_embedding_of_somebody_elses_has_no_width():
    model = make(BERT)

    class Wrapped(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, ids):
            return self.inner(ids)

    model.bert.embeddings.word_embeddings = Wrapped(model.get_input_embeddings())
    with pytest.raises(ValueError, match="token_type_ids has shape"):
        model(IDS, token_type_ids=LONG)
    with pytest.raises(RuntimeError, match="size of tensor"):
        model(inputs_embeds=torch.randn(2, 7, 16))


def test_what_the_encoder_gave_is_the_batch():
    model = make(T5)
    state = torch.randn(2, 7, 32)
    model.decoder.final_layer_norm.register_forward_pre_hook(lambda module, args: torch.randn(2) + torch.randn(3))
    with pytest.raises(RuntimeError, match="must match the size"):
        model(IDS[:1], encoder_outputs=(state,), decoder_input_ids=IDS)
