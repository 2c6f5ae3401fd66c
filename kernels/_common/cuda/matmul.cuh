// A tile of a matrix product: sums over depth of a[m][depth] * b[depth][n], TILE_M x TILE_N of them in a block.
//
// Both operands come in stages of 64 bytes of depth (32 halves, 16 floats, 8 doubles) through cp.async into shared
// memory, STAGES of them in flight. A loader knows where the elements are; what multiplies knows only the stages. An
// operand lies in a stage as its memory has it:
//
//     rows     tile[m][depth]: 64 bytes of each row, depth is contiguous in memory
//     columns  tile[depth][m]: a line for each depth, m is contiguous in memory
//
// in pieces of 16 bytes whose places are permuted within a line (`place`), so that the eight pieces that a quarter of a
// warp reads at once come from different banks.
//
// TENSOR 1: tensor cores (halves; floats rounded to TF32), sums in float. TENSOR 0: FMA in S. The sum of an element runs
// over depth from the front, whatever the tile: tiles may be chosen by the size of the device and change no bits.
#pragma once
#include "device.cuh"

#ifdef TILE_M // a source compiles its products for each tile, and once without them

constexpr int MATMUL_THREADS = 256, STAGES = 4, PIECE = 16, LINE = 64;
constexpr int WIDTH = PIECE / sizeof(T);   // elements of a piece
constexpr int DEPTH = LINE / sizeof(T);    // of a stage
constexpr int STAGE_BYTES = (TILE_M + TILE_N) * LINE;

// Where in its line a piece of an operand lies.
template <bool columns> DEVICE int place(int line, int piece) {
    if (!columns) return line * (LINE / PIECE) + (piece ^ (line >> 1 & 3));
    return piece ^ (sizeof(T) == 2 ? line & 7 : (line & 3) << 1);
}

// The tile of one operand in a stage: SIZE rows (or columns) of it.
template <bool columns, int SIZE> struct Operand {
    static constexpr int PIECES = SIZE * LINE / PIECE;                       // of a stage
    static constexpr int LENGTH = columns ? SIZE / WIDTH : LINE / PIECE;     // pieces of a line
    static constexpr int EACH = PIECES / MATMUL_THREADS;                     // that a thread copies
    static_assert(PIECES % MATMUL_THREADS == 0, "every thread copies as many pieces");

    // The j-th piece of this thread: its line, and its number in the line (the same for all j).
    static DEVICE int line(int j) { return int(THREAD) / LENGTH + j * (MATMUL_THREADS / LENGTH); }
    static DEVICE int piece() { return int(THREAD) % LENGTH; }
    static DEVICE u8 *at(u8 *tile, int line, int piece) {
        return tile + (columns ? line * LENGTH * PIECE : 0) + place<columns>(line, piece) * PIECE;
    }
    static DEVICE const T *element(const u8 *tile, int line, int i) { // the i-th of a line
        return (const T *)at((u8 *)tile, line, i / WIDTH) + i % WIDTH;
    }
};

// ---- multiplying ----------------------------------------------------------------------------------------------------

#if TENSOR

// Warps side by side: WARPS_M x WARPS_N, each with a part of the tile made of products of 16 x 8.
constexpr int WARPS_N = TILE_M > TILE_N ? 2 : 4, WARPS_M = 8 / WARPS_N;
constexpr int PART_M = TILE_M / WARPS_M, PART_N = TILE_N / WARPS_N, ROWS_16 = PART_M / 16, COLUMNS_8 = PART_N / 8;
static_assert(COLUMNS_8 % 2 == 0, "columns are loaded in pairs of 8");

struct Sums {
    float d[ROWS_16][COLUMNS_8][4];
};

// Words of a 16 x 32-byte piece of an operand, as multiply() wants them: `lines` rows from `first` on.
template <bool columns, int SIZE> DEVICE void fragments(u32 (&r)[4], const u8 *tile, int first, int step, bool of_b) {
    typedef Operand<columns, SIZE> Tile;
    int matrix = LANE >> 3, i = LANE & 7;
    // a: rows 0-7, rows 8-15, then the same with the later depth. b: its columns 0-7 with both depths, then 8-15.
    int later_row = of_b ? matrix >> 1 : matrix & 1, later_depth = of_b ? matrix & 1 : matrix >> 1;
    if (!columns) {
        load_matrices(r, Tile::at((u8 *)tile, first + 8 * later_row + i, 2 * step + later_depth));
    } else if (sizeof(T) == 2) {
        load_matrices_turned(r, Tile::element(tile, step * 2 * WIDTH + 8 * later_depth + i, first + 8 * later_row));
    } else { // nothing turns 32-bit elements: one by one
        int g = LANE >> 2, t = LANE & 3;
        UNROLL for (int m = 0; m < 4; m++) {
            int row = of_b ? m >> 1 : m & 1, depth = of_b ? m & 1 : m >> 1;
            r[m] = *(const u32 *)Tile::element(tile, step * 8 + 4 * depth + t, first + 8 * row + g);
        }
    }
}

