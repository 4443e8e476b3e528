"""Studies, the objective, and the loop that runs trials.

Nothing is imported here: what lists studies must not wait for torch, which the objective needs.
"""
