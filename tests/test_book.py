"""The book's scripts under fastdl: the same numbers, what is replaced and what is left, what python itself would do.

``reader/`` is a folder as a reader of the book has it, in our own words. It imports nothing but NumPy and itself, so it
has im2col and layers that stand in ``bench/peers`` and in the references too.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

READER = Path(__file__).parent / "reader"
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")


def readers_folder(path):
    shutil.copytree(READER, path, ignore=shutil.ignore_patterns("__pycache__"))
    return path


def put_images(folder):
    """Ten patterns with noise, where the reader's own download would put its images.

    As in MNIST there are margins of zeros and places at 255: filters see the same patch again and again.
    """
    rng = np.random.RandomState(7)
    patterns, found = np.zeros((10, 28, 28)), {}
    patterns[:, 4:24, 4:24] = np.kron(rng.rand(10, 10, 10) > 0.6, np.ones((2, 2)))
    patterns = patterns.reshape(10, 784)
    for part, n in (("train", 500), ("test", 100)):
        t = rng.randint(0, 10, n).astype(np.uint8)
        x = np.minimum(255, 350 * patterns[t] * (0.3 + 0.7 * rng.rand(n, 784)))
        found |= {f"{part}_label": t, f"{part}_img": x.astype(np.uint8)}
    np.savez(folder / "dataset/mnist.npz", **found)


@pytest.fixture
def empty(tmp_path):
    """A reader's folder without images, and no file in it that was not there before."""
    folder = readers_folder(tmp_path / "reader")
    before = contents(folder)
    yield folder
    assert contents(folder) == before


@pytest.fixture
def reader(tmp_path):
    """The same with images."""
    folder = readers_folder(tmp_path / "reader")
    put_images(folder)
    before = contents(folder)
    yield folder
    assert contents(folder) == before


@pytest.fixture
def edited(tmp_path):
    """A folder that a test may change."""
    folder = readers_folder(tmp_path / "edited")
    put_images(folder)
    return folder


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def call(arguments, cwd, **environment):
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "Agg"} | environment
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )


def plain(script, *arguments, **environment):
    """As the reader runs it."""
    return call([script.name, *arguments], script.parent, **environment)


def under_fastdl(script, *arguments, options=(), cwd=None, **environment):
    return call(["-m", "fastdl", "run", *options, script, *arguments], cwd or script.parent, **environment)


def numbers(done):
    assert done.returncode == 0, done.stderr
    return [float(text) for text in NUMBER.findall(done.stdout)]


def assert_same_run(script, *arguments, options=(), tolerance=1e-9):
    expected, found = plain(script, *arguments), under_fastdl(script, *arguments, options=options)
    wanted, got = numbers(expected), numbers(found)
    assert len(wanted) > 2
    np.testing.assert_allclose(got, wanted, rtol=tolerance)
    assert NUMBER.sub("", found.stdout) == NUMBER.sub("", expected.stdout)
    return expected, found


# ---- the same numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("ch04/train_by_differences", ()),
        ("ch05/train_neuralnet", (40,)),
        ("ch06/optimizer_compare_mnist", (25,)),
        ("ch06/batch_norm_test", (12,)),
        ("ch06/overfit_dropout", (8,)),
        ("ch07/train_convnet", (2,)),
        ("ch08/train_deepnet", (12,)),
    ],
)
def test_a_script_prints_what_it_prints(reader, script, arguments):
    """Losses and accuracies; where a script draws a number at its end, the random stream is where it was."""
    assert_same_run(reader / f"{script}.py", *arguments)


@pytest.mark.parametrize(
    "script", ["ch05/gradient_check", "ch07/gradient_check", "ch06/weight_init_activation_histogram"]
)
def test_a_script_prints_exactly_what_it_prints(reader, script):
    """Central differences perturb arrays in place; a script without any of the book's modules."""
    expected, found = plain(reader / f"{script}.py"), under_fastdl(reader / f"{script}.py")
    assert found.stdout == expected.stdout != "", found.stderr
    assert "False" not in found.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("script", "arguments"), [("ch08/train_deepnet", (500,)), ("ch07/train_convnet", (100,))])
