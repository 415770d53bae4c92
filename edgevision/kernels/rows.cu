// Of a network's rows, those that became detections: result[b, k] = values[b, detection_rows[b, k]], zero behind a
// picture's last. `values` (batch, rows, width), `result` (batch, limit, width).
extern "C" __global__ void __launch_bounds__(256) rows_gather(
    const float* __restrict__ values, const int* __restrict__ num_detections, const int* __restrict__ detection_rows,
    int rows, int width, int limit, float* result) {
    const int slot = blockIdx.y, i = blockIdx.x * blockDim.x + threadIdx.x, k = i / width;
    if (k >= limit) return;
    const size_t row = size_t(slot) * limit + k;
    const float* from = values + (size_t(slot) * rows + detection_rows[row]) * width;
    result[row * width + i % width] = k < num_detections[slot] ? from[i % width] : 0;
}
