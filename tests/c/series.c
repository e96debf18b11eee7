/*
 * tj_aggregate_series: the answers of tj_aggregate for each step of a range.
 */
#include "calls.h"

static tj_series series_of(tj_store *store, const tj_query *query, double step) {
  tj_series series = TJ_SERIES_INIT;
  CHECK_OK(tj_aggregate_series(store, query, step, &series, &error));
  return series;
}

static uint64_t calls_in(const tj_series *series) {
  uint64_t sum = 0;
  size_t i;
  for (i = 0; i < series->step_count; i++) {
    sum += series->steps[i].stats->total_calls;
  }
  return sum;
}

static size_t steps_of(tj_store *store, const tj_query *query, double step) {
  tj_series series = series_of(store, query, step);
  size_t count = series.step_count;
  tj_series_free(&series);
  return count;
}

static void add_at(tj_store *store, double timestamp) {
  tj_telemetry_record record = call_of("m", "e", timestamp);
  add(store, &record);
}

/* 600 calls in 2 hours, many of them in one minute. */
static const double begin = 1699999200.0;
static void add_600(tj_store *store) {
  static const char *const models[] = {"a", "b", "c"};
  int n;
  for (n = 0; n < 600; n++) {
    tj_telemetry_record record = call_of(models[n % 3], n % 2 ? "e" : "f", begin + (n % 2 ? n * 12.0 : n / 10.0));
    record.latency_seconds = 0.5 + n / 100.0, record.energy_joules = n * 0.25;
    record.completion_tokens = (uint64_t)n, record.is_warmup = n % 5 == 0;
    add(store, &record);
  }
}

/* Each step is what tj_aggregate says of its range, and all of them together are what it says of the whole. */
static void steps_are_answers_and_add_up(tj_store *store, const tj_query *filter, double step) {
  tj_query query = *filter;
  tj_series series;
  tj_aggregated_stats whole;
  uint64_t tokens = 0;
  double energy = 0, end;
  size_t i;
  query.since = begin + 7, query.until = begin + 7007;
  series = series_of(store, &query, step);
  whole = ask(store, &query);
  CHECK_NUM(series.steps[0].since, query.since);
  CHECK_NUM(series.steps[series.step_count - 1].until, query.until); /* cut short */
  for (i = 0, end = query.since; i < series.step_count; i++) {
    const tj_series_step *it = &series.steps[i];
    tj_query alone = *filter;
    tj_aggregated_stats stats;
    CHECK_NUM(it->since, end); /* without gaps */
    end = it->until;
    CHECK(it->reserved[0] == 0 && it->reserved[1] == 0 && it->reserved[2] == 0 && it->reserved[3] == 0);
    alone.since = it->since, alone.until = it->until;
    stats = ask(store, &alone);
    CHECK_EQ(it->stats->struct_size, sizeof(tj_aggregated_stats));
    CHECK_EQ(it->stats->total_calls, stats.total_calls);
    CHECK_EQ(it->stats->latency.count, stats.latency.count);
    CHECK_NEAR(it->stats->latency.p95, stats.latency.p95, 1e-12);
    CHECK_EQ(it->stats->per_model_count, stats.per_model_count);
    CHECK_EQ(it->stats->per_engine_count, stats.per_engine_count);
    if (stats.per_model_count > 0 && it->stats->per_model_count > 0) {
      CHECK_STR(it->stats->per_model[0].model_id, stats.per_model[0].model_id);
      CHECK_EQ(it->stats->per_model[0].call_count, stats.per_model[0].call_count);
      CHECK_STR(it->stats->per_engine[0].engine, stats.per_engine[0].engine);
    }
    tj_aggregated_stats_free(&stats);
    tokens += it->stats->total_tokens, energy += it->stats->total_energy_joules;
  }
  CHECK_EQ(calls_in(&series), whole.total_calls);
  CHECK_EQ(tokens, whole.total_tokens);
  CHECK_NEAR(energy, whole.total_energy_joules, 1e-9);
  tj_series_free(&series);
  tj_aggregated_stats_free(&whole);
}

