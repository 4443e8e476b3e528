# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # A search in a notebook
#
# Open this file in Jupyter with jupytext, or in VS Code; as a script it runs, too.

# %%
import optuna

import nas_optuna as nas

space = nas.ConvSpace(depth=2, input_size=8)
space

# %% [markdown]
# A spec is what `nas-optuna run` takes. The study is kept in a file, so that a later session goes on with it.

# %%
spec = {
    "space": {"depth": 2},
    "recipe": {"epochs": 3, "input_size": 8},
    "sampler": {"name": "arch"},
}
experiment = nas.Experiment.from_spec(nas.StudySpec.from_dict(spec))
storage = optuna.storages.RDBStorage("sqlite:///notebook.db")
study = experiment.create(storage, "notebook", load_if_exists=True)
with nas.watch(4) as display:
    experiment.run(study, trials=4, callbacks=[display])

# %% [markdown]
# The study draws its best network; the report is the page that `nas-optuna report` writes.

# %%
stored = nas.load_study("notebook", "sqlite:///notebook.db")
stored

# %%
stored.frame()[["number", "accuracy", "architecture"]]

# %%
stored.report()
