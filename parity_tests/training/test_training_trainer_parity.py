"""`Trainer` against the reference's, live: the whole log, the predictions and the final weights, dropout included.

Same weights, same seed; then order of the examples, random draws, arithmetic and events must all agree, or the curves
part. 50 steps are more than four epochs.
"""

import random

import numpy as np
import pytest
import torch
import transformers

import minihf

SPEED = ("runtime", "per_second")
STEPS = 50
BERT = {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 36}
BERT |= {"max_position_embeddings": 20, "num_labels": 3}
GPT2 = {"vocab_size": 61, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 20, "bos_token_id": 1}
GPT2 |= {"eos_token_id": 1}
T5 = {"vocab_size": 61, "d_model": 24, "d_kv": 6, "num_layers": 2, "num_heads": 4, "d_ff": 36, "pad_token_id": 0}
T5 |= {"eos_token_id": 1, "decoder_start_token_id": 0}


def examples(count: int, seed: int) -> list[dict]:
    draw = np.random.RandomState(seed)
    lengths = draw.randint(4, 12, count)
    return [{"input_ids": draw.randint(2, 61, n).tolist(), "label": int(draw.randint(3))} for n in lengths]


def padded(rows: list[dict]) -> dict[str, torch.Tensor]:
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row["input_ids"]) for row in rows], batch_first=True)
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def classified(rows):
    return padded(rows) | {"labels": torch.tensor([row["label"] for row in rows])}


def continued(rows):
    batch = padded(rows)
    return batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


def reversed_texts(rows):
    batch = padded(rows)
    return batch | {"labels": batch["input_ids"].flip(1).masked_fill(batch["attention_mask"].flip(1) == 0, -100)}


def masked(rows):
    """Draws from all three generators, as people's collators do."""
    batch = padded(rows)
    hidden = (torch.rand(batch["input_ids"].shape) < 0.3) & (batch["attention_mask"] == 1)
    hidden[0, 0] = True
    word = random.randint(2, 30) + np.random.randint(2, 30)
    return batch | {
        "labels": batch["input_ids"].masked_fill(~hidden, -100),
        "input_ids": batch["input_ids"].masked_fill(hidden, word),
    }


def pair(name: str, config: str, sizes: dict) -> dict:
    """Library -> its model, with the same weights."""
    torch.manual_seed(1)
    models = {lib: getattr(lib, name)(getattr(lib, config)(**sizes)) for lib in (transformers, minihf)}
    models[minihf].load_state_dict(models[transformers].state_dict())
    return models


def train_both(models, collate, folder, *, seq2seq=False, prepare=None, compute_metrics=None, evaluated=13, **settings):
    """Library -> its trainer, after training."""
    kind, cls = ("Seq2SeqTrainingArguments", "Seq2SeqTrainer") if seq2seq else ("TrainingArguments", "Trainer")
    defaults = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "save_strategy": "no"}
    defaults |= {"max_steps": STEPS, "per_device_train_batch_size": 4, "learning_rate": 3e-3, "logging_steps": 1}
    trainers = {}
    for lib, model in models.items():
        args = getattr(lib, kind)(str(folder / lib.__name__), **{**defaults, **settings})
        data = examples(45, 0), examples(evaluated, 1)
        metrics = (compute_metrics or {}).get(lib)
        trainer = trainers[lib] = getattr(lib, cls)(model, args, collate, *data, compute_metrics=metrics)
        trainer.remove_callback(lib.PrinterCallback)
        if prepare is not None and lib is transformers:
            prepare(trainer)
        trainer.train()
    return trainers


def compare(models, collate, folder, *, metrics=None, **settings):
    """Train both and compare everything. Returns the trainers, and what metrics saw, by library."""
    seen = {transformers: [], minihf: []}

    def watch(lib):
        def compute_metrics(prediction):
            seen[lib].append((prediction.predictions, prediction.label_ids))
            return {"score": metrics(prediction)} if metrics else {}

        return compute_metrics

    trainers = train_both(models, collate, folder, compute_metrics={lib: watch(lib) for lib in models}, **settings)
    compare_logs(trainers)
    assert trainers[minihf].state.global_step == STEPS
    assert len(seen[minihf]) == len(seen[transformers]) > 0
    return trainers, seen


def compare_logs(trainers):
    """Loss, gradient norm, rate and epoch of each step, each evaluation, and the weights at the end."""
    ours, theirs = (without_speed(trainers[lib].state.log_history) for lib in (minihf, transformers))
    assert [sorted(each) for each in ours] == [sorted(each) for each in theirs]
    assert len([each for each in ours if "loss" in each]) == trainers[minihf].state.global_step
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, abs=1e-4, rel=1e-6), mine["step"]
    reference = trainers[transformers].model.state_dict()
    for name, value in trainers[minihf].model.state_dict().items():
        torch.testing.assert_close(value, reference[name], atol=1e-4, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


def without_speed(history: list[dict]) -> list[dict]:
    return [{name: value for name, value in each.items() if not name.endswith(SPEED)} for each in history]


def accuracy(prediction) -> float:
    return float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())


