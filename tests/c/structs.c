/*
 * The conventions that open the header, for every struct: sizes of older and newer headers, init and free, strings.
 *
 * Prints a line for each promise that it has held the library to ("null tj_record.store"); tests/contract.rs compares
 * the lines with the header, so that a new function, struct or field without its row here is a failure.
 */
#include "good.h"

#include <sys/mman.h>
#include <unistd.h>

/* ---- Sized structs ---- */

/* `size` bytes that end where memory ends: a byte read or written behind them is a crash. Good until the next call. */
static void *at_the_edge(size_t size) {
  static unsigned char *edge;
  if (edge == NULL) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = 32;
    void *mapped = mmap(NULL, (pages + 1) * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(mapped != MAP_FAILED);
    edge = (unsigned char *)mapped + pages * page;
    CHECK(mprotect(edge, page, PROT_NONE) == 0);
  }
  return edge - size;
}

/* A struct of so many bytes at the edge: the known part from `filled`, zeros behind. */
static void *sized(const void *filled, size_t known, size_t size) {
  unsigned char *it = (unsigned char *)at_the_edge(size);
  memset(it, 0, size);
  memcpy(it, filled, known < size ? known : size);
  memcpy(it, &size, sizeof size);
  return it;
}

static const size_t impossible_sizes[] = {0, 1, 3, 7, (size_t)1 << 32, SIZE_MAX, SIZE_MAX - 7,
                                          (size_t)0xA5A5A5A5A5A5A5A5};

static const struct sized_in {
  const char *type, *argument;
  size_t size;
  size_t required; /* a struct that ends before here lacks ... */
  const char *lacks; /* ... a field without a default */
  const void *filled;
  tj_status (*use)(const void *it);
} structs_in[] = {
    {"tj_store_options", "options", sizeof(tj_store_options), 0, NULL, &good_options, use_options},
    {"tj_telemetry_record", "record", sizeof(tj_telemetry_record), offsetof(tj_telemetry_record, engine), "model_id",
     &good_record, use_record},
    {"tj_query", "query", sizeof(tj_query), 0, NULL, &good_query, use_query},
    {"tj_generate_request", "request", sizeof(tj_generate_request), 0, NULL, &good_request, use_request_to_generate},
    {"tj_generate_request", "request", sizeof(tj_generate_request), 0, NULL, &good_request, use_request_to_begin},
    {"tj_generate_result", "result", sizeof(tj_generate_result), 0, NULL, &good_result, use_result},
    {"tj_engine", "engine", sizeof(tj_engine), offsetof(tj_engine, engine_data), "generate", &good_engine, use_engine},
    {"tj_telemetry_record", "record", sizeof(tj_telemetry_record), offsetof(tj_telemetry_record, engine), "model_id",
     &good_record, use_record_to_estimate},
    {"tj_price", "price", sizeof(tj_price), 0, NULL, &good_price, use_price},
    {"tj_local_cost", "local", sizeof(tj_local_cost), 0, NULL, &good_local_cost, use_local_cost},
    {"tj_steady_options", "options", sizeof(tj_steady_options), 0, NULL, &good_steady_options, use_steady_options},
    {"tj_energy_options", "options", sizeof(tj_energy_options), 0, NULL, &good_energy_options, use_energy_options},
    {"tj_energy_custom", "custom", sizeof(tj_energy_custom), offsetof(tj_energy_custom, user_data), "read", &good_custom,
     use_custom},
};

/* "A program built against an older, shorter struct keeps working": what lies behind it is not looked at. */
static void older_structs_in_keep_working(void) {
  const struct sized_in *in;
  for (EACH(in, structs_in)) {
    size_t size;
    report("sized", in->type);
    for (size = 2 * sizeof(size_t); size <= in->size; size += sizeof(size_t)) {
      const void *older = sized(in->filled, in->size, size);
      if (size < in->required) {
        CHECK_FAILS(in->use(older), TJ_ERR_INVALID_ARGUMENT, in->lacks);
      } else if (CHECK_OK(in->use(older)) != TJ_OK) {
        check_fail(__FILE__, __LINE__, "... with a %s of %zu bytes", in->type, size);
      }
    }
  }
}

