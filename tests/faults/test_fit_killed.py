"""A fit that is killed at any point and repeated: one result, and nothing trained twice but one epoch."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from nas_optuna.study.schema import StudyKey, TrialKey

pytestmark = pytest.mark.process

COMMAND = [
    *(sys.executable, "-m", "nas_optuna", "fit", "digits", "--within", "150s", "--out", "model"),
    *("--set", "space.width=8", "--set", "space.stages=1", "--set", "data.train_limit=400"),
]


def killed_at(line: str) -> bool:
    """Run the command until it says something, and kill it then; False where it has ended before."""
    with subprocess.Popen(COMMAND, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for said in process.stderr:
            if line in said:
                process.kill()
                return True
    return False


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_fit_that_is_killed_goes_on(place: Path) -> None:
    kills = [killed_at(line) for line in ("reading", "trial 0", "trial 2", "on all ", "writing")]
    assert all(kills)
    result = subprocess.run(COMMAND, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    study = optuna.load_study(study_name="fit", storage="sqlite:///model/search.db")
    ended = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert len(ended) == len(study.trials), "nothing is left over"
    trained = Counter(
        (trial.user_attrs[TrialKey.ARCHITECTURE], trial.user_attrs[TrialKey.RUNG])
        for trial in ended
        if TrialKey.DUPLICATE_OF not in trial.user_attrs
    )
    assert max(trained.values()) == 1
    assert len(study.user_attrs[StudyKey.RETRAINED]) == 1
    assert {path.name for path in Path("model").iterdir()} >= {"network", "report.html", "search.db"}
    again = subprocess.run(COMMAND, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0
    assert "holds the finished network" in again.stderr
    assert again.stdout == result.stdout
