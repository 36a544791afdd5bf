"""What models are trained on: the offline corpora."""
