/*
 * Calls, step by step: times, ends, several at once, and whose they are.
 *
 *   call --locked PATH     with a database that tests/contract.rs locks when this program writes "lock" to stdout, and
 *                          unlocks at "unlock"; the answer to either is a line on stdin
 */
#include "tape.h"

#include <pthread.h>

/* ---- tj_call_begin to tj_call_free: times ---- */

enum { EVENTS = 6 };

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

/* By linear interpolation between closest ranks, as metrics.md has it. */
static double percentile(const double *sorted, int count, double q) {
  double rank = q * (count - 1);
  int low = (int)rank, high = low + 1 < count ? low + 1 : low;
  return sorted[low] + (sorted[high] - sorted[low]) * (rank - low);
}

/* Against clock reads around each call, so that the bounds hold on a machine that is busy, too. */
static void ttft_and_itl_are_what_passed_between_tokens(void) {
  static const long pause_ms[EVENTS] = {12, 4, 9, 15, 6, 11};
  double earliest[EVENTS], last[EVENTS], least[EVENTS - 1], most[EVENTS - 1];
  double begin_before, begin_after, end_before, end_after, sum_least = 0, sum_most = 0, slack = 0, mean, squares = 0;
  const tj_telemetry_record *record;
  tj_call *call;
  int i;

  begin_before = check_monotonic();
  call = begin();
  begin_after = check_monotonic();
  tj_call_tokens(call, 0); /* nothing yet */
  for (i = 0; i < EVENTS; i++) {
    check_sleep_ms(pause_ms[i]);
    earliest[i] = check_monotonic();
    tj_call_tokens(call, 1);
    last[i] = check_monotonic();
  }
  check_sleep_ms(3);
  end_before = check_monotonic();
  CHECK_OK(tj_call_end(call, TJ_OUTCOME_OK, NULL, &error));
  end_after = check_monotonic();
  tj_call_free(call);
  record = record_of_the_call();

  CHECK_BETWEEN(record->ttft, earliest[0] - begin_after - 1e-6, last[0] - begin_before + 1e-6);
  CHECK(record->ttft >= 0.012);
  CHECK_BETWEEN(record->latency_seconds, end_before - begin_after - 1e-6, end_after - begin_before + 1e-6);
  CHECK_EQ(record->completion_tokens, EVENTS);
  CHECK_EQ(record->total_tokens, EVENTS);
  CHECK_EQ(record->is_streaming, 1);
  CHECK_NUM(record->prefill_latency_seconds, record->ttft);
  CHECK_NEAR(record->decode_latency_seconds, record->latency_seconds - record->ttft, 1e-9);
  CHECK_NEAR(record->throughput_tok_per_sec, EVENTS / record->latency_seconds, 1e-9);

  for (i = 0; i + 1 < EVENTS; i++) {
    least[i] = (earliest[i + 1] - last[i]) * 1e3 - 1e-3;
    most[i] = (last[i + 1] - earliest[i]) * 1e3 + 1e-3;
    sum_least += least[i], sum_most += most[i], slack += most[i] - least[i];
  }
  CHECK_BETWEEN(record->mean_itl_ms, sum_least / (EVENTS - 1), sum_most / (EVENTS - 1));
  mean = (sum_least + sum_most) / 2 / (EVENTS - 1);
  for (i = 0; i + 1 < EVENTS; i++) {
    double from_mean = (least[i] + most[i]) / 2 - mean;
    squares += from_mean * from_mean;
  }
  CHECK_BETWEEN(record->std_itl_ms, sqrt(squares / (EVENTS - 2)) - slack, sqrt(squares / (EVENTS - 2)) + slack);
  qsort(least, EVENTS - 1, sizeof *least, ascending), qsort(most, EVENTS - 1, sizeof *most, ascending);
#define PERCENTILE(field, q)                                                                                           \
  CHECK_BETWEEN(record->field, 0.99 * percentile(least, EVENTS - 1, q), 1.01 * percentile(most, EVENTS - 1, q))
  PERCENTILE(median_itl_ms, 0.5), PERCENTILE(p90_itl_ms, 0.9);
  PERCENTILE(p95_itl_ms, 0.95), PERCENTILE(p99_itl_ms, 0.99);
}

