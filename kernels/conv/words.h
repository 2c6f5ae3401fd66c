/* Convolution over words: that of direct/, on factors of fewer bits.
 *
 * 32 bits are a word of WORD_CHANNELS neighbouring channels: 2 of bfloat16 or of 16-bit integers, 4 bytes, 32 bits. In
 * words everything is as in the direct convolution of float32: a chunk's rows of words, padded, in a buffer of the
 * thread; a filter row as one run of S * words; weights as panels of words [K/nr][words/cb][R][S][cb][nr]; tiles that
 * walk over runs (word_tiles.h.in). A step of a tile multiplies and adds WORD_CHANNELS pairs for each lane.
 *
 * Where bytes are words of four and the channels are not, pixels would be padded. They lie close instead (`close`), and the
 * words of a filter row are its S * C bytes, four by four across the pixels, the last with zeros in the weights: 3 words
 * for the rows of a 3x3 filter on one channel, and not 9.
 *
 * The includer defines, beside what word_tiles.h asks for:
 *   WORD_CHANNELS, WORD_SOURCE, WORD_WEIGHT      channels of a word; bytes of an element of the source and of the weight
 *   word_pack(from, stride, n, to)               n elements of the source, `stride` bytes apart, as whole words
 *   word_pack_weight(...)                        the same for the weight
 *   word_table(g, panel, packed)                 whatever the store needs to know about a panel of weights
 *   word_store(g, at, p0, p1, sums)              finishes a run of sums and writes them
 */
#ifndef FASTDL_WORDS_H
#define FASTDL_WORDS_H
#include "chunks.h"
#include "word_tiles.h"

typedef struct {
    direct_call d;           /* reduce and cb count words; the weight's w_reduce is the distance of two channels */
    ptrdiff_t channels;      /* summed channels of a group; the last word may have some missing */
    uint32_t padding;        /* the word that stands for what lies beside the image */
    int close;               /* pixels are `channels` bytes, and words any four of them */
    int keep_rows;           /* filter rows in the padding count too (their words are not 0) */
    ptrdiff_t bias_step;     /* int8: bytes from one bias to the next */
    const fd_tensor *scale;  /* of each output channel, float32, or NULL */
    int zero, out_zero, low; /* int8: what stands for 0 in the source and in the output, and the least output */
    ptrdiff_t bits;          /* binary: channels of a group; `channels` counts words there */
    int32_t *table;          /* of each panel, table_size values for each of its nr channels */
    ptrdiff_t table_size;
} words_call;

/* Where a run of sums belongs: positions p0.. of row q of an image, channels from k0 on, of a panel. */
typedef struct {
    const direct_axis *row, *column;
    ptrdiff_t image, q, k0, n, panel;
} words_place;

static void word_pack(const char *from, ptrdiff_t stride, ptrdiff_t n, uint32_t *to);
static void word_pack_weight(const char *from, ptrdiff_t stride, ptrdiff_t n, uint32_t *to);
static void word_table(const words_call *g, ptrdiff_t panel, const uint32_t *packed);
static void word_store(const words_call *g, const words_place *at, ptrdiff_t p0, ptrdiff_t p1, fd_word_sum *sums);

/* Words of a filter row that meet one pixel, of a block of `wide` words; and bytes of a pixel in it. */
static inline ptrdiff_t words_inner(const words_call *g, const direct_axis *column, ptrdiff_t wide) {
    return g->close ? fd_ceil_div(column->taps * g->channels, WORD_CHANNELS) : column->taps * wide;
}
static inline ptrdiff_t words_pixel(const words_call *g, ptrdiff_t wide) { return g->close ? g->channels : wide * 4; }

static inline void words_fill_run(uint32_t *to, uint32_t word, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) to[i] = word;
}

