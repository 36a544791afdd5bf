"""Packed encoders give real tokens what the padded path gives them, gradients included, and zeros to padding."""

import threading

import pytest
import torch

from minihf import AutoModel, BertConfig, BertModel, GPT2Config
from minihf.fast import packed
from minihf.fast.packed import Packing, pack, unpack
from minihf.inspection.batches import MASKS, cast, make_batch, other_inputs, randomise
from minihf.inspection.compare import PER_TOKEN, compare, run
from minihf.inspection.families import ENCODERS
from minihf.inspection.pairs import heads_of
from minihf.models.architectures import class_for
from minihf.nn.attention import attend
from minihf.nn.bare import bare
from minihf.nn.losses import span_loss

HEADS = [
    (model_type, name, task)
    for model_type, family in ENCODERS.items()
    for name, task in heads_of(model_type).items()
    if not family.special.get(name, {}).get("is_decoder")
]
# Its loss is a softmax over all places, those of padding included, which the padded path fills with numbers.
LOSS_OVER_PADDING = "ForQuestionAnswering"



def kinds(task):
    """A head that reads the first place of a text reads padding, where this is on the left."""
    per_token = task in ("Model", "ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering")
    return [kind for kind in MASKS if per_token or kind != "left"]


def make(model_type, name, task, **changes):
    family = ENCODERS[model_type]
    fields = {**family.config, **family.special.get(name, {}), **changes}
    model = class_for(model_type, task)(class_for(model_type, "Config")(**fields)).double().eval()
    randomise(model)
    return model


def use(model, impl):
    model.set_attn_implementation(impl)
    return model


@pytest.mark.parametrize("model_type, name, task, kind", [(*head, kind) for head in HEADS for kind in kinds(head[2])])
def test_outputs_and_gradients_equal_the_padded_path(model_type, name, task, kind):
    model = make(model_type, name, task)
    batch = make_batch(model, task, kind)
    if task == LOSS_OVER_PADDING and kind != "full":
        batch = {name: x for name, x in batch.items() if not name.endswith("positions")}
    for inputs in (batch, *other_inputs(model, task, batch).values()):
        inputs = cast(inputs, torch.float64)
        padded = run(use(model, "sdpa"), inputs)
        packed = run(use(model, "packed"), inputs)
        difference = compare(packed, padded)
        assert difference.within(1e-12), difference.worst


@pytest.mark.parametrize("model_type, name, task", HEADS)
def test_in_float32_and_in_training_mode_it_is_right_within_1e_5(model_type, name, task):
    """Against float64: the two paths round apart, and there is no saying which is nearer without the right number."""
    off = {field: 0.0 for field in class_for(model_type, "Config").__dataclass_fields__ if "drop" in field}
    model = make(model_type, name, task, **off)
    batch = make_batch(model, task, "right")
    batch.pop("start_positions", None)
    padded = run(use(model, "sdpa"), cast(batch, torch.float64), train=True)
    packed = run(use(model.float(), "packed"), cast(batch, torch.float32), train=True)
    difference = compare(packed, padded)
    assert difference.within(1e-5), difference.worst


@pytest.mark.parametrize("model_type, name, task", HEADS)
def test_padding_comes_back_as_zeros(model_type, name, task):
    model = use(make(model_type, name, task), "packed")
    batch = cast(make_batch(model, task, kinds(task)[-1]), torch.float64)
    padding = batch["attention_mask"].flatten(0, -2) == 0
    out = model(**batch, output_hidden_states=True, output_attentions=True)
    per_token = [x for key in PER_TOKEN if key in out and key != "hidden_states" for x in [out[key]]]
    per_token = [x for x in (*per_token, *out.hidden_states) if x.shape[:2] == padding.shape]
    assert len(per_token) > model.config.num_hidden_layers
    for x in per_token:
        assert not x[padding].any()
        assert x[~padding].any(-1).all() if x.dim() == 3 else x[~padding].all()
    for weights in out.attentions:
        assert not weights.transpose(1, 2)[padding].any()


@pytest.mark.parametrize("model_type", ENCODERS)
def test_attention_weights_are_those_of_the_padded_path(model_type):
    model = make(model_type, heads_of(model_type) and class_for(model_type, "Model").__name__, "Model")
    batch = cast(make_batch(model, "Model", "holes"), torch.float64)
    real = batch["attention_mask"].bool()
    padded = use(model, "eager")(**batch, output_attentions=True).attentions
    packed = use(model, "packed")(**batch, output_attentions=True).attentions
    assert len(padded) == len(packed) >= model.config.num_hidden_layers
    for a, b in zip(padded, packed, strict=True):
        torch.testing.assert_close(a.transpose(1, 2)[real], b.transpose(1, 2)[real], rtol=0, atol=1e-12)


