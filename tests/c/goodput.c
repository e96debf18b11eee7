/*
 * Goodput: which calls keep to a query's objectives, by small cases that were worked out by hand.
 */
#include "calls.h"

/* What the time and the tokens of a call were, and which of three objectives it keeps to. */
static const struct timed {
  double latency, ttft;
  uint64_t output;
  uint32_t outcome;
  int meets_ttft, meets_tpot, meets_latency; /* 0.5 s, 0.1 s per token, 3 s */
} timed[] = {
    {2.0, 0.5, 16, TJ_OUTCOME_OK, 1, 1, 1}, /* 1.5 s for 15 tokens: each exactly at its objective */
    {2.0, 0.75, 16, TJ_OUTCOME_OK, 0, 1, 1},
    {3.0, 0.5, 16, TJ_OUTCOME_OK, 1, 0, 1},
    {3.5, 0.5, 61, TJ_OUTCOME_OK, 1, 1, 0},
    {0.4, 0.4, 1, TJ_OUTCOME_OK, 1, 1, 1}, /* one token: none came late after another */
    {5.0, 0.4, 1, TJ_OUTCOME_OK, 1, 1, 0},
    {0.3, NAN, 0, TJ_OUTCOME_OK, 0, 1, 1}, /* no token, no time to it */
    {2.0, NAN, 16, TJ_OUTCOME_OK, 0, 0, 1}, /* what was not measured is not kept to ... */
    {NAN, 0.5, 16, TJ_OUTCOME_OK, 1, 0, 0},
    {2.0, 0.5, TJ_UNKNOWN, TJ_OUTCOME_OK, 1, 0, 1},
    {2.0, 0.5, 16, TJ_OUTCOME_ERROR, 0, 0, 0}, /* ... and a call that did not end well keeps to nothing */
    {2.0, 0.5, 16, TJ_OUTCOME_CANCELLED, 0, 0, 0},
    {2.0, 0.5, 16, TJ_OUTCOME_ABANDONED, 0, 0, 0},
    {2.0, 0.5, 16, TJ_OUTCOME_INTERRUPTED, 0, 0, 0},
};
static const size_t timed_count = sizeof timed / sizeof *timed;

/* They begin at 100, 101, ... */
static void add_timed(tj_store *store) {
  size_t i;
  for (i = 0; i < timed_count; i++) {
    tj_telemetry_record record = call_of("m", "e", 100 + (double)i);
    record.latency_seconds = timed[i].latency, record.ttft = timed[i].ttft;
    record.completion_tokens = timed[i].output, record.outcome = timed[i].outcome;
    add(store, &record);
  }
}

static void a_good_call_keeps_to_every_objective(void) {
  tj_store *store = check_open(":memory:");
  int wanted;
  add_timed(store);
  for (wanted = 1; wanted < 8; wanted++) { /* every choice of the three */
    tj_query query = TJ_QUERY_INIT;
    tj_aggregated_stats stats;
    uint64_t good = 0;
    size_t i;
    query.max_ttft = wanted & 1 ? 0.5 : 0, query.max_tpot = wanted & 2 ? 0.1 : 0;
    query.max_latency = wanted & 4 ? 3.0 : 0;
    for (i = 0; i < timed_count; i++) {
      good += timed[i].outcome == TJ_OUTCOME_OK && (!(wanted & 1) || timed[i].meets_ttft) &&
              (!(wanted & 2) || timed[i].meets_tpot) && (!(wanted & 4) || timed[i].meets_latency);
    }
    stats = ask(store, &query);
    CHECK_EQ(stats.goodput_calls, good);
    CHECK_EQ(stats.total_calls, timed_count); /* objectives select nothing */
    CHECK_EQ(stats.per_model[0].call_count, timed_count);
    CHECK_NUM(stats.goodput, (double)good / (double)timed_count); /* of all calls */
    CHECK_NUM(stats.goodput_per_second, (double)good / (double)(timed_count - 1)); /* from the first to the last */
    tj_aggregated_stats_free(&stats);
  }
  CHECK_OK(tj_store_close(store, &error));
}