def test_five_hundred_steps(reader, script, arguments):
    assert_same_run(reader / f"{script}.py", *arguments)


def test_float32_by_choice(reader):
    """The losses that a script prints stay near."""
    script = reader / "ch08/train_deepnet.py"
    expected, found = plain(script, 8), under_fastdl(script, 8, options=("--dtype", "float32"))
    wanted, got = ([float(line[11:]) for line in lines.stdout.splitlines() if line.startswith("train loss:")]
                   for lines in (expected, found))  # fmt: skip
    assert len(wanted) == 8, expected.stderr
    assert got != wanted
    np.testing.assert_allclose(got, wanted, rtol=2e-3)


def test_saved_and_loaded_parameters(reader, tmp_path):
    """``layer.W = ...`` with other arrays than before; the file is one that plain Python reads."""
    saved = [tmp_path / name for name in ("plain.pkl", "fastdl.pkl")]
    expected = plain(reader / "ch07/train_convnet.py", 1, saved[0])
    found = under_fastdl(reader / "ch07/train_convnet.py", 1, saved[1])
    assert expected.stdout.endswith("True\n")
    assert found.stdout.endswith("True\n"), found.stderr
    theirs, ours = (pickle.loads(path.read_bytes()) for path in saved)
    assert list(theirs) == list(ours)
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype
        np.testing.assert_allclose(ours[name], array, rtol=1e-6, atol=1e-9)


def test_trained_weights(empty):
    """The accuracies that the book's own code gives on the 10,000 images."""
    data = os.environ.get("FASTDL_DATA_DIR")
    if not data:
        pytest.skip("needs FASTDL_DATA_DIR")
    weights = Path(data) / "book/deep_convnet_params_{}.pkl"
    for year, lines in ((2016, "accuracy:0.9935\nrounded:0.9935\n"), (2022, "accuracy:0.9797\nrounded:0.9798\n")):
        done = under_fastdl(empty / "ch08/half_float_network.py", str(weights).format(year))
        assert done.stdout == lines, done.stderr


ATTRIBUTES = """
import os, sys
sys.path.append(os.pardir)
import numpy as np
from common.layers import *
np.random.seed(3)
W, b = np.random.randn(4, 2, 3, 3), np.random.randn(4)
conv, relu, pool = Convolution(W, b, 1, 1), Relu(), Pooling(2, 2)
dense, drop = Affine(np.random.randn(36, 5), np.zeros(5)), Dropout(0.4)
norm = BatchNormalization(np.ones(5), np.zeros(5))
loss = SoftmaxWithLoss()
x = np.random.randn(6, 2, 6, 6).astype(np.float32)
chain = [conv, relu, pool, dense, norm, drop]
out = x
for layer in chain:
    out = layer.forward(out)
print(loss.forward(out, np.eye(5)[[0, 1, 2, 3, 4, 0]]))
dout = loss.backward()
for layer in chain[::-1]:
    same = dout
    dout = layer.backward(dout)
    if layer is relu:
        print(same is dout)
names = ["W b stride pad x col col_W dW db", "mask", "pool_h pool_w stride pad x arg_max",
         "W b x original_x_shape dW db",
         "gamma beta momentum running_mean running_var batch_size input_shape xc xn std dgamma dbeta",
         "mask dropout_ratio"]
for layer, text in [*zip(chain, names), (loss, "loss y t")]:
    for name in text.split():
        value = getattr(layer, name)
        array = np.asarray(value, float)
        kind = (value.dtype, value.shape) if isinstance(value, np.ndarray) else type(value).__name__
        print(name, kind, "%.9e" % (1 + array * np.cos(np.arange(array.size)).reshape(array.shape)).mean())
print(conv.W is W, conv.x is x)
conv.W = 2 * W
print("%.9e" % conv.forward(x).sum(), "%.9e" % dense.forward(pool.forward(x[:, :, :6, :6].repeat(2, 1))).sum())
W *= 3
conv.W = W
print("%.9e" % conv.forward(x).sum())
"""


