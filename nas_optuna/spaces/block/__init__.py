from nas_optuna.spaces.block.space import BlockSpace

__all__ = ["BlockSpace"]
