// Unstructured-sparse convolution: each output channel is a stream of weights and the offsets of their operands.
//
// One output channel times a tile of vectors stays in registers; each non-zero is one broadcast and one fused
// multiply-add with a memory operand per vector. Input channels come in chunks so that the tile's input stays in L1;
// between chunks the sums wait in the output tensor. A chunk's rows come in the order of their lengths, so that the
// processor foresees where each ends.
#pragma once
#include "tile.h"

namespace st3 {

struct Row {
  int32_t channel;  // output channel
  int32_t count;    // entries in this chunk
};

// One (chunk, group): its first row and entry, and the cache lines of weights per row on average, rounded up.
struct Segment {
  int32_t row, row_count, entry, lines;
};

// Calls call(begin, end, first segment, whether the chunk is the first, whether it is the last) for the rows of each chunk
// of a task's groups, which lie one after another.
template <class Any, class Call>
static inline void each_segment(const Segment* segments, const Any* rows, const Work& work, Call call) {
  const Cut& cut = work.cut;
  for (int chunk = 0; chunk < cut.chunks; chunk++) {
    const Segment& first = segments[chunk * cut.groups + work.low];
    const Segment& last = segments[chunk * cut.groups + work.high - 1];
    call(rows + first.row, rows + last.row + last.row_count, first, chunk == 0, chunk == cut.chunks - 1);
  }
}

// Offsets are counted in vectors.
template <int BITS>
struct OffsetOf {
  using type = uint32_t;
};
template <>
struct OffsetOf<16> {
  using type = uint16_t;
};
template <class Step>
using Offset = typename OffsetOf<Step::OFFSET_BITS>::type;

// How far ahead entries are fetched: they come from the last-level cache or memory at every run, page by page, which
// the processor's own fetching does not bridge.
constexpr long AHEAD = 2048;

static inline void fetch(const void* from, int lines) {
  const char* ahead = static_cast<const char*>(from) + AHEAD;
  for (int i = 0; i < lines; i++) __builtin_prefetch(ahead + 64 * i, 0, 2);
}

// Offsets of 16 bits beside `lines` of weights, `per_offset` weights each.
static inline void fetch_offsets(const void* from, int lines, int per_offset) {
  const int ratio = per_offset * static_cast<int>(sizeof(real)) / 2;
  fetch(from, (lines + ratio - 1) / ratio);
}

// Tiles with few vectors cannot hide the latency of a multiply-add, so they sum in several independent parts.
template <int VECTORS>
constexpr int PARTS = VECTORS >= 8 ? 1 : VECTORS >= 4 ? 2 : 4;

template <class Step, int ROWS, int COLUMNS>
static inline void accumulate(vec (&sum)[ROWS * COLUMNS], real weight, const char* x) {
  const char* at = held(x);
#pragma GCC unroll 32
  for (int p = 0; p < ROWS * COLUMNS; p++)
    sum[p] += load(at + (p / COLUMNS) * Step::X_ROW + (p % COLUMNS) * Step::X_COLUMN) * splat(weight);
}

// Four entries; their offsets take one load where they have 16 bits: loads are what a tile of few vectors waits for.
template <class Step, int ROWS, int COLUMNS, int U>
static inline void accumulate_four(vec (&sum)[U][ROWS * COLUMNS], const real* weight, const Offset<Step>* offset,
                                   const char* x) {
  if constexpr (sizeof *offset == 2) {
    uint64_t four;
    memcpy(&four, offset, sizeof four);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++)
      accumulate<Step, ROWS, COLUMNS>(sum[k % U], weight[k], x + (four >> 16 * k & 0xffff) * VECTOR);
  } else {
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++)
      accumulate<Step, ROWS, COLUMNS>(sum[k % U], weight[k], x + static_cast<long>(offset[k]) * VECTOR);
  }
}

template <class Step, int ROWS, int COLUMNS>
[[gnu::noinline]] static void stream_rows(const Row* row, const Row* end, const real* weight,
                                          const Offset<Step>* offset, const real* bias, Place<Step> place,
                                          int lines, bool first, bool last) {
  constexpr int P = ROWS * COLUMNS, U = PARTS<P>;
  for (; row != end; row++) {
    fetch(weight, lines);
    fetch_offsets(offset, lines, 1);
    vec sum[U][P];
    char* y = place.y + row->channel * Step::Y_CHANNEL;
    if (first) {
      begin<Step, ROWS, COLUMNS>(sum[0], bias[row->channel], place.residual + row->channel * Step::R_CHANNEL);
      // two rows ahead: the pack ends with two sentinel rows so that this never reads past it
      const char* ahead = place.y + row[2].channel * Step::Y_CHANNEL;
#pragma GCC unroll 32
      for (int p = 0; p < P; p++) __builtin_prefetch(ahead + (p / COLUMNS) * Step::Y_ROW + (p % COLUMNS) * VECTOR, 1, 3);
    } else {
      resume<Step, ROWS, COLUMNS>(sum[0], y);
    }
#pragma GCC unroll 8
    for (int u = 1; u < U; u++)
#pragma GCC unroll 32
      for (int p = 0; p < P; p++) sum[u][p] = vec{};
    int left = row->count;
    for (; left >= 4; left -= 4, weight += 4, offset += 4)
      accumulate_four<Step, ROWS, COLUMNS, U>(sum, weight, offset, place.x);
    for (; left > 0; left--, weight++, offset++)
      accumulate<Step, ROWS, COLUMNS>(sum[0], *weight, place.x + static_cast<long>(*offset) * VECTOR);
#pragma GCC unroll 8
    for (int u = 1; u < U; u++)
#pragma GCC unroll 32
      for (int p = 0; p < P; p++) sum[0][p] += sum[u][p];
    finish<Step, ROWS, COLUMNS>(sum[0], y, place.factor + row->channel * Step::F_CHANNEL, last);
  }
}

template <class Step>
struct OffsetStream {
  const Segment* segments;
  const Row* rows;
  const real* entries;
  const Offset<Step>* offsets;
  Work work;

  template <int ROWS, int COLUMNS>
  void run(int row, int column) const {
    const Place<Step> place(work, row, column);
    each_segment(segments, rows, work, [&](const Row* begin, const Row* end, const Segment& at, bool first, bool last) {
      stream_rows<Step, ROWS, COLUMNS>(begin, end, entries + at.entry, offsets + at.entry, work.bias, place, at.lines,
                                       first, last);
    });
  }
};

}  // namespace st3
