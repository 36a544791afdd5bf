"""Hidden states and attention weights, recorded on request by hooks on module paths.

So the forward of a model is its mathematics and nothing else: no lists carried through layers, no flags. A model class
says where to listen, in `recorded`: "hidden_states" names its layers, "attentions" and "cross_attentions" its attention
modules, by paths in which `*` stands for a layer's number. Of an encoder-decoder, each side has its own:
"encoder_hidden_states", "encoder_attentions", "decoder_hidden_states", "decoder_attentions", "cross_attentions".
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from minihf.fast.packed import unpack


@contextmanager
def recording(base: nn.Module, kinds: list[str]) -> Iterator[dict[str, tuple[Tensor, ...]]]:
    """Run a forward inside, then read what each of `kinds` recorded.

    hidden_states: the input of each layer, then `last_hidden_state` of the base model, which a final norm has gone
    over; those of an encoder-decoder, `last_hidden_state` of `base.encoder` and of `base.decoder`.
    attentions, cross_attentions: the weights of each layer. Only eager attention forms them, so for this one call the
    modules that are listened to run eagerly, whatever the config says.
    """
    # Another thread's calls of the same model are not ours to record. One may come while a hook is half in place, when
    # PyTorch has not noted yet that it takes keywords.
    caller = threading.get_ident()
    heard: dict[str, list[Tensor]] = {kind: [] for kind in kinds}
    result: dict[str, tuple[Tensor, ...]] = {}

    def hear_input(kind):
        def hook(module, args, kwargs=None):
            if threading.get_ident() == caller:
                heard[kind].append(unpack(*args[:2]))

        return hook

    def hear_last(kind):
        def hook(module, args, output):
            if threading.get_ident() == caller:
                heard[kind].append(output.last_hidden_state)

        return hook

    def run_eagerly(module, args, kwargs=None):
        return (args, {**kwargs, "impl": "eager"}) if threading.get_ident() == caller else None

    def hear_weights(kind):
        def hook(module, args, output):
            if threading.get_ident() == caller:
                heard[kind].append(output[1])

        return hook

    handles = []
    try:
        for kind in kinds:
            for module in modules_at(base, base.recorded.get(kind)):
                if kind.endswith("hidden_states"):
                    handles.append(module.register_forward_pre_hook(hear_input(kind), with_kwargs=True))
                else:
                    handles.append(module.register_forward_pre_hook(run_eagerly, with_kwargs=True))
                    handles.append(module.register_forward_hook(hear_weights(kind)))
            if kind.endswith("hidden_states"):
                stack = base.get_submodule(kind.removesuffix("hidden_states").removesuffix("_"))  # "": the base itself
                handles.append(stack.register_forward_hook(hear_last(kind)))
        yield result
        result.update({kind: tuple(values) for kind, values in heard.items() if values})
    finally:
        for handle in handles:
            handle.remove()


def modules_at(base: nn.Module, path: str | None) -> list[nn.Module]:
    """The modules whose path matches, in order; `*` stands for one name."""
    if path is None:
        return []
    pattern = re.compile(re.escape(path).replace(r"\*", r"[^.]+"))
    return [module for name, module in base.named_modules() if pattern.fullmatch(name)]
