"""The architectures, one file each, and what they share: `base` (a model), `config` and `outputs`, `auto` (by name)."""
