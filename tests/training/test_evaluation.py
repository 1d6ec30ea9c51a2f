"""Evaluation of every ensemble size, against sums worked out leaf by leaf."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from model_core.build import build_model
from model_core.costs import count_costs
from model_core.grouped import HierarchicalEnsemble
from model_core.spec import ModelSpec
from training.calibration import expected_calibration_error, fitted_temperature, negative_log_likelihood
from training.data import ImageDataset
from training.errors import DivergedError, RunError
from training.evaluation import Evaluation, evaluate, leaf_logits, prefix_accuracies
from training.plots import plot_evaluation
from training.streams import budgeted


@pytest.fixture(scope="module")
def model(small_spec: ModelSpec) -> HierarchicalEnsemble:
    torch.manual_seed(0)
    return build_model(small_spec)


def evaluation_of(model: HierarchicalEnsemble, data: ImageDataset) -> Evaluation:
    return Evaluation(
        architecture=model.spec.name,
        evaluated_on="24 test images of colours",
        run_sha256="0" * 64,
        epochs=0,
        seed=0,
        command="hne-train evaluate",
        versions={},
        settings={},
        **evaluate(model, data)._asdict(),
    )


def test_leaf_logits_cover_the_split_in_order(model: HierarchicalEnsemble, data: ImageDataset) -> None:
    logits, labels = leaf_logits(model, data.test)
    assert logits.shape == (4, 24, 3)
    assert labels.equal(data.test.labels)
    with torch.no_grad():
        expected = model(torch.cat([images for images, _ in data.test.evaluation_batches(7)]))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_prefix_accuracies_average_logits_before_the_decision() -> None:
    # Two leaves, two images of class 0: the second leaf alone is wrong on both, and outvotes the first on one.
    logits: Tensor = torch.tensor([[[2.0, 0.0], [2.0, 0.0]], [[0.0, 1.0], [0.0, 3.0]]])
    assert prefix_accuracies(logits, torch.tensor([0, 0])) == [1.0, 0.5]


def test_a_model_that_gives_no_numbers_has_no_figures(data: ImageDataset, small_spec: ModelSpec) -> None:
    broken = build_model(small_spec)
    next(broken.parameters()).data[0] = torch.nan
    with pytest.raises(DivergedError, match="the training has diverged"):
        evaluate(broken, data)


def test_figures_are_of_float32_and_not_of_tf32(
    data: ImageDataset, small_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = torch.backends.cudnn, torch.backends.cuda.matmul
    monkeypatch.setattr(places[0], "allow_tf32", True)
    products = places[1].allow_tf32
    places[1].allow_tf32 = True  # which monkeypatch cannot put back
    model, allowed = build_model(small_spec), list[bool]()
    model.register_forward_pre_hook(lambda *_: allowed.extend(place.allow_tf32 for place in places))
    evaluate(model, data)
    assert set(allowed) == {False}
    assert all(place.allow_tf32 for place in places)
    places[1].allow_tf32 = products


def test_calibrated_figures_are_those_at_the_temperature_of_the_held_out_images(
    model: HierarchicalEnsemble, data: ImageDataset
) -> None:
    evaluation = evaluation_of(model, data)
    held_out, held_out_labels = leaf_logits(model, data.held_out)
    logits, labels = leaf_logits(model, data.test)
    confidences, right = [], []
    for row in evaluation.sizes:
        outputs = logits[: row.ensemble_size].mean(0)
        confidences.append((outputs / row.temperature).softmax(-1).amax(-1))
        right.append(outputs.argmax(-1) == labels)
        temperature = fitted_temperature(held_out[: row.ensemble_size].mean(0), held_out_labels)
        assert row.temperature == pytest.approx(temperature, rel=1e-3)
        assert not 0.99 < temperature < 1.01, "it makes a difference"
        for found, figure in (
            (row.calibrated_nll, negative_log_likelihood),
            (row.calibrated_ece, expected_calibration_error),
        ):
            assert found == pytest.approx(figure(outputs, labels, temperature=row.temperature), abs=1e-5)
        assert row.calibrated_nll != pytest.approx(row.nll, abs=1e-4)
    stopped = budgeted(torch.stack(confidences), torch.stack(right), count_costs(model).cumulative_flops[1:])
    assert list(evaluation.budgeted) == stopped


def test_every_size_has_its_cost_accuracy_and_diversity(model: HierarchicalEnsemble, data: ImageDataset) -> None:
    evaluation = evaluation_of(model, data)
    logits, labels = leaf_logits(model, data.test)
    assert [row.ensemble_size for row in evaluation.sizes] == [1, 2, 3, 4]
    assert tuple(row.flops for row in evaluation.sizes) == count_costs(model).cumulative_flops[1:]
    assert [row.accuracy for row in evaluation.sizes] == prefix_accuracies(logits, labels)
    for leaf, accuracy in enumerate(evaluation.leaf_accuracies):
        assert accuracy == (logits[leaf].argmax(-1) == labels).double().mean().item()
    first, second = logits[0], logits[1]
    # Two values a and b have the standard deviation |a - b| / 2.
    assert evaluation.sizes[0].logit_std == 0
    assert evaluation.sizes[1].logit_std == pytest.approx(((first - second).abs() / 2).mean().item(), rel=1e-5)


def test_temperatures_come_from_the_held_out_images(model: HierarchicalEnsemble, data: ImageDataset) -> None:
    other_test = ImageDataset(
        train=data.train,
        held_out=data.held_out,
        test=data.train,
        class_names=data.class_names,
        preprocessing=data.preprocessing,
    )
    one, other = evaluation_of(model, data), evaluation_of(model, other_test)
    assert [row.temperature for row in one.sizes] == [row.temperature for row in other.sizes]
    assert [row.nll for row in one.sizes] != [row.nll for row in other.sizes]


def test_the_table_for_serving_holds_the_calibrated_figures(model: HierarchicalEnsemble, data: ImageDataset) -> None:
    evaluation = evaluation_of(model, data)
    for row, figures in zip(evaluation.table, evaluation.sizes, strict=True):
        assert (row.nll, row.ece) == (figures.calibrated_nll, figures.calibrated_ece)
        assert (row.flops, row.temperature) == (figures.flops, figures.temperature)


def test_an_evaluation_survives_its_file_and_damage_is_refused(
    model: HierarchicalEnsemble, data: ImageDataset, tmp_path: Path
) -> None:
    evaluation, path = evaluation_of(model, data), tmp_path / "evaluation.json"
    with pytest.raises(RunError, match="run `hne-train evaluate` first"):
        Evaluation.load(path)
    path.write_text(evaluation.model_dump_json())
    assert Evaluation.load(path) == evaluation
    path.write_text(path.read_text()[:-20])
    with pytest.raises(RunError, match="not a complete evaluation"):
        Evaluation.load(path)


def test_the_plot_is_an_image_and_the_same_every_time(
    model: HierarchicalEnsemble, data: ImageDataset, tmp_path: Path
) -> None:
    evaluation = evaluation_of(model, data)
    plots = tmp_path / "one.svg", tmp_path / "two.svg", tmp_path / "three.png"
    plot_evaluation(evaluation, plots[0])
    plot_evaluation(evaluation, *plots[1:])
    assert plots[0].read_bytes() == plots[1].read_bytes()
    with Image.open(plots[2]) as image:
        assert min(image.size) > 500


def test_a_file_of_a_version_without_streams_is_still_read(
    model: HierarchicalEnsemble, data: ImageDataset, tmp_path: Path
) -> None:
    stored = evaluation_of(model, data).model_dump(mode="json", exclude={"budgeted", "stream"})
    (tmp_path / "evaluation.json").write_text(json.dumps(stored))
    assert Evaluation.load(tmp_path / "evaluation.json").stream is None
