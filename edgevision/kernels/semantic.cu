// A class for every pixel of the source picture, from logits or from a class map, and the classes as a tint on it.
// Twins: bilinear.py for the interpolation, cpu_semantic.py for the classes, cpu_draw.py for the tint.
#include "picture.cuh"

namespace semantic {

// Cells to mix, see bilinear.taps.
struct Tap {
    int first, second;
    float weight;
};

constexpr int ROWS = 4;  // of the result that one thread makes: neighbouring ones mostly mix the same cells

__device__ __forceinline__ float between(float a, float b, float weight) { return __fmaf_rn(__fsub_rn(b, a), weight, a); }

// At the border the cell is copied: infinity stays what it is.
__device__ __forceinline__ float row_value(const float* row, const Tap& x) {
    const float first = __ldg(row + x.first);
    return x.first == x.second ? first : between(first, __ldg(row + x.second), x.weight);
}

// The lowest class of those with the greatest value; NaN is never it. `taps`: columns, then rows; null where the logits
// have the size of the result.
template <class T>
__device__ __forceinline__ void argmax(const float* logits, const Tap* taps, T* classes, int count, int logit_w,
                                       int logit_h, int width, int height) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, top = (blockIdx.y * blockDim.y + threadIdx.y) * ROWS;
    if (x >= width || top >= height) return;
    const size_t plane = size_t(logit_w) * logit_h;
    logits += plane * count * blockIdx.z;
    float best[ROWS];
    int winner[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; ++i) best[i] = -__int_as_float(0x7F800000), winner[i] = 0;
    const auto offer = [&](int i, float value, int number) {
        if (value > best[i]) best[i] = value, winner[i] = number;
    };
    if (taps) {
        const Tap column = taps[x];
        int upper_row[ROWS], lower_row[ROWS];
        float weight[ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            const Tap row = taps[width + min(top + i, height - 1)];
            upper_row[i] = row.first * logit_w, lower_row[i] = row.second * logit_w, weight[i] = row.weight;
        }
#pragma unroll 1
        for (int number = 0; number < count; ++number, logits += plane) {
            float upper = 0.f, lower = 0.f;
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
                if (i == 0 || upper_row[i] != upper_row[i - 1] || lower_row[i] != lower_row[i - 1]) {
                    upper = row_value(logits + upper_row[i], column);
                    lower = row_value(logits + lower_row[i], column);
                }
                offer(i, upper_row[i] == lower_row[i] ? upper : between(upper, lower, weight[i]), number);
            }
        }
    } else {
        const float* value = logits + size_t(top) * width + x;
        const int last = min(ROWS, height - top) - 1;
#pragma unroll 2
        for (int number = 0; number < count; ++number, value += plane)
#pragma unroll
            for (int i = 0; i < ROWS; ++i) offer(i, __ldg(value + min(i, last) * width), number);
    }
    classes += (size_t(blockIdx.z) * height + top) * width + x;
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
        if (top + i < height) classes[size_t(i) * width] = T(winner[i]);
}

// Along one axis: the cell of a class map that the centre of a source pixel falls into, floor((offset + (i + 1/2) *
// content / source) * cells / whole), in whole numbers and without a division: an estimate, which is at most one off,
// is put right by its remainder.
struct Axis {
    long long first, step, divisor;
    float scale, start;

    __device__ Axis(int source, int content, int offset, int whole, int cells) {
        step = 2ll * content * cells;
        first = (2ll * source * offset + content) * cells;
        divisor = 2ll * source * whole;
        scale = float(step) / float(divisor);
        start = float(first) / float(divisor);
    }
    __device__ int cell(int i) const {
        int estimate = int(start + float(i) * scale);
        const long long remainder = first + step * i - divisor * estimate;
        return remainder < 0 ? estimate - 1 : remainder >= divisor ? estimate + 1 : estimate;
    }
};

template <class T>
struct __align__(4 * sizeof(T)) Four {
    T values[4];
};

__device__ __forceinline__ size_t pixels_before(const Picture* pictures, int slot) {
    size_t pixels = 0;
    for (int i = 0; i < slot; ++i) pixels += size_t(pictures[i].width) * pictures[i].height;
    return pixels;
}

