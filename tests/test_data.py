"""Data sets: MNIST and the embedded digits."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import platformdirs
import pooch
import pytest

from fastdl.data import (
    Dataset,
    digits,
    load_arrays,
    load_dataset,
    load_digits,
    load_mnist,
    mnist,
)

# Taken before the fixture below hides it from the code under test.
DATA_DIR = Path(os.environ.get("FASTDL_DATA_DIR") or "/nonexistent")
needs_mnist = pytest.mark.skipif(
    not (DATA_DIR / "mnist").is_dir(), reason="FASTDL_DATA_DIR names no folder with mnist/ in it"
)
needs_book = pytest.mark.skipif(
    not (DATA_DIR / "book").is_dir(), reason="FASTDL_DATA_DIR names no folder with book/ in it"
)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """A user cache of its own, no FASTDL_DATA_DIR and no network."""

    class NoNetwork:
        def __init__(self, **_):
            pass

        def __call__(self, url, output_file, pooch):
            Path(output_file).write_bytes(b"half a fi")
            raise OSError("no route to host")

    monkeypatch.delenv("FASTDL_DATA_DIR", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    monkeypatch.setattr(pooch, "HTTPDownloader", NoNetwork)
    return tmp_path / "cache" / "fastdl" / "mnist"


# idx files


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def tiny_mnist() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {}
    for stem, n in (("train", 7), ("t10k", 3)):
        arrays[f"{stem}-images-idx3-ubyte"] = rng.integers(0, 256, (n, 28, 28)).astype(np.uint8)
        arrays[f"{stem}-labels-idx1-ubyte"] = rng.integers(0, 10, n).astype(np.uint8)
    return arrays


def write_mnist(folder: Path, spelling="{}-idx{}-ubyte", packed=False, **replaced: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in tiny_mnist().items():
        content = replaced.get(name.split("-idx")[0].replace("-", "_"), idx_bytes(array))
        path = folder / spelling.format(name.split("-idx")[0], array.ndim)
        if packed:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
        else:
            path.write_bytes(content)
    return folder


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("spelling", ["{}-idx{}-ubyte", "{}.idx{}-ubyte"])
def test_mnist_reads_both_spellings_packed_or_not(tmp_path, spelling, packed):
    folder = write_mnist(tmp_path / "data", spelling, packed)
    arrays = tiny_mnist()
    (x_train, t_train), (x_test, t_test) = load_mnist(data_dir=folder)
    for x, t, stem in ((x_train, t_train, "train"), (x_test, t_test, "t10k")):
        images, labels = arrays[f"{stem}-images-idx3-ubyte"], arrays[f"{stem}-labels-idx1-ubyte"]
        assert x.dtype == np.float32 and t.dtype == np.uint8
        np.testing.assert_array_equal(x, images.reshape(-1, 784).astype(np.float32) / np.float32(255))
        np.testing.assert_array_equal(t, labels)
        assert x.flags.writeable and t.flags.writeable and x.flags.c_contiguous


def test_mnist_options(tmp_path):
    folder = write_mnist(tmp_path / "data")
    arrays = tiny_mnist()
    images, labels = arrays["train-images-idx3-ubyte"], arrays["train-labels-idx1-ubyte"]

    (x, t), _ = load_mnist(False, False, True, data_dir=str(folder))
    assert x.dtype == np.uint8 and x.shape == (7, 1, 28, 28)
    np.testing.assert_array_equal(x[:, 0], images)
    assert t.dtype == np.float64 and t.shape == (7, 10)
    np.testing.assert_array_equal(t.argmax(axis=1), labels)
    np.testing.assert_array_equal(t.sum(axis=1), 1)

    for dtype in (np.float16, np.float64):
        (x, _), _ = load_mnist(flatten=False, dtype=dtype, data_dir=folder)
        assert x.dtype == dtype and x.shape == (7, 1, 28, 28)
        np.testing.assert_array_equal(x[:, 0], (images / 255).astype(dtype))
    with pytest.raises(TypeError, match=r"floating-point dtype.*found int32"):
        load_mnist(dtype=np.int32, data_dir=folder)


def test_mnist_bfloat16(tmp_path):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    (x, _), _ = load_mnist(dtype=bfloat16, data_dir=write_mnist(tmp_path / "data"))
    assert x.dtype == bfloat16


def test_data_dir_may_be_the_folder_above(tmp_path):
    write_mnist(tmp_path / "data" / "mnist")
    assert load_mnist(data_dir=tmp_path / "data")[1][0].shape == (3, 784)


def test_missing_files_in_data_dir_are_named(tmp_path, monkeypatch):
    complete = write_mnist(tmp_path / "complete")
    monkeypatch.setenv("FASTDL_DATA_DIR", str(complete))  # must not be fallen back to
    folder = write_mnist(tmp_path / "data")
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError) as error:
        load_mnist(data_dir=folder)
    assert f"{folder} lacks t10k-labels-idx1-ubyte" in str(error.value)
    assert "train-images" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="absent lacks train-images-idx3-ubyte, train-labels"):
        load_mnist(data_dir=tmp_path / "absent")


@pytest.mark.parametrize("below", ["", "mnist"])
def test_environment_names_the_folder(tmp_path, monkeypatch, below):
    write_mnist(tmp_path / "data" / below)
    monkeypatch.setenv("FASTDL_DATA_DIR", str(tmp_path / "data"))
    assert load_mnist(download=False)[0][0].shape == (7, 784)


def test_cache_is_read(cache, monkeypatch, tmp_path):
    write_mnist(cache, packed=True)
    monkeypatch.setenv("FASTDL_DATA_DIR", str(tmp_path))  # has no MNIST: the cache has
    assert load_mnist(download=False)[0][0].shape == (7, 784)


@pytest.mark.parametrize(
    ("kind", "damage", "message"),
    [
        ("train_images", lambda b: b[:-1], "expected 5488 bytes of data for shape .7, 28, 28., found 5487"),
        ("train_images", lambda b: b + b"\0", "expected 5488 bytes of data for shape .*, found 5489"),
        ("train_images", lambda b: b[:9], "expected an idx header of 16 bytes, found a file of 9"),
        ("train_images", lambda b: b"", "expected an idx header of 16 bytes, found a file of 0"),
        ("train_images", lambda b: b"<html>" + b, "magic number 0x00000803, found 0x3c68746d"),
        ("t10k_labels", lambda b: b"\0\0\x08\x03" + b[4:], "magic number 0x00000801, found 0x00000803"),
        ("t10k_labels", lambda b: b[:-1] + b"\x0a", "expected labels 0 to 9, found 10"),
        ("t10k_labels", lambda b: struct.pack(">2I", 0x801, 2) + b[8:10], "expected 3 labels.*, found 2"),
        (
            "t10k_images",
            lambda b: idx_bytes(np.zeros((3, 8, 8), np.uint8)),
            r"28x28.*found shape \(3, 8, 8\)",
        ),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_idx_files_are_named(tmp_path, kind, damage, message, packed):
    name = kind.replace("_", "-") + ("-idx3-ubyte" if "images" in kind else "-idx1-ubyte")
    damaged = damage(idx_bytes(tiny_mnist()[name]))
    folder = write_mnist(tmp_path / "data", packed=packed, **{kind: damaged})
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        load_mnist(data_dir=folder)


@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b[:5], lambda b: b[:30] + b"x" * 30 + b[60:]])
def test_damaged_gzip_files_are_named(tmp_path, damage):
    folder = write_mnist(tmp_path / "data", packed=True)
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz: expected a complete gzip file"):
        load_mnist(data_dir=folder)


# Downloads


@pytest.fixture
def web(monkeypatch):
    """Two mirrors with the tiny files; tests replace what they serve."""
    served = {}
    for file in mnist.FILES:
        for mirror in mnist.MIRRORS:
            served[f"{mirror}{file.name}.gz"] = gzip.compress(idx_bytes(tiny_mnist()[file.name]))

    class Web:
        def __init__(self, **_):
            pass

        def __call__(self, url, output_file, pooch):
            content = served[url]
            if isinstance(content, BaseException):
                Path(output_file).write_bytes(b"half a fi")
                raise content
            Path(output_file).write_bytes(content)

    files = tuple(
        file._replace(md5=hashlib.md5(idx_bytes(tiny_mnist()[file.name])).hexdigest()) for file in mnist.FILES
    )
    monkeypatch.setattr(mnist, "FILES", files)
    monkeypatch.setattr(pooch, "HTTPDownloader", Web)
    return served


def test_download_fills_the_cache_once(cache, web):
    assert load_mnist()[0][0].shape == (7, 784)
    assert sorted(path.name for path in cache.iterdir()) == sorted(f"{f.name}.gz" for f in mnist.FILES)
    web.clear()
    assert load_mnist()[0][0].shape == (7, 784)


def test_download_falls_back_to_the_next_mirror_and_accepts_other_packing(cache, web):
    name = mnist.FILES[0].name
    first, second = (f"{mirror}{name}.gz" for mirror in mnist.MIRRORS)
    web[second] = gzip.compress(idx_bytes(tiny_mnist()[name]), compresslevel=0)
    for failure in (OSError("503"), b"<html>log in first</html>", web[first][:100]):
        web[first] = failure
        assert load_mnist()[0][0].shape == (7, 784)
        assert (cache / f"{name}.gz").read_bytes() == web[second]
        (cache / f"{name}.gz").unlink()


def test_download_with_another_checksum_is_not_kept(cache, web):
    name = mnist.FILES[1].name
    wrong = idx_bytes(np.zeros(7, np.uint8))
    for mirror in mnist.MIRRORS:
        web[f"{mirror}{name}.gz"] = gzip.compress(wrong)
    with pytest.raises(FileNotFoundError) as error:
        load_mnist()
    assert f"expected md5 {mnist.FILES[1].md5}" in str(error.value)
    assert f"found {hashlib.md5(wrong).hexdigest()}" in str(error.value)
    assert [path.name for path in cache.iterdir()] == [f"{mnist.FILES[0].name}.gz"]


def test_interrupted_download_leaves_nothing_behind(cache, web):
    web[f"{mnist.MIRRORS[0]}{mnist.FILES[0].name}.gz"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        load_mnist()
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("download", [True, False])
def test_without_network_the_three_ways_are_named(cache, monkeypatch, tmp_path, download):
    monkeypatch.setenv("FASTDL_DATA_DIR", str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError) as error:
        load_mnist(download=download)
    for part in ("data_dir=", "--data-dir", "FASTDL_DATA_DIR", str(cache), str(tmp_path / "empty")):
        assert part in str(error.value)
    assert ("no route to host" if download else "download=False") in str(error.value)
    assert not cache.exists() or list(cache.iterdir()) == []


# Digits


def test_digits_shapes_and_ranges():
    (x_train, t_train), (x_test, t_test) = load_digits()
    assert x_train.shape == (1438, 1, 28, 28) and x_test.shape == (359, 1, 28, 28)
    for x, t in ((x_train, t_train), (x_test, t_test)):
        assert x.dtype == np.float32 and x.min() == 0 and x.max() == 1
        assert t.dtype == np.uint8 and t.shape == (len(x),)
        assert not x[:, :, [0, 1, -2, -1], :].any() and not x[:, :, :, [0, 1, -2, -1]].any()

    (x, t), _ = load_digits(normalize=False, flatten=True, one_hot_label=True)
    assert x.dtype == np.uint8 and x.shape == (1438, 784) and x.max() == 255
    assert t.dtype == np.float64 and t.shape == (1438, 10)
    np.testing.assert_array_equal(t.argmax(axis=1), t_train)
    np.testing.assert_array_equal(x_train.reshape(-1, 784), x.astype(np.float32) / np.float32(255))
    assert load_digits(dtype=np.float64)[0][0].dtype == np.float64


def test_digits_are_enlarged_bilinearly():
    images = load_arrays(Path(digits.__file__).with_name("digits.npz"))["images"][:2]
    centre = [Fraction(2 * (o - 4) + 1, 2) * Fraction(8, 20) - Fraction(1, 2) for o in range(28)]
    weight = [[max(0, 1 - abs(c - k)) for k in range(8)] for c in centre]
    for image, enlarged in zip(images, digits._to_28x28(images), strict=True):
        for i in range(28):
            for j in range(28):
                value = sum(
                    weight[i][k] * weight[j][m] * int(image[k, m])
                    for k in range(8)
                    for m in range(8)
                    if weight[i][k] and weight[j][m]
                )
                assert enlarged[i, j] == round(value * 255 / 16)


def test_digits_split_is_stratified_and_complete():
    labels = load_arrays(Path(digits.__file__).with_name("digits.npz"))["labels"]
    counts = np.bincount(labels)
    for fraction in (0.2, 0.5):
        (x_train, t_train), (x_test, t_test) = load_digits(normalize=False, test_fraction=fraction)
        np.testing.assert_array_equal(np.bincount(t_test), [round(fraction * n) for n in counts])
        np.testing.assert_array_equal(np.bincount(t_train) + np.bincount(t_test), counts)
        images = np.concatenate([x_train, x_test]).reshape(-1, 784)
        assert len(np.unique(images, axis=0)) == len(labels)
        assert len(np.unique(t_train[:50])) == 10  # shuffled, not sorted by digit


def test_digits_split_depends_on_the_seed_alone():
    (x, t), (x_test, t_test) = load_digits()
    np.random.seed(1)
    (y, u), (y_test, u_test) = load_digits(seed=0)
    for a, b in ((x, y), (t, u), (x_test, y_test), (t_test, u_test)):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(load_digits(seed=1)[1][0], x_test)
    np.testing.assert_array_equal(t[:10], [2, 5, 5, 2, 1, 3, 3, 5, 4, 3])  # the same in every NumPy


@pytest.mark.parametrize("fraction", [0, 0.001, 1, -0.5, 0.999])
def test_digits_refuse_an_empty_part(fraction):
    with pytest.raises(ValueError, match=f"test_fraction.*found {fraction}"):
        load_digits(test_fraction=fraction)


def test_digits_are_those_of_scikit_learn():
    bunch = pytest.importorskip("sklearn.datasets").load_digits()
    arrays = load_arrays(Path(digits.__file__).with_name("digits.npz"))
    np.testing.assert_array_equal(arrays["images"], bunch.images)
    np.testing.assert_array_equal(arrays["labels"], bunch.target)


def test_load_dataset(tmp_path):
    dataset = load_dataset("digits", flatten=True, dtype=np.float64)
    assert isinstance(dataset, Dataset) and dataset.name == "digits"
    assert dataset.x_train.shape == (1438, 784) and dataset.x_train.dtype == np.float64
    dataset = load_dataset("mnist", data_dir=write_mnist(tmp_path / "data"))
    assert dataset.x_test.shape == (3, 1, 28, 28) and dataset.t_test.shape == (3,)
    with pytest.raises(ValueError, match="expected the data set 'digits' or 'mnist', found 'cifar'"):
        load_dataset("cifar")


def test_import_is_light():
    code = (
        "import sys, fastdl.data\n"
        "print([m for m in ('pooch', 'platformdirs', 'sklearn', 'requests') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr


# The real files


@needs_mnist
def test_real_mnist(monkeypatch):
    monkeypatch.setenv("FASTDL_DATA_DIR", str(DATA_DIR))
    (x_train, t_train), (x_test, t_test) = load_mnist(flatten=False)
    assert x_train.shape == (60_000, 1, 28, 28) and x_test.shape == (10_000, 1, 28, 28)
    assert x_train.dtype == np.float32 and x_train.min() == 0 and x_train.max() == 1
    np.testing.assert_array_equal(t_train[:10], [5, 0, 4, 1, 9, 2, 1, 3, 1, 4])
    np.testing.assert_array_equal(t_test[:10], [7, 2, 1, 0, 4, 1, 4, 9, 5, 9])
    for file, path in mnist._present(DATA_DIR / "mnist").items():
        mnist._verify(path, file)


@needs_book
def test_real_book_pickles():
    shapes = [(16, 1, 3, 3), (16, 16, 3, 3), (32, 16, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3)]
    shapes += [(1024, 50), (50, 10)]
    for year in (2016, 2022):
        params = load_arrays(DATA_DIR / "book" / f"deep_convnet_params_{year}.pkl")
        assert sorted(params) == sorted(f"{kind}{i}" for kind in "Wb" for i in range(1, 9))
        assert all(array.dtype == np.float64 for array in params.values())
        assert [params[f"W{i}"].shape for i in range(1, 9)] == shapes


@needs_book
@needs_mnist
def test_real_weights_recognise_real_images():
    params = load_arrays(DATA_DIR / "book" / "sample_weight.pkl")
    assert all(array.dtype == np.float32 for array in params.values())
    _, (x, t) = load_mnist(data_dir=DATA_DIR)
    for i in (1, 2, 3):
        x = x @ params[f"W{i}"] + params[f"b{i}"]
        x = 1 / (1 + np.exp(-x)) if i < 3 else x
    assert np.mean(x.argmax(axis=1) == t) == 0.9352
