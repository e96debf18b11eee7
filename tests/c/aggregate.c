/*
 * tj_aggregate, by small cases that were worked out by hand.
 */
#include "calls.h"

static int is_nothing(const tj_distribution *it) {
  return it->count == 0 && isnan(it->min) && isnan(it->max) && isnan(it->mean) && isnan(it->p50) && isnan(it->p90) &&
         isnan(it->p95) && isnan(it->p99);
}

static void an_empty_store_has_no_calls_and_no_lists(void) {
  tj_store *store = check_open(":memory:");
  tj_aggregated_stats stats = TJ_AGGREGATED_STATS_INIT;
  const unsigned char *bytes = (const unsigned char *)&stats;
  size_t i;
  stats = ask(store, NULL);
  CHECK(stats.per_model == NULL && stats.per_model_count == 0);
  CHECK(stats.per_engine == NULL && stats.per_engine_count == 0);
  for (i = sizeof(size_t); i < offsetof(tj_aggregated_stats, latency); i++) {
    CHECK(bytes[i] == 0); /* every total and average */
  }
  CHECK(stats.goodput_calls == 0 && isnan(stats.goodput) && isnan(stats.goodput_per_second));
  CHECK(is_nothing(&stats.latency) && is_nothing(&stats.ttft) && is_nothing(&stats.itl_ms));
  tj_aggregated_stats_free(&stats);
  CHECK_OK(tj_store_close(store, &error));
}

/* ---- Which records ---- */

/* since <= t < until, to the last bit of the double. */
static void a_range_is_half_open(void) {
  tj_store *store = check_open(":memory:");
  const double t = 1700000000.5;
  tj_query query = TJ_QUERY_INIT;
  tj_telemetry_record record = call_of("m", "e", t);
  add(store, &record);

  query.since = t, query.until = 0;
  CHECK_EQ(calls(store, &query), 1);
  query.since = nextafter(t, INFINITY);
  CHECK_EQ(calls(store, &query), 0);
  query.since = 0, query.until = t;
  CHECK_EQ(calls(store, &query), 0);
  query.until = nextafter(t, INFINITY);
  CHECK_EQ(calls(store, &query), 1);
  query.since = t, query.until = t; /* an empty range */
  CHECK_EQ(calls(store, &query), 0);
  query.since = t + 1, query.until = t - 1;
  CHECK_EQ(calls(store, &query), 0);
  query.since = t - 1, query.until = t + 1;
  CHECK_EQ(calls(store, &query), 1);
  query.since = query.until = 0; /* unbounded */
  CHECK_EQ(calls(store, &query), 1);
  CHECK_OK(tj_store_close(store, &error));
}

/* Neighbouring ranges cover every call once, wherever minutes, hours and days begin. */
static void neighbouring_ranges_share_no_call(void) {
  static const double steps[] = {0.25, 1, 59.5, 60, 3600, 3601, 86400};
  tj_store *store = check_open(":memory:");
  const double start = 1699999200.0; /* a full hour, 6 hours before a day's end */
  size_t i;
  int n;
  for (i = 0; i < sizeof steps / sizeof *steps; i++) {
    for (n = 0; n < 8; n++) {
      tj_telemetry_record record = call_of("m", "e", start + n * steps[i]);
      add(store, &record);
    }
  }
  for (i = 0; i < sizeof steps / sizeof *steps; i++) {
    uint64_t sum = 0;
    for (n = -1; n < 8; n++) {
      tj_query query = TJ_QUERY_INIT;
      query.since = n < 0 ? 0 : start + n * steps[i];
      query.until = n == 7 ? 0 : start + (n + 1) * steps[i];
      sum += calls(store, &query);
    }
    CHECK_EQ(sum, 8 * sizeof steps / sizeof *steps);
  }
  CHECK_OK(tj_store_close(store, &error));
}