/* One row of a chunk's source, its pixels close together: columns a..b-1 lie inside the image. */
static void words_fill_close(const words_call *g, const direct_chunk *k, const char *row, ptrdiff_t a, ptrdiff_t b, char *to) {
    const fd_tensor *x = &g->d.source;
    const ptrdiff_t c = g->channels, width = k->columns.count, sc = x->stride[1], sw = x->stride[3];
    memset(to, (int)(g->padding & 0xff), (size_t)(a * c));
    memset(to + b * c, (int)(g->padding & 0xff), (size_t)((width - b) * c));
    if (k->columns.step == k->columns.scale && b > a && (sc == 1 || c == 1) && sw == c) {
        memcpy(to + a * c, row + (k->columns.first + a) * sw, (size_t)((b - a) * c));
        return;
    }
    for (ptrdiff_t j = a; j < b; j++)
        for (ptrdiff_t i = 0; i < c; i++) to[j * c + i] = row[direct_source(&k->columns, j) * sw + i * sc];
}

/* A chunk's source of one group as words, in blocks of cb. */
static void words_fill(const words_call *g, const direct_chunk *k, ptrdiff_t group, uint32_t *to) {
    const fd_tensor *x = &g->d.source;
    const ptrdiff_t words = g->d.reduce, cb = g->d.cb, first = group * g->channels;
    const ptrdiff_t width = k->columns.count, plane = k->images * k->rows.count * width;
    const int whole = g->channels % WORD_CHANNELS == 0, dense = k->columns.step == k->columns.scale;
    const int merged = dense && whole && cb >= words && x->stride[1] == WORD_SOURCE &&
                       x->stride[3] == WORD_SOURCE * g->channels;
    ptrdiff_t left = 0, right = width; /* inside the image */
    while (left < width && direct_source(&k->columns, left) < 0) left++;
    while (right > left && direct_source(&k->columns, right - 1) >= x->shape[3]) right--;
    for (ptrdiff_t n = 0; n < k->images; n++)
        for (ptrdiff_t i = 0; i < k->rows.count; i++) {
            const ptrdiff_t line = (n * k->rows.count + i) * width, y = direct_source(&k->rows, i);
            const int inside = y >= 0 && y < x->shape[2];
            const ptrdiff_t a = inside ? left : width, b = inside ? right : width;
            const char *row = x->data + (k->n0 + n) * x->stride[0] + first * x->stride[1] + y * x->stride[2];
            if (g->close) {
                words_fill_close(g, k, row, a, b, (char *)to + line * g->channels);
                continue;
            }
            for (ptrdiff_t w0 = 0; w0 < words; w0 += cb) {
                const ptrdiff_t wide = fd_min(cb, words - w0), c0 = w0 * WORD_CHANNELS;
                const ptrdiff_t channels = fd_min(wide * WORD_CHANNELS, g->channels - c0);
                uint32_t *at = to + w0 * plane + line * wide;
                words_fill_run(at, g->padding, a * wide);
                words_fill_run(at + b * wide, g->padding, (width - b) * wide);
                if (merged && b > a) {
                    word_pack(row + (k->columns.first + a) * x->stride[3], WORD_SOURCE, (b - a) * channels, at + a * wide);
                    continue;
                }
                for (ptrdiff_t j = a; j < b; j++)
                    word_pack(row + direct_source(&k->columns, j) * x->stride[3] + c0 * x->stride[1], x->stride[1], channels,
                              at + j * wide);
            }
        }
}

/* ---- weights: [class of rows, class of columns][group][panel][block of words][r][s][word][nr] ------------------- */

static inline ptrdiff_t words_weights(const words_call *g, int rc, int cc) {
    const direct_call *d = &g->d;
    return d->groups * d->panels * d->rows[rc].taps * words_inner(g, &d->columns[cc], d->reduce) * d->nr;
}

