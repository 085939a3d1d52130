"""Build a net as a torch.fx.GraphModule, load and save its weights, split it."""
