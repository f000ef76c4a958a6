"""The proof that a table is exact."""
