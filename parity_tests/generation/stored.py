"""What transformers 4.51.3 answered in modes that later releases have dropped: scripts/make_generation_fixtures.py."""

import json
from pathlib import Path
from typing import Any

import torch

import minihf
from scripts.make_generation_fixtures import MODELS, fill

STORED = json.loads((Path(__file__).parents[1] / "fixtures" / "generation.json").read_text())


def cases_of(mode: str) -> list[dict[str, Any]]:
    return [case for case in STORED if case["mode"] == mode]


def models_by_name() -> dict[str, Any]:
    """The same models, with the same weights, as answered there."""
    made = {name: getattr(minihf, name) for name in MODELS}
    return {name: fill(cls(cls.config_class(**MODELS[name]))) for name, cls in made.items()}


def inputs_of(case: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {key: torch.tensor(value) for key, value in case["inputs"].items()}
