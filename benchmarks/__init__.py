"""One command for each question: ``python -m benchmarks.<name>``; results are JSON lines in ``benchmarks/results``."""