/* "The gap to each later one, divided by its count, is the inter-token latency of each of its tokens." */
static void a_gap_is_shared_by_the_tokens_after_it(void) {
  double t[6];
  const tj_telemetry_record *record;
  tj_call *call = begin();
  tj_call_tokens(call, 7); /* the first event has no gap, however many tokens */
  t[0] = check_monotonic();
  check_sleep_ms(12);
  t[1] = check_monotonic();
  tj_call_tokens(call, 3); /* 12 ms: 4 ms for each */
  t[2] = check_monotonic();
  check_sleep_ms(8);
  t[3] = check_monotonic();
  tj_call_tokens(call, 1);
  t[4] = check_monotonic();
  CHECK_OK(tj_call_end(call, TJ_OUTCOME_OK, NULL, &error));
  tj_call_free(call);
  record = record_of_the_call();
  CHECK_EQ(record->completion_tokens, 11);
  CHECK_BETWEEN(record->mean_itl_ms, (t[1] - t[0] + t[3] - t[2]) * 1e3 / 4 - 1e-3, (t[4] - t[0] + 1e-3) * 1e3 / 4);
  CHECK_BETWEEN(record->median_itl_ms, 0.99 * (t[1] - t[0]) * 1e3 / 3, 1.01 * (t[2] - t[0] + 1e-4) * 1e3 / 3);
}

static void one_token_has_a_ttft_and_no_itl(void) {
  const tj_telemetry_record *record;
  tj_call *call = begin();
  tj_call_tokens(call, 1);
  CHECK_OK(tj_call_end(call, TJ_OUTCOME_OK, NULL, &error));
  tj_call_free(call);
  record = record_of_the_call();
  CHECK_EQ(record->completion_tokens, 1);
  CHECK(record->ttft > 0);
  CHECK_NUM(record->mean_itl_ms, NAN), CHECK_NUM(record->median_itl_ms, NAN), CHECK_NUM(record->std_itl_ms, NAN);
  CHECK_NUM(record->p90_itl_ms, NAN), CHECK_NUM(record->p95_itl_ms, NAN), CHECK_NUM(record->p99_itl_ms, NAN);
}

static void sleep_300_ms(const tj_event *event, void *user_data) {
  (void)event, (void)user_data;
  check_sleep_ms(300);
}

/* "Publishes TJ_EVENT_INFERENCE_START and starts the clock": in this order. */
static void the_clock_starts_after_the_start_was_told(void) {
  uint64_t subscription;
  tj_call *call;
  CHECK_OK(tj_bus_subscribe(TJ_EVENT_MASK(TJ_EVENT_INFERENCE_START), sleep_300_ms, NULL, NULL, &subscription, &error));
  call = begin();
  CHECK_OK(tj_call_end(call, TJ_OUTCOME_OK, NULL, &error));
  tj_call_free(call);
  CHECK_BETWEEN(record_of_the_call()->latency_seconds, 0, 0.3);
  CHECK_OK(tj_bus_unsubscribe(subscription, &error));
}

/* ---- How calls end ---- */

static void outcomes_are_recorded_as_told(void) {
  uint32_t outcome;
  for (outcome = TJ_OUTCOME_OK; outcome <= TJ_OUTCOME_INTERRUPTED; outcome++) {
    tj_call *call = begin();
    tj_call_cancel(call); /* what the caller says of the end counts, not this */
    tj_call_cancel(call);
    CHECK(tj_call_cancelled(call));
    CHECK_OK(tj_call_end(call, outcome, NULL, &error));
    CHECK_EQ(record_of_the_call()->outcome, outcome);
    tj_call_free(call);
    expect_no_record();
  }
}

