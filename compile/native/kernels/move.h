// Data movement between layouts: gathers into a layout, halo exchange inside one, scatters out of one, and pixels that a
// network itself puts in other places.
#pragma once
#include "vector.h"

namespace st3 {

// Fills a row of a tensor's channels [low, high), halo included. `index` holds, for each of the FLOATS of a row (vectors times
// lanes), the float offset inside the source's channel, or -1 where no pixel lies: there `FILL` is written.
template <class Step>
static inline void gather_row(const char* source, char* target, const int32_t* index, int row, int low, int high) {
  const int32_t* line = index + static_cast<long>(row) * Step::FLOATS;
  char* out = target + row * Step::TARGET_ROW;
  for (int channel = low; channel < high; channel++) {
    const float* in = reinterpret_cast<const float*>(source + channel * Step::SOURCE_CHANNEL);
    float* to = reinterpret_cast<float*>(out + channel * Step::TARGET_CHANNEL);
#pragma GCC ivdep
    for (int i = 0; i < Step::FLOATS; i++) to[i] = line[i] < 0 ? Step::FILL : in[line[i]];
  }
}

// One vector outside the sub-images (or partly outside the picture): lanes permuted from one vector inside.
struct Edge {
  int32_t source, target;  // bytes from the channel's first vector
  int32_t lane[LANES];
  int32_t inside[LANES];  // -1: take the lane, 0: take the fill value
};

// Rewrites the edge vectors that depend on rows [first, last) for the channels [low, high).
// `start[h]` is the first edge whose source lies in row h.
template <class Tensor>
[[gnu::noinline]] static void exchange(char* tensor, const Edge* edges, const int32_t* start, int first, int last, int low,
                                       int high) {
  const vec fill = splat(Tensor::FILL);
  for (int channel = low; channel < high; channel++) {
    char* base = tensor + channel * Tensor::CHANNEL;
    for (const Edge* edge = edges + start[first]; edge != edges + start[last]; edge++) {
      ivec lane, inside;
      memcpy(&lane, edge->lane, sizeof lane);
      memcpy(&inside, edge->inside, sizeof inside);
      vec value = __builtin_shuffle(load(base + edge->source), lane);
      store(base + edge->target, inside ? value : fill);
    }
  }
}

// One output row of one channel: `index` holds for each float the offset of its pixel inside the input's channel, or -1 where
// there is none, and `shift` what is added, for each channel, row and float.
template <class Step>
static inline void move_row(const char* input, char* output, const int32_t* index, const float* shift, int row,
                            int channel) {
  constexpr int FLOATS = Step::COLUMNS * LANES;
  const float* in = reinterpret_cast<const float*>(input + channel * Step::X_CHANNEL);
  float* to = reinterpret_cast<float*>(output + row * Step::Y_ROW + channel * Step::Y_CHANNEL);
  const int32_t* line = index + static_cast<long>(row) * FLOATS;
  const float* add = shift + (static_cast<long>(channel) * Step::ROWS + row) * FLOATS;
#pragma GCC ivdep
  for (int i = 0; i < FLOATS; i++) {
    const float value = line[i] < 0 ? 0.0f : in[line[i]];
    to[i] = Step::SHIFT ? value + add[i] : value;
  }
}

// Writes channel `channel` of the pictures of this group to a plain N C H W array.
template <class Step>
static inline void scatter_channel(const char* source, float* target, const int32_t* index, int channel) {
  const float* in = reinterpret_cast<const float*>(source + channel / Step::LANE_CHANNELS * Step::SOURCE_CHANNEL) +
                    channel % Step::LANE_CHANNELS;
  for (int image = 0; image < Step::IMAGES; image++)
    for (int pixel = 0; pixel < Step::PIXELS; pixel++)
      target[(static_cast<long>(image) * Step::CHANNELS + channel) * Step::PIXELS + pixel] =
          in[index[image * Step::PIXELS + pixel]];
}

}  // namespace st3
