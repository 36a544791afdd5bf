"""Model cards: the README.md that people read in a repository of the hub, and at its head the facts they search by.

The head is huggingface_hub's `ModelCardData`, whose names the hub documents under "model cards". A card that was made
here bears a note that says so: such a card may be made anew, and any other one is somebody's own text and stays.
"""

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

FILE_NAME = "README.md"
NOTE = "<!-- Made by minihf of what it knew. Check and complete it, and delete this line: then the text is yours. -->"

# A part of a class's name -> the hub's name of what such a model does.
TASKS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForConditionalGeneration": "text2text-generation",
    "MTModel": "text2text-generation",
}


def task_of(model: Any) -> str | None:
    """The hub's name of what a model does, by its class; None where that says nothing."""
    return next((task for part, task in TASKS.items() if part in type(model).__name__), None)


def base_of(model: Any) -> str | None:
    """The hub name of the checkpoint that a model was loaded from, or that an adapter is for; None for a folder."""
    adapters = getattr(model, "peft_config", None) or {}
    name = next((each.base_model_name_or_path for each in adapters.values()), None)
    name = name or getattr(model, "name_or_path", None)
    return name if name and not os.path.isdir(name) else None


def listed(values: str | Iterable[str] | None) -> list[str]:
    """One or several, as a list without repetitions."""
    return [values] if isinstance(values, str) else [*dict.fromkeys(values or ())]


def make_card(name: str, text: str, *, note: bool = True, **facts: Any) -> "ModelCard":
    """A card.

    Args:
        name: of the model, the title.
        text: what follows it, in Markdown.
        note: it is ours to make anew (see the module).
        facts: of its head, as `huggingface_hub.ModelCardData` has them: `base_model`, `datasets`, `eval_results`,
            `language`, `license`, `metrics`, `pipeline_tag`, `tags`. What is None or empty is left out.
    """
    from huggingface_hub import ModelCard, ModelCardData

    facts = {key: value for key, value in facts.items() if value not in (None, [], "")}
    if "eval_results" in facts:
        facts["model_name"] = name
    head = ModelCardData(**{"library_name": "minihf"} | facts).to_yaml()
    return ModelCard(f"---\n{head}\n---\n\n{f'{NOTE}{2 * chr(10)}' if note else ''}# {name}\n\n{text.strip()}\n")


def add_tags(card: "ModelCard", tags: Iterable[str]) -> "ModelCard":
    """The card itself, with these tags besides its own."""
    card.data.tags = listed([*listed(card.data.tags), *tags]) or None
    return card


def is_ours(card: "ModelCard") -> bool:
    return NOTE in card.content


def card_for(saved: Any, repo_id: str) -> "ModelCard":
    """The card of a repository that holds a model, an adapter, a tokenizer, a config or a pipeline."""
    kind, base, task = type(saved).__name__, base_of(saved), task_of(saved)
    facts: dict[str, Any] = {}
    use = f'from minihf import {kind}\n\nloaded = {kind}.from_pretrained("{repo_id}")'
    if hasattr(saved, "peft_config"):
        bare = saved.get_base_model()
        what, task = f"A LoRA adapter of a `{type(bare).__name__}`", task_of(bare)
        loads = f'{type(bare).__name__}.from_pretrained("{base or "the model that it was trained on"}")'
        use = f"from minihf import {type(bare).__name__}, {kind}\n\nmodel = {loads}\n"
        use += f'model = {kind}.from_pretrained(model, "{repo_id}")'
        facts = {"library_name": "peft", "base_model": base}
    elif hasattr(saved, "num_parameters"):
        what, facts = f"A `{kind}` with {saved.num_parameters():,} parameters", {"base_model": base}
    elif hasattr(saved, "task") and hasattr(saved, "model"):
        what, task, base = f"Model and tokenizer of a `{saved.task}` pipeline", saved.task, base_of(saved.model)
        use = f'from minihf import pipeline\n\npipe = pipeline("{saved.task}", "{repo_id}")'
        facts = {"base_model": base}
    else:
        what, base = f"With a `{kind}`", None
    origin = f", from the checkpoint [{base}](https://huggingface.co/{base})" if base else ""
    text = f"{what}{origin}.\n\n```python\n{use}\n```\n\nThe files are in the format of `transformers` and `peft`."
    return make_card(repo_id.rsplit("/", 1)[-1], text, pipeline_tag=task, **facts)


def bullets(values: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in values.items())


def table(rows: list[list[str]]) -> str:
    """A Markdown table; the first row is its head, and the first column stands to the left."""
    head, *body = rows
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *body])
