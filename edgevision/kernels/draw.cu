// Detections drawn on the pictures they were found in, while these are still in device memory.
// Twin: cpu_draw.py.
#include "picture.cuh"

namespace drawing {

// Pixel centres of a box's outline, inclusive.
struct Outline {
    int left, top, right, bottom;
};

__device__ __forceinline__ Outline outline_of(const float* xyxy) {
    const int left = __float2int_rn(xyxy[0]), top = __float2int_rn(xyxy[1]);
    const int right = __float2int_rn(__fsub_rn(xyxy[2], 1.f)), bottom = __float2int_rn(__fsub_rn(xyxy[3], 1.f));
    return {min(left, right), min(top, bottom), max(left, right), max(top, bottom)};
}

// Whether a pixel is within `reach` of the outline: what a pen with a round tip covers.
__device__ __forceinline__ bool covers(const Outline& box, int x, int y, int reach) {
    const int dx = max(max(box.left - x, x - box.right), 0), dy = max(max(box.top - y, y - box.bottom), 0);
    if (dx | dy) return dx * dx + dy * dy <= reach * reach;
    return min(min(x - box.left, box.right - x), min(y - box.top, box.bottom - y)) <= reach;
}

// A line is 1/360 of the shorter side wide, rounded to even, at least one pixel; OpenCV's pen of width w reaches this far.
__device__ __forceinline__ int reach_of(const Picture& picture) {
    const int side = min(picture.width, picture.height), rest = side % 360;
    const int line = max(1, side / 360 + (rest > 180 || (rest == 180 && side / 360 % 2)));
    return line == 1 ? 0 : (line + 1) / 2;
}

}  // namespace drawing

// One block draws one box: the bands along its outline. Where outlines cross, the better box is on top: a block leaves
// out what a box of lower number covers. NV12 pictures are left alone.
extern "C" __global__ void __launch_bounds__(128) draw_boxes(const Picture* pictures, const int* counts,
                                                             const float* boxes, const int* classes,
                                                             const uchar4* colours, int limit) {
    const Picture picture = pictures[blockIdx.z];
    const int slot = blockIdx.z, box = blockIdx.x;
    if (box >= counts[slot] || is_nv12(picture)) return;
    boxes += size_t(slot) * limit * 4;
    const drawing::Outline own = drawing::outline_of(boxes + 4 * box);
    const int reach = drawing::reach_of(picture), band = 2 * reach + 1;
    const int left = own.left - reach, columns = own.right - own.left + band;
    const int top = own.top - reach, rows = own.bottom - own.top + band;
    const uchar4 colour = colours[classes[size_t(slot) * limit + box] & 255];
    for (int row = threadIdx.y; row < rows; row += blockDim.y) {
        const bool whole = row < band || row >= rows - band;
        const int count = whole ? columns : min(columns, 2 * band);
        for (int i = threadIdx.x; i < count; i += blockDim.x) {
            const int x = left + (whole || i < band ? i : columns - count + i), y = top + row;
            if (unsigned(x) >= unsigned(picture.width) || unsigned(y) >= unsigned(picture.height)) continue;
            if (!drawing::covers(own, x, y, reach)) continue;
            bool on_top = true;
            for (int better = 0; better < box && on_top; ++better)
                on_top = !drawing::covers(drawing::outline_of(boxes + 4 * better), x, y, reach);
            if (!on_top) continue;
            unsigned char* pixel = const_cast<unsigned char*>(picture.address) + size_t(y) * picture.pitch_bytes + 3 * x;
            pixel[0] = picture.format == BGR ? colour.x : colour.z;
            pixel[1] = colour.y;
            pixel[2] = picture.format == BGR ? colour.z : colour.x;
        }
    }
}
