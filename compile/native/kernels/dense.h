// Dense convolution: a block of outputs times a tile of positions stays in registers, and all weights stream past it.
//
// Two layouts share it. With pixels in the lanes an input is a vector of LANES positions and a weight comes to all lanes;
// with channels in the lanes a weight is a vector of LANES output channels and an input comes to all lanes. Weights lie
// [chunk][block][input][BLOCK], in the order in which they are read, and are fetched one block ahead: a network's weights
// come from far away at every run, and for small maps they are used for few positions. What Step::CHANNELS, BLOCK and an
// "output" count is what a weight is for: a channel, or a vector of them.
#pragma once
#include "tile.h"

namespace st3 {

// `count` inputs Step::X_INPUT bytes apart, the first one `offset` bytes from the window's first tap.
struct Run {
  int32_t offset, count;
};

// A chunk of inputs: its runs, how many inputs they are, and how many are in the chunks before.
struct Chunk {
  int32_t run, runs, inputs, before;
};

// Weights to fetch into the cache, `pace` bytes per input.
struct Ahead {
  const char* at;
  long pace;
};

// What one output's weight is, what one position's input is: a vector, or a number that comes to all lanes.
template <class Step>
struct Factors {
  static constexpr long WEIGHT = Step::CHANNEL_LANES ? VECTOR : sizeof(real);  // bytes
  static vec weight(const char* at) { return get<Step::CHANNEL_LANES>(at); }
  static vec input(const char* at) { return get<!Step::CHANNEL_LANES>(at); }

 private:
  template <bool WHOLE>
  static vec get(const char* at) {
    if constexpr (WHOLE) return load(at);
    return splat(*reinterpret_cast<const real*>(at));
  }
};

// One input of every position of the tile, times its weights. The fewer of the two wait in registers for the others.
template <class Step, int ROWS, int COLUMNS>
static inline void multiply(vec (&sum)[Step::BLOCK][ROWS * COLUMNS], const char* weight, const char* x) {
  constexpr int P = ROWS * COLUMNS, BLOCK = Step::BLOCK;
  using F = Factors<Step>;
  const auto input = [&](int p) { return F::input(x + (p / COLUMNS) * Step::X_ROW + (p % COLUMNS) * Step::X_COLUMN); };
  if constexpr (BLOCK <= P) {
    vec w[BLOCK];
#pragma GCC unroll 16
    for (int o = 0; o < BLOCK; o++) w[o] = held(F::weight(weight + o * F::WEIGHT));
#pragma GCC unroll 32
    for (int p = 0; p < P; p++) {
      const vec value = held(input(p));
#pragma GCC unroll 16
      for (int o = 0; o < BLOCK; o++) sum[o][p] += value * w[o];
    }
  } else {
    vec values[P];
#pragma GCC unroll 32
    for (int p = 0; p < P; p++) values[p] = held(input(p));
#pragma GCC unroll 16
    for (int o = 0; o < BLOCK; o++) {
      const vec w = held(F::weight(weight + o * F::WEIGHT));
#pragma GCC unroll 32
      for (int p = 0; p < P; p++) sum[o][p] += values[p] * w;
    }
  }
}

template <class Step, int ROWS, int COLUMNS>
[[gnu::noinline]] static void dense_tile(const Run* run, int runs, const char* weight, Ahead ahead, const char* bias,
                                         Place<Step> place, int output, bool first, bool last) {
  constexpr int P = ROWS * COLUMNS, BLOCK = Step::BLOCK;
  constexpr long LINE = BLOCK * Factors<Step>::WEIGHT;  // weights of one input
  constexpr int FETCHES = P < 4 ? (LINE + 63) / 64 : 1;
  vec sum[BLOCK][P];
  char* y = place.y + output * Step::Y_CHANNEL;
  const char* residual = place.residual + output * Step::R_CHANNEL;
  const char* factor = place.factor + output * Step::F_CHANNEL;
#pragma GCC unroll 16
  for (int o = 0; o < BLOCK; o++) {
    const int valid = output + o < Step::CHANNELS ? o : 0;  // a padded output computes the first one's start value
    if (first) {
      const vec start = Factors<Step>::weight(bias + (output + valid) * Factors<Step>::WEIGHT);
      begin<Step, ROWS, COLUMNS>(sum[o], start, residual + valid * Step::R_CHANNEL);
    } else {
      resume<Step, ROWS, COLUMNS>(sum[o], y + valid * Step::Y_CHANNEL);
    }
  }
  for (const Run* end = run + runs; run != end; run++) {
    const char* x = place.x + run->offset;
    for (int i = run->count; i > 0; i--, x += Step::X_INPUT, weight += LINE, ahead.at += ahead.pace) {
#pragma GCC unroll 16
      for (int line = 0; line < FETCHES; line++) __builtin_prefetch(ahead.at + line * 64);
      multiply<Step, ROWS, COLUMNS>(sum, weight, x);
    }
  }
#pragma GCC unroll 16
  for (int o = 0; o < BLOCK; o++) {
    if (output + o >= Step::CHANNELS) continue;
    finish<Step, ROWS, COLUMNS>(sum[o], y + o * Step::Y_CHANNEL, factor + o * Step::F_CHANNEL, last);
  }
}

template <class Step>
struct Dense {
  const Run* runs;
  const Chunk* chunks;
  const real* matrix;
  Work work;

