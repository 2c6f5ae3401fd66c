"""The grid of every op: its axes, and how a case is made from their values."""

from __future__ import annotations

from ..cases import Spec
from .elements import (
    OPTIMIZERS,
    activation,
    add,
    cast,
    cast_axes,
    concat,
    concat_axes,
    dropout,
    dropout_axes,
    elementwise_axes,
    optimizer,
    optimizer_axes,
    unscale,
    unscale_axes,
)
from .fewer_bits import (
    binary_axes,
    byte_window_axes,
    byte_windows,
    conv_binary,
    conv_int8,
    dequantize,
    int8_axes,
    pack,
    pack_axes,
    quantize,
    quantize_axes,
    words,
)
from .products import conv, conv_axes, gemm, gemm_axes
from .rows import (
    batch_axes,
    batch_derive,
    batch_norm,
    cross_entropy,
    local_axes,
    local_norm,
    rows_axes,
    softmax,
    softmax_derive,
)
from .windows import columns, global_axes, global_pool, pool, pool_derive, window_axes

#: enough elements for several tasks on several threads
_MANY = ("shape=2x65x60x50,order=nhwc,out_order=nhwc", "shape=3x40x70x33,order=gaps,out_order=sliced")
_MANY_ROWS = (
    "rows=700,classes=100,order=nchw,out_order=nchw",
    "rows=3000,classes=10,order=gaps,out_order=nhwc,values=wide",
    "rows=9,classes=1040,order=nchw,out_order=nchw",
    "rows=3,classes=5003,order=nchw,out_order=gaps,values=wide",
)
_MANY_WINDOWS = (
    "size=3x41x37,channels=33,order=nhwc,out_order=nhwc,kernel=3x2,stride=2x1,pads=1x1x0x1",
    "size=4x28x30,channels=17,order=nchw,out_order=nhwc,kernel=2x2,stride=2x2,values=few,indices=yes",
    "size=1x23x25,channels=5,kernel=17x16,stride=2x3,pads=3x9x8x1,values=integers",
    "size=1x23x25,channels=5,kernel=17x16,stride=2x3,pads=3x9x8x1,values=few,indices=yes",
    "size=3x7x7,channels=150,order=nhwc,out_order=nhwc,kernel=7x7",
    "size=3x20x21,channels=40,order=nhwc,out_order=nhwc,kernel=3x3,stride=2x2,ceil_mode=yes,values=special,indices=yes",
    "size=2x13x12,channels=70,order=nhwc,out_order=nhwc,kernel=3x3,stride=1x1,pads=1x1x1x1,values=few,indices=yes",
    "size=2x13x12,channels=70,order=nhwc,out_order=nhwc,kernel=3x3,stride=2x2,pads=1x0x0x1,values=special,indices=no",
)
_LAST = "channels=64,order=nhwc,out_order=nhwc"
#: Windows of an image that kernels have code of their own for.
_USUAL_WINDOWS = (f"kernel=2x2,stride=2x2,{_LAST}", f"kernel=3x3,stride=2x2,{_LAST}", f"kernel=5x3,{_LAST}")
_LARGE_CONV = (
    "values=integers,size=4x14x13,channels=64x40,kernel=3x3,pads=1x1x1x1,order=nhwc,out_order=nhwc,w_order=nchw",
    "values=wide,size=2x14x13,channels=65x33,kernel=3x3,stride=1x1,pads=2x2x2x2,order=nhwc,out_order=nchw,w_order=nhwc",
    "values=normal,size=3x21x17,channels=3x16,kernel=5x4,stride=2x1,pads=2x2x2x2,order=nchw,out_order=nhwc",
    "values=integers,size=8x28x28,channels=1x16,kernel=3x3,pads=1x1x1x1,order=nchw,out_order=nhwc",
    # few channels, several blocks of input pixels, more columns than a block has
    "values=normal,size=1x71x270,channels=4x40,kernel=5x3,stride=2x3,pads=2x1x3x0,order=nchw,out_order=nhwc",
    "values=integers,size=1x90x20,channels=2x64,kernel=3x3,pads=1x1x1x1,order=nhwc,out_order=nhwc",
    "values=wide,size=1x9x9,channels=130x7,kernel=3x3,order=nhwc,out_order=nhwc",
    "values=integers,size=2x12x10,channels=300x64,kernel=1x1,order=nhwc,out_order=nhwc",
    "values=integers,size=2x5x7,channels=1024x48,kernel=1x1,order=nhwc,out_order=nhwc",
    "values=integers,size=2x5x7,channels=41x1024,kernel=1x1,order=nhwc,out_order=nhwc",
    "values=wide,size=2x17x16,channels=33x1,kernel=3x3,groups=depth,stride=2x1,pads=1x1x1x1,order=nhwc,out_order=nhwc",
    "values=normal,size=3x13x70,channels=33x40,kernel=5x5,pads=2x2x2x2,order=nhwc,out_order=nhwc",
    "values=normal,size=16x2x6,channels=64x40,kernel=3x3,pads=1x1x1x1,order=nhwc,out_order=nhwc",
    "values=normal,size=3x13x70,channels=33x40,kernel=3x3,pads=1x1x1x1,order=nhwc,out_order=nhwc",
    "values=normal,size=6x30x29,channels=130x129,kernel=3x3,pads=0x0x0x0,order=nhwc,out_order=nhwc",
    "values=integers,size=2x11x12,channels=17x19,kernel=3x3,groups=3,dilation=2x2,pads=2x2x2x2,order=nhwc,out_order=nhwc",
    # 1x1, several blocks; three in a row, so that every third case has one
    "values=wide,size=3x19x11,channels=65x33,kernel=1x1,order=nhwc,out_order=nhwc,w_order=nhwc",
    "values=integers,size=1x29x30,channels=31x300,kernel=1x1,order=nhwc,out_order=nhwc",
    "values=normal,size=40x7x6,channels=17x16,kernel=1x1,order=nhwc,out_order=nhwc,w_order=gaps",
    # strides, rows cut into pieces, images put together, a filter narrower than the stride
    "values=integers,size=2x31x29,channels=70x65,kernel=3x3,stride=2x2,pads=1x1x1x1,order=nhwc,out_order=nhwc",
    "values=wide,size=1x5x300,channels=200x33,kernel=3x3,pads=1x1x1x1,order=nhwc,out_order=nhwc,stride=1x2",
    "values=integers,size=70x5x4,channels=33x17,kernel=2x3,pads=1x0x1x1,order=nhwc,out_order=nhwc",
    "values=wide,size=2x40x37,channels=40x70,kernel=2x1,stride=3x3,pads=0x1x2x0,order=nhwc,out_order=nhwc",
    # backward_input: the first rows and columns meet no tap of the filter
    "values=integers,size=2x7x5,channels=12x16,kernel=1x1,stride=2x2,pads=1x1x1x1,order=nhwc,out_order=nhwc",
    # first layers: several panels of output channels, rows longer than a block, runs of taps longer than a tile
    "values=integers,size=2x40x37,channels=3x50,kernel=11x11,stride=4x4,pads=2x2x2x2,order=nhwc,out_order=nhwc",
    "values=wide,size=1x12x560,channels=2x64,kernel=7x7,stride=2x2,pads=3x3x3x3,order=nchw,out_order=nhwc",
    "values=normal,size=3x34x33,channels=4x96,kernel=5x5,dilation=2x3,order=nhwc,out_order=nhwc,w_order=nhwc",
    "values=integers,size=2x60x61,channels=3x16,kernel=3x3,pads=1x1x1x1,order=nchw,out_order=nchw",
    # depthwise: rows longer than a block, whole vectors and not, every kind of phase
    "values=wide,size=2x9x150,channels=40x1,kernel=3x3,groups=depth,pads=1x1x1x1,order=nhwc,out_order=nhwc",
    "values=integers,size=2x23x27,channels=96x1,kernel=5x5,groups=depth,stride=2x2,pads=2x2x2x2,order=nhwc,out_order=nhwc",
    "values=normal,size=1x31x14,channels=64x1,kernel=7x7,groups=depth,pads=3x3x3x3,order=nhwc,out_order=nhwc",
    "values=integers,size=2x15x16,channels=32x1,kernel=3x3,groups=depth,stride=4x3,dilation=2x2,order=nhwc,out_order=nhwc",
    # and in strips: several of them, one after another, pixels that share few sets of L1, windows beside the image
    "values=integers,size=2x20x33,channels=40x1,kernel=3x3,groups=depth,stride=1x1,pads=1x1x1x1,order=nhwc,out_order=nhwc",
    "values=wide,size=1x21x30,channels=64x1,kernel=3x3,groups=depth,stride=2x2,pads=1x1x1x1,order=nhwc,out_order=nhwc",
    "values=integers,size=2x20x19,channels=512x1,kernel=3x3,groups=depth,stride=2x2,pads=1x1x1x1,order=nhwc,out_order=nhwc",
    "values=normal,size=1x19x8,channels=528x1,kernel=3x3,groups=depth,stride=2x2,pads=0x1x0x1,order=nhwc,out_order=nhwc",
    "values=integers,size=2x7x9,channels=512x1,kernel=3x3,groups=depth,stride=1x1,pads=0x1x1x0,order=nhwc,out_order=nhwc",
)
#: what the depthwise strips are for
_STRIPS = "kernel=3x3,groups=depth,dilation=1x1,pads=1x1x1x1,order=nhwc,out_order=nhwc"
#: several blocks of channels, several chunks, several panels
_LARGE_WORDS = (
    "size=3x14x13,channels=300x70,kernel=3x3,pads=1x1x1x1,stride=1x1,dilation=1x1,order=nhwc,out_order=nhwc,w_order=nhwc",
    "size=2x41x60,channels=33x40,kernel=3x3,pads=2x1x0x3,stride=2x1,dilation=1x1,order=nhwc,out_order=nchw",
    "size=1x1x300,channels=4100x33,kernel=1x1,order=nhwc,out_order=nhwc,groups=1,pads=0x0x0x0,stride=1x1,dilation=1x1",
    "size=2x20x33,channels=40x64,kernel=3x3,pads=2x2x2x2,stride=1x1,dilation=2x2,order=nhwc,out_order=nhwc,groups=2",
)
_LARGE_PARAMETERS = ("shapes=400x500+1+33x3x3x3,order=nchw", "shapes=300x301+77,order=gaps,values=small")

