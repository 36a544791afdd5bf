"""Where minihf differs from the reference on purpose, and no other test says so."""

import torch

from minihf.inspection.batches import cast, make_batch
from minihf.inspection.pairs import make_pair


def test_a_forward_leaves_the_config_as_it_was_where_the_reference_writes_the_problem_type_into_it():
    for model_type, name in (("bert", "BertForSequenceClassification"), ("gpt2", "GPT2ForSequenceClassification")):
        pair = make_pair(model_type, name)
        batch = cast(make_batch(pair.ours, pair.task, "full"), torch.float32)
        before = pair.ours.config.to_dict()
        assert pair.ours(**batch).loss is not None
        assert pair.ours.config.to_dict() == before
        pair.theirs(**batch)
        assert pair.theirs.config.problem_type == "single_label_classification"


def test_gpt2_summarises_each_choice_where_the_reference_takes_the_first_choice_for_the_first_token():
    """Of the summary types only cls_index knows the axis of choices there; (B, choices) is what a choice needs."""
    from minihf.models.gpt2 import GPT2Config, GPT2DoubleHeadsModel

    ids = torch.randint(3, 40, (3, 2, 7))
    for kind, token in (("first", 0), ("last", 6)):
        sizes = {"vocab_size": 40, "n_embd": 12, "n_head": 3, "n_layer": 1, "n_positions": 9}
        model = GPT2DoubleHeadsModel(GPT2Config(**sizes, summary_type=kind)).eval()
        x = model.transformer(ids.flatten(0, 1)).last_hidden_state.view(3, 2, 7, 12)
        expected = model.multiple_choice_head.summary(x[:, :, token]).squeeze(-1)
        torch.testing.assert_close(model(ids).mc_logits, expected)
