"""Another number of tokens: beside the reference, for every architecture's every table, tied and untied."""

import pytest
import torch
from torch import nn

from minihf import BertConfig, BertForMaskedLM, MarianForCausalLM, MarianMTModel, T5ForConditionalGeneration
from minihf.inspection.batches import make_batch, reference_batch
from minihf.inspection.families import FAMILIES
from minihf.inspection.pairs import heads_of, make_pair, variants_of
from minihf.models.vocabulary import vocabulary

LM = ("ForMaskedLM", "ForCausalLM", "ForSeq2SeqLM")


def language_models():
    """(model type, class, variant) of each head over a vocabulary, tied and untied, and of one head without one."""
    for model_type in FAMILIES:
        for class_name, task in heads_of(model_type).items():
            if task in LM:
                for variant in variants_of(model_type, class_name):
                    if variant in ("plain", "untied", "tied", "two tables", "two vocabularies", "two tables, untied"):
                        yield model_type, class_name, variant
        classifier = heads_of(model_type).items()
        yield from ((model_type, name, "plain") for name, task in classifier if task == "ForSequenceClassification")


def ids(case):
    return f"{case[1]}-{case[2].replace(' ', '-')}"


def pair_of(model_type, class_name, variant):
    return make_pair(model_type, class_name, variants_of(model_type, class_name)[variant])


def tables_of(model):
    """Name -> tensor, of all that has a row for each token. A bias of two names is learned under both."""
    state = model.state_dict()
    return {name: state[name] for name in vocabulary(model) if name in state}


def collapses(pair):
    """The reference makes one table of these models' three, though the config unties them; minihf leaves them three."""
    tied = pair.ours.config.tie_word_embeddings
    return not tied and pair.ours.config.is_encoder_decoder and hasattr(pair.theirs.base_model, "shared")


def left_behind(name, bias, rows):
    """A bias that the reference forgets: RoBERTa's second name of it, untied, keeps its old size, and biases of some
    tied heads (RoBERTa's, ELECTRA's, CTRL's) get zeros, where those of BERT's and all untied ones get the mean."""
    return name.endswith("bias") and (len(bias) != rows or not bias[-1])


@pytest.mark.parametrize("case", language_models(), ids=ids)
def test_like_the_reference(case, tmp_path):
    pair = pair_of(*case)
    ours, theirs = pair.ours, pair.theirs
    before = {name: table.clone() for name, table in tables_of(ours).items()}
    small = ours.config.vocab_size
    rows = small + 5
    ours.resize_token_embeddings(rows)
    theirs.resize_token_embeddings(rows)
    assert ours.config.vocab_size == theirs.config.vocab_size == rows

    others = dict(theirs.named_parameters(remove_duplicate=False)) | dict(theirs.named_buffers())
    assert tables_of(ours).keys() == before.keys()
    for name, table in tables_of(ours).items():
        old = before[name]
        if collapses(pair) and "embed_tokens" in name:
            assert table.shape == (rows, old.shape[1])
        elif not left_behind(name, others[name], rows):
            assert table.shape == others[name].shape, name
        if name == "final_logits_bias":
            torch.testing.assert_close(table, others[name])
            continue
        kept = len(old)
        assert torch.equal(table[:kept], old[:kept]), name
        # the reference draws around the mean, with 3e-5 of the rows' spread: six of those
        far = 6 * 1e-9**0.5 * old.std().item() + 1e-6
        torch.testing.assert_close(table[kept:], old.mean(0).expand_as(table[kept:]), atol=1e-6, rtol=0)
        unused = not ours.ties() and name.endswith(("predictions.bias", "lm_head.bias"))  # untied, a second name
        if not (collapses(pair) or unused or left_behind(name, others[name], rows)):
            torch.testing.assert_close(table[kept:], others[name][kept:], atol=far, rtol=0)

    # tied stays tied, and a step of training sees one parameter
    named = dict(ours.named_parameters(remove_duplicate=False))
    for target, source in ours.ties().items():
        assert named[target] is named[source], target
    inputs, outputs = ours.get_input_embeddings(), ours.get_output_embeddings()
    assert (len(inputs.weight), inputs.num_embeddings) == (rows, rows)
    if outputs is not None:
        assert len(outputs.weight) == outputs.out_features == getattr(ours.config, "decoder_vocab_size", rows)

    # files, both ways
    ours.save_pretrained(tmp_path / "ours")
    loaded, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    computed = {name for name, _ in ours.named_buffers()} - ours.state_dict().keys()
    assert not {kind: keys for kind in info if (keys := {*info[kind]} - computed)}
    again = type(ours).from_pretrained(tmp_path / "ours")
    assert {n: t.shape for n, t in again.state_dict().items()} == {n: t.shape for n, t in ours.state_dict().items()}
    assert all(torch.equal(table, ours.state_dict()[name]) for name, table in again.state_dict().items())

    # and what comes out, with the new tokens in it, on the same new rows
    batch = make_batch(ours.eval(), pair.task, "right", seed=1)
    theirs = loaded.eval()
    if hasattr(theirs.config, "num_local_experts"):  # the other ways to run experts want sizes that are not odd
        theirs.set_experts_implementation("eager")
    with torch.no_grad():
        found = ours(**batch)
        expected = theirs(**reference_batch(batch, pair.task, positions=pair.positions_from_mask))
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-4)
    if found.loss is not None:
        torch.testing.assert_close(found.loss, expected.loss, atol=1e-5, rtol=1e-4)

    # back again
    ours.resize_token_embeddings(small)
    assert all(torch.equal(table, before[name]) for name, table in tables_of(ours).items())