def tokens_seen(model, *paths):
    """How many tokens each of these modules is given, call by call."""
    seen = []
    for path in paths:
        model.get_submodule(path).register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[:2]))
    return seen


def test_all_but_attention_sees_the_real_tokens_alone():
    model = use(make("bert", "BertForMaskedLM", "ForMaskedLM"), "packed")
    batch = make_batch(model, "ForMaskedLM", "holes")
    parts = ("bert.embeddings.LayerNorm", "bert.encoder.layer.2.intermediate.dense", "cls.predictions.transform.dense")
    seen = tokens_seen(model, *parts, "cls.predictions.decoder")
    model(**batch)
    assert seen == [(1, batch["attention_mask"].sum())] * 4


def test_where_nothing_is_padded_nothing_is_packed():
    model = use(make("bert", "BertModel", "Model"), "packed")
    batch = make_batch(model, "Model", "full")
    seen = tokens_seen(model, "encoder.layer.0.intermediate.dense")
    plain = model(**batch)[0]
    ones = model(**batch, attention_mask=torch.ones_like(batch["input_ids"]))[0]
    assert seen == [(3, 11)] * 2
    assert torch.equal(plain, ones)
    assert torch.equal(plain, use(model, "sdpa")(**batch)[0])


def test_a_ready_mask_is_more_than_padding_and_runs_as_with_sdpa():
    model = make("bert", "BertModel", "Model")
    batch = make_batch(model, "Model", "full")
    batch["attention_mask"] = torch.rand(3, 1, 11, 11) > 0.3
    assert torch.equal(use(model, "packed")(**batch)[0], use(model, "sdpa")(**batch)[0])


@pytest.mark.parametrize("name, task", [("BertModel", "Model"), ("BertForMaskedLM", "ForMaskedLM")])
@pytest.mark.parametrize("rows", [3, 1])
def test_a_ready_mask_that_is_padding_alone_is_packed(name, task, rows):
    model = make("bert", name, task)
    ids = make_batch(model, task, "full")["input_ids"]
    real = make_batch(model, task, "right")["attention_mask"].bool()[:rows].expand(3, -1)
    ready = real[:rows, None, None]
    packed, padded = use(model, "packed")(ids, ready)[0], use(model, "sdpa")(ids, ready)[0]
    assert not packed[~real].any()
    torch.testing.assert_close(packed[real], padded[real], rtol=0, atol=1e-12)


def test_a_text_of_padding_alone_changes_nobody_else():
    model = use(make("bert", "BertModel", "Model"), "packed")
    batch = make_batch(model, "Model", "right")
    alone = model(**batch).last_hidden_state
    batch["attention_mask"][1] = 0
    out = model(**batch).last_hidden_state
    assert not out[1].any()
    torch.testing.assert_close(out[::2], alone[::2], rtol=0, atol=1e-12)
    batch["attention_mask"][:] = 0
    assert not model(**batch).last_hidden_state.any()


def test_a_text_never_sees_another():
    model = use(make("bert", "BertModel", "Model"), "packed")
    batch = make_batch(model, "Model", "right")
    before = model(**batch).last_hidden_state
    batch["input_ids"][1] += 1
    after = model(**batch).last_hidden_state
    assert torch.equal(before[::2], after[::2])
    assert not torch.equal(before[1], after[1])


def test_dropout_in_training_falls_on_packed_tokens_and_on_the_weights():
    model = use(make("bert", "BertModel", "Model", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5), "packed")
    batch = make_batch(model, "Model", "right")
    still = model(**batch)[0]
    model.train()
    assert not torch.allclose(still, model(**batch)[0])


