/* What tj_aggregate costs, and how much memory a store takes.
 *
 *     aggregate fill DATABASE RECORDS          30 days of calls in the order of time, then one question of each kind
 *     aggregate ask DATABASE TIMES SECONDS     each kind of question TIMES times, or as often as fits into SECONDS */
#include "bench.h"

static tj_store *store;
static uint64_t seed = 5;

/* A line of /proc/self/status, in KiB. */
static long status_kib(const char *name) {
  char line[256];
  long kib = -1;
  FILE *status = fopen("/proc/self/status", "r");
  while (status && fgets(line, sizeof line, status)) {
    if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ':') kib = atol(line + strlen(name) + 1);
  }
  if (status) fclose(status);
  return kib;
}

/* A range of so many seconds that begins anywhere, on no round minute; 0: everything. */
static tj_query question(double seconds) {
  tj_query query = TJ_QUERY_INIT;
  if (seconds > 0) {
    query.since = FIRST + chance(&seed) * (30 * DAY - seconds);
    query.until = query.since + seconds;
  }
  return query;
}

static double ask_ns(const tj_query *query, uint64_t *calls) {
  tj_aggregated_stats stats = TJ_AGGREGATED_STATS_INIT;
  tj_error error;
  double begin = now_ns();
  check(tj_aggregate(store, query, &stats, &error), &error);
  double took = now_ns() - begin;
  *calls = stats.total_calls;
  tj_aggregated_stats_free(&stats);
  return took;
}

static const struct {
  const char *name;
  double seconds;
} kinds[] = {{"everything", 0}, {"7 days", 7 * DAY}, {"1 hour", 3600}};
enum { KINDS = sizeof kinds / sizeof *kinds };

static void fill(const char *path, long records) {
  long before = status_kib("VmRSS");
  store = open_store(path);
  tj_error error;
  double begin = now_ns();
  for (long i = 0; i < records; i++) {
    tj_telemetry_record r = sample(&seed, i, records);
    check(tj_record(store, &r, &error), &error);
  }
  check(tj_store_flush(store, &error), &error);
  double took = now_ns() - begin;
  for (int kind = 0; kind < KINDS; kind++) {
    tj_query query = question(kinds[kind].seconds);
    uint64_t calls;
    ask_ns(&query, &calls);
  }
  printf("{\"what\": \"fill\", \"records\": %ld, \"per_second\": %.0f, \"rss_before_kib\": %ld, \"peak_kib\": %ld}\n",
         records, (double)records / took * 1e9, before, status_kib("VmHWM"));
}

/* A question counts as its median of three. */
static void ask(int kind, long times, double seconds) {
  double *took = some((size_t)times, sizeof *took), began = now_ns(), first = 0;
  char ranges[512] = "";
  uint64_t calls = 0;
  long asked = 0;
  while (asked < times && (asked < 3 || now_ns() - began < seconds * 1e9)) {
    tj_query query = question(kinds[kind].seconds);
    double three[3];
    for (int i = 0; i < 3; i++) three[i] = ask_ns(&query, &calls);
    if (asked == 0) first = three[0];
    if (asked < 3) { /* for the peer to be asked the same */
      size_t end = strlen(ranges);
      snprintf(ranges + end, sizeof ranges - end, "%s[%.6f, %.6f]", asked ? ", " : "", query.since, query.until);
    }
    took[asked++] = median(three, 3);
  }
  double middle = median(took, asked);
  printf("{\"what\": \"%s\", \"questions\": %ld, \"first_ns\": %.0f, \"median_ns\": %.0f, \"worst_ns\": %.0f, "
         "\"calls\": %llu, \"ranges\": [%s]}\n",
         kinds[kind].name, asked, first, middle, took[asked - 1], (unsigned long long)calls, ranges);
  free(took);
}

int main(int argc, char **argv) {
  if (argc == 4 && strcmp(argv[1], "fill") == 0) {
    fill(argv[2], atol(argv[3]));
  } else if (argc == 5 && strcmp(argv[1], "ask") == 0) {
    double begin = now_ns();
    store = open_store(argv[2]);
    printf("{\"what\": \"open\", \"open_ns\": %.0f}\n", now_ns() - begin);
    for (int kind = 0; kind < KINDS; kind++) ask(kind, atol(argv[3]), atof(argv[4]));
  } else {
    return fprintf(stderr, "usage: aggregate fill DATABASE RECORDS | ask DATABASE TIMES SECONDS\n"), 2;
  }
  tj_error error;
  check(tj_store_close(store, &error), &error);
  return 0;
}
