"""Every schedule against the reference, at every step of a run and past its end."""

import inspect
import pickle

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import optimization as reference

import minihf
from minihf import SchedulerType, get_scheduler
from minihf.training import schedules

STEPS = 37
KINDS = [
    ("linear", {}),
    ("cosine", {}),
    ("cosine", {"num_cycles": 1.3}),
    ("cosine_with_restarts", {}),
    ("cosine_with_restarts", {"num_cycles": 3}),
    ("polynomial", {}),
    ("polynomial", {"lr_end": 1e-4, "power": 2.5}),
    ("constant", {}),
    ("constant_with_warmup", {}),
    ("inverse_sqrt", {}),
    ("inverse_sqrt", {"timescale": 5}),
    ("cosine_with_min_lr", {"min_lr": 2e-3}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.2, "num_cycles": 1.5}),
    ("cosine_warmup_with_min_lr", {"min_lr": 2e-3}),
    ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.2, "warmup_lr_rate": 0.15}),
    *(
        ("warmup_stable_decay", {"num_decay_steps": 11, "warmup_type": up, "decay_type": down, "min_lr_ratio": least})
        for up, down, least in (
            ("linear", "cosine", 0),
            ("cosine", "1-sqrt", 0.13),
            ("1-sqrt", "linear", 0.13),
        )
    ),
    ("warmup_stable_decay", {"num_decay_steps": 11, "num_stable_steps": 4, "num_cycles": 1.7}),
]