def test_attributes_that_scripts_read_and_set(edited):
    script = script_of(edited, ATTRIBUTES)
    expected, found = plain(script), under_fastdl(script)
    assert len(expected.stdout.splitlines()) > 40, expected.stderr
    assert found.stdout == expected.stdout, found.stderr


ANOTHER_BOOK = """
import numpy as np


class Affine:
    def __init__(self, W, b):
        self.params = [W, b]
        self.grads = [np.zeros_like(W), np.zeros_like(b)]
        self.x = None

    def forward(self, x):
        self.x = x
        return np.dot(x, self.params[0]) + self.params[1]

    def backward(self, dout):
        self.grads[0][...] = np.dot(self.x.T, dout)
        self.grads[1][...] = dout.sum(axis=0)
        return np.dot(dout, self.params[0].T)


class Sigmoid:
    def __init__(self):
        self.params, self.grads, self.out = [], [], None

    def forward(self, x):
        self.out = 1 / (1 + np.exp(-x))
        return self.out

    def backward(self, dout):
        return dout * (1.0 - self.out) * self.out


class MatMul:
    pass
"""


def test_another_books_common_stays(edited):
    (edited / "common/layers.py").write_text(ANOTHER_BOOK)
    script = script_of(
        edited,
        "import os, sys\nsys.path.append(os.pardir)\nimport numpy as np\nfrom common.layers import *\n"
        "layer = Affine(np.ones((2, 3)), np.zeros(3))\n"
        "print(layer.forward(np.eye(2)), layer.backward(np.ones((2, 3))))\n"
        "print(layer.grads, Sigmoid().forward(np.zeros(2)), MatMul.__module__, Affine.__module__)\n",
    )
    done = under_fastdl(script)
    assert done.stdout == plain(script).stdout != "", done.stderr
    found = outcomes(edited)
    assert not found["Affine"][0]
    assert found["Sigmoid"] == (False, "its numbers are others (attribute grads)")
    assert found["MatMul"] == (False, "fastdl has nothing in its place; what it calls is fastdl's")


def test_copies_and_pickles_of_a_networks_layers(edited):
    """Also under --report, whose clocks are around the classes."""
    text = (
        "import copy, os, pickle, sys\nsys.path.append(os.pardir)\nimport numpy as np\nfrom common.layers import *\n"
        "layer = Affine(np.ones((2, 3)), np.zeros(3))\nx = np.eye(2)\nlayer.forward(x)\n"
        "for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):\n"
        "    other.W *= 2\n"
        "    print(other.forward(x).sum(), layer.forward(x).sum(), other.backward(x @ other.W).sum())\n"
    )
    script = script_of(edited, text)
    for options in ((), ("--report",)):
        done = under_fastdl(script, options=options)
        assert done.stdout == "12.0 6.0 48.0\n12.0 6.0 48.0\n" == plain(script).stdout, done.stderr


def test_float64_convolutions_keep_zeros_and_equal_patches():
    """On which Relu's mask and the ties of Pooling depend; whoever asks for Winograd gets it."""
    from fastdl import backend
    from fastdl.book.layers import Convolution

    rng = np.random.default_rng(0)
    x = np.zeros((2, 16, 20, 20))
    x[:, :, 4:9, 4:9] = rng.standard_normal((2, 16, 5, 5))
    x[:, :, 11:16, 11:16] = x[:, :, 4:9, 4:9]
    layer = Convolution(rng.standard_normal((16, 16, 3, 3)), np.zeros(16), 1, 1)
    out = layer.forward(x)
    assert np.count_nonzero(out[:, :, :3]) == np.count_nonzero(out[:, :, :, 17:]) == 0
    np.testing.assert_array_equal(out[:, :, 3:10, 3:10], out[:, :, 10:17, 10:17])
    if "cython" in backend.available_backends():  # the others have no Winograd
        with backend.conv_algorithm("winograd"):
            assert np.count_nonzero(layer.forward(x)[out == 0]) > 0


