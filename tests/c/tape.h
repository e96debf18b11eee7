/* What generate.c and call.c share: a tape of all records, an engine that follows a script, a result's figures. */
#ifndef TAPE_H
#define TAPE_H

#include "check.h"

/* ---- What the bus tells: a queue of all records, which a test empties as it goes ---- */

static tj_bus_queue *tape;
static tj_polled_event latest = TJ_POLLED_EVENT_INIT;
static tj_telemetry_record nothing = TJ_TELEMETRY_RECORD_INIT; /* instead of a record that is missing */

static inline void start_the_tape(void) {
  nothing.metadata_json = "";
  CHECK_OK(tj_bus_queue_open(TJ_EVENT_MASK(TJ_EVENT_TELEMETRY_RECORD), 1000, &tape, &error));
}

static inline void stop_the_tape(void) {
  tj_polled_event_free(&latest);
  tj_bus_queue_free(tape);
}

/* The record of the call that has just ended, which is the only one. Good until the next. */
static inline const tj_telemetry_record *record_of_the_call(void) {
  tj_polled_event none = TJ_POLLED_EVENT_INIT;
  tj_polled_event_free(&latest);
  if (CHECK_OK(tj_bus_poll(tape, 0, &latest, &error)) != TJ_OK) {
    return &nothing;
  }
  CHECK_FAILS(tj_bus_poll(tape, 0, &none, &error), TJ_ERR_TIMEOUT, NULL);
  return latest.event->record;
}

static inline void expect_no_record(void) {
  tj_polled_event none = TJ_POLLED_EVENT_INIT;
  CHECK_FAILS(tj_bus_poll(tape, 0, &none, &error), TJ_ERR_TIMEOUT, NULL);
}

/* ---- An engine that does what a test tells it ---- */

typedef struct script {
  int32_t code;                /* what it returns */
  tj_generate_result answer;   /* what it fills in */
  void (*work)(tj_call *call); /* what else it does; may be NULL */
  int runs;
  const tj_generate_request *asked; /* what the caller passed */
} script;

/* "A copy of the caller's struct with the caller's pointers in it." */
static inline void check_is_a_copy(const tj_generate_request *copy, const tj_generate_request *asked) {
  CHECK(copy != asked && copy->struct_size == asked->struct_size);
  CHECK(copy->model == asked->model && copy->messages == asked->messages);
  CHECK(copy->message_count == asked->message_count && copy->temperature == asked->temperature);
  CHECK(copy->max_tokens == asked->max_tokens && copy->extra_json == asked->extra_json);
  CHECK(copy->agent == asked->agent && copy->batch_id == asked->batch_id && copy->operation == asked->operation);
  CHECK(copy->request_id == asked->request_id && copy->session_id == asked->session_id);
  CHECK(copy->trace_id == asked->trace_id && copy->span_id == asked->span_id);
  CHECK(copy->is_warmup == asked->is_warmup);
}

static inline int32_t follow_script(void *engine_data, const tj_generate_request *request, tj_call *call,
                             tj_generate_result *result) {
  script *self = (script *)engine_data;
  size_t i, size = result->struct_size;
  self->runs++;
  CHECK_EQ(size, sizeof *result); /* initialised by the library */
  for (i = sizeof(size_t); i < sizeof *result; i++) {
    CHECK(((const unsigned char *)result)[i] == 0);
  }
  check_is_a_copy(request, self->asked);
  CHECK(tj_call_id(call) != 0);
  if (self->work != NULL) {
    self->work(call);
  }
  *result = self->answer;
  result->struct_size = size;
  return self->code;
}

static const tj_message conversation[2] = {{"system", "SECRET-SYSTEM"}, {"user", "SECRET-PROMPT"}};

static inline tj_generate_request some_request(void) {
  tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
  request.model = "model";
  request.messages = conversation;
  request.message_count = 2;
  request.temperature = -3.5; /* not judged */
  request.max_tokens = 64;
  request.extra_json = "{\"key\":\"SECRET-EXTRA\"}";
  return request;
}

static inline tj_status generate(script *it, tj_generate_result *out_result) {
  tj_engine engine = TJ_ENGINE_INIT;
  tj_generate_request request = some_request();
  it->asked = &request;
  engine.engine_id = "scripted";
  engine.generate = follow_script;
  engine.engine_data = it;
  return tj_instrumented_generate(&engine, &request, out_result, &error);
}

static inline tj_call *begin(void) {
  tj_generate_request request = some_request();
  tj_call *call = NULL;
  CHECK_OK(tj_call_begin("engine", &request, &call, &error));
  return call;
}

static inline void tell_of_tokens(tj_call *call) {
  tj_call_prompt(call, 100, 40);
  tj_call_draft(call, 4, 1);
  check_sleep_ms(2);
  tj_call_tokens(call, 2);
  tj_call_draft(call, 6, 3); /* steps add up */
  check_sleep_ms(2);
  tj_call_tokens(call, 4);
}

/* The fields of a result that are figures, each with the field of the record that it goes to. */
static const struct reported {
  const char *of_result, *of_record;
  size_t result_offset, record_offset;
  int is_count;
} reported[] = {
#define COUNT(field) {#field, #field, offsetof(tj_generate_result, field), offsetof(tj_telemetry_record, field), 1}
#define FIGURE(from, to) {#from, #to, offsetof(tj_generate_result, from), offsetof(tj_telemetry_record, to), 0}
    COUNT(prompt_tokens),
    COUNT(prompt_tokens_evaluated),
    COUNT(completion_tokens),
    COUNT(cached_tokens),
    COUNT(reasoning_tokens),
    COUNT(draft_tokens),
    COUNT(draft_accepted_tokens),
    FIGURE(ttft, ttft),
    FIGURE(cost_usd, cost_usd),
    FIGURE(queue_seconds, queue_seconds),
    FIGURE(prefill_seconds, prefill_latency_seconds),
    FIGURE(decode_seconds, decode_latency_seconds),
};

#define EACH(item, list) item = list; item < list + sizeof(list) / sizeof *(list); item++

static inline void set(tj_generate_result *result, const struct reported *it, double value) {
  uint64_t count = (uint64_t)value;
  memcpy((char *)result + it->result_offset, it->is_count ? (const void *)&count : (const void *)&value, 8);
}

static inline double get(const tj_telemetry_record *record, const struct reported *it) {
  uint64_t count;
  double figure;
  memcpy(&count, (const char *)record + it->record_offset, 8);
  memcpy(&figure, (const char *)record + it->record_offset, 8);
  return it->is_count ? (double)count : figure;
}

#endif
