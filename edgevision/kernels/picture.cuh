// One picture of a batch in device memory; mirrored by edgevision/kernels/picture.py, which explains the fields.
#pragma once

struct Picture {
    const unsigned char* address;
    const unsigned char* chroma_address;
    const unsigned* taps_address;
    int width, height;
    int pitch_bytes, chroma_pitch_bytes;
    int format;
    int content_w, content_h;
    int offset_x, offset_y;
    int reserved;
};

static_assert(sizeof(Picture) == 64, "picture.py mirrors this record");

enum { BGR = 0, RGB = 1, NV12 = 2, NV12_709 = 3 };

__device__ __forceinline__ bool is_nv12(const Picture& picture) { return picture.format >= NV12; }
