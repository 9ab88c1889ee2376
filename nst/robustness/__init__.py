"""Robustness: corruptions, perturbation sequences, released test sets, attacks, and their scores."""
