"""What every model is: a config, parameters under the checkpoint's own names, and the ways in and out of files."""

import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from minihf.checkpoints.files import save_weights
from minihf.checkpoints.publish import PushToHubMixin, pushes
from minihf.fast.packed import packed_call
from minihf.generation.config import GenerationConfig
from minihf.generation.generate import generate, stream
from minihf.generation.outputs import compute_transition_scores
from minihf.models.config import Config, as_dtype
from minihf.models.loading import load_pretrained
from minihf.models.misfits import explained
from minihf.models.recompute import is_recomputing, keep_activations, recompute_layers
from minihf.models.recording import modules_at, recording
from minihf.models.vocabulary import check_fits, resize
from minihf.nn.bare import tensors_of
from minihf.nn.conv1d import Conv1D
from minihf.nn.norms import RMSNorm
from minihf.nn.output import Output


class Model(PushToHubMixin, nn.Module):
    """A config and the parameters that it describes.

    An architecture says of itself, in class attributes:
        config_class: its config.
        base_model_prefix: the name that the base model has inside a model with a head, "bert".
        other_prefixes: the names that it has in other heads.
        heads: the first names of all its heads' parameters: what may be absent from a file.
        tied: parameter -> the parameter that it is the same as, where the config says so (see `ties`).
        recorded: where hidden states and attention weights are heard (see `recording`).
        input_embeddings: the path of the token embeddings, inside the base model.
        output_embeddings: the path of the layer that gives logits over the vocabulary, if any.
        token_heads: the path of the module that a head applies to each token by itself, or of the first and the last
            of several (see `minihf.fast.packed`).
        kept_in_float32: the layers whose parameters are not read as float16, where its range is too short for them.
        aliases: the name that a parameter has in another head's files -> its name here.
        can_generate: it is a causal language model, or has one as its decoder.
        position_limit: how many tokens it can read, where that is limited (learned positions); else None.
        first_position: of `position_ids`, the first token's.
        capturable: to read a token is the same each time, and asks nothing of the host, so that a CUDA graph or a tape
            can hold it (`minihf.fast.graphs`, `minihf.fast.tapes`).

    A model inside one with a head (`model.bert`) records and answers in tuples only when a call asks for it, not when
    the config does.
    """

    config_class: ClassVar[type[Config]]
    base_model_prefix: ClassVar[str]
    other_prefixes: ClassVar[tuple[str, ...]] = ()
    heads: ClassVar[tuple[str, ...]] = ()
    tied: ClassVar[dict[str, str]] = {}
    recorded: ClassVar[dict[str, str]] = {}
    input_embeddings: ClassVar[str]
    output_embeddings: ClassVar[str | None] = None
    token_heads: ClassVar[tuple[str, ...]] = ()
    kept_in_float32: ClassVar[tuple[str, ...]] = ()
    aliases: ClassVar[dict[str, str]] = {}
    can_generate: ClassVar[bool] = False
    main_input_name: ClassVar[str] = "input_ids"
    position_limit: int | None = None
    first_position: int = 0
    capturable: ClassVar[bool] = True

    def __init__(self, config: Config):
        super().__init__()
        if not isinstance(config, self.config_class):
            raise TypeError(
                f"{type(self).__name__} takes a {self.config_class.__name__}, not a {type(config).__name__}"
            )
        config.attn_implementation = config.attn_implementation  # fields may have changed since it was chosen
        self.config = config
        self.generation_config = GenerationConfig.from_model_config(config)  # a checkpoint may bring its own
        self.is_part = False  # of a model with a head, which is then the one to record and to answer in tuples
        self.untied: set[str] = set()  # of `tied`, those that a checkpoint holds with values of their own
        self.name_or_path = ""  # of the checkpoint that it was loaded from
        self.vocabulary_changed = False  # since then
        self.caches = True  # it may, in training (see `gradient_checkpointing_enable`)

    def post_init(self) -> None:
        """The last line of each constructor: first values, and ties. A model inside this one has had its own."""
        for child in self.children():
            if isinstance(child, Model):
                child.is_part = True
        self.init_own_weights()
        self.tie_weights()

    def init_own_weights(self) -> None:
        for module in own_modules(self):
            self.init_weights(module)

    def init_weights(self, module: nn.Module) -> None:
        """First values of one module's own parameters, as BERT's and GPT-2's papers have them."""
        std = self.config.initializer_range
        if isinstance(module, (nn.Linear, nn.Embedding, Conv1D)):
            nn.init.normal_(module.weight, std=std)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
            if getattr(module, "padding_idx", None) is not None:
                with torch.no_grad():
                    module.weight[module.padding_idx].zero_()
        elif isinstance(module, (nn.LayerNorm, RMSNorm)):
            nn.init.ones_(module.weight)
            if isinstance(module, nn.LayerNorm):
                nn.init.zeros_(module.bias)

    def ties(self) -> dict[str, str]:
        """Of `tied`, what this config ties."""
        return self.tied if self.config.tie_word_embeddings else {}

    def tie_weights(self) -> None:
        """Make each tied parameter the same object as its source."""
        for target, source in self.ties().items():
            if target not in self.untied:
                path, name = target.rsplit(".", 1)
                setattr(self.get_submodule(path), name, self.get_parameter(source))

    # Calling

    def __call__(
        self,
        *args: Any,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Output | tuple:
        """Run `forward`, and record what is asked for besides.

        Args:
            args, kwargs: `forward`'s.
            output_hidden_states, output_attentions: fill `hidden_states`, `attentions` (and `cross_attentions`) of the
                output; of an encoder-decoder, both sides'. None: as the config says.
            return_dict: False gives a plain tuple of the fields that are there.
        """
        states = self.choose(output_hidden_states, "output_hidden_states")
        weights = self.choose(output_attentions, "output_attentions")
        if self.training and not self.caches and "use_cache" in inspect.signature(self.forward).parameters:
            kwargs["use_cache"] = False
        kinds = []
        if states or weights:
            kinds = [x for x in self.base_model.recorded if (states if x.endswith("hidden_states") else weights)]
        try:
            with ExitStack() as stack:
                recorded = stack.enter_context(recording(self.base_model, kinds)) if kinds else {}
                forward = super().__call__
                if self.config.attn_implementation == "packed" and not self.is_part:
                    light = stack.enter_context(packed_call(self, args, kwargs))
                    forward = forward if light is self else light
                output = forward(*args, **kwargs)
            for kind, tensors in recorded.items():
                setattr(output, kind, tensors)
        except (IndexError, RuntimeError, TypeError, AttributeError) as error:
            better = explained(error, self, args, kwargs)
            if better is None:
                raise
            raise better from error
        as_tuple = return_dict is False or (return_dict is None and not (self.is_part or self.config.return_dict))
        return output.to_tuple() if as_tuple else output

    def choose(self, asked: bool | None, name: str) -> bool:
        """What the call asks for, else what the config says; a part of a model only what it is asked."""
        return (getattr(self.config, name) and not self.is_part) if asked is None else asked

    def generate(self, *args: Any, **kwargs: Any) -> Tensor | Output:
        """Continue a text, token by token: `minihf.generation.generate`, with its arguments."""
        if not self.can_generate:
            raise TypeError(
                f"{type(self).__name__} has no language model head to generate with; load it with AutoModelForCausalLM"
            )
        self.require_values("generate")
        return generate(self, *args, **kwargs)

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[Tensor]:
        """`generate` token by token: yields the next token of each row, (B,), as soon as it is chosen."""
        self.require_values("generate")
        return stream(self, *args, **kwargs)

    compute_transition_scores = compute_transition_scores

    # Parts and properties

    def state_dict(
        self, *, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """PyTorch's, but each name has memory of its own: a tied parameter is copied for all its names but the first.

        Writers of safetensors refuse names that share memory, and the reference's Trainer hands it to one as it is.
        With `keep_vars` there are no copies.
        """
        state = super().state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
        if not (keep_vars or self.is_part):
            seen: set[Tensor] = set()
            for name, parameter in self.named_parameters(remove_duplicate=False):
                if parameter in seen:
                    state[prefix + name] = state[prefix + name].clone()
                seen.add(parameter)
        return state

    @property
    def base_model(self) -> "Model":
        """The model without its head: itself, if it has none."""
        return getattr(self, self.base_model_prefix, self)

    def recorded_layers(self) -> list[nn.Module]:
        """The layers whose hidden states are recorded, in order; of an encoder-decoder those of both sides."""
        paths = [path for kind, path in self.base_model.recorded.items() if kind.endswith("hidden_states")]
        return [layer for path in paths for layer in modules_at(self.base_model, path)]

    def get_input_embeddings(self) -> nn.Embedding:
        return self.base_model.get_submodule(self.input_embeddings)

    def set_input_embeddings(self, embeddings: nn.Embedding) -> None:
        """Put another table in the place of the word embeddings, and of all that is tied to them.

        Raises:
            ValueError: it has another number of rows, which `resize_token_embeddings` changes, or another width.
        """
        check_fits(embeddings, self.get_input_embeddings())
        self.base_model.set_submodule(self.input_embeddings, embeddings)
        self.tie_weights()

    def get_output_embeddings(self) -> nn.Linear | None:
        return self.get_submodule(self.output_embeddings) if self.output_embeddings else None

    def set_output_embeddings(self, embeddings: nn.Linear) -> None:
        """Put another layer in the place of the one that gives logits over the vocabulary. It has a weight of its own
        until `tie_weights` is called.

        Raises:
            TypeError: the model has no such layer. ValueError: it has another shape, or no bias.
        """
        if self.output_embeddings is None:
            raise TypeError(f"{type(self).__name__} has no output embeddings: it gives no logits over a vocabulary")
        check_fits(embeddings, self.get_output_embeddings())
        self.set_submodule(self.output_embeddings, embeddings)
        source = self.ties().get(f"{self.output_embeddings}.bias")  # BERT's has two names
        if source is not None:
            path, _, name = source.rpartition(".")
            setattr(self.get_submodule(path), name, embeddings.bias)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Another number of tokens, as after `tokenizer.add_tokens`: `model.resize_token_embeddings(len(tokenizer))`.

        Embeddings, output layer, its bias and `config.vocab_size` change; old rows stay, new ones are the mean of the
        old ones (see `minihf.models.vocabulary`). They are new parameters: make the optimizer afterwards.

        Args:
            new_num_tokens: how many; None: as many as there are. Fewer cut off the last.
            pad_to_multiple_of: round up to a multiple of it; GPUs like multiples of 64.
            mean_resizing: False draws the new rows as a new model does; new biases are 0.

        Returns:
            The word embeddings.

        Raises:
            ValueError: the number makes no vocabulary, or a special token would lose its row.
            TypeError: an adapter lies over the embeddings.
        """
        resize(self, new_num_tokens, pad_to_multiple_of, mean_resizing)
        return self.get_input_embeddings()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many numbers there are to learn; tied parameters count once. Embeddings add nothing to a step's work."""
        tables = {m.weight for m in self.modules() if exclude_embeddings and isinstance(m, nn.Embedding)}
        learned = [p for p in self.parameters() if p not in tables and (p.requires_grad or not only_trainable)]
        return sum(p.numel() for p in learned)

    def require_values(self, purpose: str) -> None:
        if any(x.is_meta for x in tensors_of(self)):
            raise ValueError(
                f"cannot {purpose}: the model is on the meta device, where parameters have shapes and no values. Load "
                "it without device_map='meta'"
            )

    def set_attn_implementation(self, impl: str) -> None:
        """ "eager", the readable oracle; "sdpa", the fused kernels; in an encoder "packed", real tokens alone."""
        self.config.attn_implementation = impl

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """In training layers compute their activations again in the backward, instead of keeping them.

        Args:
            activation_checkpointing_kwargs: of `torch.utils.checkpoint.checkpoint`; use_reentrant is False by default.
            every_n_layers: 2: every second layer does so, and the others keep theirs.
            offload: True is not implemented.
        """
        settings = {"every_n_layers": every_n_layers, "offload": offload, **(activation_checkpointing_kwargs or {})}
        recompute_layers(self, settings)
        self.caches = False  # a layer that runs twice would write into it twice

    def activation_checkpointing_disable(self) -> None:
        keep_activations(self)
        self.caches = True

    def gradient_checkpointing_enable(
        self,
        gradient_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """`activation_checkpointing_enable`, by its older name."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, every_n_layers, offload)

    gradient_checkpointing_disable = activation_checkpointing_disable

    @property
    def is_gradient_checkpointing(self) -> bool:
        return is_recomputing(self)

    # Files

    @classmethod
    def from_config(
        cls,
        config: Config,
        *,
        dtype: torch.dtype | str | None = "auto",
        attn_implementation: str | None = None,
        torch_dtype: torch.dtype | str | None = None,
    ) -> "Model":
        """A model with first values, to train from scratch, and a copy of the config.

        Args:
            dtype: of the parameters; "auto": the config's, where it has one, else PyTorch's default, as None is.
            attn_implementation: as in `from_pretrained`.
            torch_dtype: the former name of `dtype`.
        """
        config = copy.deepcopy(config)
        if attn_implementation is not None:
            config.attn_implementation = attn_implementation
        model = cls(config)
        dtype = dtype if torch_dtype is None else torch_dtype
        dtype = config.dtype if dtype == "auto" else dtype
        return model if dtype is None else model.to(as_dtype(dtype))

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> "Model":
        """Load a checkpoint from a folder or a hub name: `minihf.models.loading.load_pretrained`, with its options."""
        return load_pretrained(cls, name_or_path, **options)

    @pushes
    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        save_function: Any = None,
        max_shard_size: int | str = "50GB",
        safe_serialization: bool = True,
    ) -> None:
        """Write `config.json` and `model.safetensors`, which minihf and transformers both load.

        With push_to_hub=True it is uploaded as well: then all arguments of `push_to_hub` are taken.

        Args:
            save_directory: made where there is none. Weights of an earlier save are replaced, and are whole until then.
            is_main_process: False, in all processes but one, writes nothing.
            state_dict: whole tensors to write, gathered from a model that is sharded.
            save_function: accepted, as scripts for accelerate give one; there is no other way to write.
            max_shard_size: of one file, in bytes or as "500MB"; larger models are written in several files and an
            index.
            safe_serialization: there is no other way; False is an error.

        Raises:
            ValueError: an adapter lies over parts of it, or its parameters have no values.
        """
        if not safe_serialization:
            raise ValueError(
                "minihf writes safetensors only: a pickle can run code when it is loaded. Leave safe_serialization out."
            )
        if not is_main_process:
            return
        self.require_values("save")
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        config = copy.copy(self.config)
        config.architectures, config.dtype = [type(self).__name__], str(self.dtype).removeprefix("torch.")
        if self.can_generate:  # old configs hold settings of generation, whose place is a file of their own
            for name in GenerationConfig.strangers_in(config):
                delattr(config, name)
        save_weights(folder, self.tensors_to_save(state_dict), max_shard_size=max_shard_size)
        config.save_pretrained(folder)
        if self.can_generate:
            self.generation_config.save_pretrained(folder)

    def tensors_to_save(self, state_dict: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The state dict, or this one, in which a tied parameter stands once, under its source's name."""
        state = dict(self.state_dict(keep_vars=True) if state_dict is None else state_dict)
        refuse_adapters(state)
        for target, source in self.ties().items():
            if {target, source} <= state.keys() and same(state[target], state[source]):
                del state[target]
        return {name: tensor.detach() for name, tensor in state.items()}


def same(a: Tensor, b: Tensor) -> bool:
    """One parameter, or the copies of one that `state_dict` gives."""
    return a is b or (not a.is_meta and torch.equal(a, b))


def refuse_adapters(names: Iterable[str]) -> None:
    """Under an adapter, a model's layers have names that no checkpoint has."""
    for name in names:
        if {"base_layer", "original_module"} & {*name.split(".")}:
            raise ValueError(
                f"the model has an adapter inside, so its weights have names that no model can load, such as {name!r}. "
                "Save what get_peft_model gave, which writes the adapter alone, or what its merge_and_unload() returns"
            )


def own_modules(model: nn.Module) -> list[nn.Module]:
    """All modules of a model, save those of models inside it; parts before the whole."""
    children = [own_modules(child) for child in model.children() if not isinstance(child, Model)]
    return [*chain.from_iterable(children), model]
