// What every convolution shares: how its output is cut into tiles of vectors held in registers.
//
// A task is a block of ROWS output rows for one group of output channels. Inside it the columns are cut into tiles of
// COLUMNS vectors. Both leave a remainder, so up to four tile shapes are instantiated.
#pragma once
#include "activation.h"

namespace st3 {

// How a layer's weights are cut: chunks of input channels that run one after another, groups of output channels that may
// run on different threads and end at `bounds`.
struct Cut {
  int chunks, groups;
  const int32_t* bounds;
  explicit Cut(const int32_t* array) : chunks(array[0]), groups(array[1]), bounds(array + 2) {}
};

// Calls kernel.template run<ROWS, COLUMNS>(row, column) for each tile of the block.
template <int ROWS, class Step, class Kernel>
static inline void each_column_tile(int row, const Kernel& kernel) {
  constexpr int FULL = Step::COLUMNS / Step::TILE_COLUMNS, REST = Step::COLUMNS % Step::TILE_COLUMNS;
  for (int i = 0; i < FULL; i++) kernel.template run<ROWS, Step::TILE_COLUMNS>(row, i * Step::TILE_COLUMNS);
  if constexpr (REST != 0) kernel.template run<ROWS, REST>(row, FULL * Step::TILE_COLUMNS);
}

template <class Step, class Kernel>
static inline void each_tile(int block, const Kernel& kernel) {
  constexpr int REST = Step::ROWS % Step::TILE_ROWS;
  const int row = block * Step::TILE_ROWS;
  if (REST == 0 || row + Step::TILE_ROWS <= Step::ROWS) {
    each_column_tile<Step::TILE_ROWS, Step>(row, kernel);
  } else {
    if constexpr (REST != 0) each_column_tile<REST, Step>(row, kernel);
  }
}

// Maps of the output's shape that a convolution combines with its sums: activate(sum + residual) * factor.
struct Operands {
  const char* residual;
  const char* factor;
};

// What a task of a convolution is given: the weight file, in which the kernel's arrays have the numbers from `first` on,
// where the input (the window's first tap), the output and the operands begin, and the groups [low, high) to compute.
struct Work {
  const char* weights;
  int first;
  Cut cut;
  const char* input;
  char* output;
  Operands operands;
  const real* bias;
  int low, high;

  template <class T>
  const T* packed(int number) const {
    return array<T>(weights, first + number);
  }
};

// Where tile (row, column) starts: the window's first tap in the input, the tile in the output and in the operands.
template <class Step>
struct Place {
  const char* x;
  char* y;
  const char* residual;
  const char* factor;
  Place(const Work& work, int row, int column)
      : x(work.input + row * Step::X_ROW + column * Step::X_COLUMN),
        y(work.output + row * Step::Y_ROW + column * VECTOR),
        residual(Step::RESIDUAL ? work.operands.residual + row * Step::R_ROW + column * VECTOR : nullptr),
        factor(Step::FACTOR ? work.operands.factor + row * Step::F_ROW + column * VECTOR : nullptr) {}
};

// The accumulators' first value: bias, plus the residual where there is one.
template <class Step, int ROWS, int COLUMNS, class Bias>
static inline void begin(vec (&sum)[ROWS * COLUMNS], Bias bias, const char* residual) {
#pragma GCC unroll 32
  for (int p = 0; p < ROWS * COLUMNS; p++) {
    if constexpr (Step::RESIDUAL) {
      sum[p] = load(residual + (p / COLUMNS) * Step::R_ROW + (p % COLUMNS) * VECTOR) + splat(bias);
    } else {
      sum[p] = splat(bias);
    }
  }
}

template <class Step, int ROWS, int COLUMNS>
static inline void resume(vec (&sum)[ROWS * COLUMNS], const char* y) {
#pragma GCC unroll 32
  for (int p = 0; p < ROWS * COLUMNS; p++) sum[p] = load(y + (p / COLUMNS) * Step::Y_ROW + (p % COLUMNS) * VECTOR);
}

template <class Step>
static inline vec conclude(vec sum, const char* factor, int row, int column) {
  vec value = activate<Step::ACTIVATION>(sum);
  if constexpr (Step::FACTOR) value *= load(factor + row * Step::F_ROW + column * VECTOR);
  return value;
}

// Writes the sums, after the last chunk with the activation and the factor. A long activation runs in a loop over what
// was written: unrolled behind every accumulator it would be most of the kernel's code.
template <class Step, int ROWS, int COLUMNS>
static inline void finish(const vec (&sum)[ROWS * COLUMNS], char* y, const char* factor, bool last) {
  const auto write = [&](auto value) {
#pragma GCC unroll 32
    for (int p = 0; p < ROWS * COLUMNS; p++) store(y + (p / COLUMNS) * Step::Y_ROW + (p % COLUMNS) * VECTOR, value(p));
  };
  if (cheap(Step::ACTIVATION) && last) {
    write([&](int p) { return conclude<Step>(sum[p], factor, p / COLUMNS, p % COLUMNS); });
    return;
  }
  write([&](int p) { return sum[p]; });
  if (!last) return;
  for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 1
    for (int column = 0; column < COLUMNS; column++) {
      char* at = y + row * Step::Y_ROW + column * VECTOR;
      store(at, conclude<Step>(load(at), factor, row, column));
    }
}

}  // namespace st3