/* to[words][nr] of one tap: `channels` channels of n <= nr output channels; the rest of each row is zero. */
static void words_pack_panel(const direct_call *d, uint32_t *to, const char *from, ptrdiff_t channels, ptrdiff_t n) {
    const ptrdiff_t nr = d->nr, words = fd_ceil_div(channels, WORD_CHANNELS);
    if (n < nr)
        for (ptrdiff_t i = 0; i < words; i++)
            for (ptrdiff_t j = n; j < nr; j++) to[i * nr + j] = 0;
#if WORD_CHANNELS * WORD_WEIGHT == 4 && WORD_CHANNELS > 1
    if (d->w_produce == WORD_WEIGHT && d->w_reduce != WORD_WEIGHT) { /* contiguous along the output: weave rows */
#if WORD_WEIGHT == 2
        typedef uint16_t element;
#else
        typedef uint8_t element;
#endif
        for (ptrdiff_t i = 0; i < words; i++, to += nr) {
            for (ptrdiff_t j = 0; j < n; j++) to[j] = 0;
            for (ptrdiff_t e = 0; e < fd_min(WORD_CHANNELS, channels - i * WORD_CHANNELS); e++) {
                const element *row = (const element *)(from + (i * WORD_CHANNELS + e) * d->w_reduce);
                for (ptrdiff_t j = 0; j < n; j++) to[j] |= (uint32_t)row[j] << (8 * WORD_WEIGHT * e);
            }
        }
        return;
    }
#endif
    uint32_t run[16];
    for (ptrdiff_t i0 = 0; i0 < words; i0 += 16) {
        const ptrdiff_t many = fd_min(16, words - i0), c0 = i0 * WORD_CHANNELS;
        for (ptrdiff_t j = 0; j < n; j++) {
            word_pack_weight(from + c0 * d->w_reduce + j * d->w_produce, d->w_reduce,
                             fd_min(16 * WORD_CHANNELS, channels - c0), run);
            for (ptrdiff_t i = 0; i < many; i++) to[(i0 + i) * nr + j] = run[i];
        }
    }
}

/* One panel whose words go across pixels: [r][words of a row][nr]. */
static void words_pack_close(const words_call *g, uint32_t *to, const char *from, ptrdiff_t n) {
    const direct_call *d = &g->d;
    const direct_axis *row = &d->rows[0], *column = &d->columns[0];
    const ptrdiff_t inner = words_inner(g, column, 0), nr = d->nr, c = g->channels;
    memset(to, 0, (size_t)(row->taps * inner * nr) * 4);
    for (ptrdiff_t r = 0; r < row->taps; r++)
        for (ptrdiff_t e = 0; e < column->taps * c; e++)
            for (ptrdiff_t j = 0; j < n; j++)
                to[(r * inner + e / WORD_CHANNELS) * nr + j] |=
                    (uint32_t) * (const uint8_t *)(from + j * d->w_produce + e % c * d->w_reduce + r * d->weight.stride[2] +
                                                   e / c * d->weight.stride[3])
                    << (32 / WORD_CHANNELS * (e % WORD_CHANNELS));
}

/* One panel of one group in all classes: 16 words at a time stay in L1 until all taps are picked out. */
static int words_pack_task(void *context, ptrdiff_t index) {
    const words_call *g = (const words_call *)context;
    const direct_call *d = &g->d;
    const ptrdiff_t panel = index % d->panels, group = index / d->panels, nr = d->nr;
    const ptrdiff_t n0 = panel * nr, n = fd_min(nr, d->produce - n0);
    const char *from = d->weight.data + group * d->w_group + n0 * d->w_produce;
    uint32_t *whole = (uint32_t *)d->packed + index * d->rows[0].taps * words_inner(g, &d->columns[0], d->reduce) * nr;
    if (g->close) words_pack_close(g, whole, from, n);
    for (ptrdiff_t w0 = 0; w0 < d->reduce && !g->close; w0 += d->cb)
        for (ptrdiff_t w = 0, wide = fd_min(d->cb, d->reduce - w0); w < wide; w += 16) {
            uint32_t *class_at = (uint32_t *)d->packed;
            const ptrdiff_t c0 = (w0 + w) * WORD_CHANNELS;
            const ptrdiff_t channels = fd_min(fd_min(16, wide - w) * WORD_CHANNELS, g->channels - c0);
            for (int rc = 0; rc < d->row_classes; rc++)
                for (int cc = 0; cc < d->column_classes; cc++) {
                    const direct_axis *row = &d->rows[rc], *column = &d->columns[cc];
                    const ptrdiff_t taps = row->taps * column->taps;
                    uint32_t *to = class_at + (index * d->reduce + w0) * taps * nr;
                    for (ptrdiff_t t = 0; t < taps; t++)
                        words_pack_panel(d, to + (t * wide + w) * nr,
                                         from + c0 * d->w_reduce +
                                             (row->tap + t / column->taps * row->tap_step) * d->weight.stride[2] +
                                             (column->tap + t % column->taps * column->tap_step) * d->weight.stride[3],
                                         channels, n);
                    class_at += words_weights(g, rc, cc);
                }
        }
    word_table(g, index, whole);
    return FD_OK;
}

