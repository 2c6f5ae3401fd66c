// batch_norm: x is a matrix of rows (pixels of all images) and channels. A thread has J channels of a row or, with
// PIXELS, where the pixels of a channel are beside each other, J rows of one channel: 16 bytes, or one element of any
// array. The sums have the same order in all three cases, so that it does not depend on how arrays are aligned.
//
//     sums (chunks of rows) -> join, where there are many chunks -> map, which begins by finishing the sums
#pragma once
#include "image.cuh"
#include "sums.cuh"

constexpr int FEW = 8; // chunks that the map joins itself; as in _cuda.py

// Where rows are: in images of `plane` rows, in lines of `width`.
struct Rows {
    i64 rows;
    Divisor plane, width;
};

// Where a thread has several channels, a row is `pixel` bytes behind the last one, whatever the image; where it has
// several pixels, a line is behind the last one.
template <int J, bool PIXELS> DEVICE u8 *row_at(const Rows &r, const Image &x, i64 row, int channel) {
    u8 *first = x.at + channel * x.channel;
    if (J == 1 || PIXELS) first += split_long(row, r.plane) * x.image;
    if (J == 1) first += split_long(row, r.width) * x.line;
    return first + row * x.pixel;
}

// A block's columns and rows.
struct Tiling {
    int lanes, channels;
    i64 chunk;
    int chunks;
};

// A vector with an element of any float dtype for each channel.
struct Vector {
    u8 *at;
    i64 stride;
    int kind; // 0 float32, 1 float64, 2 float16, 3 bfloat16
};

DEVICE double get(const Vector &v, int i) {
    const u8 *p = v.at + i * v.stride;
    if (v.kind == 0) return *(const float *)p;
    if (v.kind == 1) return *(const double *)p;
    return v.kind == 2 ? widen(*(const f16 *)p) : widen(*(const bf16 *)p);
}

DEVICE void put(const Vector &v, int i, double value) {
    u8 *p = v.at + i * v.stride;
    if (v.kind == 0)
        *(float *)p = float(value);
    else if (v.kind == 1)
        *(double *)p = value;
    else if (v.kind == 2)
        *(f16 *)p = narrow<f16>(value);
    else
        *(bf16 *)p = narrow<bf16>(value);
}

// Two sums of a channel: of x and of squares about the mean, or of dout and of dout (x - mean).
struct alignas(16) Pair {
    double sum, other;
};

struct BatchSums {
    Rows rows;
    Tiling tiling;
    Image x, dout;
    Vector mean;  // backward
    Pair *totals; // (channels, chunks)
};

// Which rows and channels a thread has.
template <int J, bool PIXELS> struct Share {
    static constexpr int CHANNELS = PIXELS ? 1 : J;
    i64 begin; // of the block's rows
    int rows;
    int lane, row, step; // of the thread: its column and first row in the block, rows from one load to the next
    int channel;
    DEVICE Share(const Tiling &t, i64 all) {
        begin = i64(BLOCK_Y) * t.chunk, rows = int(least(t.chunk, all - begin));
        lane = THREAD & (t.lanes - 1), row = int(THREAD) / t.lanes * (J / CHANNELS);
        step = SUM_THREADS / t.lanes * (J / CHANNELS);
        channel = (int(BLOCK_X) * t.lanes + lane) * CHANNELS;
    }
    // Of `loads` rows from `row` on, those that there are; and the i-th of them, or the first instead of one too many.
    DEVICE int valid(int row, int loads) const {
        int n = 0;
        UNROLL for (int i = 0; i < loads; i++) n += row + i * step < rows;
        return n;
    }
    DEVICE i64 at(int row, int i, int valid) const { return begin + (i < valid ? row + i * step : row); }
};

// Sums and squares of `count` rows, joined with those of `more` rows: sums s of x - k and q of its squares.
struct Joiner {
    double more, by_more, by_count, weight;
    DEVICE Joiner(double count, double rows)
        : more(rows), by_more(1 / rows), by_count(1 / most(count, 1.0)), weight(count * rows / (count + rows)) {}
    DEVICE void join(double k, double s, double q, double &sum, double &square) const {
        const double own = k * more + s, rest = q - s * s * by_more, delta = fma_of(own, by_more, -times(sum, by_count));
        square += (rest < 0 ? 0 : rest) + delta * delta * weight;
        sum += own;
    }
};

