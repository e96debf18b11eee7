/* Arguments that are good, and what hands each kind of struct to the library: for conventions.c and structs.c. */
#ifndef GOOD_H
#define GOOD_H

#include "check.h"

static tj_store *store;

/* Tells tests/contract.rs that a promise was tested. */
static inline void report(const char *promise, const char *what) { printf("%s %s\n", promise, what); }

/* ---- Arguments that are good ---- */

static const tj_telemetry_record good_record = {
    sizeof(tj_telemetry_record), 1000.5, "model", "engine", "agent", 10, 9, 8, 18, 2.5, 0.5, 0.25, 12.0, 6.0, 50.0, 4.0,
    60.0, 3.2, 0.5, 2.0, "rapl", "cpu_rapl", "batch", 1, 1, 8.0, 2.0, 1.0, 0.75, 1.5, 0.5, 3.0, 9.0, 20.0, 19.0, 30.0,
    31.0, 32.0, 2.0, 1, TJ_OUTCOME_CANCELLED, "{\"a\":1}", "chat", "stop", "none", "request", "session", "trace",
    "span", 1, 2, 3, 2, 0.125};

static const tj_store_options good_options = {sizeof(tj_store_options), 0, TJ_DURABILITY_POWER, TJ_OVERFLOW_REJECT,
                                              1000, 50, 1 << 20, 1e9, UINT64_C(1) << 40, 1, 0};

static const tj_query good_query = {sizeof(tj_query), 1.0, 2e9, "model", "engine", "agent", "batch", 1, 1, 4, 5,
                                    0.5, 0.25, 2.0};

static const tj_message good_messages[2] = {{"system", "be brief"}, {"user", "h\xC3\xA9"}};

static const tj_generate_request good_request = {
    sizeof(tj_generate_request), "model", good_messages, 2,         0.5,       100,     "{\"top_k\":40}",
    "agent",                     "batch", "chat",        "request", "session", "trace", "span",
    1};

static const tj_generate_result good_result = {
    sizeof(tj_generate_result), "content", 10,   9,   8,     1,   2,      3,      2,
    0.5,                        0.25,      0.125, 0.5, 2.0,  "stop", "none", "{\"b\":2}", NULL};

static const tj_price good_price = {sizeof(tj_price), "model", 1e-6, 2e-6, 5e-7, 3e-6, 0, 0, "2026-02"};

static const tj_local_cost good_local_cost = {sizeof(tj_local_cost), 0.25, 1e-4, 400.0};

static const tj_steady_options good_steady_options = {sizeof(tj_steady_options), 1, 0, 2, 1, 0.1};

static const double good_figures[3] = {1.0, 2.0, 3.0};

static const uint64_t good_counts[3] = {10, 20, 30};

static inline int32_t do_nothing(void *engine_data, const tj_generate_request *request, tj_call *call,
                          tj_generate_result *result) {
  (void)engine_data, (void)request, (void)call, (void)result;
  return 0;
}

static inline int32_t fail_with_7(void *engine_data, const tj_generate_request *request, tj_call *call,
                           tj_generate_result *result) {
  (void)engine_data, (void)request, (void)call;
  result->content = "half an answer";
  result->prompt_tokens = 3;
  return 7;
}

static const tj_engine good_engine = {sizeof(tj_engine), "engine", do_nothing, NULL};

static inline void ignore_event(const tj_event *event, void *user_data) { (void)event, (void)user_data; }

static inline void ignore_drop(void *user_data) { (void)user_data; }

static inline int32_t ignore_record(const tj_telemetry_record *record, int64_t record_id, void *user_data) {
  (void)record, (void)record_id, (void)user_data;
  return 0;
}

static inline void ignore_difference(const tj_difference *difference, void *user_data) {
  (void)difference, (void)user_data;
}

static inline int32_t ignore_progress(uint64_t done, uint64_t total, void *user_data) {
  (void)done, (void)total, (void)user_data;
  return 0;
}

static inline tj_call *begun_call(void) {
  tj_call *call = NULL;
  CHECK_EQ(tj_call_begin("engine", &good_request, &call, NULL), TJ_OK);
  return call;
}

static inline tj_bus_queue *opened_queue(void) {
  tj_bus_queue *queue = NULL;
  CHECK_EQ(tj_bus_queue_open(TJ_EVENT_MASK(TJ_EVENT_CUSTOM), 8, &queue, NULL), TJ_OK);
  return queue;
}