/* The fields that an older struct lacks have their defaults, whatever lies behind it in memory. */
static void what_an_older_struct_lacks_is_default(void) {
  tj_aggregated_stats stats = TJ_AGGREGATED_STATS_INIT;
  tj_store *own = check_open(":memory:");
  tj_telemetry_record record = good_record;
  tj_query query = good_query;
  CHECK_OK(tj_record(own, &record, &error));
  record.struct_size = offsetof(tj_telemetry_record, token_counting_version);
  CHECK_OK(tj_record(own, &record, &error));

  query.struct_size = offsetof(tj_query, exclude_warmup);
  CHECK_OK(tj_aggregate(own, &query, &stats, &error));
  CHECK_EQ(stats.total_calls, 2); /* both warm-ups, stamped 1 and unstamped */
  CHECK_EQ(stats.cancelled_count, 1);
  tj_aggregated_stats_free(&stats);
  query.struct_size = offsetof(tj_query, model_id);
  query.model_id = "not this one";
  CHECK_OK(tj_aggregate(own, &query, &stats, &error));
  CHECK_EQ(stats.total_calls, 2);
  tj_aggregated_stats_free(&stats);
  CHECK_OK(tj_store_close(own, &error));
}

/* "A longer one from a newer header is accepted if what this library does not know in it is zero." */
static void newer_structs_in_are_accepted_if_their_news_are_zero(void) {
  static const size_t more[] = {8, 16, 256, 4096};
  const struct sized_in *in;
  const size_t *extra;
  for (EACH(in, structs_in)) {
    for (EACH(extra, more)) {
      size_t size = in->size + *extra;
      unsigned char *newer = (unsigned char *)sized(in->filled, in->size, size);
      CHECK_OK(in->use(newer));
      newer[size - 1] = 1;
      CHECK_FAILS(in->use(newer), TJ_ERR_INVALID_ARGUMENT, in->argument);
      newer[size - 1] = 0;
      newer[in->size] = 0x80;
      CHECK_FAILS(in->use(newer), TJ_ERR_INVALID_ARGUMENT, in->argument);
    }
  }
}

static void a_struct_size_that_cannot_be_is_refused_by_name(void) {
  const struct sized_in *in;
  const size_t *size;
  for (EACH(in, structs_in)) {
    char name[64];
    snprintf(name, sizeof name, "%s.struct_size", in->argument);
    for (EACH(size, impossible_sizes)) {
      unsigned char *it = (unsigned char *)sized(in->filled, in->size, in->size);
      memcpy(it, size, sizeof *size);
      CHECK_FAILS(in->use(it), TJ_ERR_INVALID_ARGUMENT, name);
    }
  }
}

static tj_status get_health(void *health) { return tj_store_health(store, (tj_health *)health, &error); }

static tj_status get_stats(void *stats) {
  tj_status status = tj_aggregate(store, NULL, (tj_aggregated_stats *)stats, &error);
  tj_aggregated_stats_free((tj_aggregated_stats *)stats); /* what it does not release is a leak for valgrind to find */
  return status;
}

static tj_status get_result(void *result) {
  return tj_instrumented_generate(&good_engine, &good_request, (tj_generate_result *)result, &error);
}

static tj_status get_polled(void *polled) {
  tj_bus_queue *queue = opened_queue();
  tj_status status;
  tj_bus_publish("event", NULL, NULL);
  status = tj_bus_poll(queue, 0, (tj_polled_event *)polled, &error);
  if (status == TJ_OK) {
    tj_polled_event_free((tj_polled_event *)polled);
  }
  tj_bus_queue_free(queue);
  return status;
}

