// Unstructured-sparse convolution of two output channels at a time: what both read is loaded once for both.
//
// Two rows of sums times a tile of vectors stay in registers. A pair's entries come in three runs: taps of both channels
// (a weight for each), taps of one each (two weights, two offsets), and what the first has more than the second. Chunks
// and groups are those of offset_stream.h.
#pragma once
#include "offset_stream.h"

namespace st3 {

// `first` has at least as many entries as `second`; a channel that is left over is its own second, without entries.
struct Pair {
  int32_t first, second;
  int32_t both, each, extra;
};

// Tiles with few vectors cannot hide the latency of a multiply-add, so they sum in several independent parts, as far as
// the registers reach.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int REGISTERS = 32;
#else
constexpr int REGISTERS = 16;
#endif
template <int VECTORS>
constexpr int PAIR_PARTS = VECTORS == 1 ? 4 : VECTORS < 4 || (VECTORS == 4 && REGISTERS == 32) ? 2 : 1;

// Inlined by force: a function that g++ leaves apart gets its sums in memory.
template <class Step, int ROWS, int COLUMNS>
[[gnu::always_inline]] static inline void accumulate_both(vec (&first)[ROWS * COLUMNS], vec (&second)[ROWS * COLUMNS],
                                                          const real* weight, const char* x) {
  const char* at = held(x);
#pragma GCC unroll 32
  for (int p = 0; p < ROWS * COLUMNS; p++) {
    const vec operand = held(load(at + (p / COLUMNS) * Step::X_ROW + (p % COLUMNS) * Step::X_COLUMN));
    first[p] += operand * splat(weight[0]);
    second[p] += operand * splat(weight[1]);
  }
}

template <class Step>
static inline const char* operand_at(const char* x, const Offset<Step>* offset) {
  return x + static_cast<long>(*offset) * VECTOR;
}

template <class Step, int ROWS, int COLUMNS>
[[gnu::always_inline]] static inline void accumulate_each(vec (&first)[ROWS * COLUMNS], vec (&second)[ROWS * COLUMNS],
                                                          const real* weight, const Offset<Step>* offset, const char* x) {
  accumulate<Step, ROWS, COLUMNS>(first, weight[0], operand_at<Step>(x, offset));
  accumulate<Step, ROWS, COLUMNS>(second, weight[1], operand_at<Step>(x, offset + 1));
}

// All entries of a pair; `sum` has the parts of the first channel, then those of the second. Entries come by fours, but
// for the last chunk's: the processor then foresees most ends of the loops.
template <class Step, int ROWS, int COLUMNS, int U>
[[gnu::always_inline]] static inline void accumulate_pair(vec (&sum)[2][U][ROWS * COLUMNS], const Pair& pair,
                                                          const real* weight, const Offset<Step>* offset,
                                                          const char* x) {
  for (int left = pair.both; left > 0; left -= 4, weight += 8, offset += 4)
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++)
      accumulate_both<Step, ROWS, COLUMNS>(sum[0][k % U], sum[1][k % U], weight + 2 * k, operand_at<Step>(x, offset + k));
  int left = pair.each;
  for (; left >= 4; left -= 4, weight += 8, offset += 8)
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++)
      accumulate_each<Step, ROWS, COLUMNS>(sum[0][k % U], sum[1][k % U], weight + 2 * k, offset + 2 * k, x);
  for (; left > 0; left--, weight += 2, offset += 2)
    accumulate_each<Step, ROWS, COLUMNS>(sum[0][0], sum[1][0], weight, offset, x);
  for (left = pair.extra; left > 0; left--, weight++, offset++)
    accumulate<Step, ROWS, COLUMNS>(sum[0][0], *weight, operand_at<Step>(x, offset));
}

template <class Step, int ROWS, int COLUMNS>
[[gnu::noinline]] static void pair_rows(const Pair* pair, const Pair* end, const real* weight, const Offset<Step>* offset,
                                        const real* bias, Place<Step> place, int lines, bool first, bool last) {
  constexpr int P = ROWS * COLUMNS, U = PAIR_PARTS<P>;
  for (; pair != end; pair++) {
    fetch(weight, lines);
    fetch_offsets(offset, lines, 1);
    vec sum[2][U][P];
    const int channel[2] = {pair->first, pair->second};
#pragma GCC unroll 2
    for (int c = 0; c < 2; c++) {
      if (first) {
        begin<Step, ROWS, COLUMNS>(sum[c][0], bias[channel[c]], place.residual + channel[c] * Step::R_CHANNEL);
      } else {
        resume<Step, ROWS, COLUMNS>(sum[c][0], place.y + channel[c] * Step::Y_CHANNEL);
      }
#pragma GCC unroll 4
      for (int u = 1; u < U; u++)
#pragma GCC unroll 32
        for (int p = 0; p < P; p++) sum[c][u][p] = vec{};
    }
    if (first) {
      // the pack ends with a sentinel so that this never reads past it
      const long ahead[2] = {pair[1].first, pair[1].second};
#pragma GCC unroll 2
      for (int c = 0; c < 2; c++)
#pragma GCC unroll 32
        for (int p = 0; p < P; p++)
          __builtin_prefetch(place.y + ahead[c] * Step::Y_CHANNEL + (p / COLUMNS) * Step::Y_ROW + (p % COLUMNS) * VECTOR, 1, 3);
    }
    accumulate_pair<Step, ROWS, COLUMNS, U>(sum, *pair, weight, offset, place.x);
    weight += 2 * pair->both + 2 * pair->each + pair->extra;
    offset += pair->both + 2 * pair->each + pair->extra;
    // the second first: where it is the same channel, the first one's sums are those that stay
#pragma GCC unroll 2
    for (int c = 1; c >= 0; c--) {
#pragma GCC unroll 4
      for (int u = 1; u < U; u++)
#pragma GCC unroll 32
        for (int p = 0; p < P; p++) sum[c][0][p] += sum[c][u][p];
      finish<Step, ROWS, COLUMNS>(sum[c][0], place.y + channel[c] * Step::Y_CHANNEL,
                                  place.factor + channel[c] * Step::F_CHANNEL, last);
    }
  }
}

template <class Step>
struct PairStream {
  const Segment* segments;
  const Pair* pairs;
  const real* weights;
  const Offset<Step>* offsets;
  // of each segment, where its offsets begin: a pair has fewer of them than weights
  const int32_t* offset_starts;
  Work work;

  template <int ROWS, int COLUMNS>
  void run(int row, int column) const {
    const Place<Step> place(work, row, column);
    each_segment(segments, pairs, work, [&](const Pair* begin, const Pair* end, const Segment& at, bool first, bool last) {
      pair_rows<Step, ROWS, COLUMNS>(begin, end, weights + at.entry, offsets + offset_starts[&at - segments], work.bias,
                                     place, at.lines, first, last);
    });
  }
};

}  // namespace st3
