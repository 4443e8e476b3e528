"""Search a made-up chain of layers with each of the samplers."""

import optuna

import optunahub

module = optunahub.load_module("samplers/architecture_search")
LAYERS = 5


def objective(trial: optuna.Trial) -> float:
    """How good a chain is: wide layers, and kernels that grow from layer to layer."""
    widths = [trial.suggest_categorical(f"layer{i}.filters", [16, 24, 32, 48]) for i in range(LAYERS)]
    kernels = [trial.suggest_categorical(f"layer{i}.kernel", [3, 5, 7]) for i in range(LAYERS)]
    growing = sum(kernels[i] <= kernels[i + 1] for i in range(LAYERS - 1))
    return sum(widths) / 48 + growing


if __name__ == "__main__":
    for sampler in (
        module.ArchitectureGPSampler(seed=0),
        module.CurveSampler(seed=0),
        module.EvolutionSampler(seed=0),
        module.ControllerSampler(seed=0),
    ):
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.optimize(objective, n_trials=40)
        print(type(sampler).__name__, study.best_value)