static tj_status get_series(void *series) {
  tj_status status = tj_aggregate_series(store, NULL, 3600.0, (tj_series *)series, &error);
  tj_series_free((tj_series *)series);
  return status;
}

static tj_status get_batches(void *batches) {
  tj_status status = tj_batch_stats(store, NULL, (tj_batches *)batches, &error);
  tj_batches_free((tj_batches *)batches);
  return status;
}

static tj_status get_cost(void *cost) { return tj_cost_estimate(&good_record, (tj_cost *)cost, &error); }

static tj_status get_peak(void *peak) { return tj_gpu_peak_find("H100", (tj_gpu_peak *)peak, &error); }

static tj_status get_phases(void *phases) { return tj_phases_split(&good_record, (tj_phases *)phases, &error); }

static tj_status get_state(void *state) {
  return tj_steady_state_detect(good_figures, 3, NULL, (tj_steady_state *)state, &error);
}

static tj_status get_batch(void *batch) {
  return tj_energy_batch_compute(good_figures, good_counts, 3, NAN, 1.0, (tj_energy_batch *)batch, &error);
}

static tj_status get_sources(void *sources) {
  tj_status status = tj_energy_sources(&good_energy_options, (tj_energy_source_list *)sources, &error);
  tj_energy_source_list_free((tj_energy_source_list *)sources);
  return status;
}

static tj_status get_totals(void *totals) {
  tj_status status;
  tj_energy_start(&good_energy_options, NULL);
  status = tj_energy_read((tj_energy_totals *)totals, &error);
  tj_energy_totals_free((tj_energy_totals *)totals);
  tj_energy_stop(NULL);
  return status;
}

static tj_status get_window(void *measured) {
  tj_status status;
  uint64_t window = 0;
  tj_energy_start(&good_energy_options, NULL);
  tj_energy_window_begin(&window, NULL);
  status = tj_energy_window_end(window, (tj_energy_window *)measured, &error);
  tj_energy_stop(NULL);
  return status;
}

static const struct sized_out {
  const char *type, *argument;
  size_t size;
  size_t least; /* a shorter one is refused */
  tj_status (*get)(void *it);
} structs_out[] = {
    {"tj_health", "out_health", sizeof(tj_health), 0, get_health},
    {"tj_aggregated_stats", "out_stats", sizeof(tj_aggregated_stats), 0, get_stats},
    {"tj_series", "out_series", sizeof(tj_series), sizeof(tj_series), get_series},
    {"tj_batches", "out_batches", sizeof(tj_batches), sizeof(tj_batches), get_batches},
    {"tj_generate_result", "out_result", sizeof(tj_generate_result), 0, get_result},
    {"tj_polled_event", "out_polled", sizeof(tj_polled_event), sizeof(tj_polled_event), get_polled},
    {"tj_cost", "out_cost", sizeof(tj_cost), 0, get_cost},
    {"tj_gpu_peak", "out_peak", sizeof(tj_gpu_peak), 0, get_peak},
    {"tj_phases", "out_phases", sizeof(tj_phases), 0, get_phases},
    {"tj_steady_state", "out_state", sizeof(tj_steady_state), 0, get_state},
    {"tj_energy_batch", "out_batch", sizeof(tj_energy_batch), 0, get_batch},
    {"tj_energy_source_list", "out_sources", sizeof(tj_energy_source_list), sizeof(tj_energy_source_list), get_sources},
    {"tj_energy_totals", "out_totals", sizeof(tj_energy_totals), sizeof(tj_energy_totals), get_totals},
    {"tj_energy_window", "out_measured", sizeof(tj_energy_window), 0, get_window},
};

