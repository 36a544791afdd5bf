"""From the `model_type` of a config to its architecture's classes: one table."""

from importlib import import_module

# model_type -> (module, {task: class}).
ARCHITECTURES: dict[str, tuple[str, dict[str, str]]] = {
    "bert": (
        "bert",
        {
            "Config": "BertConfig",
            "Model": "BertModel",
            "ForPreTraining": "BertForPreTraining",
            "ForMaskedLM": "BertForMaskedLM",
            "ForCausalLM": "BertLMHeadModel",
            "ForNextSentencePrediction": "BertForNextSentencePrediction",
            "ForSequenceClassification": "BertForSequenceClassification",
            "ForMultipleChoice": "BertForMultipleChoice",
            "ForTokenClassification": "BertForTokenClassification",
            "ForQuestionAnswering": "BertForQuestionAnswering",
        },
    ),
    "gpt2": (
        "gpt2",
        {
            "Config": "GPT2Config",
            "Model": "GPT2Model",
            "ForPreTraining": "GPT2LMHeadModel",
            "ForCausalLM": "GPT2LMHeadModel",
            "ForDoubleHeads": "GPT2DoubleHeadsModel",
            "ForSequenceClassification": "GPT2ForSequenceClassification",
            "ForTokenClassification": "GPT2ForTokenClassification",
            "ForQuestionAnswering": "GPT2ForQuestionAnswering",
        },
    ),
}


def class_for(model_type: str, task: str) -> type:
    """The class of an architecture for a task ("Model", "ForMaskedLM", …; "Config").

    Raises:
        ValueError: minihf does not have that architecture, or the architecture has no such head.
    """
    if model_type not in ARCHITECTURES:
        raise ValueError(f"model_type {model_type!r} is not one that minihf has: {', '.join(ARCHITECTURES)}")
    module, classes = ARCHITECTURES[model_type]
    if task not in classes:
        tasks = ", ".join(
            f"AutoModel{t.removeprefix('Model')}" for t in classes if t not in ("Config", "ForDoubleHeads")
        )
        raise ValueError(f"{model_type} has no class for AutoModel{task}; it has {tasks}")
    return getattr(import_module(f"minihf.models.{module}"), classes[task])
