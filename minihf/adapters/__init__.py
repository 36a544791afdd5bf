"""A few new weights beside a model that stays as it is: low-rank adapters, in peft's files."""
