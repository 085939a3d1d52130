"""Build the fused net's first weights from the trained ones: plan, then apply."""
