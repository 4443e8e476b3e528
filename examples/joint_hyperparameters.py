"""Search the learning rate and the batch size beside the architecture: python examples/joint_hyperparameters.py."""

import optuna

import nas_optuna as nas


def main(trials: int = 10, epochs: int = 3) -> optuna.Study:
    """Each trial chooses an architecture and the recipe that trains it."""
    objective = nas.Objective(
        nas.ConvSpace(depth=2, input_size=8),
        nas.load_data("digits"),
        nas.Recipe(epochs=epochs),
        search={"learning_rate": "1e-4..1e-1:log", "batch_size": [32, 64]},
    )
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=trials)
    print(study.best_value, study.best_params)
    return study


if __name__ == "__main__":
    main()
