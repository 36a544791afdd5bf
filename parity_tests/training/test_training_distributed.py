"""Two processes on the CPU get the single process's result, in DDP and in FSDP2; and minihf's models in the loops of
others: accelerate's and the reference's Trainer."""

import copy
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import BatchSampler, SequentialSampler

from minihf import BertConfig, BertForSequenceClassification, GPT2LMHeadModel, LoraConfig, get_peft_model
from minihf.inspection.pairs import make_pair
from minihf.training import dealing, parallel
from minihf.training import distributed as d
from minihf.training.adamw import AdamW
from minihf.training.checkpoints import load_checkpoint, save_checkpoint
from minihf.training.groups import parameter_groups
from parity_tests.training import distributed_run
from parity_tests.training.distributed_run import LENGTH, STEPS, accelerated, fresh, train

ROOT = Path(__file__).resolve().parents[2]
SAME = {"rtol": 1e-9, "atol": 1e-12}


@pytest.fixture(scope="module")
def alone() -> dict:
    return train(lambda model: model)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[dict, Path, subprocess.CompletedProcess]:
    """What two processes found, all in one start of torchrun."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, distributed_run.__file__, folder],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (folder / "results.pt").exists(), done.stderr[-5000:]
    return torch.load(folder / "results.pt", weights_only=True), folder, done


def same(found: dict, expected: dict) -> None:
    for name in expected.keys() - {"weights"}:
        torch.testing.assert_close(found[name], expected[name][-len(found[name]) :], **SAME)
    assert found["weights"].keys() == expected["weights"].keys()
    for name, tensor in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], tensor, **SAME, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("kind", ["ddp", "ddp accumulated", "fsdp", "fsdp accumulated"])
def test_two_processes_get_the_single_run(alone, two, kind):
    assert len(two[0][kind]["losses"]) == STEPS
    assert all(norm > 0.5 for norm in alone["norms"]), "nothing was clipped"
    same(two[0][kind], alone)


def test_a_sharded_run_goes_on_from_its_checkpoint(alone, two):
    assert len(two[0]["fsdp resumed"]["losses"]) == STEPS // 2
    same(two[0]["fsdp resumed"], alone)


def test_a_sharded_run_s_checkpoint_is_anybody_s(alone, two, caplog):
    """A single process goes on from it, and it loads as a model."""
    _, folder, _ = two
    names = {path.name for path in (folder / "checkpoint-2").iterdir()}
    assert {"model.safetensors", "optimizer.pt", "rng_state_0.pth", "rng_state_1.pth"} <= names
    same(train(lambda model: model, resume=folder / "checkpoint-2"), alone)
    assert "another number of processes" in caplog.text
    model = GPT2LMHeadModel.from_pretrained(folder / "checkpoint-2")
    assert model.config.architectures == ["GPT2LMHeadModel"]
    assert model.lm_head.weight is model.transformer.wte.weight


def test_what_is_measured_is_gathered(two):
    found = two[0]["measured"]
    logits, flags = found["gathered"]["logits"]
    first = [[3 * row, 3 * row + 1, 3 * row + 2, -100] for row in range(4)]  # of the first process, four rows of three
    assert logits.tolist() == [*first, [0, 1, 2, 3], [4, 5, 6, 7]]
    assert flags.tolist() == [[x > 1 for x in row] for row in logits.tolist()]
    assert found["gathered"]["loss"].tolist() == [0.0, 1.0]
    # Of nine, of which each takes two at a time: filled up from the beginning, or not.
    assert found["streamed"] == [[[0, 1, 4, 5, 8, 0], [0, 1, 4, 5, 8]], [[2, 3, 6, 7, 1, 2], [2, 3, 6, 7, 0]]]
    assert found["in_step"] == [[0, 1, 2]] * 2
    assert sorted(found["from_datasets"].tolist()) == list(range(8))
    assert found["anywhere"] == (True, False)
    assert found["by_main"] == {"written by": 0}


def test_the_main_process_s_failure_is_everybody_s(two):
    main, other = two[0]["measured"]["failures"]
    assert main == "OSError: no space"
    assert other == "RuntimeError: the main process failed: OSError: no space"


def test_a_process_that_ends_leaves_none_waiting(two):
    """The other one has a minute's patience; the run ended long before, and torchrun says so."""
    _, folder, done = two
    assert done.returncode != 0
    assert "one process fails" in done.stderr


