"""A dropout that does nothing is not called; unless somebody listens."""

import torch
from torch import nn

from minihf.nn.dropout import Dropout


def test_it_is_torchs_in_training_and_nothing_outside():
    ours, theirs, x = Dropout(0.3), nn.Dropout(0.3), torch.randn(50)
    torch.manual_seed(1)
    expected = theirs(x)
    torch.manual_seed(1)
    assert torch.equal(ours(x), expected)
    assert ours.eval()(x) is x


def test_a_hook_is_heard_outside_training_too():
    layer, heard = Dropout(0.3).eval(), []
    layer.register_forward_pre_hook(lambda module, args: heard.append("before"))
    layer.register_forward_hook(lambda module, args, output: heard.append("after"))
    layer(torch.randn(3))
    assert heard == ["before", "after"]
