"""Hidden states and attention weights: the reference's, under either implementation; nothing is left or mixed up."""

import sys
import threading
from importlib import import_module

import pytest
import torch
import transformers

from minihf.inspection.batches import reference_batch, takes
from minihf.inspection.compare import KeepDouble
from minihf.models.auto import ARCHITECTURES
from minihf.models.recording import recording

SIZES = {"hidden_size": 20, "num_hidden_layers": 3, "num_attention_heads": 5, "max_position_embeddings": 19}
SIZES |= {"vocab_size": 37, "pad_token_id": 0, "num_key_value_heads": 5, "intermediate_size": 28}
SIZES |= {"eos_token_id": 2, "decoder_layers": 2, "decoder_attention_heads": 4, "num_decoder_layers": 2}
TASKS = {name: task for _, tasks in ARCHITECTURES.values() for task, name in tasks.items() if task != "Config"}
CLASSES = {
    name: getattr(import_module(f"minihf.models.{module}"), name)
    for module, tasks in ARCHITECTURES.values()
    for name in tasks.values()
    if name in TASKS
}
KINDS = {"output_hidden_states": True, "output_attentions": True}


@torch.no_grad()
def pair(name: str, impl: str = "eager", **changes):
    """The same randomised model on both sides, float64; the reference's is eager, for there it records."""
    cls, theirs_class = CLASSES[name], getattr(transformers, name)
    changes = {**SIZES, **changes}
    theirs = theirs_class(theirs_class.config_class(**changes, attn_implementation="eager")).eval().double()
    if hasattr(theirs.config, "num_local_experts"):
        theirs.set_experts_implementation("eager")  # the other ways know no float64
    for parameter in theirs.parameters():
        if parameter.requires_grad:  # others are tables that we compute
            parameter.normal_(std=0.3)
    ours = cls(cls.config_class(**changes, attn_implementation=impl)).eval().double()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def ids_for(name: str) -> torch.Tensor:
    ids = torch.randint(3, 37, (2, 3, 7) if "MultipleChoice" in name or "DoubleHeads" in name else (2, 7))
    ids[..., -1] = 2  # BART's answer is read from the end token
    return ids


def same(ours, theirs) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        # of several choices, the reference alone gives the last hidden state their dimension back
        torch.testing.assert_close(a, b.reshape(a.shape), rtol=0, atol=1e-10)


def hooks_of(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("impl", ["eager", "sdpa"])
@pytest.mark.parametrize("name", CLASSES)
def test_are_the_references(name, impl):
    ours, theirs = pair(name, impl)
    ids = ids_for(name)
    mask = torch.ones_like(ids)
    mask[0, ..., 4:] = 0
    positions = torch.arange(7).expand(ids.shape)  # GPT-2's would differ at padded places
    places = {"position_ids": positions} if takes(ours, "position_ids") else {}
    # An encoder-decoder has two sides; the answer of BART's classifier is read where its text ends.
    two_sides = takes(ours, "decoder_input_ids")
    sides = {"decoder_input_ids": ids if "SequenceClassification" in name else ids[:, 2:]} if two_sides else {}
    kinds = ["hidden_states", "attentions"]
    if two_sides:
        kinds = [side + kind for side in ("encoder_", "decoder_") for kind in kinds] + ["cross_attentions"]
    for given in ({}, {"attention_mask": mask, **places}):
        given = given | sides
        a = ours(input_ids=ids, **given, **KINDS)
        with KeepDouble():
            b = theirs(**reference_batch({"input_ids": ids, **given}, TASKS[name], positions=False), **KINDS)
        for kind in kinds:
            same(a[kind], b[kind])
            for weights in a[kind] if "attentions" in kind else ():
                torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), rtol=0, atol=1e-12)
        plain = ours(ids, **given)
        assert not set(kinds) & set(plain)
        last = next(key for key in a if "logits" in key or key == "last_hidden_state")
        torch.testing.assert_close(a[last], plain[last], rtol=0, atol=1e-10)
    assert hooks_of(ours) == 0


@pytest.mark.parametrize("impl", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["BertModel", "BertLMHeadModel", "GPT2Model", "GPT2LMHeadModel"])
def test_of_a_decoder_with_an_encoder(name, impl):
    changes = {"add_cross_attention": True} | ({"is_decoder": True} if name.startswith("Bert") else {})
    ours, theirs = pair(name, impl, **changes)
    ids, encoder = ids_for(name), torch.randn(2, 4, 20, dtype=torch.float64)
    seen = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    given = {"encoder_hidden_states": encoder, "encoder_attention_mask": seen}
    a, b = ours(ids, **given, **KINDS), theirs(ids, **given, **KINDS)
    for kind in ("hidden_states", "attentions", "cross_attentions"):
        same(a[kind], b[kind])
    assert a.cross_attentions[0].shape == (2, 5, 7, 4)
    assert list(a) == list(b)


@pytest.mark.parametrize("name", ["BertLMHeadModel", "GPT2LMHeadModel"])
def test_with_a_cache(name):
    ours, theirs = pair(name, "sdpa", **({"is_decoder": True} if name.startswith("Bert") else {}))
    ids = ids_for(name)
    past, their_past = None, None
    for part in (ids[:, :4], ids[:, 4:5], ids[:, 5:]):
        a = ours(part, past_key_values=past, use_cache=True, **KINDS)
        b = theirs(part, past_key_values=their_past, use_cache=True, **KINDS)
        past, their_past = a.past_key_values, b.past_key_values
        same(a.hidden_states, b.hidden_states)
        same(a.attentions, b.attentions)


