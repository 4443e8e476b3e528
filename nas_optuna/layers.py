"""Layers for spaces of your own whose widths a supernet can leave open; see `nas_optuna.spaces.layers`."""

from nas_optuna.spaces.layers import ElasticBatchNorm2d, ElasticConv2d, ElasticGroupNorm, ElasticLinear, kaiming

__all__ = ["ElasticBatchNorm2d", "ElasticConv2d", "ElasticGroupNorm", "ElasticLinear", "kaiming"]