def test_batches_are_dealt_out_in_order(two):
    expected = [[0, 1], [4, 5], [8, 9], [2, 3], [6, 7], [10, 0]]
    assert two[0]["measured"]["dealt"] == expected


@pytest.mark.parametrize("length", [1, 4, 7, 8, 12, 13])
@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_are_dealt_out_as_accelerate_deals(length, drop_last):
    from accelerate.data_loader import BatchSamplerShard

    for world_size in (1, 2, 3):
        batches = BatchSampler(SequentialSampler(range(length)), 2, drop_last=drop_last)
        for rank in range(world_size):
            ours = dealing.RankBatches(batches, rank, world_size, drop_last=drop_last)
            assert [*ours] == [*BatchSamplerShard(batches, world_size, rank)] or world_size == 1
            assert len([*ours]) == len(ours)
            assert all(len(batch) == 2 for batch in ours)


@pytest.mark.parametrize("length", [1, 4, 7, 8, 12, 13])
def test_streams_are_dealt_out_as_accelerate_deals(length):
    from accelerate.data_loader import IterableDatasetShard

    for world_size in (1, 2, 3):
        for rank in range(world_size):
            ours = [*dealing.RankExamples(range(length), 2, rank, world_size)]
            assert ours == [*IterableDatasetShard(range(length), 2, False, world_size, rank)]


@pytest.mark.parametrize("length", [1, 4, 7, 8, 12, 13])
def test_what_is_measured_is_dealt_out_in_order_and_not_filled_up(length):
    for world_size in (1, 2, 3):
        batches = BatchSampler(SequentialSampler(range(length)), 2, drop_last=False)
        ranks = [dealing.RankBatches(batches, rank, world_size, fill=False) for rank in range(world_size)]
        rounds = zip(*ranks, strict=True)  # as many for each, and none is empty
        together = [index for round_ in rounds for batch in round_ for index in batch]
        assert ranks[0].examples == length
        assert together[:length] == [*range(length)]
        streams = [dealing.RankExamples(range(length), 2, rank, world_size, fill=False) for rank in range(world_size)]
        assert [*streams[0]] == [index for batch in ranks[0] for index in batch]
        assert streams[0].examples == length


def test_alone_nothing_is_waited_for():
    assert (d.rank(), d.world_size(), d.is_main(), d.together()) == (0, 1, True, False)
    assert d.by_main(lambda: 3) == 3
    assert [*dealing.in_step(iter([1, 2]))] == [1, 2]
    assert d.gather({"a": torch.tensor(1.0)})["a"].tolist() == [1.0]
    stream = distributed_run.Stream()
    assert dealing.sharded(stream, 1) is stream
    with pytest.raises(OSError, match="no space"):
        d.by_main(distributed_run.fail)


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"no GPU: there are 2. Give --nproc-per-node=2"):
        d.join()