static void each_step_is_an_answer_and_they_add_up(void) {
  static const double steps[] = {13.5, 60, 250, 3600, 100000};
  tj_query everything = TJ_QUERY_INIT, some = TJ_QUERY_INIT;
  tj_store *stores[2];
  uint64_t left;
  size_t i, j;
  some.model_id = "b", some.exclude_warmup = 1, some.limit = 1;
  stores[0] = check_open(":memory:");
  stores[1] = check_open(check_path("summed-up"));
  for (i = 0; i < 2; i++) {
    add_600(stores[i]);
  }
  CHECK_OK(tj_store_rollup(stores[1], NULL, NULL, &left, &error));
  for (i = 0; i < 2; i++) {
    for (j = check_is_quick ? 2 : 0; j < sizeof steps / sizeof *steps; j++) {
      steps_are_answers_and_add_up(stores[i], &everything, steps[j]);
      steps_are_answers_and_add_up(stores[i], &some, steps[j]);
    }
    CHECK_OK(tj_store_close(stores[i], &error));
  }
}

/* since <= t < until, to the last bit of the double. */
static void the_edges_of_steps_are_half_open(void) {
  tj_store *store = check_open(":memory:");
  tj_query query = TJ_QUERY_INIT;
  tj_series series;
  add_at(store, nextafter(1000, 0)), add_at(store, 1000);
  add_at(store, nextafter(1060, 0)), add_at(store, 1060), add_at(store, 1061);
  add_at(store, nextafter(1120, 0)), add_at(store, 1120);
  query.since = 1000, query.until = 1120;
  series = series_of(store, &query, 60);
  CHECK_EQ(series.step_count, 2);
  CHECK_EQ(series.steps[0].stats->total_calls, 2);
  CHECK_EQ(series.steps[1].stats->total_calls, 3);
  tj_series_free(&series);
  CHECK_OK(tj_store_close(store, &error));
}

static void an_open_range_begins_at_a_multiple_of_the_step(void) {
  tj_store *store = check_open(":memory:");
  tj_query query = TJ_QUERY_INIT;
  tj_series series;
  add_at(store, 1234), add_at(store, 1500);

  series = series_of(store, NULL, 60);
  CHECK_EQ(series.step_count, 6);
  CHECK_NUM(series.steps[0].since, 1200), CHECK_NUM(series.steps[5].since, 1500); /* where the last record is */
  CHECK_NUM(series.steps[5].until, 1560);
  CHECK_EQ(series.steps[0].stats->total_calls, 1), CHECK_EQ(series.steps[5].stats->total_calls, 1);
  CHECK_EQ(series.steps[3].stats->total_calls, 0); /* steps without calls are among them ... */
  CHECK(series.steps[3].stats->per_model == NULL && isnan(series.steps[3].stats->latency.p50));
  tj_series_free(&series);

  query.model_id = "nobody's"; /* ... even if there are no others */
  series = series_of(store, &query, 60);
  CHECK_EQ(series.step_count, 6);
  CHECK_EQ(calls_in(&series), 0);
  tj_series_free(&series);

  query = (tj_query)TJ_QUERY_INIT;
  query.since = 1230;
  series = series_of(store, &query, 60);
  CHECK_EQ(series.step_count, 5);
  CHECK_NUM(series.steps[0].since, 1230), CHECK_NUM(series.steps[4].until, 1530);
  CHECK_EQ(calls_in(&series), 2);
  tj_series_free(&series);

  query.since = 0, query.until = 1300;
  series = series_of(store, &query, 60);
  CHECK_EQ(series.step_count, 2);
  CHECK_NUM(series.steps[0].since, 1200), CHECK_NUM(series.steps[1].until, 1300);
  CHECK_EQ(calls_in(&series), 1);
  tj_series_free(&series);

  query.until = 60; /* ends before the first record */
  CHECK_EQ(steps_of(store, &query, 60), 0);
  query.since = 2000, query.until = 0; /* begins behind the last one */
  CHECK_EQ(steps_of(store, &query, 60), 0);
  CHECK_OK(tj_store_close(store, &error));
}

static void an_empty_store_and_an_empty_range_have_no_steps(void) {
  tj_store *store = check_open(":memory:");
  tj_query query = TJ_QUERY_INIT;
  tj_series series = series_of(store, NULL, 60);
  CHECK(series.steps == NULL && series.step_count == 0);
  tj_series_free(&series);
  query.since = 100;
  CHECK_EQ(steps_of(store, &query, 60), 0);
  query.until = 400; /* a range has its steps, whatever is in it */
  CHECK_EQ(steps_of(store, &query, 60), 5);
  add_at(store, 200);
  query.until = 100;
  CHECK_EQ(steps_of(store, &query, 60), 0);
  query.until = 50;
  CHECK_EQ(steps_of(store, &query, 60), 0);
  CHECK_OK(tj_store_close(store, &error));
}

