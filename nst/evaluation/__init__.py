"""Evaluations: a suite opens into passes over batches, counts answers, and names its scores."""
