"""Files of arrays: .npz archives, and pickles read without running them."""

from __future__ import annotations

import collections
import io
import os
import pickle
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fastdl.data import (
    ArrayFileError,
    RefusedPickleError,
    load_arrays,
    pickles,
    save_arrays,
)

NHWC = np.arange(120.0).reshape(2, 3, 4, 5).transpose(0, 3, 1, 2)
SAMPLES = {
    "float64": np.linspace(-1, 1, 7),
    "float32": np.arange(12, dtype=np.float32).reshape(3, 4),
    "float16": np.array([1, np.inf, np.nan], np.float16),
    "int64": np.array([[-(2**62)]]),
    "uint8": np.arange(256, dtype=np.uint8),
    "bool": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "channels_last": NHWC,
    "sliced": np.arange(20)[::-3],
    "big_endian": np.arange(5, dtype=">i4"),
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.float32(2.5),
    "zero_dim": np.array(7),
    "number": 3,
    "real": -0.5,
    "flag": True,
}


def write(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def assert_same(loaded: dict, expected: dict) -> None:
    assert list(loaded) == list(expected)
    for key, value in expected.items():
        array, value = loaded[key], np.asarray(value)
        assert type(array) is np.ndarray and array.dtype.isnative and array.flags.writeable
        assert array.dtype == value.dtype.newbyteorder("=") and array.shape == value.shape
        np.testing.assert_array_equal(array, value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol(tmp_path, protocol):
    loaded = load_arrays(write(tmp_path / "a.pkl", SAMPLES, protocol))
    assert_same(loaded, SAMPLES)
    assert loaded["fortran"].flags.f_contiguous and not loaded["fortran"].flags.c_contiguous


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.3.0", reason="older NumPy pickles such views as C")
def test_pickle_keeps_channels_last_memory(tmp_path):
    loaded = load_arrays(write(tmp_path / "a.pkl", {"x": NHWC}, 5))
    assert loaded["x"].strides == NHWC.strides


def test_pickles_of_numpy_1_and_of_python_2(tmp_path):
    content = pickle.dumps({"a": np.arange(3.0)}, 2)
    assert b"numpy._core.multiarray" in content
    (tmp_path / "a.pkl").write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert_same(load_arrays(tmp_path / "a.pkl"), {"a": np.arange(3.0)})
    (tmp_path / "b.pkl").write_bytes(
        b"(dS'a'\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\nt"
        b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x07\\xff'\ntbs."
    )
    assert_same(load_arrays(tmp_path / "b.pkl"), {"a": np.array([7, 255], np.uint8)})


@pytest.mark.parametrize("kind", [list, tuple])
def test_pickled_lists_are_numbered(tmp_path, kind):
    loaded = load_arrays(write(tmp_path / "a.pkl", kind([np.zeros(2), np.ones(3)])))
    assert_same(loaded, {"0": np.zeros(2), "1": np.ones(3)})


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


REFUSED = {
    "os.system": Calls(os.system, "echo pwned > pwned"),
    "subprocess.Popen": Calls(subprocess.Popen, "echo pwned > pwned"),
    "eval": Calls(eval, "open('pwned', 'w')"),
    "getattr": Calls(getattr, 1, "real"),
    "bytearray": bytearray(b"x"),
    "OrderedDict": collections.OrderedDict(a=1),
    "complex": 1j,
    "numpy": Calls(np.load, "pwned"),
    "matrix": np.ma.masked_array([1, 2], [True, False]),
    "Calls": Calls,
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", REFUSED)
def test_pickles_that_ask_for_more_are_refused(tmp_path, monkeypatch, name, protocol):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "evil.pkl", {"a": np.zeros(3), "b": REFUSED[name]}, protocol)
    with pytest.raises(pickle.UnpicklingError) as error:
        load_arrays(path)
    assert isinstance(error.value, RefusedPickleError) and isinstance(error.value, ValueError)
    assert str(path) in str(error.value)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Calls(os.system, "true"), f"{os.system.__module__}.system"),
        (Calls(eval, "1"), "builtins.eval"),
        (collections.OrderedDict(), "collections.OrderedDict"),
        (Calls(np.load, "x"), "numpy.load"),
    ],
)
def test_the_refused_name_is_told(tmp_path, value, name):
    with pytest.raises(RefusedPickleError, match=f"asks for {name}"):
        load_arrays(write(tmp_path / "evil.pkl", value))


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize(
    "array",
    [
        np.array([None, "x"], object),
        np.array(["text"]),
        np.array([b"text"]),
        np.array(["2020-01-01"], "datetime64[D]"),
        np.zeros(2, [("a", "f4"), ("b", "i4")]),
        np.zeros(2, "V8"),
    ],
    ids=lambda array: str(array.dtype.kind),
)
def test_arrays_that_are_no_numbers_are_refused(tmp_path, array, protocol):
    with pytest.raises(RefusedPickleError, match=r"a\.pkl: expected a"):
        load_arrays(write(tmp_path / "a.pkl", {"a": array}, protocol))
    np.savez(tmp_path / "a.npz", a=array)
    with pytest.raises(ArrayFileError, match=r"a\.npz: expected"):
        load_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (np.zeros(2), "found an array"),
        (np.dtype("f4"), "found a dtype"),
        ("text", "found a str"),
        (None, "found a NoneType"),
        ({1: np.zeros(2)}, "names of type str, found a int"),
        ({"a": [np.zeros(2)]}, "for 'a', found a list"),
        ({"a": {"b": np.zeros(2)}}, "for 'a', found a dict"),
        ({"a": "text"}, "for 'a', found a str"),
        ({"a": 2**100}, "found 'a' of dtype object"),
        ({"a": np.dtype("f4")}, "for 'a', found a dtype"),
    ],
)
def test_other_content_is_refused(tmp_path, content, found):
    with pytest.raises(ArrayFileError, match=found):
        load_arrays(write(tmp_path / "a.pkl", content))