template <bool a_columns, bool b_columns> DEVICE void multiply_stage(Sums &sums, const u8 *stage) {
    int warp = THREAD >> 5, m0 = warp / WARPS_N * PART_M, n0 = warp % WARPS_N * PART_N;
    UNROLL for (int step = 0; step < LINE / 32; step++) {
        u32 fa[ROWS_16][4], fb[COLUMNS_8 / 2][4];
        UNROLL for (int i = 0; i < ROWS_16; i++)
            fragments<a_columns, TILE_M>(fa[i], stage, m0 + 16 * i, step, false);
        UNROLL for (int j = 0; j < COLUMNS_8 / 2; j++)
            fragments<b_columns, TILE_N>(fb[j], stage + TILE_M * LINE, n0 + 16 * j, step, true);
        UNROLL for (int i = 0; i < ROWS_16; i++)
            UNROLL for (int j = 0; j < COLUMNS_8; j++) {
                u32 pair[2] = {fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]};
                multiply<T>(sums.d[i][j], fa[i], pair);
            }
    }
}

// Hands out the results of the tile at row m0 and column n0: f(m) makes something of a row, and g(row, n, value) or
// g(row, n, value, next) takes the results of column n, or n and n + 1.
template <bool a_columns, bool b_columns, class F, class G> DEVICE void for_results(const Sums &sums, int m0, int n0, F f, G g) {
    int warp = THREAD >> 5;
    m0 += warp / WARPS_N * PART_M + (LANE >> 2);
    n0 += warp % WARPS_N * PART_N + 2 * (LANE & 3);
    UNROLL for (int i = 0; i < ROWS_16; i++)
        UNROLL for (int high = 0; high < 2; high++) {
            auto row = f(m0 + 16 * i + 8 * high);
            UNROLL for (int j = 0; j < COLUMNS_8; j++)
                g(row, n0 + 8 * j, sums.d[i][j][2 * high], sums.d[i][j][2 * high + 1]);
        }
}

#else

// 16 x 16 threads, each with MINE_M x MINE_N results.
constexpr int SIDE = 16, MINE_M = TILE_M / SIDE, MINE_N = TILE_N / SIDE;

struct Sums {
    S d[MINE_M][MINE_N];
};

// Which row (or column) of a tile is the i-th of the thread with number `own`. Rows: next to each other in neighbouring
// threads; columns: a thread has whole pieces, or pairs of neighbours where it has fewer.
template <bool columns, int MINE> DEVICE int mine(int own, int i) {
    constexpr int RUN = columns ? (MINE < WIDTH ? MINE : WIDTH) : 1;
    return i / RUN * (SIDE * RUN) + own * RUN + i % RUN;
}

// The numbers of one piece of depth: v[i][k].
template <bool columns, int SIZE, int MINE>
DEVICE void fragments(S (&v)[MINE][WIDTH], const u8 *tile, int own, int piece) {
    typedef Operand<columns, SIZE> Tile;
    if (!columns) {
        UNROLL for (int i = 0; i < MINE; i++) {
            Pack<T> p = load<Pack<T>>(Tile::at((u8 *)tile, mine<false, MINE>(own, i), piece));
            UNROLL for (int k = 0; k < WIDTH; k++) v[i][k] = widen(p.at[k]);
        }
    } else {
        constexpr int RUN = MINE < WIDTH ? MINE : WIDTH;
        struct alignas(RUN * sizeof(T)) Run {
            T at[RUN];
        };
        UNROLL for (int k = 0; k < WIDTH; k++)
            UNROLL for (int i = 0; i < MINE; i += RUN) {
                Run p = load<Run>(Tile::element(tile, piece * WIDTH + k, mine<true, MINE>(own, i)));
                UNROLL for (int c = 0; c < RUN; c++) v[i + c][k] = widen(p.at[c]);
            }
    }
}

