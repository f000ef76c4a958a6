"""The host: how solo-learn is found, switched on, and switched off again."""
