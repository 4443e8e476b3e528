"""The package folder for OptunaHub, loaded as OptunaHub loads it."""

import ast
from pathlib import Path

import optuna
import pytest

PACKAGES = Path(__file__).parents[2] / "optunahub" / "package"
NAME = "samplers/architecture_search"
optunahub = pytest.importorskip("optunahub")


@pytest.mark.parametrize("sampler", ["ArchitectureGPSampler", "CurveSampler", "EvolutionSampler", "ControllerSampler"])
def test_the_folder_is_loaded_and_its_samplers_beat_chance(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the example's own objective, whose mean over random networks is about 6.0."""
    module = optunahub.load_local_module(NAME, registry_root=str(PACKAGES))
    monkeypatch.setattr(optunahub, "load_module", lambda name: {NAME: module}[name])
    example: dict[str, object] = {"__name__": "example"}
    exec(compile((PACKAGES / NAME / "example.py").read_text(), "example.py", "exec"), example)
    study = optuna.create_study(direction="maximize", sampler=getattr(module, sampler)(seed=0))
    study.optimize(example["objective"], n_trials=40)  # type: ignore[arg-type]
    late = [t.value for t in study.trials[20:]]
    assert sum(late) / len(late) > 6.3


def test_the_folder_has_what_the_hub_asks_for() -> None:
    folder = PACKAGES / NAME
    assert {path.name for path in folder.iterdir()} >= {"README.md", "LICENSE", "__init__.py", "example.py"}
    readme = (folder / "README.md").read_text()
    front = readme.split("---")[1]
    for key in ("author", "title", "description", "tags", "optuna_versions", "license"):
        assert f"\n{key}: " in front
    exported = ast.literal_eval((folder / "__init__.py").read_text().split("__all__ = ")[1])
    assert all(f"`{name}" in readme for name in exported)
