"""Who runs a study's trials: this process, processes of this machine, or a Ray cluster."""
