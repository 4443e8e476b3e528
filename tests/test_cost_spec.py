import pytest

from nas_optuna.errors import SpecError
from nas_optuna.spec import StudySpec


def test_limits_are_amounts_and_come_back() -> None:
    spec = StudySpec.from_dict({"limits": {"macs": "2M", "latency_ms": 0.5}, "objectives": ["accuracy", "params"]})
    assert spec.limits == {"macs": 2e6, "latency_ms": 0.5}
    assert StudySpec.from_dict(spec.to_dict()) == spec
    assert spec.override(["limits.macs=1M"]).limits == {"macs": 1e6, "latency_ms": 0.5}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"objectives": ["acuracy"]}, "unknown objective 'acuracy'; did you mean 'accuracy'"),
        ({"objectives": ["accuracy", "accuracy"]}, "named twice"),
        ({"objectives": ["accuracy", "macs:maximize", "maximize:macs"]}, "named twice"),
        ({"objectives": ["macs", "params"]}, "add accuracy"),
        ({"limits": {"mac": 3}}, "unknown cost 'mac'; did you mean 'macs'"),
        ({"limits": {"macs": "2 MB"}}, "not a positive amount"),
        ({"limits": 3}, "limits"),
        ({"latency": {"tabel": "x"}}, "did you mean 'table'"),
    ],
)
def test_wrong_values_are_refused_in_one_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        StudySpec.from_dict(values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
