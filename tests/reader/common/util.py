import numpy as np


def smooth_curve(x):
    window = np.kaiser(11, 2)
    mirrored = np.r_[x[10:0:-1], x, x[-1:-11:-1]]
    return np.convolve(window / window.sum(), mirrored, mode="valid")[5 : len(x) + 5]


def shuffle_dataset(x, t):
    order = np.random.permutation(x.shape[0])
    return x[order], t[order]


def conv_output_size(input_size, filter_size, stride=1, pad=0):
    return (input_size + 2 * pad - filter_size) / stride + 1


def _sizes(h, w, filter_h, filter_w, stride, pad):
    return (h + 2 * pad - filter_h) // stride + 1, (w + 2 * pad - filter_w) // stride + 1


def im2col(input_data, filter_h, filter_w, stride=1, pad=0):
    n, c, h, w = input_data.shape
    oh, ow = _sizes(h, w, filter_h, filter_w, stride, pad)
    padded = np.pad(input_data, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.zeros((n, c, filter_h, filter_w, oh, ow))
    for i in range(filter_h):
        for j in range(filter_w):
            windows[:, :, i, j] = padded[:, :, i : i + stride * oh : stride, j : j + stride * ow : stride]
    return windows.transpose(0, 4, 5, 1, 2, 3).reshape(n * oh * ow, -1)


def col2im(col, input_shape, filter_h, filter_w, stride=1, pad=0):
    n, c, h, w = input_shape
    oh, ow = _sizes(h, w, filter_h, filter_w, stride, pad)
    windows = col.reshape(n, oh, ow, c, filter_h, filter_w).transpose(0, 3, 4, 5, 1, 2)
    padded = np.zeros((n, c, h + 2 * pad + stride - 1, w + 2 * pad + stride - 1))
    for i in range(filter_h):
        for j in range(filter_w):
            padded[:, :, i : i + stride * oh : stride, j : j + stride * ow : stride] += windows[:, :, i, j]
    return padded[:, :, pad : h + pad, pad : w + pad]
