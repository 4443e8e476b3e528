from nas_optuna.spaces.conv.space import ConvSpace, output_side

__all__ = ["ConvSpace", "output_side"]
