// Max and average pooling over windows, and the mean over a whole map.
#pragma once
#include "vector.h"

namespace st3 {

// One output row of one channel. The window's border reads the input's halo, which holds the pooling's neutral value.
// `share` has 1 / (number of pixels averaged) for each lane of each position, where that is not the same for all.
template <class Step>
static inline void pool_row(const char* input, char* output, const real* share, int row, int channel) {
  const char* x = input + row * Step::X_ROW + channel * Step::X_CHANNEL;
  char* y = output + row * Step::Y_ROW + channel * Step::Y_CHANNEL;
  for (int column = 0; column < Step::COLUMNS; column++) {
    const char* at = x + column * Step::X_COLUMN;
    vec value = load(at);
    for (int tap = 1; tap < Step::TAPS; tap++) {
      const vec next = load(at + Step::OFFSET[tap]);
      value = Step::MAXIMUM ? larger(value, next) : value + next;
    }
    if constexpr (!Step::MAXIMUM && Step::EVEN) value *= splat(Step::FACTOR);
    if constexpr (!Step::MAXIMUM && !Step::EVEN)
      value *= load(reinterpret_cast<const char*>(share) + (row * Step::COLUMNS + column) * VECTOR);
    store(y + column * VECTOR, value);
  }
}

// One output row of one channel, by a table: for each tap of each position the offset in numbers of each lane's pixel inside
// the input's channel, or -1 where the lane's window has no more pixels.
template <class Step>
static inline void adaptive_row(const char* input, char* output, const int32_t* index, const real* share, int row,
                                int channel) {
  const real* x = reinterpret_cast<const real*>(input + channel * Step::X_CHANNEL);
  char* y = output + row * Step::Y_ROW + channel * Step::Y_CHANNEL;
  for (int column = 0; column < Step::COLUMNS; column++) {
    const int place = row * Step::COLUMNS + column;
    const real nothing = Step::MAXIMUM ? -__builtin_inff() : 0.0f;
    vec value = splat(nothing);
    for (int tap = 0; tap < Step::TAPS; tap++) {
      const int32_t* lanes = index + (static_cast<long>(place) * Step::TAPS + tap) * LANES;
      vec next{};
      for (int lane = 0; lane < LANES; lane++) next[lane] = lanes[lane] < 0 ? nothing : x[lanes[lane]];
      value = Step::MAXIMUM ? larger(value, next) : value + next;
    }
    if constexpr (!Step::MAXIMUM) value *= load(reinterpret_cast<const char*>(share) + place * VECTOR);
    store(y + column * VECTOR, value);
  }
}

// Mean over all pixels of one channel, summed in floats; lane i of the result is picture i. `inside` has a lane mask per
// vector. With channels in the lanes, the mean of one vector of channels; every vector counts.
template <class Step>
static inline void mean_channel(const char* input, char* output, const integer* inside, int channel) {
  fvec sum[SPLIT]{};
  for (int row = 0; row < Step::ROWS; row++) {
    const char* x = input + row * Step::X_ROW + channel * Step::X_CHANNEL;
    for (int column = 0; column < Step::COLUMNS; column++, inside += LANES) {
      vec value = load(x + column * VECTOR);
      if constexpr (!Step::CHANNEL_LANES) value = load_integers(inside) ? value : vec{};
      part_vec parts[SPLIT];
      memcpy(parts, &value, sizeof value);
#pragma GCC unroll 2
      for (int i = 0; i < SPLIT; i++) sum[i] += widened(parts[i]);
    }
  }
  char* y = output + channel * Step::Y_CHANNEL;
  if constexpr (Step::CHANNEL_LANES) {
    for (int i = 0; i < SPLIT; i++) store_floats(y + i * PART, sum[i] * Step::FACTOR);
    return;
  }
  float sums[LANES];
  memcpy(sums, sum, sizeof sum);
  vec mean = vec{};
  for (int image = 0; image < Step::IMAGES; image++) {
    float total = 0;
    for (int lane = 0; lane < Step::LANES_PER_IMAGE; lane++) total += sums[image * Step::LANES_PER_IMAGE + lane];
    mean[image] = total * Step::FACTOR;
  }
  store(y, mean);
}

}  // namespace st3
