"""Measurements against peers: `bin/bench` lists them, benchmarks/harness.py tells how to add one."""
