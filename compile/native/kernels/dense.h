// Dense convolution in the same layout: a block of output channels shares every load of the input.
//
// BLOCK output channels times a tile of vectors stay in registers. Weights lie [block][tap][BLOCK]; all blocks read
// the same list of tap offsets. A block's channels past the last one have zero weights and are not stored.
#pragma once
#include "tile.h"

namespace st3 {

template <class Step, int ROWS, int COLUMNS>
[[gnu::noinline]] static void dense_block(const float* weight, const int32_t* offset, int taps, const float* bias,
                                          Place<Step> place, int channel, bool first, bool last) {
  constexpr int P = ROWS * COLUMNS, BLOCK = Step::BLOCK;
  vec sum[BLOCK][P];
  char* y = place.y + channel * Step::Y_CHANNEL;
  const char* residual = place.residual + channel * Step::R_CHANNEL;
  const char* factor = place.factor + channel * Step::F_CHANNEL;
#pragma GCC unroll 8
  for (int o = 0; o < BLOCK; o++) {
    const int valid = channel + o < Step::CHANNELS ? o : 0;  // a padded channel computes the first one's start value
    if (first) {
      begin<Step, ROWS, COLUMNS>(sum[o], bias[channel + valid], residual + valid * Step::R_CHANNEL);
    } else {
      resume<Step, ROWS, COLUMNS>(sum[o], y + valid * Step::Y_CHANNEL);
    }
  }
  for (int k = 0; k < taps; k++, weight += BLOCK) {
    const char* at = place.x + offset[k];
#pragma GCC unroll 32
    for (int p = 0; p < P; p++) {
      const vec x = load(at + (p / COLUMNS) * Step::X_ROW + (p % COLUMNS) * Step::X_COLUMN);
#pragma GCC unroll 8
      for (int o = 0; o < BLOCK; o++) sum[o][p] += x * weight[o];
    }
  }
#pragma GCC unroll 8
  for (int o = 0; o < BLOCK; o++)
    if (channel + o < Step::CHANNELS)
      finish<Step, ROWS, COLUMNS>(sum[o], y + o * Step::Y_CHANNEL, factor + o * Step::F_CHANNEL, last);
}

template <class Step>
struct Dense {
  const int32_t* offsets;
  const float* matrix;
  Work work;

  template <int ROWS, int COLUMNS>
  void run(int row, int column) const {
    const Place<Step> place(work, row, column);
    const Cut& cut = work.cut;
    for (int chunk = 0; chunk < cut.chunks; chunk++) {
      const int start = static_cast<long>(Step::TAPS) * chunk / cut.chunks;
      const int taps = static_cast<long>(Step::TAPS) * (chunk + 1) / cut.chunks - start;
      for (int channel = cut.bounds[work.low]; channel < cut.bounds[work.high]; channel += Step::BLOCK) {
        const float* block = matrix + static_cast<long>(channel) * Step::TAPS + static_cast<long>(start) * Step::BLOCK;
        dense_block<Step, ROWS, COLUMNS>(block, offsets + start, taps, work.bias, place, channel, chunk == 0,
                                         chunk == cut.chunks - 1);
      }
    }
  }
};

}  // namespace st3
