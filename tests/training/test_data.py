"""Datasets: splits, statistics, both kinds of storage, and clear errors for broken folders."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from training.config import TrainConfig
from training.data import ImageDataset, load_dataset
from training.errors import DataError
from training.images import DeviceImages, FileImages

CPU = torch.device("cpu")


def load(
    folder: Path, size: int = 16, *, workers: int = 0, held_out: float = 0.1, train_images: int | None = None
) -> ImageDataset:
    config = TrainConfig(
        dataset="folder", data=folder, workers=workers, held_out=held_out, train_images=train_images
    ).resolved()
    return load_dataset(config, size=(size, size), device=CPU)


@pytest.fixture
def copied_folder(image_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(image_folder, tmp_path / "images"))


def test_a_folder_becomes_three_splits(image_folder: Path) -> None:
    data = load(image_folder)
    assert (len(data.train), len(data.held_out), len(data.test)) == (54, 6, 24)
    assert data.class_names == ("blue", "green", "red")
    assert data.test.labels.bincount().tolist() == [8, 8, 8]


def test_every_batch_is_augmented_in_its_own_way(image_folder: Path) -> None:
    plain = load(image_folder)
    assert isinstance(plain.train, DeviceImages)
    alike = DeviceImages(plain.train.pixels[:1].expand(54, -1, -1, -1), plain.train.labels, plain.preprocessing)
    batches = [images for epoch in range(2) for images, _ in alike.training_batches(9, seed=0, epoch=epoch)]
    assert len({images.numpy().tobytes() for images in batches}) == len(batches) == 12


def test_training_and_held_out_images_are_disjoint_and_the_same_every_time(image_folder: Path) -> None:
    data, again = load(image_folder), load(image_folder)
    parts = [split.pixels for split in (data.train, data.held_out) if isinstance(split, DeviceImages)]
    images = {image.numpy().tobytes() for part in parts for image in part}
    assert len(images) == 60
    assert isinstance(again.held_out, DeviceImages)
    assert again.held_out.pixels.equal(parts[1])


def test_fewer_training_images_are_some_of_all_and_the_held_out_ones_stay(image_folder: Path) -> None:
    def pixels(train_images: int | None) -> tuple[set[bytes], set[bytes]]:
        data = load(image_folder, train_images=train_images)
        assert isinstance(data.train, DeviceImages)
        assert isinstance(data.held_out, DeviceImages)
        train, held_out = ({image.numpy().tobytes() for image in part.pixels} for part in (data.train, data.held_out))
        return train, held_out

    everything, held_out = pixels(None)
    few, held_out_then = pixels(20)
    more, _ = pixels(40)
    assert (len(few), len(more), len(everything)) == (20, 40, 54)
    assert few < more < everything
    assert held_out_then == held_out


def test_more_training_images_than_there_are_or_too_few_for_all_classes_are_an_error(image_folder: Path) -> None:
    assert len(load(image_folder, train_images=54).train) == 54
    with pytest.raises(DataError, match="--train-images 55: of 60 images 6 are held out, so at most 54"):
        load(image_folder, train_images=55)
    with pytest.raises(DataError, match="--train-images 2: a class has none of them; take more"):
        load(image_folder, train_images=2)


def test_the_training_images_are_normalised_to_mean_0_and_deviation_1(image_folder: Path) -> None:
    data = load(image_folder)
    images = torch.cat([batch for batch, _ in data.train.evaluation_batches(10)])
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_a_channel_that_is_the_same_everywhere_says_nothing_instead_of_no_number(copied_folder: Path) -> None:
    for path in copied_folder.glob("*/*/*.png"):
        with Image.open(path) as image:
            red, green, blue = image.split()
        Image.merge("RGB", (red, green, blue.point(lambda _: 77))).save(path)
    images = torch.cat([batch for batch, _ in load(copied_folder).train.evaluation_batches(10)])
    torch.testing.assert_close(images[:, 2], torch.zeros_like(images[:, 2]), atol=1e-5, rtol=0)
    torch.testing.assert_close(images[:, :2].std((0, 2, 3), correction=0), torch.ones(2), atol=1e-4, rtol=0)


def test_an_epoch_shows_every_image_at_most_once_and_depends_on_seed_and_epoch(image_folder: Path) -> None:
    train = load(image_folder).train

    def labels(seed: int, epoch: int) -> list[int]:
        return torch.cat([y for _, y in train.training_batches(10, seed=seed, epoch=epoch)]).tolist()

    assert len(labels(0, 0)) == 50
    assert labels(0, 0) == labels(0, 0)
    assert labels(0, 0) != labels(0, 1)
    assert labels(0, 0) != labels(1, 0)


@pytest.mark.parametrize("size", [16, 80])
def test_an_epoch_can_be_entered_in_the_middle(image_folder: Path, size: int) -> None:
    train = load(image_folder, size).train
    assert isinstance(train, DeviceImages if size == 16 else FileImages)
    whole = list(train.training_batches(10, seed=0, epoch=3))
    rest = list(train.training_batches(10, seed=0, epoch=3, start=2))
    assert len(whole) == 5
    assert len(rest) == 3
    for (images, labels), (images_again, labels_again) in zip(whole[2:], rest, strict=True):
        assert images.equal(images_again)
        assert labels.equal(labels_again)


def test_large_images_are_augmented_for_training_only(image_folder: Path) -> None:
    data = load(image_folder, 80)
    images, labels = next(data.train.training_batches(4, seed=0, epoch=0))
    assert images.shape == (4, 3, 80, 80)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.shape == (4,)
    other, _ = next(data.train.training_batches(4, seed=1, epoch=0))
    assert not images.equal(other)
    assert data.preprocessing.resize_to_cover == (91, 91)
    first, second = (torch.cat([x for x, _ in data.test.evaluation_batches(5)]) for _ in range(2))
    assert first.shape == (24, 3, 80, 80)
    assert first.equal(second)


def test_worker_processes_do_not_change_what_is_drawn(image_folder: Path) -> None:
    alone, helped = (load(image_folder, 80, workers=workers).train for workers in (0, 1))
    batches, batches_helped = (list(split.training_batches(27, seed=0, epoch=0)) for split in (alone, helped))
    assert len(batches) == len(batches_helped) == 2
    assert all(one.equal(other) for (one, _), (other, _) in zip(batches, batches_helped, strict=True))


def test_a_signal_to_all_processes_takes_no_images_from_the_trainer(image_folder: Path) -> None:
    batches = load(image_folder, 80, workers=1).test.evaluation_batches(1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    worker.terminate()
    assert sum(1 for _ in batches) == 23


def test_images_of_other_sizes_and_modes_are_resized_and_converted(copied_folder: Path) -> None:
    Image.new("L", (31, 20), 7).save(copied_folder / "train" / "red" / "grey.png")
    assert len(load(copied_folder).train) == 55


def test_an_input_that_is_wider_than_high_is_cut_out_of_the_images(image_folder: Path) -> None:
    config = TrainConfig(dataset="folder", data=image_folder).resolved()
    data = load_dataset(config, size=(16, 24), device=CPU)
    assert data.preprocessing.resize_to_cover == (16, 24)
    images, _ = next(iter(data.test.evaluation_batches(4)))
    black = -torch.tensor(data.preprocessing.mean) / torch.tensor(data.preprocessing.std)
    assert images.shape == (4, 3, 16, 24)
    assert not torch.isclose(images, black[:, None, None]).all(1).any(), "no border was added"


@pytest.mark.parametrize("height", [16, 80])
def test_an_input_that_is_wider_than_high_sees_as_wide_images_to_their_edges(height: int, tmp_path: Path) -> None:
    image = Image.new("RGB", (64, 32))
    image.paste("white", (0, 0, 8, 32))
    image.paste("white", (56, 0, 64, 32))
    for folder in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("1.png", "2.png"):
            image.save(tmp_path / folder / name)
    config = TrainConfig(dataset="folder", data=tmp_path, workers=0).resolved()
    images, _ = next(iter(load_dataset(config, size=(height, 2 * height), device=CPU).test.evaluation_batches(1)))
    row = images[0, 0, height // 2]
    assert row[0] == row[-1] > row[height]


def test_a_missing_folder_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected train/CLASS/IMAGE"):
        load(tmp_path / "nowhere")


def test_an_empty_class_is_named(copied_folder: Path) -> None:
    shutil.rmtree(copied_folder / "train" / "red")
    (copied_folder / "train" / "red").mkdir()
    with pytest.raises(DataError, match="red: no images of this class"):
        load(copied_folder)


def test_a_test_class_without_training_images_is_named(copied_folder: Path) -> None:
    shutil.rmtree(copied_folder / "train" / "red")
    with pytest.raises(DataError, match="classes without training images: red"):
        load(copied_folder)


@pytest.mark.parametrize(("size", "workers"), [(16, 0), (80, 0), (80, 1)])
def test_an_unreadable_image_is_named(copied_folder: Path, size: int, workers: int) -> None:
    broken = copied_folder / "test" / "green" / "03.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(DataError) as caught:
        list(load(copied_folder, size, workers=workers).test.evaluation_batches(5))
    assert str(caught.value).startswith(f"{broken}: not a readable image")


def test_cifar_that_cannot_be_downloaded_says_what_to_do(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where the folder should be")
    config = TrainConfig(dataset="cifar10", data=blocked).resolved()
    with pytest.raises(DataError, match="--dataset folder"):
        load_dataset(config, size=(32, 32), device=CPU)


def test_imagenet_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    # The class list would be read by scipy, an extra that torchvision names no requirement for.
    config = TrainConfig(dataset="imagenet", data=tmp_path).resolved()
    with pytest.raises(DataError, match=r"image-net\.org|pip install scipy"):
        load_dataset(config, size=(224, 224), device=CPU)
