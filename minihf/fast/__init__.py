"""Optional speed-ups that leave the plain code as it is, and have it for their oracle."""
