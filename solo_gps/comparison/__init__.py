"""Many trainings, compared: which there are, what is kept of each, and the table of all."""
