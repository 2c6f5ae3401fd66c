/* Arrays one after the other along an axis, by copying.
 *
 * Axes are ordered by the strides of the output. Those outside the joined axis number the blocks, in each of which the
 * arrays follow each other; those inside belong to the arrays' runs:
 *
 *     channels-last, axis 1    block 0: |a a a|b b|c c c c|  block 1: |a a a|b b|c c c c|  ...   a block is a pixel
 *     NCHW, axis 1             block 0: |a a a a a a a a a a ...|b b b b ...|c c c c ...|  ...   a block is an image
 *
 * A task writes whole blocks, or where a block is large a part of one, so that neighbouring runs of different arrays,
 * which share cache lines, are written shortly after each other. */
#ifndef FASTDL_CONCAT_H
#define FASTDL_CONCAT_H
#include "stream.h"

#define CONCAT_TASK 65536 /* bytes of output in one task, about */

/* The elements of one array that lie in one block; axes merged where memory allows it. */
typedef struct {
    const char *from;
    char *to;
    ptrdiff_t start, size; /* first element within the block, number of elements */
    int ndim;
    ptrdiff_t shape[FD_MAX_DIMS], in[FD_MAX_DIMS], out[FD_MAX_DIMS];
    ptrdiff_t outer[FD_MAX_DIMS]; /* strides from block to block, as concat_call.shape */
} concat_part;

typedef struct {
    concat_part *parts;
    ptrdiff_t count, itemsize;
    int axis, ndim; /* of the output */
    int order[FD_MAX_DIMS], position;  /* axes by stride, the joined one is order[position] */
    ptrdiff_t shape[FD_MAX_DIMS], out[FD_MAX_DIMS]; /* of the axes outside the joined one */
    ptrdiff_t blocks, block_size;      /* in elements */
    ptrdiff_t blocks_per_task, slices; /* one of them is 1 */
    ptrdiff_t slice;                   /* elements */
    int streams;                       /* the output is stored around the caches, where its elements are adjacent */
    fd_tensor to;
} concat_call;

/* Prepares for `count` arrays, whose table is `parts`; concat_add then takes them in turn. */
static void concat_init(concat_call *c, const fd_tensor *out, int axis, concat_part *parts) {
    c->to = *out;
    c->streams = fd_streams(out);
    c->parts = parts;
    c->count = 0;
    c->itemsize = out->itemsize;
    c->axis = axis;
    c->ndim = out->ndim;
    c->blocks = 1;
    c->block_size = 0;
    for (int d = 0; d < out->ndim; d++) {
        int at = d;
        const ptrdiff_t stride = out->stride[d] < 0 ? -out->stride[d] : out->stride[d];
        for (; at > 0; at--) {
            const ptrdiff_t before = out->stride[c->order[at - 1]];
            if ((before < 0 ? -before : before) >= stride) break;
            c->order[at] = c->order[at - 1];
        }
        c->order[at] = d;
    }
    for (c->position = 0; c->order[c->position] != axis; c->position++) {
        const int d = c->order[c->position];
        c->shape[c->position] = out->shape[d];
        c->out[c->position] = out->stride[d];
        c->blocks *= out->shape[d];
    }
}

static void concat_add(concat_call *c, const fd_tensor *a) {
    concat_part *p = &c->parts[c->count++];
    p->from = a->data;
    p->to = c->to.data;
    c->to.data += a->shape[c->axis] * c->to.stride[c->axis];
    for (int i = 0; i < c->position; i++) p->outer[i] = a->stride[c->order[i]];
    p->start = c->block_size;
    p->size = 1;
    p->ndim = 0;
    for (int i = c->position; i < c->ndim; i++) {
        const int d = c->order[i], last = p->ndim - 1;
        const ptrdiff_t n = a->shape[d];
        p->size *= n;
        if (n == 1) continue;
        if (last >= 0 && p->in[last] == a->stride[d] * n && p->out[last] == c->to.stride[d] * n) {
            p->shape[last] *= n;
            p->in[last] = a->stride[d];
            p->out[last] = c->to.stride[d];
        } else {
            p->shape[p->ndim] = n;
            p->in[p->ndim] = a->stride[d];
            p->out[p->ndim++] = c->to.stride[d];
        }
    }
    if (p->ndim == 0) {
        p->shape[0] = 1;
        p->in[0] = p->out[0] = c->itemsize;
        p->ndim = 1;
    }
    c->block_size += p->size;
}

