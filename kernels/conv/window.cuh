// The geometry of a convolution, as _cuda_window.py fills it in.
#pragma once
#include "device.cuh"

// Where the pixels of a grid find their elements in an image: pixel (u, v) at tap (r, s) at row u * scale_h + start_h + r *
// move_h, and so on. Outside of the image there are zeros.
struct Window {
    const T *image;              // at the group's first channel
    i64 batch, row, pixel;       // elements from one to the next
    i64 group;
    int height, width, channels; // channels: of a group, in whole pieces
    int scale_h, scale_w, start_h, start_w, move_h, move_w;
    int taps_h, taps_w;
    int grid_h, grid_w;
    int next[3];                 // (taps, or pixels) h and w, c: how far a stage brings a thread, as digits
};

// Pixel m of the grid: its image, and where its first tap is.
struct Pixel {
    int n, h, w, y, x;
    DEVICE Pixel(const Window &a, u32 m) {
        u32 line = m / a.grid_w, image = line / a.grid_h;
        n = image;
        h = line - image * a.grid_h;
        w = m - line * a.grid_w;
        y = h * a.scale_h + a.start_h;
        x = w * a.scale_w + a.start_w;
    }
};
