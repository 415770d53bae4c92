// Pictures become the network's input in one pass: grey, resize, colour order, normalise, layout, cast, padding.
//
// Whole numbers only, so every device and the numpy twin (fixed_point.py) agree bit for bit. The resize is OpenCV's
// INTER_LINEAR on bytes: weights in 1/2048, worked out on the host into taps. A level of 0..255 then selects its
// normalised value, in whatever type, from a table made on the host.
//
// Each block makes one tile. Its threads first lay the tile's levels into shared memory, one pixel per lane so that
// neighbours read from the same cache lines, in the order of the output; then they write 16 bytes of output at a time.
#include "picture.cuh"

namespace preprocessing {

constexpr int TILE_W = 64, TILE_H = 16, THREADS = 256;
constexpr int LINES = THREADS / TILE_W;  // of the tile, that the block works on at a time
constexpr int LEVELS = 256;

typedef unsigned long long Word;

// A grey one is its green alone: nothing is computed for the others.
struct Pixel {
    int blue, green, red;
};

// BT.601's luma in 1/2^15, as OpenCV's COLOR_BGR2GRAY has it.
__device__ __forceinline__ Pixel grey(const Pixel& pixel) {
    return {0, (pixel.blue * 3735 + pixel.green * 19235 + pixel.red * 9798 + (1 << 14)) >> 15, 0};
}

// Two cells to mix, see fixed_point.taps: bits 0-14 the first, bit 15 how far on the second is, bits 16-27 its weight.
struct Tap {
    int first, step, weight;

    __device__ explicit Tap(unsigned packed) : first(packed & 0x7FFF), step(packed >> 15 & 1), weight(packed >> 16) {}
};

__device__ __forceinline__ int mix(int first, int second, int weight) { return (first << 11) + (second - first) * weight; }

__device__ __forceinline__ int share(int value, int weight) { return ((value >> 4) * weight) >> 16; }

__device__ __forceinline__ int level(int upper, int lower, int weight) {
    return (share(upper, 2048 - weight) + share(lower, weight) + 2) >> 2;
}

__device__ __forceinline__ Pixel between(const Pixel& upper, const Pixel& lower, int weight) {
    return {level(upper.blue, lower.blue, weight), level(upper.green, lower.green, weight),
            level(upper.red, lower.red, weight)};
}

__device__ __forceinline__ const unsigned char* row_of(const unsigned char* plane, int row, int pitch_bytes) {
    return plane + size_t(unsigned(row)) * unsigned(pitch_bytes);
}

// ---- 3 bytes a pixel

// Two aligned words that hold the 6 bytes of a pixel and its neighbour. An aligned word that holds a byte of an
// allocation never begins before it, but may end behind it.
struct Window {
    Word low, high;
    int shift;

    __device__ explicit Window(const unsigned char* bytes) {
        const Word* aligned = reinterpret_cast<const Word*>(reinterpret_cast<size_t>(bytes) & ~size_t(7));
        low = __ldg(aligned), high = __ldg(aligned + 1);
        shift = int(reinterpret_cast<size_t>(bytes) & 7) * 8;
    }
    __device__ Word bytes() const { return low >> shift | high << 1 << (63 - shift); }
    static __device__ bool ends_by(const unsigned char* bytes, const unsigned char* end) {
        return (reinterpret_cast<size_t>(bytes) & ~size_t(7)) + 16 <= reinterpret_cast<size_t>(end);
    }
};

// The 6 bytes at `bytes`, or those of them before `end`.
__device__ __forceinline__ Word last_bytes(const unsigned char* bytes, const unsigned char* end) {
    Word result = 0;
#pragma unroll 1
    for (int i = 0; i < 6 && bytes + i < end; ++i) result |= Word(__ldg(bytes + i)) << 8 * i;
    return result;
}

__device__ __forceinline__ Pixel mixed(const Pixel& first, const Pixel& second, int weight) {
    return {mix(first.blue, second.blue, weight), mix(first.green, second.green, weight),
            mix(first.red, second.red, weight)};
}

__device__ __forceinline__ Pixel unpacked(unsigned bytes) {
    return {int(bytes & 255), int(bytes >> 8 & 255), int(bytes >> 16 & 255)};
}

// `reversed`: the bytes are red, green, blue; it matters to grey pixels only, the order of others is changed last.
template <bool GREY>
__device__ __forceinline__ Pixel mixed(Word bytes, int weight, bool reversed) {
    const Pixel first = unpacked(unsigned(bytes)), second = unpacked(unsigned(bytes >> 24));
    if (!GREY) return mixed(first, second, weight);
    if (!reversed) return mixed(grey(first), grey(second), weight);
    return mixed(grey({first.red, first.green, first.blue}), grey({second.red, second.green, second.blue}), weight);
}

// The pixels at column `x` and rows `y`, `y` ascending. All loads come first: their latencies overlap.
template <bool GREY, int COUNT>
__device__ __forceinline__ void sample_bgr(const Picture& picture, const Tap& x, const Tap (&y)[COUNT], Pixel (&out)[COUNT]) {
    const unsigned char* end = row_of(picture.address, picture.height - 1, picture.pitch_bytes) + 3 * picture.width;
    const unsigned char *upper[COUNT], *lower[COUNT];
    Word above[COUNT], below[COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        upper[i] = row_of(picture.address, y[i].first, picture.pitch_bytes) + 3 * x.first;
        lower[i] = upper[i] + y[i].step * picture.pitch_bytes;
    }
    if (Window::ends_by(lower[COUNT - 1], end)) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) above[i] = Window(upper[i]).bytes(), below[i] = Window(lower[i]).bytes();
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) above[i] = last_bytes(upper[i], end), below[i] = last_bytes(lower[i], end);
    }
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        const bool reversed = picture.format == RGB;
        const Pixel lines[2] = {mixed<GREY>(above[i], x.weight, reversed), mixed<GREY>(below[i], x.weight, reversed)};
        out[i] = between(lines[0], lines[1], y[i].weight);
    }
}