static void each_filter_takes_exactly_its_own(void) {
  tj_store *store = check_open(":memory:");
  tj_query query;
  tj_telemetry_record record = call_of("a", "x", 100);
  const tj_query everything = TJ_QUERY_INIT;
  record.agent = "bot", record.batch_id = "b1";
  add(store, &record);
  record.agent = "Bot", record.batch_id = "b10";
  add(store, &record);
  record = call_of("A", "", 200);
  add(store, &record);
  record = call_of("a%", "x ", 300);
  add(store, &record);

#define TAKES(field, value, expected)                                                                                  \
  (query = everything, query.field = value, CHECK_EQ(calls(store, &query), expected))
  TAKES(model_id, "a", 2), TAKES(model_id, "A", 1), TAKES(model_id, "a%", 1), TAKES(model_id, "%", 0);
  TAKES(model_id, "", 0), TAKES(model_id, NULL, 4);
  TAKES(engine, "x", 2), TAKES(engine, "x ", 1), TAKES(engine, "", 1), TAKES(engine, NULL, 4), TAKES(engine, "y", 0);
  TAKES(agent, "bot", 1), TAKES(agent, "Bot", 1), TAKES(agent, "", 2), TAKES(agent, "bo", 0);
  TAKES(batch_id, "b1", 1), TAKES(batch_id, "b10", 1), TAKES(batch_id, "", 2), TAKES(batch_id, "'", 0);
  query = everything; /* all of them must hold */
  query.model_id = "a", query.engine = "x", query.agent = "Bot", query.batch_id = "b10";
  query.since = 100, query.until = 101;
  CHECK_EQ(calls(store, &query), 1);
  query.batch_id = "b1";
  CHECK_EQ(calls(store, &query), 0);
  CHECK_OK(tj_store_close(store, &error));
}

static void warm_ups_can_be_left_out(void) {
  tj_store *store = check_open(":memory:");
  tj_query query = TJ_QUERY_INIT;
  tj_telemetry_record record = call_of("m", "e", 100);
  add(store, &record);
  record.is_warmup = 1;
  add(store, &record), add(store, &record);
  CHECK_EQ(calls(store, &query), 3);
  query.exclude_warmup = 1;
  CHECK_EQ(calls(store, &query), 1);
  CHECK_OK(tj_store_close(store, &error));
}

static void token_counting_versions_can_be_told_apart(void) {
  tj_store *store = check_open(":memory:");
  tj_query query = TJ_QUERY_INIT;
  tj_telemetry_record record = call_of("m", "e", 100);
  add(store, &record); /* no version */
  record.token_counting_version = 1;
  add(store, &record);
  record.token_counting_version = UINT32_MAX;
  add(store, &record), add(store, &record);
  CHECK_EQ(calls(store, &query), 4);
  query.token_counting_version = 1;
  CHECK_EQ(calls(store, &query), 1);
  query.token_counting_version = UINT32_MAX;
  CHECK_EQ(calls(store, &query), 2);
  query.token_counting_version = 2;
  CHECK_EQ(calls(store, &query), 0);
  CHECK_OK(tj_store_close(store, &error));
}

