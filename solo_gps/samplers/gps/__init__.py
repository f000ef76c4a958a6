"""GPS: a neighbour in the prior space stands in for the image's second view."""
