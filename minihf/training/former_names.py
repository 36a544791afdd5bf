"""Arguments by the names that former releases of `transformers` had, with the meaning that they had there."""

import difflib
from dataclasses import fields
from typing import Any

# Former names -> today's.
RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "no_cuda": "use_cpu",
    "activation_checkpointing": "gradient_checkpointing",
    "activation_checkpointing_kwargs": "gradient_checkpointing_kwargs",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
}
# Former names that change nothing here -> the values that they may have; () is any.
WITHOUT_MEANING = {
    "overwrite_output_dir": (),
    "save_safetensors": (True,),
    "include_tokens_per_second": (False,),
    "use_mps_device": (),
    "half_precision_backend": ("auto", "cpu_amp", "cuda_amp"),
    "fp16_backend": ("auto", "cpu_amp", "cuda_amp"),
    "fp16_opt_level": (),
    "adafactor": (False,),
    "past_index": (-1,),
    "jit_mode_eval": (False,),
    "use_ipex": (False,),
    "torchdynamo": (None,),
    "ray_scope": (),
    "tpu_num_cores": (None,),
    "tpu_metrics_debug": (False,),
    "mp_parameters": ("",),
    "dispatch_batches": (None,),
    "split_batches": (None, False),
    "push_to_hub_organization": (None,),
    "use_legacy_prediction_loop": (False,),
    "fsdp_min_num_params": (0,),
    "fsdp_transformer_layer_cls_to_wrap": (None,),
}


class FormerNames(type):
    """Of the arguments' class: former names become today's before the dataclass sees them, in subclasses, too."""

    def __call__(cls, *args: Any, **given: Any) -> Any:
        known = [each.name for each in fields(cls)]
        for name in [*given]:
            if name in RENAMED:
                new = RENAMED[name]
                if given.get(new) is not None and given[new] != given[name]:
                    raise TypeError(f"{name} is the former name of {new}: give one of them")
                value = given.pop(name)
                if value is not None:
                    given[new] = value
            elif name == "group_by_length":
                if given.pop(name):
                    given["train_sampling_strategy"] = name
            elif name == "include_inputs_for_metrics":
                if given.pop(name):
                    given["include_for_metrics"] = [*given.get("include_for_metrics", []), "inputs"]
            elif name == "push_to_hub_organization" and given[name] is not None:
                raise TypeError(f"{name} is a former name: write hub_model_id='{given[name]}/…'")
            elif name in WITHOUT_MEANING:
                value, allowed = given.pop(name), WITHOUT_MEANING[name]
                if allowed and value not in allowed:
                    raise ValueError(f"{name}={value!r} is not implemented: leave it out")
            elif name not in known:
                near = difflib.get_close_matches(name, [*known, *RENAMED, *WITHOUT_MEANING, "group_by_length"], n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise TypeError(f"{cls.__name__} has no argument {name!r}{hint}")
        return super().__call__(*args, **given)
