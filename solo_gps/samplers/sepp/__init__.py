"""SePP: semantic positive pairs, found in the prior space and added to the training set."""
