"""From next-token logits to text: what to ask for (config), how to choose (processors), when to stop, and the loop."""

from collections.abc import Callable

from torch import Tensor

Processor = Callable[[Tensor, Tensor], Tensor]
"""What is done to the logits before a token is chosen: (ids so far (B, T), logits (B, V)) -> logits (B, V)."""
