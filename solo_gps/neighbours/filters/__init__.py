"""What may be done to a neighbour table."""