def test_classification_with_bert(tmp_path):
    models = pair("BertForSequenceClassification", "BertConfig", BERT)
    settings = {"weight_decay": 0.1, "warmup_steps": 0.1, "eval_strategy": "steps", "eval_steps": 10}
    trainers, seen = compare(models, classified, tmp_path, metrics=accuracy, max_grad_norm=0.4, **settings)
    for mine, other in zip(seen[minihf], seen[transformers], strict=True):
        np.testing.assert_allclose(mine[0], other[0], atol=1e-5)
        np.testing.assert_array_equal(mine[1], other[1])
    norms = [each["grad_norm"] for each in trainers[minihf].state.log_history if "grad_norm" in each]
    assert min(norms) < 0.4 < max(norms)  # clipped now and then
    ours = minihf.TrainerState.load_from_json(saved_state(trainers[minihf]))
    assert transformers.TrainerState.load_from_json(saved_state(trainers[minihf])).global_step == ours.global_step == 50
    predicted = [trainers[lib].predict(examples(7, 2)) for lib in (minihf, transformers)]
    np.testing.assert_allclose(predicted[0].predictions, predicted[1].predictions, atol=1e-5)
    metrics = [{name for name in each.metrics if "preparation" not in name} for each in predicted]
    assert metrics[0] == metrics[1]


def saved_state(trainer) -> str:
    trainer.save_state()
    return f"{trainer.args.output_dir}/trainer_state.json"


def test_a_causal_language_model_with_accumulation_and_label_smoothing(tmp_path):
    def count_as_llama(trainer):
        trainer._loss_shifts_labels = True  # see the next test

    settings = {"gradient_accumulation_steps": 3, "label_smoothing_factor": 0.1, "lr_scheduler_type": "cosine"}
    models = pair("GPT2LMHeadModel", "GPT2Config", GPT2)
    compare(models, continued, tmp_path, prepare=count_as_llama, eval_strategy="epoch", **settings)


def test_the_labels_of_gpt2_are_counted_as_those_of_llama(tmp_path):
    """The reference divides GPT-2's loss by all labels, though the first of each row is predicted by nothing: its loss
    is too small, and so the perplexity. Ours is the model's own loss, as it is in both libraries for Llama."""
    data = examples(6, 3)
    for name, config, sizes in [
        ("GPT2LMHeadModel", "GPT2Config", GPT2),
        ("LlamaForCausalLM", "LlamaConfig", {**BERT, "num_key_value_heads": 2}),
    ]:
        models, losses = pair(name, config, sizes), {}
        for lib, model in models.items():
            args = lib.TrainingArguments(str(tmp_path), use_cpu=True, disable_tqdm=True, report_to="none")
            losses[lib] = lib.Trainer(model, args, continued, eval_dataset=data).evaluate()["eval_loss"]
        batch = continued(data)
        own = models[minihf].eval()(**batch).loss.item()
        labels, rows = int((batch["labels"] != -100).sum()), len(data)
        assert losses[minihf] == pytest.approx(own, abs=1e-5)
        wrong = own * (labels - rows) / labels if name.startswith("GPT2") else own
        assert losses[transformers] == pytest.approx(wrong, abs=1e-4)


def test_masked_words_and_lengths_in_groups(tmp_path):
    models = pair("BertForMaskedLM", "BertConfig", BERT)
    settings = {"train_sampling_strategy": "group_by_length", "num_train_epochs": 1.5, "max_steps": -1}
    trainers = train_both(models, masked, tmp_path, include_num_input_tokens_seen="non_padding", **settings)
    compare_logs(trainers)
    assert trainers[minihf].state.global_step == 18
    assert trainers[minihf].state.num_input_tokens_seen > 0


def test_several_batches_make_one_mean(tmp_path):
    """A head that does not divide by `num_items_in_batch`: the reference adds up the means of a step's batches, and its
    loss is as many times too large. Ours is their mean."""
    models = pair("BertForSequenceClassification", "BertConfig", {**BERT, "hidden_dropout_prob": 0.0})
    settings = {"gradient_accumulation_steps": 2, "max_steps": 1, "train_sampling_strategy": "sequential"}
    trainers = train_both(models, classified, tmp_path, **settings)
    ours, theirs = (trainers[lib].state.log_history[0]["loss"] for lib in (minihf, transformers))
    assert theirs == pytest.approx(2 * ours, rel=0.05)  # dropout of attention is left


def test_seq2seq_with_generation(tmp_path):
    models = pair("T5ForConditionalGeneration", "T5Config", T5)
    settings = {"predict_with_generate": True, "generation_max_length": 14, "generation_num_beams": 2}
    settings |= {"eval_strategy": "steps", "eval_steps": 25, "per_device_eval_batch_size": 4}
    trainers, seen = compare(models, reversed_texts, tmp_path, seq2seq=True, evaluated=12, **settings)
    written = [trainers[lib].predict(examples(8, 2), max_length=30, num_beams=1) for lib in (minihf, transformers)]
    np.testing.assert_array_equal(written[0].predictions, written[1].predictions)
    for mine, other in zip(seen[minihf], seen[transformers], strict=True):
        np.testing.assert_array_equal(mine[0], other[0])
        np.testing.assert_array_equal(mine[1], other[1])
    for lib in (minihf, transformers):
        trainers[lib].args.generation_max_length = trainers[lib].args.generation_num_beams = None
    trainers[transformers].predict(examples(4, 3))  # the first batch after which its limit is what it says
    written = [trainers[lib].predict(examples(8, 2)) for lib in (minihf, transformers)]
    np.testing.assert_array_equal(written[0].predictions, written[1].predictions)
    assert written[0].predictions.shape == (8, 20)
