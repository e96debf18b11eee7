/*
 * The conventions that open the header, for every function: NULL, errors, enumerators, closed handles.
 *
 * Prints a line for each promise that it has held the library to ("null tj_record.store"); tests/contract.rs compares
 * the lines with the header, so that a new function, struct or field without its row here is a failure.
 */
#include "good.h"

/* ---- NULL ---- */

/* `call` ends in the argument `into`, which is tried as &error and as NULL. */
#define REFUSES_NULL(function, argument, call)                                                                         \
  do {                                                                                                                 \
    tj_error *into = &error;                                                                                           \
    report("null", #function "." #argument);                                                                           \
    CHECK_FAILS(call, TJ_ERR_INVALID_ARGUMENT, #argument);                                                             \
    into = NULL;                                                                                                       \
    CHECK_EQ(call, TJ_ERR_INVALID_ARGUMENT);                                                                           \
  } while (0)

#define ALLOWS_NULL(function, argument, call)                                                                          \
  do {                                                                                                                 \
    report("null", #function "." #argument);                                                                           \
    CHECK_OK(call);                                                                                                    \
  } while (0)

#define ALLOWS_NULL_ERROR(function, call)                                                                              \
  do {                                                                                                                 \
    report("null", #function ".error");                                                                                \
    CHECK_EQ(call, TJ_OK);                                                                                             \
  } while (0)

#define TOLERATES_NULL(function, argument, call)                                                                       \
  do {                                                                                                                 \
    report("null", #function "." #argument);                                                                           \
    call;                                                                                                              \
  } while (0)

static void null_is_refused_by_name(void) {
  uint64_t number;
  tj_store *out_store;
  tj_call *call = begun_call(), *out_call;
  tj_bus_queue *queue = opened_queue(), *out_queue;
  tj_health health = TJ_HEALTH_INIT;
  tj_aggregated_stats stats = TJ_AGGREGATED_STATS_INIT;
  tj_polled_event polled = TJ_POLLED_EVENT_INIT;
  tj_generate_result result = TJ_GENERATE_RESULT_INIT;
  tj_series series = TJ_SERIES_INIT;
  tj_batches batches = TJ_BATCHES_INIT;
  tj_cost cost = TJ_COST_INIT;
  tj_gpu_peak peak = TJ_GPU_PEAK_INIT;
  tj_phases phases = TJ_PHASES_INIT;
  tj_steady_state state = TJ_STEADY_STATE_INIT;
  tj_energy_batch batch = TJ_ENERGY_BATCH_INIT;

  REFUSES_NULL(tj_store_open, path, tj_store_open(NULL, NULL, &out_store, into));
  REFUSES_NULL(tj_store_open, out_store, tj_store_open(":memory:", NULL, NULL, into));
  REFUSES_NULL(tj_store_flush, store, tj_store_flush(NULL, into));
  REFUSES_NULL(tj_record, store, tj_record(NULL, &good_record, into));
  REFUSES_NULL(tj_record, record, tj_record(store, NULL, into));
  REFUSES_NULL(tj_store_count, store, tj_store_count(NULL, &number, into));
  REFUSES_NULL(tj_store_count, out_count, tj_store_count(store, NULL, into));
  REFUSES_NULL(tj_store_clear, store, tj_store_clear(NULL, &number, into));
  REFUSES_NULL(tj_store_clear, out_deleted, tj_store_clear(store, NULL, into));
  REFUSES_NULL(tj_store_prune, store, tj_store_prune(NULL, 1.0, &number, into));
  REFUSES_NULL(tj_store_prune, out_deleted, tj_store_prune(store, 1.0, NULL, into));
  REFUSES_NULL(tj_store_health, store, tj_store_health(NULL, &health, into));
  REFUSES_NULL(tj_store_health, out_health, tj_store_health(store, NULL, into));
  REFUSES_NULL(tj_store_subscribe, store, tj_store_subscribe(NULL, into));
  REFUSES_NULL(tj_store_unsubscribe, store, tj_store_unsubscribe(NULL, into));
  REFUSES_NULL(tj_aggregate, store, tj_aggregate(NULL, NULL, &stats, into));
  REFUSES_NULL(tj_aggregate, out_stats, tj_aggregate(store, NULL, NULL, into));
  REFUSES_NULL(tj_aggregate_series, store, tj_aggregate_series(NULL, NULL, 1.0, &series, into));
  REFUSES_NULL(tj_aggregate_series, out_series, tj_aggregate_series(store, NULL, 1.0, NULL, into));
  REFUSES_NULL(tj_batch_stats, store, tj_batch_stats(NULL, NULL, &batches, into));
  REFUSES_NULL(tj_batch_stats, out_batches, tj_batch_stats(store, NULL, NULL, into));
  REFUSES_NULL(tj_records_each, store, tj_records_each(NULL, NULL, ignore_record, NULL, into));
  REFUSES_NULL(tj_records_each, fn, tj_records_each(store, NULL, NULL, NULL, into));
  REFUSES_NULL(tj_records_recent, store, tj_records_recent(NULL, NULL, ignore_record, NULL, into));
  REFUSES_NULL(tj_records_recent, fn, tj_records_recent(store, NULL, NULL, NULL, into));
  REFUSES_NULL(tj_store_verify, store, tj_store_verify(NULL, ignore_difference, NULL, &number, into));
  REFUSES_NULL(tj_store_verify, out_differences, tj_store_verify(store, ignore_difference, NULL, NULL, into));
  REFUSES_NULL(tj_store_rollup, store, tj_store_rollup(NULL, ignore_progress, NULL, &number, into));
  REFUSES_NULL(tj_store_rollup, out_left, tj_store_rollup(store, ignore_progress, NULL, NULL, into));
  REFUSES_NULL(tj_bus_subscribe, fn, tj_bus_subscribe(1, NULL, NULL, NULL, &number, into));
  REFUSES_NULL(tj_bus_subscribe, out_subscription, tj_bus_subscribe(1, ignore_event, NULL, NULL, NULL, into));
  REFUSES_NULL(tj_bus_publish, name, tj_bus_publish(NULL, "{}", into));
  REFUSES_NULL(tj_bus_queue_open, out_queue, tj_bus_queue_open(1, 1, NULL, into));
  REFUSES_NULL(tj_bus_poll, queue, tj_bus_poll(NULL, 0, &polled, into));
  REFUSES_NULL(tj_bus_poll, out_polled, tj_bus_poll(queue, 0, NULL, into));
  REFUSES_NULL(tj_bus_queue_close, queue, tj_bus_queue_close(NULL, into));
  REFUSES_NULL(tj_instrumented_generate, engine, tj_instrumented_generate(NULL, &good_request, &result, into));
  REFUSES_NULL(tj_instrumented_generate, request, tj_instrumented_generate(&good_engine, NULL, &result, into));
  REFUSES_NULL(tj_instrumented_generate, out_result, tj_instrumented_generate(&good_engine, &good_request, NULL, into));
  REFUSES_NULL(tj_call_begin, request, tj_call_begin("engine", NULL, &out_call, into));
  REFUSES_NULL(tj_call_begin, out_call, tj_call_begin("engine", &good_request, NULL, into));
  REFUSES_NULL(tj_call_end, call, tj_call_end(NULL, TJ_OUTCOME_OK, NULL, into));
  REFUSES_NULL(tj_cost_set_price, price, tj_cost_set_price(NULL, into));
  REFUSES_NULL(tj_cost_load_prices, prices_json, tj_cost_load_prices(NULL, "", &number, into));
  REFUSES_NULL(tj_cost_load_prices, out_count, tj_cost_load_prices("{}", "", NULL, into));
  REFUSES_NULL(tj_cost_set_local, local, tj_cost_set_local(NULL, into));
  REFUSES_NULL(tj_cost_estimate, record, tj_cost_estimate(NULL, &cost, into));
  REFUSES_NULL(tj_cost_estimate, out_cost, tj_cost_estimate(&good_record, NULL, into));
  REFUSES_NULL(tj_gpu_peak_find, gpu_name, tj_gpu_peak_find(NULL, &peak, into));
  REFUSES_NULL(tj_gpu_peak_find, out_peak, tj_gpu_peak_find("H100", NULL, into));
  REFUSES_NULL(tj_phases_split, record, tj_phases_split(NULL, &phases, into));
  REFUSES_NULL(tj_phases_split, out_phases, tj_phases_split(&good_record, NULL, into));
  REFUSES_NULL(tj_steady_state_detect, samples, tj_steady_state_detect(NULL, 3, NULL, &state, into));
  REFUSES_NULL(tj_steady_state_detect, out_state, tj_steady_state_detect(good_figures, 3, NULL, NULL, into));
  REFUSES_NULL(tj_energy_batch_compute, tokens, tj_energy_batch_compute(good_figures, NULL, 3, 1, 1, &batch, into));
  REFUSES_NULL(tj_energy_batch_compute, out_batch,
               tj_energy_batch_compute(good_figures, good_counts, 3, 1, 1, NULL, into));
  REFUSES_NULL(tj_energy_sources, out_sources, tj_energy_sources(NULL, NULL, into));
  REFUSES_NULL(tj_energy_read, out_totals, tj_energy_read(NULL, into));
  REFUSES_NULL(tj_energy_window_begin, out_window, tj_energy_window_begin(NULL, into));
  REFUSES_NULL(tj_energy_window_end, out_measured, tj_energy_window_end(1, NULL, into));
  REFUSES_NULL(tj_energy_register_source, custom, tj_energy_register_source(NULL, &number, into));
  REFUSES_NULL(tj_energy_register_source, out_source, tj_energy_register_source(&good_custom, NULL, into));

  /* Pointers inside structs. */
  {
    tj_engine engine = good_engine;
    tj_generate_request request = good_request;
    tj_energy_custom custom = good_custom;
    custom.read = NULL;
    CHECK_FAILS(use_custom(&custom), TJ_ERR_INVALID_ARGUMENT, "read");
    engine.generate = NULL;
    CHECK_FAILS(use_engine(&engine), TJ_ERR_INVALID_ARGUMENT, "generate");
    request.messages = NULL;
    CHECK_FAILS(use_request_to_begin(&request), TJ_ERR_INVALID_ARGUMENT, "messages");
    CHECK_FAILS(use_request_to_generate(&request), TJ_ERR_INVALID_ARGUMENT, "messages");
    request.message_count = 0; /* NULL if message_count is 0 */
    CHECK_OK(use_request_to_begin(&request));
    CHECK_OK(use_request_to_generate(&request));
  }
  (void)out_store, (void)out_call, (void)out_queue, (void)number;
  tj_call_free(call);
  tj_bus_queue_free(queue);
}

static void null_is_fine_where_the_header_says_so(void) {
  uint64_t number;
  tj_store *opened;
  tj_call *call, *begun = begun_call();
  tj_aggregated_stats stats = TJ_AGGREGATED_STATS_INIT;
  tj_series series = TJ_SERIES_INIT;
  tj_batches batches = TJ_BATCHES_INIT;
  tj_steady_state state = TJ_STEADY_STATE_INIT;
  tj_energy_batch batch = TJ_ENERGY_BATCH_INIT;

  ALLOWS_NULL(tj_store_open, options, tj_store_open(":memory:", NULL, &opened, &error));
  CHECK_OK(tj_store_close(opened, &error));
  ALLOWS_NULL(tj_store_close, store, tj_store_close(NULL, &error));
  ALLOWS_NULL(tj_aggregate, query, tj_aggregate(store, NULL, &stats, &error));
  tj_aggregated_stats_free(&stats);
  ALLOWS_NULL(tj_aggregate_series, query, tj_aggregate_series(store, NULL, 3600.0, &series, &error));
  tj_series_free(&series);
  ALLOWS_NULL(tj_batch_stats, query, tj_batch_stats(store, NULL, &batches, &error));
  tj_batches_free(&batches);
  ALLOWS_NULL(tj_records_each, query, tj_records_each(store, NULL, ignore_record, &number, &error));
  ALLOWS_NULL(tj_records_each, user_data, tj_records_each(store, &good_query, ignore_record, NULL, &error));
  ALLOWS_NULL(tj_records_recent, query, tj_records_recent(store, NULL, ignore_record, &number, &error));
  ALLOWS_NULL(tj_records_recent, user_data, tj_records_recent(store, &good_query, ignore_record, NULL, &error));
  ALLOWS_NULL(tj_store_verify, fn, tj_store_verify(store, NULL, &number, &number, &error));
  ALLOWS_NULL(tj_store_verify, user_data, tj_store_verify(store, ignore_difference, NULL, &number, &error));
  ALLOWS_NULL(tj_store_rollup, progress, tj_store_rollup(store, NULL, &number, &number, &error));
  ALLOWS_NULL(tj_store_rollup, user_data, tj_store_rollup(store, ignore_progress, NULL, &number, &error));
  ALLOWS_NULL(tj_bus_subscribe, user_data, tj_bus_subscribe(1, ignore_event, NULL, ignore_drop, &number, &error));
  CHECK_OK(tj_bus_unsubscribe(number, &error));
  ALLOWS_NULL(tj_bus_subscribe, drop, tj_bus_subscribe(1, ignore_event, &number, NULL, &number, &error));
  CHECK_OK(tj_bus_unsubscribe(number, &error));
  CHECK_FAILS(tj_bus_subscribe(0, ignore_event, NULL, NULL, &number, &error), TJ_ERR_INVALID_ARGUMENT, "event_mask");
  ALLOWS_NULL(tj_bus_publish, data_json, tj_bus_publish("name", NULL, &error));
  ALLOWS_NULL(tj_call_begin, engine_id, tj_call_begin(NULL, &good_request, &call, &error));
  ALLOWS_NULL(tj_call_end, result, tj_call_end(call, TJ_OUTCOME_OK, NULL, &error));
  tj_call_free(call);
  ALLOWS_NULL(tj_cost_load_prices, version, tj_cost_load_prices("{}", NULL, &number, &error));
  ALLOWS_NULL(tj_steady_state_detect, options, tj_steady_state_detect(good_figures, 3, NULL, &state, &error));
  CHECK_OK(tj_steady_state_detect(NULL, 0, NULL, &state, &error)); /* NULL if sample_count is 0 */
  ALLOWS_NULL(tj_energy_batch_compute, energy_joules,
              tj_energy_batch_compute(NULL, good_counts, 3, 1, 1, &batch, &error));
  CHECK_OK(tj_energy_batch_compute(NULL, NULL, 0, 1, 1, &batch, &error)); /* NULL if request_count is 0 */

  TOLERATES_NULL(tj_call_prompt, call, tj_call_prompt(NULL, 1, 1));
  TOLERATES_NULL(tj_call_tokens, call, tj_call_tokens(NULL, 1));
  TOLERATES_NULL(tj_call_draft, call, tj_call_draft(NULL, 1, 1));
  TOLERATES_NULL(tj_call_cancel, call, tj_call_cancel(NULL));
  TOLERATES_NULL(tj_call_cancelled, call, CHECK(!tj_call_cancelled(NULL)));
  TOLERATES_NULL(tj_call_id, call, CHECK_EQ(tj_call_id(NULL), 0));
  TOLERATES_NULL(tj_call_free, call, tj_call_free(NULL));
  TOLERATES_NULL(tj_bus_queue_free, queue, tj_bus_queue_free(NULL));
  TOLERATES_NULL(tj_polled_event_free, polled, tj_polled_event_free(NULL));
  TOLERATES_NULL(tj_aggregated_stats_free, stats, tj_aggregated_stats_free(NULL));
  TOLERATES_NULL(tj_series_free, series, tj_series_free(NULL));
  TOLERATES_NULL(tj_batches_free, batches, tj_batches_free(NULL));
  TOLERATES_NULL(tj_energy_source_list_free, list, tj_energy_source_list_free(NULL));
  TOLERATES_NULL(tj_energy_totals_free, totals, tj_energy_totals_free(NULL));
  {
    tj_energy_source_list sources = TJ_ENERGY_SOURCE_LIST_INIT;
    ALLOWS_NULL(tj_energy_sources, options, tj_energy_sources(NULL, &sources, &error));
    tj_energy_source_list_free(&sources);
    ALLOWS_NULL(tj_energy_start, options, tj_energy_start(NULL, &error));
    CHECK_OK(tj_energy_stop(&error));
  }
  tj_call_free(begun);
}

static void error_may_be_null(void) {
  uint64_t number;
  tj_store *opened;
  tj_call *call;
  tj_bus_queue *queue;
  tj_health health = TJ_HEALTH_INIT;
  tj_aggregated_stats stats = TJ_AGGREGATED_STATS_INIT;
  tj_polled_event polled = TJ_POLLED_EVENT_INIT;
  tj_generate_result result = TJ_GENERATE_RESULT_INIT;
  tj_series series = TJ_SERIES_INIT;
  tj_batches batches = TJ_BATCHES_INIT;
  tj_cost cost = TJ_COST_INIT;
  tj_gpu_peak peak = TJ_GPU_PEAK_INIT;
  tj_phases phases = TJ_PHASES_INIT;
  tj_steady_state state = TJ_STEADY_STATE_INIT;
  tj_energy_batch batch = TJ_ENERGY_BATCH_INIT;

  ALLOWS_NULL_ERROR(tj_store_open, tj_store_open(":memory:", NULL, &opened, NULL));
  ALLOWS_NULL_ERROR(tj_record, tj_record(opened, &good_record, NULL));
  ALLOWS_NULL_ERROR(tj_store_flush, tj_store_flush(opened, NULL));
  ALLOWS_NULL_ERROR(tj_store_count, tj_store_count(opened, &number, NULL));
  ALLOWS_NULL_ERROR(tj_store_prune, tj_store_prune(opened, 1.0, &number, NULL));
  ALLOWS_NULL_ERROR(tj_store_clear, tj_store_clear(opened, &number, NULL));
  ALLOWS_NULL_ERROR(tj_store_health, tj_store_health(opened, &health, NULL));
  ALLOWS_NULL_ERROR(tj_aggregate, tj_aggregate(opened, NULL, &stats, NULL));
  tj_aggregated_stats_free(&stats);
  ALLOWS_NULL_ERROR(tj_aggregate_series, tj_aggregate_series(opened, NULL, 1.0, &series, NULL));
  tj_series_free(&series);
  ALLOWS_NULL_ERROR(tj_batch_stats, tj_batch_stats(opened, NULL, &batches, NULL));
  tj_batches_free(&batches);
  ALLOWS_NULL_ERROR(tj_records_each, tj_records_each(opened, NULL, ignore_record, NULL, NULL));
  ALLOWS_NULL_ERROR(tj_records_recent, tj_records_recent(opened, NULL, ignore_record, NULL, NULL));
  ALLOWS_NULL_ERROR(tj_store_verify, tj_store_verify(opened, NULL, NULL, &number, NULL));
  ALLOWS_NULL_ERROR(tj_store_rollup, tj_store_rollup(opened, NULL, NULL, &number, NULL));
  ALLOWS_NULL_ERROR(tj_store_subscribe, tj_store_subscribe(opened, NULL));
  ALLOWS_NULL_ERROR(tj_store_unsubscribe, tj_store_unsubscribe(opened, NULL));
  ALLOWS_NULL_ERROR(tj_store_close, tj_store_close(opened, NULL));
  ALLOWS_NULL_ERROR(tj_bus_subscribe, tj_bus_subscribe(1, ignore_event, NULL, NULL, &number, NULL));
  ALLOWS_NULL_ERROR(tj_bus_unsubscribe, tj_bus_unsubscribe(number, NULL));
  ALLOWS_NULL_ERROR(tj_bus_queue_open, tj_bus_queue_open(TJ_EVENT_MASK_ALL, 1, &queue, NULL));
  ALLOWS_NULL_ERROR(tj_bus_publish, tj_bus_publish("name", NULL, NULL));
  ALLOWS_NULL_ERROR(tj_bus_poll, tj_bus_poll(queue, 0, &polled, NULL));
  tj_polled_event_free(&polled);
  ALLOWS_NULL_ERROR(tj_bus_queue_close, tj_bus_queue_close(queue, NULL));
  tj_bus_queue_free(queue);
  ALLOWS_NULL_ERROR(tj_instrumented_generate, tj_instrumented_generate(&good_engine, &good_request, &result, NULL));
  ALLOWS_NULL_ERROR(tj_call_begin, tj_call_begin("engine", &good_request, &call, NULL));
  ALLOWS_NULL_ERROR(tj_call_end, tj_call_end(call, TJ_OUTCOME_OK, NULL, NULL));
  tj_call_free(call);
  ALLOWS_NULL_ERROR(tj_cost_set_price, tj_cost_set_price(&good_price, NULL));
  ALLOWS_NULL_ERROR(tj_cost_load_prices, tj_cost_load_prices("{}", "", &number, NULL));
  ALLOWS_NULL_ERROR(tj_cost_set_local, tj_cost_set_local(&good_local_cost, NULL));
  ALLOWS_NULL_ERROR(tj_cost_estimate, tj_cost_estimate(&good_record, &cost, NULL));
  tj_cost_clear();
  ALLOWS_NULL_ERROR(tj_gpu_peak_find, tj_gpu_peak_find("H100", &peak, NULL));
  ALLOWS_NULL_ERROR(tj_phases_split, tj_phases_split(&good_record, &phases, NULL));
  ALLOWS_NULL_ERROR(tj_steady_state_detect, tj_steady_state_detect(good_figures, 3, NULL, &state, NULL));
  ALLOWS_NULL_ERROR(tj_energy_batch_compute,
                    tj_energy_batch_compute(good_figures, good_counts, 3, 1, 1, &batch, NULL));

  {
    tj_energy_source_list sources = TJ_ENERGY_SOURCE_LIST_INIT;
    tj_energy_totals totals = TJ_ENERGY_TOTALS_INIT;
    tj_energy_window measured = TJ_ENERGY_WINDOW_INIT;
    uint64_t window;
    ALLOWS_NULL_ERROR(tj_energy_start, tj_energy_start(&good_energy_options, NULL));
    ALLOWS_NULL_ERROR(tj_energy_sources, tj_energy_sources(NULL, &sources, NULL));
    tj_energy_source_list_free(&sources);
    ALLOWS_NULL_ERROR(tj_energy_register_source, tj_energy_register_source(&good_custom, &number, NULL));
    ALLOWS_NULL_ERROR(tj_energy_window_begin, tj_energy_window_begin(&window, NULL));
    ALLOWS_NULL_ERROR(tj_energy_window_end, tj_energy_window_end(window, &measured, NULL));
    ALLOWS_NULL_ERROR(tj_energy_unregister_source, tj_energy_unregister_source(number, NULL));
    ALLOWS_NULL_ERROR(tj_energy_read, tj_energy_read(&totals, NULL));
    tj_energy_totals_free(&totals);
    ALLOWS_NULL_ERROR(tj_energy_stop, tj_energy_stop(NULL));
  }

  /* ... also where the failure is not about NULL. */
  CHECK_EQ(tj_call_begin("\xFF", &good_request, &call, NULL), TJ_ERR_INVALID_ARGUMENT);
  CHECK_EQ(tj_bus_unsubscribe(UINT64_C(1) << 40, NULL), TJ_ERR_NOT_FOUND);
  CHECK_EQ(tj_store_count(opened, &number, NULL), TJ_ERR_CLOSED);
}

/* ---- Errors ---- */

static void messages_are_cut_at_a_character_boundary(void) {
  static char path[4096];
  int shift, cuts_inside = 0;
  tj_store_options options = TJ_STORE_OPTIONS_INIT;
  options.read_only = 1;
  for (shift = 0; shift < 4; shift++) { /* characters of four bytes: the cut falls on each of their bytes once */
    tj_store *out;
    size_t length, i;
    memset(path, 'a', 4);
    for (i = 0; i < 200; i++) {
      memcpy(path + shift + 4 * i, "\xF0\x9D\x84\x9E", 4);
    }
    path[shift + 800] = 0;
    CHECK_FAILS(tj_store_open(path, &options, &out, &error), TJ_ERR_IO, NULL); /* checks UTF-8 and the end */
    length = strlen(error.message);
    CHECK_BETWEEN((double)length, 500, 503);
    cuts_inside += length < 503;
    CHECK(strstr(error.message, "\xF0\x9D\x84\x9E\xF0\x9D\x84\x9E") != NULL);
  }
  CHECK_EQ(cuts_inside, 3);
  memset(path, 'a', 1000);
  path[1000] = 0;
  {
    tj_store *out;
    CHECK_FAILS(tj_store_open(path, &options, &out, &error), TJ_ERR_IO, NULL);
    CHECK_EQ(strlen(error.message), 503);
  }
}

static void every_status_has_its_name(void) {
  static const char *const names[] = {
      "TJ_OK",         "TJ_ERR_INVALID_ARGUMENT", "TJ_ERR_IO",     "TJ_ERR_BUSY",   "TJ_ERR_FULL",
      "TJ_ERR_CORRUPT", "TJ_ERR_SCHEMA",          "TJ_ERR_READ_ONLY", "TJ_ERR_CLOSED", "TJ_ERR_FORKED",
      "TJ_ERR_ENGINE", "TJ_ERR_UNSUPPORTED",      "TJ_ERR_NOT_FOUND", "TJ_ERR_PANIC",  "TJ_ERR_TIMEOUT"};
  static const tj_status unknown[] = {-1, 15, 1000, INT32_MAX, INT32_MIN};
  int32_t code;
  size_t i;
  CHECK_EQ(sizeof names / sizeof *names, TJ_ERR_TIMEOUT + 1);
  for (code = 0; code <= TJ_ERR_TIMEOUT; code++) {
    CHECK_STR(tj_status_name(code), names[code]);
  }
  for (i = 0; i < sizeof unknown / sizeof *unknown; i++) {
    CHECK_STR(tj_status_name(unknown[i]), "TJ_ERR_?");
  }
#define CODE(name, number) (CHECK_EQ(name, number), CHECK_STR(tj_status_name(name), #name))
  CODE(TJ_OK, 0), CODE(TJ_ERR_INVALID_ARGUMENT, 1), CODE(TJ_ERR_IO, 2), CODE(TJ_ERR_BUSY, 3), CODE(TJ_ERR_FULL, 4);
  CODE(TJ_ERR_CORRUPT, 5), CODE(TJ_ERR_SCHEMA, 6), CODE(TJ_ERR_READ_ONLY, 7), CODE(TJ_ERR_CLOSED, 8);
  CODE(TJ_ERR_FORKED, 9), CODE(TJ_ERR_ENGINE, 10), CODE(TJ_ERR_UNSUPPORTED, 11), CODE(TJ_ERR_NOT_FOUND, 12);
  CODE(TJ_ERR_PANIC, 13), CODE(TJ_ERR_TIMEOUT, 14);
}

static void numbers_that_programs_are_compiled_with_are_fixed(void) {
  CHECK_EQ(TJ_OUTCOME_OK, 0), CHECK_EQ(TJ_OUTCOME_ERROR, 1), CHECK_EQ(TJ_OUTCOME_CANCELLED, 2);
  CHECK_EQ(TJ_OUTCOME_ABANDONED, 3), CHECK_EQ(TJ_OUTCOME_INTERRUPTED, 4);
  CHECK_EQ(TJ_DURABILITY_PROCESS, 0), CHECK_EQ(TJ_DURABILITY_POWER, 1);
  CHECK_EQ(TJ_OVERFLOW_WAIT, 0), CHECK_EQ(TJ_OVERFLOW_REJECT, 1);
  CHECK_EQ(TJ_EVENT_INFERENCE_START, 1), CHECK_EQ(TJ_EVENT_INFERENCE_END, 2), CHECK_EQ(TJ_EVENT_TELEMETRY_RECORD, 3);
  CHECK_EQ(TJ_EVENT_BATCH_START, 4), CHECK_EQ(TJ_EVENT_BATCH_END, 5), CHECK_EQ(TJ_EVENT_CUSTOM, 63);
  CHECK_EQ(TJ_EVENT_MASK(TJ_EVENT_INFERENCE_END), 4), CHECK_EQ(TJ_EVENT_MASK(63), UINT64_C(1) << 63);
  CHECK_EQ(TJ_COST_UNKNOWN, 0), CHECK_EQ(TJ_COST_REPORTED, 1), CHECK_EQ(TJ_COST_TABLE, 2), CHECK_EQ(TJ_COST_LOCAL, 3);
  CHECK_EQ(TJ_EVENT_MASK_ALL, UINT64_MAX), CHECK_EQ(TJ_UNKNOWN, UINT64_MAX);
  CHECK_STR(tj_version(), TJ_VERSION);
  CHECK_EQ(tj_abi_version(), TJ_ABI_VERSION);
}

/* An enumerator of a newer header is refused by name, and changes nothing. */
static void unknown_enumerators_are_refused_by_name(void) {
  static const uint32_t unknown[] = {2, 7, UINT32_MAX};
  const uint32_t *number;
  tj_call *call = begun_call();
  uint64_t count = check_count(store);
  for (EACH(number, unknown)) {
    tj_store_options options = TJ_STORE_OPTIONS_INIT;
    options.read_only = *number;
    CHECK_FAILS(use_options(&options), TJ_ERR_INVALID_ARGUMENT, "read_only");
    options.read_only = 0;
    options.durability = *number;
    CHECK_FAILS(use_options(&options), TJ_ERR_INVALID_ARGUMENT, "durability");
    options.durability = 0;
    options.overflow = *number;
    CHECK_FAILS(use_options(&options), TJ_ERR_INVALID_ARGUMENT, "overflow");
    options.overflow = 0;
    options.keep_rollups = *number;
    CHECK_FAILS(use_options(&options), TJ_ERR_INVALID_ARGUMENT, "keep_rollups");
    options.keep_rollups = 0;
    options.reserved = *number;
    CHECK_FAILS(use_options(&options), TJ_ERR_INVALID_ARGUMENT, "reserved");
    {
      tj_price price = good_price;
      price.cached_input_is_free = *number;
      CHECK_FAILS(use_price(&price), TJ_ERR_INVALID_ARGUMENT, "cached_input_is_free");
      price = good_price, price.reserved = *number;
      CHECK_FAILS(use_price(&price), TJ_ERR_INVALID_ARGUMENT, "reserved");
    }
    {
      tj_steady_options steady = TJ_STEADY_OPTIONS_INIT;
      steady.no_warmup = *number;
      CHECK_FAILS(use_steady_options(&steady), TJ_ERR_INVALID_ARGUMENT, "no_warmup");
    }
    if (*number > TJ_OUTCOME_INTERRUPTED) {
      tj_telemetry_record record = good_record;
      record.outcome = *number;
      CHECK_FAILS(use_record(&record), TJ_ERR_INVALID_ARGUMENT, "outcome");
      CHECK_FAILS(tj_call_end(call, *number, NULL, &error), TJ_ERR_INVALID_ARGUMENT, "outcome");
    }
  }
  CHECK_EQ(check_count(store), count);
  CHECK_OK(tj_call_end(call, TJ_OUTCOME_OK, NULL, &error)); /* the call went on */
  tj_call_free(call);
}

/* ---- Handles that were closed ---- */

static void a_closed_store_says_so(void) {
  uint64_t number;
  tj_aggregated_stats stats = TJ_AGGREGATED_STATS_INIT;
  tj_telemetry_record bad = TJ_TELEMETRY_RECORD_INIT;
  tj_series series = TJ_SERIES_INIT;
  tj_batches batches = TJ_BATCHES_INIT;
  tj_store *closed = check_open(":memory:");
  tj_health health;
  CHECK_OK(tj_record(closed, &good_record, &error));
  CHECK_FAILS(tj_record(closed, &bad, &error), TJ_ERR_INVALID_ARGUMENT, "model_id");
  CHECK_OK(tj_store_close(closed, &error));

  CHECK_FAILS(tj_record(closed, &good_record, &error), TJ_ERR_CLOSED, "store");
  CHECK_FAILS(tj_store_flush(closed, &error), TJ_ERR_CLOSED, "store");
  CHECK_FAILS(tj_store_count(closed, &number, &error), TJ_ERR_CLOSED, "store");
  CHECK_FAILS(tj_store_clear(closed, &number, &error), TJ_ERR_CLOSED, "store");
  CHECK_FAILS(tj_store_prune(closed, 1.0, &number, &error), TJ_ERR_CLOSED, "store");
  CHECK_FAILS(tj_aggregate(closed, NULL, &stats, &error), TJ_ERR_CLOSED, "store");
  CHECK_FAILS(tj_aggregate_series(closed, NULL, 1.0, &series, &error), TJ_ERR_CLOSED, "store");
  CHECK_FAILS(tj_batch_stats(closed, NULL, &batches, &error), TJ_ERR_CLOSED, "store");
  CHECK_FAILS(tj_records_each(closed, NULL, ignore_record, NULL, &error), TJ_ERR_CLOSED, "store");
  CHECK_FAILS(tj_records_recent(closed, NULL, ignore_record, NULL, &error), TJ_ERR_CLOSED, "store");
  CHECK_FAILS(tj_store_verify(closed, ignore_difference, NULL, &number, &error), TJ_ERR_CLOSED, "store");
  CHECK_FAILS(tj_store_rollup(closed, ignore_progress, NULL, &number, &error), TJ_ERR_CLOSED, "store");
  CHECK_FAILS(tj_store_subscribe(closed, &error), TJ_ERR_CLOSED, "store");
  CHECK_FAILS(tj_store_unsubscribe(closed, &error), TJ_ERR_CLOSED, "store");
  CHECK_FAILS(tj_store_close(closed, &error), TJ_ERR_CLOSED, "store");

  health = check_health(closed); /* works on a closed store as well */
  CHECK_EQ(health.recorded, 1);
  CHECK_EQ(health.refused, 1);
}

/* tj_record: "On failure nothing was recorded, and tj_store_health counts it." Whatever the failure. */
static void a_record_that_a_store_cannot_take_is_counted(void) {
  tj_store_options options = TJ_STORE_OPTIONS_INIT;
  tj_store *closed = check_open(":memory:"), *read_only = NULL;
  tj_health health;
  CHECK_OK(tj_store_close(check_open(check_path("counted")), &error));
  options.read_only = 1;
  CHECK_OK(tj_store_open(check_path("counted"), &options, &read_only, &error));
  CHECK_FAILS(tj_record(read_only, &good_record, &error), TJ_ERR_READ_ONLY, NULL);
  health = check_health(read_only);
  CHECK_EQ(health.failed, 1);
  CHECK_EQ(health.last_status, TJ_ERR_READ_ONLY);
  CHECK_OK(tj_store_close(read_only, &error));

  CHECK_OK(tj_store_close(closed, &error));
  CHECK_FAILS(tj_record(closed, &good_record, &error), TJ_ERR_CLOSED, NULL);
  health = check_health(closed);
  CHECK_EQ(health.failed, 1);
  CHECK_EQ(health.last_status, TJ_ERR_CLOSED);
}

static void a_store_that_is_only_read_says_so(void) {
  uint64_t number = 0;
  tj_store_options options = TJ_STORE_OPTIONS_INIT;
  tj_store *read_only = NULL, *made = check_open(check_path("only-read"));
  tj_aggregated_stats stats = TJ_AGGREGATED_STATS_INIT;
  tj_series series = TJ_SERIES_INIT;
  tj_batches batches = TJ_BATCHES_INIT;
  CHECK_OK(tj_record(made, &good_record, &error));
  CHECK_OK(tj_store_close(made, &error));
  options.read_only = 1;
  CHECK_OK(tj_store_open(check_path("only-read"), &options, &read_only, &error));
  CHECK_FAILS(tj_record(read_only, &good_record, &error), TJ_ERR_READ_ONLY, NULL);
  CHECK_FAILS(tj_store_clear(read_only, &number, &error), TJ_ERR_READ_ONLY, NULL);
  CHECK_FAILS(tj_store_prune(read_only, 2e9, &number, &error), TJ_ERR_READ_ONLY, NULL);
  CHECK_FAILS(tj_store_rollup(read_only, ignore_progress, NULL, &number, &error), TJ_ERR_READ_ONLY, NULL);
  CHECK_FAILS(tj_store_subscribe(read_only, &error), TJ_ERR_READ_ONLY, NULL);
  CHECK_OK(tj_store_unsubscribe(read_only, &error));
  CHECK_OK(tj_store_flush(read_only, &error));
  CHECK_EQ(check_count(read_only), 1);
  CHECK_OK(tj_aggregate(read_only, NULL, &stats, &error));
  CHECK_EQ(stats.total_calls, 1);
  tj_aggregated_stats_free(&stats);
  CHECK_OK(tj_aggregate_series(read_only, NULL, 3600.0, &series, &error));
  CHECK_EQ(series.step_count, 1);
  tj_series_free(&series);
  CHECK_OK(tj_batch_stats(read_only, NULL, &batches, &error));
  CHECK_EQ(batches.batch_count, 1);
  tj_batches_free(&batches);
  CHECK_OK(tj_records_each(read_only, NULL, ignore_record, NULL, &error));
  CHECK_OK(tj_records_recent(read_only, NULL, ignore_record, NULL, &error));
  CHECK_OK(tj_store_verify(read_only, NULL, NULL, &number, &error));
  CHECK_EQ(number, 0);
  CHECK_OK(tj_store_close(read_only, &error));
}

static void a_call_that_has_ended_says_so(void) {
  tj_store *own = check_open(":memory:");
  tj_call *call;
  CHECK_OK(tj_store_subscribe(own, &error));
  call = begun_call();
  CHECK_OK(tj_call_end(call, TJ_OUTCOME_OK, NULL, &error));
  CHECK_FAILS(tj_call_end(call, TJ_OUTCOME_ERROR, NULL, &error), TJ_ERR_CLOSED, "call");
  CHECK_EQ(tj_call_end(call, TJ_OUTCOME_ERROR, &good_result, NULL), TJ_ERR_CLOSED);
  tj_call_prompt(call, 1, 1); /* ignored */
  tj_call_tokens(call, 1);
  tj_call_draft(call, 1, 1);
  CHECK(tj_call_id(call) != 0);
  tj_call_free(call);
  CHECK_EQ(check_count(own), 1);
  CHECK_OK(tj_store_close(own, &error));
}

static void a_queue_that_was_closed_says_so(void) {
  tj_polled_event polled = TJ_POLLED_EVENT_INIT;
  tj_bus_queue *queue = opened_queue();
  CHECK_OK(tj_bus_queue_close(queue, &error));
  CHECK_OK(tj_bus_queue_close(queue, &error)); /* closing twice is fine */
  CHECK_FAILS(tj_bus_poll(queue, UINT32_MAX, &polled, &error), TJ_ERR_CLOSED, "queue");
  tj_bus_queue_free(queue);
}

static void a_subscription_that_ended_is_not_found(void) {
  uint64_t subscription = 0;
  CHECK_OK(tj_bus_subscribe(1, ignore_event, NULL, NULL, &subscription, &error));
  CHECK(subscription != 0);
  CHECK_OK(tj_bus_unsubscribe(subscription, &error));
  CHECK_FAILS(tj_bus_unsubscribe(subscription, &error), TJ_ERR_NOT_FOUND, "subscription");
  CHECK_FAILS(tj_bus_unsubscribe(0, &error), TJ_ERR_NOT_FOUND, "subscription");
  CHECK_FAILS(tj_bus_unsubscribe(UINT64_MAX, &error), TJ_ERR_NOT_FOUND, "subscription");
}

int main(int argc, char **argv) {
  static const check_test tests[] = {
      {"NULL is refused by name", null_is_refused_by_name},
      {"NULL is fine where the header says so", null_is_fine_where_the_header_says_so},
      {"error may be NULL", error_may_be_null},
      {"messages are cut at a character boundary", messages_are_cut_at_a_character_boundary},
      {"every status has its name", every_status_has_its_name},
      {"numbers that programs are compiled with are fixed", numbers_that_programs_are_compiled_with_are_fixed},
      {"unknown enumerators are refused by name", unknown_enumerators_are_refused_by_name},
      {"a closed store says so", a_closed_store_says_so},
      {"a record that a store cannot take is counted", a_record_that_a_store_cannot_take_is_counted},
      {"a store that is only read says so", a_store_that_is_only_read_says_so},
      {"a call that has ended says so", a_call_that_has_ended_says_so},
      {"a queue that was closed says so", a_queue_that_was_closed_says_so},
      {"a subscription that ended is not found", a_subscription_that_ended_is_not_found},
  };
  int result;
  store = check_open(":memory:");
  result = CHECK_MAIN(tests);
  return tj_store_close(store, NULL) == TJ_OK ? result : 1;
}
