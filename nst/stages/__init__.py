"""The verbs of the command line: each a pure `run(...)` and a thin `main(cfg)`."""
