/*
 * What tj_record refuses, what "not measured" means, and that every field is kept.
 *
 *   record --store PATH    records one call with a different value in every field, and prints "column value" lines,
 *                          which tests/contract.rs compares with the row in the database
 */
#include "fields.h"

static tj_telemetry_record minimal(void) {
  tj_telemetry_record record = TJ_TELEMETRY_RECORD_INIT;
  record.model_id = "m";
  return record;
}

static tj_aggregated_stats everything(tj_store *store) {
  tj_aggregated_stats stats = TJ_AGGREGATED_STATS_INIT;
  CHECK_OK(tj_aggregate(store, NULL, &stats, &error));
  CHECK(stats.per_model_count == 1);
  return stats;
}

/* ---- Refusals ---- */

static tj_store *held; /* with two records in it, which a refused one must not touch */

static void fill_held(void) {
  tj_telemetry_record record = minimal();
  held = check_open(":memory:");
  record.model_id = "held";
  record.prompt_tokens = 10;
  record.completion_tokens = 5;
  record.latency_seconds = 0.5;
  record.energy_joules = 4.0;
  record.cost_usd = 0.25;
  CHECK_OK(tj_record(held, &record, &error));
  record.latency_seconds = 0.25;
  CHECK_OK(tj_record(held, &record, &error));
}

/* Refused by that name; the store holds what it held, and its health says so. */
static void refuse(const tj_telemetry_record *record, const char *name) {
  tj_health before = check_health(held), after;
  tj_aggregated_stats stats;
  tj_error refusal;
  CHECK_FAILS(tj_record(held, record, &error), TJ_ERR_INVALID_ARGUMENT, name);
  refusal = error;
  after = check_health(held);
  CHECK_EQ(after.refused, before.refused + 1);
  CHECK_EQ(after.recorded, 2);
  CHECK_EQ(after.failed, 0);
  CHECK_EQ(after.last_status, TJ_ERR_INVALID_ARGUMENT);
  CHECK_STR(after.last_message, refusal.message);
  CHECK_BETWEEN(after.last_failure_time, check_wall_clock() - 10, check_wall_clock());
  CHECK_EQ(check_count(held), 2);
  stats = everything(held);
  CHECK_EQ(stats.total_calls, 2);
  CHECK_EQ(stats.total_tokens, 30);
  CHECK_NUM(stats.total_latency, 0.75);
  CHECK_NUM(stats.total_energy_joules, 8.0);
  CHECK_NUM(stats.total_cost, 0.5);
  CHECK_EQ(stats.latency.count, 2);
  CHECK_STR(stats.per_model[0].model_id, "held");
  CHECK_EQ(stats.per_model[0].call_count, 2);
  tj_aggregated_stats_free(&stats);
}

static void a_missing_model_is_refused(void) {
  tj_telemetry_record record = minimal();
  record.model_id = NULL;
  refuse(&record, "model_id");
  record.model_id = "";
  refuse(&record, "model_id");
}

static void negative_and_infinite_figures_are_refused(void) {
  static const double impossible[] = {-1.0, -1e-300, INFINITY, -INFINITY};
  const field *it;
  const double *value;
  for (EACH(it, figures)) {
    for (EACH(value, impossible)) {
      tj_telemetry_record record = minimal();
      *figure_of(&record, it) = *value;
      refuse(&record, it->name);
    }
  }
  for (EACH(value, impossible)) {
    tj_telemetry_record record = minimal();
    record.timestamp = *value;
    refuse(&record, "timestamp");
  }
}

static void a_timestamp_that_is_no_number_is_refused(void) {
  tj_telemetry_record record = minimal();
  record.timestamp = NAN;
  refuse(&record, "timestamp");
}

static void a_percentage_above_100_is_refused(void) {
  tj_telemetry_record record = minimal();
  tj_store *store = check_open(":memory:");
  record.gpu_utilization_pct = 100.0001;
  refuse(&record, "gpu_utilization_pct");
  record.gpu_utilization_pct = 100.0;
  CHECK_OK(tj_record(store, &record, &error));
  CHECK_OK(tj_store_close(store, &error));
}

static void an_unknown_outcome_is_refused(void) {
  tj_telemetry_record record = minimal();
  record.outcome = 5;
  refuse(&record, "outcome");
  record.outcome = UINT32_MAX;
  refuse(&record, "outcome");
}

