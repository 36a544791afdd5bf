"""Training: the optimizer and its schedules."""