static void a_call_without_an_end_is_abandoned(void) {
  const tj_telemetry_record *record;
  tj_call *call = begin();
  tj_call_prompt(call, 9, TJ_UNKNOWN);
  tj_call_tokens(call, 4);
  tj_call_free(call);
  record = record_of_the_call();
  CHECK_EQ(record->outcome, TJ_OUTCOME_ABANDONED);
  CHECK_EQ(record->completion_tokens, 4);
  CHECK_EQ(record->prompt_tokens, 9);
  CHECK_EQ(record->cached_tokens, TJ_UNKNOWN), CHECK_EQ(record->prompt_tokens_evaluated, TJ_UNKNOWN);
}

/* "TJ_ERR_INVALID_ARGUMENT: the message names the field, and the call goes on." */
static void a_refused_end_leaves_the_call_running(void) {
  static const double bad_figures[] = {-1.0, INFINITY, -INFINITY};
  char *long_text = (char *)malloc(64 * 1024 + 2);
  const struct reported *it;
  tj_generate_result result = TJ_GENERATE_RESULT_INIT;
  const tj_generate_result none = TJ_GENERATE_RESULT_INIT;
  tj_call *call = begin();
  size_t i;
  for (EACH(it, reported)) {
    for (i = 0; i < (it->is_count ? 1 : 3); i++) {
      result = none;
      set(&result, it, it->is_count ? 9223372036854775808.0 : bad_figures[i]);
      CHECK_FAILS(tj_call_end(call, TJ_OUTCOME_OK, &result, &error), TJ_ERR_INVALID_ARGUMENT, it->of_result);
    }
  }
  memset(long_text, 'x', 64 * 1024 + 1), long_text[64 * 1024 + 1] = 0;
  result = none, result.finish_reason = long_text;
  CHECK_FAILS(tj_call_end(call, TJ_OUTCOME_OK, &result, &error), TJ_ERR_INVALID_ARGUMENT, "finish_reason");
  result = none, result.error_type = long_text;
  CHECK_FAILS(tj_call_end(call, TJ_OUTCOME_OK, &result, &error), TJ_ERR_INVALID_ARGUMENT, "error_type");
  result = none, result.metadata_json = "[]";
  CHECK_FAILS(tj_call_end(call, TJ_OUTCOME_OK, &result, &error), TJ_ERR_INVALID_ARGUMENT, "metadata_json");
  CHECK_FAILS(tj_call_end(call, 5, NULL, &error), TJ_ERR_INVALID_ARGUMENT, "outcome");
  expect_no_record();
  tj_call_tokens(call, 2); /* the call goes on */
  result = none, result.finish_reason = "stop", result.content = "\xFF";
  CHECK_OK(tj_call_end(call, TJ_OUTCOME_OK, &result, &error));
  CHECK_EQ(record_of_the_call()->completion_tokens, 2);
  tj_call_free(call);
  free(long_text);
}

/* ---- Several calls ---- */

static void calls_at_once_do_not_mix(void) {
  enum { CALLS = 8 };
  tj_call *calls[CALLS];
  int i, n;
  for (i = 0; i < CALLS; i++) {
    calls[i] = begin();
    for (n = 0; n < i; n++) {
      CHECK(tj_call_id(calls[n]) != tj_call_id(calls[i]));
    }
  }
  for (n = 0; n < CALLS; n++) {
    for (i = n; i < CALLS; i++) {
      tj_call_tokens(calls[i], 1);
    }
  }
  tj_call_cancel(calls[3]);
  for (i = 0; i < CALLS; i++) {
    CHECK(tj_call_cancelled(calls[i]) == (i == 3));
  }
  for (i = CALLS - 1; i >= 0; i--) {
    CHECK_OK(tj_call_end(calls[i], TJ_OUTCOME_OK, NULL, &error));
  }
  for (i = CALLS - 1; i >= 0; i--) {
    tj_polled_event polled = TJ_POLLED_EVENT_INIT;
    CHECK_OK(tj_bus_poll(tape, 0, &polled, &error));
    CHECK_EQ(polled.event->call_id, tj_call_id(calls[i]));
    CHECK_EQ(polled.event->record->completion_tokens, i + 1);
    tj_polled_event_free(&polled);
    tj_call_free(calls[i]);
  }
}

