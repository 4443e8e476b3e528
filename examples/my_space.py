"""A search space of your own: a function that builds a network, with a name for everything that is open.

Search it from the command line:

    nas-optuna run --space examples/my_space.py:network --trials 20

or from Python, as below: python examples/my_space.py
"""

import optuna
from torch import nn

import nas_optuna as nas


def conv(width: int, kernel: int) -> nn.Module:
    """A convolution that keeps the shape."""
    return nn.Sequential(nn.Conv2d(width, width, kernel, padding=kernel // 2), nn.BatchNorm2d(width), nn.ReLU())


@nas.space
def network(c, task):
    """A stem, one to four blocks, and a classifier."""
    width = c.choice("width", [16, 32, 64], ordered=True)
    layers = [nn.Conv2d(task.channels, width, 3, padding=1)]
    for i in range(c.integer("depth", 1, 4)):
        candidates = {"conv3": lambda: conv(width, 3), "conv5": lambda: conv(width, 5), "skip": nn.Identity}
        layers.append(c.layer(f"block{i}", candidates))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, task.classes))


def main(trials: int = 5, epochs: int = 3) -> optuna.Study:
    """Search the space on the digits."""
    objective = nas.Objective(network, nas.load_data("digits"), nas.Recipe(epochs=epochs))
    study = optuna.create_study(direction="maximize")
    study.optimize(objective, n_trials=trials)
    print(study.best_value, study.best_params)
    return study


if __name__ == "__main__":
    main()