template <bool a_columns, bool b_columns> DEVICE void multiply_stage(Sums &sums, const u8 *stage) {
    int x = THREAD % SIDE, y = THREAD / SIDE;
    UNROLL for (int piece = 0; piece < LINE / PIECE; piece++) {
        S va[MINE_M][WIDTH], vb[MINE_N][WIDTH];
        fragments<a_columns, TILE_M>(va, stage, y, piece);
        fragments<b_columns, TILE_N>(vb, stage + TILE_M * LINE, x, piece);
        UNROLL for (int k = 0; k < WIDTH; k++)
            UNROLL for (int i = 0; i < MINE_M; i++)
                UNROLL for (int j = 0; j < MINE_N; j++) sums.d[i][j] = sums.d[i][j] + va[i][k] * vb[j][k];
    }
}

template <bool a_columns, bool b_columns, class F, class G> DEVICE void for_results(const Sums &sums, int m0, int n0, F f, G g) {
    int x = THREAD % SIDE, y = THREAD / SIDE;
    UNROLL for (int i = 0; i < MINE_M; i++) {
        auto row = f(m0 + mine<a_columns, MINE_M>(y, i));
        if (b_columns) {
            UNROLL for (int j = 0; j < MINE_N; j += 2)
                g(row, n0 + mine<true, MINE_N>(x, j), sums.d[i][j], sums.d[i][j + 1]);
        } else {
            UNROLL for (int j = 0; j < MINE_N; j++) g(row, n0 + mine<false, MINE_N>(x, j), sums.d[i][j]);
        }
    }
}

#endif

// ---- the way through depth ------------------------------------------------------------------------------------------

// Sums over `stages` stages. a.fetch(tile) and b.fetch(tile) start the copies of this thread's pieces of the next stage.
template <bool a_columns, bool b_columns, class A, class B>
DEVICE void accumulate(Sums &sums, A &a, B &b, int stages) {
    DYNAMIC_SHARED(u8, shared);
    int fetched = 0;
    UNROLL for (; fetched < STAGES - 1; fetched++) {
        if (fetched < stages) {
            u8 *stage = shared + fetched * STAGE_BYTES;
            a.fetch(stage);
            b.fetch(stage + TILE_M * LINE);
        }
        copy_commit();
    }
    int slot = 0, next = STAGES - 1;
    ROLLED for (int k = 0; k < stages; k++) {
        copy_wait<STAGES - 2>();
        BARRIER(); // everybody's copies are here, and nobody reads the stage before this one any more
        if (fetched < stages) {
            u8 *stage = shared + next * STAGE_BYTES;
            a.fetch(stage);
            b.fetch(stage + TILE_M * LINE);
            fetched++;
        }
        copy_commit();
        multiply_stage<a_columns, b_columns>(sums, shared + slot * STAGE_BYTES);
        slot = slot + 1 == STAGES ? 0 : slot + 1;
        next = next + 1 == STAGES ? 0 : next + 1;
    }
}

// ---- loaders of ordinary matrices -----------------------------------------------------------------------------------

// A matrix with `size` rows (or columns) and `depth`, lines of `pitch` elements in memory, all at multiples of 16 bytes.
template <bool columns, int SIZE> struct MatrixLoader {
    typedef Operand<columns, SIZE> Tile;
    const T *from[Tile::EACH]; // this thread's pieces of the next stage
    int valid[Tile::EACH];     // bytes along the line
    int at, depth;             // rows: of the next piece; columns: of the first line
    i64 step;

    DEVICE MatrixLoader(const T *matrix, i64 pitch, int size, int depth_, int first, int begin) {
        depth = depth_;
        at = begin + (columns ? Tile::line(0) : Tile::piece() * WIDTH);
        step = columns ? DEPTH * pitch : DEPTH;
        UNROLL for (int j = 0; j < Tile::EACH; j++) {
            if (columns) {
                int n = first + Tile::piece() * WIDTH;
                valid[j] = n < size ? least<int>(PIECE, (size - n) * int(sizeof(T))) : 0;
                from[j] = matrix + (begin + Tile::line(j)) * pitch + (valid[j] ? n : 0);
            } else {
                int n = first + Tile::line(j);
                valid[j] = n < size;
                from[j] = matrix + (valid[j] ? n * pitch : 0) + at;
            }
        }
        origin = matrix;
    }
    const T *origin; // read nowhere: the address of pieces with nothing in them

    DEVICE void fetch(u8 *tile) {
        UNROLL for (int j = 0; j < Tile::EACH; j++) {
            int bytes;
            if (columns)
                bytes = at + Tile::line(j) - Tile::line(0) < depth ? valid[j] : 0;
            else
                bytes = valid[j] ? most<int>(0, least<int>(PIECE, (depth - at) * int(sizeof(T)))) : 0;
            copy_async(Tile::at(tile, Tile::line(j), Tile::piece()), bytes ? from[j] : origin, bytes);
            from[j] += step;
        }
        at += DEPTH;
    }
};

#endif