static void a_step_that_cannot_be_is_refused_by_name(void) {
  static const double impossible[] = {0, -0.0, -1, NAN, INFINITY, -INFINITY};
  tj_store *store = check_open(":memory:");
  tj_series series = TJ_SERIES_INIT;
  tj_query query = TJ_QUERY_INIT;
  const double *step;
  for (EACH(step, impossible)) { /* also where there is nothing to answer */
    CHECK_FAILS(tj_aggregate_series(store, NULL, *step, &series, &error), TJ_ERR_INVALID_ARGUMENT, "step_seconds");
  }
  query.since = 1000, query.until = 1000 + 10000 * 0.5;
  if (!check_is_quick) {
    CHECK_EQ(steps_of(store, &query, 0.5), 10000);
  }
  query.until = nextafter(query.until, INFINITY);
  CHECK_FAILS(tj_aggregate_series(store, &query, 0.5, &series, &error), TJ_ERR_INVALID_ARGUMENT, "step_seconds");
  CHECK_FAILS(tj_aggregate_series(store, &query, 5e-324, &series, &error), TJ_ERR_INVALID_ARGUMENT, "step_seconds");
  add_at(store, 1), add_at(store, 1e12);
  CHECK_FAILS(tj_aggregate_series(store, NULL, 60, &series, &error), TJ_ERR_INVALID_ARGUMENT, "step_seconds");
  query.since = NAN;
  CHECK_FAILS(tj_aggregate_series(store, &query, 60, &series, &error), TJ_ERR_INVALID_ARGUMENT, "since");
  CHECK_OK(tj_store_close(store, &error));
}

static void objectives_and_limit_are_each_steps(void) {
  tj_store *store = check_open(":memory:");
  tj_query query = TJ_QUERY_INIT;
  tj_series series;
  int n;
  for (n = 0; n < 4; n++) { /* at 100 and 110 one of each model */
    tj_telemetry_record record = call_of(n % 2 ? "x" : "y", "e", 100 + n / 2 * 10);
    record.latency_seconds = n == 0 ? 9.0 : 1.0;
    add(store, &record);
  }
  query.since = 100, query.until = 120, query.limit = 1, query.max_latency = 2.0;
  series = series_of(store, &query, 10);
  CHECK_EQ(series.step_count, 2);
  CHECK_EQ(series.steps[0].stats->goodput_calls, 1), CHECK_EQ(series.steps[1].stats->goodput_calls, 2);
  CHECK_NUM(series.steps[0].stats->goodput, 0.5), CHECK_NUM(series.steps[1].stats->goodput, 1.0);
  CHECK_NUM(series.steps[1].stats->goodput_per_second, 2.0 / 10);
  CHECK_EQ(series.steps[0].stats->per_model_count, 1), CHECK_EQ(series.steps[0].stats->total_calls, 2);
  CHECK_STR(series.steps[1].stats->per_model[0].model_id, "x");
  tj_series_free(&series);
  CHECK_OK(tj_store_close(store, &error));
}

static void a_series_outlives_its_store(void) {
  tj_store *store = check_open(":memory:");
  tj_series first, second;
  add_at(store, 100);
  first = series_of(store, NULL, 60);
  add_at(store, 100);
  second = series_of(store, NULL, 60);
  CHECK_OK(tj_store_close(store, &error));
  CHECK_EQ(calls_in(&first), 1);
  tj_series_free(&first);
  CHECK_EQ(calls_in(&second), 2);
  CHECK_STR(second.steps[0].stats->per_model[0].model_id, "m");
  tj_series_free(&second);
}

int main(int argc, char **argv) {
  static const check_test tests[] = {
      {"each step is an answer, and they add up", each_step_is_an_answer_and_they_add_up},
      {"the edges of steps are half-open", the_edges_of_steps_are_half_open},
      {"an open range begins at a multiple of the step", an_open_range_begins_at_a_multiple_of_the_step},
      {"an empty store and an empty range have no steps", an_empty_store_and_an_empty_range_have_no_steps},
      {"a step that cannot be is refused by name", a_step_that_cannot_be_is_refused_by_name},
      {"objectives and limit are each step's", objectives_and_limit_are_each_steps},
      {"a series outlives its store", a_series_outlives_its_store},
  };
  return CHECK_MAIN(tests);
}
