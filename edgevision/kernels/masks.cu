// Instance masks from prototypes: each is a weighted sum of the picture's prototypes, positive within its box.
//
// A mask's pixel looks where its centre falls among the prototypes' cells, bilinearly. cpu_masks.py does the same
// in the same order, but for the sums over prototypes, where each rounds in its own way.
#include "picture.cuh"

namespace masks {

constexpr int THREADS = 256, TILE_W = 128, TILE_H = 8;  // a thread makes 4 pixels in a row
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

}  // namespace masks

// `coefficients` (batch, rows, count), `prototypes` (batch, count, cells_h, cells_w); detections as nms_suppress leaves
// them. The result is (batch, limit, height, width) of 0 and 1; masks behind a picture's last detection stay as they are.
extern "C" __global__ void __launch_bounds__(256) masks_assemble(
    const float* __restrict__ coefficients, const float* __restrict__ prototypes, const Picture* __restrict__ pictures,
    const int* __restrict__ num_detections, const float4* __restrict__ detection_boxes,
    const int* __restrict__ detection_rows, int rows, int count, int cells_w, int cells_h, int input_w, int input_h,
    int width, int height, int limit, unsigned char* result) {
    using namespace masks;
    __shared__ float cells[CELLS], weights[MAX_PROTOTYPES];
    const int slot = blockIdx.z, detections = num_detections[slot];
    const Picture picture = pictures[slot];
    const Axis across(width, cells_w, picture.content_w, picture.offset_x, input_w);
    const Axis down(height, cells_h, picture.content_h, picture.offset_y, input_h);
    const int tiles = (width + TILE_W - 1) / TILE_W;
    const int left = int(blockIdx.x) % tiles * TILE_W, top = int(blockIdx.x) / tiles * TILE_H;
    const int right = min(left + TILE_W, width) - 1, bottom = min(top + TILE_H, height) - 1;
    // The cells under the tile.
    const int first_x = across.clamped(floorf(across.position(left)));
    const int first_y = down.clamped(floorf(down.position(top)));
    const int wide = across.clamped(floorf(across.position(right)) + 1) - first_x + 1;
    const int high = down.clamped(floorf(down.position(bottom)) + 1) - first_y + 1;
    const bool stored = wide * high <= CELLS;
    const size_t plane = size_t(cells_w) * cells_h;
    prototypes += slot * count * plane;

    const auto sum = [&](int x, int y) {
        const float* cell = prototypes + size_t(y) * cells_w + x;
        float total = 0;
        for (int i = 0; i < count; i++) total = fmaf(weights[i], cell[i * plane], total);
        return total;
    };
    const auto logit = [&](int x, int y) { return stored ? cells[(y - first_y) * wide + x - first_x] : sum(x, y); };

    for (int k = blockIdx.y; k < detections; k += gridDim.y) {
        const float4 box = detection_boxes[size_t(slot) * limit + k];
        const float x1 = box.x * float(width) / float(picture.width), x2 = box.z * float(width) / float(picture.width);
        const float y1 = box.y * float(height) / float(picture.height), y2 = box.w * float(height) / float(picture.height);
        const bool touched = right + 0.5f >= x1 && left + 0.5f < x2 && bottom + 0.5f >= y1 && top + 0.5f < y2;
        if (touched) {  // the same for the whole block
            const float* own = coefficients + (size_t(slot) * rows + detection_rows[size_t(slot) * limit + k]) * count;
            for (int i = threadIdx.x; i < count; i += THREADS) weights[i] = own[i];
            __syncthreads();
            for (int i = threadIdx.x; stored && i < wide * high; i += THREADS)
                cells[i] = sum(first_x + i % wide, first_y + i / wide);
            __syncthreads();
        }
        const int y = top + int(threadIdx.x) / (TILE_W / 4), x = left + int(threadIdx.x) % (TILE_W / 4) * 4;
        unsigned char inside[4] = {};
        if (touched && y <= bottom && y + 0.5f >= y1 && y + 0.5f < y2) {
            const float cell_y = down.position(y), above = floorf(cell_y);
            const int y0 = down.clamped(above), y_next = down.clamped(above + 1);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float centre = x + i + 0.5f;
                if (x + i > right || centre < x1 || centre >= x2) continue;
                const float cell_x = across.position(x + i), before = floorf(cell_x);
                const int x0 = across.clamped(before), x_next = across.clamped(before + 1);
                const float near = logit(x0, y0), far = logit(x_next, y0);
                const float start = near + (logit(x0, y_next) - near) * (cell_y - above);
                const float end = far + (logit(x_next, y_next) - far) * (cell_y - above);
                inside[i] = start + (end - start) * (cell_x - before) > 0;
            }
        }
        if (y <= bottom) {
            unsigned char* out = result + ((size_t(slot) * limit + k) * height + y) * width + x;
            if (width % 4 == 0) {
                if (x <= right) *reinterpret_cast<uchar4*>(out) = make_uchar4(inside[0], inside[1], inside[2], inside[3]);
            } else {
                for (int i = 0; i < 4 && x + i <= right; i++) out[i] = inside[i];
            }
        }
        __syncthreads();
    }
}