  static constexpr long LINE = Step::BLOCK * Factors<Step>::WEIGHT;  // weights of one input

  // A block of weights on its way over all tiles of a task.
  struct Pass {
    const Chunk& chunk;
    const char* weight;
    long bytes;  // of the block
    int output, tiles;
    bool first, last;
    int tile = 0;
  };

  // All tiles of TASK_ROWS rows.
  void run(int task) const {
    constexpr int ACROSS = (Step::COLUMNS + Step::TILE_COLUMNS - 1) / Step::TILE_COLUMNS;
    constexpr int BLOCKS = (Step::CHANNELS + Step::BLOCK - 1) / Step::BLOCK, LANE_OUTPUTS = Step::CHANNEL_LANES ? LANES : 1;
    const int begin = task * Step::TASK_ROWS;
    const int end = begin + Step::TASK_ROWS < Step::ROWS ? begin + Step::TASK_ROWS : Step::ROWS;
    const int tiles = ACROSS * ((end - begin + Step::TILE_ROWS - 1) / Step::TILE_ROWS);
    const Cut& cut = work.cut;
    const int from = cut.bounds[work.low] / LANE_OUTPUTS;
    const int to = (cut.bounds[work.high] + LANE_OUTPUTS - 1) / LANE_OUTPUTS;
    for (int i = 0; i < cut.chunks; i++) {
      const Chunk& chunk = chunks[i];
      const long bytes = chunk.inputs * LINE;
      const char* first = reinterpret_cast<const char*>(matrix) + chunk.before * BLOCKS * LINE;
      for (int output = from; output < to; output += Step::BLOCK) {
        Pass pass{chunk, first + output / Step::BLOCK * bytes, bytes, output, tiles, i == 0, i == cut.chunks - 1};
        rows(begin, end, pass);
      }
    }
  }

  void rows(int begin, int end, Pass& pass) const {
    constexpr int REST = Step::ROWS % Step::TILE_ROWS;
    int row = begin;
    for (; row + Step::TILE_ROWS <= end; row += Step::TILE_ROWS) columns<Step::TILE_ROWS>(row, pass);
    if constexpr (REST != 0)
      if (row < end) columns<REST>(row, pass);
  }

  template <int ROWS>
  void columns(int row, Pass& pass) const {
    constexpr int FULL = Step::COLUMNS / Step::TILE_COLUMNS, REST = Step::COLUMNS % Step::TILE_COLUMNS;
    for (int i = 0; i < FULL; i++) tile<ROWS, Step::TILE_COLUMNS>(row, i * Step::TILE_COLUMNS, pass);
    if constexpr (REST != 0) tile<ROWS, REST>(row, FULL * Step::TILE_COLUMNS, pass);
  }

  template <int ROWS, int COLUMNS>
  void tile(int row, int column, Pass& pass) const {
    // the tiles share the fetching of the next block; a tile that is alone fetches its own weights a page ahead
    constexpr long PAGE = 4096;
    const long pace = (LINE + pass.tiles - 1) / pass.tiles;
    const Ahead ahead{pass.weight + (pass.tiles == 1 ? PAGE : pass.bytes + pass.tile * pass.chunk.inputs * pace), pace};
    dense_tile<Step, ROWS, COLUMNS>(runs + pass.chunk.run, pass.chunk.runs, pass.weight, ahead,
                                    reinterpret_cast<const char*>(work.bias), Place<Step>(work, row, column),
                                    pass.output, pass.first, pass.last);
    pass.tile++;
  }
};

}  // namespace st3