static void without_objectives_there_is_no_goodput(void) {
  tj_store *store = check_open(":memory:");
  tj_query query = TJ_QUERY_INIT;
  tj_aggregated_stats stats;
  add_timed(store);
  query.since = 50, query.until = 150;
  stats = ask(store, &query);
  CHECK_EQ(stats.goodput_calls, 0);
  CHECK_NUM(stats.goodput, NAN), CHECK_NUM(stats.goodput_per_second, NAN);
  tj_aggregated_stats_free(&stats);
  CHECK_OK(tj_store_close(store, &error));
}

/* Per second from since to until; the first and the last call stand for ends that are open. */
static void goodput_is_per_second_of_the_time_asked_about(void) {
  tj_store *store = check_open(":memory:");
  tj_query query = TJ_QUERY_INIT;
  tj_telemetry_record record = call_of("m", "e", 100);
  tj_aggregated_stats stats;
  record.latency_seconds = 1.0;
  add(store, &record);
  record.timestamp = 104;
  add(store, &record);
  record.timestamp = 110, record.model_id = "other";
  add(store, &record);
  query.max_latency = 2.0, query.model_id = "m"; /* two calls, at 100 and 104, both good */

#define PER_SECOND(begin, end, expected)                                                                               \
  (query.since = begin, query.until = end, stats = ask(store, &query), CHECK_NUM(stats.goodput_per_second, expected),  \
   tj_aggregated_stats_free(&stats))
  PER_SECOND(96, 116, 2.0 / 20);
  PER_SECOND(96, 0, 2.0 / 8);
  PER_SECOND(0, 116, 2.0 / 16);
  PER_SECOND(0, 0, 2.0 / 4);
  PER_SECOND(102, 0, 1.0 / 2);
  PER_SECOND(104, 0, NAN); /* of one call without bounds there is no time */
  PER_SECOND(200, 210, 0.0); /* no call in all that time */
  CHECK_EQ(stats.goodput_calls, 0), CHECK_NUM(stats.goodput, NAN);
  PER_SECOND(200, 0, NAN);
  PER_SECOND(110, 100, NAN); /* an empty range */
  CHECK_OK(tj_store_close(store, &error));
}

/* Other filters choose the calls first. */
static void goodput_is_of_the_calls_that_were_chosen(void) {
  tj_store *store = check_open(":memory:");
  tj_query query = TJ_QUERY_INIT;
  tj_telemetry_record record = call_of("m", "e", 100);
  tj_aggregated_stats stats;
  record.latency_seconds = 1.0, record.is_warmup = 1;
  add(store, &record);
  record.latency_seconds = 9.0, record.is_warmup = 0;
  add(store, &record);
  record.latency_seconds = 1.0, record.outcome = TJ_OUTCOME_ERROR;
  add(store, &record);
  query.max_latency = 2.0;
  stats = ask(store, &query);
  CHECK_EQ(stats.goodput_calls, 1), CHECK_NUM(stats.goodput, 1.0 / 3.0);
  tj_aggregated_stats_free(&stats);
  query.outcome_mask = 1u << TJ_OUTCOME_OK;
  stats = ask(store, &query);
  CHECK_EQ(stats.goodput_calls, 1), CHECK_NUM(stats.goodput, 0.5);
  tj_aggregated_stats_free(&stats);
  query.exclude_warmup = 1;
  stats = ask(store, &query);
  CHECK_EQ(stats.goodput_calls, 0), CHECK_NUM(stats.goodput, 0.0);
  tj_aggregated_stats_free(&stats);
  CHECK_OK(tj_store_close(store, &error));
}

int main(int argc, char **argv) {
  static const check_test tests[] = {
      {"a good call keeps to every objective", a_good_call_keeps_to_every_objective},
      {"without objectives there is no goodput", without_objectives_there_is_no_goodput},
      {"goodput is per second of the time asked about", goodput_is_per_second_of_the_time_asked_about},
      {"goodput is of the calls that were chosen", goodput_is_of_the_calls_that_were_chosen},
  };
  return CHECK_MAIN(tests);
}
