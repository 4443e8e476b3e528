"""The differentiable strategy: a supernet's weights and alphas trained together, with latency in the loss."""
