/* What recording and aggregating cost, through the header as an engine would: `make bench` runs it.
 *
 *     store DATABASE [RECORDS] [THREADS]
 *
 * Records RECORDS calls of 20 models on 5 engines over 30 days, every figure set, from THREADS threads; prints the median
 * and the tail of one tj_record, the rate until all is committed, and how long tj_aggregate takes. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tokenjoule.h"

static tj_store *store;
static long per_thread;

static double now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void check(tj_status status, const tj_error *error) {
  if (status != TJ_OK) {
    fprintf(stderr, "%s: %s\n", tj_status_name(status), error->message);
    exit(1);
  }
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

struct worker {
  pthread_t thread;
  unsigned seed;
  double *took;
};

static double unit(unsigned *seed) {
  *seed = *seed * 1664525u + 1013904223u;
  return (*seed >> 8) / 16777216.0;
}

static void *work(void *data) {
  struct worker *worker = data;
  static const char *engines[] = {"llama.cpp", "vllm", "sglang", "mlx", "ollama"};
  for (long i = 0; i < per_thread; i++) {
    unsigned *seed = &worker->seed;
    char model[16];
    snprintf(model, sizeof model, "model-%02d", (int)(unit(seed) * 20));
    tj_telemetry_record r = TJ_TELEMETRY_RECORD_INIT;
    r.timestamp = 1.75e9 + ((double)i + unit(seed)) / (double)per_thread * 30 * 86400; /* as time goes by */
    r.model_id = model;
    r.engine = engines[(int)(unit(seed) * 5)];
    r.agent = "bench";
    r.prompt_tokens = r.prompt_tokens_evaluated = (uint64_t)(unit(seed) * 4000);
    r.completion_tokens = 1 + (uint64_t)(unit(seed) * 1000);
    r.latency_seconds = 0.01 + exp(unit(seed) * 6 - 3);
    r.ttft = r.prefill_latency_seconds = r.latency_seconds * 0.2;
    r.decode_latency_seconds = r.latency_seconds * 0.8;
    r.cost_usd = 0.001, r.energy_joules = 50 + unit(seed), r.power_watts = 200;
    r.gpu_utilization_pct = 80, r.gpu_memory_used_gb = 20, r.gpu_temperature_c = 60;
    r.throughput_tok_per_sec = (double)r.completion_tokens / r.latency_seconds;
    r.energy_method = "hw_counter", r.energy_vendor = "nvidia";
    r.cpu_energy_joules = 10, r.gpu_energy_joules = 40, r.dram_energy_joules = 1;
    r.tokens_per_joule = (double)r.completion_tokens / r.energy_joules;
    r.energy_per_output_token_joules = 1 / r.tokens_per_joule;
    r.throughput_per_watt = r.throughput_tok_per_sec / 200;
    r.prefill_energy_joules = 10, r.decode_energy_joules = 40;
    r.mean_itl_ms = 20 + unit(seed), r.median_itl_ms = 20, r.p90_itl_ms = 25, r.p95_itl_ms = 30;
    r.p99_itl_ms = 40, r.std_itl_ms = 5, r.is_streaming = 1, r.token_counting_version = 2;
    tj_error error;
    double begin = now_ns();
    tj_status status = tj_record(store, &r, &error);
    worker->took[i] = now_ns() - begin;
    check(status, &error);
  }
  return NULL;
}

static void aggregate(const char *what, double since, double until) {
  double took[15];
  uint64_t calls = 0;
  for (int i = 0; i < 15; i++) {
    tj_query query = TJ_QUERY_INIT;
    query.since = since, query.until = until;
    tj_aggregated_stats stats = TJ_AGGREGATED_STATS_INIT;
    tj_error error;
    double begin = now_ns();
    check(tj_aggregate(store, &query, &stats, &error), &error);
    took[i] = now_ns() - begin;
    calls = stats.total_calls;
    tj_aggregated_stats_free(&stats);
  }
  qsort(took, 15, sizeof took[0], ascending);
  printf("tj_aggregate, %-10s %10.3f ms   (%llu calls)\n", what, took[7] / 1e6, (unsigned long long)calls);
}

int main(int argc, char **argv) {
  if (argc < 2) return fprintf(stderr, "usage: store DATABASE [RECORDS] [THREADS]\n"), 2;
  long records = argc > 2 ? atol(argv[2]) : 100000;
  int threads = argc > 3 ? atoi(argv[3]) : 1;
  if (records < 1 || threads < 1) return fprintf(stderr, "RECORDS and THREADS are at least 1\n"), 2;
  per_thread = records / threads;

  tj_error error;
  check(tj_store_open(argv[1], NULL, &store, &error), &error);
  struct worker *workers = calloc((size_t)threads, sizeof *workers);
  double *all = malloc((size_t)(per_thread * threads) * sizeof *all);
  if (!workers || !all) return 1;
  double begin = now_ns();
  for (int t = 0; t < threads; t++) {
    workers[t].seed = 12345u + (unsigned)t * 777u;
    workers[t].took = all + per_thread * t;
    if (pthread_create(&workers[t].thread, NULL, work, &workers[t])) return 1;
  }
  for (int t = 0; t < threads; t++) pthread_join(workers[t].thread, NULL);
  check(tj_store_flush(store, &error), &error);
  double seconds = (now_ns() - begin) / 1e9;

  long n = per_thread * threads;
  qsort(all, (size_t)n, sizeof *all, ascending);
  printf("tj_record, %d thread%s   median %.0f ns, p99 %.0f ns, p99.9 %.0f ns, max %.0f ns   (%ld records)\n", threads,
         threads > 1 ? "s" : "", all[n / 2], all[n * 99 / 100], all[n * 999 / 1000], all[n - 1], n);
  printf("until committed       %.0f records/s\n", (double)n / seconds);
  aggregate("all", 0, 0);
  aggregate("7 days", 1.75e9 + 10 * 86400, 1.75e9 + 17 * 86400);
  aggregate("1 hour", 1.75e9 + 10 * 86400, 1.75e9 + 10 * 86400 + 3600);
  check(tj_store_close(store, &error), &error);
  free(all);
  free(workers);
  return 0;
}
