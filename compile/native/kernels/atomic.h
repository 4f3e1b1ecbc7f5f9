// A number that threads share: std::atomic's operations on GCC's own, because reading C++20's <atomic> takes g++ as
// long as all else in a generated network.
#pragma once

namespace st3 {

template <class T>
class Atomic {
 public:
  constexpr Atomic(T value) : value_(value) {}
  Atomic(const Atomic&) = delete;

  [[gnu::always_inline]] T load(int order = __ATOMIC_SEQ_CST) const { return __atomic_load_n(&value_, order); }
  [[gnu::always_inline]] void store(T value, int order = __ATOMIC_SEQ_CST) { __atomic_store_n(&value_, value, order); }
  [[gnu::always_inline]] T exchange(T value, int order) { return __atomic_exchange_n(&value_, value, order); }
  [[gnu::always_inline]] T fetch_add(T by, int order = __ATOMIC_SEQ_CST) {
    return __atomic_fetch_add(&value_, by, order);
  }
  [[gnu::always_inline]] T fetch_sub(T by, int order = __ATOMIC_SEQ_CST) {
    return __atomic_fetch_sub(&value_, by, order);
  }
  [[gnu::always_inline]] T fetch_and(T bits, int order) { return __atomic_fetch_and(&value_, bits, order); }
  // May fail though the number is `seen`; what it is comes back in `seen`, read with acquire.
  [[gnu::always_inline]] bool compare_exchange_weak(T& seen, T next, int order) {
    return __atomic_compare_exchange_n(&value_, &seen, next, true, order, __ATOMIC_ACQUIRE);
  }

 private:
  T value_;
};

}  // namespace st3