// ---- NV12

__device__ __forceinline__ int clamped(int level) { return min(max(level, 0), 255); }

// Limited range in 1/2^20, BT.601 as OpenCV has it, or BT.709; four luma samples share one of chroma.
template <bool HD>
__device__ __forceinline__ Pixel pixel_nv12(const Picture& picture, int x, int y) {
    const unsigned char* chroma = row_of(picture.chroma_address, y >> 1, picture.chroma_pitch_bytes) + (x & ~1);
    const int sample = __ldg(row_of(picture.address, y, picture.pitch_bytes) + x);
    const int u = __ldg(chroma) - 128, v = __ldg(chroma + 1) - 128;
    const int luma = max(sample - 16, 0) * 1220542 + (1 << 19);
    constexpr int to_blue = HD ? 2215014 : 2116026, to_red = HD ? 1879825 : 1673527;
    constexpr int green_v = HD ? 558796 : 852492, green_u = HD ? 223607 : 409993;
    return {clamped((luma + to_blue * u) >> 20), clamped((luma - green_v * v - green_u * u) >> 20),
            clamped((luma + to_red * v) >> 20)};
}

// Grey is made of the blue, green and red that every other reader of the picture sees, not of the luma sample.
template <bool GREY, bool HD>
__device__ __forceinline__ Pixel cell_nv12(const Picture& picture, int x, int y) {
    const Pixel pixel = pixel_nv12<HD>(picture, x, y);
    return GREY ? grey(pixel) : pixel;
}

template <bool GREY, bool HD>
__device__ __forceinline__ Pixel row_nv12(const Picture& picture, const Tap& x, int y) {
    const Pixel first = cell_nv12<GREY, HD>(picture, x.first, y);
    return mixed(first, x.step ? cell_nv12<GREY, HD>(picture, x.first + 1, y) : first, x.weight);
}

template <bool GREY, bool HD, int COUNT>
__device__ __forceinline__ void sample_nv12(const Picture& picture, const Tap& x, const Tap (&y)[COUNT], Pixel (&out)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        const Pixel upper = row_nv12<GREY, HD>(picture, x, y[i].first);
        // Whole reductions convert one pixel of the four.
        out[i] = between(upper, y[i].step ? row_nv12<GREY, HD>(picture, x, y[i].first + 1) : upper, y[i].weight);
    }
}

// ---- the tile

__device__ __forceinline__ bool within(int value, int limit) { return unsigned(value) < unsigned(limit); }

