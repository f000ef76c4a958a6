"""Who finds candidates."""
