"""Bad input on purpose: `python -m tests.fuzz` (see docs/fuzz.md)."""