static void counts_from_2_to_the_63_are_refused(void) {
  static const uint64_t impossible[] = {UINT64_C(1) << 63, (UINT64_C(1) << 63) + 1, UINT64_MAX - 1};
  const field *it;
  const uint64_t *value;
  tj_store *store = check_open(":memory:");
  for (EACH(it, counts)) {
    tj_telemetry_record record = minimal();
    for (EACH(value, impossible)) {
      *count_of(&record, it) = *value;
      refuse(&record, it->name);
    }
    *count_of(&record, it) = (UINT64_C(1) << 63) - 1;
    CHECK_OK(tj_record(store, &record, &error));
    *count_of(&record, it) = TJ_UNKNOWN;
    CHECK_OK(tj_record(store, &record, &error));
  }
  CHECK_OK(tj_store_close(store, &error));
}

static void strings_over_64_kib_are_refused(void) {
  const field *it;
  char *text = (char *)malloc(64 * 1024 + 2);
  tj_store *store = check_open(":memory:");
  for (EACH(it, texts)) {
    tj_telemetry_record record = minimal();
    *text_of(&record, it) = text;
    memset(text, 'x', 64 * 1024 + 1);
    text[64 * 1024 + 1] = 0;
    refuse(&record, it->name);
    text[64 * 1024] = 0; /* exactly 64 KiB */
    CHECK_OK(tj_record(store, &record, &error));
  }
  {
    tj_aggregated_stats stats = TJ_AGGREGATED_STATS_INIT;
    tj_query query = TJ_QUERY_INIT;
    query.model_id = text; /* whole */
    CHECK_OK(tj_aggregate(store, &query, &stats, &error));
    CHECK_EQ(stats.total_calls, 1);
    CHECK_STR(stats.per_model[0].model_id, text);
    tj_aggregated_stats_free(&stats);
  }
  CHECK_OK(tj_store_close(store, &error));
  free(text);
}

static void metadata_that_is_no_json_object_is_refused(void) {
  static const char *const bad[] = {
      "[]",      "1",            "\"text\"", "null",         "{",             "{}x",         "{} {}",
      "{\"a\":}", "{'a':1}",      "{\"a\":1,}", "{a:1}",        "{\"a\":01}",     "{\"a\":NaN}",  "{\"a\":\"\n\"}",
      "{\"a\" 1}", "{\"a\":\"\\x\"}", "nonsense",  "[{}]"};
  static const char *const good[] = {
      NULL, "", "{}", " \t\r\n{ } \n", "{\"a\":[1,{\"b\":null}],\"c\":\"\\u00e9\"}", "{\"a\":1,\"a\":2}"};
  const char *const *json;
  tj_store *store = check_open(":memory:");
  for (EACH(json, bad)) {
    tj_telemetry_record record = minimal();
    record.metadata_json = *json;
    refuse(&record, "metadata_json");
  }
  for (EACH(json, good)) {
    tj_telemetry_record record = minimal();
    record.metadata_json = *json;
    CHECK_OK(tj_record(store, &record, &error));
  }
  CHECK_OK(tj_store_close(store, &error));
}

static void metadata_over_1_mib_is_refused(void) {
  const size_t limit = 1024 * 1024;
  char *json = (char *)malloc(limit + 2);
  tj_telemetry_record record = minimal();
  tj_store *store = check_open(":memory:");
  memset(json, ' ', limit + 1);
  memcpy(json, "{\"a\":1}", 7);
  json[limit + 1] = 0;
  record.metadata_json = json;
  refuse(&record, "metadata_json");
  json[limit] = 0; /* exactly 1 MiB */
  CHECK_OK(tj_record(store, &record, &error));
  CHECK_OK(tj_store_close(store, &error));
  free(json);
}

/* Whatever the library says to it, it lives on. */
static void metadata_nested_200000_deep_breaks_nothing(void) {
  const size_t depth = 200000;
  char *json = (char *)malloc(2 * depth + 16);
  char *at = json + 5;
  tj_telemetry_record record = minimal();
  tj_store *store = check_open(":memory:");
  tj_status status;
  memcpy(json, "{\"a\":", 5);
  memset(at, '[', depth), at += depth;
  memset(at, ']', depth), at += depth;
  memcpy(at, "}", 2);
  record.metadata_json = json;
  status = tj_record(store, &record, NULL);
  CHECK(status == TJ_OK || status == TJ_ERR_INVALID_ARGUMENT);
  CHECK_EQ(check_count(store), status == TJ_OK);
  CHECK_OK(tj_store_close(store, &error));
  free(json);
}

