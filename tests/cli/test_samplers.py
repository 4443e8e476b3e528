import json

import pytest

from nas_optuna.cli import main
from nas_optuna.samplers import SAMPLERS


def test_every_sampler_is_listed_with_advice_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["samplers", "--json"]) == 0
    listed = {line["name"]: line for line in json.loads(capsys.readouterr().out)}
    assert set(SAMPLERS.builtin) <= set(listed)
    assert all(line["advice"].endswith(".") for line in listed.values())
    assert listed["evolution"]["options"]["population_size"] == 50
    assert main(["samplers"]) == 0
    assert "evolution" in capsys.readouterr().out