// Stores the sums of a block; `kept` has them in the order of the threads.
template <int CH> DEVICE void store_totals(const BatchSums &a, const double *sums, const double *others) {
    if (THREAD >= a.tiling.lanes * CH) return;
    const int channel = int(BLOCK_X) * a.tiling.lanes * CH + int(THREAD);
    if (channel >= a.tiling.channels) return;
    const int from = THREAD % CH * SUM_THREADS + THREAD / CH;
    store(a.totals + i64(channel) * a.tiling.chunks + BLOCK_Y, Pair{sums[from], others[from]});
}

template <int J, bool PIXELS> DEVICE void batch_moments(const BatchSums &a) {
    constexpr int LOADS = 8, PANELS = 4; // at once; and of these until the sums go on in float64, about another centre
    SHARED(double, sums, J *SUM_THREADS);
    SHARED(double, squares, J *SUM_THREADS);
    SHARED(S, centres, J *SUM_THREADS);
    const Share<J, PIXELS> own(a.tiling, a.rows.rows);
    int count = 0;
    // A thread's own sums and centres are in shared memory, and not in 40 registers.
    UNROLL for (int j = 0; j < J; j++) sums[j * SUM_THREADS + THREAD] = squares[j * SUM_THREADS + THREAD] = 0;
    if (own.channel < a.tiling.channels) {
        S part[J] = {}, part_square[J] = {};
        int panel = 0, inside = 0; // rows of the current centre
        for (int row = own.row; row < own.rows; row += LOADS * own.step) {
            Held<T, J> v[LOADS];
            const int valid = own.valid(row, LOADS);
            UNROLL for (int i = 0; i < LOADS; i++)
                v[i] = load<Held<T, J>>(row_at<J, PIXELS>(a.rows, a.x, own.at(row, i, valid), own.channel));
            UNROLL for (int j = 0; j < J; j++) {
                S d[LOADS], &centre = centres[j * SUM_THREADS + THREAD];
                if (panel == 0) { // the centre: the mean of these rows; 0 where that is not finite
                    UNROLL for (int i = 0; i < LOADS; i++) d[i] = i < valid ? widen(v[i].get(j)) : S(0);
                    const S mean = tree(d) / S(valid);
                    centre = mean - mean == 0 ? mean : S(0);
                }
                const S near = centre;
                UNROLL for (int i = 0; i < LOADS; i++) d[i] = i < valid ? widen(v[i].get(j)) - near : S(0);
                part_square[j] += tree_of_products(d, d);
                part[j] += tree(d);
            }
            inside += valid;
            if (++panel < PANELS && row + LOADS * own.step < own.rows) continue;
            const Joiner joiner(count, inside);
            UNROLL for (int j = 0; j < J; j++) {
                const int at = j * SUM_THREADS + THREAD;
                joiner.join(centres[at], part[j], part_square[j], sums[at], squares[at]);
                part[j] = part_square[j] = 0;
            }
            count += inside, inside = panel = 0;
        }
    }
    double mean[J];
    UNROLL for (int j = 0; j < J; j++) mean[j] = sums[j * SUM_THREADS + THREAD] * (1 / double(most(count, 1)));
    sum_rows<J, PIXELS>(sums, a.tiling.lanes);
    const double by = 1 / double(own.rows);
    UNROLL for (int j = 0; j < J; j++) {
        const double away = mean[j] - sums[(PIXELS ? 0 : j * SUM_THREADS) + own.lane] * by;
        if (count > 0) squares[j * SUM_THREADS + THREAD] += count * away * away;
    }
    sum_rows<J, PIXELS>(squares, a.tiling.lanes);
    store_totals<Share<J, PIXELS>::CHANNELS>(a, sums, squares);
}