/* ---- Unknown is not zero ---- */

/* "So that a memset-zeroed record is honest": it has measured nothing but its tokens, its cost and the like. */
static void a_zeroed_record_has_measured_nothing(void) {
  tj_telemetry_record record;
  tj_store *store = check_open(":memory:");
  tj_aggregated_stats stats;
  const tj_model_stats *model;
  memset(&record, 0, sizeof record);
  record.struct_size = sizeof record;
  record.model_id = "m";
  CHECK_OK(tj_record(store, &record, &error));
  stats = everything(store);
  model = &stats.per_model[0];
  CHECK_EQ(stats.total_calls, 1);
  CHECK_EQ(stats.total_tokens, 0);
  CHECK_EQ(stats.latency.count, 0);
  CHECK_NUM(stats.latency.min, NAN), CHECK_NUM(stats.latency.max, NAN), CHECK_NUM(stats.latency.mean, NAN);
  CHECK_NUM(stats.latency.p50, NAN), CHECK_NUM(stats.latency.p90, NAN), CHECK_NUM(stats.latency.p95, NAN);
  CHECK_NUM(stats.latency.p99, NAN);
  CHECK_EQ(stats.ttft.count, 0);
  CHECK_NUM(stats.ttft.mean, NAN);
  CHECK_EQ(stats.itl_ms.count, 0);
  CHECK_NUM(stats.itl_ms.p99, NAN);
  CHECK_NUM(stats.total_latency, 0), CHECK_NUM(stats.total_energy_joules, 0), CHECK_NUM(stats.total_cost, 0);
  CHECK_NUM(model->avg_latency, 0), CHECK_NUM(model->avg_ttft, 0), CHECK_NUM(model->avg_mean_itl_ms, 0);
  CHECK_EQ(model->error_count + model->cancelled_count + model->interrupted_count, 0); /* outcome 0 is OK */
  tj_aggregated_stats_free(&stats);
  CHECK_OK(tj_store_close(store, &error));
}

