"""The package folder for OptunaHub, loaded as OptunaHub loads it."""

import ast
import importlib.util
import os
import subprocess
import sys
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


ALONE = """
import sys
from importlib import metadata

from packaging.requirements import Requirement

# What is installed by the package's requirements, and by the two that load it.
left = [*map(Requirement, open(f"{sys.argv[1]}/samplers/curve_sampler/requirements.txt").read().split())]
left += [Requirement("optuna"), Requirement("optunahub")]
brought = set()
while left:
    wanted = left.pop()
    if wanted.name not in brought and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
        brought.add(wanted.name)
        left += map(Requirement, metadata.requires(wanted.name) or [])
known = {metadata.metadata(name)["Name"] for name in brought}
others = {name for name, owners in metadata.packages_distributions().items() if not known & set(owners)}

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in others | {"nas_optuna"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
try:
    import nas_optuna
except ModuleNotFoundError:
    import optuna, optunahub

optuna.logging.set_verbosity(optuna.logging.WARNING)
module = optunahub.load_local_module("samplers/curve_sampler", registry_root=sys.argv[1])
optunahub.load_module = lambda name: module
example = {"__name__": "example"}
exec(open(f"{sys.argv[1]}/samplers/curve_sampler/example.py").read(), example)
sampler, pruner = module.CurveSampler(seed=0), module.CurvePruner(epochs=example["EPOCHS"])
study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
study.optimize(example["objective"], n_trials=60)
again = len(study.trials) - len({tuple(sorted(t.params.items())) for t in study.trials})
print(study.best_value, sum(t.state.name == "PRUNED" for t in study.trials), again)
"""


@pytest.mark.process
def test_the_curve_sampler_works_without_the_rest_of_us(tmp_path: Path) -> None:
    build = PACKAGES.parent / "build.py"
    subprocess.run([sys.executable, str(build), str(tmp_path)], check=True)
    folder = tmp_path / "samplers" / "curve_sampler"
    assert {path.name for path in folder.iterdir()} >= {"README.md", "LICENSE", "__init__.py", "example.py"}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", ALONE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    best, pruned, again = map(float, done.stdout.split())
    assert best > 0.94  # of 0.95
    assert pruned > 10
    assert again > 0


def test_the_readme_names_what_the_package_offers(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("build", PACKAGES.parent / "build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    folder = build.build(tmp_path)
    readme = (folder / "README.md").read_text()
    assert f"pip install {' '.join((folder / 'requirements.txt').read_text().split())}\n" in readme
    assert all(f"`{name}(" in readme for names in build.WANTED.values() for name in names if "Config" not in name)
    for file in folder.glob("*.py"):
        names = {node.module for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)}
        assert not [name for name in names if name and name.startswith("nas_optuna.study")]