# ---- as python runs it ----------------------------------------------------------------------------------------------


def script_of(reader, text, name="ch08/own.py"):
    path = reader / name
    path.write_text(text)
    return path


SCENE = """
import json, os, sys
main = sys.modules["__main__"].__dict__ is globals()
print(json.dumps([__name__, sys.argv, sys.path[0], os.getcwd(), __file__, main]))
"""


def test_path_arguments_and_working_directory(tmp_path):
    """From anywhere as from the script's own folder."""
    script = script_of(tmp_path, SCENE, "scene.py")
    expected = json.loads(plain(script, "--epochs", "3").stdout)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for cwd in (tmp_path, elsewhere):
        done = under_fastdl(script, "--epochs", "3", cwd=cwd)
        assert json.loads(done.stdout) == expected, done.stderr


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("import sys; sys.exit(3)", 3),
        ("raise SystemExit", 0),
        ("import sys; sys.exit('no data')", 1),
        ("1 / 0", 1),
        ("def f(a: missing): pass", 1),
    ],
)
def test_the_exit_status_is_the_scripts(tmp_path, text, status):
    script = script_of(tmp_path, text + "\n", "ends.py")
    expected, found = plain(script), under_fastdl(script)
    assert found.returncode == expected.returncode == status
    assert found.stdout == expected.stdout


def test_a_traceback_shows_the_readers_lines_and_no_others(reader):
    script = script_of(reader, "import sys, os\nsys.path.append(os.pardir)\nimport common.broken\n", "ch08/breaks.py")
    (reader / "common/broken.py").write_text("def f():\n    return {}['missing']\n\nf()\n")
    expected, found = plain(script), under_fastdl(script)
    assert found.returncode == expected.returncode == 1
    assert "KeyError: 'missing'" in found.stderr
    assert "return {}['missing']" in found.stderr
    assert "fastdl" not in found.stderr
    for path in (script, reader / "common/broken.py"):
        path.unlink()


def test_a_syntax_error_is_the_readers(tmp_path):
    done = under_fastdl(script_of(tmp_path, "x = = 1\n", "wrong.py"))
    assert done.returncode == 1
    assert "SyntaxError" in done.stderr
    assert "wrong.py" in done.stderr


