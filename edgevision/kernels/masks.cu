// Instance masks from prototypes: each is a weighted sum of the picture's prototypes, positive within its box.
//
// A mask's pixel looks where its centre falls among the prototypes' cells, bilinearly. cpu_masks.py does the same
// in the same order, but for the sums over prototypes, where each rounds in its own way.
#include "picture.cuh"

namespace masks {

constexpr int THREADS = 256, TILE_W = 128, TILE_H = 8;  // a warp makes 4 words of a row
constexpr int WARP = 32;                                 // pixels of a word, too
constexpr int CELLS = 1536;                              // of prototypes under a tile that is finer than they are
constexpr int MAX_PROTOTYPES = 256;

// From pixels of the mask, which covers the source picture, to cells along one axis.
struct Axis {
    float scale, shift;
    int last;

    __device__ Axis(int size, int cells, int content, int offset, int input)
        : scale(float(content * cells) / float(size * input)), shift(float(offset * cells) / float(input) - 0.5f),
          last(cells - 1) {}
    __device__ float position(int pixel) const { return (float(pixel) + 0.5f) * scale + shift; }
    __device__ int clamped(float cell) const { return int(fminf(fmaxf(cell, 0.f), float(last))); }
};

__device__ __forceinline__ int words_of_row(int width) { return (width + WARP - 1) / WARP; }

}  // namespace masks

// `coefficients` (batch, rows, count), `prototypes` (batch, count, cells_h, cells_w); detections as nms_suppress leaves
// them. The result holds each picture's masks at its own size, (limit, height, words_of_row) with the first pixel in a
// word's lowest bit, the pictures right behind one another; masks behind a picture's last stay as they are.
// A grid of any size.
extern "C" __global__ void __launch_bounds__(256) masks_assemble(
    const float* __restrict__ coefficients, const float* __restrict__ prototypes, const Picture* __restrict__ pictures,
    const int* __restrict__ num_detections, const float4* __restrict__ detection_boxes,
    const int* __restrict__ detection_rows, int rows, int count, int cells_w, int cells_h, int input_w, int input_h,
    int limit, unsigned* result) {
    using namespace masks;
    __shared__ float cells[CELLS], weights[MAX_PROTOTYPES];
    const int slot = blockIdx.z, detections = num_detections[slot];
    const Picture picture = pictures[slot];
    const int width = picture.width, height = picture.height, words = words_of_row(width);
    for (int i = 0; i < slot; i++) result += size_t(limit) * pictures[i].height * words_of_row(pictures[i].width);
    const Axis across(width, cells_w, picture.content_w, picture.offset_x, input_w);
    const Axis down(height, cells_h, picture.content_h, picture.offset_y, input_h);
    const int tiles_w = (width + TILE_W - 1) / TILE_W, tiles = tiles_w * ((height + TILE_H - 1) / TILE_H);
    const int lane = int(threadIdx.x) % WARP;
    const size_t plane = size_t(cells_w) * cells_h;
    prototypes += slot * count * plane;

    const auto sum = [&](int x, int y) {
        const float* cell = prototypes + size_t(y) * cells_w + x;
        float total = 0;
#pragma unroll 4
        for (int i = 0; i < count; i++) total = fmaf(weights[i], cell[i * plane], total);
        return total;
    };

    for (int k = blockIdx.y; k < detections; k += gridDim.y) {
        const float4 box = detection_boxes[size_t(slot) * limit + k];
        // Not the same as the box: the CPU, which makes masks of any size, rounds so.
        const float x1 = box.x * float(width) / float(width), x2 = box.z * float(width) / float(width);
        const float y1 = box.y * float(height) / float(height), y2 = box.w * float(height) / float(height);
        const float* own = coefficients + (size_t(slot) * rows + detection_rows[size_t(slot) * limit + k]) * count;
        for (int i = threadIdx.x; i < count; i += THREADS) weights[i] = own[i];
        for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
            const int left = tile % tiles_w * TILE_W, top = tile / tiles_w * TILE_H;
            const int right = min(left + TILE_W, width) - 1, bottom = min(top + TILE_H, height) - 1;
            // The cells under the tile.
            const int first_x = across.clamped(floorf(across.position(left)));
            const int first_y = down.clamped(floorf(down.position(top)));
            const int wide = across.clamped(floorf(across.position(right)) + 1) - first_x + 1;
            const int high = down.clamped(floorf(down.position(bottom)) + 1) - first_y + 1;
            const bool stored = wide * high <= CELLS;
            const auto logit = [&](int x, int y) {
                return stored ? cells[(y - first_y) * wide + x - first_x] : sum(x, y);
            };
            const bool touched = right + 0.5f >= x1 && left + 0.5f < x2 && bottom + 0.5f >= y1 && top + 0.5f < y2;
            if (touched) {  // the same for the whole block
                __syncthreads();
                for (int i = threadIdx.x; stored && i < wide * high; i += THREADS)
                    cells[i] = sum(first_x + i % wide, first_y + i / wide);
                __syncthreads();
            }
            const int y = top + int(threadIdx.x) / WARP;
            const bool in_rows = touched && y <= bottom && y + 0.5f >= y1 && y + 0.5f < y2;
            const float cell_y = down.position(y), above = floorf(cell_y);
            const int y0 = down.clamped(above), y_next = down.clamped(above + 1);
            unsigned word = 0;
#pragma unroll 1  // else registers are spilt
            for (int i = 0; i < TILE_W / WARP; i++) {
                const int x = left + i * WARP + lane;
                bool inside = false;
                if (in_rows && x <= right && x + 0.5f >= x1 && x + 0.5f < x2) {
                    const float cell_x = across.position(x), before = floorf(cell_x);
                    const int x0 = across.clamped(before), x_next = across.clamped(before + 1);
                    const float near = logit(x0, y0), far = logit(x_next, y0);
                    const float start = near + (logit(x0, y_next) - near) * (cell_y - above);
                    const float end = far + (logit(x_next, y_next) - far) * (cell_y - above);
                    inside = start + (end - start) * (cell_x - before) > 0;
                }
                const unsigned bits = __ballot_sync(0xffffffffu, inside);
                if (lane == i) word = bits;
            }
            const int column = left / WARP + lane;
            if (y <= bottom && lane < TILE_W / WARP && column < words)
                result[(size_t(k) * height + y) * words + column] = word;
        }
        __syncthreads();
    }
}