template <int J, bool PIXELS> DEVICE void batch_gradients(const BatchSums &a) {
    constexpr int LOADS = 4, PANELS = 8; // of two arrays
    SHARED(double, sums, J *SUM_THREADS);
    SHARED(double, products, J *SUM_THREADS);
    const Share<J, PIXELS> own(a.tiling, a.rows.rows);
    UNROLL for (int j = 0; j < J; j++) sums[j * SUM_THREADS + THREAD] = products[j * SUM_THREADS + THREAD] = 0;
    if (own.channel < a.tiling.channels) {
        S mean[J], part[J] = {}, part_product[J] = {};
        UNROLL for (int j = 0; j < J; j++)
            mean[j] = *(const S *)(a.mean.at + (own.channel + (PIXELS ? 0 : j)) * a.mean.stride);
        int panel = 0;
        for (int row = own.row; row < own.rows; row += LOADS * own.step) {
            Held<T, J> v[LOADS], g[LOADS];
            const int valid = own.valid(row, LOADS);
            UNROLL for (int i = 0; i < LOADS; i++) {
                const i64 at = own.at(row, i, valid);
                v[i] = load<Held<T, J>>(row_at<J, PIXELS>(a.rows, a.x, at, own.channel));
                g[i] = load<Held<T, J>>(row_at<J, PIXELS>(a.rows, a.dout, at, own.channel));
            }
            const bool last = ++panel == PANELS || row + LOADS * own.step >= own.rows;
            UNROLL for (int j = 0; j < J; j++) {
                S d[LOADS], away[LOADS];
                UNROLL for (int i = 0; i < LOADS; i++) {
                    d[i] = i < valid ? widen(g[i].get(j)) : S(0);
                    away[i] = i < valid ? widen(v[i].get(j)) - mean[j] : S(0);
                }
                part_product[j] += tree_of_products(d, away);
                part[j] += tree(d);
                if (last) {
                    sums[j * SUM_THREADS + THREAD] += part[j], products[j * SUM_THREADS + THREAD] += part_product[j];
                    part[j] = part_product[j] = 0;
                }
            }
            if (last) panel = 0;
        }
    }
    sum_rows<J, PIXELS>(sums, a.tiling.lanes);
    sum_rows<J, PIXELS>(products, a.tiling.lanes);
    store_totals<Share<J, PIXELS>::CHANNELS>(a, sums, products);
}

KERNEL(batch_moments_channels, 256, 2, BatchSums) { batch_moments<Pack<T>::N, false>(a); }
KERNEL(batch_moments_pixels, 256, 2, BatchSums) { batch_moments<Pack<T>::N, true>(a); }
KERNEL(batch_moments_plain, 256, 3, BatchSums) { batch_moments<1, false>(a); }
KERNEL(batch_gradients_channels, 256, 2, BatchSums) { batch_gradients<Pack<T>::N, false>(a); }
KERNEL(batch_gradients_pixels, 256, 2, BatchSums) { batch_gradients<Pack<T>::N, true>(a); }
KERNEL(batch_gradients_plain, 256, 2, BatchSums) { batch_gradients<1, false>(a); }

// Of a channel: both sums over its chunks, by `total(chunks, f)`, which adds up f(0), f(1), ... Squares about the means
// of chunks become squares about the whole mean.
template <class F> DEVICE Pair join_chunks(const Pair *totals, int chunks, i64 chunk, i64 rows, int moments, F total) {
    const double sum = total(chunks, [&](int i) { return totals[i].sum; }), mean = sum / double(rows);
    return {sum, total(chunks, [&](int i) {
                const Pair own = load<Pair>(totals + i);
                const double n = double(least(chunk, rows - i * chunk)), away = own.sum / n - mean;
                return moments && n > 0 ? own.other + n * away * away : own.other;
            })};
}

struct BatchJoin {
    const Pair *totals;
    Pair *joined;
    i64 rows, chunk;
    int channels, chunks, moments;
};

// A warp for each channel.
KERNEL(batch_join, 256, 4, BatchJoin) {
    const i64 channel = i64(BLOCK_X) * (SUM_THREADS / 32) + THREAD / 32;
    const int chunks = channel < a.channels ? a.chunks : 0;
    auto total = [](int n, auto value) { return warp_total(n, value); };
    const Pair joined = join_chunks(a.totals + channel * a.chunks, chunks, a.chunk, a.rows, a.moments, total);
    if (LANE == 0 && channel < a.channels) store(a.joined + channel, joined);
}

// ---- the map --------------------------------------------------------------------------------------------------------

struct BatchMap {
    Rows rows;
    Tiling tiling;
    Image x, dout, out;
    const Pair *totals; // none in inference
    i64 sums_chunk;     // rows of each of `sums_chunks`
    int sums_chunks;
    double eps;
    Vector gamma, beta, mean, var, dgamma, dbeta;
};