static void outcomes_are_counted_and_can_be_chosen(void) {
  tj_store *store = check_open(":memory:");
  tj_query query = TJ_QUERY_INIT;
  tj_aggregated_stats stats;
  uint32_t outcome, n;
  for (outcome = TJ_OUTCOME_OK; outcome <= TJ_OUTCOME_INTERRUPTED; outcome++) {
    tj_telemetry_record record = call_of("m", "e", 100);
    record.outcome = outcome;
    for (n = 0; n < 1u << outcome; n++) { /* 1 ok, 2 errors, 4 cancelled, 8 abandoned, 16 interrupted */
      add(store, &record);
    }
  }
  for (query.outcome_mask = 1; query.outcome_mask < 1u << 5; query.outcome_mask++) {
    CHECK_EQ(calls(store, &query), query.outcome_mask);
  }
  query.outcome_mask = 0;
  CHECK_EQ(calls(store, &query), 31);
  query.outcome_mask = UINT32_MAX; /* all, too */
  CHECK_EQ(calls(store, &query), 31);
  stats = ask(store, NULL);
  CHECK_EQ(stats.error_count, 2), CHECK_EQ(stats.cancelled_count, 4), CHECK_EQ(stats.interrupted_count, 16);
  CHECK_EQ(stats.per_model[0].error_count, 2), CHECK_EQ(stats.per_model[0].cancelled_count, 4);
  CHECK_EQ(stats.per_model[0].interrupted_count, 16);
  CHECK_EQ(stats.per_engine[0].error_count, 2), CHECK_EQ(stats.per_engine[0].cancelled_count, 4);
  CHECK_EQ(stats.per_engine[0].interrupted_count, 16);
  tj_aggregated_stats_free(&stats);
  CHECK_OK(tj_store_close(store, &error));
}

/* ---- What comes out ---- */

