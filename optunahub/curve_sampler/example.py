"""Spend epochs, not trainings: a made-up training whose early epochs tell a part of its end."""

import optuna

import optunahub

module = optunahub.load_module("samplers/curve_sampler")
LAYERS, EPOCHS = 4, 20
KEPT: dict[tuple[object, ...], int] = {}
"""Params → epochs after which a training was stopped. A real objective keeps its weights here, too."""


def objective(trial: optuna.Trial) -> float:
    """Wide layers, and kernels that grow from layer to layer, end best; each epoch brings the training nearer."""
    widths = [trial.suggest_categorical(f"layer{i}.filters", [16, 24, 32, 48]) for i in range(LAYERS)]
    kernels = [trial.suggest_categorical(f"layer{i}.kernel", [3, 5, 7]) for i in range(LAYERS)]
    growing = sum(kernels[i] <= kernels[i + 1] for i in range(LAYERS - 1))
    end = 0.5 + 0.3 * sum(widths) / (48 * LAYERS) + 0.15 * growing / (LAYERS - 1)
    key = (*widths, *kernels)
    before = KEPT.get(key, 0)
    for epoch in range(1, EPOCHS + 1):
        trial.report(end * (1 - 0.5**epoch), epoch)
        if before < epoch < EPOCHS and trial.should_prune():
            KEPT[key] = epoch
            trial.set_user_attr("nas_optuna:paused", epoch)
            raise optuna.TrialPruned
    return end


if __name__ == "__main__":
    study = optuna.create_study(
        direction="maximize",
        sampler=module.CurveSampler(seed=0),
        pruner=module.CurvePruner(epochs=EPOCHS),
    )
    study.optimize(objective, n_trials=60)
    trained = sum(len(t.intermediate_values) for t in study.trials) / EPOCHS
    print(f"{study.best_value:.3f} after at most {trained:.1f} trainings' worth of epochs")