def test_two_threads_with_batches_of_their_own():
    model = use(make("bert", "BertForMaskedLM", "ForMaskedLM"), "packed")
    batches = [make_batch(model, "ForMaskedLM", kind) for kind in ("right", "left", "holes")]
    expected = [model(**batch).logits for batch in batches]
    wrong = []

    def work(i):
        for _ in range(20):
            if not torch.equal(model(**batches[i]).logits, expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_packing_and_unpacking():
    real = torch.tensor([[1, 1, 0], [0, 0, 0], [0, 1, 1]]).bool()
    packing, x = pack(real[:, None, None], torch.arange(9.0).view(3, 3, 1) + 1)
    assert x.flatten().tolist() == [1, 2, 8, 9]
    assert packing.lengths == [2, 0, 2]
    assert unpack(x, packing).squeeze(-1).tolist() == [[1, 2, 0], [0, 0, 0], [0, 8, 9]]
    assert packing.pack(torch.arange(3)[None]).tolist() == [[0, 1, 1, 2]]  # one row for all texts


@pytest.mark.parametrize("how", ["attend_nested", "attend_padded"])
def test_every_way_to_keep_texts_apart_gives_the_same(how):
    """The nested tensors are the GPU's way; PyTorch's CPU kernels run them as well."""
    torch.manual_seed(0)
    packing = Packing(torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]]).bool())
    inputs = [torch.randn(1, 2, 8, 6, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    plain, _ = attend(*inputs, packing, impl="packed")
    other = getattr(packing, how)(*inputs, dropout=0.0, scale=6**-0.5)
    other = other[0] if isinstance(other, tuple) else other
    torch.testing.assert_close(other, plain, rtol=0, atol=1e-12)
    weights = torch.randn_like(plain)
    for a, b in zip(*(torch.autograd.grad((x * weights).sum(), inputs) for x in (plain, other)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "name, task",
    [
        ("BertForSequenceClassification", "ForSequenceClassification"),
        ("BertForMultipleChoice", "ForMultipleChoice"),
        ("BertForPreTraining", "ForPreTraining"),  # it reads every token besides
        ("AlbertForPreTraining", "ForPreTraining"),
    ],
)
def test_a_head_that_reads_the_first_token_refuses_padding_in_its_place(name, task):
    model = use(make(name.split("For")[0].lower(), name, task), "packed")
    batch = make_batch(model, task, "left")
    masks = [batch["attention_mask"]]
    if masks[0].dim() == 2:
        masks.append(masks[0][:, None, None, :])
    for mask in masks:
        with pytest.raises(ValueError, match=rf"{name} reads the first token.*padding_side = \"right\""):
            model(**{**batch, "attention_mask": mask})
    for row in batch["attention_mask"].view(-1, 11):
        row[:] = row.flip(0)
    model(**batch)
    batch["attention_mask"][1] = 0  # a text of padding alone has no first token to miss
    model(**batch)


def test_the_loss_of_question_answering_counts_padding_as_zeros():
    """Its softmax is over all places. Where the padded path has some number at padding, there is a zero."""
    model = make("bert", "BertForQuestionAnswering", "ForQuestionAnswering")
    batch = make_batch(model, "ForQuestionAnswering", "right")
    real = batch["attention_mask"].bool()
    begin, end = batch["start_positions"], batch["end_positions"]
    theirs, ours = use(model, "sdpa")(**batch), use(model, "packed")(**batch)
    zeroed = (x.masked_fill(~real, 0) for x in (theirs.start_logits, theirs.end_logits))
    torch.testing.assert_close(ours.loss, span_loss(*zeroed, begin, end), rtol=0, atol=1e-12)
    assert (ours.loss - theirs.loss).abs() > 1e-3


def test_who_listens_to_a_head_sees_padded_tensors():
    model = use(make("bert", "BertForTokenClassification", "ForTokenClassification"), "packed")
    seen = []
    model.classifier.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[:2]))
    model.classifier.register_forward_hook(lambda module, args, output: seen.append(output.shape[:2]))
    model(**make_batch(model, "ForTokenClassification", "right"))
    assert seen == [(3, 11), (3, 11)]


def test_in_inference_a_large_batch_gives_the_same_through_the_bare_model(monkeypatch):
    monkeypatch.setattr(packed, "LARGE", 1)
    for model_type, name, task in HEADS:
        model = make(model_type, name, task)
        batch = cast(make_batch(model, task, kinds(task)[-1]), torch.float64)
        expected = use(model, "packed")(**batch)
        made = []
        monkeypatch.setattr(packed, "bare", lambda model: made.append(bare(model)) or made[-1])  # noqa: B023
        with torch.no_grad():
            found = model(**batch)
        assert type(made[0]) is not type(model)
        for key, value in expected.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(found[key], value, rtol=0, atol=1e-12)


def test_a_strange_argument_is_told_as_ever():
    model = use(make("bert", "BertModel", "Model"), "packed")
    with pytest.raises(TypeError, match=r"BertModel.forward\(\) got an unexpected keyword argument 'foo'"):
        model(torch.ones(1, 3, dtype=torch.long), foo=1)


def test_who_cannot_pack_says_so():
    config = BertConfig(attn_implementation="packed", num_hidden_layers=0)
    config.is_decoder = True
    with pytest.raises(ValueError, match="for encoders"):
        BertModel(config)
    with pytest.raises(ValueError, match="GPT2Config: choose one of sdpa, eager"):
        GPT2Config(attn_implementation="packed")
    with pytest.raises(ValueError, match="for encoders"):
        BertConfig(attn_implementation="packed", is_decoder=True)
    config = BertConfig(is_decoder=True)
    with pytest.raises(ValueError, match="for encoders"):
        config.attn_implementation = "packed"


def test_it_is_chosen_while_loading_and_is_not_written(tmp_path):
    make("bert", "BertModel", "Model").save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path, attn_implementation="packed")
    assert isinstance(model, BertModel)
    assert model.config.attn_implementation == "packed"
    model.save_pretrained(tmp_path)
    assert "packed" not in (tmp_path / "config.json").read_text()