/* Two calls of one model and one of another, on two engines; each number of the answer by hand. */
static void every_number_is_right(void) {
  tj_store *store = check_open(":memory:");
  tj_aggregated_stats stats;
  const tj_model_stats *big, *small;
  const tj_engine_stats *fast, *slow;
  tj_telemetry_record record = call_of("big", "fast", 100);
  record.prompt_tokens = 100, record.prompt_tokens_evaluated = 60, record.completion_tokens = 20;
  record.cached_tokens = 40;
  record.latency_seconds = 2.0, record.ttft = 0.5, record.cost_usd = 0.25, record.energy_joules = 40.0;
  record.gpu_utilization_pct = 80.0, record.throughput_tok_per_sec = 10.0, record.tokens_per_joule = 0.5;
  record.energy_per_output_token_joules = 2.0, record.throughput_per_watt = 0.5;
  record.prefill_energy_joules = 8.0, record.decode_energy_joules = 32.0;
  record.mean_itl_ms = 80.0, record.median_itl_ms = 70.0, record.p95_itl_ms = 100.0;
  add(store, &record);
  record.engine = "slow";
  record.prompt_tokens = 50, record.prompt_tokens_evaluated = 50, record.completion_tokens = 10;
  record.cached_tokens = 0;
  record.latency_seconds = 4.0, record.ttft = 1.5, record.cost_usd = 0.5, record.energy_joules = 20.0;
  record.gpu_utilization_pct = 40.0, record.throughput_tok_per_sec = 2.5, record.tokens_per_joule = 0.25;
  record.energy_per_output_token_joules = 4.0, record.throughput_per_watt = 0.25;
  record.prefill_energy_joules = 4.0, record.decode_energy_joules = 16.0;
  record.mean_itl_ms = 160.0, record.median_itl_ms = 150.0, record.p95_itl_ms = 200.0;
  add(store, &record);
  record = call_of("small", "slow", 100);
  record.prompt_tokens = 7, record.completion_tokens = 3, record.latency_seconds = 1.0;
  record.cost_usd = NAN, record.gpu_utilization_pct = NAN;
  add(store, &record);

  stats = ask(store, NULL);
  CHECK_EQ(stats.total_calls, 3), CHECK_EQ(stats.total_tokens, 190);
  CHECK_NUM(stats.total_cost, 0.75), CHECK_NUM(stats.total_latency, 7.0), CHECK_NUM(stats.total_energy_joules, 60.0);
  CHECK_NUM(stats.avg_throughput_tok_per_sec, 6.25), CHECK_NUM(stats.avg_gpu_utilization_pct, 60.0);
  CHECK_NUM(stats.avg_energy_per_output_token_joules, 3.0), CHECK_NUM(stats.avg_throughput_per_watt, 0.375);
  CHECK_NUM(stats.total_prefill_energy_joules, 12.0), CHECK_NUM(stats.total_decode_energy_joules, 48.0);
  CHECK_NUM(stats.avg_mean_itl_ms, 120.0), CHECK_NUM(stats.avg_median_itl_ms, 110.0);
  CHECK_NUM(stats.avg_p95_itl_ms, 150.0);
  CHECK_EQ(stats.latency.count, 3), CHECK_NUM(stats.latency.min, 1.0), CHECK_NUM(stats.latency.max, 4.0);
  CHECK_NEAR(stats.latency.mean, 7.0 / 3.0, 1e-15), CHECK_NEAR(stats.latency.p50, 2.0, 0.01);
  CHECK_EQ(stats.ttft.count, 2), CHECK_NUM(stats.ttft.mean, 1.0), CHECK_NEAR(stats.ttft.p50, 1.0, 0.01);
  CHECK(is_nothing(&stats.itl_ms)); /* is over tokens, and no call was instrumented */

  CHECK_EQ(stats.per_model_count, 2);
  big = &stats.per_model[0], small = &stats.per_model[1];
  CHECK_STR(big->model_id, "big"), CHECK_EQ(big->call_count, 2), CHECK_EQ(big->total_tokens, 180);
  CHECK_EQ(big->prompt_tokens, 150), CHECK_EQ(big->prompt_tokens_evaluated, 110), CHECK_EQ(big->completion_tokens, 30);
  CHECK_EQ(big->cached_tokens, 40);
  CHECK_NUM(big->total_latency, 6.0), CHECK_NUM(big->avg_latency, 3.0), CHECK_NUM(big->total_cost, 0.75);
  CHECK_NUM(big->avg_ttft, 1.0), CHECK_NUM(big->total_energy_joules, 60.0);
  CHECK_NUM(big->avg_gpu_utilization_pct, 60.0);
  CHECK_NUM(big->avg_throughput_tok_per_sec, 6.25), CHECK_NUM(big->avg_tokens_per_joule, 0.375);
  CHECK_NUM(big->avg_energy_per_output_token_joules, 3.0), CHECK_NUM(big->avg_throughput_per_watt, 0.375);
  CHECK_NUM(big->total_prefill_energy_joules, 12.0), CHECK_NUM(big->total_decode_energy_joules, 48.0);
  CHECK_NUM(big->avg_mean_itl_ms, 120.0), CHECK_NUM(big->avg_median_itl_ms, 110.0);
  CHECK_NUM(big->avg_p95_itl_ms, 150.0);
  CHECK_NUM(big->latency.min, 2.0), CHECK_NUM(big->latency.max, 4.0);
  CHECK_STR(small->model_id, "small"), CHECK_EQ(small->call_count, 1), CHECK_EQ(small->total_tokens, 10);
  CHECK_NUM(small->total_cost, 0.0), CHECK_NUM(small->avg_ttft, 0.0), CHECK_NUM(small->avg_gpu_utilization_pct, 0.0);
  CHECK_NUM(small->avg_latency, 1.0);
  CHECK(is_nothing(&small->ttft) && small->latency.count == 1);

  CHECK_EQ(stats.per_engine_count, 2);
  slow = &stats.per_engine[0], fast = &stats.per_engine[1];
  CHECK_STR(slow->engine, "slow"), CHECK_EQ(slow->call_count, 2), CHECK_EQ(slow->total_tokens, 70);
  CHECK_EQ(slow->prompt_tokens, 57), CHECK_EQ(slow->completion_tokens, 13);
  CHECK_NUM(slow->total_latency, 5.0), CHECK_NUM(slow->avg_latency, 2.5), CHECK_NUM(slow->avg_ttft, 1.5);
  CHECK_NUM(slow->total_energy_joules, 20.0), CHECK_NUM(slow->total_cost, 0.5);
  CHECK_STR(fast->engine, "fast"), CHECK_EQ(fast->call_count, 1), CHECK_EQ(fast->total_tokens, 120);
  CHECK_NUM(fast->avg_tokens_per_joule, 0.5), CHECK_EQ(fast->cached_tokens, 40), CHECK_NUM(fast->avg_ttft, 0.5);
  tj_aggregated_stats_free(&stats);
  CHECK_OK(tj_store_close(store, &error));
}