# What the harness's cases do not reach


def tiny_bert(**fields):
    fields = {**FAMILIES["bert"].config, **fields}
    torch.manual_seed(1)
    return BertForMaskedLM(BertConfig(**fields)).eval()


def test_sizes_are_rounded_up():
    model = tiny_bert()
    assert len(model.resize_token_embeddings(pad_to_multiple_of=8).weight) == 64  # of 61
    assert len(model.resize_token_embeddings(65, pad_to_multiple_of=8).weight) == 72
    table = model.get_input_embeddings()
    assert model.resize_token_embeddings() is table
    assert model.resize_token_embeddings(72) is table
    assert model.config.vocab_size == 72


@pytest.mark.parametrize("sizes", [(0, None), (-3, None), (7.0, None), (True, None), (70, 0), (None, 2.5)])
def test_what_is_no_size(sizes):
    model = tiny_bert()
    with pytest.raises(ValueError, match="expected a positive integer"):
        model.resize_token_embeddings(*sizes)
    assert model.config.vocab_size == 61
    assert not model.vocabulary_changed


def test_special_tokens_keep_their_rows():
    pair = pair_of("marian", "MarianMTModel", "plain")
    with pytest.raises(ValueError, match=r"of 57 tokens, where there were 58, leaves no row for .*pad_token_id=57"):
        pair.ours.resize_token_embeddings(57)
    assert len(pair.ours.get_input_embeddings().weight) == pair.ours.config.vocab_size == 58
    model = tiny_bert()
    model.resize_token_embeddings(40)
    assert model(torch.tensor([[39, 3]])).logits.shape == (1, 2, 40)
    with pytest.raises(IndexError):
        model(torch.tensor([[40]]))


def test_random_rows():
    model = tiny_bert(initializer_range=0.5)
    model.cls["predictions"].bias.data.fill_(3.0)
    old = model.get_input_embeddings().weight.clone()
    model.resize_token_embeddings(1061, mean_resizing=False)
    new = model.get_input_embeddings().weight
    assert torch.equal(new[:61], old)
    assert abs(new[61:].std() - 0.5) < 0.02
    assert abs(new[61:].mean()) < 0.02
    assert model.get_output_embeddings().weight is new
    assert model.get_output_embeddings().bias is model.cls["predictions"].bias
    assert not model.get_output_embeddings().bias[61:].any()


def test_a_mean_of_many_half_precision_rows():
    """4096 rows of 1 + 1/128: summed in float16 they would pass 2048, from where it counts in twos."""
    model = tiny_bert(vocab_size=4096).half()
    model.get_input_embeddings().weight.data.fill_(1 + 1 / 128)
    model.resize_token_embeddings(4100)
    assert (model.get_input_embeddings().weight[4096:] == 1 + 1 / 128).all()


def test_what_is_frozen_stays_frozen():
    model = tiny_bert()
    model.get_input_embeddings().weight.requires_grad_(False)
    model.resize_token_embeddings(70)
    assert not model.get_input_embeddings().weight.requires_grad
    assert model.get_output_embeddings().bias.requires_grad