/* ---- sums ------------------------------------------------------------------------------------------------------- */

/* The filter rows that meet the image at row q. */
static inline void words_rows(const words_call *g, const direct_axis *row, ptrdiff_t q, ptrdiff_t *first, ptrdiff_t *last) {
    const ptrdiff_t y = q * row->scale + row->offset, height = g->d.source.shape[2];
    *first = 0, *last = row->taps;
    if (g->keep_rows) return;
    while (*first < *last && y + *first * row->gap < 0) ++*first;
    while (*last > *first && y + (*last - 1) * row->gap >= height) --*last;
}

/* One panel of output channels at the chunk's positions of one pair of classes. */
static void words_tiles(const words_call *g, const direct_chunk *k, const direct_axis *row, const direct_axis *column,
                        const uint32_t *a, const uint32_t *weights, fd_word_sum *c) {
    const direct_call *d = &g->d;
    const ptrdiff_t width = k->columns.count, plane = k->images * k->rows.count * width, nr = d->nr;
    const ptrdiff_t q1 = fd_min(k->q1, row->count), p1 = fd_min(k->p1, column->count), m = p1 - k->p0;
    const int nv = d->nr > FD_LANES_f32 ? 2 : 1;
    for (ptrdiff_t w0 = 0; w0 < fd_max(d->reduce, 1); w0 += d->cb) {
        const ptrdiff_t wide = fd_min(d->cb, d->reduce - w0), inner = words_inner(g, column, wide);
        const ptrdiff_t pixel = words_pixel(g, wide);
        const uint32_t *b = weights + row->taps * column->taps * w0 * nr;
        fd_word_sum *sums = c;
        for (ptrdiff_t n = 0; n < k->images; n++)
            for (ptrdiff_t q = k->q0; q < q1; q++, sums += m * nr) {
                ptrdiff_t first, last;
                words_rows(g, row, q, &first, &last);
                const ptrdiff_t line = (q - k->q0) * k->rows.step + row->offset - k->rows.low;
                const ptrdiff_t first_pixel = (n * k->rows.count + line) * width + column->offset - k->columns.low;
                const char *at = (const char *)(a + w0 * plane) + first_pixel * pixel;
                const ptrdiff_t down = row->gap * width * pixel, step = k->columns.step * pixel;
                if (column->gap == 1) {
                    fd_word_panel(nv, m, last - first, down, inner, at + first * down, step, b + first * inner * nr, nr, sums,
                                  nr, w0 > 0);
                    continue;
                }
                if (w0 == 0) memset(sums, 0, (size_t)(m * nr) * sizeof *sums);
                for (ptrdiff_t r = first; r < last; r++) /* the taps of a row are no neighbours: each is a run */
                    fd_word_panel(nv, m, column->taps, column->gap * pixel, wide, at + r * down, step, b + r * inner * nr,
                                  nr, sums, nr, 1);
            }
    }
}

