from nas_optuna.spaces.macro.space import MacroSpace

__all__ = ["MacroSpace"]
