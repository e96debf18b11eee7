/*
 * "On failure no out-parameter is written": for every function that has one, and each way in which it can fail here.
 *
 * Prints "untouched FUNCTION.ARGUMENT" for each; tests/contract.rs compares the lines with the header.
 */
#include "good.h"

static unsigned char before[4096];

#define POISON(out) memset(&(out), CHECK_POISON, sizeof(out))
#define POISON_SIZED(out) (POISON(out), (out).struct_size = sizeof(out))

/* The call fails like that, and `out` is byte for byte what it was. */
#define LEAVES(out, call, status, name)                                                                                \
  do {                                                                                                                 \
    memcpy(before, &(out), sizeof(out));                                                                               \
    CHECK_FAILS(call, status, name);                                                                                   \
    if (memcmp(before, &(out), sizeof(out)) != 0) {                                                                    \
      check_fail(__FILE__, __LINE__, "%s failed and wrote to its out-parameter", #call);                               \
      memcpy(&(out), before, sizeof(out));                                                                             \
    }                                                                                                                  \
  } while (0)

static void write_file(const char *name, const void *content, size_t size) {
  FILE *file = fopen(check_path(name), "wb");
  CHECK(file != NULL && fwrite(content, 1, size, file) == size && fclose(file) == 0);
}

/* A database of the library's whose header says that a newer version wrote it. */
static void write_newer_database(const char *name) {
  static const unsigned char version[4] = {0, 0, 0x10, 0}; /* user_version, at byte 60 of an SQLite file */
  FILE *file;
  tj_store *made = check_open(check_path(name));
  CHECK_OK(tj_store_close(made, &error));
  file = fopen(check_path(name), "r+b");
  CHECK(file != NULL && fseek(file, 60, SEEK_SET) == 0 && fwrite(version, 1, 4, file) == 4 && fclose(file) == 0);
}

static const double impossible[] = {NAN, INFINITY, -INFINITY, -1.0, -1e-300};

static void failure_leaves_what_open_gives_untouched(void) {
  tj_store *out;
  size_t i;
  tj_store_options options;
  static const char garbage[] = "This is not a database, but it is long enough to be looked at as one: "
                                "an SQLite file begins with a header of one hundred bytes.";
  report("untouched", "tj_store_open.out_store");
  POISON(out);
  LEAVES(out, tj_store_open(NULL, NULL, &out, &error), TJ_ERR_INVALID_ARGUMENT, "path");
  LEAVES(out, tj_store_open("", NULL, &out, &error), TJ_ERR_INVALID_ARGUMENT, "path");
  LEAVES(out, tj_store_open("/tmp/\xFF", NULL, &out, &error), TJ_ERR_INVALID_ARGUMENT, "path");
  LEAVES(out, tj_store_open(check_folder, NULL, &out, &error), TJ_ERR_IO, NULL);

  write_file("file", "x", 1);
  LEAVES(out, tj_store_open(check_path("file/db"), NULL, &out, &error), TJ_ERR_IO, NULL);
  write_file("garbage", garbage, sizeof garbage);
  LEAVES(out, tj_store_open(check_path("garbage"), NULL, &out, &error), TJ_ERR_CORRUPT, NULL);
  write_newer_database("newer");
  LEAVES(out, tj_store_open(check_path("newer"), NULL, &out, &error), TJ_ERR_SCHEMA, NULL);
  unlink(check_path("dangling"));
  CHECK(symlink("nowhere", check_path("dangling")) == 0);
  LEAVES(out, tj_store_open(check_path("dangling"), NULL, &out, &error), TJ_ERR_IO, NULL);

  tj_store_options_init(&options);
  options.struct_size = 1;
  LEAVES(out, tj_store_open(":memory:", &options, &out, &error), TJ_ERR_INVALID_ARGUMENT, "options.struct_size");
  tj_store_options_init(&options);
  options.read_only = 2;
  LEAVES(out, tj_store_open(":memory:", &options, &out, &error), TJ_ERR_INVALID_ARGUMENT, "read_only");
  tj_store_options_init(&options);
  for (i = 0; i < sizeof impossible / sizeof *impossible; i++) {
    options.max_age_seconds = impossible[i];
    LEAVES(out, tj_store_open(":memory:", &options, &out, &error), TJ_ERR_INVALID_ARGUMENT, "max_age_seconds");
  }
  tj_store_options_init(&options);
  options.read_only = 1;
  LEAVES(out, tj_store_open(":memory:", &options, &out, &error), TJ_ERR_INVALID_ARGUMENT, "read_only");
  LEAVES(out, tj_store_open(check_path("missing"), &options, &out, &error), TJ_ERR_IO, NULL);
  CHECK(access(check_path("missing"), F_OK) != 0); /* nothing on disk changes */
  LEAVES(out, tj_store_open(check_path("newer"), &options, &out, &error), TJ_ERR_SCHEMA, NULL);
  LEAVES(out, tj_store_open(check_path("garbage"), &options, &out, &error), TJ_ERR_CORRUPT, NULL);
}

static void failure_leaves_numbers_untouched(void) {
  uint64_t out;
  size_t i;
  tj_store *closed = check_open(":memory:"), *read_only;
  tj_store_options options = TJ_STORE_OPTIONS_INIT;
  tj_store *made = check_open(check_path("readable"));
  CHECK_OK(tj_store_close(made, &error));
  CHECK_OK(tj_store_close(closed, &error));
  options.read_only = 1;
  CHECK_OK(tj_store_open(check_path("readable"), &options, &read_only, &error));

  POISON(out);
  report("untouched", "tj_store_count.out_count");
  LEAVES(out, tj_store_count(NULL, &out, &error), TJ_ERR_INVALID_ARGUMENT, "store");
  LEAVES(out, tj_store_count(closed, &out, &error), TJ_ERR_CLOSED, NULL);

  report("untouched", "tj_store_clear.out_deleted");
  LEAVES(out, tj_store_clear(NULL, &out, &error), TJ_ERR_INVALID_ARGUMENT, "store");
  LEAVES(out, tj_store_clear(closed, &out, &error), TJ_ERR_CLOSED, NULL);
  LEAVES(out, tj_store_clear(read_only, &out, &error), TJ_ERR_READ_ONLY, NULL);

  report("untouched", "tj_store_prune.out_deleted");
  LEAVES(out, tj_store_prune(NULL, 1.0, &out, &error), TJ_ERR_INVALID_ARGUMENT, "store");
  LEAVES(out, tj_store_prune(closed, 1.0, &out, &error), TJ_ERR_CLOSED, NULL);
  LEAVES(out, tj_store_prune(read_only, 1.0, &out, &error), TJ_ERR_READ_ONLY, NULL);
  for (i = 0; i < sizeof impossible / sizeof *impossible; i++) {
    LEAVES(out, tj_store_prune(store, impossible[i], &out, &error), TJ_ERR_INVALID_ARGUMENT, "before");
  }

  report("untouched", "tj_store_verify.out_differences");
  LEAVES(out, tj_store_verify(NULL, ignore_difference, NULL, &out, &error), TJ_ERR_INVALID_ARGUMENT, "store");
  LEAVES(out, tj_store_verify(closed, ignore_difference, NULL, &out, &error), TJ_ERR_CLOSED, NULL);

  report("untouched", "tj_store_rollup.out_left");
  LEAVES(out, tj_store_rollup(NULL, ignore_progress, NULL, &out, &error), TJ_ERR_INVALID_ARGUMENT, "store");
  LEAVES(out, tj_store_rollup(closed, ignore_progress, NULL, &out, &error), TJ_ERR_CLOSED, NULL);
  LEAVES(out, tj_store_rollup(read_only, ignore_progress, NULL, &out, &error), TJ_ERR_READ_ONLY, NULL);

  report("untouched", "tj_bus_subscribe.out_subscription");
  LEAVES(out, tj_bus_subscribe(0, ignore_event, NULL, NULL, &out, &error), TJ_ERR_INVALID_ARGUMENT, "event_mask");
  LEAVES(out, tj_bus_subscribe(1, NULL, NULL, NULL, &out, &error), TJ_ERR_INVALID_ARGUMENT, "fn");
  CHECK_OK(tj_store_close(read_only, &error));

  report("untouched", "tj_cost_load_prices.out_count");
  LEAVES(out, tj_cost_load_prices("[]", "", &out, &error), TJ_ERR_INVALID_ARGUMENT, "prices_json");
  LEAVES(out, tj_cost_load_prices("\xFF", "", &out, &error), TJ_ERR_INVALID_ARGUMENT, "prices_json");
  LEAVES(out, tj_cost_load_prices("{}", "\xFF", &out, &error), TJ_ERR_INVALID_ARGUMENT, "version");
}

static void failure_leaves_structs_untouched(void) {
  tj_health health;
  tj_aggregated_stats stats;
  tj_polled_event polled;
  tj_generate_result result;
  tj_series series;
  tj_batches batches;
  tj_query query;
  size_t i;
  tj_store *closed = check_open(":memory:");
  tj_bus_queue *queue = opened_queue();
  CHECK_OK(tj_store_close(closed, &error));

  report("untouched", "tj_store_health.out_health");
  POISON_SIZED(health);
  LEAVES(health, tj_store_health(NULL, &health, &error), TJ_ERR_INVALID_ARGUMENT, "store");
  health.struct_size = 3;
  LEAVES(health, tj_store_health(store, &health, &error), TJ_ERR_INVALID_ARGUMENT, "out_health.struct_size");

  report("untouched", "tj_aggregate.out_stats");
  POISON_SIZED(stats);
  LEAVES(stats, tj_aggregate(NULL, NULL, &stats, &error), TJ_ERR_INVALID_ARGUMENT, "store");
  LEAVES(stats, tj_aggregate(closed, NULL, &stats, &error), TJ_ERR_CLOSED, NULL);
  query = good_query;
  query.struct_size = 0;
  LEAVES(stats, tj_aggregate(store, &query, &stats, &error), TJ_ERR_INVALID_ARGUMENT, "query.struct_size");
  query = good_query;
  query.since = NAN;
  LEAVES(stats, tj_aggregate(store, &query, &stats, &error), TJ_ERR_INVALID_ARGUMENT, "since");
  query.since = -1.0;
  LEAVES(stats, tj_aggregate(store, &query, &stats, &error), TJ_ERR_INVALID_ARGUMENT, "since");
  query = good_query;
  query.until = INFINITY;
  LEAVES(stats, tj_aggregate(store, &query, &stats, &error), TJ_ERR_INVALID_ARGUMENT, "until");
  query = good_query;
  query.agent = "\xFF";
  LEAVES(stats, tj_aggregate(store, &query, &stats, &error), TJ_ERR_INVALID_ARGUMENT, "agent");
  query = good_query;
  query.outcome_mask = 1u << 5;
  LEAVES(stats, tj_aggregate(store, &query, &stats, &error), TJ_ERR_INVALID_ARGUMENT, "outcome_mask");
  query = good_query;
  for (i = 0; i < sizeof impossible / sizeof *impossible; i++) {
    query.max_ttft = impossible[i];
    LEAVES(stats, tj_aggregate(store, &query, &stats, &error), TJ_ERR_INVALID_ARGUMENT, "max_ttft");
    query.max_ttft = 0, query.max_tpot = impossible[i];
    LEAVES(stats, tj_aggregate(store, &query, &stats, &error), TJ_ERR_INVALID_ARGUMENT, "max_tpot");
    query.max_tpot = 0, query.max_latency = impossible[i];
    LEAVES(stats, tj_aggregate(store, &query, &stats, &error), TJ_ERR_INVALID_ARGUMENT, "max_latency");
    query.max_latency = 0;
  }
  stats.struct_size = 1;
  LEAVES(stats, tj_aggregate(store, NULL, &stats, &error), TJ_ERR_INVALID_ARGUMENT, "out_stats.struct_size");

  query = good_query;
  query.agent = "\xFF";
  report("untouched", "tj_aggregate_series.out_series");
  POISON_SIZED(series);
  LEAVES(series, tj_aggregate_series(NULL, NULL, 1.0, &series, &error), TJ_ERR_INVALID_ARGUMENT, "store");
  LEAVES(series, tj_aggregate_series(closed, NULL, 1.0, &series, &error), TJ_ERR_CLOSED, NULL);
  LEAVES(series, tj_aggregate_series(store, &query, 1.0, &series, &error), TJ_ERR_INVALID_ARGUMENT, "agent");
  LEAVES(series, tj_aggregate_series(store, NULL, 0.0, &series, &error), TJ_ERR_INVALID_ARGUMENT, "step_seconds");
  series.struct_size = offsetof(tj_series, owner);
  LEAVES(series, tj_aggregate_series(store, NULL, 1.0, &series, &error), TJ_ERR_INVALID_ARGUMENT,
         "out_series.struct_size");

  report("untouched", "tj_batch_stats.out_batches");
  POISON_SIZED(batches);
  LEAVES(batches, tj_batch_stats(NULL, NULL, &batches, &error), TJ_ERR_INVALID_ARGUMENT, "store");
  LEAVES(batches, tj_batch_stats(closed, NULL, &batches, &error), TJ_ERR_CLOSED, NULL);
  LEAVES(batches, tj_batch_stats(store, &query, &batches, &error), TJ_ERR_INVALID_ARGUMENT, "agent");
  batches.struct_size = offsetof(tj_batches, owner);
  LEAVES(batches, tj_batch_stats(store, NULL, &batches, &error), TJ_ERR_INVALID_ARGUMENT, "out_batches.struct_size");

  report("untouched", "tj_bus_poll.out_polled");
  POISON_SIZED(polled);
  LEAVES(polled, tj_bus_poll(NULL, 0, &polled, &error), TJ_ERR_INVALID_ARGUMENT, "queue");
  LEAVES(polled, tj_bus_poll(queue, 0, &polled, &error), TJ_ERR_TIMEOUT, NULL);
  CHECK_OK(tj_bus_publish("waiting", NULL, &error));
  polled.struct_size = 0;
  LEAVES(polled, tj_bus_poll(queue, 0, &polled, &error), TJ_ERR_INVALID_ARGUMENT, "out_polled.struct_size");
  polled.struct_size = offsetof(tj_polled_event, owner);
  LEAVES(polled, tj_bus_poll(queue, 0, &polled, &error), TJ_ERR_INVALID_ARGUMENT, "out_polled.struct_size");
  {
    tj_polled_event taken = TJ_POLLED_EVENT_INIT; /* a refused poll takes nothing out */
    CHECK_OK(tj_bus_poll(queue, 0, &taken, &error));
    tj_polled_event_free(&taken);
  }
  CHECK_OK(tj_bus_queue_close(queue, &error));
  POISON_SIZED(polled);
  LEAVES(polled, tj_bus_poll(queue, 0, &polled, &error), TJ_ERR_CLOSED, NULL);
  tj_bus_queue_free(queue);

  report("untouched", "tj_cost_estimate.out_cost");
  {
    tj_telemetry_record record = good_record;
    tj_cost cost;
    POISON_SIZED(cost);
    record.model_id = NULL;
    LEAVES(cost, tj_cost_estimate(&record, &cost, &error), TJ_ERR_INVALID_ARGUMENT, "model_id");
    record = good_record, record.energy_joules = -1.0;
    LEAVES(cost, tj_cost_estimate(&record, &cost, &error), TJ_ERR_INVALID_ARGUMENT, "energy_joules");
    record = good_record, record.engine = "\xFF";
    LEAVES(cost, tj_cost_estimate(&record, &cost, &error), TJ_ERR_INVALID_ARGUMENT, "engine");
    cost.struct_size = 1;
    LEAVES(cost, tj_cost_estimate(&good_record, &cost, &error), TJ_ERR_INVALID_ARGUMENT, "out_cost.struct_size");
  }

  report("untouched", "tj_gpu_peak_find.out_peak");
  {
    tj_gpu_peak peak;
    POISON_SIZED(peak);
    LEAVES(peak, tj_gpu_peak_find("Voodoo2", &peak, &error), TJ_ERR_NOT_FOUND, "gpu_name");
    LEAVES(peak, tj_gpu_peak_find("", &peak, &error), TJ_ERR_NOT_FOUND, "gpu_name");
    LEAVES(peak, tj_gpu_peak_find("\xFF", &peak, &error), TJ_ERR_INVALID_ARGUMENT, "gpu_name");
    peak.struct_size = 1;
    LEAVES(peak, tj_gpu_peak_find("H100", &peak, &error), TJ_ERR_INVALID_ARGUMENT, "out_peak.struct_size");
  }

  report("untouched", "tj_phases_split.out_phases");
  {
    tj_telemetry_record record = good_record;
    tj_phases phases;
    POISON_SIZED(phases);
    record.prefill_energy_joules = INFINITY;
    LEAVES(phases, tj_phases_split(&record, &phases, &error), TJ_ERR_INVALID_ARGUMENT, "prefill_energy_joules");
    record = good_record, record.model_id = "";
    LEAVES(phases, tj_phases_split(&record, &phases, &error), TJ_ERR_INVALID_ARGUMENT, "model_id");
    phases.struct_size = 1;
    LEAVES(phases, tj_phases_split(&good_record, &phases, &error), TJ_ERR_INVALID_ARGUMENT, "out_phases.struct_size");
  }

  report("untouched", "tj_steady_state_detect.out_state");
  {
    double samples[3] = {1.0, 2.0, 3.0};
    tj_steady_options options = TJ_STEADY_OPTIONS_INIT;
    tj_steady_state state;
    POISON_SIZED(state);
    options.cv_threshold = -0.5;
    LEAVES(state, tj_steady_state_detect(samples, 3, &options, &state, &error), TJ_ERR_INVALID_ARGUMENT, "cv_threshold");
    options.cv_threshold = NAN;
    LEAVES(state, tj_steady_state_detect(samples, 3, &options, &state, &error), TJ_ERR_INVALID_ARGUMENT, "cv_threshold");
    options.cv_threshold = 0, options.no_warmup = 1, options.warmup_samples = 1;
    LEAVES(state, tj_steady_state_detect(samples, 3, &options, &state, &error), TJ_ERR_INVALID_ARGUMENT, "no_warmup");
    samples[2] = -1;
    LEAVES(state, tj_steady_state_detect(samples, 3, NULL, &state, &error), TJ_ERR_INVALID_ARGUMENT, "samples[2]");
    samples[2] = INFINITY;
    LEAVES(state, tj_steady_state_detect(samples, 3, NULL, &state, &error), TJ_ERR_INVALID_ARGUMENT, "samples[2]");
    LEAVES(state, tj_steady_state_detect(samples, SIZE_MAX, NULL, &state, &error), TJ_ERR_INVALID_ARGUMENT, "samples");
    state.struct_size = 1;
    LEAVES(state, tj_steady_state_detect(samples, 1, NULL, &state, &error), TJ_ERR_INVALID_ARGUMENT,
           "out_state.struct_size");
  }

  report("untouched", "tj_energy_batch_compute.out_batch");
  {
    double energies[2] = {1.0, -1.0};
    uint64_t tokens[2] = {1, 2};
    tj_energy_batch batch;
    POISON_SIZED(batch);
    LEAVES(batch, tj_energy_batch_compute(energies, tokens, 2, 1, 1, &batch, &error), TJ_ERR_INVALID_ARGUMENT,
           "energy_joules[1]");
    energies[1] = 1.0;
    for (i = 1; i < sizeof impossible / sizeof *impossible; i++) { /* not NAN, which is unknown */
      LEAVES(batch, tj_energy_batch_compute(energies, tokens, 2, impossible[i], 1, &batch, &error),
             TJ_ERR_INVALID_ARGUMENT, "total_energy_joules");
      LEAVES(batch, tj_energy_batch_compute(energies, tokens, 2, 1, impossible[i], &batch, &error),
             TJ_ERR_INVALID_ARGUMENT, "seconds");
    }
    tokens[0] = TJ_UNKNOWN - 1;
    LEAVES(batch, tj_energy_batch_compute(energies, tokens, 2, 1, 1, &batch, &error), TJ_ERR_INVALID_ARGUMENT,
           "tokens[0]");
    batch.struct_size = 1;
    LEAVES(batch, tj_energy_batch_compute(energies, good_counts, 2, 1, 1, &batch, &error), TJ_ERR_INVALID_ARGUMENT,
           "out_batch.struct_size");
  }

  report("untouched", "tj_instrumented_generate.out_result");
  {
    tj_engine engine = good_engine;
    tj_generate_request request = good_request;
    POISON_SIZED(result);
    LEAVES(result, tj_instrumented_generate(NULL, &request, &result, &error), TJ_ERR_INVALID_ARGUMENT, "engine");
    LEAVES(result, tj_instrumented_generate(&engine, NULL, &result, &error), TJ_ERR_INVALID_ARGUMENT, "request");
    request.model = "";
    LEAVES(result, tj_instrumented_generate(&engine, &request, &result, &error), TJ_ERR_INVALID_ARGUMENT, "model");
    request = good_request;
    request.extra_json = "[]";
    LEAVES(result, tj_instrumented_generate(&engine, &request, &result, &error), TJ_ERR_INVALID_ARGUMENT, "extra_json");
    request = good_request;
    engine.struct_size = 1;
    LEAVES(result, tj_instrumented_generate(&engine, &request, &result, &error), TJ_ERR_INVALID_ARGUMENT,
           "engine.struct_size");
    engine = good_engine;
    engine.engine_id = "\xFF";
    LEAVES(result, tj_instrumented_generate(&engine, &request, &result, &error), TJ_ERR_INVALID_ARGUMENT, "engine_id");
    engine = good_engine;
    engine.generate = fail_with_7;
    memcpy(before, &result, sizeof result);
    CHECK_ENGINE_FAILS(tj_instrumented_generate(&engine, &request, &result, &error), 7, "engine");
    CHECK(memcmp(before, &result, sizeof result) == 0);
    engine = good_engine;
    result.struct_size = SIZE_MAX;
    LEAVES(result, tj_instrumented_generate(&engine, &request, &result, &error), TJ_ERR_INVALID_ARGUMENT,
           "out_result.struct_size");
  }
}

static void failure_leaves_handles_untouched(void) {
  tj_bus_queue *queue;
  tj_call *call;
  tj_generate_request request = good_request;

  report("untouched", "tj_bus_queue_open.out_queue");
  POISON(queue);
  LEAVES(queue, tj_bus_queue_open(0, 1, &queue, &error), TJ_ERR_INVALID_ARGUMENT, "event_mask");
  LEAVES(queue, tj_bus_queue_open(1, 0, &queue, &error), TJ_ERR_INVALID_ARGUMENT, "capacity");
  LEAVES(queue, tj_bus_queue_open(1, (1u << 20) + 1, &queue, &error), TJ_ERR_INVALID_ARGUMENT, "capacity");
  CHECK_OK(tj_bus_queue_open(1, 1u << 20, &queue, &error));
  tj_bus_queue_free(queue);

  report("untouched", "tj_call_begin.out_call");
  POISON(call);
  LEAVES(call, tj_call_begin("engine", NULL, &call, &error), TJ_ERR_INVALID_ARGUMENT, "request");
  LEAVES(call, tj_call_begin("\xFF", &request, &call, &error), TJ_ERR_INVALID_ARGUMENT, "engine_id");
  request.model = NULL;
  LEAVES(call, tj_call_begin("engine", &request, &call, &error), TJ_ERR_INVALID_ARGUMENT, "model");
  request = good_request;
  request.extra_json = "{]";
  LEAVES(call, tj_call_begin("engine", &request, &call, &error), TJ_ERR_INVALID_ARGUMENT, "extra_json");
  request = good_request;
  request.struct_size = 0;
  LEAVES(call, tj_call_begin("engine", &request, &call, &error), TJ_ERR_INVALID_ARGUMENT, "request.struct_size");
}

static void failure_leaves_what_energy_gives_untouched(void) {
  tj_energy_source_list sources;
  tj_energy_totals totals;
  tj_energy_window measured;
  tj_energy_options options = good_energy_options;
  tj_energy_custom custom = good_custom;
  uint64_t out;

  POISON(out);
  POISON_SIZED(totals);
  report("untouched", "tj_energy_read.out_totals");
  LEAVES(totals, tj_energy_read(&totals, &error), TJ_ERR_CLOSED, "energy"); /* never started */
  totals.struct_size = offsetof(tj_energy_totals, owner);
  LEAVES(totals, tj_energy_read(&totals, &error), TJ_ERR_INVALID_ARGUMENT, "out_totals.struct_size");
  report("untouched", "tj_energy_window_begin.out_window");
  LEAVES(out, tj_energy_window_begin(&out, &error), TJ_ERR_CLOSED, "energy");
  report("untouched", "tj_energy_window_end.out_measured");
  POISON_SIZED(measured);
  LEAVES(measured, tj_energy_window_end(77, &measured, &error), TJ_ERR_NOT_FOUND, "window");
  measured.struct_size = 3;
  LEAVES(measured, tj_energy_window_end(77, &measured, &error), TJ_ERR_INVALID_ARGUMENT, "out_measured.struct_size");

  report("untouched", "tj_energy_sources.out_sources");
  POISON_SIZED(sources);
  options.kinds = 16;
  LEAVES(sources, tj_energy_sources(&options, &sources, &error), TJ_ERR_INVALID_ARGUMENT, "kinds");
  options.kinds = 0, options.weight = 2;
  LEAVES(sources, tj_energy_sources(&options, &sources, &error), TJ_ERR_INVALID_ARGUMENT, "weight");
  options.weight = 0, options.leave_idle_out = 2;
  LEAVES(sources, tj_energy_sources(&options, &sources, &error), TJ_ERR_INVALID_ARGUMENT, "leave_idle_out");
  options.leave_idle_out = 0, options.interval_ms = 60001;
  LEAVES(sources, tj_energy_sources(&options, &sources, &error), TJ_ERR_INVALID_ARGUMENT, "interval_ms");
  sources.struct_size = offsetof(tj_energy_source_list, owner);
  LEAVES(sources, tj_energy_sources(NULL, &sources, &error), TJ_ERR_INVALID_ARGUMENT, "out_sources.struct_size");

  report("untouched", "tj_energy_register_source.out_source");
  custom.name = "";
  LEAVES(out, tj_energy_register_source(&custom, &out, &error), TJ_ERR_INVALID_ARGUMENT, "name");
  custom.name = "meter", custom.part = 5;
  LEAVES(out, tj_energy_register_source(&custom, &out, &error), TJ_ERR_INVALID_ARGUMENT, "part");
  custom.part = 0, custom.update_period_ms = 60001;
  LEAVES(out, tj_energy_register_source(&custom, &out, &error), TJ_ERR_INVALID_ARGUMENT, "update_period_ms");
  custom.update_period_ms = 0, custom.read = NULL;
  LEAVES(out, tj_energy_register_source(&custom, &out, &error), TJ_ERR_INVALID_ARGUMENT, "read");
}

int main(int argc, char **argv) {
  static const check_test tests[] = {
      {"failure leaves what open gives untouched", failure_leaves_what_open_gives_untouched},
      {"failure leaves numbers untouched", failure_leaves_numbers_untouched},
      {"failure leaves structs untouched", failure_leaves_structs_untouched},
      {"failure leaves handles untouched", failure_leaves_handles_untouched},
      {"failure leaves what energy gives untouched", failure_leaves_what_energy_gives_untouched},
  };
  int result;
  store = check_open(":memory:");
  result = CHECK_MAIN(tests);
  return tj_store_close(store, NULL) == TJ_OK ? result : 1;
}