/* "The library writes at most that many bytes", and leaves the size as the caller set it. */
static void structs_out_are_written_as_far_as_they_reach(void) {
  const struct sized_out *out;
  for (EACH(out, structs_out)) {
    size_t size, i;
    report("sized", out->type);
    for (size = 2 * sizeof(size_t); size <= out->size; size += sizeof(size_t)) {
      unsigned char *older = (unsigned char *)at_the_edge(size);
      memset(older, 0, size);
      memcpy(older, &size, sizeof size);
      if (size < out->least) {
        CHECK_FAILS(out->get(older), TJ_ERR_INVALID_ARGUMENT, "struct_size");
      } else {
        CHECK_OK(out->get(older));
      }
      CHECK(memcmp(older, &size, sizeof size) == 0);
    }
    { /* A longer one: the tail is left as it was. */
      unsigned char *newer = (unsigned char *)at_the_edge(out->size + 64);
      size = out->size + 64;
      memset(newer, 0, out->size);
      memset(newer + out->size, CHECK_POISON, 64);
      memcpy(newer, &size, sizeof size);
      CHECK_OK(out->get(newer));
      CHECK(memcmp(newer, &size, sizeof size) == 0);
      CHECK(check_is_poison(newer + out->size, 64));
    }
    for (i = 0; i < sizeof impossible_sizes / sizeof *impossible_sizes; i++) {
      char name[64];
      unsigned char *it = (unsigned char *)at_the_edge(out->size);
      memset(it, 0, out->size);
      memcpy(it, &impossible_sizes[i], sizeof(size_t));
      snprintf(name, sizeof name, "%s.struct_size", out->argument);
      CHECK_FAILS(out->get(it), TJ_ERR_INVALID_ARGUMENT, name);
    }
  }
}

/* Without room for the owner there are no lists: nobody could release them. The totals are there. */
static void stats_without_room_for_the_owner_have_no_lists(void) {
  tj_aggregated_stats stats;
  memset(&stats, CHECK_POISON, sizeof stats);
  stats.struct_size = offsetof(tj_aggregated_stats, owner);
  CHECK_OK(tj_record(store, &good_record, &error));
  CHECK_OK(tj_aggregate(store, NULL, &stats, &error));
  CHECK_EQ(stats.total_calls, check_count(store));
  CHECK(stats.per_model == NULL && stats.per_model_count == 0);
  CHECK(stats.per_engine == NULL && stats.per_engine_count == 0);
  CHECK(check_is_poison(&stats.owner, sizeof stats.owner));
  tj_aggregated_stats_free(&stats); /* leaves the owner, which is not in the struct, alone */
  CHECK(check_is_poison(&stats.owner, sizeof stats.owner));
}

/* A program of the time when the struct ended with its owner gets its lists, and releases them. */
static void older_stats_that_reach_their_owner_are_released(void) {
  const size_t older = offsetof(tj_aggregated_stats, owner) + sizeof(void *);
  size_t size;
  tj_store *own = check_open(":memory:");
  CHECK_EQ(older, 376);
  CHECK_OK(tj_record(own, &good_record, &error));
  for (size = older; size <= sizeof(tj_aggregated_stats); size += sizeof(size_t)) {
    tj_aggregated_stats *stats = (tj_aggregated_stats *)at_the_edge(size);
    memset(stats, 0, size);
    memcpy(stats, &size, sizeof size);
    CHECK_OK(tj_aggregate(own, NULL, stats, &error));
    CHECK_EQ(stats->total_calls, 1);
    CHECK(stats->per_model_count == 1 && strcmp(stats->per_model[0].model_id, "model") == 0);
    CHECK(stats->per_engine_count == 1 && strcmp(stats->per_engine[0].engine, "engine") == 0);
    CHECK(stats->owner != NULL);
    tj_aggregated_stats_free(stats);
    CHECK(stats->per_model == NULL && stats->per_engine == NULL && stats->owner == NULL);
    tj_aggregated_stats_free(stats);
  }
  CHECK_OK(tj_store_close(own, &error));
}

