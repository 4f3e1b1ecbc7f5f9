// Dense convolution with channels in the lanes: a vector holds LANES neighbouring channels of one pixel.
//
// BLOCK vectors of output channels times a tile of pixels stay in registers. A weight is a vector, an input a scalar that
// is broadcast to all lanes. Weights lie [chunk][block][input][BLOCK], in the order in which they are read, and are
// fetched one block ahead: for small maps they come from far away and are used for few pixels.
#pragma once
#include "tile.h"

namespace st3 {

// `count` inputs that lie one float after another, `offset` bytes from the window's first tap.
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

template <class Step, int ROWS, int COLUMNS>
[[gnu::noinline]] static void channel_tile(const Run* run, int runs, const char* weight, Ahead ahead, const char* bias,
                                           Place<Step> place, int vector, bool first, bool last) {
  constexpr int P = ROWS * COLUMNS, BLOCK = Step::BLOCK;
  constexpr int LINES = P < 4 ? BLOCK : 1;
  vec sum[BLOCK][P];
  char* y = place.y + vector * Step::Y_CHANNEL;
  const char* residual = place.residual + vector * Step::R_CHANNEL;
  const char* factor = place.factor + vector * Step::F_CHANNEL;
#pragma GCC unroll 16
  for (int o = 0; o < BLOCK; o++) {
    const int valid = vector + o < Step::VECTORS ? o : 0;  // a padded vector computes the first one's start value
    if (first) {
      const vec start = load(bias + (vector + valid) * VECTOR);
      begin<Step, ROWS, COLUMNS>(sum[o], start, residual + valid * Step::R_CHANNEL);
    } else {
      resume<Step, ROWS, COLUMNS>(sum[o], y + valid * Step::Y_CHANNEL);
    }
  }
  for (const Run* end = run + runs; run != end; run++) {
    const char* at = place.x + run->offset;
    for (int i = run->count; i > 0; i--, at += 4, weight += BLOCK * VECTOR, ahead.at += ahead.pace) {
      vec w[BLOCK];
#pragma GCC unroll 16
      for (int o = 0; o < BLOCK; o++) w[o] = load(weight + o * VECTOR);
#pragma GCC unroll 16
      for (int line = 0; line < LINES; line++) __builtin_prefetch(ahead.at + line * 64);
#pragma GCC unroll 32
      for (int p = 0; p < P; p++) {
        const char* pixel = at + (p / COLUMNS) * Step::X_ROW + (p % COLUMNS) * Step::X_COLUMN;
        const vec x = splat(*reinterpret_cast<const float*>(pixel));
#pragma GCC unroll 16
        for (int o = 0; o < BLOCK; o++) sum[o][p] += x * w[o];
      }
    }
  }
#pragma GCC unroll 16
  for (int o = 0; o < BLOCK; o++) {
    if (vector + o >= Step::VECTORS) continue;
    finish<Step, ROWS, COLUMNS>(sum[o], y + o * Step::Y_CHANNEL, factor + o * Step::F_CHANNEL, last);
  }
}

template <class Step>
struct DenseChannels {
  const Run* runs;
  const Chunk* chunks;
  const float* matrix;
  Work work;

  static constexpr long LINE = Step::BLOCK * VECTOR;  // weights of one input

  // A block of weights on its way over all tiles of a task.
  struct Pass {
    const Chunk& chunk;
    const char* weight;
    long bytes;  // of the block
    int vector, tiles;
    bool first, last;
    int tile = 0;
  };

  // All tiles of TASK_ROWS rows.
  void run(int task) const {
    constexpr int ACROSS = (Step::COLUMNS + Step::TILE_COLUMNS - 1) / Step::TILE_COLUMNS;
    constexpr int BLOCKS = (Step::VECTORS + Step::BLOCK - 1) / Step::BLOCK;
    const int begin = task * Step::TASK_ROWS;
    const int end = begin + Step::TASK_ROWS < Step::ROWS ? begin + Step::TASK_ROWS : Step::ROWS;
    const int tiles = ACROSS * ((end - begin + Step::TILE_ROWS - 1) / Step::TILE_ROWS);
    const Cut& cut = work.cut;
    const int from = cut.bounds[work.low] / LANES, to = (cut.bounds[work.high] + LANES - 1) / LANES;
    for (int i = 0; i < cut.chunks; i++) {
      const Chunk& chunk = chunks[i];
      const long bytes = chunk.inputs * LINE;
      const char* first = reinterpret_cast<const char*>(matrix) + chunk.before * BLOCKS * LINE;
      for (int vector = from; vector < to; vector += Step::BLOCK) {
        Pass pass{chunk, first + vector / Step::BLOCK * bytes, bytes, vector, tiles, i == 0, i == cut.chunks - 1};
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
    channel_tile<Step, ROWS, COLUMNS>(runs + pass.chunk.run, pass.chunk.runs, pass.weight, ahead,
                                      reinterpret_cast<const char*>(work.bias), Place<Step>(work, row, column),
                                      pass.vector, pass.first, pass.last);
    pass.tile++;
  }
};

}  // namespace st3
