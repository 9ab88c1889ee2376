"""Noisy Student Training: train a teacher, pseudo-label, train a larger noised student, go round again."""

__version__ = "0.1.0"
