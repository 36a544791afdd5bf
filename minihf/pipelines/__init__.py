"""Text in, answers out: a pipeline for each task of the course, one task a file."""
