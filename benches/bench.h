/* What the benchmarks share. Each goes through the header, as an engine would, and prints JSON, one object a line, for
 * benches/run.py. */
#ifndef BENCH_H
#define BENCH_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tokenjoule.h"

#define DAY 86400.0
#define FIRST 1.75e9 /* the first call; the last one is 30 days later */

static inline double now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static inline void rest_ms(long ms) {
  struct timespec t = {0, ms * 1000000};
  nanosleep(&t, NULL);
}

static inline void check(tj_status status, const tj_error *error) {
  if (status == TJ_OK) return;
  fprintf(stderr, "%s: %s\n", tj_status_name(status), error->message);
  exit(1);
}

static inline void *some(size_t count, size_t size) {
  void *memory = calloc(count, size);
  if (memory == NULL) exit(fprintf(stderr, "out of memory\n"));
  memset(memory, 1, count * size); /* page faults now, not while something is measured */
  return memory;
}

static inline int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static inline double quantile(const double *sorted, long count, double q) {
  return sorted[(long)((double)(count - 1) * q)];
}

static inline double median(double *values, long count) {
  qsort(values, (size_t)count, sizeof *values, ascending);
  return quantile(values, count, 0.5);
}

/* What reading the clock costs, which is in every time measured below. */
static inline double clock_cost_ns(void) {
  enum { BLOCKS = 101, READS = 1000 };
  double took[BLOCKS];
  for (int block = 0; block < BLOCKS; block++) {
    double begin = now_ns();
    for (int i = 1; i < READS; i++) now_ns();
    took[block] = (now_ns() - begin) / READS;
  }
  return median(took, BLOCKS);
}

/* Prints how long something took, each time. Sorts the times. */
static inline void print_times(const char *what, double *took, long count, const char *more) {
  double middle = median(took, count);
  printf("{\"what\": \"%s\", \"clock_ns\": %.2f, \"samples\": %ld, \"median_ns\": %.1f, \"p99_ns\": %.1f, "
         "\"p999_ns\": %.1f, \"max_ns\": %.1f%s}\n",
         what, clock_cost_ns(), count, middle, quantile(took, count, 0.99), quantile(took, count, 0.999),
         took[count - 1], more);
}

/* In [0, 1). */
static inline double chance(uint64_t *seed) {
  *seed = *seed * 6364136223846793005u + 1442695040888963407u;
  return (double)(*seed >> 11) / 9007199254740992.0;
}

/* Call number i of n: 20 models on 5 engines, in the order of time, every figure of the reference's table set. */
static inline tj_telemetry_record sample(uint64_t *seed, long i, long n) {
  static const char models[20][9] = {"model-00", "model-01", "model-02", "model-03", "model-04", "model-05", "model-06",
                                     "model-07", "model-08", "model-09", "model-10", "model-11", "model-12", "model-13",
                                     "model-14", "model-15", "model-16", "model-17", "model-18", "model-19"};
  static const char *const engines[5] = {"llama.cpp", "vllm", "sglang", "mlx", "ollama"};
  tj_telemetry_record r = TJ_TELEMETRY_RECORD_INIT;
  r.timestamp = FIRST + ((double)i + chance(seed)) / (double)n * 30 * DAY;
  r.model_id = models[(int)(chance(seed) * 20)], r.engine = engines[(int)(chance(seed) * 5)], r.agent = "bench";
  r.prompt_tokens = r.prompt_tokens_evaluated = (uint64_t)(chance(seed) * 4000);
  r.completion_tokens = 1 + (uint64_t)(chance(seed) * 1000);
  r.latency_seconds = 0.05 / (1.001 - chance(seed)); /* 0.05 to 50 s, most of them short */
  r.ttft = r.prefill_latency_seconds = r.latency_seconds * 0.2, r.decode_latency_seconds = r.latency_seconds * 0.8;
  r.power_watts = 150 + 100 * chance(seed), r.energy_joules = r.power_watts * r.latency_seconds;
  r.cpu_energy_joules = r.energy_joules * 0.2, r.gpu_energy_joules = r.energy_joules * 0.7;
  r.dram_energy_joules = r.energy_joules * 0.1;
  r.prefill_energy_joules = r.energy_joules * 0.3, r.decode_energy_joules = r.energy_joules * 0.7;
  r.energy_method = "hw_counter", r.energy_vendor = "nvidia";
  r.cost_usd = r.energy_joules * 1e-7;
  r.gpu_utilization_pct = 100 * chance(seed), r.gpu_memory_used_gb = 20.5, r.gpu_temperature_c = 40 + 40 * chance(seed);
  r.throughput_tok_per_sec = (double)r.completion_tokens / r.latency_seconds;
  r.tokens_per_joule = (double)r.completion_tokens / r.energy_joules;
  r.energy_per_output_token_joules = r.energy_joules / (double)r.completion_tokens;
  r.throughput_per_watt = r.throughput_tok_per_sec / r.power_watts;
  r.mean_itl_ms = 1e3 * r.decode_latency_seconds / (double)r.completion_tokens, r.median_itl_ms = r.mean_itl_ms * 0.9;
  r.p90_itl_ms = r.mean_itl_ms * 1.5, r.p95_itl_ms = r.mean_itl_ms * 2, r.p99_itl_ms = r.mean_itl_ms * 3;
  r.std_itl_ms = r.mean_itl_ms * 0.4, r.is_streaming = 1, r.token_counting_version = 2;
  return r;
}

static inline tj_store *open_store(const char *path) {
  tj_store *store;
  tj_error error;
  check(tj_store_open(path, NULL, &store, &error), &error);
  return store;
}

/* How many records go in one go between two rests: they fit into half of the journal, which holds 20,000 of them. */
#define BURST 4000

/* Lets the writer keep up, as it does with a real engine: waits until a quarter of the journal is in use at most. */
static inline void let_it_keep_up(tj_store *store) {
  tj_health health = TJ_HEALTH_INIT;
  do {
    tj_error error;
    rest_ms(10);
    check(tj_store_health(store, &health, &error), &error);
  } while (health.journal_used > health.journal_size / 4);
}

#endif