def test_a_pickle_cannot_change_the_stand_ins(tmp_path):
    before = {name: dict(vars(function)) for name, function in pickles._STAND_INS.items()}
    for module, name in pickles._STAND_INS:
        for state in (b"}Vevil\nI1\ns", b"(N}V__doc__\nVevil\nst", b"(N}V__defaults__\n(tst"):
            (tmp_path / "a.pkl").write_bytes(f"c{module}\n{name}\n".encode() + state + b"b.")
            with pytest.raises(ArrayFileError):
                load_arrays(tmp_path / "a.pkl")
    assert before == {name: dict(vars(function)) for name, function in pickles._STAND_INS.items()}
    assert all(function.__doc__ != "evil" for function in pickles._STAND_INS.values())


def from_buffer(content, shape, order="C", dtype="u1"):
    return Calls(np._core.numeric._frombuffer, content, np.dtype(dtype), shape, order)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (from_buffer(b"12345678", (9,)), "expected 9 bytes for uint8 .9,., found 8"),
        (from_buffer(b"12345678", (2**40, 2**40), dtype="f8"), "expected 9671406556917033397649408 bytes"),
        (from_buffer(b"12345678", (-8,)), r"expected an array's shape, found \(-8,\)"),
        (from_buffer(b"", (0, 2**70)), "damaged"),
        (from_buffer(b"12345678", 8), "expected an array's dtype, shape and order"),
        (from_buffer(b"12345678", (8,), "A"), "expected an array's dtype, shape and order"),
        (from_buffer(7, (8,)), "expected an array's bytes, found a int"),
        (from_buffer("\u1234", (1,)), "damaged.*latin"),
        (Calls(np.ndarray, (1,)), "numpy.ndarray only as a type"),
        (Calls(np._core.multiarray._reconstruct, np.ndarray, (0,), b"b"), "damaged"),
        (Calls(__import__("codecs").encode, "x", "rot13"), "spelt in latin1, found 'rot13'"),
    ],
)
def test_forged_arrays_are_refused(tmp_path, array, message):
    with pytest.raises(ArrayFileError, match=message):
        load_arrays(write(tmp_path / "a.pkl", {"a": array}))


def test_small_files_cannot_fill_the_memory(tmp_path):
    shared = bytes(10_000)
    many = {str(i): from_buffer(shared, (len(shared),)) for i in range(100)}
    with pytest.raises(ArrayFileError, match="the file's own, found 1000000"):
        load_arrays(write(tmp_path / "a.pkl", many))

    deep = ()
    for _ in range(100):
        deep = (deep, deep, deep)
    with pytest.raises(ArrayFileError, match="expected an array's"):
        load_arrays(write(tmp_path / "a.pkl", {"a": from_buffer(b"", deep)}))

    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(10**6))
    with pytest.raises(ArrayFileError, match=r"at most 100000 bytes \(max_bytes\), found 8000"):
        load_arrays(tmp_path / "a.npz", max_bytes=100_000)
    with pytest.raises(ArrayFileError, match=r"at most 100 bytes \(max_bytes\), found"):
        load_arrays(tmp_path / "a.pkl", max_bytes=100)
    assert load_arrays(tmp_path / "a.npz")["a"].shape == (10**6,)