/* One model_stats average for each record field that has one. */
static const struct average {
  const char *name;
  size_t of_record, of_model, of_total; /* of_total 0: there is none */
  int zero_is_measured;
} averages[] = {
#define AVERAGE(field, zero_is_measured)                                                                               \
  {#field, offsetof(tj_telemetry_record, field), offsetof(tj_model_stats, avg_##field),                                \
   offsetof(tj_aggregated_stats, avg_##field), zero_is_measured},
#define MODEL_AVERAGE(field, average)                                                                                  \
  {#field, offsetof(tj_telemetry_record, field), offsetof(tj_model_stats, average), 0, 0},
    AVERAGE(gpu_utilization_pct, 1) AVERAGE(throughput_tok_per_sec, 0) AVERAGE(energy_per_output_token_joules, 0)
    AVERAGE(throughput_per_watt, 0) AVERAGE(mean_itl_ms, 0) AVERAGE(median_itl_ms, 0) AVERAGE(p95_itl_ms, 0)
    MODEL_AVERAGE(latency_seconds, avg_latency) MODEL_AVERAGE(ttft, avg_ttft)
    MODEL_AVERAGE(tokens_per_joule, avg_tokens_per_joule)};

#define DOUBLE_AT(struct_pointer, offset) (*(const double *)(const void *)((const char *)(struct_pointer) + (offset)))

/* "Averages and distributions are taken over the calls that measured the value, never over the others." */
static void averages_are_over_those_that_measured(void) {
  const struct average *it;
  for (EACH(it, averages)) {
    static const double values[] = {4.0, NAN, 2.0, 0.0};
    const double *value;
    double expected = it->zero_is_measured ? 2.0 : 3.0;
    tj_aggregated_stats stats;
    tj_store *store = check_open(":memory:");
    for (EACH(value, values)) {
      tj_telemetry_record record = minimal();
      memcpy((char *)&record + it->of_record, value, sizeof *value);
      CHECK_OK(tj_record(store, &record, &error));
    }
    stats = everything(store);
    if (DOUBLE_AT(&stats.per_model[0], it->of_model) != expected ||
        DOUBLE_AT(&stats.per_engine[0], it->of_model) != expected ||
        (it->of_total != 0 && DOUBLE_AT(&stats, it->of_total) != expected)) {
      check_fail(__FILE__, __LINE__, "the average %s is %g, not %g", it->name,
                 DOUBLE_AT(&stats.per_model[0], it->of_model), expected);
    }
    tj_aggregated_stats_free(&stats);
    CHECK_OK(tj_store_close(store, &error));
  }
}

/* NAN and TJ_UNKNOWN in every field: nothing was measured, and nothing comes of it. */
static void unknown_adds_nothing(void) {
  const field *it;
  tj_aggregated_stats stats;
  const tj_model_stats *model;
  tj_store *store = check_open(":memory:");
  tj_telemetry_record unknown = minimal(), record = minimal();
  for (EACH(it, figures)) {
    *figure_of(&unknown, it) = NAN;
    *figure_of(&record, it) = 2.5;
  }
  for (EACH(it, counts)) {
    *count_of(&unknown, it) = TJ_UNKNOWN;
    *count_of(&record, it) = 7;
  }
  CHECK_OK(tj_record(store, &record, &error));
  CHECK_OK(tj_record(store, &unknown, &error));
  stats = everything(store);
  model = &stats.per_model[0];
  CHECK_EQ(stats.total_calls, 2);
  CHECK_EQ(stats.total_tokens, 7);
  CHECK_EQ(model->total_tokens, 7), CHECK_EQ(model->prompt_tokens, 7), CHECK_EQ(model->prompt_tokens_evaluated, 7);
  CHECK_EQ(model->completion_tokens, 7), CHECK_EQ(model->cached_tokens, 7);
  CHECK_NUM(model->total_cost, 2.5), CHECK_NUM(model->total_latency, 2.5), CHECK_NUM(model->total_energy_joules, 2.5);
  CHECK_NUM(model->total_prefill_energy_joules, 2.5), CHECK_NUM(model->total_decode_energy_joules, 2.5);
  CHECK_EQ(model->latency.count, 1);
  CHECK_NUM(model->latency.mean, 2.5), CHECK_NUM(model->latency.min, 2.5);
  tj_aggregated_stats_free(&stats);
  CHECK_OK(tj_store_close(store, &error));
}

/* ---- Defaults ---- */

static void total_tokens_default_to_prompt_plus_completion(void) {
  static const struct {
    uint64_t prompt, completion, total, expected;
  } cases[] = {
      {10, 5, 0, 15},
      {10, 5, TJ_UNKNOWN, 15},
      {10, 5, 99, 99}, /* given */
      {TJ_UNKNOWN, 5, 0, 5}, /* as far as they are known */
      {10, TJ_UNKNOWN, 0, 10},
      {TJ_UNKNOWN, TJ_UNKNOWN, 0, 0},
      {0, 0, 0, 0},
  };
  size_t i;
  for (i = 0; i < sizeof cases / sizeof *cases; i++) {
    tj_aggregated_stats stats;
    tj_telemetry_record record = minimal();
    tj_store *store = check_open(":memory:");
    record.prompt_tokens = cases[i].prompt;
    record.completion_tokens = cases[i].completion;
    record.total_tokens = cases[i].total;
    CHECK_OK(tj_record(store, &record, &error));
    stats = everything(store);
    CHECK_EQ(stats.total_tokens, cases[i].expected);
    tj_aggregated_stats_free(&stats);
    CHECK_OK(tj_store_close(store, &error));
  }
}

static uint64_t calls_between(tj_store *store, double since, double until) {
  tj_query query = TJ_QUERY_INIT;
  tj_aggregated_stats stats = TJ_AGGREGATED_STATS_INIT;
  query.since = since;
  query.until = until;
  CHECK_OK(tj_aggregate(store, &query, &stats, &error));
  tj_aggregated_stats_free(&stats);
  return stats.total_calls;
}

static void timestamp_0_is_now(void) {
  tj_store *store = check_open(":memory:");
  tj_telemetry_record record = minimal();
  double before = check_wall_clock();
  CHECK_OK(tj_record(store, &record, &error));
  CHECK_EQ(calls_between(store, before, nextafter(check_wall_clock(), INFINITY)), 1);
  record.timestamp = 1234.5; /* any other is kept */
  CHECK_OK(tj_record(store, &record, &error));
  CHECK_EQ(calls_between(store, 1234.5, nextafter(1234.5, INFINITY)), 1);
  CHECK_OK(tj_store_close(store, &error));
}

static void what_went_well_is_counted_as_recorded(void) {
  tj_store *store = check_open(":memory:");
  tj_telemetry_record record = minimal();
  tj_health health = check_health(store); /* nothing has happened yet */
  int i;
  CHECK(health.recorded == 0 && health.refused == 0 && health.failed == 0 && health.last_status == TJ_OK);
  CHECK(health.last_failure_time == 0 && health.last_message[0] == 0 && health.reserved == 0);
  for (i = 0; i < 5; i++) {
    CHECK_OK(tj_record(store, &record, &error));
  }
  health = check_health(store);
  CHECK(health.recorded == 5 && health.refused == 0 && health.failed == 0 && health.last_status == TJ_OK);
  CHECK_EQ(check_count(store), 5); /* its own records at once */
  CHECK_OK(tj_store_close(store, &error));
}

/* ---- Every field is kept ---- */

static void record_a_call_with_a_different_value_in_every_field(const char *path) {
  static char values[32][64];
  const field *it;
  int number = 1, text = 0;
  tj_store *store = check_open(path);
  tj_telemetry_record record = minimal();
  record.timestamp = 1700000000.125;
  printf("timestamp %.17g\n", record.timestamp);
  for (EACH(it, figures)) {
    *figure_of(&record, it) = number++ + 0.1;
    printf("%s %.17g\n", it->name, *figure_of(&record, it));
  }
  for (EACH(it, counts)) {
    *count_of(&record, it) = (UINT64_C(1) << 40) + (uint64_t)number++;
    printf("%s %" PRIu64 "\n", it->name, *count_of(&record, it));
  }
  for (EACH(it, texts)) {
    snprintf(values[text], sizeof values[text], "%s-\xC3\xA9", it->name);
    *text_of(&record, it) = values[text++];
    printf("%s %s\n", it->name, *text_of(&record, it));
  }
  record.is_warmup = 1;
  record.is_streaming = 2; /* any other value but 0 counts as 1 */
  record.token_counting_version = 3;
  record.outcome = TJ_OUTCOME_INTERRUPTED;
  record.metadata_json = "{\"gpu\": \"none\", \"n\": [1, 2]}";
  printf("is_warmup 1\nis_streaming 1\ntoken_counting_version 3\noutcome 4\nmetadata %s\n", record.metadata_json);
  CHECK_OK(tj_record(store, &record, &error));
  CHECK_OK(tj_store_close(store, &error));
}

int main(int argc, char **argv) {
  static const check_test tests[] = {
      {"a missing model is refused", a_missing_model_is_refused},
      {"negative and infinite figures are refused", negative_and_infinite_figures_are_refused},
      {"a timestamp that is no number is refused", a_timestamp_that_is_no_number_is_refused},
      {"a percentage above 100 is refused", a_percentage_above_100_is_refused},
      {"an unknown outcome is refused", an_unknown_outcome_is_refused},
      {"counts from 2^63 are refused", counts_from_2_to_the_63_are_refused},
      {"strings over 64 KiB are refused", strings_over_64_kib_are_refused},
      {"metadata that is no JSON object is refused", metadata_that_is_no_json_object_is_refused},
      {"metadata over 1 MiB is refused", metadata_over_1_mib_is_refused},
      {"metadata nested 200,000 deep breaks nothing", metadata_nested_200000_deep_breaks_nothing},
      {"a zeroed record has measured nothing", a_zeroed_record_has_measured_nothing},
      {"averages are over those that measured", averages_are_over_those_that_measured},
      {"unknown adds nothing", unknown_adds_nothing},
      {"total_tokens default to prompt plus completion", total_tokens_default_to_prompt_plus_completion},
      {"timestamp 0 is now", timestamp_0_is_now},
      {"what went well is counted as recorded", what_went_well_is_counted_as_recorded},
  };
  int result;
  if (argc == 3 && strcmp(argv[1], "--store") == 0) {
    record_a_call_with_a_different_value_in_every_field(argv[2]);
    return check_failures;
  }
  fill_held();
  result = CHECK_MAIN(tests);
  return tj_store_close(held, NULL) == TJ_OK ? result : 1;
}
