"""Judging: metrics as pure functions of arrays, and pictures."""