static void percentiles_are_within_1_percent(void) {
  tj_store *store = check_open(":memory:");
  tj_aggregated_stats stats;
  int n;
  for (n = 100; n >= 1; n--) {
    tj_telemetry_record record = call_of("m", "e", n);
    record.latency_seconds = n, record.ttft = n / 1000.0;
    add(store, &record);
  }
  stats = ask(store, NULL); /* linear interpolation between closest ranks */
  CHECK_EQ(stats.latency.count, 100);
  CHECK_NUM(stats.latency.min, 1), CHECK_NUM(stats.latency.max, 100), CHECK_NUM(stats.latency.mean, 50.5);
  CHECK_NEAR(stats.latency.p50, 50.5, 0.01), CHECK_NEAR(stats.latency.p90, 90.1, 0.01);
  CHECK_NEAR(stats.latency.p95, 95.05, 0.01), CHECK_NEAR(stats.latency.p99, 99.01, 0.01);
  CHECK_NEAR(stats.ttft.p50, 0.0505, 0.01), CHECK_NEAR(stats.ttft.p99, 0.09901, 0.01);
  CHECK_NEAR(stats.per_model[0].latency.p90, 90.1, 0.01), CHECK_NEAR(stats.per_engine[0].ttft.p95, 0.09505, 0.01);
  tj_aggregated_stats_free(&stats);
  CHECK_OK(tj_store_close(store, &error));

  store = check_open(":memory:"); /* of two values a percentile lies between them */
  for (n = 0; n < 2; n++) {
    tj_telemetry_record record = call_of("m", "e", 1);
    record.latency_seconds = n == 0 ? 1.0 : 101.0;
    add(store, &record);
  }
  stats = ask(store, NULL);
  CHECK_NEAR(stats.latency.p50, 51.0, 0.01), CHECK_NEAR(stats.latency.p90, 91.0, 0.01);
  CHECK_NEAR(stats.latency.p95, 96.0, 0.01), CHECK_NEAR(stats.latency.p99, 100.0, 0.01);
  tj_aggregated_stats_free(&stats);
  CHECK_OK(tj_store_close(store, &error));
}

/* By call_count descending, then by name ascending, byte by byte. */
static void lists_are_in_order(void) {
  static const struct {
    const char *name;
    int calls;
  } made[] = {{"b", 2}, {"a", 2}, {"zz", 3}, {"B", 2}, {"", 2}, {"\xC3\xA9", 2}, {"rare", 1}};
  static const char *const expected[] = {"zz", "", "B", "a", "b", "\xC3\xA9", "rare"};
  tj_store *store = check_open(":memory:");
  tj_aggregated_stats stats;
  tj_query query = TJ_QUERY_INIT;
  size_t i, count = sizeof made / sizeof *made;
  int n;
  for (i = 0; i < count; i++) {
    for (n = 0; n < made[i].calls; n++) {
      tj_telemetry_record record = call_of(*made[i].name == 0 ? "-" : made[i].name, made[i].name, 100);
      add(store, &record);
    }
  }
  stats = ask(store, NULL);
  CHECK_EQ(stats.per_engine_count, count);
  CHECK_EQ(stats.per_model_count, count);
  for (i = 0; i < count; i++) {
    CHECK_STR(stats.per_engine[i].engine, expected[i]);
    CHECK_STR(stats.per_model[i].model_id, *expected[i] == 0 ? "-" : expected[i]);
  }
  tj_aggregated_stats_free(&stats);

  for (query.limit = 1; query.limit <= count + 1; query.limit++) { /* only the first n; the totals are over all */
    size_t shown = query.limit < count ? query.limit : count;
    stats = ask(store, &query);
    CHECK_EQ(stats.total_calls, 14);
    CHECK_EQ(stats.per_engine_count, shown);
    CHECK_EQ(stats.per_model_count, shown);
    for (i = 0; i < shown; i++) {
      CHECK_STR(stats.per_engine[i].engine, expected[i]);
    }
    tj_aggregated_stats_free(&stats);
  }
  CHECK_OK(tj_store_close(store, &error));
}

