import pytest


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("./m.py:f", "m.py:f"),
        ("../../m.py:f", "_m.py:f"),
        ("/abs/m.py:f", "_abs/m.py:f"),
        ("a/./b//m.py:f", "a/b/m.py:f"),
        (".hidden/m.py:f", ".hidden/m.py:f"),
        ("..odd", "_odd"),
        (".", "_"),
        ("a" * 249 + "/m.py:f", "a" * 249),
        ("width (px)", "width _px_"),
    ],
)
def test_a_name_that_is_a_path_is_one_that_mlflow_accepts(name: str, accepted: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    from nas_optuna.trackers.mlflow import _accepted

    assert _accepted(name) == accepted
    _validate_metric_name(accepted)
    _validate_metric_name(_accepted(f"final.{name}"))
