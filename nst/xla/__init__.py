"""PyTorch/XLA: one SPMD program over all TPU cores of a pod, or over virtual devices of a CPU."""