/* Both lists add up to the totals, and what is reserved is 0 in every element. */
static void lists_add_up_to_the_totals(void) {
  static const char *const models[] = {"m0", "m1", "m2", "m3", "m4"};
  static const char *const engines[] = {"e0", "e1", "e2"};
  tj_store *store = check_open(":memory:");
  tj_aggregated_stats stats;
  uint64_t model_calls = 0, engine_calls = 0, model_tokens = 0, engine_tokens = 0;
  double model_energy = 0, engine_energy = 0;
  size_t i, j;
  int n;
  for (n = 0; n < 60; n++) {
    tj_telemetry_record record = call_of(models[n % 5], engines[n % 3], 100 + n);
    record.prompt_tokens = (uint64_t)n, record.energy_joules = n * 0.25;
    add(store, &record);
  }
  stats = ask(store, NULL);
  CHECK_EQ(stats.per_model_count, 5);
  CHECK_EQ(stats.per_engine_count, 3);
  for (i = 0; i < stats.per_model_count; i++) {
    model_calls += stats.per_model[i].call_count, model_tokens += stats.per_model[i].total_tokens;
    model_energy += stats.per_model[i].total_energy_joules;
    for (j = 0; j < 16; j++) {
      CHECK_EQ(stats.per_model[i].reserved[j], 0);
    }
  }
  for (i = 0; i < stats.per_engine_count; i++) {
    engine_calls += stats.per_engine[i].call_count, engine_tokens += stats.per_engine[i].total_tokens;
    engine_energy += stats.per_engine[i].total_energy_joules;
    for (j = 0; j < 16; j++) {
      CHECK_EQ(stats.per_engine[i].reserved[j], 0);
    }
  }
  CHECK_EQ(stats.total_calls, 60), CHECK_EQ(stats.total_tokens, 1770), CHECK_NUM(stats.total_energy_joules, 442.5);
  CHECK_EQ(model_calls, 60), CHECK_EQ(engine_calls, 60), CHECK_EQ(model_tokens, 1770), CHECK_EQ(engine_tokens, 1770);
  CHECK_NUM(model_energy, 442.5), CHECK_NUM(engine_energy, 442.5);
  tj_aggregated_stats_free(&stats);
  CHECK_OK(tj_store_close(store, &error));
}

/* What a filled struct owns is its own: neither another question nor the end of the store touches it. */
static void an_answer_outlives_its_store(void) {
  tj_store *store = check_open(":memory:");
  tj_telemetry_record record = call_of("model", "engine", 100);
  tj_aggregated_stats first, second;
  add(store, &record);
  first = ask(store, NULL);
  record.model_id = "other";
  add(store, &record), add(store, &record);
  second = ask(store, NULL);
  CHECK_OK(tj_store_close(store, &error));
  CHECK_EQ(first.per_model_count, 1);
  CHECK_STR(first.per_model[0].model_id, "model");
  tj_aggregated_stats_free(&first);
  CHECK_EQ(second.per_model_count, 2);
  CHECK_STR(second.per_model[0].model_id, "other");
  CHECK_STR(second.per_engine[0].engine, "engine");
  tj_aggregated_stats_free(&second);
}

/* ---- Who sees what ---- */