@pytest.fixture
def group(monkeypatch):
    """A group of one process, which shards as any other does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    assert d.join(cpu=True) == torch.device("cpu")
    yield
    d.leave()
    assert not d.together()


# Where sharding may go wrong: tied weights and biases, two stacks, a table in the first layer that the others read,
# experts whose file has other tensors.
@pytest.mark.parametrize("model_type", ["bert", "t5", "bart", "mixtral"])
def test_sharded_models_compute_and_are_saved_as_others(group, tmp_path, model_type):
    head = {"bert": "BertForMaskedLM", "mixtral": "MixtralForCausalLM"}.get(model_type)
    head = head or f"{model_type.capitalize()}ForConditionalGeneration"
    plain = make_pair(model_type, head).ours.double().train()
    sharded = parallel.shard(copy.deepcopy(plain))
    ids = torch.arange(3, 17).reshape(2, 7)
    losses = []
    for model in (plain, sharded):
        torch.manual_seed(1)  # of dropout
        output = model(input_ids=ids, labels=ids)
        output.loss.backward()
        losses.append(output.loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    for (name, a), (_, b) in zip(plain.named_parameters(), sharded.named_parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(parallel.whole(b.grad), a.grad, rtol=1e-9, atol=1e-12, msg=name)

    optimizer = AdamW(sharded.parameters())
    moments = parallel.full_state(optimizer.state_dict())
    place = tmp_path / "checkpoint-1"
    save_checkpoint(place, model=sharded, weights=parallel.full_weights(sharded), optimizer=moments, state={})
    again = type(plain).from_pretrained(place)
    with torch.no_grad():
        for parameter in sharded.parameters():
            parameter.zero_()
    load_checkpoint(place, model=sharded, optimizer=optimizer)
    whole = parallel.full_weights(sharded)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
        assert torch.equal(whole[name], tensor), name


def test_logits_of_a_sharded_model_are_made_when_they_are_read(group):
    output = parallel.shard(fresh())(input_ids=torch.ones(2, 5, dtype=torch.long), labels=torch.ones(2, 5).long())
    assert callable(vars(output)["logits"])
    assert output.logits.shape == (2, 5, 23)


def test_adapters_are_not_sharded():
    with pytest.raises(ValueError, match="adapters are not sharded"):
        parallel.shard(get_peft_model(fresh(), LoraConfig(target_modules=["c_attn"])))


# In the loops of others


def test_under_accelerate(alone, two, tmp_path):
    found = accelerated()
    model = found.pop("model")
    for one in (found, two[0]["accelerate"]):
        same(one, {name: alone[name] for name in ("norms", "weights")})
    model.save_pretrained(tmp_path, is_main_process=True, save_function=torch.save, state_dict=found["weights"])
    again = GPT2LMHeadModel.from_pretrained(tmp_path, dtype=torch.float64)
    assert torch.equal(again.lm_head.weight, found["weights"]["lm_head.weight"])
    model.save_pretrained(tmp_path / "nothing", is_main_process=False)
    assert not (tmp_path / "nothing").exists()


def test_inside_the_reference_s_trainer(tmp_path):
    """It trains, evaluates, saves and resumes as its own model does; and we go on from its checkpoint."""
    import transformers

    sizes = {"vocab_size": 23, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 17, "max_position_embeddings": 9, "num_labels": 3}
    ours = BertForSequenceClassification(BertConfig(**sizes))
    theirs = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes))
    theirs.load_state_dict(ours.state_dict())
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 23, (12, 6), generator=draw)
    rows = [{"input_ids": one, "labels": int(one[0]) % 3} for one in ids]

    def trainer(model, name):
        args = transformers.TrainingArguments(
            tmp_path / name, max_steps=4, save_steps=2, logging_steps=1, per_device_train_batch_size=4,
            learning_rate=1e-2, report_to="none", use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        return transformers.Trainer(model, args, train_dataset=rows, eval_dataset=rows[:5])

    trainers = []
    for model, name in ((ours, "ours"), (theirs, "theirs")):
        trainers.append(trainer(model, name))  # which sets the seed that dropout draws by
        trainers[-1].train()
    losses = [[x["loss"] for x in one.state.log_history if "loss" in x] for one in trainers]
    assert len(losses[0]) == 4
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=0)
    assert abs(trainers[0].evaluate()["eval_loss"] - trainers[1].evaluate()["eval_loss"]) < 1e-5
    assert trainers[0].predict(rows[:5]).predictions.shape == (5, 3)

    final = {name: x.clone() for name, x in ours.state_dict().items()}
    trainer(ours, "ours").train(resume_from_checkpoint=str(tmp_path / "ours" / "checkpoint-2"))
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, final[name]), name

    model = BertForSequenceClassification(BertConfig(**sizes))
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.0))
    state = load_checkpoint(tmp_path / "theirs" / "checkpoint-4", model=model, optimizer=optimizer)
    assert state["global_step"] == 4
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert torch.equal(
        optimizer.state[model.classifier.weight]["exp_avg"],
        trainers[1].optimizer.optimizer.state[theirs.classifier.weight]["exp_avg"],
    )


def test_tied_weights_are_saved_by_the_reference_s_trainer(tmp_path):
    """It writes a state dict as it is, and by a writer that refuses names that share memory."""
    import transformers

    model = fresh().float()
    draw = torch.Generator().manual_seed(2)
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(23, (8, LENGTH), generator=draw)]
    args = transformers.TrainingArguments(
        tmp_path, max_steps=2, save_steps=1, learning_rate=1e-2, report_to="none", use_cpu=True, disable_tqdm=True,
        gradient_checkpointing=True,
    )  # fmt: skip
    transformers.Trainer(model, args, train_dataset=rows).train()
    final = {name: x.clone() for name, x in model.state_dict().items()}

    again = fresh(8).float()
    transformers.Trainer(again, args, train_dataset=rows).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    other = fresh(9).float()
    load_checkpoint(tmp_path / "checkpoint-2", model=other)
    for one in (again, other):
        assert one.lm_head.weight is one.transformer.wte.weight
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, final[name]), name