SPECS: dict[str, Spec] = {
    "im2col": Spec(
        window_axes("im2col"),
        columns,
        (*_MANY_WINDOWS[:3], "size=3x40x41,channels=3,kernel=7x7,order=nchw,out_order=nchw"),
        signed=True,
    ),
    "col2im": Spec(window_axes("col2im"), columns, _MANY_WINDOWS[:3]),
    "gemm": Spec(
        gemm_axes,
        gemm,
        (
            "values=integers,m=300,k=600,n=65,order=nchw,b_order=nchw,out_order=nchw",
            "values=wide,m=257,k=1100,n=300,order=nhwc,b_order=nhwc,out_order=nchw",
            "values=normal,m=513,k=96,n=33,order=gaps,b_order=reversed,out_order=nhwc",
        ),
    ),
    "conv2d": Spec(
        conv_axes,
        conv,
        (*_LARGE_CONV, "size=9x41x37,channels=65", "size=9x41x37,channels=3,values=wide"),
        corners=(
            "kernel=3x3,stride=1x1,dilation=1x1",
            "kernel=5x5,stride=1x1,dilation=1x1",
            f"{_STRIPS},stride=1x1",
            f"{_STRIPS},stride=2x2",
        ),
    ),
    "max_pool2d": Spec(
        window_axes("max_pool2d"),
        pool,
        _MANY_WINDOWS,
        pool_derive,
        (*(f"{text},dilation=1x1" for text in _USUAL_WINDOWS), f"kernel=5x3,dilation=2x3,{_LAST}"),
        signed=True,
    ),
    "avg_pool2d": Spec(window_axes("avg_pool2d"), pool, _MANY_WINDOWS, corners=_USUAL_WINDOWS),
    "global_avg_pool2d": Spec(
        global_axes,
        global_pool,
        (
            "size=5x41x37,channels=65,order=nhwc,out_order=nhwc",
            "size=9x41x37,channels=3",
            "size=2x12x13,channels=300,order=nhwc",
            "size=1x41x37,channels=64,order=nhwc,out_order=nhwc",
        ),
        corners=(_LAST,),
    ),
    "batch_norm": Spec(
        batch_axes,
        batch_norm,
        (
            "shape=4x33x31x30,order=nhwc,out_order=nhwc",
            "shape=2000x17",
            "shape=4x33x31x30,values=shifted",
            "shape=30x3000",
            # several chunks of rows, and many
            "shape=1x64x50x61,order=nhwc,out_order=nhwc",
            "shape=20000x64,order=nchw,out_order=nchw,values=shifted",
            "shape=5x3x40x48,order=nchw,out_order=nchw",
        ),
        batch_derive,
        (
            "shape=2x64x6x7,order=nhwc,out_order=nhwc",
            "shape=300x64,order=nchw,out_order=nchw",
            "shape=3x5x8x6,order=nchw,out_order=nchw",
        ),
    ),
    "local_response_norm": Spec(
        local_axes,
        local_norm,
        ("size=2x31x30,channels=65,order=nhwc,out_order=nhwc", "size=2x31x30,channels=33"),
        corners=(_LAST,),
    ),
    "relu": Spec(elementwise_axes, activation, _MANY, signed=True),
    "relu6": Spec(elementwise_axes, activation, _MANY, signed=True),
    "sigmoid": Spec(elementwise_axes, activation, _MANY),
    "tanh": Spec(elementwise_axes, activation, _MANY),
    "add": Spec(elementwise_axes, add, _MANY, signed=True),
    "concat": Spec(concat_axes, concat, ("shape=4x3x40x50,parts=64+32+33,order=nhwc,out_order=nhwc",), signed=True),
    "softmax": Spec(rows_axes, softmax, _MANY_ROWS, softmax_derive),
    "softmax_cross_entropy": Spec(rows_axes, cross_entropy, _MANY_ROWS, softmax_derive),
    "dropout": Spec(dropout_axes, dropout, (*_MANY, "shape=390001", "shape=390001,seed=1,step=4294967296")),
    "cast": Spec(
        cast_axes,
        cast,
        (*_MANY, "shape=65536,values=bits,source=float16", "shape=65536,values=bits,source=bfloat16"),
        signed=True,
    ),
    "quantize": Spec(quantize_axes, quantize, _MANY),
    "dequantize": Spec(quantize_axes, dequantize, _MANY),
    "conv2d_int8": Spec(int8_axes, conv_int8, _LARGE_WORDS, corners=("pads=1x1x1x1,order=nhwc,out_order=nhwc",)),
    "conv2d_binary": Spec(
        binary_axes, conv_binary, _LARGE_WORDS, words, corners=("pads=1x1x1x1,order=nhwc,out_order=nhwc",)
    ),
    "max_pool2d_int8": Spec(byte_window_axes, byte_windows, ("size=3x41x37,channels=65,order=nhwc,out_order=nhwc",)),
    "pack_bits": Spec(pack_axes, pack, ("size=3x41x37,channels=65,order=nhwc,out_order=nhwc",)),
    **{op: Spec(optimizer_axes(op), optimizer, _LARGE_PARAMETERS) for op in OPTIMIZERS},
    "unscale": Spec(unscale_axes, unscale, (*_LARGE_PARAMETERS[:1], "shapes=300x301+77,order=gaps,values=rare")),
}
