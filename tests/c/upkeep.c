/*
 * Looking after a store: its health, what deletes records, the rollups and whether they are right.
 *
 *   upkeep --verify PATH      prints what tj_store_verify says of a database that tests/contract.rs has tampered with
 *   upkeep --rollup PATH      stops tj_store_rollup at its second step, and goes on, on a database of 25,000 records
 *                             that are not in the rollups
 *   upkeep --background PATH  waits until the store has made them by itself
 */
#include "calls.h"

/* ---- Deleting ---- */

static void clear_and_prune_are_the_only_ways_out(void) {
  char path[4096];
  tj_store *store;
  uint64_t deleted = 99;
  double t;
  snprintf(path, sizeof path, "%s/pruned", check_folder);
  store = check_open(path);
  for (t = 100; t < 110; t++) {
    tj_telemetry_record record = call_of("m", "e", t);
    add(store, &record);
  }
  CHECK_OK(tj_store_prune(store, 0, &deleted, &error));
  CHECK_EQ(deleted, 0);
  CHECK_OK(tj_store_prune(store, 103, &deleted, &error)); /* from before 103: 100, 101, 102 */
  CHECK_EQ(deleted, 3);
  CHECK_EQ(calls(store, NULL), 7), CHECK_EQ(check_count(store), 7);
  CHECK_OK(tj_store_prune(store, nextafter(103, INFINITY), &deleted, &error));
  CHECK_EQ(deleted, 1);
  CHECK_OK(tj_store_close(store, &error)); /* takes nothing away */
  store = check_open(path);
  CHECK_EQ(calls(store, NULL), 6);
  CHECK_OK(tj_store_clear(store, &deleted, &error));
  CHECK_EQ(deleted, 6);
  CHECK_EQ(calls(store, NULL), 0), CHECK_EQ(check_count(store), 0);
  CHECK_OK(tj_store_clear(store, &deleted, &error));
  CHECK_EQ(deleted, 0);
  CHECK_OK(tj_store_close(store, &error));
}

/* 500 calls, one a second. */
static void add_500_from(tj_store *store, double begin) {
  int n;
  for (n = 0; n < 500; n++) {
    tj_telemetry_record record = call_of(n % 3 ? "m" : "n", "e", begin + n);
    record.latency_seconds = 0.5 + n, record.prompt_tokens = 10;
    add(store, &record);
  }
}

/* What is deleted stays in the answers, percentiles included. tests/retention.rs has more of it. */
static void rollups_can_outlive_their_records(void) {
  const double hour = 1699999200;
  tj_store_options options = TJ_STORE_OPTIONS_INIT;
  tj_store *store;
  tj_aggregated_stats before, after;
  uint64_t deleted = 99;
  options.keep_rollups = 1;
  CHECK_OK(tj_store_open(check_path("kept"), &options, &store, &error));
  add_500_from(store, hour + 3400); /* 200 of them in the first hour */
  before = ask(store, NULL);
  CHECK_OK(tj_store_prune(store, hour + 3599, &deleted, &error)); /* rounded down: nothing */
  CHECK_EQ(deleted, 0);
  CHECK_OK(tj_store_prune(store, hour + 3700, &deleted, &error));
  CHECK_EQ(deleted, 200);
  CHECK_EQ(check_count(store), 300);
  after = ask(store, NULL);
  CHECK_EQ(after.total_calls, 500), CHECK_EQ(after.total_tokens, before.total_tokens);
  CHECK_EQ(after.latency.count, 500), CHECK_NUM(after.latency.min, 0.5);
  CHECK_NEAR(after.total_latency, before.total_latency, 1e-9);
  CHECK_NEAR(after.latency.p50, before.latency.p50, 1e-9), CHECK_NEAR(after.latency.p99, before.latency.p99, 1e-9);
  CHECK_EQ(after.per_model[0].call_count, before.per_model[0].call_count);
  tj_aggregated_stats_free(&before), tj_aggregated_stats_free(&after);
  CHECK_OK(tj_store_clear(store, &deleted, &error)); /* these summaries, too */
  CHECK_EQ(deleted, 300);
  CHECK_EQ(calls(store, NULL), 0);
  CHECK_OK(tj_store_close(store, &error));
}

static void wait_for_count_below(tj_store *store, uint64_t limit) {
  double deadline = check_monotonic() + 30;
  while (check_count(store) >= limit && check_monotonic() < deadline) {
    check_sleep_ms(20);
  }
  CHECK(check_count(store) < limit);
}