static void *generate_20_times(void *user_data) {
  int n;
  (void)user_data;
  for (n = 0; n < 20; n++) {
    script it = {n % 4 == 3, TJ_GENERATE_RESULT_INIT, NULL, 0, NULL};
    tj_generate_result result = TJ_GENERATE_RESULT_INIT;
    tj_engine engine = TJ_ENGINE_INIT;
    tj_generate_request request = some_request();
    it.asked = &request, it.answer.completion_tokens = 1;
    engine.generate = follow_script, engine.engine_data = &it;
    CHECK_EQ(tj_instrumented_generate(&engine, &request, &result, NULL), n % 4 == 3 ? TJ_ERR_ENGINE : TJ_OK);
  }
  return NULL;
}

/* However it goes with a call: every one that was begun is recorded once. */
static void every_begun_call_is_recorded_once(void) {
  tj_store *store = check_open(":memory:");
  tj_aggregated_stats stats = TJ_AGGREGATED_STATS_INIT;
  pthread_t threads[4];
  tj_call *call;
  int i, emptied = 0;
  CHECK_OK(tj_store_subscribe(store, &error));
  for (i = 0; i < 4; i++) {
    CHECK(pthread_create(&threads[i], NULL, generate_20_times, NULL) == 0);
  }
  for (i = 0; i < 4; i++) {
    pthread_join(threads[i], NULL);
  }
  for (i = 0; i < 10; i++) {
    call = begin();
    if (i % 2 == 0) {
      CHECK_OK(tj_call_end(call, TJ_OUTCOME_OK, NULL, &error));
      CHECK_FAILS(tj_call_end(call, TJ_OUTCOME_OK, NULL, &error), TJ_ERR_CLOSED, NULL);
    }
    tj_call_free(call);
  }
  CHECK_OK(tj_aggregate(store, NULL, &stats, &error));
  CHECK_EQ(stats.total_calls, 90);
  CHECK_EQ(stats.error_count, 20);
  CHECK_EQ(stats.total_tokens, 80);
  tj_aggregated_stats_free(&stats);
  do {
    tj_polled_event_free(&latest); /* "also before it is filled again" */
  } while (tj_bus_poll(tape, 0, &latest, NULL) == TJ_OK && ++emptied);
  CHECK_EQ(emptied, 90);
  CHECK_OK(tj_store_close(store, &error));
}

/* ---- Whose a call is ---- */

static uint64_t count_in(const char *path) {
  tj_store *store = check_open(path);
  uint64_t count = check_count(store);
  CHECK_OK(tj_store_close(store, &error));
  return count;
}

static void subscribe(tj_store *store) { CHECK_OK(tj_store_subscribe(store, &error)); }

/* "A call belongs to the stores that were subscribed when it began." */
static void a_call_belongs_to_the_stores_subscribed_when_it_began(void) {
  tj_store *before = check_open(":memory:"), *twice = check_open(":memory:"), *after = check_open(":memory:");
  tj_store *left = check_open(":memory:"), *never = check_open(":memory:");
  tj_call *call;
  subscribe(before), subscribe(twice), subscribe(twice), subscribe(left);
  CHECK_OK(tj_store_unsubscribe(left, &error));
  CHECK_OK(tj_store_unsubscribe(never, &error)); /* "a store that is not subscribed is fine" */
  call = begin();
  subscribe(after);
  CHECK_OK(tj_call_end(call, TJ_OUTCOME_OK, NULL, &error));
  tj_call_free(call);
  record_of_the_call();
  CHECK_EQ(check_count(before), 1);
  CHECK_EQ(check_count(twice), 1); /* subscribing twice is the same as once */
  CHECK_EQ(check_count(after), 0);
  CHECK_EQ(check_count(left), 0);
  CHECK_EQ(check_count(never), 0);
  call = begin();
  tj_call_free(call);
  record_of_the_call();
  CHECK_EQ(check_count(before), 2), CHECK_EQ(check_count(twice), 2), CHECK_EQ(check_count(after), 1);
  CHECK_OK(tj_store_unsubscribe(twice, &error)); /* once is enough */
  call = begin();
  tj_call_free(call);
  record_of_the_call();
  CHECK_EQ(check_count(twice), 2);
  CHECK_OK(tj_store_close(before, &error)), CHECK_OK(tj_store_close(twice, &error));
  CHECK_OK(tj_store_close(after, &error)), CHECK_OK(tj_store_close(left, &error));
  CHECK_OK(tj_store_close(never, &error));
}

