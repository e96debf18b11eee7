/* What tj_record costs its caller.
 *
 *     record hot|cold|threads|sustained DATABASE RECORDS
 *
 * hot        one thread, at a pace that the writer keeps up with
 * cold       the same, the caches walked over before each record: the real case between two inferences
 * threads    four threads at once, at such a pace
 * sustained  one thread as fast as it can, until all is committed */
#include <pthread.h>

#include "bench.h"

static tj_store *store;

static double record_ns(const tj_telemetry_record *r) {
  tj_error error;
  double begin = now_ns();
  tj_status status = tj_record(store, r, &error);
  double took = now_ns() - begin;
  check(status, &error);
  return took;
}

/* The journal's pages are touched for the first time here. */
static void warm_up(long records) {
  uint64_t seed = 1;
  for (long i = 0; i < records; i++) {
    if (i % BURST == 0) let_it_keep_up(store);
    tj_telemetry_record r = sample(&seed, i, records);
    record_ns(&r);
  }
}

static void hot(long records) {
  double *took = some((size_t)records, sizeof *took);
  uint64_t seed = 2;
  for (long i = 0; i < records; i++) {
    if (i % BURST == 0) let_it_keep_up(store);
    tj_telemetry_record r = sample(&seed, i, records);
    took[i] = record_ns(&r);
  }
  print_times("record.hot", took, records, "");
  free(took);
}

static void cold(long records) {
  enum { WALK = 64 << 20, LINE = 64 }; /* more than the last-level cache of most machines */
  volatile char *memory = some(WALK, 1);
  double *took = some((size_t)records, sizeof *took);
  uint64_t seed = 3;
  for (long i = 0; i < records; i++) {
    for (long at = 0; at < WALK; at += LINE) memory[at]++;
    tj_telemetry_record r = sample(&seed, i, records); /* the engine has just filled it in */
    took[i] = record_ns(&r);
  }
  print_times("record.cold", took, records, "");
  free(took);
  free((void *)memory);
}

enum { THREADS = 4, ROUND = BURST / THREADS };

static struct worker {
  pthread_t thread;
  uint64_t seed;
  double *took; /* each record */
  double sum;   /* all rounds, from its first record to its last */
} workers[THREADS];
static long rounds;
static pthread_barrier_t gate;

static void *work(void *data) {
  struct worker *worker = data;
  for (long round = 0; round < rounds; round++) {
    pthread_barrier_wait(&gate);
    double begin = now_ns();
    for (long i = round * ROUND; i < (round + 1) * ROUND; i++) {
      tj_telemetry_record r = sample(&worker->seed, i, rounds * ROUND);
      worker->took[i] = record_ns(&r);
    }
    worker->sum += now_ns() - begin;
    pthread_barrier_wait(&gate);
  }
  return NULL;
}

static void threads(long records) {
  rounds = (records + BURST - 1) / BURST;
  double *took = some((size_t)(rounds * BURST), sizeof *took);
  pthread_barrier_init(&gate, NULL, THREADS + 1);
  for (int t = 0; t < THREADS; t++) {
    workers[t].seed = 10 + (uint64_t)t;
    workers[t].took = took + rounds * ROUND * t;
    if (pthread_create(&workers[t].thread, NULL, work, &workers[t])) exit(fprintf(stderr, "no thread\n"));
  }
  for (long round = 0; round < rounds; round++) {
    let_it_keep_up(store);
    pthread_barrier_wait(&gate); /* go */
    pthread_barrier_wait(&gate); /* all are done */
  }
  double sums[THREADS];
  for (int t = 0; t < THREADS; t++) {
    pthread_join(workers[t].thread, NULL);
    sums[t] = workers[t].sum;
  }
  qsort(sums, THREADS, sizeof *sums, ascending);
  char more[80];
  snprintf(more, sizeof more, ", \"fastest_ns\": %.0f, \"slowest_ns\": %.0f", sums[0], sums[THREADS - 1]);
  print_times("record.threads", took, rounds * BURST, more);
  free(took);
}

static void sustained(long records) {
  tj_error error;
  uint64_t seed = 4;
  double begin = now_ns();
  for (long i = 0; i < records; i++) {
    tj_telemetry_record r = sample(&seed, i, records);
    check(tj_record(store, &r, &error), &error);
  }
  check(tj_store_flush(store, &error), &error);
  double took = now_ns() - begin;
  printf("{\"what\": \"sustained\", \"records\": %ld, \"per_second\": %.0f}\n", records, (double)records / took * 1e9);
}

int main(int argc, char **argv) {
  long records = argc == 4 ? atol(argv[3]) : 0;
  if (records < 1) return fprintf(stderr, "usage: record hot|cold|threads|sustained DATABASE RECORDS\n"), 2;
  store = open_store(argv[2]);
  if (strcmp(argv[1], "sustained") == 0) {
    sustained(records);
  } else {
    warm_up(records < 10 * BURST ? records : 10 * BURST); /* twice through the journal */
    if (strcmp(argv[1], "hot") == 0) hot(records);
    if (strcmp(argv[1], "cold") == 0) cold(records);
    if (strcmp(argv[1], "threads") == 0) threads(records);
  }
  tj_error error;
  check(tj_store_close(store, &error), &error);
  return 0;
}