// Writes the levels of the tile's content. PLANAR: [channel][line][column], else [line][column][channel]; CHANNELS is 1
// for grey, else 3.
template <bool PLANAR, int CHANNELS>
__device__ __forceinline__ void fill(const Picture& picture, int left, int top, bool reversed, unsigned char* levels) {
    constexpr int AT_ONCE = 2;
    const int column = threadIdx.x % TILE_W, x = left + column - picture.offset_x;
    if (!within(x, picture.content_w)) return;
    const Tap x_tap(__ldg(picture.taps_address + x));
    const unsigned* rows = picture.taps_address + picture.content_w;
#pragma unroll 1
    for (int line = threadIdx.x / TILE_W; line < TILE_H; line += AT_ONCE * LINES) {
        const int y = top + line - picture.offset_y, last = picture.content_h - 1;
        if (y > last || y + LINES < 0) continue;
        // Lines outside the content are computed as its nearest line, and not kept.
        const Tap y_taps[AT_ONCE] = {Tap(__ldg(rows + max(y, 0))), Tap(__ldg(rows + min(y + LINES, last)))};
        Pixel pixels[AT_ONCE];
        if (picture.format == NV12) {
            sample_nv12<CHANNELS == 1, false>(picture, x_tap, y_taps, pixels);
        } else if (picture.format == NV12_709) {
            sample_nv12<CHANNELS == 1, true>(picture, x_tap, y_taps, pixels);
        } else {
            sample_bgr<CHANNELS == 1>(picture, x_tap, y_taps, pixels);
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            if (!within(y + i * LINES, picture.content_h)) continue;
            constexpr int NEXT = PLANAR ? TILE_H * TILE_W : 1;
            unsigned char* first = levels + ((line + i * LINES) * TILE_W + column) * (PLANAR ? 1 : CHANNELS);
            if (CHANNELS == 1) {
                first[0] = pixels[i].green;
                continue;
            }
            first[0] = reversed ? pixels[i].red : pixels[i].blue;
            first[NEXT] = pixels[i].green;
            first[2 * NEXT] = reversed ? pixels[i].blue : pixels[i].red;
        }
    }
}

template <int COUNT>
struct __align__(COUNT) Levels {
    unsigned char values[COUNT];
};

template <class T>
union Result {
    uint4 whole;
    T values[16 / sizeof(T)];
};

// T: an unsigned type of the size of an output element. `table`: 256 values for each channel, then its padding for each,
// in the network's order of channels; `rgb`: that order.
template <class T, bool PLANAR, int CHANNELS = 3>
__device__ __forceinline__ void preprocess(const Picture* pictures, const T* table, T* out, int width, int height,
                                           int rgb, T* normalised, uint4* tile) {
    const Picture picture = pictures[blockIdx.z];
    const int left = int(blockIdx.x) * TILE_W, top = int(blockIdx.y) * TILE_H;
    const int content_left = picture.offset_x - left, content_top = picture.offset_y - top;
    if (content_left < TILE_W && content_left + picture.content_w > 0 && content_top < TILE_H &&
        content_top + picture.content_h > 0) {  // the whole block alike: some tiles are padding only
        if (sizeof(T) > 1)
            for (int i = threadIdx.x; i < CHANNELS * LEVELS; i += THREADS) normalised[i] = __ldg(table + i);
        const bool reversed = (picture.format == RGB) != (rgb != 0);
        fill<PLANAR, CHANNELS>(picture, left, top, reversed, reinterpret_cast<unsigned char*>(tile));
        __syncthreads();
    }
    T padding[CHANNELS];
#pragma unroll
    for (int i = 0; i < CHANNELS; ++i) padding[i] = __ldg(table + CHANNELS * LEVELS + i);

    constexpr int GROUP = 16 / sizeof(T);          // elements in 16 bytes
    constexpr int STEP = PLANAR ? 1 : CHANNELS;    // elements from one pixel to the next
    constexpr int SEGMENT = STEP * TILE_W;         // elements in a line of the tile, or of one plane's
    constexpr int GROUPS = CHANNELS * TILE_H * TILE_W / GROUP;
    const int row_elements = STEP * width, first_element = STEP * left;
    const bool aligned = row_elements % GROUP == 0 && reinterpret_cast<size_t>(out) % 16 == 0;
#pragma unroll 1
    for (int group = threadIdx.x; group < GROUPS; group += THREADS) {
        const int segment = group / (SEGMENT / GROUP), start = group % (SEGMENT / GROUP) * GROUP;
        const int plane = segment / TILE_H, line = segment % TILE_H;  // interleaved: plane 0
        const int count = min(GROUP, row_elements - first_element - start);
        if (top + line >= height || count <= 0) continue;
        const bool filled = within(top + line - picture.offset_y, picture.content_h);
        const Levels<GROUP> levels = reinterpret_cast<const Levels<GROUP>*>(tile)[group];
        Result<T> result;
#pragma unroll
        for (int i = 0; i < GROUP; ++i) {
            const int element = start + i, channel = PLANAR ? plane : element % STEP;
            const int x = left + element / STEP - picture.offset_x;
            const int own = channel * LEVELS + levels.values[i];
            const T value = sizeof(T) == 1 ? T(levels.values[i]) : normalised[own];
            const T outside = CHANNELS == 1 || channel == 0 ? padding[0] : padding[channel == 1 ? 1 : CHANNELS - 1];
            result.values[i] = filled && within(x, picture.content_w) ? value : outside;
        }
        const size_t row = (size_t(blockIdx.z) * (CHANNELS / STEP) + plane) * height + top + line;
        T* target = out + row * row_elements + first_element + start;
        if (aligned && count == GROUP) {
            *reinterpret_cast<uint4*>(target) = result.whole;
        } else {
#pragma unroll
            for (int i = 0; i < GROUP; ++i)
                if (i < count) target[i] = result.values[i];
        }
    }
}

}  // namespace preprocessing

