// Runs one generated network outside Python, under the sanitizers or on an emulated processor, and compares.
//
//   driver FOLDER BATCH PICTURE_FLOATS RESULT_FLOATS THREADS...
//
// FOLDER holds weights.bin, inputs.bin, expected.bin (float32), and gaps.bin: pairs of int64, start and length of each
// stretch of the tensors' memory that no tensor covers. Built with -DNETWORK="...", the generated source, which is
// included so that its memory can be reached, and with g++'s -fno-access-control for the same reason.
#include NETWORK

#ifndef RUNS
#define RUNS 3  // of each number of threads; a race needs many to show
#endif

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(start, size) ((void)(start), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(start, size) ((void)(start), (void)(size))
#endif

namespace {

#ifdef ST3_HALF
constexpr double TOLERANCE = 0.02;
#else
constexpr double TOLERANCE = 1e-5;  // of the largest expected value
#endif

// A file in a block of exactly its length, so that a read beyond its end is seen.
struct File {
  char* bytes = nullptr;
  long size = 0;
  File(const char* folder, const char* name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE* stream = fopen(path, "rb");
    if (stream == nullptr || fseek(stream, 0, SEEK_END) != 0) fail(path);
    size = ftell(stream);
    rewind(stream);
    if (posix_memalign(reinterpret_cast<void**>(&bytes), 4096, size > 0 ? size : 1) != 0) fail(path);
    if (static_cast<long>(fread(bytes, 1, size, stream)) != size) fail(path);
    fclose(stream);
  }
  ~File() { free(bytes); }
  File(const File&) = delete;
  const float* floats() const { return reinterpret_cast<const float*>(bytes); }
  [[noreturn]] static void fail(const char* path) {
    fprintf(stderr, "cannot read %s\n", path);
    exit(2);
  }
};

using Whole = st3::Model<Network>;

struct Case {
  const File &weights, &inputs, &expected, &gaps;
  long results;
};

void* open_network(const Case& all, int threads) {
  char message[256] = "";
  void* handle = st3_open(all.weights.bytes, all.weights.size, threads, message, sizeof message);
  if (handle == nullptr) {
    fprintf(stderr, "not opened: %s\n", message);
    exit(1);
  }
  const auto* pairs = reinterpret_cast<const int64_t*>(all.gaps.bytes);
  auto* model = static_cast<Whole*>(handle);
  for (int arena = 0; arena < model->crews(); arena++)
    for (long i = 0; i < all.gaps.size / 16; i++)
      ASAN_POISON_MEMORY_REGION(model->arenas_[arena] + pairs[2 * i], pairs[2 * i + 1]);
  return handle;
}

void close_network(void* handle) {
  auto* model = static_cast<Whole*>(handle);
  for (int arena = 0; arena < model->crews(); arena++) ASAN_UNPOISON_MEMORY_REGION(model->arenas_[arena], Whole::ARENA);
  st3_close(handle);
}

float* block(long floats) {
  auto* memory = static_cast<float*>(malloc(floats * sizeof(float)));
  if (memory == nullptr) exit(2);
  return memory;
}

// Where each of the network's outputs begins, one after another in `memory`.
struct Places {
  explicit Places(float* memory) {
    for (int i = 0; i < st3_output_count(); memory += st3_output_floats(i++)) starts[i] = memory;
  }
  float* starts[8];
};

// Runs with fresh outputs that must be the bits of `first`; `first` is filled by the very first run.
void run_often(const Case& all, void* handle, float* first, bool* known, int threads) {
  for (int i = 0; i < RUNS; i++) {
    float* output = block(all.results);
    memset(output, 0xff, all.results * sizeof(float));  // NaN, should anything be left unwritten
    if (st3_run(handle, all.inputs.floats(), Places(output).starts) != st3::DONE) exit(1);
    if (!*known) memcpy(first, output, all.results * sizeof(float));
    *known = true;
    if (memcmp(first, output, all.results * sizeof(float)) != 0) {
      fprintf(stderr, "run %d with %d threads gives other bits\n", i, threads);
      exit(1);
    }
    free(output);
  }
}

void run_profile(const Case& all, void* handle) {
  float* output = block(all.results);
  auto* times = static_cast<uint64_t*>(calloc(st3_step_count(), sizeof(uint64_t)));
  if (st3_profile(handle, all.inputs.floats(), Places(output).starts, times) != st3::DONE) exit(1);
  free(times);
  free(output);
}

struct Caller {
  const Case* all;
  void* handle;
  const float* first;
  bool shared;  // another thread uses the handle too: a refusal is an answer
};

void* call(void* argument) {
  const auto& mine = *static_cast<Caller*>(argument);
  float* output = block(mine.all->results);
  for (int i = 0; i < RUNS; i++) {
    const int status = st3_run(mine.handle, mine.all->inputs.floats(), Places(output).starts);
    const bool same = memcmp(output, mine.first, mine.all->results * sizeof(float)) == 0;
    if (status == st3::DONE ? !same : !mine.shared) {
      fprintf(stderr, "a run beside another one answered wrongly\n");
      exit(1);
    }
  }
  free(output);
  return nullptr;
}

// Two handles at once, and one handle from two threads.
void run_concurrently(const Case& all, const float* first, int threads) {
  void* handles[2] = {open_network(all, threads), open_network(all, 1)};
  Caller callers[3] = {{&all, handles[0], first, true}, {&all, handles[0], first, true}, {&all, handles[1], first, false}};
  pthread_t ids[3];
  for (int i = 0; i < 3; i++)
    if (pthread_create(&ids[i], nullptr, call, &callers[i]) != 0) exit(2);
  for (int i = 0; i < 3; i++) pthread_join(ids[i], nullptr);
  for (void* handle : handles) close_network(handle);
}

double deviation(const float* result, const File& expected) {
  double largest = 0, worst = 0;
  for (long i = 0; i < expected.size / 4; i++) {
    const double wanted = expected.floats()[i], difference = std::fabs(result[i] - wanted);
    if (std::isnan(difference)) return difference;
    largest = std::fmax(largest, std::fabs(wanted));
    worst = std::fmax(worst, difference);
  }
  return worst / (largest > 0 ? largest : 1);
}

}  // namespace

int main(int count, char** words) {
  if (count < 6) return 2;
  const File weights(words[1], "weights.bin"), inputs(words[1], "inputs.bin"), expected(words[1], "expected.bin");
  const File gaps(words[1], "gaps.bin");
  const long batch = atol(words[2]);
  const Case all{weights, inputs, expected, gaps, batch * atol(words[4])};
  if (inputs.size != batch * atol(words[3]) * 4 || expected.size != all.results * 4) return 2;
  float* first = block(all.results);
  bool known = false;
  for (int i = 5; i < count; i++) {
    const int threads = atoi(words[i]);
    void* handle = open_network(all, threads);
    run_often(all, handle, first, &known, threads);
    run_profile(all, handle);
    close_network(handle);
  }
  run_concurrently(all, first, 2);
  const double error = deviation(first, expected);
  printf("deviation %.3g\n", error);
  free(first);
  return error <= TOLERANCE ? 0 : 1;
}
