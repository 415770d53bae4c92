// Detections from boxes and scores in two launches: candidates above their thresholds, then, one block per picture,
// the best of them that do not overlap, in source pixels. Same results as cpu_nms.py and DetectionPostprocess, bit for
// bit: same comparisons in the same precision, equal scores ordered by box, then class.
//
// Scores are (batch, rows, columns): a column per class, or one column where the network has chosen the class of each
// box (class_ids). A candidate is the position of its score within its picture. The caller sets `counts` to zero before.
#include "picture.cuh"

namespace nms {

typedef unsigned long long Key;  // of a candidate, unique; the smallest is the best

constexpr unsigned ALL = 0xFFFFFFFFu;
constexpr int READERS = 256, TILE = 2048;   // threads of a reading block, and its scores where rows are no matter
constexpr int THREADS = 1024;               // of the block that suppresses; also the candidates it holds at a time
constexpr int GROUP = 64;                   // candidates that it decides at a time
constexpr int DIGIT = 10;                   // bits of a key that a histogram tells apart: a bin for each thread
constexpr unsigned MAX_CANDIDATES = 30000;  // cpu_nms.py's
constexpr float LARGEST = 3.402823466e38f;

__device__ __forceinline__ bool usable(const float4& box) {
    const float width = box.z - box.x, height = box.w - box.y;
    return width > 0 && height > 0 && width * height <= LARGEST;
}

__device__ __forceinline__ float area(const float4& box) { return (box.z - box.x) * (box.w - box.y); }

__device__ __forceinline__ bool overlap(const float4& a, const float4& b, float threshold) {
    const float width = fmaxf(fminf(a.z, b.z) - fmaxf(a.x, b.x), 0.f), height = fminf(a.w, b.w) - fmaxf(a.y, b.y);
    const float both = width * height;
    return both > threshold * (area(a) + area(b) - both);
}

// Four scores from `at`, a multiple of four, of which `end` is the array's end.
__device__ __forceinline__ float4 four(const float* scores, unsigned at, unsigned end) {
    if (at + 4 <= end) return *reinterpret_cast<const float4*>(scores + at);
    float4 values = make_float4(0, 0, 0, 0);
    if (at < end) values.x = scores[at];
    if (at + 1 < end) values.y = scores[at + 1];
    if (at + 2 < end) values.z = scores[at + 2];
    return values;
}

// One picture's candidates and what is known of them.
struct Candidates {
    const float* scores;
    const float4* boxes;
    const int* class_ids;
    const unsigned* list;
    unsigned count, columns;

    __device__ __forceinline__ unsigned row(unsigned position) const { return position / columns; }
    __device__ __forceinline__ int class_of(unsigned position) const {
        return class_ids ? class_ids[position] : int(position % columns);
    }
    // Bits of positive floats sort like the floats.
    __device__ __forceinline__ Key key(unsigned i) const {
        const unsigned position = list[i];
        return Key(0x7FFFFFFFu - __float_as_uint(scores[position])) << 32 | position;
    }
};

// Sum of `value` over this thread and those before it, and over all of them.
__device__ __forceinline__ unsigned running_sum(unsigned value, unsigned* sums, unsigned& total) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (unsigned by = 1; by < 32; by *= 2) {
        const unsigned before = __shfl_up_sync(ALL, value, by);
        if (lane >= by) value += before;
    }
    if (lane == 31) sums[warp] = value;
    __syncthreads();
    if (warp == 0) {
        unsigned sum = sums[lane];
        for (unsigned by = 1; by < 32; by *= 2) {
            const unsigned before = __shfl_up_sync(ALL, sum, by);
            if (lane >= by) sum += before;
        }
        sums[lane] = sum;
    }
    __syncthreads();
    if (warp > 0) value += sums[warp - 1];
    total = sums[31];
    __syncthreads();
    return value;
}