@pytest.mark.parametrize("name", ["BertForMaskedLM", "GPT2LMHeadModel", "BertModel", "GPT2ForSequenceClassification"])
def test_each_kind_alone_and_as_the_config_says(name):
    ours, _ = pair(name)
    ids = ids_for(name)
    both = ours(ids, **KINDS)
    for kind in ("hidden_states", "attentions"):
        other = {"hidden_states": "attentions", "attentions": "hidden_states"}[kind]
        alone = ours(ids, **{f"output_{kind}": True})
        same(alone[kind], both[kind])
        assert other not in alone
        setattr(ours.config, f"output_{kind}", True)
        same(ours(ids)[kind], both[kind])
        assert kind not in ours(ids, **{f"output_{kind}": False})
        setattr(ours.config, f"output_{kind}", False)
        assert kind not in ours(ids)
    assert hooks_of(ours) == 0


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "GPT2LMHeadModel"])
def test_gradients_flow_through_what_is_recorded(name):
    ours, theirs = pair(name)
    ids, towards = ids_for(name), torch.randn(2, 7, 20, dtype=torch.float64)
    grads = []
    for model in (ours, theirs):
        out = model(ids, **KINDS)
        loss = sum((h * towards).sum() for h in out.hidden_states) + sum(w.square().sum() for w in out.attentions)
        loss.backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert set(grads[0]) == set(grads[1])
    for key in grads[0]:
        torch.testing.assert_close(grads[0][key], grads[1][key], rtol=1e-9, atol=1e-9)


def test_the_config_stays_as_it_is():
    """Weights are formed eagerly for that call only."""
    ours, _ = pair("BertModel", "sdpa")
    ours(ids_for("BertModel"), **KINDS)
    assert ours.config.attn_implementation == "sdpa"
    assert ours(ids_for("BertModel")).attentions is None


def test_nothing_is_left_after_an_error():
    ours, _ = pair("BertForMaskedLM")
    ids = ids_for("BertForMaskedLM")
    broken = ours.bert.encoder["layer"][1].output
    whole = broken.forward

    def fails(*args):
        raise RuntimeError("half way")

    broken.forward = fails
    with pytest.raises(RuntimeError, match="half way"):
        ours(ids, **KINDS)
    assert hooks_of(ours) == 0
    broken.forward = whole
    assert len(ours(ids, **KINDS).hidden_states) == 4
    with pytest.raises(ValueError, match="attention_mask has shape"):
        ours(ids, attention_mask=torch.ones(2, 3), **KINDS)
    assert hooks_of(ours) == 0


def test_a_persons_own_hooks_stay():
    ours, _ = pair("GPT2LMHeadModel")
    heard = []
    handle = ours.transformer.h[1].register_forward_hook(lambda module, args, output: heard.append(output))
    out = ours(ids_for("GPT2LMHeadModel"), **KINDS)
    assert len(heard) == 1
    assert torch.equal(heard[0], out.hidden_states[2])
    assert hooks_of(ours) == 1
    handle.remove()


@pytest.mark.parametrize("name", ["BertForMaskedLM", "GPT2LMHeadModel"])
def test_a_hook_half_in_place_harms_no_other_thread(name):
    """PyTorch enters a hook and the flag that it takes keywords one after the other; a thread may call in between."""
    ours, _ = pair(name)
    ids = ids_for(name)
    expected = ours(ids).logits
    result = []
    with recording(ours.base_model, ["hidden_states", "attentions"]):
        for module in ours.modules():
            module._forward_pre_hooks_with_kwargs.clear()
            module._forward_hooks_with_kwargs.clear()
        thread = threading.Thread(target=lambda: result.append(ours(ids).logits))
        thread.start()
        thread.join()
    assert len(result) == 1
    torch.testing.assert_close(result[0], expected)


@pytest.mark.parametrize("name", ["BertForMaskedLM", "GPT2LMHeadModel"])
def test_threads_do_not_mix(name):
    """One model called by several threads, some recording: hooks come and go under the others' feet."""
    ours, _ = pair(name, "sdpa")
    torch.manual_seed(1)
    batches = [torch.randint(1, 37, (1 + i % 2, 5 + i)) for i in range(4)]
    wanted = [{}, KINDS, {"output_hidden_states": True}, KINDS]
    with torch.no_grad():
        expected = [ours(ids, **kinds) for ids, kinds in zip(batches, wanted, strict=True)]
    problems = []

    def work(i: int) -> None:
        try:
            with torch.no_grad():
                for _ in range(60):
                    out = ours(batches[i], **wanted[i])
                    assert list(out) == list(expected[i])
                    torch.testing.assert_close(out.logits, expected[i].logits, rtol=0, atol=1e-10)
                    for kind in {"hidden_states", "attentions"} & {*expected[i]}:
                        same(out[kind], expected[i][kind])
        except BaseException as error:  # an assertion, too, must reach the main thread
            problems.append(repr(error)[:300])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert problems == []
    assert hooks_of(ours) == 0
