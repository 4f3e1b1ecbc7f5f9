// Convolution whose non-zeros are blocks of four output channels: four rows of sums share every load of the input.
//
// Four output channels times a tile of vectors stay in registers; a stored block is four broadcasts, and per vector one
// load and four fused multiply-adds. Chunks, groups and rows are those of offset_stream.h; a row here is four channels.
// Channels of the last block past the last one have zero weights and are not stored.
#pragma once
#include "offset_stream.h"

namespace st3 {

// Tiles of one vector sum in two parts, for the latency of a multiply-add.
template <int VECTORS>
constexpr int BLOCK_PARTS = VECTORS >= 2 ? 1 : 2;

// Whether the input outgrows a usual L2: then the next tile's operands are fetched into L2 beside this one's. Smaller
// inputs are there already, and fetching costs a tenth.
template <class Step>
constexpr bool FAR_INPUT = Step::X_ROW * Step::ROWS > 1 << 20;

template <class Step, int ROWS, int COLUMNS>
static inline void accumulate_block(vec (&sum)[Step::BLOCK][ROWS * COLUMNS], const real* weight, const char* x) {
  x = held(x);
#pragma GCC unroll 32
  for (int p = 0; p < ROWS * COLUMNS; p++) {
    const char* at = x + (p / COLUMNS) * Step::X_ROW + (p % COLUMNS) * Step::X_COLUMN;
    const vec operand = held(load(at));
    if constexpr (FAR_INPUT<Step>) __builtin_prefetch(at + COLUMNS * Step::X_COLUMN, 0, 2);
#pragma GCC unroll 4
    for (int o = 0; o < Step::BLOCK; o++) sum[o][p] += operand * splat(weight[o]);
  }
}

template <class Step, int ROWS, int COLUMNS>
[[gnu::noinline]] static void block_rows(const Row* row, const Row* end, const real* weight, const Offset<Step>* offset,
                                         const real* bias, Place<Step> place, int lines, bool first, bool last) {
  constexpr int P = ROWS * COLUMNS, U = BLOCK_PARTS<P>, BLOCK = Step::BLOCK;
  for (; row != end; row++) {
    fetch(weight, lines);
    fetch_offsets(offset, lines, BLOCK);
    const int channel = row->channel;
    vec sum[U][BLOCK][P];
    char* y = place.y + channel * Step::Y_CHANNEL;
#pragma GCC unroll 4
    for (int o = 0; o < BLOCK; o++) {
      const int valid = Step::CHANNELS % BLOCK == 0 || channel + o < Step::CHANNELS ? o : 0;
      if (first) {
        begin<Step, ROWS, COLUMNS>(sum[0][o], bias[channel + valid],
                                   place.residual + (channel + valid) * Step::R_CHANNEL);
      } else {
        resume<Step, ROWS, COLUMNS>(sum[0][o], y + valid * Step::Y_CHANNEL);
      }
    }
    if (first) {
      const char* ahead = place.y + row[1].channel * Step::Y_CHANNEL;
#pragma GCC unroll 4
      for (int o = 0; o < BLOCK; o++)
#pragma GCC unroll 32
        for (int p = 0; p < P; p++)
          __builtin_prefetch(ahead + o * Step::Y_CHANNEL + (p / COLUMNS) * Step::Y_ROW + (p % COLUMNS) * VECTOR, 1, 3);
    }
#pragma GCC unroll 2
    for (int u = 1; u < U; u++)
#pragma GCC unroll 4
      for (int o = 0; o < BLOCK; o++)
#pragma GCC unroll 32
        for (int p = 0; p < P; p++) sum[u][o][p] = vec{};
    int left = row->count;
    if constexpr (U > 1) {
      for (; left >= U; left -= U, offset += U, weight += U * BLOCK)
#pragma GCC unroll 2
        for (int u = 0; u < U; u++)
          accumulate_block<Step, ROWS, COLUMNS>(sum[u], weight + u * BLOCK, place.x + static_cast<long>(offset[u]) * VECTOR);
    }
    for (; left > 0; left--, offset++, weight += BLOCK)
      accumulate_block<Step, ROWS, COLUMNS>(sum[0], weight, place.x + static_cast<long>(*offset) * VECTOR);
#pragma GCC unroll 4
    for (int o = 0; o < BLOCK; o++) {
#pragma GCC unroll 2
      for (int u = 1; u < U; u++)
#pragma GCC unroll 32
        for (int p = 0; p < P; p++) sum[0][o][p] += sum[u][o][p];
      if (Step::CHANNELS % BLOCK == 0 || channel + o < Step::CHANNELS)
        finish<Step, ROWS, COLUMNS>(sum[0][o], y + o * Step::Y_CHANNEL, place.factor + (channel + o) * Step::F_CHANNEL,
                                    last);
    }
  }
}

template <class Step>
struct BlockStream {
  const Segment* segments;
  const Row* rows;
  const real* weights;
  const Offset<Step>* offsets;
  Work work;

  template <int ROWS, int COLUMNS>
  void run(int row, int column) const {
    const Place<Step> place(work, row, column);
    each_segment(segments, rows, work, [&](const Row* begin, const Row* end, const Segment& at, bool first, bool last) {
      const real* weight = weights + static_cast<long>(at.entry) * Step::BLOCK;
      block_rows<Step, ROWS, COLUMNS>(begin, end, weight, offsets + at.entry, work.bias, place, at.lines, first, last);
    });
  }
};

}  // namespace st3