/* "A call that is still in flight keeps the database open until it has ended, and is recorded." */
static void a_store_that_goes_in_mid_call_still_gets_it(void) {
  tj_store *unsubscribed = check_open(check_path("unsubscribed")), *closed = check_open(check_path("closed"));
  tj_call *first, *second, *late;
  tj_health health;
  subscribe(unsubscribed), subscribe(closed);
  first = begin(), second = begin();
  CHECK_OK(tj_store_unsubscribe(unsubscribed, &error));
  CHECK_OK(tj_store_close(closed, &error));
  CHECK_FAILS(tj_store_flush(closed, &error), TJ_ERR_CLOSED, "store");
  late = begin(); /* belongs to neither */
  CHECK_OK(tj_call_end(first, TJ_OUTCOME_OK, NULL, &error));
  record_of_the_call();
  tj_call_free(second); /* abandoned, and recorded all the same */
  record_of_the_call();
  tj_call_free(late);
  record_of_the_call();
  tj_call_free(first);
  CHECK_EQ(check_count(unsubscribed), 2);
  health = check_health(closed);
  CHECK(health.recorded == 2 && health.failed == 0 && health.refused == 0);
  CHECK_OK(tj_store_close(unsubscribed, &error));
  CHECK_EQ(count_in(check_path("unsubscribed")), 2);
  CHECK_EQ(count_in(check_path("closed")), 2);
}

/* "Prompts and answers pass through by pointer; they are never stored", nor told to anybody on the bus. */
static void look_for_secrets(const tj_event *event, void *user_data) {
  *(int *)user_data += 1;
  CHECK(strstr(event->data_json, "SECRET") == NULL);
  CHECK(event->record == NULL || strstr(event->record->metadata_json, "SECRET") == NULL);
}

static int file_contains(const char *path, const char *text) {
  FILE *file = fopen(path, "rb");
  static char content[4 * 1024 * 1024];
  size_t size, i, length = strlen(text);
  if (file == NULL) {
    return 0;
  }
  size = fread(content, 1, sizeof content, file);
  fclose(file);
  for (i = 0; i + length <= size; i++) {
    if (memcmp(content + i, text, length) == 0) {
      return 1;
    }
  }
  return 0;
}

static void prompts_and_answers_are_never_stored(void) {
  script it = {0, TJ_GENERATE_RESULT_INIT, tell_of_tokens, 0, NULL};
  tj_generate_result result = TJ_GENERATE_RESULT_INIT;
  tj_store *store = check_open(check_path("discreet"));
  uint64_t subscription;
  int events = 0;
  CHECK_OK(tj_bus_subscribe(TJ_EVENT_MASK_ALL, look_for_secrets, &events, NULL, &subscription, &error));
  subscribe(store);
  it.answer.content = "SECRET-ANSWER";
  CHECK_OK(generate(&it, &result));
  CHECK_STR(result.content, "SECRET-ANSWER");
  record_of_the_call();
  CHECK_EQ(events, 3);
  CHECK_OK(tj_bus_unsubscribe(subscription, &error));
  CHECK(!file_contains(check_path("discreet-wal"), "SECRET"));
  CHECK_OK(tj_store_close(store, &error));
  CHECK(file_contains(check_path("discreet"), "scripted"));
  CHECK(!file_contains(check_path("discreet"), "SECRET"));
}

/* ---- A store that cannot record ---- */

static void ask_the_harness(const char *what) {
  char line[64];
  puts(what);
  fflush(stdout);
  CHECK(fgets(line, sizeof line, stdin) != NULL);
}