// What the map needs to know of a block's channels.
struct Parameters {
    S centre, scale, shift, slope;
};

DEVICE Parameters finish(const BatchMap &a, int channel, bool backward) {
    Pair sums = {};
    if (a.totals) {
        auto total = [](int n, auto value) {
            double sum = 0;
            for (int i = 0; i < n; i++) sum += value(i);
            return sum;
        };
        const Pair *own = a.totals + i64(channel) * a.sums_chunks;
        sums = join_chunks(own, a.sums_chunks, a.sums_chunk, a.rows.rows, !backward, total);
    }
    const double rows = double(a.rows.rows);
    Parameters p;
    S mean, var;
    if (a.totals && !backward) {
        mean = S(sums.sum / rows), var = S(sums.other / rows);
        if (BLOCK_Y == 0) put(a.mean, channel, mean), put(a.var, channel, var);
    } else
        mean = S(get(a.mean, channel)), var = S(get(a.var, channel));
    const double std = sqrt(double(var) + a.eps);
    p.centre = mean;
    p.scale = S(get(a.gamma, channel) / std);
    if (backward) {
        p.shift = S(sums.sum / rows);
        p.slope = S(sums.other / rows / (std * std));
        if (BLOCK_Y == 0) {
            put(a.dbeta, channel, sums.sum);
            put(a.dgamma, channel, a.rows.rows ? sums.other / std : 0.0);
        }
    } else
        p.shift = S(get(a.beta, channel)), p.slope = 0;
    return p;
}

template <int J, bool PIXELS, bool BACKWARD> DEVICE void batch_map(const BatchMap &a) {
    constexpr int LOADS = BACKWARD ? 2 : 4, CHANNELS = Share<J, PIXELS>::CHANNELS;
    SHARED(Parameters, parameters, SUM_THREADS);
    const Share<J, PIXELS> own(a.tiling, a.rows.rows);
    const int mine = int(BLOCK_X) * a.tiling.lanes * CHANNELS + int(THREAD);
    if (THREAD < a.tiling.lanes * CHANNELS && mine < a.tiling.channels) parameters[THREAD] = finish(a, mine, BACKWARD);
    BARRIER();
    if (own.channel >= a.tiling.channels) return;
    Parameters p[CHANNELS];
    UNROLL for (int c = 0; c < CHANNELS; c++) p[c] = parameters[own.lane * CHANNELS + c];
    for (int row = own.row; row < own.rows; row += LOADS * own.step) {
        Held<T, J> v[LOADS], g[LOADS];
        const int valid = own.valid(row, LOADS);
        UNROLL for (int i = 0; i < LOADS; i++) {
            const i64 at = own.at(row, i, valid);
            v[i] = load<Held<T, J>>(row_at<J, PIXELS>(a.rows, a.x, at, own.channel));
            if (BACKWARD) g[i] = load<Held<T, J>>(row_at<J, PIXELS>(a.rows, a.dout, at, own.channel));
        }
        UNROLL for (int i = 0; i < LOADS; i++) {
            Held<T, J> out;
            UNROLL for (int j = 0; j < J; j++) {
                const Parameters &q = p[PIXELS ? 0 : j];
                const S away = widen(v[i].get(j)) - q.centre;
                out.set(j, narrow<T>(BACKWARD ? q.scale * (widen(g[i].get(j)) - q.shift - away * q.slope)
                                              : away * q.scale + q.shift));
            }
            if (i < valid) store(row_at<J, PIXELS>(a.rows, a.out, own.at(row, i, valid), own.channel), out);
        }
    }
}

KERNEL(batch_map_channels, 256, 2, BatchMap) { batch_map<Pack<T>::N, false, false>(a); }
KERNEL(batch_map_pixels, 256, 3, BatchMap) { batch_map<Pack<T>::N, true, false>(a); }
KERNEL(batch_map_plain, 256, 3, BatchMap) { batch_map<1, false, false>(a); }
KERNEL(batch_map_back_channels, 256, 3, BatchMap) { batch_map<Pack<T>::N, false, true>(a); }
KERNEL(batch_map_back_pixels, 256, 3, BatchMap) { batch_map<Pack<T>::N, true, true>(a); }
KERNEL(batch_map_back_plain, 256, 3, BatchMap) { batch_map<1, false, true>(a); }
