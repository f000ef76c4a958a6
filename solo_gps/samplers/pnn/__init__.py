"""pNN: the method's target, exchanged for a pseudo nearest neighbour from a support queue (feature space)."""