static void init_functions_do_what_the_macros_do(void) {
#define INIT(type, argument, macro)                                                                                    \
  do {                                                                                                                 \
    static const type expected = macro;                                                                                \
    type initialised;                                                                                                  \
    size_t i, zeros = 0;                                                                                               \
    report("init", #type);                                                                                             \
    report("null", #type "_init." #argument);                                                                          \
    memset(&initialised, CHECK_POISON, sizeof initialised);                                                            \
    type##_init(&initialised);                                                                                         \
    CHECK(memcmp(&initialised, &expected, sizeof expected) == 0);                                                      \
    CHECK_EQ(initialised.struct_size, sizeof(type));                                                                   \
    for (i = sizeof(size_t); i < sizeof(type); i++) {                                                                  \
      zeros += ((unsigned char *)&initialised)[i] == 0;                                                                \
    }                                                                                                                  \
    CHECK_EQ(zeros, sizeof(type) - sizeof(size_t));                                                                    \
    type##_init(NULL);                                                                                                 \
  } while (0)
  INIT(tj_store_options, options, TJ_STORE_OPTIONS_INIT);
  INIT(tj_health, health, TJ_HEALTH_INIT);
  INIT(tj_telemetry_record, record, TJ_TELEMETRY_RECORD_INIT);
  INIT(tj_query, query, TJ_QUERY_INIT);
  INIT(tj_aggregated_stats, stats, TJ_AGGREGATED_STATS_INIT);
  INIT(tj_series, series, TJ_SERIES_INIT);
  INIT(tj_batches, batches, TJ_BATCHES_INIT);
  INIT(tj_polled_event, polled, TJ_POLLED_EVENT_INIT);
  INIT(tj_generate_request, request, TJ_GENERATE_REQUEST_INIT);
  INIT(tj_generate_result, result, TJ_GENERATE_RESULT_INIT);
  INIT(tj_engine, engine, TJ_ENGINE_INIT);
  INIT(tj_price, price, TJ_PRICE_INIT);
  INIT(tj_local_cost, local, TJ_LOCAL_COST_INIT);
  INIT(tj_cost, cost, TJ_COST_INIT);
  INIT(tj_gpu_peak, peak, TJ_GPU_PEAK_INIT);
  INIT(tj_phases, phases, TJ_PHASES_INIT);
  INIT(tj_steady_options, options, TJ_STEADY_OPTIONS_INIT);
  INIT(tj_steady_state, state, TJ_STEADY_STATE_INIT);
  INIT(tj_energy_batch, batch, TJ_ENERGY_BATCH_INIT);
  INIT(tj_energy_options, options, TJ_ENERGY_OPTIONS_INIT);
  INIT(tj_energy_source_list, list, TJ_ENERGY_SOURCE_LIST_INIT);
  INIT(tj_energy_totals, totals, TJ_ENERGY_TOTALS_INIT);
  INIT(tj_energy_window, window, TJ_ENERGY_WINDOW_INIT);
  INIT(tj_energy_custom, custom, TJ_ENERGY_CUSTOM_INIT);
}

static void free_functions_can_be_called_at_any_time(void) {
  tj_aggregated_stats stats = TJ_AGGREGATED_STATS_INIT;
  tj_series series = TJ_SERIES_INIT;
  tj_batches batches = TJ_BATCHES_INIT;
  tj_polled_event polled = TJ_POLLED_EVENT_INIT;
  tj_energy_source_list sources = TJ_ENERGY_SOURCE_LIST_INIT;
  tj_energy_totals totals = TJ_ENERGY_TOTALS_INIT;
  tj_bus_queue *queue = opened_queue();
  uint64_t source = 0;
  int round;

  tj_aggregated_stats_free(&stats); /* never filled */
  tj_series_free(&series);
  tj_batches_free(&batches);
  tj_polled_event_free(&polled);
  tj_energy_source_list_free(&sources);
  tj_energy_totals_free(&totals);
  CHECK_OK(tj_energy_register_source(&good_custom, &source, &error));
  CHECK_OK(tj_energy_start(&good_energy_options, &error));
  CHECK_OK(tj_record(store, &good_record, &error));
  for (round = 0; round < 3; round++) { /* and filled again */
    uint64_t calls;
    CHECK_OK(tj_aggregate(store, NULL, &stats, &error));
    CHECK(stats.per_model != NULL && stats.per_engine != NULL && stats.owner != NULL);
    calls = stats.total_calls;
    tj_aggregated_stats_free(&stats);
    tj_aggregated_stats_free(&stats);
    CHECK(stats.per_model == NULL && stats.per_model_count == 0 && stats.per_engine == NULL &&
          stats.per_engine_count == 0 && stats.owner == NULL);
    CHECK_EQ(stats.total_calls, calls); /* the totals stay */

    CHECK_OK(tj_aggregate_series(store, NULL, 3600.0, &series, &error));
    CHECK(series.steps != NULL && series.step_count == 1 && series.owner != NULL);
    tj_series_free(&series);
    tj_series_free(&series);
    CHECK(series.steps == NULL && series.step_count == 0 && series.owner == NULL);

    CHECK_OK(tj_batch_stats(store, NULL, &batches, &error));
    CHECK(batches.batches != NULL && batches.batch_count == 1 && batches.owner != NULL);
    tj_batches_free(&batches);
    tj_batches_free(&batches);
    CHECK(batches.batches == NULL && batches.batch_count == 0 && batches.owner == NULL);

    CHECK_OK(tj_bus_publish("event", NULL, &error));
    CHECK_OK(tj_bus_poll(queue, 0, &polled, &error));
    CHECK(polled.event != NULL && polled.owner != NULL);
    tj_polled_event_free(&polled);
    tj_polled_event_free(&polled);
    CHECK(polled.event == NULL && polled.owner == NULL);

    CHECK_OK(tj_energy_sources(NULL, &sources, &error));
    CHECK(sources.sources != NULL && sources.source_count == 2 && sources.owner != NULL);
    tj_energy_source_list_free(&sources);
    tj_energy_source_list_free(&sources);
    CHECK(sources.sources == NULL && sources.source_count == 0 && sources.owner == NULL);

    CHECK_OK(tj_energy_read(&totals, &error));
    CHECK(totals.devices != NULL && totals.device_count == 1 && totals.owner != NULL);
    tj_energy_totals_free(&totals);
    tj_energy_totals_free(&totals);
    CHECK(totals.devices == NULL && totals.device_count == 0 && totals.owner == NULL && totals.is_running == 1);
  }
  CHECK_OK(tj_energy_stop(&error));
  CHECK_OK(tj_energy_unregister_source(source, &error));
  tj_bus_queue_free(queue);
}

/* ---- Strings ---- */

#define TEXT(type, field, use) {#type "." #field, #field, offsetof(type, field), sizeof(type), &good_##use, use_##use}

static const tj_message good_message = {"user", "hello"};
#define good_request_to_begin good_request
#define good_request_to_generate good_request
#define good_record_to_estimate good_record
#define good_record_to_split good_record

static const struct text_in {
  const char *what, *field;
  size_t offset, size;
  const void *filled;
  tj_status (*use)(const void *it);
} texts_in[] = {
    TEXT(tj_telemetry_record, model_id, record),
    TEXT(tj_telemetry_record, engine, record),
    TEXT(tj_telemetry_record, agent, record),
    TEXT(tj_telemetry_record, energy_method, record),
    TEXT(tj_telemetry_record, energy_vendor, record),
    TEXT(tj_telemetry_record, batch_id, record),
    TEXT(tj_telemetry_record, metadata_json, record),
    TEXT(tj_telemetry_record, operation, record),
    TEXT(tj_telemetry_record, finish_reason, record),
    TEXT(tj_telemetry_record, error_type, record),
    TEXT(tj_telemetry_record, request_id, record),
    TEXT(tj_telemetry_record, session_id, record),
    TEXT(tj_telemetry_record, trace_id, record),
    TEXT(tj_telemetry_record, span_id, record),
    TEXT(tj_query, model_id, query),
    TEXT(tj_query, engine, query),
    TEXT(tj_query, agent, query),
    TEXT(tj_query, batch_id, query),
    TEXT(tj_generate_request, model, request_to_begin),
    TEXT(tj_generate_request, extra_json, request_to_begin),
    TEXT(tj_generate_request, agent, request_to_begin),
    TEXT(tj_generate_request, batch_id, request_to_begin),
    TEXT(tj_generate_request, operation, request_to_begin),
    TEXT(tj_generate_request, request_id, request_to_begin),
    TEXT(tj_generate_request, session_id, request_to_begin),
    TEXT(tj_generate_request, trace_id, request_to_begin),
    TEXT(tj_generate_request, span_id, request_to_begin),
    TEXT(tj_generate_request, model, request_to_generate),
    TEXT(tj_generate_request, span_id, request_to_generate),
    TEXT(tj_generate_result, finish_reason, result),
    TEXT(tj_generate_result, error_type, result),
    TEXT(tj_generate_result, metadata_json, result),
    TEXT(tj_engine, engine_id, engine),
    TEXT(tj_energy_options, nvml_path, energy_options),
    TEXT(tj_energy_options, powercap_root, energy_options),
    TEXT(tj_energy_options, drm_root, energy_options),
    TEXT(tj_energy_options, hwmon_root, energy_options),
    TEXT(tj_energy_custom, name, custom),
    TEXT(tj_energy_custom, vendor, custom),
    TEXT(tj_energy_custom, method, custom),
    TEXT(tj_message, role, message),
    TEXT(tj_message, content, message),
    TEXT(tj_telemetry_record, model_id, record_to_estimate),
    TEXT(tj_telemetry_record, engine, record_to_estimate),
    TEXT(tj_telemetry_record, model_id, record_to_split),
    TEXT(tj_price, model, price),
    TEXT(tj_price, version, price),
};

/* Not UTF-8: a stray byte, a cut character, an overlong form, a surrogate, beyond Unicode. */
static const char *const no_utf8[] = {"\xFF", "ok \xE2\x82", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80"};

static void invalid_utf8_is_refused_by_name(void) {
  const struct text_in *text;
  const char *const *bad;
  for (EACH(text, texts_in)) {
    report("utf8", text->what);
    for (EACH(bad, no_utf8)) {
      unsigned char it[1024];
      memcpy(it, text->filled, text->size);
      memcpy(it + text->offset, bad, sizeof *bad);
      CHECK_FAILS(text->use(it), TJ_ERR_INVALID_ARGUMENT, text->field);
    }
  }
  {
    tj_message message = {"user", "\xFF"};
    CHECK_FAILS(use_message(&message), TJ_ERR_INVALID_ARGUMENT, "messages[1].content");
  }
  for (EACH(bad, no_utf8)) {
    tj_store *opened;
    tj_call *call;
    uint64_t count;
    tj_gpu_peak peak = TJ_GPU_PEAK_INIT;
    CHECK_FAILS(tj_store_open(*bad, NULL, &opened, &error), TJ_ERR_INVALID_ARGUMENT, "path");
    CHECK_FAILS(tj_bus_publish(*bad, NULL, &error), TJ_ERR_INVALID_ARGUMENT, "name");
    CHECK_FAILS(tj_bus_publish("name", *bad, &error), TJ_ERR_INVALID_ARGUMENT, "data_json");
    CHECK_FAILS(tj_call_begin(*bad, &good_request, &call, &error), TJ_ERR_INVALID_ARGUMENT, "engine_id");
    CHECK_FAILS(tj_cost_load_prices(*bad, "", &count, &error), TJ_ERR_INVALID_ARGUMENT, "prices_json");
    CHECK_FAILS(tj_cost_load_prices("{}", *bad, &count, &error), TJ_ERR_INVALID_ARGUMENT, "version");
    CHECK_FAILS(tj_gpu_peak_find(*bad, &peak, &error), TJ_ERR_INVALID_ARGUMENT, "gpu_name");
  }
  report("utf8", "tj_store_open.path");
  report("utf8", "tj_bus_publish.name");
  report("utf8", "tj_bus_publish.data_json");
  report("utf8", "tj_call_begin.engine_id");
  report("utf8", "tj_cost_load_prices.prices_json");
  report("utf8", "tj_cost_load_prices.version");
  report("utf8", "tj_gpu_peak_find.gpu_name");
}

/* "Copied before the call returns": what the caller does to its memory afterwards changes nothing. UTF-8 comes back as
   it went in, and NULL is "". */
static void strings_in_are_copied(void) {
  static const char text[] = "m\xC3\xB6" "del \xE2\x82\xAC \xF0\x9D\x84\x9E";
  char memory[sizeof text];
  tj_aggregated_stats stats = TJ_AGGREGATED_STATS_INIT;
  tj_telemetry_record record = TJ_TELEMETRY_RECORD_INIT;
  tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
  tj_call *call;
  tj_store *own = check_open(":memory:");

  memcpy(memory, text, sizeof text);
  record.model_id = memory;
  CHECK_OK(tj_record(own, &record, &error));
  memset(memory, 'x', sizeof memory - 1);
  CHECK_OK(tj_aggregate(own, NULL, &stats, &error));
  CHECK_EQ(stats.per_model_count, 1);
  CHECK_STR(stats.per_model[0].model_id, text);
  CHECK_EQ(stats.per_engine_count, 1);
  CHECK_STR(stats.per_engine[0].engine, "");
  tj_aggregated_stats_free(&stats);

  CHECK_OK(tj_store_subscribe(own, &error));
  memcpy(memory, "begun", 6);
  request.model = memory;
  request.agent = memory;
  CHECK_OK(tj_call_begin(memory, &request, &call, &error));
  memset(memory, 'x', sizeof memory - 1);
  CHECK_OK(tj_call_end(call, TJ_OUTCOME_OK, NULL, &error));
  tj_call_free(call);
  {
    tj_query query = TJ_QUERY_INIT;
    query.model_id = query.engine = query.agent = "begun";
    CHECK_OK(tj_aggregate(own, &query, &stats, &error));
    CHECK_EQ(stats.total_calls, 1);
    tj_aggregated_stats_free(&stats);
  }
  CHECK_OK(tj_store_close(own, &error));
}

int main(int argc, char **argv) {
  static const check_test tests[] = {
      {"older structs in keep working", older_structs_in_keep_working},
      {"what an older struct lacks is default", what_an_older_struct_lacks_is_default},
      {"newer structs in are accepted if their news are zero", newer_structs_in_are_accepted_if_their_news_are_zero},
      {"a struct_size that cannot be is refused by name", a_struct_size_that_cannot_be_is_refused_by_name},
      {"structs out are written as far as they reach", structs_out_are_written_as_far_as_they_reach},
      {"stats without room for the owner have no lists", stats_without_room_for_the_owner_have_no_lists},
      {"older stats that reach their owner are released", older_stats_that_reach_their_owner_are_released},
      {"init functions do what the macros do", init_functions_do_what_the_macros_do},
      {"free functions can be called at any time", free_functions_can_be_called_at_any_time},
      {"invalid UTF-8 is refused by name", invalid_utf8_is_refused_by_name},
      {"strings in are copied", strings_in_are_copied},
  };
  int result;
  store = check_open(":memory:");
  result = CHECK_MAIN(tests);
  return tj_store_close(store, NULL) == TJ_OK ? result : 1;
}
