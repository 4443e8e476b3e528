"""Layers for your own spaces whose widths can stay open in a supernet; see `nas_optuna.spaces.layers`."""

from nas_optuna.spaces.layers import ElasticBatchNorm2d, ElasticConv2d, ElasticGroupNorm, ElasticLinear, kaiming

__all__ = ["ElasticBatchNorm2d", "ElasticConv2d", "ElasticGroupNorm", "ElasticLinear", "kaiming"]
