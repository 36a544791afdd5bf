"""What models are trained on: batches (collators), blocks of texts (chunking), the offline corpora."""
