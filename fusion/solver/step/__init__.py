"""One iteration's forward and backward, as quick as the net allows."""