static int words_task(void *context, ptrdiff_t index) {
    const words_call *g = (const words_call *)context;
    const direct_call *d = &g->d;
    const ptrdiff_t steps = fd_ceil_div(d->panels, d->panel_step), nr = d->nr;
    const ptrdiff_t panel0 = index % steps * d->panel_step, panel1 = fd_min(panel0 + d->panel_step, d->panels);
    const ptrdiff_t group = index / steps % d->groups;
    const direct_chunk k = direct_chunk_of(d, index / steps / d->groups);
    const ptrdiff_t pixels = k.images * k.rows.count * k.columns.count;
    uint32_t *a = (uint32_t *)rt->push((size_t)(pixels * words_pixel(g, d->reduce)) + 4); /* a last word may reach beyond */
    fd_word_sum *c = (fd_word_sum *)rt->push((size_t)(k.images * (k.q1 - k.q0) * (k.p1 - k.p0) * nr) * sizeof *c);
    const uint32_t *class_at = (const uint32_t *)d->packed;
    if (!a || !c) return FD_NO_MEMORY;
    words_fill(g, &k, group, a);
    for (int rc = 0; rc < d->row_classes; rc++)
        for (int cc = 0; cc < d->column_classes; cc++) {
            const direct_axis *row = &d->rows[rc], *column = &d->columns[cc];
            const ptrdiff_t q1 = fd_min(k.q1, row->count), p1 = fd_min(k.p1, column->count);
            const ptrdiff_t inner = row->taps * words_inner(g, column, d->reduce);
            for (ptrdiff_t panel = panel0; panel < panel1 && p1 > k.p0; panel++) {
                const ptrdiff_t k0 = panel * nr, number = group * d->panels + panel;
                words_place at = {row, column, k.n0, k.q0, group * d->produce + k0, fd_min(nr, d->produce - k0), number};
                fd_word_sum *sums = c;
                words_tiles(g, &k, row, column, a, class_at + number * inner * nr, c);
                for (; at.image < k.n0 + k.images; at.image++)
                    for (at.q = k.q0; at.q < q1; at.q++, sums += (p1 - k.p0) * nr) word_store(g, &at, k.p0, p1, sums);
            }
            class_at += words_weights(g, rc, cc);
        }
    return FD_OK;
}

/* `rate`: multiply-adds of a nanosecond on one thread, about. */
static int words_run(words_call *g, int threads, double rate) {
    direct_call *d = &g->d;
    const size_t mark = rt->mark();
    int status = FD_OK;
    double weights = 0;
    if (d->out.size == 0) return FD_OK;
    d->nr = d->produce > FD_LANES_f32 ? 2 * FD_LANES_f32 : FD_LANES_f32;
    d->panels = fd_ceil_div(d->produce, d->nr);
    g->close = WORD_CHANNELS * WORD_SOURCE == 4 && WORD_SOURCE == 1 && g->channels % WORD_CHANNELS && d->cb >= d->reduce &&
               d->column_classes == 1 && d->columns[0].gap == 1;
    for (int rc = 0; rc < d->row_classes; rc++)
        for (int cc = 0; cc < d->column_classes; cc++) weights += (double)words_weights(g, rc, cc);
    d->packed = rt->push((size_t)weights * 4);
    g->table = (int32_t *)rt->push((size_t)(d->groups * d->panels * d->nr * g->table_size) * 4);
    if (!d->packed || !g->table) status = FD_NO_MEMORY;
    if (!status) status = rt->parallel_for(words_pack_task, g, d->groups * d->panels, threads, weights);
    if (!status)
        status = rt->parallel_for(words_task, g, direct_chunks(d) * d->groups * fd_ceil_div(d->panels, d->panel_step), threads,
                                  (double)d->out.size / (d->row_classes * d->column_classes) * weights * WORD_CHANNELS /
                                      ((double)d->groups * d->panels * d->nr) / rate);
    rt->release(mark);
    return status;
}

/* The place of the first output of a run, and the distance of its neighbours. */
static inline char *words_at(const fd_tensor *t, const words_place *at, ptrdiff_t p0) {
    return t->data + at->image * t->stride[0] + at->k0 * t->stride[1] +
           (at->row->start + at->q * at->row->step) * t->stride[2] + (at->column->start + p0 * at->column->step) * t->stride[3];
}
#endif
