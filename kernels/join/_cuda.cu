// add, concat: see __init__.py.
#include "elementwise.cuh"

struct Add {
    Extent extent;
    View views[3];
};

KERNEL(add_forward, 256, 4, Add) {
    map<2>(a.extent, a.views, [](const S (&v)[2]) { return v[0] + v[1]; });
}

constexpr int JOBS = 20; // as many as fit into 4 KB

// An array and its place in the output, as words: of 16 bytes, or as wide as both arrays allow.
struct Job {
    Extent extent;
    View views[2];
    int word; // bytes
    u32 first; // block
};

struct Concat {
    Job job[JOBS];
    int jobs;
};

constexpr int WORDS = 2; // of a thread

template <class Word> DEVICE void copy(const Job &job, const i64 (&at)[WORDS][2], i64 left) {
    Word word[WORDS];
    UNROLL for (int k = 0; k < WORDS; k++)
        if (k * ELEMENT_THREADS < left) word[k] = load<Word>(job.views[0].at + at[k][0]);
    UNROLL for (int k = 0; k < WORDS; k++)
        if (k * ELEMENT_THREADS < left) store(job.views[1].at + at[k][1], word[k]);
}

KERNEL(concat_forward, 256, 4, Concat) {
    int found = 0;
    ROLLED while (found + 1 < a.jobs && BLOCK_X >= a.job[found + 1].first) found++;
    const Job &job = a.job[found];
    i64 first = i64(BLOCK_X - job.first) * (ELEMENT_THREADS * WORDS) + THREAD, at[WORDS][2];
    UNROLL for (int k = 0; k < WORDS; k++) offsets<2>(job.extent, job.views, first + k * ELEMENT_THREADS, at[k]);
    i64 left = job.extent.n - first;
    if (job.word == 16)
        copy<Wide>(job, at, left);
    else if (job.word == 8)
        copy<u64>(job, at, left);
    else if (job.word == 4)
        copy<u32>(job, at, left);
    else
        copy<u16>(job, at, left);
}