static void old_records_go_by_age_and_by_size(void) {
  tj_store_options options = TJ_STORE_OPTIONS_INIT;
  tj_store *store;
  double now = check_wall_clock();
  options.commit_interval_ms = 10;
  options.max_age_seconds = 100000;
  CHECK_OK(tj_store_open(check_path("aged"), &options, &store, &error));
  add_500_from(store, now - 200000);
  add_500_from(store, now - 1000);
  wait_for_count_below(store, 501);
  CHECK_EQ(check_count(store), 500);
  CHECK_EQ(check_health(store).pruned, 500);
  CHECK_NUM(check_health(store).oldest_timestamp, now - 1000);
  CHECK_OK(tj_store_close(store, &error));

  options.max_age_seconds = 0, options.max_bytes = 4096; /* which not even an empty one keeps to */
  CHECK_OK(tj_store_open(check_path("aged"), &options, &store, &error));
  wait_for_count_below(store, 1);
  CHECK_EQ(check_health(store).pruned, 500);
  CHECK_OK(tj_store_close(store, &error));
}

/* ---- Rollups ---- */

static uint64_t verified(tj_store *store) {
  uint64_t differences = 99;
  CHECK_OK(tj_store_verify(store, NULL, NULL, &differences, &error));
  return differences;
}

static void fail_on_difference(const tj_difference *difference, void *user_data) {
  (void)user_data;
  check_fail(__FILE__, __LINE__, "%s is %g, not %g", difference->what, difference->found, difference->expected);
}

static void add_500(tj_store *store) { add_500_from(store, 1700000000); }

static void a_healthy_store_has_no_differences(void) {
  const char *const paths[] = {":memory:", "healthy"};
  int round;
  for (round = 0; round < 2; round++) {
    tj_store *store = check_open(round == 0 ? paths[round] : check_path(paths[round]));
    uint64_t number = 99;
    CHECK_EQ(verified(store), 0); /* also an empty one */
    add_500(store);
    CHECK_EQ(verified(store), 0);
    CHECK_OK(tj_store_rollup(store, NULL, NULL, &number, &error));
    CHECK_EQ(number, 0);
    CHECK_OK(tj_store_verify(store, fail_on_difference, NULL, &number, &error));
    CHECK_EQ(number, 0);
    CHECK_OK(tj_store_prune(store, 1700000100, &number, &error));
    CHECK_EQ(verified(store), 0);
    CHECK_OK(tj_store_clear(store, &number, &error));
    CHECK_EQ(verified(store), 0);
    CHECK_OK(tj_store_close(store, &error));
  }
}

typedef struct steps {
  size_t count, stop_at;
  uint64_t done[64], total[64];
  tj_store *store;
} steps;

static int32_t note_step(uint64_t done, uint64_t total, void *user_data) {
  steps *it = (steps *)user_data;
  if (it->count < 64) {
    it->done[it->count] = done, it->total[it->count] = total;
  }
  it->count++;
  return it->count == it->stop_at ? -7 : 0;
}

static void rollups_are_made_when_asked_for(void) {
  tj_store *store = check_open(":memory:");
  steps seen = {0, 0, {0}, {0}, NULL};
  uint64_t left = 99;
  add_500(store);
  CHECK_EQ(check_health(store).rollups_waiting, 500); /* too few for the store to bother yet */
  CHECK_OK(tj_store_rollup(store, note_step, &seen, &left, &error));
  CHECK_EQ(left, 0);
  CHECK_EQ(seen.count, 2);
  CHECK_EQ(seen.done[0], 0), CHECK_EQ(seen.total[0], 500);
  CHECK_EQ(seen.done[1], 500), CHECK_EQ(seen.total[1], 500);
  CHECK_EQ(check_health(store).rollups_waiting, 0);
  CHECK_EQ(calls(store, NULL), 500);

  memset(&seen, 0, sizeof seen); /* there is nothing to do: only the end */
  CHECK_OK(tj_store_rollup(store, note_step, &seen, &left, &error));
  CHECK_EQ(left, 0);
  CHECK_EQ(seen.count, 1), CHECK_EQ(seen.done[0], seen.total[0]);
  CHECK_OK(tj_store_close(store, &error));
}

static int32_t use_store(uint64_t done, uint64_t total, void *user_data) {
  steps *it = (steps *)user_data;
  tj_telemetry_record record = call_of("m", "e", 1700000000);
  if (it->count == 0) {
    add(it->store, &record);
    CHECK_EQ(calls(it->store, NULL), 501);
  }
  return note_step(done, total, user_data);
}

/* ---- What tests/contract.rs asks for ---- */