// From maps of the network's input to maps of the source pictures, one right behind the other. A grid of any size.
template <class T>
__device__ __forceinline__ void to_source(const T* maps, const Picture* pictures, T* result, int map_w, int map_h,
                                          int input_w, int input_h) {
    const Picture picture = pictures[blockIdx.z];
    maps += size_t(map_w) * map_h * blockIdx.z;
    result += pixels_before(pictures, blockIdx.z);
    const bool aligned = picture.width % 4 == 0 && reinterpret_cast<size_t>(result) % sizeof(Four<T>) == 0;
    const Axis columns(picture.width, picture.content_w, picture.offset_x, input_w, map_w);
    const Axis rows(picture.height, picture.content_h, picture.offset_y, input_h, map_h);
    for (int x = (blockIdx.x * blockDim.x + threadIdx.x) * 4; x < picture.width; x += gridDim.x * blockDim.x * 4) {
        int column[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) column[i] = columns.cell(min(x + i, picture.width - 1));
        for (int y = blockIdx.y * blockDim.y + threadIdx.y; y < picture.height; y += gridDim.y * blockDim.y) {
            const T* cells = maps + size_t(rows.cell(y)) * map_w;
            T* target = result + size_t(y) * picture.width + x;
            Four<T> found;
#pragma unroll
            for (int i = 0; i < 4; ++i) found.values[i] = __ldg(cells + column[i]);
            if (aligned) {
                *reinterpret_cast<Four<T>*>(target) = found;
            } else {
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    if (x + i < picture.width) target[i] = found.values[i];
            }
        }
    }
}

// Mixes every class's colour (BGR) into the picture itself, but for the class `plain`: rest * picture + tint * colour,
// rounded to even. Not into NV12.
template <class T>
__device__ __forceinline__ void overlay(const T* maps, const Picture* pictures, const uchar4* colours, int plain,
                                        float rest, float tint) {
    const Picture picture = pictures[blockIdx.z];
    if (is_nv12(picture)) return;
    maps += pixels_before(pictures, blockIdx.z);
    for (int y = blockIdx.y * blockDim.y + threadIdx.y; y < picture.height; y += gridDim.y * blockDim.y)
        for (int x = blockIdx.x * blockDim.x + threadIdx.x; x < picture.width; x += gridDim.x * blockDim.x) {
            const int number = int(__ldg(maps + size_t(y) * picture.width + x)) & 255;
            if (number == plain) continue;
            const uchar4 colour = colours[number];
            unsigned char* pixel = const_cast<unsigned char*>(picture.address) + size_t(y) * picture.pitch_bytes + 3 * x;
            const bool bgr = picture.format == BGR;
            const int levels[3] = {bgr ? colour.x : colour.z, colour.y, bgr ? colour.z : colour.x};
#pragma unroll
            for (int i = 0; i < 3; ++i)
                pixel[i] = __float2int_rn(__fmaf_rn(float(pixel[i]), rest, __fmul_rn(float(levels[i]), tint)));
        }
}

}  // namespace semantic

extern "C" __global__ void __launch_bounds__(256) semantic_argmax_1(const float* logits, const semantic::Tap* taps,
    unsigned char* classes, int count, int logit_w, int logit_h, int width, int height) {
    semantic::argmax(logits, taps, classes, count, logit_w, logit_h, width, height);
}

extern "C" __global__ void __launch_bounds__(256) semantic_to_source_1(const unsigned char* maps, const Picture* pictures,
    unsigned char* result, int map_w, int map_h, int input_w, int input_h) {
    semantic::to_source(maps, pictures, result, map_w, map_h, input_w, input_h);
}

extern "C" __global__ void __launch_bounds__(256) semantic_overlay_1(const unsigned char* maps, const Picture* pictures,
    const uchar4* colours, int plain, float rest, float tint) {
    semantic::overlay(maps, pictures, colours, plain, rest, tint);
}

extern "C" __global__ void __launch_bounds__(256) semantic_argmax_4(const float* logits, const semantic::Tap* taps,
    int* classes, int count, int logit_w, int logit_h, int width, int height) {
    semantic::argmax(logits, taps, classes, count, logit_w, logit_h, width, height);
}

extern "C" __global__ void __launch_bounds__(256) semantic_to_source_4(const int* maps, const Picture* pictures,
    int* result, int map_w, int map_h, int input_w, int input_h) {
    semantic::to_source(maps, pictures, result, map_w, map_h, input_w, input_h);
}

extern "C" __global__ void __launch_bounds__(256) semantic_overlay_4(const int* maps, const Picture* pictures,
    const uchar4* colours, int plain, float rest, float tint) {
    semantic::overlay(maps, pictures, colours, plain, rest, tint);
}