// A key such that `room` candidates or fewer have keys from `from` up to it, and at least `enough` where so many remain.
// Radix selection: digit by digit, the leading bins that fit are taken, and the first that does not is looked into.
__device__ Key boundary(const Candidates& candidates, Key from, unsigned room, unsigned enough, unsigned* bins,
                        unsigned* sums) {
    Key prefix = 0;
    unsigned taken = 0;
    for (int top = 63;;) {
        const int shift = max(top - DIGIT, 0);
        const unsigned count = 1u << (top - shift);
        bins[threadIdx.x] = 0;
        __syncthreads();
        for (unsigned i = threadIdx.x; i < candidates.count; i += THREADS) {
            const Key key = candidates.key(i);
            if (key >= from && key >> top == prefix) atomicAdd(&bins[unsigned(key >> shift) & (count - 1)], 1u);
        }
        __syncthreads();
        unsigned fitting, covered, unused;
        const unsigned inside = bins[threadIdx.x], sum = running_sum(inside, sums, unused);
        const bool fits = threadIdx.x < count && sum <= room - taken;
        running_sum(fits, sums, fitting);
        running_sum(fits ? inside : 0, sums, covered);
        taken += covered;
        prefix = (prefix << (top - shift)) + fitting;
        if (fitting == count || taken >= enough || shift == 0) return (prefix << shift) - 1;
        top = shift;
    }
}

// The keys of all threads in ascending order, where only the first `count` matter: bitonic. A barrier follows.
__device__ void sort(Key* keys, unsigned count) {
    const unsigned me = threadIdx.x;
    Key key = me < count ? keys[me] : ~Key(0);
    for (unsigned run = 2; run < 2 * count; run *= 2)
        for (unsigned by = run / 2; by > 0; by /= 2) {
            Key other;
            if (by < 32) {
                other = __shfl_xor_sync(ALL, key, by);
            } else {
                __syncthreads();
                keys[me] = key;
                __syncthreads();
                other = keys[me ^ by];
            }
            const bool lower = !(me & by), ascending = !(me & run);
            key = lower == ascending ? min(key, other) : max(key, other);
        }
    __syncthreads();
    keys[me] = key;
}

}  // namespace nms

// Positions of the scores above their class's threshold whose boxes are usable, in any order. A block reads `span`
// scores in one pass: whole rows where only a row's best class counts. `least` is the smallest threshold, `total` the
// number of all scores of the batch, `capacity` the length of a picture's list.
extern "C" __global__ void __launch_bounds__(256) nms_collect(
    const float* __restrict__ scores, const float4* __restrict__ boxes, const int* __restrict__ class_ids,
    const float* __restrict__ thresholds, int classes, float least, unsigned rows, unsigned columns, int best_only,
    unsigned span, unsigned total, unsigned capacity, unsigned* counts, unsigned* candidates) {
    using namespace nms;
    __shared__ Key best[TILE];  // of each row: the score's bits, and below them the class's complement
    __shared__ unsigned hits[TILE], count, place;
    const unsigned origin = blockIdx.y * rows * columns, first = blockIdx.x * span;
    const unsigned begin = origin + first, end = origin + min(first + span, rows * columns);
    if (threadIdx.x == 0) count = 0;
    if (best_only)
        for (unsigned i = threadIdx.x; i < (end - begin) / columns; i += READERS) best[i] = 0;
    __syncthreads();

    const auto consider = [&](unsigned position, float score) {
        const unsigned row = blockIdx.y * rows + position / columns;
        const int number = class_ids ? class_ids[row] : int(position % columns);
        if (number < 0 || number >= classes || !(score > thresholds[number]) || !usable(boxes[row])) return;
        hits[atomicAdd(&count, 1u)] = position;
    };
    const auto look = [&](unsigned at, float score) {
        if (!(score > least && score <= LARGEST) || at < begin || at >= end) return;
        if (best_only) {
            const unsigned row = (at - begin) / columns, number = (at - begin) % columns;
            atomicMax(&best[row], Key(__float_as_uint(score)) << 32 | ~number);
        } else {
            consider(at - origin, score);
        }
    };
    for (unsigned at = begin / 4 * 4 + 4 * threadIdx.x; at < end; at += 8 * READERS) {
        const float4 a = four(scores, at, total), b = four(scores, at + 4 * READERS, total);
        look(at, a.x), look(at + 1, a.y), look(at + 2, a.z), look(at + 3, a.w);
        const unsigned further = at + 4 * READERS;
        look(further, b.x), look(further + 1, b.y), look(further + 2, b.z), look(further + 3, b.w);
    }
    __syncthreads();
    if (best_only)
        for (unsigned i = threadIdx.x; i < (end - begin) / columns; i += READERS)
            if (best[i]) consider(first + i * columns + ~unsigned(best[i]), __uint_as_float(unsigned(best[i] >> 32)));
    __syncthreads();
    if (threadIdx.x == 0 && count) place = atomicAdd(&counts[blockIdx.y], count);
    __syncthreads();
    for (unsigned i = threadIdx.x; i < count; i += READERS) candidates[blockIdx.y * capacity + place + i] = hits[i];
}

