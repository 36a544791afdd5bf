"""Constrained beam search against transformers 4.51.3, whose texts are stored: scripts/make_generation_fixtures.py."""

from unittest.mock import Mock

import pytest
import torch

import minihf
from minihf.generation.constraints import Constraint, DisjunctiveConstraint, PhrasalConstraint, Progress
from parity_tests.generation.stored import cases_of, inputs_of, models_by_name

CASES = cases_of("constrained")
FLAGS = {"return_dict_in_generate": True, "output_scores": True}


@pytest.fixture(scope="module")
def models():
    return models_by_name()


def holds(ids: list[int], words: list[list]) -> bool:
    found = [[word] if isinstance(word[0], int) else word for word in words]
    return all(any(word == ids[i : i + len(word)] for word in either for i in range(len(ids))) for either in found)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["model"][:5] + str(case["settings"]["num_beams"]))
def test_equals_the_reference(case, models):
    """Where copies of one state spoil each other there, the reference is the one whose copies do not."""
    model, settings = models[case["model"]], case["settings"]
    out = model.generate(**inputs_of(case), **settings, **FLAGS)
    assert out.sequences.tolist() == case["fixed"]
    if "sequences_scores" in case:
        torch.testing.assert_close(out.sequences_scores, torch.tensor(case["sequences_scores"]), atol=1e-5, rtol=2e-5)
    for mine, theirs in zip(out.scores, case.get("scores", ())[:1], strict=False):  # there, with the beams' totals
        torch.testing.assert_close(mine[:1], torch.tensor(theirs[:1]).to(mine.dtype), atol=1e-5, rtol=1e-5)


def test_the_stored_texts_hold_the_words():
    held = [holds(row, case["settings"]["force_words_ids"]) for case in CASES for row in case["fixed"]]
    assert sum(held) > 0.4 * len(held)
    assert not all(held)  # two phrases of five tokens take ten
    assert sum(case["fixed"] != case["sequences"] for case in CASES) > 3


@pytest.mark.parametrize("case", CASES[::7], ids=lambda case: case["model"][:5])
def test_beam_indices_lead_to_the_scores_with_and_without_a_cache(case, models):
    model, settings = models[case["model"]], {**case["settings"], "eos_token_id": None}
    out = model.generate(**inputs_of(case), **settings, **FLAGS)
    scores = model.compute_transition_scores(out.sequences, out.scores, out.beam_indices)
    length = (out.beam_indices >= 0).sum(1)
    penalty = settings.get("length_penalty", 1.0)
    torch.testing.assert_close(scores.sum(1) / length**penalty, out.sequences_scores, atol=1e-4, rtol=1e-4)
    uncached = model.generate(**inputs_of(case), **settings, **FLAGS, use_cache=False)
    assert torch.equal(out.sequences, uncached.sequences)
    assert torch.equal(out.beam_indices, uncached.beam_indices)


def test_constraints_are_force_words(models):
    model, ids = models["LlamaForCausalLM"], torch.tensor([[5, 9, 30, 11, 7]])
    settings = {"num_beams": 3, "max_new_tokens": 8}
    words = [[17, 23], [[8, 12], [40, 41, 42]]]
    out = model.generate(ids, **settings, force_words_ids=words)
    assert holds(out[0].tolist(), words)
    assert not holds(ids[0].tolist(), words)
    assert not holds(model.generate(ids, **settings)[0].tolist(), words)
    constraints = [minihf.PhrasalConstraint([17, 23]), minihf.DisjunctiveConstraint([[8, 12], [40, 41, 42]])]
    for _ in range(2):  # they stay as they were
        assert torch.equal(model.generate(ids, **settings, constraints=constraints), out)
    both = model.generate(ids, **settings, constraints=constraints[:1], force_words_ids=words[1:])
    assert torch.equal(both, out)