extern "C" __global__ void __launch_bounds__(256, 5) preprocess_nchw_4(
    const Picture* pictures, const unsigned* table, unsigned* out, int width, int height, int rgb) {
    __shared__ unsigned normalised[768];
    __shared__ uint4 tile[192];
    preprocessing::preprocess<unsigned, true>(pictures, table, out, width, height, rgb, normalised, tile);
}

extern "C" __global__ void __launch_bounds__(256, 5) preprocess_nchw_2(
    const Picture* pictures, const unsigned short* table, unsigned short* out, int width, int height, int rgb) {
    __shared__ unsigned short normalised[768];
    __shared__ uint4 tile[192];
    preprocessing::preprocess<unsigned short, true>(pictures, table, out, width, height, rgb, normalised, tile);
}

extern "C" __global__ void __launch_bounds__(256, 5) preprocess_nchw_1(
    const Picture* pictures, const unsigned char* table, unsigned char* out, int width, int height, int rgb) {
    __shared__ unsigned char normalised[1];
    __shared__ uint4 tile[192];
    preprocessing::preprocess<unsigned char, true>(pictures, table, out, width, height, rgb, normalised, tile);
}

extern "C" __global__ void __launch_bounds__(256, 5) preprocess_nhwc_4(
    const Picture* pictures, const unsigned* table, unsigned* out, int width, int height, int rgb) {
    __shared__ unsigned normalised[768];
    __shared__ uint4 tile[192];
    preprocessing::preprocess<unsigned, false>(pictures, table, out, width, height, rgb, normalised, tile);
}

extern "C" __global__ void __launch_bounds__(256, 5) preprocess_nhwc_2(
    const Picture* pictures, const unsigned short* table, unsigned short* out, int width, int height, int rgb) {
    __shared__ unsigned short normalised[768];
    __shared__ uint4 tile[192];
    preprocessing::preprocess<unsigned short, false>(pictures, table, out, width, height, rgb, normalised, tile);
}

extern "C" __global__ void __launch_bounds__(256, 4) preprocess_nhwc_1(
    const Picture* pictures, const unsigned char* table, unsigned char* out, int width, int height, int rgb) {
    __shared__ unsigned char normalised[1];
    __shared__ uint4 tile[192];
    preprocessing::preprocess<unsigned char, false>(pictures, table, out, width, height, rgb, normalised, tile);
}

extern "C" __global__ void __launch_bounds__(256, 5) preprocess_gray_4(
    const Picture* pictures, const unsigned* table, unsigned* out, int width, int height, int rgb) {
    __shared__ unsigned normalised[256];
    __shared__ uint4 tile[64];
    preprocessing::preprocess<unsigned, true, 1>(pictures, table, out, width, height, rgb, normalised, tile);
}

extern "C" __global__ void __launch_bounds__(256, 5) preprocess_gray_2(
    const Picture* pictures, const unsigned short* table, unsigned short* out, int width, int height, int rgb) {
    __shared__ unsigned short normalised[256];
    __shared__ uint4 tile[64];
    preprocessing::preprocess<unsigned short, true, 1>(pictures, table, out, width, height, rgb, normalised, tile);
}

extern "C" __global__ void __launch_bounds__(256, 4) preprocess_gray_1(
    const Picture* pictures, const unsigned char* table, unsigned char* out, int width, int height, int rgb) {
    __shared__ unsigned char normalised[1];
    __shared__ uint4 tile[64];
    preprocessing::preprocess<unsigned char, true, 1>(pictures, table, out, width, height, rgb, normalised, tile);
}
