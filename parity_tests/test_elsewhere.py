"""On a device that is not the CPU, everything stays on it, gives the CPU's numbers, and is asked for values seldom.

No GPU is needed: see `elsewhere.py`. What only a GPU can show is in `test_cuda.py`.
"""

from collections import Counter
from functools import partial

import pytest
import torch
from torch import nn

from minihf import LoraConfig, Trainer, TrainingArguments, get_peft_model
from minihf.inspection.batches import cast, make_batch, other_inputs, randomise
from minihf.inspection.compare import run
from minihf.inspection.families import ENCODER_DECODERS, FAMILIES
from minihf.inspection.pairs import heads_of
from minihf.models.architectures import class_for
from minihf.nn import masks
from minihf.training import adamw
from parity_tests.fast.test_graphs import make, prompts

elsewhere = pytest.importorskip("parity_tests.elsewhere", exc_type=ImportError)
DEVICE, Elsewhere, Watch = elsewhere.DEVICE, elsewhere.Elsewhere, elsewhere.Watch
HEADS = [(model_type, name) for model_type in FAMILIES for name in heads_of(model_type)]
EXACT = {"rtol": 1e-12, "atol": 1e-12}  # float64 has 16 digits; without the CPU's own ways, sums go in another order


def moved(model: nn.Module) -> nn.Module:
    """PyTorch puts other parameters in the place of these, where those of a GPU would take theirs: tied ones part."""
    model.to(DEVICE)
    model.tie_weights()
    return model


def test_devices_do_not_mix():
    x = torch.randn(3, 4)
    with Watch():
        there = x.to(DEVICE)
        assert there.device == DEVICE
        for wrong in (lambda: there + x, lambda: there @ x.t(), lambda: there[x > 0], lambda: there.add_(x)):
            with pytest.raises(RuntimeError, match="one device"):
                wrong()
        assert torch.equal((there + 1.5 * torch.tensor(2.0)).cpu(), x + 3)


def test_questions_are_counted():
    with Watch() as watch:
        x = torch.randn(3, 4, device=DEVICE)
        y = x.mul(2).masked_fill(x > 0, 0).sum()
        assert not watch.questions
        for ask in (y.item, y.tolist, y.cpu, (x > 0).any().__bool__, x.nonzero, lambda: x[x > 0], lambda: x.equal(x)):
            watch.questions.clear()
            ask()
            assert watch.questions.total() == 1


@pytest.mark.parametrize("model_type, class_name", HEADS)
def test_a_head_gives_what_it_gives_on_the_cpu(model_type, class_name):
    """Outputs and gradients, with padding, and from embeddings, positions and whatever else it takes."""
    model, task = head(model_type, class_name)
    batch = make_batch(model, task, "right")
    ways = {"": batch, **other_inputs(model, task, batch)}
    here = {name: run(model, cast(way, torch.float64)) for name, way in ways.items()}
    with Watch():
        moved(model)
        for name, way in ways.items():
            there = run(model, cast(way, torch.float64, DEVICE))
            for got, expected in ((there.outputs, here[name].outputs), (there.gradients, here[name].gradients)):
                assert got.keys() == expected.keys()
                for key, x in got.items():
                    assert isinstance(x, Elsewhere), f"{key} of {name or 'the batch'}"
                    torch.testing.assert_close(x.here, expected[key], **EXACT, msg=lambda m, key=key: f"{key}: {m}")


def head(model_type: str, class_name: str) -> tuple[nn.Module, str]:
    """A random model, and its task."""
    family, task = FAMILIES[model_type], heads_of(model_type)[class_name]
    config = class_for(model_type, "Config")(**{**family.config, **family.special.get(class_name, {})})
    model = class_for(model_type, task)(config)
    randomise(model)
    return model.double().eval(), task


