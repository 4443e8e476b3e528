"""Export of a network to files that work without this package."""

from __future__ import annotations

from nas_optuna.export.package import Exported, export_network, files_of_ours
from nas_optuna.export.source import NotWritable, write_source

__all__ = ["Exported", "NotWritable", "export_network", "files_of_ours", "write_source"]