static void print_difference(const tj_difference *it, void *user_data) {
  tj_store *store = (tj_store *)user_data;
  CHECK_EQ(it->struct_size, sizeof *it);
  CHECK(check_count(store) > 0); /* it may use the store */
  printf("%.17g %.17g %s %s %s %s %.17g %.17g\n", it->since, it->until, it->model_id, it->engine, it->agent, it->what,
         it->expected, it->found);
}

/* What a program gets that asks in the background's stead. */
static tj_store *open_without_a_background(const char *path) {
  tj_store_options options = TJ_STORE_OPTIONS_INIT;
  tj_store *store = NULL;
  options.commit_interval_ms = 3600 * 1000;
  CHECK_OK(tj_store_open(path, &options, &store, &error));
  return store;
}

static void print_differences(const char *path) {
  tj_store *store = open_without_a_background(path);
  uint64_t differences = 0;
  tj_status status = tj_store_verify(store, print_difference, store, &differences, &error);
  printf("%s %" PRIu64 "\n", tj_status_name(status), differences);
  CHECK_OK(tj_store_close(store, &error));
}

static void stop_and_go_on(const char *path) {
  tj_store *store = open_without_a_background(path);
  steps seen = {0, 2, {0}, {0}, NULL};
  uint64_t left = 99, again = 99;
  size_t i;
  CHECK_EQ(check_health(store).rollups_waiting, 25000);
  CHECK_OK(tj_store_rollup(store, note_step, &seen, &left, &error));
  CHECK_EQ(seen.count, 2);
  CHECK_EQ(seen.done[0], 0), CHECK_EQ(seen.total[0], 25000), CHECK_EQ(seen.total[1], 25000);
  CHECK(seen.done[1] > 0 && seen.done[1] < 25000);
  CHECK_EQ(left, 25000 - seen.done[1]); /* what is done stays done */
  CHECK_EQ(check_health(store).rollups_waiting, left);
  CHECK_EQ(calls(store, NULL), 25000); /* never another answer */
  CHECK_OK(tj_store_close(store, &error));

  store = open_without_a_background(path);
  memset(&seen, 0, sizeof seen);
  CHECK_OK(tj_store_rollup(store, note_step, &seen, &again, &error));
  CHECK_EQ(again, 0);
  CHECK(seen.count >= 3);
  CHECK_EQ(seen.total[0], left); /* it goes on where it was */
  for (i = 1; i < seen.count; i++) {
    CHECK(seen.done[i] > seen.done[i - 1]);
  }
  CHECK_EQ(seen.done[seen.count - 1], left);
  CHECK_EQ(check_health(store).rollups_waiting, 0);
  CHECK_EQ(calls(store, NULL), 25000);
  CHECK_EQ(verified(store), 0);
  CHECK_OK(tj_store_close(store, &error));
}

static void wait_for_the_background(const char *path) {
  tj_store *store = check_open(path);
  double deadline = check_monotonic() + 60;
  while (check_health(store).rollups_waiting >= 1000 && check_monotonic() < deadline) {
    check_sleep_ms(20);
  }
  CHECK(check_health(store).rollups_waiting < 1000);
  CHECK_EQ(check_health(store).last_status, TJ_OK);
  CHECK_EQ(calls(store, NULL), 25000);
  CHECK_EQ(verified(store), 0);
  CHECK_OK(tj_store_close(store, &error));
}

static void progress_may_use_the_store(void) {
  tj_store *store = check_open(check_path("progress"));
  steps seen = {0, 0, {0}, {0}, store};
  uint64_t left = 99;
  add_500(store);
  CHECK_OK(tj_store_rollup(store, use_store, &seen, &left, &error));
  CHECK_EQ(left, 0);
  CHECK_EQ(check_count(store), 501);
  CHECK_OK(tj_store_close(store, &error));
}

int main(int argc, char **argv) {
  static const check_test tests[] = {
      {"clear and prune are the only ways out", clear_and_prune_are_the_only_ways_out},
      {"rollups can outlive their records", rollups_can_outlive_their_records},
      {"old records go by age and by size", old_records_go_by_age_and_by_size},
      {"a healthy store has no differences", a_healthy_store_has_no_differences},
      {"rollups are made when asked for", rollups_are_made_when_asked_for},
      {"progress may use the store", progress_may_use_the_store},
  };
  static const struct {
    const char *name;
    void (*run)(const char *path);
  } modes[] = {
      {"--verify", print_differences},
      {"--rollup", stop_and_go_on},
      {"--background", wait_for_the_background},
  };
  size_t i;
  for (i = 0; argc == 3 && i < sizeof modes / sizeof *modes; i++) {
    if (strcmp(argv[1], modes[i].name) == 0) {
      modes[i].run(argv[2]);
      return check_failures;
    }
  }
  return CHECK_MAIN(tests);
}