@pytest.mark.parametrize(("name", "message"), [("none.py", "there is no script none.py"), (".", "it is a folder")])
def test_a_script_that_is_not_there(tmp_path, name, message):
    done = call(["-m", "fastdl", "run", name], tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_script_without_the_books_modules(tmp_path):
    script = script_of(tmp_path, "print(sum(range(10)))\n", "alone.py")
    assert under_fastdl(script).stdout == "45\n"


def test_options_after_the_script_are_the_scripts(tmp_path):
    script = script_of(tmp_path, "import sys\nprint(sys.argv[1:])\n", "arguments.py")
    done = under_fastdl(script, "--dtype", "x", "-h", "--", "--threads")
    assert done.stdout == plain(script, "--dtype", "x", "-h", "--", "--threads").stdout, done.stderr


# ---- what is replaced -----------------------------------------------------------------------------------------------

OUTCOMES = """
import json, sys
sys.path.insert(0, ".")
import fastdl.book as book
book.install()
import common.functions, common.layers, common.optimizer, common.util, common.trainer
print(json.dumps([[o.module, o.name, o.replaced, o.reason] for o in book.outcomes()]))
"""


def outcomes(folder):
    done = call(["-c", OUTCOMES], folder)
    assert done.returncode == 0, done.stderr
    return {name: (replaced, reason) for _, name, replaced, reason in json.loads(done.stdout)}


def edit(folder, name, old, new):
    path = folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_everything_of_the_book_is_replaced(edited):
    found = outcomes(edited)
    callers = "fastdl has nothing in its place; what it calls is fastdl's"
    assert sum(replaced for replaced, _ in found.values()) == 19
    assert {reason for replaced, reason in found.values() if not replaced} == {callers}
    assert found["cross_entropy_error"] == found["Trainer"] == (False, callers)


#: file, what stands there, what the reader has made of it, whose replacement that prevents, and what is said about it
CHANGES = [
    ("layers", "out[self.mask] = 0", "out[self.mask] *= 0.01", "Relu", "its numbers are others (forward)"),
    ("layers", "+ 10e-7", "+ 1e-5", "BatchNormalization", "its numbers are others"),
    ("layers", "_ratio=0.5", "_ratio=0.4", "Dropout", "its parameters are __init__(self, dropout_ratio=0.4)"),
    ("layers", "class Sigmoid:\n", "class Sigmoid:\n    def f(self):\n        pass\n\n", "Sigmoid", "a method f"),
    ("layers", "class Pooling:\n", "class Pooling:\n    kind = 'max'\n\n", "Pooling", "it has an attribute kind"),
    ("layers", "class Affine:", "class Base:\n    pass\n\n\nclass Affine(Base):", "Affine", "it derives from Base"),
    ("layers", "self.col_W = None\n", "self.calls = 0\n", "Convolution", "its numbers are others (0 attribute calls)"),
    ("layers", "(fn, -1).T\n", "(fn, 7).T\n", "Convolution", "it does not take the probe (ValueError"),
    ("optimizer", "np.sqrt(self.v[key]) + 1e-7", "np.sqrt(self.v[key]) + 1e-8", "Adam", "its numbers are others"),
    ("optimizer", "[key] -= self.lr", "[key] = params[key] - self.lr", "SGD", "its numbers are others (0 W1 in place)"),
    ("util", "= np.zeros((n, c, filter_h", "= np.ones((n, c, filter_h", "im2col", ""),
    ("util", "im2col(input_data, filter_h, filter_w, stride=1", "im2col(input_data, filter_h, filter_w, stride=2",
     "im2col", "its parameters are (input_data"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "name", "reason"), CHANGES)
def test_what_a_reader_has_changed_stays(edited, file, old, new, name, reason):
    edit(edited, f"common/{file}.py", old, new)
    found = outcomes(edited)
    replaced, why = found.pop(name)
    assert replaced == (not reason)
    assert reason in why
    others = {key: value for key, value in found.items() if not value[0] and "nothing in its place" not in value[1]}
    assert not others or name == "im2col", others  # layers that call the reader's own im2col


def test_a_class_from_elsewhere_stays(edited):
    (edited / "common/more.py").write_text("class Relu:\n    pass\n")
    with open(edited / "common/layers.py", "a") as file:
        file.write("\n\nfrom common.more import Relu\n")
    assert outcomes(edited)["Relu"] == (False, "it is defined elsewhere, in common.more")


def test_the_random_stream_is_untouched(edited):
    text = "import numpy as np\nnp.random.seed(5)\nimport sys\nsys.path.insert(0, '.')\n"
    text += "import common.layers\nprint(np.random.rand())\n"
    assert under_fastdl(script_of(edited, text, "own.py")).stdout == plain(edited / "own.py").stdout


INSTALL = """
import sys
sys.path.insert(0, ".")
import fastdl, fastdl.layers, fastdl.optim
import common.layers
theirs = common.layers.Convolution
import fastdl.book as book
book.install()
book.install()
assert common.layers.Convolution is not theirs
assert issubclass(common.layers.Convolution, fastdl.layers.Convolution)
import common.optimizer
assert common.optimizer.Adam is fastdl.optim.Adam
book.uninstall()
book.uninstall()
assert common.layers.Convolution is theirs and common.optimizer.Adam.__module__ == "common.optimizer"
assert book.outcomes() == []
import importlib
importlib.reload(common.layers)
assert common.layers.Convolution.__module__ == "common.layers"
book.install()
importlib.reload(common.layers)
assert common.layers.Relu is fastdl.layers.Relu
import inspect
assert "class Relu" in inspect.getsource(common.layers)
print("good")
"""


def test_install_and_uninstall(edited):
    done = call(["-c", INSTALL], edited)
    assert done.stdout == "good\n", done.stderr


# ---- MNIST ----------------------------------------------------------------------------------------------------------

LOAD = """
import sys, os
sys.path.append(os.pardir)
from dataset.mnist import load_mnist
(x, t), (x2, t2) = load_mnist()
print(x.shape, x.dtype, t.shape, t.dtype, x2.shape, float(x.max()), t2[:3].tolist())
(x, t), _ = load_mnist(flatten=False, normalize=False, one_hot_label=True)
print(x.shape, x.dtype, t.shape, t.dtype, int(x.max()))
"""


def test_mnist_without_a_network(empty):
    data = os.environ.get("FASTDL_DATA_DIR")
    if not data:
        pytest.skip("needs FASTDL_DATA_DIR")
    script = script_of(empty, LOAD)
    assert plain(script).returncode == 1
    done = under_fastdl(script)
    script.unlink()
    assert done.stdout == (
        "(60000, 784) float32 (60000,) uint8 (10000, 784) 1.0 [7, 2, 1]\n"
        "(60000, 1, 28, 28) uint8 (60000, 10) float64 255\n"
    ), done.stderr


def test_without_the_files_the_scripts_own_error(empty, tmp_path):
    script = script_of(empty, LOAD)
    done = under_fastdl(script, FASTDL_DATA_DIR=str(tmp_path), XDG_CACHE_HOME=str(tmp_path), HOME=str(tmp_path))
    script.unlink()
    assert done.returncode == 1
    assert "URLError" in done.stderr


# ---- the report -----------------------------------------------------------------------------------------------------


def test_the_report_says_what_was_replaced_and_where_the_time_went(edited):
    edit(edited, "common/layers.py", "+ 10e-7", "+ 1e-5")
    script = edited / "ch08/train_deepnet.py"
    done, without = under_fastdl(script, 4, options=("--report",)), under_fastdl(script, 4)
    assert done.stdout == without.stdout, done.stderr
    assert "Error" not in without.stderr
    assert without.stderr.count("RuntimeWarning: fastdl runs on") == without.stderr.count("Warning") <= 1
    text = " ".join(done.stderr.split())
    assert "sigmoid, relu, softmax, im2col, col2im, Relu, Sigmoid, Affine" in text.partition("left")[0]
    assert "left common.layers: BatchNormalization: its numbers are others" in text
    rows = {line.split()[0]: line.split()[1:] for line in done.stderr.splitlines() if line.strip()}
    # 6 layers, 4 steps: forward, backward, forward for the loss; 7 batches for accuracies
    assert rows["Convolution"][:2] == ["6", str(6 * (4 * 3 + 5 + 1 + 1))]
    assert rows["Adam"][:2] == ["1", "4"]
    for name in ("Convolution", "Pooling", "Affine", "Dropout", "Relu", "Adam"):
        seconds, plain = float(rows[name][2]), float(rows[name][3])
        assert 0 <= seconds < 60
        assert 0 <= plain < 600
    assert "conv2d forward cython/" in text or "conv2d forward numpy/" in text


def test_the_report_comes_after_a_script_that_fails_too(tmp_path):
    done = under_fastdl(script_of(tmp_path, "raise ValueError('no')\n", "fails.py"), options=("--report",))
    assert done.returncode == 1
    assert done.stderr.index("ValueError: no") < done.stderr.index("replaced  nothing")
