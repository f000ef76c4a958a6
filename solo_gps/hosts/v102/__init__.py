"""solo-learn 1.0.2 on today's stack; frozen: mended, not extended."""
