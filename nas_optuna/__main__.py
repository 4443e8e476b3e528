"""``python -m nas_optuna`` is the ``nas-optuna`` command."""

import sys

from nas_optuna.cli import main

sys.exit(main())
