import numpy as np
import pytest
import torch

from ecgan.data.classes import ADE20K, CITYSCAPES
from ecgan.data.scenes import SCENE_CLASSES
from ecgan.errors import ConfigError
from ecgan.evaluation.segmentation import ConfusionMatrix, small_objects


def test_by_hand():
    # Classes 0, 1, 2; 3 is void, class 2 occurs nowhere.
    truth = torch.tensor([[0, 0, 0, 1], [1, 1, 3, 3]])
    guess = torch.tensor([[0, 0, 1, 1], [1, 0, 0, 1]])
    matrix = ConfusionMatrix(3)
    matrix.update(truth, guess)
    scores = matrix.scores()
    assert scores.iou == [2 / 4, 2 / 4, None]
    assert scores.miou == 0.5
    assert (scores.classes, scores.pixels, scores.void) == (2, 8, 2)
    assert scores.acc_valid == 4 / 6
    assert scores.acc_all == 4 / 8
    assert scores.mean_iou([1, 2]) == 0.5
    assert scores.mean_iou([2]) is None


def test_batches_add_up_and_any_void_id_will_do():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 6, (4, 9, 7), generator=generator)
    guess = torch.randint(0, 5, (4, 9, 7), generator=generator)
    whole, parts = ConfusionMatrix(5), ConfusionMatrix(5)
    whole.update(truth, guess)
    truth = torch.where(truth == 5, 255, truth).to(torch.uint8)
    for one, other in zip(truth, guess.to(torch.int16), strict=True):
        parts.update(one, other)
    assert torch.equal(whole.counts, parts.counts)
    assert whole.counts.dtype == torch.int64


def test_agrees_with_scikit_learn_and_torchmetrics():
    metrics = pytest.importorskip("sklearn.metrics")
    from torchmetrics.functional.classification import multiclass_jaccard_index

    generator = torch.Generator().manual_seed(1)
    truth = torch.randint(0, 8, (2, 31, 17), generator=generator)  # 7 is void
    guess = torch.where(torch.rand(truth.shape, generator=generator) < 0.4, truth, truth.flip(1))
    guess = guess.clamp_max(6)
    matrix = ConfusionMatrix(7)
    matrix.update(truth, guess)
    scores = matrix.scores()
    valid = truth < 7
    expected = metrics.confusion_matrix(truth[valid], guess[valid], labels=range(7))
    assert np.array_equal(matrix.counts[:7, :7].numpy(), expected)
    iou = metrics.jaccard_score(truth[valid], guess[valid], average=None)
    assert scores.iou == pytest.approx(list(iou), rel=1e-12)
    theirs = multiclass_jaccard_index(guess, truth, 7, ignore_index=7)
    assert scores.miou == pytest.approx(theirs.item(), rel=1e-6)
    assert scores.acc_valid == pytest.approx(metrics.accuracy_score(truth[valid], guess[valid]))


def test_classes_that_cannot_be_predicted_are_void():
    truth = torch.tensor([0, 0, 1, 2])
    guess = torch.tensor([0, 2, 0, 2])
    matrix = ConfusionMatrix(3, evaluated=torch.tensor([True, False, True]))
    matrix.update(truth, guess)
    scores = matrix.scores()
    assert scores.iou == [1 / 2, None, 1 / 2]  # the prediction on class 1's pixel counts nowhere
    assert (scores.void, scores.acc_valid, scores.acc_all) == (1, 2 / 3, 2 / 4)


def test_no_class_predicted_is_an_error_of_the_truth_alone():
    matrix = ConfusionMatrix(2)
    matrix.update(torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1]))
    assert matrix.scores().iou == [1 / 2, 1.0]


def test_nothing_seen():
    scores = ConfusionMatrix(2).scores()
    assert (scores.miou, scores.acc_all, scores.acc_valid) == (None, None, None)
    assert scores.classes == 0


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"truth is \[2, 3\] but prediction is \[2, 4\]"):
        ConfusionMatrix(2).update(torch.zeros(2, 3).long(), torch.zeros(2, 4).long())


def test_the_small_objects_of_table_5():
    def names(table, wanted=""):
        return [table.names[index] for index in small_objects(table.names, wanted)]

    assert names(CITYSCAPES) == [
        "pole", "traffic light", "traffic sign", "rider", "motorcycle", "bicycle"
    ]  # fmt: skip
    assert names(SCENE_CLASSES) == ["pole", "traffic light", "traffic sign"]
    assert names(ADE20K, "clock, flag") == ["clock", "flag"]
    assert small_objects(["sky", "pole"]) == []
    with pytest.raises(ConfigError, match="'moon', which is no class"):
        small_objects(["sky", "pole"], "moon")