def test_a_constraint_of_ones_own(models):
    class Twice(Constraint):
        """A token, and once more anywhere later."""

        def __init__(self, token):
            self.token, self.seen, self.seqlen = token, 0, 2
            super().__init__()

        def advance(self):
            return self.token if self.seen < 2 else None

        def does_advance(self, token_id):
            return self.seen < 2 and token_id == self.token

        def update(self, token_id):
            step = self.does_advance(token_id)
            self.seen += step
            return step, self.seen == 2, False

        def reset(self):
            self.seen = 0

        def remaining(self):
            return 2 - self.seen

        def copy(self, stateful=False):
            new = object.__new__(Twice)
            new.token, new.seqlen, new.seen = self.token, 2, self.seen if stateful else 0
            return new

    model, ids = models["GPT2LMHeadModel"], torch.tensor([[5, 9, 30, 11, 7]])
    out = model.generate(ids, num_beams=4, max_new_tokens=8, constraints=[Twice(44)])
    assert (out[0] == 44).sum() >= 2

    class Broken(Twice):
        def does_advance(self, token_id):
            return False

    with pytest.raises(ValueError, match=r"does_advance\(\) denies"):
        Broken(44)


def test_progress():
    start = Progress.at_start([PhrasalConstraint([5, 6, 7]), DisjunctiveConstraint([[1, 2], [1, 3, 4], [8]])])
    assert start.advance() == [5, 1, 8]
    assert start.bank == 0
    one = start.after(1)
    assert one.advance() == [2, 3]
    assert one.bank == 1
    assert one.after(3).bank == 2
    assert one.after(2).bank == 3
    assert one.after(9).advance() == [5, 1, 8]
    assert one.after(9).bank == 0
    done = one.after(2).after(5).after(6).after(7)
    assert done.completed
    assert done.bank == 6
    assert done.advance() == []
    assert done.after(5) is done
    assert not one.after(2).after(5).after(5).after(6).completed  # the second 5 breaks off, and does not begin anew


def test_constraints_by_hand():
    phrase = PhrasalConstraint([4, 5])
    assert (phrase.advance(), phrase.remaining()) == (4, 2)
    assert phrase.update(4) == (True, False, False)
    assert (phrase.copy(stateful=True).advance(), phrase.copy().advance()) == (5, 4)
    assert phrase.update(4) == (False, False, True)
    assert phrase.advance() == 4
    assert phrase.update(4)[0]
    assert phrase.update(5) == (True, True, False)
    assert phrase.completed
    assert phrase.advance() is None
    assert phrase.remaining() == 0
    assert not phrase.does_advance(4)
    either = DisjunctiveConstraint([[1, 2, 3], [1, 4]])
    assert either.advance() == [1]
    assert either.remaining() == 3
    assert either.update(1) == (True, False, False)
    assert either.advance() == [2, 4]
    assert either.update(4) == (True, True, False)
    assert either.remaining() == 0
    for constraint in (PhrasalConstraint([4, 5]), DisjunctiveConstraint([[1, 2, 3], [1, 4]])):
        constraint.test()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: PhrasalConstraint([]), "token_ids takes ids from 0 up"),
        (lambda: PhrasalConstraint([3, -1]), r"not \[3, -1\]"),
        (lambda: PhrasalConstraint("word"), "not 'word'"),
        (lambda: DisjunctiveConstraint([]), "at least one"),
        (lambda: DisjunctiveConstraint([[1], 2]), "nested_token_ids takes ids"),
        (lambda: DisjunctiveConstraint([[1, 2], [1, 2, 3]]), r"\[1, 2\] begins another"),
        (lambda: DisjunctiveConstraint([[1, 2], [1, 2]]), "stands twice"),
    ],
)
def test_wrong_words_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_wrong_wishes_are_refused(models):
    model, ids = models["GPT2LMHeadModel"], torch.tensor([[5, 9, 30]])
    with pytest.raises(TypeError, match="constraints takes Constraint objects, not 'cat'"):
        model.generate(ids, num_beams=2, constraints=["cat"])
    with pytest.raises(ValueError, match="wants the token 61: there are 61 tokens"):
        model.generate(ids, num_beams=2, force_words_ids=[[61]])
    with pytest.raises(ValueError, match="set num_beams=1"):
        model.generate(ids, num_beams=2, force_words_ids=[[6]], streamer=Mock())


def test_it_ends_where_all_stop(models):
    model, ids = models["GPT2LMHeadModel"], torch.tensor([[5, 9, 30]])
    out = model.generate(
        ids, num_beams=3, num_return_sequences=3, force_words_ids=[[44, 45]], stopping_criteria=[lambda *_: True]
    )
    assert out.shape == (3, 4)
    assert torch.equal(model.generate(ids, num_beams=2, force_words_ids=[[4]], max_new_tokens=0), ids)