/* Axes outside the joined one that are one step of the same length apart in every array become one. */
static void concat_merge(concat_call *c) {
    int kept = 0;
    for (int i = 0; i < c->position; i++) {
        int merge = kept > 0 && c->out[kept - 1] == c->out[i] * c->shape[i];
        for (ptrdiff_t k = 0; merge && k < c->count; k++)
            merge = c->parts[k].outer[kept - 1] == c->parts[k].outer[i] * c->shape[i];
        if (!merge) kept++;
        c->shape[kept - 1] = merge ? c->shape[kept - 1] * c->shape[i] : c->shape[i];
        c->out[kept - 1] = c->out[i];
        for (ptrdiff_t k = 0; k < c->count; k++) c->parts[k].outer[kept - 1] = c->parts[k].outer[i];
    }
    c->position = kept;
}

#define CONCAT_STRIDED(type)                                                                                          \
    for (ptrdiff_t i = 0; i < n; i++) *(type *)(to + i * out) = *(const type *)(from + i * in)

/* n elements, `in` and `out` bytes apart. */
static inline void concat_copy(const char *restrict from, ptrdiff_t in, char *restrict to, ptrdiff_t out, ptrdiff_t n,
                               ptrdiff_t itemsize, int streams) {
    if (in == itemsize && out == itemsize && streams) fd_stream_copy(to, from, n * itemsize);
    else if (in == itemsize && out == itemsize) memcpy(to, from, (size_t)(n * itemsize));
    else if (itemsize == 1) CONCAT_STRIDED(uint8_t);
    else if (itemsize == 2) CONCAT_STRIDED(uint16_t);
    else if (itemsize == 4) CONCAT_STRIDED(uint32_t);
    else CONCAT_STRIDED(uint64_t);
}

/* Elements first..last-1 of a part, in the block that begins at `from` and `to`. */
static void concat_part_copy(const concat_part *p, const char *from, char *to, ptrdiff_t first, ptrdiff_t last,
                             ptrdiff_t itemsize, int streams) {
    const int inner = p->ndim - 1;
    while (first < last) {
        const char *source = from;
        char *target = to;
        ptrdiff_t rest = first, run = last - first;
        for (int d = inner; d > 0; d--) {
            const ptrdiff_t index = rest % p->shape[d];
            rest /= p->shape[d];
            source += index * p->in[d];
            target += index * p->out[d];
        }
        source += rest * p->in[0];
        target += rest * p->out[0];
        if (inner > 0) run = fd_min(run, p->shape[inner] - first % p->shape[inner]);
        concat_copy(source, p->in[inner], target, p->out[inner], run, itemsize, streams);
        first += run;
    }
}

static int concat_task(void *context, ptrdiff_t task) {
    const concat_call *c = (const concat_call *)context;
    const int inner = c->position - 1;
    const ptrdiff_t first = task / c->slices * c->blocks_per_task, last = fd_min(first + c->blocks_per_task, c->blocks);
    const ptrdiff_t begin = task % c->slices * c->slice, end = fd_min(begin + c->slice, c->block_size);
    for (ptrdiff_t k = 0; k < c->count; k++) {
        const concat_part *p = &c->parts[k];
        const ptrdiff_t a = fd_max(begin - p->start, 0), b = fd_min(end - p->start, p->size);
        if (a >= b) continue;
        for (ptrdiff_t block = first, run; block < last; block += run) {
            const char *from = p->from;
            char *to = p->to;
            ptrdiff_t rest = block;
            run = inner < 0 ? 1 : fd_min(last - block, c->shape[inner] - block % c->shape[inner]);
            for (int d = inner; d >= 0; d--) {
                const ptrdiff_t index = rest % c->shape[d];
                rest /= c->shape[d];
                from += index * p->outer[d];
                to += index * c->out[d];
            }
            for (ptrdiff_t i = 0; i < run; i++) {
                concat_part_copy(p, from, to, a, b, c->itemsize, c->streams);
                if (inner < 0) break;
                from += p->outer[inner];
                to += c->out[inner];
            }
        }
    }
    if (c->streams) fd_stream_end();
    return FD_OK;
}

static int concat_run(concat_call *c, int threads) {
    const double bytes = (double)c->blocks * (double)c->block_size * (double)c->itemsize;
    if (bytes == 0) return FD_OK;
    concat_merge(c);
    c->slice = fd_min(c->block_size, CONCAT_TASK / c->itemsize);
    c->slices = fd_ceil_div(c->block_size, c->slice);
    c->blocks_per_task = c->slices > 1 ? 1 : fd_max(1, CONCAT_TASK / (c->block_size * c->itemsize));
    const ptrdiff_t tasks = fd_ceil_div(c->blocks, c->blocks_per_task) * c->slices;
    return rt->parallel_for(concat_task, c, tasks, threads, 0.1 * bytes);
}
#endif