static inline int32_t read_two_watts(tj_energy_reading *reading, void *user_data) {
  (void)user_data;
  reading->watts = 2.0;
  return 0;
}

static const tj_energy_options good_energy_options = {
    sizeof(tj_energy_options), 50, TJ_ENERGY_CUSTOM | TJ_ENERGY_RAPL, TJ_ENERGY_WEIGHT_TOKENS, 1, "/nowhere/nvml.so",
    "/nowhere/powercap", "/nowhere/drm", "/nowhere/hwmon"};

static const tj_energy_custom good_custom = {
    sizeof(tj_energy_custom), "meter", "vendor", "method", TJ_ENERGY_PART_CPU, 10, read_two_watts, NULL, ignore_drop};

/* ---- Handing each kind of struct to the library; clean up without touching `error` ---- */

static inline tj_status use_options(const void *options) {
  tj_store *opened = NULL;
  tj_status status = tj_store_open(":memory:", (const tj_store_options *)options, &opened, &error);
  if (status == TJ_OK) {
    tj_store_close(opened, NULL);
  }
  return status;
}

static inline tj_status use_record(const void *record) {
  return tj_record(store, (const tj_telemetry_record *)record, &error);
}

static inline tj_status use_query(const void *query) {
  tj_aggregated_stats stats = TJ_AGGREGATED_STATS_INIT;
  tj_status status = tj_aggregate(store, (const tj_query *)query, &stats, &error);
  tj_aggregated_stats_free(&stats);
  return status;
}

static inline tj_status use_request_to_begin(const void *request) {
  tj_call *call = NULL;
  tj_status status = tj_call_begin("engine", (const tj_generate_request *)request, &call, &error);
  if (status == TJ_OK) {
    tj_call_end(call, TJ_OUTCOME_OK, NULL, NULL);
    tj_call_free(call);
  }
  return status;
}

static inline tj_status use_request_to_generate(const void *request) {
  tj_generate_result result = TJ_GENERATE_RESULT_INIT;
  return tj_instrumented_generate(&good_engine, (const tj_generate_request *)request, &result, &error);
}

static inline tj_status use_engine(const void *engine) {
  tj_generate_result result = TJ_GENERATE_RESULT_INIT;
  return tj_instrumented_generate((const tj_engine *)engine, &good_request, &result, &error);
}

static inline tj_status use_result(const void *result) {
  tj_call *call = begun_call();
  tj_status status = tj_call_end(call, TJ_OUTCOME_OK, (const tj_generate_result *)result, &error);
  tj_call_free(call);
  return status;
}

static inline tj_status use_record_to_estimate(const void *record) {
  tj_cost cost = TJ_COST_INIT;
  return tj_cost_estimate((const tj_telemetry_record *)record, &cost, &error);
}

static inline tj_status use_price(const void *price) {
  tj_status status = tj_cost_set_price((const tj_price *)price, &error);
  tj_cost_clear();
  return status;
}

static inline tj_status use_local_cost(const void *local) {
  tj_status status = tj_cost_set_local((const tj_local_cost *)local, &error);
  tj_cost_clear();
  return status;
}

static inline tj_status use_record_to_split(const void *record) {
  tj_phases phases = TJ_PHASES_INIT;
  return tj_phases_split((const tj_telemetry_record *)record, &phases, &error);
}

static inline tj_status use_steady_options(const void *options) {
  tj_steady_state state = TJ_STEADY_STATE_INIT;
  return tj_steady_state_detect(good_figures, 3, (const tj_steady_options *)options, &state, &error);
}

static inline tj_status use_energy_options(const void *options) {
  tj_status status = tj_energy_start((const tj_energy_options *)options, &error);
  if (status == TJ_OK) {
    tj_energy_stop(NULL);
  }
  return status;
}

static inline tj_status use_custom(const void *custom) {
  uint64_t source;
  tj_status status = tj_energy_register_source((const tj_energy_custom *)custom, &source, &error);
  if (status == TJ_OK) {
    tj_energy_unregister_source(source, NULL);
  }
  return status;
}

static inline tj_status use_message(const void *message) {
  tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
  tj_message messages[2] = {{"user", "fine"}, {NULL, NULL}};
  request.model = "model";
  request.messages = messages;
  request.message_count = 2;
  memcpy(&messages[1], message, sizeof messages[1]);
  return use_request_to_begin(&request);
}

#endif