// The detections of each picture, one block for each. `kept_*` (batch, limit) is scratch; the result's parts are
// (batch), (batch, limit, 4), (batch, limit), (batch, limit), (batch, limit), zero behind a picture's last detection.
extern "C" __global__ void __launch_bounds__(1024) nms_suppress(
    const float* __restrict__ scores, const float4* __restrict__ boxes, const int* __restrict__ class_ids,
    const Picture* __restrict__ pictures, unsigned rows, unsigned columns, int class_agnostic, float iou_threshold,
    unsigned limit, unsigned capacity, const unsigned* __restrict__ counts, const unsigned* __restrict__ lists,
    float4* kept_boxes, int* kept_classes, unsigned* kept_positions, int* num_detections, float4* detection_boxes,
    float* detection_scores, int* detection_classes, int* detection_rows) {
    using namespace nms;
    __shared__ Key keys[THREADS];
    __shared__ float4 corners[THREADS];
    __shared__ int groups[THREADS];  // only boxes of one group suppress each other
    __shared__ unsigned bins[1 << DIGIT], sums[32], gathered;
    __shared__ unsigned overlaps[GROUP][2], gone[2];  // bit i of word w: candidate 32 w + i of the group
    __shared__ Key chosen;
    const unsigned me = threadIdx.x, lane = me % 32, warp = me / 32, slot = blockIdx.x;
    const Candidates candidates = {scores + size_t(slot) * rows * columns,
                                   boxes + size_t(slot) * rows,
                                   class_ids ? class_ids + size_t(slot) * rows : nullptr,
                                   lists + size_t(slot) * capacity,
                                   counts[slot],
                                   columns};
    kept_boxes += size_t(slot) * limit, kept_classes += size_t(slot) * limit, kept_positions += size_t(slot) * limit;
    if (me < 2) gone[me] = 0;

    const bool all_at_once = candidates.count <= THREADS;
    unsigned left = min(candidates.count, MAX_CANDIDATES), kept = 0;
    Key from = 0, last = ~Key(0) >> 1;
    if (left < candidates.count) last = boundary(candidates, 0, left, left, bins, sums);
    while (left > 0 && kept < limit) {
        unsigned count;
        if (all_at_once) {
            count = candidates.count;
            if (me < count) keys[me] = candidates.key(me);
        } else {
            const Key until = min(boundary(candidates, from, THREADS, THREADS / 2, bins, sums), last);
            if (me == 0) gathered = 0;
            __syncthreads();
            for (unsigned i = me; i < candidates.count; i += THREADS) {
                const Key key = candidates.key(i);
                if (key >= from && key <= until) keys[atomicAdd(&gathered, 1u)] = key;
            }
            __syncthreads();
            count = gathered;
            from = until + 1;
        }
        left -= count;
        sort(keys, count);
        if (me < count) {
            const unsigned position = unsigned(keys[me]);
            corners[me] = candidates.boxes[candidates.row(position)];
            groups[me] = class_agnostic ? 0 : candidates.class_of(position);
        }
        __syncthreads();
        for (unsigned start = 0; start < count && kept < limit; start += GROUP) {
            const unsigned size = min(count - start, unsigned(GROUP));
            // Against the boxes kept so far: the threads of a candidate share them.
            const unsigned mine = start + me % GROUP;
            bool hit = false;
            if (me % GROUP < size) {
                const float4 box = corners[mine];
                for (unsigned i = me / GROUP; i < kept && !hit; i += THREADS / GROUP)
                    hit = kept_classes[i] == groups[mine] && overlap(kept_boxes[i], box, iou_threshold);
            }
            const unsigned hits = __ballot_sync(ALL, hit);
            if (lane == 0 && hits) atomicOr(&gone[warp % 2], hits);
            // Among themselves: a warp makes a word at a time.
            for (unsigned word = warp; word < 2 * GROUP; word += THREADS / 32) {
                const unsigned row = word / 2, column = word % 2 * 32 + lane;
                const bool over = row < column && column < size && groups[start + row] == groups[start + column] &&
                                  overlap(corners[start + row], corners[start + column], iou_threshold);
                const unsigned bits = __ballot_sync(ALL, over);
                if (lane == 0) overlaps[row][word % 2] = bits;
            }
            __syncthreads();
            if (me == 0) {
                Key free = ~(Key(gone[1]) << 32 | gone[0]);
                if (size < GROUP) free &= (Key(1) << size) - 1;
#pragma unroll 16
                for (int i = 0; i < GROUP; i++) {
                    const Key row = Key(overlaps[i][1]) << 32 | overlaps[i][0];
                    free &= ~(row & (0 - (free >> i & 1)));
                }
                while (unsigned(__popcll(free)) > limit - kept) free &= ~(Key(1) << (63 - __clzll((long long)(free))));
                chosen = free;
                gone[0] = gone[1] = 0;
            }
            __syncthreads();
            if (me < GROUP && (chosen >> me & 1)) {
                const unsigned place = kept + __popcll(chosen & ((Key(1) << me) - 1));
                kept_boxes[place] = corners[mine];
                kept_classes[place] = groups[mine];
                kept_positions[place] = unsigned(keys[mine]);
            }
            kept += __popcll(chosen);
            __syncthreads();
        }
    }

    // Back to source pixels; a box in the padding only is none. In float64, as geometry.Placement does it.
    const Picture picture = pictures[slot];
    const double scale_x = double(picture.width) / picture.content_w, scale_y = double(picture.height) / picture.content_h;
    const auto along = [](float value, int offset, double scale, int size) {
        return float(fmin(fmax((double(value) - offset) * scale, 0.0), double(size)));
    };
    const size_t origin = size_t(slot) * limit;
    unsigned written = 0;
    for (unsigned start = 0; start < kept; start += THREADS) {
        float4 box = make_float4(0, 0, 0, 0);
        if (start + me < kept) {
            box = kept_boxes[start + me];
            box.x = along(box.x, picture.offset_x, scale_x, picture.width);
            box.z = along(box.z, picture.offset_x, scale_x, picture.width);
            box.y = along(box.y, picture.offset_y, scale_y, picture.height);
            box.w = along(box.w, picture.offset_y, scale_y, picture.height);
        }
        const bool inside = box.z > box.x && box.w > box.y;
        unsigned found;
        const size_t place = origin + written + running_sum(inside, sums, found) - inside;
        if (inside) {
            const unsigned position = kept_positions[start + me];
            detection_boxes[place] = box;
            detection_scores[place] = candidates.scores[position];
            detection_classes[place] = candidates.class_of(position);
            detection_rows[place] = int(candidates.row(position));
        }
        written += found;
    }
    for (unsigned i = written + me; i < limit; i += THREADS) {
        detection_boxes[origin + i] = make_float4(0, 0, 0, 0);
        detection_scores[origin + i] = 0;
        detection_classes[origin + i] = 0;
        detection_rows[origin + i] = 0;
    }
    if (me == 0) num_detections[slot] = int(written);
}
