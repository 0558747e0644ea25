"""Scores of models and of sample files on public benchmarks, executed in the sandbox, every verdict stored as a row."""
