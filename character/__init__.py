"""Makes the bundled demo avatar: face model, look, speech and training. Never shipped."""