static void a_locked_database_breaks_no_generation(const char *path) {
  tj_store_options options = TJ_STORE_OPTIONS_INIT;
  tj_store *locked, *healthy = check_open(":memory:");
  script it = {0, TJ_GENERATE_RESULT_INIT, tell_of_tokens, 0, NULL};
  tj_generate_result result = TJ_GENERATE_RESULT_INIT;
  tj_telemetry_record record = TJ_TELEMETRY_RECORD_INIT;
  tj_health health;
  tj_status status;
  uint64_t recorded_by_hand;
  int tries;
  options.busy_timeout_ms = 20;
  CHECK_OK(tj_store_open(path, &options, &locked, &error));
  subscribe(locked), subscribe(healthy);
  ask_the_harness("lock");

  CHECK_OK(generate(&it, &result)); /* as if nothing were */
  it.code = 5;
  CHECK_ENGINE_FAILS(generate(&it, &result), 5, NULL); /* the engine's error, not the store's */
  {
    tj_call *call = begin();
    CHECK_OK(tj_call_end(call, TJ_OUTCOME_OK, NULL, &error));
    tj_call_free(call);
  }
  CHECK_EQ(check_count(healthy), 3); /* the other store is no worse for it */

  /* By hand: TJ_OK means that it is kept, TJ_ERR_BUSY that it is not. */
  record.model_id = "by hand";
  status = tj_record(locked, &record, &error);
  CHECK(status == TJ_OK || status == TJ_ERR_BUSY);
  recorded_by_hand = status == TJ_OK;

  for (tries = 0; (health = check_health(locked)).last_status == TJ_OK && tries < 500; tries++) {
    check_sleep_ms(10);
  }
  CHECK_EQ(health.last_status, TJ_ERR_BUSY);
  CHECK(health.last_message[0] != 0);
  CHECK_BETWEEN(health.last_failure_time, check_wall_clock() - 60, check_wall_clock());
  CHECK_EQ(health.recorded + health.failed, 4); /* nothing is dropped in silence */
  CHECK_EQ(health.refused, 0);

  ask_the_harness("unlock");
  record.model_id = "after";
  CHECK_OK(tj_record(locked, &record, &error)); /* it has recovered */
  CHECK_OK(tj_store_flush(locked, &error));
  health = check_health(locked);
  CHECK_EQ(health.recorded + health.failed, 5);
  CHECK_EQ(check_count(locked), health.recorded);
  CHECK(health.recorded >= recorded_by_hand + 1);
  CHECK_OK(tj_store_close(locked, &error));
  CHECK_EQ(count_in(path), health.recorded);
  CHECK_OK(tj_store_close(healthy, &error));
}

int main(int argc, char **argv) {
  static const check_test tests[] = {
      {"TTFT and ITL are what passed between tokens", ttft_and_itl_are_what_passed_between_tokens},
      {"a gap is shared by the tokens after it", a_gap_is_shared_by_the_tokens_after_it},
      {"one token has a TTFT and no ITL", one_token_has_a_ttft_and_no_itl},
      {"the clock starts after the start was told", the_clock_starts_after_the_start_was_told},
      {"outcomes are recorded as told", outcomes_are_recorded_as_told},
      {"a call without an end is abandoned", a_call_without_an_end_is_abandoned},
      {"a refused end leaves the call running", a_refused_end_leaves_the_call_running},
      {"calls at once do not mix", calls_at_once_do_not_mix},
      {"every begun call is recorded once", every_begun_call_is_recorded_once},
      {"a call belongs to the stores subscribed when it began", a_call_belongs_to_the_stores_subscribed_when_it_began},
      {"a store that goes in mid-call still gets it", a_store_that_goes_in_mid_call_still_gets_it},
      {"prompts and answers are never stored", prompts_and_answers_are_never_stored},
  };
  int result;
  if (argc == 3 && strcmp(argv[1], "--locked") == 0) {
    check_promise = "a locked database breaks no generation";
    a_locked_database_breaks_no_generation(argv[2]);
    return check_failures == 0 ? 0 : 1;
  }
  start_the_tape();
  result = CHECK_MAIN(tests);
  stop_the_tape();
  return result;
}