def optimizer(*lrs: float, default: float = 0.013) -> torch.optim.Optimizer:
    """One that has nothing to do, with a group for each rate."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs or (default, 0.4)]
    return torch.optim.SGD(groups, lr=default)


def both(kind: str, options: dict, warmup: int = 5) -> tuple:
    return tuple(
        library.get_scheduler(kind, optimizer(), warmup, STEPS, options or None) for library in (schedules, reference)
    )


def rates(schedule, steps: int) -> list[list[float]]:
    """Of each step, as the optimizer sees them."""
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in schedule.optimizer.param_groups])
        schedule.optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize("warmup", [0, 1, 5, 12])
@pytest.mark.parametrize("kind, options", KINDS)
@pytest.mark.filterwarnings("ignore:Both num_training_steps")
def test_a_whole_run_equals_the_reference(kind, options, warmup):
    ours, theirs = (rates(one, STEPS + 5) for one in both(kind, options, warmup))
    assert ours == [pytest.approx(lrs, rel=1e-14, abs=1e-17) for lrs in theirs]
    if not kind.startswith("constant"):
        assert len({lr for lr, _ in ours}) > 3


@pytest.mark.parametrize("kind, options", KINDS)
@pytest.mark.filterwarnings("ignore:Both num_training_steps")
def test_a_state_is_taken_up_by_either(kind, options):
    ours, theirs = both(kind, options)
    whole = rates(both(kind, options)[1], STEPS)
    rates(ours, 9)
    rates(theirs, 9)
    assert set(ours.state_dict()) == set(theirs.state_dict())
    for state, into in ((theirs.state_dict(), 0), (ours.state_dict(), 1), (ours.state_dict(), 0)):
        resumed = both(kind, options)[into]
        resumed.load_state_dict(pickle.loads(pickle.dumps(state)))
        for group, lr in zip(resumed.optimizer.param_groups, ours.get_last_lr(), strict=True):
            group["lr"] = lr  # a resumed run has it from the optimizer's state
        assert rates(resumed, STEPS - 9) == [pytest.approx(lrs, rel=1e-14, abs=1e-17) for lrs in whole[9:]]
    assert rates(pickle.loads(pickle.dumps(ours)), 3) == rates(ours, 3)


@pytest.mark.parametrize("kind, options", KINDS)
def test_last_epoch_begins_in_the_middle(kind, options):
    kind = SchedulerType(kind)
    takes = inspect.signature(schedules.SCHEDULES[kind]).parameters
    counts = {"num_warmup_steps": 5, "num_training_steps": STEPS}
    given = {name: count for name, count in counts.items() if name in takes} | options
    given.pop("num_training_steps" if "num_stable_steps" in options else "", None)
    got = []
    for library in (schedules, reference):
        one = optimizer()
        for group in one.param_groups:
            group["initial_lr"] = group["lr"]
        got.append(rates(getattr(library, schedules.SCHEDULES[kind].__name__)(one, **given, last_epoch=20), 10))
    assert got[0] == [pytest.approx(lrs, rel=1e-14, abs=1e-17) for lrs in got[1]]


def test_names_arguments_and_defaults_are_the_references():
    assert {kind.name: kind.value for kind in SchedulerType} == {
        kind.name: kind.value for kind in reference.SchedulerType
    }
    for kind, ours in schedules.SCHEDULES.items():
        theirs = reference.TYPE_TO_SCHEDULER_FUNCTION[reference.SchedulerType(kind.value)]
        assert ours.__name__ == theirs.__name__
        assert getattr(minihf, ours.__name__) is ours
        plain = [
            [(one.name, one.default, one.kind) for one in inspect.signature(function).parameters.values()]
            for function in (ours, theirs)
        ]
        assert plain[0] == plain[1], kind
    ours, theirs = (inspect.signature(library.GreedyLR).parameters for library in (schedules, reference))
    assert [(one.name, one.default) for one in ours.values()] == [(one.name, one.default) for one in theirs.values()]


METRICS = (torch.randn(400, generator=torch.Generator().manual_seed(5)) * 0.3 + 2).cumsum(0).flip(0).tolist()
METRICS += torch.randn(400, generator=torch.Generator().manual_seed(6)).tolist()
GREEDY = [
    {},
    {"patience": 2, "min_lr": 1e-2, "max_lr": 0.5, "reset_start": 4},
    {"mode": "max", "patience": 0, "factor": 0.7, "threshold": 0.01, "threshold_mode": "rel", "min_lr": 1e-4},
    {"patience": 1, "cooldown": 3, "warmup": 2, "min_lr": [1e-3, 0.05], "max_lr": [0.1, 0.6], "reset_start": 2},
    {"patience": 2, "smooth": True, "window_size": 7, "threshold_mode": "rel", "reset_start": 3, "cooldown": 1},
    {"patience": 0, "min_lr": 0.05, "factor": 0.9, "reset_start": 1, "cooldown": 2, "smooth": True},
]


def follow(schedule, metrics) -> list[list[float]]:
    seen = []
    for metric in metrics:
        schedule.step(metric)
        assert schedule.get_last_lr() == [group["lr"] for group in schedule.optimizer.param_groups]
        seen.append(schedule.get_last_lr())
    return seen


@pytest.mark.parametrize("options", GREEDY)
def test_greedy_follows_a_metric_as_the_reference_does(options):
    metrics = METRICS if options.get("mode") != "max" else [-metric for metric in METRICS]
    ours, theirs = (one.get_scheduler("greedy", optimizer(), None, None, options) for one in (schedules, reference))
    begun = follow(ours, metrics[:390])
    assert begun == follow(theirs, metrics[:390])
    assert ours.state_dict() == theirs.state_dict()
    whole = follow(theirs, metrics[390:])
    assert len({lr for lr, _ in begun + whole}) > 5
    for library in (schedules, reference):
        resumed = library.get_greedy_schedule(optimizer(), **options)
        resumed.load_state_dict(pickle.loads(pickle.dumps(ours.state_dict())))
        assert follow(resumed, metrics[390:]) == whole


def test_reduce_on_plateau_is_torchs_with_its_arguments():
    ours, theirs = (
        library.get_scheduler("reduce_lr_on_plateau", optimizer(), None, None, {"patience": 2, "factor": 0.3})
        for library in (schedules, reference)
    )
    assert follow(ours, METRICS[380:430]) == follow(theirs, METRICS[380:430])
    assert len({lr for lr, _ in follow(ours, METRICS[430:460])}) > 2


def test_the_enum_and_its_name_are_the_same_schedule():
    for kind in (SchedulerType.COSINE, "cosine", reference.SchedulerType.COSINE):
        schedule = get_scheduler(kind, optimizer(), num_warmup_steps=3, num_training_steps=STEPS)
        assert isinstance(schedule, LambdaLR)
        assert rates(schedule, 5)[4][1] == pytest.approx(0.4 * 0.998, rel=1e-3)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (("cosin", 3, 9), ValueError, "no schedule is called 'cosin'; did you mean 'cosine'"),
        (("???", 3, 9), ValueError, r"no schedule is called '\?\?\?'; there are linear, cosine,"),
        (("linear", None, 9), ValueError, "'linear' needs num_warmup_steps, "),
        (("linear", 3, None), ValueError, "'linear' needs num_training_steps, "),
        (("cosine", None, None), ValueError, "'cosine' needs num_warmup_steps and num_training_steps, "),
        (("inverse_sqrt", None, 9), ValueError, "'inverse_sqrt' needs num_warmup_steps, "),
        (("warmup_stable_decay", 3, 9), ValueError, "'warmup_stable_decay' needs num_decay_steps, "),
        (("warmup_stable_decay", 3, None, {"num_decay_steps": 2}), ValueError, "give num_training_steps or num_stable"),
        (("warmup_stable_decay", 3, 9, {"num_decay_steps": 2, "warmup_type": "x"}), ValueError, "warmup_type is 'x'"),
        (("warmup_stable_decay", 3, 9, {"num_decay_steps": 2, "decay_type": "x"}), ValueError, "decay_type is 'x'"),
        (("cosine_with_min_lr", 3, 9), ValueError, "give one of min_lr and min_lr_rate; they are None and None"),
        (("cosine_with_min_lr", 3, 9, {"min_lr": 1, "min_lr_rate": 1}), ValueError, "they are 1 and 1"),
        (("polynomial", 3, 9, {"lr_end": 0.5}), ValueError, "lr_end is 0.5, .* smaller than the optimizer's lr, 0.013"),
        (("linear", 3, 9, {"power": 2}), TypeError, "power"),
        (("constant", 3, 9, {"power": 2}), TypeError, "power"),
        (("greedy", None, None, {"factor": 1.0}), ValueError, "factor is 1.0, expected less than 1"),
        (("greedy", None, None, {"mode": "up"}), ValueError, "mode is 'up'"),
        (("greedy", None, None, {"threshold_mode": "up"}), ValueError, "threshold_mode is 'up'"),
        (("greedy", None, None, {"min_lr": [1.0]}), ValueError, "min_lr has 1 numbers, .* the 2 groups"),
        (("greedy", None, None, {"verbose": True}), ValueError, "verbose=True prints"),
    ],
)
def test_what_cannot_be_is_refused(arguments, error, message):
    kind, *others = arguments
    with pytest.raises(error, match=message):
        get_scheduler(kind, optimizer(), *others)
