"""Libraries that train, wrap or replace layers, each tried as a new user would: ``python -m tests.libraries``."""