def test_forged_npz_archives_are_refused(tmp_path):
    path = tmp_path / "a.npz"

    def forge(name: str, content: bytes) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, content)

    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.arange(4.0))
    forge("a.npy", buffer.getvalue())
    assert_same(load_arrays(path), {"a": np.arange(4.0)})
    for name, content, message in (
        ("a.npyx", buffer.getvalue(), "expected an archive of .npy files, found 'a.npyx'"),
        ("a.npy", buffer.getvalue() + b"x", "expected nothing after the array 'a'"),
        ("a.npy", buffer.getvalue()[:-1], "damaged"),
        ("a.npy", buffer.getvalue().replace(b"(4,), ", b"(4" + b"0" * 15 + b",), ")[:-15], "damaged"),
        ("a.npy", b"text", "damaged"),
    ):
        forge(name, content)
        with pytest.raises(ArrayFileError, match=f"a.npz: .*{message}"):
            load_arrays(path)


@pytest.mark.parametrize("kind", ["npz", "pickle 0", "pickle 4", "pickle 5"])
def test_damaged_files_give_clear_errors(tmp_path, kind):
    path = tmp_path / "a"
    arrays = {"W": np.arange(6.0).reshape(2, 3), "b": np.zeros(3, np.float32)}
    if kind == "npz":
        save_arrays(path, arrays)
    else:
        write(path, arrays, int(kind[-1]))
    content = path.read_bytes()
    for cut in range(len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(ArrayFileError, match=str(path)):
            load_arrays(path)

    rng = np.random.default_rng(0)
    for _ in range(500):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), rng.integers(1, 4)):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            loaded = load_arrays(path, max_bytes=2**20)
        except ArrayFileError:
            continue
        assert all(array.dtype.kind in "biufc" for array in loaded.values())


def test_other_files_give_clear_errors(tmp_path):
    for content in (
        b"",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"\x93NUMPY",
        b"<html>",
        bytes(100),
    ):
        (tmp_path / "a.pkl").write_bytes(content)
        with pytest.raises(ArrayFileError, match=f"a.pkl: expected an .npz archive.*found {len(content)} bytes"):
            load_arrays(tmp_path / "a.pkl")
    with pytest.raises(FileNotFoundError):
        load_arrays(tmp_path / "absent.npz")


ARRAYS = {key: np.asarray(value) for key, value in SAMPLES.items()}


def test_save_and_load(tmp_path):
    names = {
        "file": np.ones(2),
        "allow_pickle": np.ones(3),
        "a": np.ones(4),
        "a.npy": np.ones(5),
        "b/0/W": NHWC,
    }
    for arrays in ({}, ARRAYS, names):
        save_arrays(tmp_path / "a", arrays)  # no ending is added, and none is needed
        assert_same(load_arrays(str(tmp_path / "a")), arrays)
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
    save_arrays(tmp_path / "a", ARRAYS)
    with np.load(tmp_path / "a") as archive:
        assert_same({key: archive[key].astype(archive[key].dtype.newbyteorder("=")) for key in archive}, ARRAYS)
    np.savez_compressed(tmp_path / "b.npz", **ARRAYS)
    assert_same(load_arrays(tmp_path / "b.npz"), ARRAYS)


def test_content_and_not_the_ending_decides(tmp_path):
    save_arrays(tmp_path / "a.pkl", {"a": np.ones(2)})
    write(tmp_path / "a.npz", {"a": np.ones(2)})
    assert_same(load_arrays(tmp_path / "a.pkl"), load_arrays(tmp_path / "a.npz"))


def test_equal_arrays_give_equal_files(tmp_path):
    save_arrays(tmp_path / "a", ARRAYS)
    save_arrays(tmp_path / "b", ARRAYS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(("module", "function"), [(os, "replace"), (os, "fsync"), (np.lib.format, "write_array")])
@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch, module, function, failure):
    path = tmp_path / "a.npz"
    save_arrays(path, {"a": np.ones(2)})

    def fail(*_, **__):
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(module, function, fail)
        with pytest.raises(type(failure)):
            save_arrays(path, {"a": np.zeros(2)})
    assert_same(load_arrays(path), {"a": np.ones(2)})
    assert list(tmp_path.iterdir()) == [path]


def test_save_refuses_what_cannot_be_read_back(tmp_path):
    for arrays, message in (
        ({"a": np.array([None])}, "found 'a' of object"),
        ({"a": np.array(["x"])}, "found 'a' of <U1"),
        ({1: np.ones(2)}, "expected names of type str, found 1"),
    ):
        with pytest.raises(TypeError, match=f"a.npz: .*{message}"):
            save_arrays(tmp_path / "a.npz", arrays)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="file modes are a POSIX matter")
def test_saved_files_have_ordinary_permissions(tmp_path):
    save_arrays(tmp_path / "a", {})
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode
