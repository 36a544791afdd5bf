"""A reader with a static cache: the prompt is read as ever, and each new token in the same memory as the one before."""

from functools import partial
from typing import Any

from torch import Tensor

from minihf.fast.graphs import Step, capture_for, grounds
from minihf.generation.reader import Reader
from minihf.nn.cache import Cache
from minihf.nn.static_cache import StaticCache


class StaticReader(Reader):
    """On CUDA the step is captured as a graph (`minihf.fast.graphs`).

    Args:
        args, kwargs: those of `Reader`, and its `steps`.
        static: may be empty, or hold other texts: its buffers, and the graph over them, are used again if they suit.
        compile_config: arguments of `torch.compile` for the step; None: do not compile.
        captured: False leaves the step as it is, on CUDA too.

    Raises:
        ValueError: the model reckons positions from the length of its cache, in Python.
    """

    def __init__(
        self,
        *args: Any,
        static: StaticCache,
        steps: int,
        compile_config: dict[str, Any] | None = None,
        captured: bool = True,
        **kwargs: Any,
    ):
        super().__init__(*args, steps=steps, **kwargs)
        if not self.counts:
            raise ValueError(
                f"cache_implementation='static' takes a decoder without encoder whose forward has position_ids, and "
                f"{type(self.model).__name__} is none: leave it out"
            )
        self.static, self.steps, self.compile_config, self.captured = static, steps, compile_config, captured
        self.step: Step | None = None

    def __call__(self, ids: Tensor, last: int = 1) -> Tensor:
        if not self.started:
            return super().__call__(ids, last)
        if self.step is None:
            self.step = self.first_step(ids[:, -1:])
        return self.step(ids[:, -1:])

    def first_step(self, ids: Tensor) -> Step:
        """(B, 1) -> what reads these ids, and all after them."""
        static, limit = self.static, getattr(self.model, "position_limit", None)
        static.fill(self.cache, self.mask, self.next_position(), max(self.steps - 1, 1), limit)
        self.cache = self.output = None  # its keys and values are in the other one
        model: Any = self.light
        more = self.of_each_token()
        if self.compile_config is not None:  # which remembers a model, and would take each view of it for another
            model = self.model
            more |= {"return_dict": True, "output_hidden_states": False, "output_attentions": False}
        capture = capture_for(self.model, ids.device) if self.captured else None
        make = partial(Step, model, static, ids, more, compile_config=self.compile_config, capture=capture)
        rests_on = grounds(self.model)
        if capture is None or rests_on is None or self.token_type_ids is not None:
            return make()
        rests_on += [capture, self.compile_config]
        if static.step is None or static.step[0] != rests_on:
            static.step = rests_on, make()
        return static.step[1]

    def unrolled(self) -> Cache | None:
        return super().unrolled() if self.step is None else self.static.unrolled()
