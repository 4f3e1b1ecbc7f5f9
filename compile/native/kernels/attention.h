// Attention between the tokens of a window, which is a row of a map (or, where rows lie in the lanes, one row of each lane).
//
// The lanes are queries, so that softmax needs no sums across lanes: a score is a vector of queries times one key's
// number, which comes to all lanes of its window. Scores of a few vectors of queries with all keys wait in a buffer.
// Keys are taken in the order in which they lie in memory.
#pragma once
#include "activation.h"

namespace st3 {

// How one token's number comes to the lanes of its window: SPLAT where all lanes are one window, ALIGNED where each lane is a
// window of its own and holds the number already, MIXED where a few lanes share each window.
enum Spread { SPLAT, ALIGNED, MIXED };

// Where keys lie: `place` is a token's byte offset in a channel's row, of its number (SPLAT) or vector; `lanes` has for each of
// the lanes of a window (MIXED) which lane each lane takes its number from, and `group` the one of each token.
struct Keys {
  const int32_t* place;
  const int32_t* group;
  const integer* lanes;
};

template <class Step>
static inline vec token(const char* row, const Keys& keys, int number) {
  const char* at = row + keys.place[number];
  if constexpr (Step::SPREAD == SPLAT) return splat(*reinterpret_cast<const real*>(at));
  if constexpr (Step::SPREAD == ALIGNED) return load(at);
  return __builtin_shuffle(load(at), load_integers(keys.lanes + keys.group[number] * LANES));
}

// 1 / the length of a vector whose square is given, at least `least`.
static inline vec inverse_length(vec square, float least) {
  return in_floats(square, [=](fvec x) { return 1.0f / at_least(root(x), all(least)); });
}

// No result of exp below what counts: with numbers below the normal ones processors take a hundred times as long. Those
// of half precision end so early that they are needed, and are no slower.
constexpr float LOWEST_EXPONENT = sizeof(real) == 2 ? -17.0f : -87.0f;

// One head of one row: where its queries, keys, values and results begin, what its scores are multiplied with, and what is
// added to them, [key][column] vectors, or null.
struct Head {
  const char *query, *key, *value;
  char* output;
  real scale;
  const char* bias;
};

// Scores of Q vectors of queries with K keys from `first` on: scaled, with the bias, and the highest of each query so far.
template <class Step, int Q, int K>
static inline void score(const Head& head, const Keys& keys, const char* query, const vec* inverse, char* scores, int column,
                         int first, vec (&most)[Q]) {
  vec sum[K][Q]{}, size[K]{};
  for (int d = 0; d < Step::SIZE; d++) {
    vec x[Q];
#pragma GCC unroll 8
    for (int i = 0; i < Q; i++) x[i] = load(query + d * Step::Q_CHANNEL + i * VECTOR);
    const char* row = held(head.key + d * Step::K_CHANNEL);
#pragma GCC unroll 16
    for (int k = 0; k < K; k++) {
      const vec y = token<Step>(row, keys, first + k);
      if constexpr (Step::COSINE) size[k] += y * y;
#pragma GCC unroll 8
      for (int i = 0; i < Q; i++) sum[k][i] += x[i] * y;
    }
  }
#pragma GCC unroll 16
  for (int k = 0; k < K; k++) {
    vec factor = splat(head.scale);
    if constexpr (Step::COSINE) factor *= inverse_length(size[k], Step::EPSILON);
#pragma GCC unroll 8
    for (int i = 0; i < Q; i++) {
      vec value = sum[k][i] * (Step::COSINE ? factor * inverse[i] : factor);
      if constexpr (Step::BIAS)
        value += load(head.bias + (static_cast<long>(first + k) * Step::COLUMNS + column + i) * VECTOR);
      store(scores + (static_cast<long>(first + k) * Q + i) * VECTOR, value);
      most[i] = larger(most[i], value);
    }
  }
}

// V channels of the result from `channel` on: the values' sums with weights that add up to 1 / `factor`.
template <class Step, int Q, int V>
static inline void gather_values(const Head& head, const Keys& keys, const char* weights, int column, int channel,
                                 const vec (&factor)[Q]) {
  vec sum[V][Q]{};
  const char* row = held(head.value + channel * Step::V_CHANNEL);
  for (int k = 0; k < Step::TOKENS; k++) {
    vec w[Q];
#pragma GCC unroll 8
    for (int i = 0; i < Q; i++) w[i] = load(weights + (static_cast<long>(k) * Q + i) * VECTOR);
#pragma GCC unroll 16
    for (int v = 0; v < V; v++) {
      const vec y = token<Step>(row + v * Step::V_CHANNEL, keys, k);
#pragma GCC unroll 8
      for (int i = 0; i < Q; i++) sum[v][i] += w[i] * y;
    }
  }
#pragma GCC unroll 16
  for (int v = 0; v < V; v++)
#pragma GCC unroll 8
    for (int i = 0; i < Q; i++)
      store(head.output + (channel + v) * Step::Y_CHANNEL + (column + i) * VECTOR, sum[v][i] * factor[i]);
}

// Q vectors of queries of one head.
template <class Step, int Q>
[[gnu::noinline]] static void attend(const Head& head, const Keys& keys, int column) {
  // as many keys, and later values, as leave registers for the queries and one operand
  constexpr int FIT = (Step::REGISTERS - 1 - Q) / Q, K = FIT < 1 ? 1 : FIT > 8 ? 8 : FIT;
  alignas(64) char weights[static_cast<long>(Step::TOKENS) * Q * VECTOR];
  const char* query = head.query + column * VECTOR;
  vec most[Q], inverse[Q]{}, factor[Q]{};
  for (int i = 0; i < Q; i++) most[i] = splat(static_cast<real>(-__builtin_inff()));
  if constexpr (Step::COSINE) {
    for (int d = 0; d < Step::SIZE; d++)
      for (int i = 0; i < Q; i++) {
        const vec x = load(query + d * Step::Q_CHANNEL + i * VECTOR);
        inverse[i] += x * x;
      }
    for (int i = 0; i < Q; i++) inverse[i] = inverse_length(inverse[i], Step::EPSILON);
  }
  constexpr int KEYS = Step::TOKENS / K * K, REST = Step::TOKENS - KEYS;
  for (int first = 0; first < KEYS; first += K)
    score<Step, Q, K>(head, keys, query, inverse, weights, column, first, most);
  if constexpr (REST != 0) score<Step, Q, REST>(head, keys, query, inverse, weights, column, KEYS, most);
  for (int k = 0; k < Step::TOKENS; k++)
    for (int i = 0; i < Q; i++) {
      char* at = weights + (static_cast<long>(k) * Q + i) * VECTOR;
      const vec weight = in_floats(load(at) - most[i], [](fvec x) { return exp(at_least(x, all(LOWEST_EXPONENT))); });
      factor[i] += weight;
      store(at, weight);
    }
  for (int i = 0; i < Q; i++) factor[i] = splat(real(1)) / factor[i];
  constexpr int VALUES = Step::VALUE_SIZE / K * K, LAST = Step::VALUE_SIZE - VALUES;
  for (int channel = 0; channel < VALUES; channel += K)
    gather_values<Step, Q, K>(head, keys, weights, column, channel, factor);
  if constexpr (LAST != 0) gather_values<Step, Q, LAST>(head, keys, weights, column, VALUES, factor);
}

// The vectors of queries [first, last) of one head; `first` is a multiple of QUERIES.
template <class Step>
static inline void attend_columns(const Head& head, const Keys& keys, int first, int last) {
  constexpr int REST = Step::COLUMNS % Step::QUERIES;
  int column = first;
  for (; column + Step::QUERIES <= last; column += Step::QUERIES) attend<Step, Step::QUERIES>(head, keys, column);
  if constexpr (REST != 0)
    if (column < last) attend<Step, REST>(head, keys, column);
}

}  // namespace st3
