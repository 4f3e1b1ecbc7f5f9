// Unstructured-sparse convolution: each output channel is a stream of (weight, byte offset of its operand).
//
// One output channel times a tile of vectors stays in registers; each non-zero is one broadcast and one fused
// multiply-add with a memory operand per vector. Input channels come in chunks so that the tile's input stays in L1;
// between chunks the sums wait in the output tensor.
#pragma once
#include "tile.h"

namespace st3 {

struct Entry {
  float weight;
  int32_t offset;  // bytes from the tile's first tap
};

struct Row {
  int32_t channel;  // output channel
  int32_t count;    // entries in this chunk
};

// One (chunk, group): its first row and entry, and the cache lines of entries per row on average, rounded up.
struct Segment {
  int32_t row, row_count, entry, lines;
};

// How far ahead entries are fetched: they come from the last-level cache or memory at every run, page by page, which
// the processor's own fetching does not bridge.
constexpr long AHEAD = 2048;

// Tiles with few vectors cannot hide the latency of a multiply-add, so they sum in several independent parts.
template <int VECTORS>
constexpr int PARTS = VECTORS >= 8 ? 1 : VECTORS >= 4 ? 2 : VECTORS >= 2 ? 4 : 8;

template <class Step, int ROWS, int COLUMNS>
static inline void accumulate(vec (&sum)[ROWS * COLUMNS], const Entry* entry, const char* x) {
  const float weight = entry->weight;
  const char* at = x + entry->offset;
#pragma GCC unroll 32
  for (int p = 0; p < ROWS * COLUMNS; p++)
    sum[p] += load(at + (p / COLUMNS) * Step::X_ROW + (p % COLUMNS) * Step::X_COLUMN) * weight;
}

template <class Step, int ROWS, int COLUMNS, bool FIRST, bool LAST>
[[gnu::noinline]] static void stream_rows(const Row* row, const Row* end, const Entry* entry, const float* bias,
                                          Place<Step> place, int lines) {
  constexpr int P = ROWS * COLUMNS, U = PARTS<P>;
  for (; row != end; row++) {
    const char* far = reinterpret_cast<const char*>(entry) + AHEAD;
    for (int i = 0; i < lines; i++) __builtin_prefetch(far + 64 * i, 0, 2);
    vec sum[U][P];
    char* y = place.y + row->channel * Step::Y_CHANNEL;
    if constexpr (FIRST) {
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
    const Entry* last = entry + row->count;
    if constexpr (U > 1) {
      for (; last - entry >= U; entry += U)
#pragma GCC unroll 8
        for (int u = 0; u < U; u++) accumulate<Step, ROWS, COLUMNS>(sum[u], entry + u, place.x);
    }
    for (; entry != last; entry++) accumulate<Step, ROWS, COLUMNS>(sum[0], entry, place.x);
#pragma GCC unroll 8
    for (int u = 1; u < U; u++)
#pragma GCC unroll 32
      for (int p = 0; p < P; p++) sum[0][p] += sum[u][p];
    finish<Step, ROWS, COLUMNS, LAST>(sum[0], y);
  }
}

template <class Step>
struct OffsetStream {
  const Segment* segments;
  const Row* rows;
  const Entry* entries;
  Cut cut;
  const char* input;
  char* output;
  const char* residual;
  const float* bias;
  int low, high;  // groups of this task

  template <int ROWS, int COLUMNS>
  void run(int row, int column) const {
    const Place<Step> place(input, output, residual, row, column);
    for (int chunk = 0; chunk < cut.chunks; chunk++) {
      const Segment* first = segments + chunk * cut.groups + low;
      const Segment* last = segments + chunk * cut.groups + high - 1;
      const Row* begin = rows + first->row;
      const Row* end = rows + last->row + last->row_count;  // the groups of a chunk lie one after another
      const Entry* entry = entries + first->entry;
      if (cut.chunks == 1) {
        stream_rows<Step, ROWS, COLUMNS, true, true>(begin, end, entry, bias, place, first->lines);
      } else if (chunk == 0) {
        stream_rows<Step, ROWS, COLUMNS, true, false>(begin, end, entry, bias, place, first->lines);
      } else if (chunk == cut.chunks - 1) {
        stream_rows<Step, ROWS, COLUMNS, false, true>(begin, end, entry, bias, place, first->lines);
      } else {
        stream_rows<Step, ROWS, COLUMNS, false, false>(begin, end, entry, bias, place, first->lines);
      }
    }
  }
};

}  // namespace st3
