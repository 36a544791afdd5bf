"""What a `Trainer` puts on the hub, here a stand-in: the model at the end, saves on the way, the card.

The facts at the card's head are compared with those of the reference's own `TrainingSummary`.
"""

import os
import signal

import datasets
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from transformers.modelcard import TrainingSummary, parse_log_history

from minihf import (
    BertConfig,
    BertForSequenceClassification,
    LoraConfig,
    PeftModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_peft_model,
)
from minihf.checkpoints.card import NOTE, make_card
from minihf.training.publishing import PUSHING

SIZES = {"vocab_size": 9, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 17}
ROWS = [{"input_ids": [2, 5 + i % 3, 6, 3], "label": i % 2} for i in range(6)]
MODEL = {"config.json", "model.safetensors", "training_args.json", "README.md"}


def trainer(folder, model=None, parts=None, **settings) -> Trainer:
    """Of 3 steps, an epoch. `parts` are the trainer's other arguments, `settings` those of `TrainingArguments`."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**SIZES)) if model is None else model
    defaults = {"use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": 2, "push_to_hub": True}
    defaults |= {"num_train_epochs": 1, "save_strategy": "steps", "save_steps": 1}
    args = TrainingArguments(str(folder), **{**defaults, **settings})
    made = Trainer(model, args, train_dataset=ROWS, **(parts or {}))
    made.remove_callback(PrinterCallback)
    return made


def accuracy(prediction) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean()), "spread": 0.25}


def loads(name: str, made: Trainer, **options) -> bool:
    """The hub's model is the trainer's."""
    loaded = BertForSequenceClassification.from_pretrained(name, **options).state_dict()
    return all(torch.equal(loaded[key], tensor) for key, tensor in made.model.state_dict().items())


def card(repository) -> ModelCard:
    return ModelCard(repository.files()["README.md"].decode())


# When, and what


def test_the_courses_run(online, tmp_path):
    made = trainer(
        tmp_path / "bert-fine-tuned-cola", save_strategy="epoch", num_train_epochs=2, hub_always_push=True,
        eval_strategy="epoch", hub_token="secret", parts={"eval_dataset": ROWS, "compute_metrics": accuracy},
    )  # fmt: skip
    repository = online["me/bert-fine-tuned-cola"]  # as early as that
    assert made.hub_model_id == "me/bert-fine-tuned-cola"
    made.train()
    progress = ["Training in progress, epoch 1", "Training in progress, epoch 2"]
    assert repository.titles() == progress
    assert loads(made.hub_model_id, made)
    info = made.push_to_hub(commit_message="Training complete", tags="summarization")
    assert repository.titles() == [*progress, "Training complete"]
    assert info.oid == repository.branches["main"]
    assert set(repository.files()) == MODEL
    assert loads(made.hub_model_id, made)
    found = card(repository)
    assert found.data.tags == ["summarization", "generated_from_trainer"]
    assert found.data.pipeline_tag == "text-classification"
    for said in ("- Accuracy: 0.5", "| Training Loss | Epoch | Step | Validation Loss | Accuracy |", "- epochs: 2"):
        assert said in found.text
    everything = b"".join(content for commit in repository.commits for content in commit.files.values())
    assert b"secret" not in everything


@pytest.mark.parametrize(
    ("strategy", "places"),
    [
        ("every_save", []),
        ("checkpoint", ["last-checkpoint"]),
        ("all_checkpoints", ["checkpoint-1", "checkpoint-2", "checkpoint-3"]),
    ],
)
def test_strategies(online, tmp_path, capsys, strategy, places):
    enable_progress_bars()  # which another test may have left off
    made = trainer(tmp_path / "run", hub_strategy=strategy, hub_always_push=True, hub_model_id="team/m")
    made.train()
    repository = online["team/m"]
    assert repository.titles() == [f"Training in progress, step {step}" for step in (1, 2, 3)]
    files = repository.files()
    assert {name for name in files if "/" not in name} == MODEL
    assert {name.split("/")[0] for name in files if "/" in name} == set(places)
    for place in places:
        local = tmp_path / "run" / place.replace("last-checkpoint", "checkpoint-3")
        assert {p.name: p.read_bytes() for p in local.iterdir()} == {
            name.removeprefix(f"{place}/"): content for name, content in files.items() if name.startswith(f"{place}/")
        }
    assert loads("team/m", made)
    assert not [*(tmp_path / "run").glob(f"{PUSHING}*")]
    assert "safetensors" not in capsys.readouterr().err  # no bars of uploads over the training's
    assert not are_progress_bars_disabled()


def test_the_end_alone(online, tmp_path):
    made = trainer(tmp_path / "m", hub_strategy="end", hub_private_repo=True, hub_revision="runs")
    made.train()
    assert online["me/m"].private
    assert online["me/m"].titles() == ["End of training"]
    assert online["me/m"].files() == {}
    assert loads("me/m", made, revision="runs")
    assert not any("checkpoint" in name for name in online["me/m"].files("runs"))


def test_without_push_to_hub_nothing_is_asked_until_it_is_called(online, tmp_path):
    made = trainer(tmp_path / "m", push_to_hub=False, max_steps=1)
    made.train()
    made.save_model()
    assert not online.asked
    assert made.push_to_hub(blocking=False, private=True).result().commit_message == "End of training"
    assert online["me/m"].private
    assert loads("me/m", made)


def test_save_model_is_an_upload_when_the_arguments_say_so(online, tmp_path):
    made = trainer(tmp_path / "m", save_strategy="no")
    made.train()
    made.save_model()
    assert online["me/m"].titles() == ["Model save"]


def test_an_adapter(online, tmp_path):
    adapter = get_peft_model(BertForSequenceClassification(BertConfig(**SIZES)), LoraConfig(task_type="SEQ_CLS", r=2))
    adapter.peft_config["default"].base_model_name_or_path = "me/base"
    made = trainer(tmp_path / "m", adapter, hub_always_push=True, save_steps=3)
    made.train()
    assert {"adapter_model.safetensors", "adapter_config.json"} < set(online["me/m"].files())
    assert (card(online["me/m"]).data.library_name, card(online["me/m"]).data.base_model) == ("peft", "me/base")
    torch.manual_seed(0)
    loaded = PeftModel.from_pretrained(adapter.unload(), "me/m").state_dict()
    assert any(key.endswith("lora_B.default.weight") and value.abs().max() > 0 for key, value in loaded.items())


# What goes wrong


def test_who_may_not_upload_is_told_before_the_training(online, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(PermissionError, match=r"'m' was not uploaded.*log in"):
        trainer(tmp_path / "m")
    with pytest.raises(PermissionError, match="may not make a repository in strangers"):
        trainer(tmp_path / "m", hub_model_id="strangers/m", hub_token="secret")


class Mends(TrainerCallback):
    """The hub answers again from this step on."""

    def __init__(self, hub, step):
        self.hub, self.step = hub, step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.trainer.push_in_progress.result()
            self.hub.faults.clear()


def test_an_upload_that_fails_does_not_stop_the_training(online, tmp_path, caplog):
    mends = Mends(online, 1)
    made = mends.trainer = trainer(tmp_path / "m", parts={"callbacks": [mends]}, hub_always_push=True)
    online.faults["/commit/"] = {"status": 503}
    made.train()
    told = [record.message for record in caplog.records if "training goes on" in record.message]
    assert len(told) == 1
    assert "checkpoint-1 could not be uploaded, and training goes on: 'me/m' was not uploaded" in told[0]
    assert online["me/m"].titles() == ["Training in progress, step 2", "Training in progress, step 3"]
    assert loads("me/m", made)


def test_at_the_end_it_is_an_error_and_nothing_is_lost(online, tmp_path):
    made = trainer(tmp_path / "m")
    online.faults["/commit/"] = {"status": 503}
    with pytest.raises(ConnectionError, match="'me/m' was not uploaded"):
        made.train()
    assert made.state.global_step == 3
    assert loads(tmp_path / "m" / "checkpoint-3", made)
    assert online["me/m"].files() == {}
    online.faults.clear()
    made.push_to_hub()
    assert loads("me/m", made)
    assert made.train(resume_from_checkpoint=True).global_step == 3


class Interrupts(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)


def test_an_interrupted_run_ends_as_such_whatever_the_hub_says(online, tmp_path):
    online.faults["/commit/"] = {"status": 503}
    for strategy in ("every_save", "end"):
        made = trainer(tmp_path / strategy, parts={"callbacks": [Interrupts]}, hub_strategy=strategy, save_steps=3)
        with pytest.raises(SystemExit, match="143"):
            made.train()
        assert (tmp_path / strategy / "checkpoint-1").is_dir()
        assert online[f"me/{strategy}"].titles() == []


class Opens(TrainerCallback):
    def on_train_end(self, args, state, control, **kwargs):
        self.left = sorted(path.name for path in self.folder.iterdir() if path.name.startswith("checkpoint"))
        self.gate.set()


def test_a_save_is_passed_over_while_one_is_on_its_way_and_the_last_one_is_not(online, tmp_path):
    opens = Opens()
    opens.gate, opens.folder = online.gate, tmp_path / "m"
    made = trainer(tmp_path / "m", parts={"callbacks": [opens]}, save_total_limit=1)
    online.gate.clear()
    made.train()
    assert opens.left == ["checkpoint-3"]  # the one that was on its way had been removed long ago
    assert online["me/m"].titles() == ["Training in progress, step 1", "Training in progress, step 3"]
    assert loads("me/m", made)


def test_what_a_killed_run_left_is_removed(online, tmp_path):
    (tmp_path / "m" / f"{PUSHING}x").mkdir(parents=True)
    made = trainer(tmp_path / "m", save_strategy="no", max_steps=1)
    made.train()
    assert not [*(tmp_path / "m").glob(f"{PUSHING}*")]


# Arguments


def test_former_and_wrong_arguments(tmp_path):
    args = TrainingArguments(str(tmp_path), push_to_hub_model_id="m", push_to_hub_token="t", hub_strategy="end")
    assert (args.hub_model_id, args.hub_token, args.hub_strategy) == ("m", "t", "end")
    assert "hub_token" not in args.to_dict()
    assert args.to_dict()["hub_strategy"] == "end"
    with pytest.raises(TypeError, match="write hub_model_id='org/…'"):
        TrainingArguments(str(tmp_path), push_to_hub_organization="org")
    with pytest.raises(ValueError, match="'always' is no HubStrategy: choose one of end, every_save, checkpoint, all_"):
        TrainingArguments(str(tmp_path), hub_strategy="always")
    with pytest.raises(TypeError, match="unexpected keyword argument 'tag'"):
        trainer(tmp_path, push_to_hub=False).create_model_card(tag="x")


# The card

LOGS = [
    {"loss": 0.9, "step": 1, "epoch": 0.5},
    {"eval_loss": 0.8, "eval_accuracy": 0.5, "eval_rouge1": 0.25, "eval_runtime": 1.0, "step": 2, "epoch": 1.0},
    {"loss": 0.7, "step": 3, "epoch": 1.5},
    {"eval_loss": 0.6, "eval_accuracy": 0.75, "eval_rouge1": 0.5, "eval_runtime": 1.0, "step": 4, "epoch": 2.0},
    {"train_runtime": 3.0, "train_loss": 0.8, "step": 4, "epoch": 2.0},
]
FACTS = [
    {},
    {"language": "en", "license": "mit", "tags": "one", "model_name": "fine", "finetuned_from": "bert-base-cased"},
    {"tags": ["one", "two"], "tasks": "text-classification", "dataset_tags": "glue", "dataset_args": "cola"},
    {"tasks": ["fill-mask", "text-classification"], "dataset_tags": ["a", "b"], "dataset": ["A", "B"]},
]


@pytest.mark.parametrize("facts", FACTS)
@pytest.mark.parametrize("named", [False, True])
def test_the_facts_of_the_card_are_the_references(tmp_path, facts, named):
    info = datasets.DatasetInfo(builder_name="glue", config_name="mrpc") if named else None
    rows = datasets.Dataset.from_list(ROWS, info=info, split="validation" if named else None)
    made = trainer(tmp_path / "m", push_to_hub=False, parts={"eval_dataset": rows})
    made.state.log_history = LOGS
    made.create_model_card(**facts)
    ours = ModelCard.load(tmp_path / "m" / "README.md").data

    given = {"model_name": "m", "tasks": "text-classification", **facts}
    tags = given.pop("tags", [])
    given["tags"] = [*([tags] if isinstance(tags, str) else tags), "generated_from_trainer"]
    if named:
        given = {"dataset_tags": ["glue"], "dataset_args": ["mrpc"], **given}
        given["dataset_metadata"] = [{"config": "mrpc", "split": "validation"}]
    given.setdefault("dataset", given.get("dataset_tags"))
    _, lines, results = parse_log_history(LOGS)
    theirs = TrainingSummary(eval_results=results, eval_lines=lines, **given).create_metadata()
    found = ours.to_dict()
    for name in ("license", "base_model", "tags", "datasets", "metrics"):
        assert found.get(name) == theirs.get(name), name
    assert [found.get("language")] == theirs.get("language", [None])

    def cells(rows):
        return [
            (row["task"]["type"], row["dataset"]["type"], row["dataset"]["name"], each["type"], each["value"])
            for row in rows
            for each in row["metrics"]
        ]

    index = found.get("model-index", [{"results": []}])
    assert cells(index[0]["results"]) == cells(theirs["model-index"][0]["results"])
    if index[0]["results"]:
        assert index[0]["name"] == theirs["model-index"][0]["name"]
    for row in lines:  # of the table, the reference's
        assert f"| {row['Training Loss']:.4g} |" in ModelCard.load(tmp_path / "m" / "README.md").text


def test_a_card_that_somebody_has_written_stays(online, tmp_path):
    made = trainer(tmp_path / "m", save_strategy="no")
    path = tmp_path / "m" / "README.md"
    path.write_text("---\nlicense: mit\ntags:\n- mine\n---\n# My own\n")
    made.push_to_hub(tags=["new"])
    found = card(online["me/m"])
    assert (found.data.license, found.data.tags, found.text.strip()) == ("mit", ["mine", "new"], "# My own")

    path.write_text(str(make_card("m", "made before", tags=["old"])))  # and this one is ours
    online["me/m"].files()
    made.create_model_card(tags="new")
    again = ModelCard.load(path)
    assert NOTE in again.content
    assert "made before" not in again.text
    assert set(again.data.tags) == {"old", "new", "generated_from_trainer"}
    made.push_to_hub()
    assert card(online["me/m"]).text.strip() == "# My own"  # on the hub it is still somebody's


def test_the_license_of_the_checkpoint_it_began_as(online, tmp_path):
    online.put("me/base", {"README.md": ""}).tags = ["license:apache-2.0"]
    made = trainer(tmp_path / "m", push_to_hub=False)
    made.model.name_or_path = "me/base"
    made.create_model_card()
    assert ModelCard.load(tmp_path / "m" / "README.md").data.license == "apache-2.0"
    online.faults["/api/models/me/base"] = {"status": 503}
    made.create_model_card()
    data = ModelCard.load(tmp_path / "m" / "README.md").data
    assert (data.license, data.base_model) == (None, "me/base")
