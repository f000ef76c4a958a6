"""What was seen, told: lines for a terminal, values for machines, a page for people."""
