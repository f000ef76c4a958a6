"""From samplers to a guided training: knows a host by its protocol alone."""