# What a step asks the device for. A GPU has then nothing to do until Python has told it of the next operators.
MODES = {
    "greedy": ({}, 0),
    "with an end": ({"eos_token_id": [*range(9)]}, 1),
    "drawn": ({"do_sample": True, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "temperature": 0.8}, 0),
    "truncated": ({"do_sample": True, "typical_p": 0.95, "epsilon_cutoff": 1e-4, "eta_cutoff": 1e-4, "top_h": 0.5}, 0),
    "penalties": ({"repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "sequence_bias": {(3,): 2.0, (4, 5): 3.0}}, 0),
    "forbidden": ({"bad_words_ids": [[3], [4, 5]], "suppress_tokens": [7, 8], "begin_suppress_tokens": [9]}, 0),
    "lengths": ({"min_new_tokens": 4, "eos_token_id": 5, "exponential_decay_length_penalty": (3, 1.1)}, 1),
    "forced": ({"forced_eos_token_id": 5, "eos_token_id": 5, "renormalize_logits": True}, 1),
    "guided": ({"guidance_scale": 1.5}, 1),  # does this text continue the one that was read?
    "told all": ({"return_dict_in_generate": True, "output_scores": True, "output_hidden_states": True}, 0),
    "several": ({"do_sample": True, "num_return_sequences": 2}, 0),
    "static": ({"cache_implementation": "static"}, 0),
    "beams": ({"num_beams": 3}, 1),
    "drawn beams": ({"num_beams": 3, "do_sample": True, "eos_token_id": [*range(9)]}, 1),
    "contrastive": ({"penalty_alpha": 0.6, "top_k": 4}, 1),
}
UNCOUNTED = {
    "groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "constrained": {"num_beams": 4, "force_words_ids": [[7], [8, 9]]},
    "no cache": {"use_cache": False},
}
ONE_TEXT = {"looked up": {"prompt_lookup_num_tokens": 3}, "assisted": {}}
TOKENS = 13
AT_FIRST = 6  # questions about what came, before the first step: is any of it padding?


def written(model: nn.Module, given: dict, more: dict) -> torch.Tensor:
    torch.manual_seed(3)
    out = model.generate(**given, **{"max_new_tokens": TOKENS, "pad_token_id": 0, **more})
    return out if isinstance(out, torch.Tensor) else out.sequences


def questions_of_the_same(model: nn.Module, given: dict, more: dict) -> Counter[str]:
    """What the device is asked for, while the model writes there what it writes here."""
    expected = written(model, given, more)
    with Watch() as watch:
        moved(model)
        given = {k: x.to(DEVICE) for k, x in given.items()}
        more = {k: moved(x) if isinstance(x, nn.Module) else x for k, x in more.items()}
        watch.questions.clear()
        assert torch.equal(written(model, given, more).here, expected)
    return watch.questions


@pytest.mark.parametrize("padded", [False, True], ids=["", "padded"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral"])
def test_texts_are_written_with_a_question_a_token(name, mode, padded):
    more, each = MODES[mode]
    questions = questions_of_the_same(make(name), prompts(padded=padded), more)
    assert questions.total() <= AT_FIRST + each * TOKENS, questions


@pytest.mark.parametrize("mode", [*UNCOUNTED, *ONE_TEXT])
def test_the_other_ways_to_write(mode):
    draft = {"assistant_model": make(num_hidden_layers=1)} if mode == "assisted" else {}
    given = {k: x[:1] if mode in ONE_TEXT else x for k, x in prompts().items()}
    questions_of_the_same(make(), given, (UNCOUNTED | ONE_TEXT)[mode] | draft)


@pytest.mark.parametrize("more, each", [({}, 0), ({"eos_token_id": 9}, 1), ({"num_beams": 3}, 1)], ids=str)
@pytest.mark.parametrize("model_type", ENCODER_DECODERS)
def test_an_encoders_padding_is_asked_for_once(model_type, more, each):
    (name,) = (name for name, task in heads_of(model_type).items() if task == "ForSeq2SeqLM")
    model, task = head(model_type, name)
    batch = make_batch(model, task, "right")
    given = {"inputs": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    more = {"eos_token_id": None, "pad_token_id": model.config.pad_token_id, **more}
    questions = questions_of_the_same(model, given, more)
    assert questions.total() <= AT_FIRST + each * TOKENS, questions


def test_a_tensor_made_on_the_cpu_is_found(monkeypatch):
    monkeypatch.setattr(masks, "lower_triangle", partial(on_the_cpu, masks.lower_triangle))
    given = prompts()
    with Watch():
        model = moved(make())
        with pytest.raises(RuntimeError, match="one device"):
            model(given["inputs"].to(DEVICE), attention_mask=given["attention_mask"].to(DEVICE))


def on_the_cpu(make_mask, *args, device=None, **kwargs):
    return make_mask(*args, **kwargs)


@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True}, {"label_smoothing_factor": 0.1}], ids=str)
def test_training_gives_what_it_gives_on_the_cpu(tmp_path, monkeypatch, options):
    """And asks for the labels that count, in a batch and in a step, for the loss's gradient, and for what it logs."""
    data = [{"input_ids": ids, "labels": ids} for ids in prompts(16, padded=False)["inputs"]]

    def trainer(folder, model):
        steps = {"max_steps": 6, "logging_steps": 3, "per_device_train_batch_size": 2, "save_strategy": "no"}
        args = TrainingArguments(folder, **steps, learning_rate=1e-2, disable_tqdm=True, report_to="none", **options)
        return Trainer(model.train(), args, train_dataset=data)

    here = trainer(tmp_path / "here", make())
    here.train()
    monkeypatch.setattr(TrainingArguments, "device", DEVICE)
    monkeypatch.setattr(adamw, "FUSED", (*adamw.FUSED, DEVICE.type))
    with Watch() as watch:
        there = trainer(tmp_path / "there", moved(make()))
        watch.questions.clear()
        there.train()
    for a, b in zip(there.state.log_history, here.state.log_history, strict=True):
        for name in a.keys() & {"loss", "grad_norm", "learning_rate", "train_loss"}:
            assert a[name] == pytest.approx(b[name], rel=1e-12)
    assert all(isinstance(p, Elsewhere) for p in there.model.parameters())
    assert watch.questions.total() <= 3 * 6 + 6, watch.questions


@pytest.mark.parametrize("merged", [False, True], ids=["beside it", "merged"])
def test_adapters_are_where_the_model_is(merged):
    ids = prompts()["inputs"]
    model = get_peft_model(make(), LoraConfig(r=3, target_modules=["c_attn"], task_type="CAUSAL_LM"))
    randomise(model)
    expected = model(ids).logits
    with Watch():
        model = moved(model)
        model = model.merge_and_unload() if merged else model
        torch.testing.assert_close(model(ids.to(DEVICE)).logits.here, expected, **EXACT)


def test_files_are_read_to_the_device_and_written_from_it(tmp_path):
    model = make()
    model.save_pretrained(tmp_path)
    with Watch():
        there = type(model).from_pretrained(tmp_path, device_map=str(DEVICE), dtype=torch.float64)
        assert all(isinstance(p, Elsewhere) for p in there.parameters())
        there.save_pretrained(tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