static void records_are_seen_at_once_and_by_others_when_committed(void) {
  char path[4096];
  tj_store *writer, *other, *reader;
  tj_store_options options = TJ_STORE_OPTIONS_INIT;
  tj_telemetry_record record = call_of("m", "e", 100);
  int n;
  snprintf(path, sizeof path, "%s/seen", check_folder);
  writer = check_open(path);
  other = check_open(path);
  options.read_only = 1;
  CHECK_OK(tj_store_open(path, &options, &reader, &error));
  for (n = 1; n <= 20; n++) {
    add(writer, &record);
    CHECK_EQ(calls(writer, NULL), n);
    CHECK_EQ(check_count(writer), n);
  }
  CHECK_OK(tj_store_flush(writer, &error));
  CHECK_EQ(calls(other, NULL), 20), CHECK_EQ(check_count(other), 20);
  CHECK_EQ(calls(reader, NULL), 20), CHECK_EQ(check_count(reader), 20);
  CHECK_OK(tj_store_close(reader, &error));
  CHECK_OK(tj_store_close(other, &error));
  CHECK_OK(tj_store_close(writer, &error));
}

static void stores_in_memory_are_private(void) {
  tj_store *one = check_open(":memory:"), *two = check_open(":memory:");
  tj_telemetry_record record = call_of("m", "e", 100);
  add(one, &record);
  CHECK_EQ(check_count(one), 1);
  CHECK_EQ(check_count(two), 0);
  CHECK_OK(tj_store_close(one, &error));
  CHECK_OK(tj_store_close(two, &error));
}

/* itl_ms is over tokens, of the calls that were instrumented: 3 and 4 tokens in one event after the first. */
static void itl_is_over_tokens(void) {
  tj_store *store = check_open(":memory:");
  tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
  tj_telemetry_record record = call_of("m", "e", 0);
  tj_aggregated_stats stats;
  tj_call *call;
  CHECK_OK(tj_store_subscribe(store, &error));
  request.model = "m";
  CHECK_OK(tj_call_begin("e", &request, &call, &error));
  tj_call_tokens(call, 5);
  check_sleep_ms(6);
  tj_call_tokens(call, 3);
  tj_call_tokens(call, 4);
  CHECK_OK(tj_call_end(call, TJ_OUTCOME_OK, NULL, &error));
  tj_call_free(call);
  record.mean_itl_ms = 1000; /* of another program's measuring: in the averages, not in the distribution */
  add(store, &record);
  stats = ask(store, NULL);
  CHECK_EQ(stats.itl_ms.count, 7);
  CHECK_BETWEEN(stats.itl_ms.max, 2.0, 500.0); /* 6 ms among 3 tokens */
  CHECK(stats.itl_ms.min > 0 && stats.itl_ms.min < stats.itl_ms.max);
  CHECK_BETWEEN(stats.per_model[0].avg_mean_itl_ms, 500, 750); /* the mean over the two calls */
  CHECK_EQ(stats.per_engine[0].itl_ms.count, 7);
  tj_aggregated_stats_free(&stats);
  CHECK_OK(tj_store_close(store, &error));
}

int main(int argc, char **argv) {
  static const check_test tests[] = {
      {"an empty store has no calls and no lists", an_empty_store_has_no_calls_and_no_lists},
      {"a range is half-open", a_range_is_half_open},
      {"neighbouring ranges share no call", neighbouring_ranges_share_no_call},
      {"each filter takes exactly its own", each_filter_takes_exactly_its_own},
      {"warm-ups can be left out", warm_ups_can_be_left_out},
      {"token counting versions can be told apart", token_counting_versions_can_be_told_apart},
      {"outcomes are counted and can be chosen", outcomes_are_counted_and_can_be_chosen},
      {"every number is right", every_number_is_right},
      {"percentiles are within 1 %", percentiles_are_within_1_percent},
      {"lists are in order", lists_are_in_order},
      {"lists add up to the totals", lists_add_up_to_the_totals},
      {"an answer outlives its store", an_answer_outlives_its_store},
      {"records are seen at once, and by others when committed", records_are_seen_at_once_and_by_others_when_committed},
      {"stores in memory are private", stores_in_memory_are_private},
      {"itl is over tokens", itl_is_over_tokens},
  };
  return CHECK_MAIN(tests);
}
