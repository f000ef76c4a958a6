"""What several priors are made of."""
