"""Open the width and depth of torchvision's ResNet-18.

    nas-optuna run --space examples/torchvision_backbone.py:resnet --data PHOTOS

or, on the digits: python examples/torchvision_backbone.py
"""

import optuna
from torch import nn
from torchvision.models.resnet import BasicBlock, conv1x1

import nas_optuna as nas


def stage(channels: int, width: int, blocks: int, stride: int) -> nn.Module:
    """Residual blocks of torchvision's, the first of which changes channels and size."""
    shortcut = nn.Sequential(conv1x1(channels, width, stride), nn.BatchNorm2d(width))
    rest = [BasicBlock(width, width) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(channels, width, stride, shortcut), *rest)


@nas.space
def resnet(c, task):
    """ResNet-18 is width 64 with two blocks in each of the four stages."""
    width = c.choice("width", [8, 16, 32, 64], ordered=True)
    layers = [nn.Conv2d(task.channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    channels = width
    for i in range(4):
        blocks = c.scope(f"stage{i + 1}").integer("blocks", 1, 3)
        layers.append(stage(channels, width * 2**i, blocks, stride=1 if i == 0 else 2))
        channels = width * 2**i
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, task.classes))


def main(trials: int = 2, epochs: int = 1) -> optuna.Study:
    """Search on the digits."""
    objective = nas.Objective(resnet, nas.load_data("digits"), nas.Recipe(epochs=epochs, input_size=16))
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=trials)
    print(study.best_value, study.best_params)
    return study


if __name__ == "__main__":
    main()
