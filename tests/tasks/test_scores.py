"""Measures are scikit-learn's, also where classes have no images, no predictions or ties; JSON has no NaN."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap
from scipy.stats import t as student
from sklearn import metrics

from striate.errors import RunError
from striate.tasks import agreement
from striate.tasks.calibration import Reliability, fit_temperature, tempered
from striate.tasks.intervals import FoldSummary, Measure, bootstrap_macro_f1, wilson
from striate.tasks.rankings import Ranking, ranks
from striate.tasks.scores import Measures, Scores, scale_temperature


def made(labels: torch.Tensor, logits: torch.Tensor, *, ties: bool = False) -> Scores:
    rows = logits.softmax(1)
    if ties:  # sixteenths that sum to 1
        rows = (rows * 16).floor()
        rows[:, 0] += 16 - rows.sum(1)
        rows /= 16
    count, size = rows.shape
    names = tuple(f"row {n}" for n in range(count))
    return Scores(labels, rows, names, tuple(f"class {n}" for n in range(size)))


def drawn(images: int, classes: int, *, right: float = 2.0, seed: int = 0, ties: bool = False) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=generator)
    logits = torch.randn(images, classes, generator=generator)
    logits[torch.arange(images), labels] += right
    return made(labels, logits, ties=ties)


def only(label: int, classes: int = 3, images: int = 8) -> Scores:
    """All images of one class."""
    logits = torch.randn(images, classes, generator=torch.Generator().manual_seed(3))
    return made(torch.full((images,), label), logits)


CASES = {
    "two": drawn(60, 2),
    "ten": drawn(400, 10),
    "ties": drawn(300, 5, ties=True),
    "more classes than images": drawn(12, 30),
    "never right": drawn(80, 4, right=-50.0),
    "always right": drawn(80, 4, right=50.0),
    "one class has all images": only(1),
    "one image": drawn(1, 3),
    "one class": only(0, classes=1),
}
EVERY = pytest.mark.parametrize("scores", CASES.values(), ids=CASES)


class TestScores:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"probabilities": torch.rand(3, 2).double()}, r"float64 \(3, 2\); needed float32 \(N, 2\)"),
            ({"probabilities": torch.ones(3, 3) / 3}, r"float32 \(3, 3\)"),
            ({"probabilities": torch.ones(0, 2)}, "one image or more"),
            ({"labels": torch.tensor([0, 1])}, r"int64 labels \(2,\), 3 names; needed int64 \(3,\)"),
            ({"labels": torch.tensor([0, 1, 1], dtype=torch.int32)}, "int32 labels"),
            ({"names": ("x", "y")}, "2 names"),
            ({"labels": torch.tensor([0, 2, 1])}, "^y: has label 2; needed 0 to 1"),
            ({"labels": torch.tensor([0, 1, -1])}, "^z: has label -1"),
            ({"probabilities": torch.tensor([[0.5, 0.5], [1, math.nan], [1, 0]])}, "^y: has probabilities from nan"),
            ({"probabilities": torch.tensor([[0.5, 0.5], [0, 1], [0.6, 0.6]])}, "^z: .* sum to 1.2;"),
            ({"probabilities": torch.tensor([[1.5, -0.5], [0, 1], [1, 0]])}, "^x: has probabilities from -0.5"),
        ],
    )
    def test_parts_that_do_not_fit(self, change: dict[str, object], message: str) -> None:
        fit = Scores(torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0], [0, 1], [1, 0]]), tuple("xyz"), ("a", "b"))
        with pytest.raises(RunError, match=message):
            dataclasses.replace(fit, **change)

    def test_half_precision_rounding_is_none_of_our_business(self) -> None:
        rows = torch.randn(50, 1000).half().softmax(1).float()
        assert len(Scores(torch.zeros(50, dtype=torch.int64), rows, ("",) * 50, tuple(map(str, range(1000))))) == 50

    def test_of_equal_probabilities_the_first_class_counts(self) -> None:
        rows = torch.tensor([[0.25, 0.25, 0.25, 0.25]] * 4)
        scores = Scores(torch.arange(4), rows, tuple("abcd"), tuple("wxyz"))
        assert scores.predicted.tolist() == [0, 0, 0, 0]
        assert [scores.top(k)[1].value for k in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 1.0]

    @EVERY
    def test_top_1_is_the_accuracy(self, scores: Scores) -> None:
        assert scores.top(1) == (1, scores.accuracy)

    @pytest.mark.parametrize("k", [2, 5, 9])
    def test_top_k_is_scikit_learns(self, k: int) -> None:
        scores = drawn(300, 10)
        expected = metrics.top_k_accuracy_score(scores.labels, scores.probabilities, k=k, labels=range(10))
        assert scores.top(k) == (k, Measure(pytest.approx(expected), wilson(round(expected * 300), 300)))

    def test_top_5_of_three_classes_is_top_3(self) -> None:
        assert drawn(20, 3).top() == (3, Measure.share(20, 20))

    def test_ranks_by_sorting(self) -> None:
        scores = CASES["ties"]
        order = scores.probabilities.argsort(descending=True, stable=True)
        expected = (order == scores.labels[:, None]).nonzero()[:, 1]
        assert torch.equal(ranks(scores.probabilities, scores.labels), expected)

    @EVERY
    def test_an_evaluation_says_the_same(self, scores: Scores) -> None:
        evaluation, found = scores.evaluation(), Measures.of(scores)
        assert evaluation.accuracy == found.accuracy.value
        assert evaluation.support == tuple(each.images for each in found.classes)
        assert evaluation.f1 == pytest.approx([each.f1 for each in found.classes])
        assert evaluation.loss == found.calibration.loss


class TestWorstErrors:
    def test_the_surest_of_each_pair(self) -> None:
        scores = drawn(2000, 4, right=0.5)
        chosen = scores.worst_errors(limit=1000, each=3)
        pairs = Counter((int(scores.labels[i]), int(scores.predicted[i])) for i in chosen)
        assert set(pairs.values()) == {3}
        assert len(pairs) == 12
        assert all(not scores.correct[i] for i in chosen)
        sure = scores.confidence[list(chosen)]
        assert (sure.diff() <= 0).all()
        for true, predicted in pairs:
            of_pair = (scores.labels == true) & (scores.predicted == predicted)
            expected = sorted(scores.confidence[of_pair].tolist())[-3:]
            kept = [i for i in chosen if of_pair[i]]
            assert sorted(scores.confidence[kept].tolist()) == expected

    def test_no_more_than_the_limit(self) -> None:
        scores = drawn(2000, 4, right=0.5)
        assert scores.worst_errors(limit=5, each=3) == scores.worst_errors(limit=100, each=3)[:5]

    def test_none_where_all_is_right(self) -> None:
        assert CASES["always right"].worst_errors() == ()


class TestMeasures:
    @EVERY
    def test_are_scikit_learns(self, scores: Scores) -> None:
        found, labels, predicted = Measures.of(scores), scores.labels.numpy(), scores.predicted.numpy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            macro = metrics.precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)[:3]
            weighted = metrics.precision_recall_fscore_support(labels, predicted, average="weighted", zero_division=0)
            balanced = metrics.balanced_accuracy_score(labels, predicted)
            kappa = metrics.cohen_kappa_score(labels, predicted)
            matthews = metrics.matthews_corrcoef(labels, predicted)
        assert (found.macro_precision, found.macro_recall, found.macro_f1.value) == pytest.approx(macro)
        assert (found.weighted_precision, found.weighted_f1) == pytest.approx((weighted[0], weighted[2]))
        assert found.accuracy.value == pytest.approx(weighted[1])  # recall, weighted
        assert found.balanced_accuracy == pytest.approx(balanced)
        assert found.matthews == pytest.approx(matthews)
        if len({*labels, *predicted}) == 1:
            assert found.kappa is None
        else:
            assert found.kappa == pytest.approx(kappa)

    @EVERY
    def test_loss_and_brier_score(self, scores: Scores) -> None:
        found = scores.calibration()
        size = len(scores.classes)
        true = scores.probabilities[torch.arange(len(scores)), scores.labels].double()
        assert found.loss == pytest.approx(float(-true.clamp(min=2.0**-126).log().mean()), abs=1e-12)
        if size > 1 and true.min() > 1e-9:  # scikit-learn clips elsewhere
            rows = scores.probabilities.double()
            expected = metrics.log_loss(scores.labels, rows / rows.sum(1, keepdim=True), labels=range(size))
            assert found.loss == pytest.approx(expected, rel=1e-6, abs=1e-12)
        truth = torch.nn.functional.one_hot(scores.labels, size)
        brier = (scores.probabilities.double() - truth).square().sum(1).mean()
        assert found.brier == pytest.approx(float(brier), abs=1e-12)

    def test_the_loss_of_what_has_no_probability_is_finite(self) -> None:
        scores = Scores(torch.tensor([1]), torch.tensor([[1.0, 0.0]]), ("x",), ("a", "b"))
        assert scores.calibration().loss == pytest.approx(126 * math.log(2))

    @EVERY
    def test_json_has_no_nan(self, scores: Scores) -> None:
        validation = dataclasses.replace(scores)
        for found in (Measures.of(scores), Measures.of(scores, validation)):
            fields = json.loads(json.dumps(found.to_dict(), allow_nan=False))
            assert fields["accuracy"]["value"] == found.accuracy.value
            assert len(fields["classes"]) == len(scores.classes)
        assert scores.to_dict() == Measures.of(scores).to_dict()

    def test_json_does_not_grow_with_the_images(self) -> None:
        few, many = (len(json.dumps(drawn(count, 10).to_dict())) for count in (100, 10_000))
        assert many < 1.1 * few

    def test_a_class_without_images_has_no_recall_and_one_without_predictions_no_precision(self) -> None:
        scores = made(torch.tensor([0, 0, 1]), torch.tensor([[3.0, 0, 0], [3, 0, 0], [0, 0, 3]]))
        first, second, third = Measures.of(scores).classes
        assert first.recall.value == first.precision.value == first.average_precision == first.roc_area == 1.0
        assert (second.images, second.predicted, second.precision, second.f1) == (1, 0, Measure(None), 0.0)
        assert second.recall == Measure(0.0, wilson(0, 1))
        assert (third.recall, third.average_precision, third.roc_area) == (Measure(None), None, None)
        assert third.precision == Measure.share(0, 1)


class TestRankings:
    @pytest.mark.parametrize("ties", [False, True])
    def test_curves_are_scikit_learns(self, ties: bool) -> None:
        scores = drawn(500, 4, right=1.0, ties=ties)
        for index in range(4):
            positive, share = (scores.labels == index).numpy(), scores.probabilities[:, index].numpy()
            found = scores.ranking(index)
            precision, recall, threshold = metrics.precision_recall_curve(positive, share)
            # scikit-learn's rises with the threshold and ends at (1, 0).
            np.testing.assert_array_equal(found.precision, precision[-2::-1])
            np.testing.assert_array_equal(found.recall, recall[-2::-1])
            np.testing.assert_array_equal(found.threshold, threshold[::-1])
            others, own, _ = metrics.roc_curve(positive, share, drop_intermediate=False)
            np.testing.assert_array_equal(found.false_positive_rate, others[1:])
            np.testing.assert_array_equal(found.recall, own[1:])
            assert found.average_precision == pytest.approx(metrics.average_precision_score(positive, share), rel=1e-12)
            assert found.roc_area == pytest.approx(metrics.roc_auc_score(positive, share), rel=1e-12)

    def test_only_positives_are_found_all_and_have_no_area(self) -> None:
        found = Ranking.of(torch.tensor([0.1, 0.9, 0.9]), torch.ones(3, dtype=torch.bool))
        assert (found.average_precision, found.roc_area) == (1.0, None)

    def test_no_positives_are_undefined(self) -> None:
        found = Ranking.of(torch.tensor([0.1, 0.9]), torch.zeros(2, dtype=torch.bool))
        assert (found.average_precision, found.roc_area) == (None, None)

    def test_one_probability_for_all_is_chance(self) -> None:
        found = Ranking.of(torch.full((8,), 0.3), torch.arange(8) < 2)
        assert (found.average_precision, found.roc_area) == (0.25, 0.5)

    def test_means_leave_out_what_is_undefined(self) -> None:
        scores = CASES["more classes than images"]
        found = Measures.of(scores)
        present = scores.labels.unique().tolist()
        truth = torch.nn.functional.one_hot(scores.labels, 30)[:, present]
        rows = scores.probabilities[:, present]
        assert found.mean_average_precision == pytest.approx(metrics.average_precision_score(truth, rows))
        assert found.mean_roc_area == pytest.approx(metrics.roc_auc_score(truth, rows))


class TestReliability:
    @EVERY
    def test_by_a_loop_over_bins(self, scores: Scores) -> None:
        found = scores.calibration().reliability
        sure, right = scores.confidence.double().numpy(), scores.correct.numpy()
        errors, gaps = 0.0, []
        for m in range(15):
            inside = (sure > m / 15) & (sure <= (m + 1) / 15)
            assert found.count[m] == inside.sum()
            if inside.any():
                gap = abs(right[inside].mean() - sure[inside].mean())
                errors += inside.sum() / len(sure) * gap
                gaps.append(gap)
                assert found.confidence[m] == pytest.approx(sure[inside].mean())
                assert found.accuracy[m] == pytest.approx(right[inside].mean())
            else:
                assert found.confidence[m] is found.accuracy[m] is None
        assert found.expected_error == pytest.approx(errors, abs=1e-12)
        assert found.maximum_error == pytest.approx(max(gaps), abs=1e-12)

    @given(st.integers(1, 40).flatmap(lambda bins: st.tuples(st.just(bins), st.integers(1, bins))))
    def test_an_edge_belongs_to_the_bin_below(self, case: tuple[int, int]) -> None:
        bins, m = case
        found = Reliability.of(torch.tensor([m / bins]), torch.tensor([True]), bins)
        assert found.count.index(1) == m - 1

    def test_a_network_that_says_what_it_is_worth(self) -> None:
        sure = torch.tensor([0.75] * 400)
        found = Reliability.of(sure, torch.arange(400) % 4 > 0)
        assert (found.expected_error, found.maximum_error) == (0, 0)


class TestTemperature:
    def test_the_temperature_that_was_put_in_comes_out(self) -> None:
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(20_000, 6, generator=generator) * 2
        labels = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
        for factor in (0.4, 1.0, 3.0):
            found = fit_temperature((logits * factor).softmax(1), labels)
            assert found == pytest.approx(factor, rel=0.03)

    @pytest.mark.parametrize("name", ["two", "ten", "ties"])
    def test_no_other_temperature_has_less_loss(self, name: str) -> None:
        scores = CASES[name]
        best = fit_temperature(scores.probabilities, scores.labels)
        assert best is not None
        least = scores.at_temperature(best).calibration().loss
        for other in (1.0, best * 0.98, best * 1.02):
            assert scores.at_temperature(other).calibration().loss >= least - 1e-9

    def test_is_the_softmax_of_divided_logits(self) -> None:
        logits = torch.randn(50, 7)
        torch.testing.assert_close(tempered(logits.softmax(1), 1.7), (logits / 1.7).softmax(1))

    def test_classes_stay(self) -> None:
        scores = CASES["ten"]
        assert torch.equal(scores.at_temperature(4.0).predicted, scores.predicted)

    @pytest.mark.parametrize("name", ["always right", "never right", "one class"])
    def test_none_where_there_is_no_best_one(self, name: str) -> None:
        scores = CASES[name]
        assert scale_temperature(scores, dataclasses.replace(scores)) is None
        found = Measures.of(scores, dataclasses.replace(scores))
        assert (found.temperature, found.scaled) == (None, None)

    def test_is_fitted_on_validation_and_mends_the_test(self) -> None:
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(4000, 5, generator=generator)
        labels = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
        overconfident = made(labels, logits * 4)
        validation, test = (
            Scores(
                overconfident.labels[part], overconfident.probabilities[part], overconfident.names[part], tuple("abcde")
            )
            for part in (slice(2000), slice(2000, None))
        )
        found = Measures.of(test, validation)
        assert found.temperature == fit_temperature(validation.probabilities, validation.labels)
        assert found.temperature == pytest.approx(4, rel=0.1)
        assert found.scaled is not None
        before, after = found.calibration, found.scaled
        assert after.loss < before.loss
        assert after.brier < before.brier
        assert after.reliability.expected_error < 0.05 < 0.3 < before.reliability.expected_error

    def test_not_on_what_is_judged(self) -> None:
        scores = CASES["ten"]
        with pytest.raises(RunError, match=r"temperature: got the scores that it is judged on; needed validation"):
            Measures.of(scores, scores)
        with pytest.raises(RunError, match="got 2 and 10 classes"):
            Measures.of(scores, CASES["two"])


class TestIntervals:
    @pytest.mark.parametrize(("part", "whole"), [(0, 1), (1, 1), (0, 40), (40, 40), (3, 7), (355, 359), (9924, 10_000)])
    def test_wilson_is_scipys(self, part: int, whole: int) -> None:
        expected = binomtest(part, whole).proportion_ci(0.95, method="wilson")
        assert wilson(part, whole) == pytest.approx(expected, abs=1e-12)

    def test_of_nothing_nothing_is_known(self) -> None:
        assert wilson(0, 0) == (0.0, 1.0)
        assert Measure.share(0, 0) == Measure(None, None)

    @given(st.integers(0, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
    def test_wilson_holds_the_share_and_mirrors(self, case: tuple[int, int]) -> None:
        part, whole = case
        low, high = wilson(part, whole)
        assert 0 <= low <= (part / whole if whole else 0.5) <= high <= 1
        assert wilson(whole - part, whole) == pytest.approx((1 - high, 1 - low))

    @pytest.mark.slow
    def test_the_bootstrap_is_that_of_images(self) -> None:
        scores = drawn(150, 3, right=1.0)
        labels, predicted = scores.labels.numpy(), scores.predicted.numpy()

        def statistic(labels: np.ndarray, predicted: np.ndarray) -> float:
            return float(metrics.f1_score(labels, predicted, average="macro"))

        options = {"paired": True, "vectorized": False, "n_resamples": 600, "random_state": 1, "method": "BCa"}
        expected = bootstrap((labels, predicted), statistic, **options).confidence_interval
        assert bootstrap_macro_f1(scores.confusion) == pytest.approx(expected, abs=0.015)

    @pytest.mark.slow
    def test_the_bootstrap_covers_the_truth_where_classes_are_small(self) -> None:
        # 40 classes of 10 images: plain percentiles hold the truth in fewer than 85 of 100.
        size, random = 40, np.random.default_rng(0)
        shares = np.full((size, size), 0.3 / (size - 1))
        np.fill_diagonal(shares, 0.7)
        held = 0
        for seed in range(100):
            drawn_counts = random.multinomial(10 * size, (shares / size).ravel()).reshape(size, size)
            found = bootstrap_macro_f1(torch.from_numpy(drawn_counts), seed=seed, resamples=200)
            assert found is not None
            held += found[0] <= 0.7 <= found[1]
        assert held >= 88

    def test_without_errors_the_bootstrap_knows_no_interval(self) -> None:
        assert bootstrap_macro_f1(CASES["always right"].confusion) is None
        assert Measures.of(CASES["always right"]).macro_f1 == Measure(1.0, None)

    def test_the_bootstrap_hangs_on_counts_and_seed_alone(self) -> None:
        confusion = CASES["ten"].confusion
        torch.manual_seed(5)
        np.random.seed(5)
        assert bootstrap_macro_f1(confusion) == bootstrap_macro_f1(confusion.clone())
        assert bootstrap_macro_f1(confusion) != bootstrap_macro_f1(confusion, seed=1)

    @EVERY
    def test_macro_f1_lies_in_its_interval(self, scores: Scores) -> None:
        found = Measures.of(scores).macro_f1
        assert found.value is not None
        if found.interval is None:
            assert scores.correct.all() or not scores.correct.any() or len(scores) == 1
        else:
            assert 0 <= found.interval[0] <= found.value <= found.interval[1] <= 1


class TestFoldSummary:
    def test_by_the_formulas(self) -> None:
        values = (0.91, 0.87, 0.93, 0.9, 0.88)
        found = FoldSummary(values)
        deviation = np.std(values, ddof=1)
        half = student.ppf(0.975, 4) * deviation * math.sqrt(1 / 5 + 1 / 4)
        assert found.mean == pytest.approx(np.mean(values))
        assert found.deviation == pytest.approx(deviation)
        assert found.interval == pytest.approx((np.mean(values) - half, np.mean(values) + half))
        fields = json.loads(json.dumps(found.to_dict()))
        assert fields == {
            "values": list(values),
            "mean": found.mean,
            "standard_deviation": found.deviation,
            "interval": list(found.interval),
        }

    @pytest.mark.parametrize("values", [(), (0.5,), (0.5, math.nan), (0.5, math.inf)])
    def test_too_few_or_not_finite(self, values: tuple[float, ...]) -> None:
        with pytest.raises(RunError, match="two or more finite numbers"):
            FoldSummary(values)


def test_a_confusion_matrix_of_counts() -> None:
    labels, predicted = torch.tensor([0, 2, 2, 2]), torch.tensor([2, 2, 0, 2])
    assert agreement.confusion_of(labels, predicted, 3).tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 2]]