def test_a_new_token_is_about_as_likely_as_an_old_one():
    """Hewitt's argument: exp of a mean is at most the mean of exps, so a new token never has more than its share."""
    pair = make_pair("gpt2", "GPT2LMHeadModel")
    model, ids = pair.ours.eval(), torch.randint(59, (3, 7))
    with torch.no_grad():
        before = model(ids).logits.softmax(-1)
        model.resize_token_embeddings(60)
        after = model(ids).logits.softmax(-1)
    assert (after[..., 59] <= 1 / 60).all()
    torch.testing.assert_close(after[..., :59] / (1 - after[..., 59:]), before)


def test_outputs_are_put_in_and_saved(tmp_path):
    model = tiny_bert()
    head = nn.Linear(model.config.hidden_size, 61)
    model.set_output_embeddings(head)
    assert model.get_output_embeddings() is head
    assert model.cls["predictions"].bias is head.bias
    model.save_pretrained(tmp_path)
    again = BertForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(again.get_output_embeddings().weight, head.weight)
    assert not torch.equal(again.get_input_embeddings().weight, head.weight)
    model.tie_weights()
    assert head.weight is model.get_input_embeddings().weight


def test_what_does_not_fit_in():
    model = tiny_bert()
    with pytest.raises(ValueError, match="the vocabulary has 61 tokens, and the new layer 62"):
        model.set_input_embeddings(nn.Embedding(62, 28))
    with pytest.raises(ValueError, match="the vocabulary has 61 tokens, and the new layer 62"):
        model.set_output_embeddings(nn.Linear(28, 62))
    with pytest.raises(ValueError, match="28 numbers a token there, and the new layer 31"):
        model.set_input_embeddings(nn.Embedding(61, 31))
    with pytest.raises(ValueError, match="28 numbers a token there, and the new layer 31"):
        model.set_output_embeddings(nn.Linear(31, 61))
    with pytest.raises(ValueError, match="bias=True"):
        model.set_output_embeddings(nn.Linear(28, 61, bias=False))
    with pytest.raises(TypeError, match="BertModel has no output embeddings"):
        model.bert.set_output_embeddings(nn.Linear(28, 61))


def test_two_vocabularies(tmp_path):
    pair = pair_of("marian", "MarianMTModel", "two vocabularies")
    for model in (pair.ours, pair.theirs):
        model.resize_token_embeddings(63)
        model.resize_decoder_token_embeddings(52)
        sizes = model.config.vocab_size, model.config.decoder_vocab_size
        tables = model.model.encoder.embed_tokens, model.model.decoder.embed_tokens, model.lm_head
        assert sizes == (63, 52)
        assert [len(table.weight) for table in tables] == [63, 52, 52]
        assert model.final_logits_bias.shape == (1, 52)
    assert pair.ours.lm_head.weight is pair.ours.model.decoder.embed_tokens.weight
    pair.ours.save_pretrained(tmp_path)
    _, info = type(pair.theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["mismatched_keys"]
    assert not info["unexpected_keys"]
    again = MarianMTModel.from_pretrained(tmp_path)
    assert again.config.decoder_vocab_size == 52


def test_one_vocabulary_has_no_second():
    pair = pair_of("marian", "MarianMTModel", "plain")
    with pytest.raises(ValueError, match="share one vocabulary"):
        pair.ours.resize_decoder_token_embeddings(70)


def test_a_decoder_alone(tmp_path):
    """The reference says so in `vocab_size` alone, and cannot load what it saves."""
    model = pair_of("marian", "MarianForCausalLM", "plain").ours
    model.resize_token_embeddings(63)
    model.save_pretrained(tmp_path)
    assert len(MarianForCausalLM.from_pretrained(tmp_path).get_output_embeddings().weight) == 63


def test_three_tables_stay_three():
    """A T5 whose output layer is its own: both sides share a table, the layer is another; each has its own mean."""
    pair = pair_of("t5", "T5ForConditionalGeneration", "1.1")
    model: T5ForConditionalGeneration = pair.ours
    means = model.shared.weight.mean(0), model.lm_head.weight.mean(0)
    model.resize_token_embeddings(60)
    assert model.encoder.embed_tokens.weight is model.decoder.embed_tokens.weight is model.shared.weight
    torch.testing.assert_close(model.shared.weight[57:], means[0].expand(3, -1))
    torch.testing.assert_close(model.lm_head.weight[57:], means[1].expand(3, -1))


def test_on_the_meta_device(tmp_path):
    tiny_bert().save_pretrained(tmp_path)
    model = BertForMaskedLM.from_pretrained(tmp_path, device_map="meta")
    assert model.resize_token_embeddings(70).weight.is_meta
