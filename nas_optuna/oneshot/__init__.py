"""One-shot search: supernets trained, and their alphas."""
