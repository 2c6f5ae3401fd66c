/* Register tiles and packing for both compute dtypes. */
#ifndef FASTDL_BLOCKS_H
#define FASTDL_BLOCKS_H
#include "tiles.h"
#define T float
#define SFX f32
#include "pack.h"
#undef T
#undef SFX
#define T double
#define SFX f64
#include "pack.h"
#undef T
#undef SFX
#endif
