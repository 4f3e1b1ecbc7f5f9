// Data movement between layouts: gathers and blends into a layout, halo exchange inside one, scatters out of one, and pixels
// that a network itself puts in other places.
#pragma once
#include "vector.h"

namespace st3 {

// Fills a row of a tensor's channels [low, high), halo included, from the caller's floats or another tensor. `index` holds,
// for each of the NUMBERS of a row (vectors times lanes), the offset in numbers inside the source's channel, or -1 where no
// pixel lies: there `FILL` is written.
template <class Step, class Source>
static inline void gather_row(const char* source, char* target, const int32_t* index, int row, int low, int high) {
  const int32_t* line = index + static_cast<long>(row) * Step::NUMBERS;
  char* out = target + row * Step::TARGET_ROW;
  for (int channel = low; channel < high; channel++) {
    const Source* in = reinterpret_cast<const Source*>(source + channel * Step::SOURCE_CHANNEL);
    real* to = reinterpret_cast<real*>(out + channel * Step::TARGET_CHANNEL);
    int done = 0;
    if constexpr (sizeof(Source) > sizeof(real)) {
      for (; done + FLOATS <= Step::NUMBERS; done += FLOATS) {
        float part[FLOATS];
#pragma GCC ivdep
        for (int i = 0; i < FLOATS; i++) part[i] = line[done + i] < 0 ? Step::FILL : in[line[done + i]];
        fvec values;
        memcpy(&values, part, sizeof values);
        const part_vec numbers = narrowed(values);
        memcpy(to + done, &numbers, sizeof numbers);
      }
    }
#pragma GCC ivdep
    for (int i = done; i < Step::NUMBERS; i++) to[i] = line[i] < 0 ? Step::FILL : static_cast<real>(in[line[i]]);
  }
}

// What a vector takes from one vector of the source: its lanes in another order, where `inside` is -1.
struct Blend {
  int32_t source;  // bytes from the channel's start
  integer lane[LANES];
  integer inside[LANES];
};

// One vector of COUNT channels.
template <class Step, int COUNT>
static inline void blend_channels(const char* source, char* target, const Blend* blend, const Blend* end) {
  vec value[COUNT];
  for (int i = 0; i < COUNT; i++) value[i] = splat(Step::FILL);
  for (; blend != end; blend++) {
    const ivec lane = load_integers(blend->lane), inside = load_integers(blend->inside);
#pragma GCC unroll 8
    for (int i = 0; i < COUNT; i++) {
      const vec moved = __builtin_shuffle(load(source + i * Step::SOURCE_CHANNEL + blend->source), lane);
      value[i] = inside ? moved : value[i];
    }
  }
  for (int i = 0; i < COUNT; i++) store(target + i * Step::TARGET_CHANNEL, value[i]);
}

// What gather_row does, where few vectors of the source make up a vector. `start[i]` is the first blend of the i-th vector.
template <class Step>
static inline void blend_row(const char* source, char* target, const Blend* blends, const int32_t* start, int row, int low,
                             int high) {
  constexpr int TOGETHER = 8;  // channels that share what is loaded of a blend
  for (int column = 0; column < Step::WIDTH; column++) {
    const int place = row * Step::WIDTH + column;
    const Blend *first = blends + start[place], *end = blends + start[place + 1];
    const char* from = source + low * Step::SOURCE_CHANNEL;
    char* to = target + row * Step::TARGET_ROW + low * Step::TARGET_CHANNEL + column * VECTOR;
    int left = high - low;
    for (; left >= TOGETHER; left -= TOGETHER) {
      blend_channels<Step, TOGETHER>(from, to, first, end);
      from += TOGETHER * Step::SOURCE_CHANNEL;
      to += TOGETHER * Step::TARGET_CHANNEL;
    }
    for (; left > 0; left--, from += Step::SOURCE_CHANNEL, to += Step::TARGET_CHANNEL)
      blend_channels<Step, 1>(from, to, first, end);
  }
}

// One vector outside the sub-images (or partly outside the picture): lanes permuted from one vector inside.
struct Edge {
  int32_t source, target;  // bytes from the channel's first vector
  integer lane[LANES];
  integer inside[LANES];  // -1: take the lane, 0: take the fill value
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
      const vec value = __builtin_shuffle(load(base + edge->source), load_integers(edge->lane));
      store(base + edge->target, load_integers(edge->inside) ? value : fill);
    }
  }
}

// One output row of one channel: `index` holds for each number the offset of its pixel inside the input's channel, or -1 where
// there is none, and `shift` what is added, for each channel, row and number.
template <class Step>
static inline void move_row(const char* input, char* output, const int32_t* index, const real* shift, int row,
                            int channel) {
  constexpr int NUMBERS = Step::COLUMNS * LANES;
  const real* in = reinterpret_cast<const real*>(input + channel * Step::X_CHANNEL);
  real* to = reinterpret_cast<real*>(output + row * Step::Y_ROW + channel * Step::Y_CHANNEL);
  const int32_t* line = index + static_cast<long>(row) * NUMBERS;
  const real* add = shift + (static_cast<long>(channel) * Step::ROWS + row) * NUMBERS;
#pragma GCC ivdep
  for (int i = 0; i < NUMBERS; i++) {
    const real value = line[i] < 0 ? real(0) : in[line[i]];
    to[i] = Step::SHIFT ? value + add[i] : value;
  }
}

// Writes channel `channel` of the pictures of this group to a plain N C H W array of floats.
template <class Step>
static inline void scatter_channel(const char* source, float* target, const int32_t* index, int channel) {
  const real* in = reinterpret_cast<const real*>(source + channel / Step::LANE_CHANNELS * Step::SOURCE_CHANNEL) +
                    channel % Step::LANE_CHANNELS;
  for (int image = 0; image < Step::IMAGES; image++)
    for (int pixel = 0; pixel < Step::PIXELS; pixel++)
      target[(static_cast<long>(image) * Step::CHANNELS + channel) * Step::PIXELS + pixel] =
          in[index[image * Step::PIXELS + pixel]];
}

}  // namespace st3
