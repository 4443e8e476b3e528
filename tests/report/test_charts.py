import re

from nas_optuna.report import charts
from nas_optuna.report.charts import Series
from nas_optuna.report.comparison import comparison_page, summary_of
from nas_optuna.report.page import report
from tests.report.test_page import add, made


def test_a_cost_that_the_study_maximises_has_its_front_at_the_upper_end() -> None:
    study = made(objectives=("accuracy", "params:maximize"))
    for number in range(4):
        add(study, number)
    legends = re.findall(r"front: (nothing [^<]*)<", report(study))
    assert legends == ["nothing cheaper is better", "nothing with more is better"]  # of MACs and of weights


def test_a_single_dot_is_no_chart() -> None:
    study = made()
    add(study, 1, epochs=1)
    assert "Learning curves" not in report(study)
    add(study, 2, epochs=1)
    assert "Learning curves" in report(study)


def test_axes_tell_values_apart_and_no_accuracy_is_above_1() -> None:
    def ticks(chart: str, kind: str) -> list[str]:
        return re.findall(rf'<text class="{kind}" x="[^>]*>([^<]*)</text>', chart)

    close = Series([(1001.0, 1.0), (1029.0, 0.99)], "dot s0", errors=[0.1, 0.1])
    chart = charts.plot([close], "MACs", "accuracy", log_x=True, share=True)
    cheap, accurate = ticks(chart, "middle")[:-2], ticks(chart, "end")
    assert len({*cheap}) == len(cheap) > 2
    assert float(accurate[-1]) == 1
    one = re.search(rf'class="end"[^>]* y="([^"]+)">{accurate[-1]}<', chart)
    tops = re.findall(r'class="error s0" d="M[\d.]+ [\d.]+V([\d.]+)"', chart)
    assert one is not None
    assert [float(top) >= float(one[1]) - 4.1 for top in tops] == [True, True]
    assert ticks(charts.plot([Series([(0.0, 1.0), (1.0, 1.0)], "line")], "trial", "s", share=True), "end")[-1] == "1"
    near = Series([(1.0, 0.9999), (2.0, 1.0)], "line")
    assert ticks(charts.plot([near], "trial", "s", share=True), "end")[-1] == "1"
    assert float(ticks(charts.plot([Series([(0.0, 1.0), (1.0, 1.1)], "line")], "trial", "s"), "end")[-1]) > 1


def test_sixteen_studies_have_lines_that_differ() -> None:
    studies = [made(f"s{i}") for i in range(16)]
    for study in studies:
        add(study, 1)
    page = comparison_page(studies, list(map(summary_of, studies)))
    legend = re.findall(r'<path class="line (s\d d\d)" d="M0 5', page)
    assert len(set(legend)) == 16
    assert [len({*each}) for each in zip(*map(str.split, legend[:4]), strict=True)] == [4, 4]
    assert all(f".chart .d{i} {{ stroke-dasharray" in page for i in (1, 2, 3))
