"""The first layers of every family of models, against a table that was written by reading the models.

``python -m tests.zoo`` prints what was matched; ``pytest tests/zoo`` holds it to the table.
"""
